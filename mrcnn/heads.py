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


class RealROIs(Float32Layer):
    """Leave out what fills the ROIs of a batch up to a fixed number, all but one row of it.

    Inputs are ROIs [B, N, 4] and their class ids [B, N], of which those above 0 come first. The
    output is [B, n, 4] where n is 1 more than the largest number of them in an image, if there are
    as many ROIs; `AllROIs` undoes it for what is computed from them.
    """

    def call(self, inputs):
        rois, class_ids = inputs
        counts = ops.sum(ops.cast(class_ids > 0, "int32"), axis=1)
        return first_rows(rois, ops.max(counts) + 1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0][0], None, 4)


class AllROIs(Float32Layer):
    """Repeat the last row of what was computed from `RealROIs`, [B, n, ...], to [B, N, ...].

    Parameters
    ----------
    count : int
        N.
    """

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def get_config(self):
        return {**super().get_config(), "count": self.count}

    def call(self, inputs):
        last = ops.shape(inputs)[1] - 1
        return ops.take(inputs, ops.minimum(ops.arange(self.count), last), axis=1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.count, *input_shape[2:])


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
    rois, feature_maps, image_meta, pool_size, num_classes, train_bn=True, channels=256
):
    """The head that draws a mask for each class into each ROI.

    Parameters are those of `fpn_classifier_graph`, and `channels`, of its convolutions.

    Returns
    -------
    KerasTensor [B, N, 2 * pool_size, 2 * pool_size, classes]
        Probabilities.
    """
    x = PyramidROIAlign([pool_size, pool_size], name="roi_align_mask")(
        [rois, image_meta, *feature_maps]
    )
    for i in range(1, 5):
        x = ROIConv2D(channels, 3, padding="same", name=f"mrcnn_mask_conv{i}")(x)
        x = normalize(x, train_bn, f"mrcnn_mask_bn{i}")
        x = layers.Activation("relu")(x)
    x = ROIConv2DTranspose(channels, 2, strides=2, activation="relu", name="mrcnn_mask_deconv")(x)
    return ROIConv2D(num_classes, 1, activation="sigmoid", dtype="float32", name="mrcnn_mask")(x)
