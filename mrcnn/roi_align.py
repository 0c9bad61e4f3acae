"""ROIAlign over a feature pyramid (He et al. 2017, section 3; Lin et al. 2017, equation 1)."""

import keras
from keras import ops

from mrcnn.image_meta import parse_image_meta_graph

CANONICAL_SIZE = 224.0
"""Side in pixels of an ROI that is pooled from P4 (Lin et al. 2017)."""

EDGE_TOLERANCE = 1e-3
"""Samples this far outside of a map, in its pixels, count as on its edge: a box that was clipped
to 1.0 ends on the last pixel, up to rounding."""


class PyramidROIAlign(keras.layers.Layer):
    """Pool a fixed grid of features from the pyramid level that suits each ROI.

    A bin is one bilinear sample, the corners of the grid are the corners of the ROI, and features
    outside of the image are 0: the sampling of `tf.image.crop_and_resize`. No gradient flows into
    the boxes.

    Parameters
    ----------
    pool_shape : pair of int
        (height, width) of the grid.

    Notes
    -----
    Inputs are boxes (float32 [B, N, 4], normalised), image_meta ([B, length]) and the maps P2 to
    P5 ([B, height, width, C]); the output is [B, N, pool height, pool width, C].
    """

    def __init__(self, pool_shape, **kwargs):
        super().__init__(autocast=False, **kwargs)  # boxes stay float32
        self.pool_shape = tuple(pool_shape)

    def get_config(self):
        return {**super().get_config(), "pool_shape": self.pool_shape}

    def call(self, inputs):
        boxes, image_meta, *feature_maps = inputs
        boxes = ops.stop_gradient(boxes)
        shape = parse_image_meta_graph(image_meta)["image_shape"][0]
        levels = roi_levels(boxes, ops.cast(shape[0] * shape[1], "float32"), len(feature_maps))
        return align(boxes, levels, feature_maps, self.pool_shape)

    def compute_output_shape(self, input_shape):
        boxes, features = input_shape[0], input_shape[-1]
        return (*boxes[:2], *self.pool_shape, features[-1])


def roi_levels(boxes, image_area, level_count):
    """The pyramid level of each box, 0 for P2.

    Parameters
    ----------
    boxes : float32 tensor [..., 4]
        Normalised.
    image_area : float32 tensor
        In pixels.
    level_count : int

    Returns
    -------
    int32 tensor [...]
        0 to `level_count` - 1; boxes without area are at 0.
    """
    area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    size = ops.sqrt(ops.maximum(area, 1e-12))
    octaves = log2_graph(size / (CANONICAL_SIZE / ops.sqrt(image_area)))
    return ops.clip(2 + ops.cast(ops.round(octaves), "int32"), 0, level_count - 1)


def log2_graph(x):
    """Logarithm to base 2."""
    return ops.log(x) / ops.log(2.0)


def align(boxes, levels, feature_maps, pool_shape):
    """Sample a grid of features inside each box, all levels in one gather.

    Parameters
    ----------
    boxes : float32 tensor [B, N, 4]
        Normalised.
    levels : int32 tensor [B, N]
        Index into `feature_maps`.
    feature_maps : list of tensors [B, height, width, C]
    pool_shape : pair of int

    Returns
    -------
    tensor [B, N, pool height, pool width, C]
    """
    channels = feature_maps[0].shape[-1]
    heights = [ops.shape(features)[1] for features in feature_maps]
    widths = [ops.shape(features)[2] for features in feature_maps]
    offsets = [0]
    for height, width in zip(heights, widths):
        offsets.append(offsets[-1] + height * width)
    flat = [ops.reshape(f, (-1, h * w, channels)) for f, h, w in zip(feature_maps, heights, widths)]
    flat = ops.reshape(ops.concatenate(flat, axis=1), (-1, channels))

    height, width, offset = (_look_up(table, levels) for table in (heights, widths, offsets[:-1]))
    image = ops.arange(ops.shape(boxes)[0], dtype="int32")[:, None]
    origin = offset + image * offsets[-1]
    rows, row_weights = _samples(boxes[..., 0], boxes[..., 2], height, pool_shape[0])
    columns, column_weights = _samples(boxes[..., 1], boxes[..., 3], width, pool_shape[1])

    pooled = 0.0
    for row, row_weight in zip(rows, row_weights):
        start = origin[..., None] + row * width[..., None]
        for column, column_weight in zip(columns, column_weights):
            index = start[..., :, None] + column[..., None, :]
            weight = (row_weight[..., :, None] * column_weight[..., None, :])[..., None]
            pooled = pooled + ops.take(flat, index, axis=0) * ops.cast(weight, flat.dtype)
    return pooled


def _look_up(table, levels):
    return ops.take(ops.stack([ops.convert_to_tensor(n, dtype="int32") for n in table]), levels)


def _samples(start, stop, length, count):
    """Pixels below and above each sample along one axis, and their bilinear weights.

    A box from `start` to `stop` (normalised, [B, N]) is sampled at `count` points on an axis of
    `length` pixels (int32 [B, N]). Returns two pairs of [B, N, count] tensors.
    """
    last = ops.cast(length - 1, "float32")[..., None]
    if count > 1:
        steps = ops.arange(count, dtype="float32") / (count - 1)
        position = (start[..., None] + steps * (stop - start)[..., None]) * last
    else:
        position = 0.5 * (start + stop)[..., None] * last
    inside = ops.logical_and(position >= -EDGE_TOLERANCE, position <= last + EDGE_TOLERANCE)
    position = ops.clip(position, 0.0, last)
    below = ops.floor(position)
    above = ops.minimum(below + 1.0, last)
    fraction = position - below
    weights = (ops.where(inside, 1.0 - fraction, 0.0), ops.where(inside, fraction, 0.0))
    return (ops.cast(below, "int32"), ops.cast(above, "int32")), weights
