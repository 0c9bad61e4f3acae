"""Anchors: the boxes of fixed size and shape that the region proposal network starts from."""

import numpy as np


def compute_backbone_shapes(config, image_shape):
    """Height and width of each pyramid level.

    Parameters
    ----------
    config : Config
        `BACKBONE_STRIDES`; a callable `BACKBONE` answers by its `COMPUTE_BACKBONE_SHAPE`.
    image_shape : sequence of int
        (height, width, ...) of the network's input.

    Returns
    -------
    ndarray int64 [levels, 2]
    """
    if callable(config.BACKBONE):
        return np.asarray(config.COMPUTE_BACKBONE_SHAPE(image_shape))
    strides = np.array(config.BACKBONE_STRIDES)
    return -(-np.array(image_shape[:2]) // strides[:, None])


def generate_anchors(scales, ratios, shape, feature_stride, anchor_stride):
    """Anchors of one feature map.

    Parameters
    ----------
    scales : float or sequence of float
        Side of a square anchor, in pixels of the image.
    ratios : sequence of float
        Width / height; the area stays that of the square.
    shape : (int, int)
        Height and width of the feature map.
    feature_stride : int
        Pixels of the image from one cell of the map to the next.
    anchor_stride : int
        Cells from one anchor centre to the next.

    Returns
    -------
    ndarray float64 [N, 4]
        (y1, x1, y2, x2) in pixels, ordered by row, column, ratio and scale. Centres lie at
        index x stride, without an offset of half a cell.
    """
    scales, ratios = np.meshgrid(scales, ratios)
    sizes = np.stack([scales / np.sqrt(ratios), scales * np.sqrt(ratios)], axis=-1).reshape(-1, 2)
    ys, xs = (np.arange(0, side, anchor_stride) * feature_stride for side in shape)
    centres = np.stack(np.meshgrid(ys, xs, indexing="ij"), axis=-1).reshape(-1, 1, 2)
    return np.concatenate([centres - 0.5 * sizes, centres + 0.5 * sizes], axis=-1).reshape(-1, 4)


def generate_pyramid_anchors(scales, ratios, feature_shapes, feature_strides, anchor_stride):
    """Anchors of a feature pyramid: one scale a level, every ratio on each.

    Parameters
    ----------
    scales : sequence of float [levels]
    ratios : sequence of float
    feature_shapes : ndarray [levels, 2]
    feature_strides : sequence of int [levels]
    anchor_stride : int
        See `generate_anchors`.

    Returns
    -------
    ndarray float64 [N, 4]
        The levels one after the other, finest first.
    """
    levels = zip(scales, feature_shapes, feature_strides)
    return np.concatenate(
        [
            generate_anchors(scale, ratios, shape, stride, anchor_stride)
            for scale, shape, stride in levels
        ]
    )


def pyramid_anchors(config, image_shape):
    """All anchors of an image of this shape, as the configuration describes them.

    Parameters
    ----------
    config : Config
    image_shape : sequence of int
        (height, width, ...) of the network's input.

    Returns
    -------
    ndarray float32 [N, 4]
        (y1, x1, y2, x2) in pixels.
    """
    return generate_pyramid_anchors(
        config.RPN_ANCHOR_SCALES,
        config.RPN_ANCHOR_RATIOS,
        compute_backbone_shapes(config, image_shape),
        config.BACKBONE_STRIDES,
        config.RPN_ANCHOR_STRIDE,
    ).astype(np.float32)
