"""The heads: what is in an ROI, where exactly, and which of its pixels belong to it."""

import math

from keras import layers, ops

from mrcnn.backbone import normalize
from mrcnn.backend import first_rows
from mrcnn.precision import Float32Layer
from mrcnn.roi_align import PyramidROIAlign


class _PerROI:
    """Applies a convolution to each ROI: [B, N, height, width, C] in and out.

    The ROIs are folded into the batch axis. Keras' TimeDistributed would unroll a Python loop.
    """

    def build(self, input_shape):
        super().build((None, *input_shape[2:]))
        self.input_spec = None

    def call(self, inputs):
        count = ops.shape(inputs)[1]
        outputs = super().call(ops.reshape(inputs, (-1, *inputs.shape[2:])))
        return ops.reshape(outputs, (-1, count, *outputs.shape[1:]))

    def compute_output_shape(self, input_shape):
        if len(input_shape) == 4:  # asked by the base class about itself
            return super().compute_output_shape(input_shape)
        each = super().compute_output_shape((None, *input_shape[2:]))
        return (*input_shape[:2], *each[1:])


class ROIConv2D(_PerROI, layers.Conv2D):
    """`keras.layers.Conv2D` on every ROI, [B, N, height, width, C]."""


class ROIFullyConnected(ROIConv2D):
    """A convolution as large as the ROI's grid: [B, N, size, size, C] to [B, N, 1, 1, filters].

    Written as the matrix product that it is, which CPUs compute several times faster.
    """

    def call(self, inputs):
        count, *grid = inputs.shape[1:]
        flat = ops.reshape(inputs, (-1, count, math.prod(grid)))
        outputs = ops.matmul(flat, ops.reshape(self.kernel, (math.prod(grid), self.filters)))
        return (outputs + self.bias)[:, :, None, None]


class ROIConv2DTranspose(_PerROI, layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` on every ROI, [B, N, height, width, C]."""


class PositiveROIs(Float32Layer):
    """The ROIs of a batch that are objects, which come first, and one more.

    Inputs are ROIs [B, N, 4] and their class ids [B, N], above 0 for objects. The output is
    [B, n, 4], where n is 1 more than the most objects of an image, but at most N.
    """

    def call(self, inputs):
        rois, class_ids = inputs
        counts = ops.sum(ops.cast(class_ids > 0, "int32"), axis=1)
        return first_rows(rois, ops.max(counts) + 1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0][0], None, 4)


class MaskConv2D(ROIConv2D):
    """The convolution that ends the mask head. It repeats its last row up to `count` rows.

    So what was computed for `PositiveROIs`, [B, n, height, width, C], becomes [B, count, ...]. In
    detection the rows that were left out are padding, and all alike.

    Parameters
    ----------
    count : int
    *args, **kwargs
        Of `keras.layers.Conv2D`.
    """

    def __init__(self, *args, count, **kwargs):
        super().__init__(*args, **kwargs)
        self.count = count

    def get_config(self):
        return {**super().get_config(), "count": self.count}

    def call(self, inputs):
        outputs = super().call(inputs)
        if inputs.shape[1] == self.count:
            return outputs
        last = ops.shape(outputs)[1] - 1
        return ops.take(outputs, ops.minimum(ops.arange(self.count), last), axis=1)

    def compute_output_shape(self, input_shape):
        shape = super().compute_output_shape(input_shape)
        return (shape[0], self.count, *shape[2:]) if len(input_shape) == 5 else shape


def fpn_classifier_graph(
    rois, feature_maps, image_meta, pool_size, num_classes, train_bn=True, fc_layers_size=1024
):
    """The head that classifies ROIs and refines their boxes.

    Parameters
    ----------
    rois : KerasTensor [B, N, 4]
        Normalised.
    feature_maps : list of KerasTensor
        P2 to P5.
    image_meta : KerasTensor [B, length]
    pool_size : int
        Side of the grid pooled from each ROI.
    num_classes : int
    train_bn : bool or None
        See `mrcnn.backbone.BatchNorm`.
    fc_layers_size : int
        Width of the two fully connected layers.

    Returns
    -------
    logits, probabilities : KerasTensor [B, N, classes]
    deltas : KerasTensor [B, N, classes, 4]
    """
    x = PyramidROIAlign([pool_size, pool_size], name="roi_align_classifier")(
        [rois, image_meta, *feature_maps]
    )
    # Fully connected layers written as convolutions.
    x = ROIFullyConnected(fc_layers_size, pool_size, name="mrcnn_class_conv1")(x)
    x = normalize(x, train_bn, "mrcnn_class_bn1")
    x = layers.Activation("relu")(x)
    x = ROIConv2D(fc_layers_size, 1, name="mrcnn_class_conv2")(x)
    x = normalize(x, train_bn, "mrcnn_class_bn2")
    x = layers.Activation("relu")(x)
    shared = layers.Reshape((rois.shape[1], fc_layers_size), name="pool_squeeze")(x)
    logits = layers.Dense(num_classes, dtype="float32", name="mrcnn_class_logits")(shared)
    probabilities = layers.Activation("softmax", dtype="float32", name="mrcnn_class")(logits)
    deltas = layers.Dense(4 * num_classes, dtype="float32", name="mrcnn_bbox_fc")(shared)
    deltas = layers.Reshape((rois.shape[1], num_classes, 4), dtype="float32", name="mrcnn_bbox")(
        deltas
    )
    return logits, probabilities, deltas


def build_fpn_mask_graph(
    rois,
    feature_maps,
    image_meta,
    pool_size,
    num_classes,
    train_bn=True,
    channels=256,
    class_ids=None,
):
    """The head that draws a mask for each class into each ROI.

    Parameters are those of `fpn_classifier_graph`; `channels`, of its convolutions; and, to save
    most of the work, `class_ids`, a KerasTensor [B, N]: masks are then drawn into the ROIs whose
    class is above 0, which have to come first, and into one more, whose masks stand for the rest.

    Returns
    -------
    KerasTensor [B, N, 2 * pool_size, 2 * pool_size, classes]
        Probabilities.
    """
    count = rois.shape[1]
    if class_ids is not None:
        rois = PositiveROIs(name="positive_rois")([rois, class_ids])
    x = PyramidROIAlign([pool_size, pool_size], name="roi_align_mask")(
        [rois, image_meta, *feature_maps]
    )
    for i in range(1, 5):
        x = ROIConv2D(channels, 3, padding="same", name=f"mrcnn_mask_conv{i}")(x)
        x = normalize(x, train_bn, f"mrcnn_mask_bn{i}")
        x = layers.Activation("relu")(x)
    x = ROIConv2DTranspose(channels, 2, strides=2, activation="relu", name="mrcnn_mask_deconv")(x)
    return MaskConv2D(
        num_classes, 1, count=count, activation="sigmoid", dtype="float32", name="mrcnn_mask"
    )(x)
