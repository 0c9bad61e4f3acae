"""Box geometry inside the network, on tensors; `mrcnn.boxes` is its NumPy twin.

Boxes are (y1, x1, y2, x2) along the last axis; leading axes broadcast.
"""

from keras import ops

FAR, LARGE = 1e6, 20.0
"""Shifts and logarithms of sizes beyond these say no more than that a box is far off; further ones
would overflow, and no clipping to an image mends what is not a number."""


def apply_box_deltas_graph(boxes, deltas):
    """Move and scale boxes by (dy, dx, log(dh), log(dw)).

    Parameters
    ----------
    boxes : tensor [..., 4]
    deltas : tensor [..., 4]
        In units of the box's height and width.

    Returns
    -------
    tensor [..., 4]
    """
    y1, x1, y2, x2 = _columns(boxes)
    dy, dx, dh, dw = _columns(deltas)
    dy, dx = (ops.clip(shift, -FAR, FAR) for shift in (dy, dx))
    dh, dw = (ops.minimum(size, LARGE) for size in (dh, dw))
    height, width = y2 - y1, x2 - x1
    centre_y = y1 + 0.5 * height + dy * height
    centre_x = x1 + 0.5 * width + dx * width
    height, width = height * ops.exp(dh), width * ops.exp(dw)
    y1, x1 = centre_y - 0.5 * height, centre_x - 0.5 * width
    return ops.stack([y1, x1, y1 + height, x1 + width], axis=-1)


def box_refinement_graph(box, gt_box):
    """The deltas (dy, dx, log(dh), log(dw)) that `apply_box_deltas_graph` needs to make `gt_box`.

    Parameters
    ----------
    box, gt_box : tensor [..., 4]

    Returns
    -------
    tensor [..., 4]
        Finite also where a box has no area.
    """
    y1, x1, y2, x2 = _columns(ops.cast(box, "float32"))
    gt_y1, gt_x1, gt_y2, gt_x2 = _columns(ops.cast(gt_box, "float32"))
    height, width = _positive(y2 - y1), _positive(x2 - x1)
    gt_height, gt_width = _positive(gt_y2 - gt_y1), _positive(gt_x2 - gt_x1)
    dy = (gt_y1 + 0.5 * gt_height - y1 - 0.5 * height) / height
    dx = (gt_x1 + 0.5 * gt_width - x1 - 0.5 * width) / width
    return ops.stack([dy, dx, ops.log(gt_height / height), ops.log(gt_width / width)], axis=-1)


def _positive(length):
    return ops.maximum(length, 1e-7)


def clip_boxes_graph(boxes, window):
    """Clip boxes to a window.

    Parameters
    ----------
    boxes : tensor [..., 4]
    window : tensor [4] or [..., 4] that broadcasts

    Returns
    -------
    tensor [..., 4]
    """
    y1, x1, y2, x2 = _columns(boxes)
    top, left, bottom, right = _columns(window)
    return ops.stack(
        [
            ops.clip(y1, top, bottom),
            ops.clip(x1, left, right),
            ops.clip(y2, top, bottom),
            ops.clip(x2, left, right),
        ],
        axis=-1,
    )


def overlaps_graph(boxes1, boxes2):
    """IoU of every box of one set with every box of another.

    Parameters
    ----------
    boxes1 : tensor [..., N, 4]
    boxes2 : tensor [..., M, 4]

    Returns
    -------
    tensor [..., N, M]
        0 where neither box has an area.
    """
    intersection, union = intersection_and_union(boxes1, boxes2)
    return ops.where(union > 0, intersection / ops.where(union > 0, union, 1.0), 0.0)


def intersection_and_union(boxes1, boxes2):
    """Areas shared and covered by each pair of boxes, both [..., N, M]; see `overlaps_graph`."""
    y1, x1, y2, x2 = _columns(boxes1[..., :, None, :])
    v1, u1, v2, u2 = _columns(boxes2[..., None, :, :])
    height = ops.maximum(ops.minimum(y2, v2) - ops.maximum(y1, v1), 0.0)
    width = ops.maximum(ops.minimum(x2, u2) - ops.maximum(x1, u1), 0.0)
    intersection = height * width
    return intersection, (y2 - y1) * (x2 - x1) + (v2 - v1) * (u2 - u1) - intersection


def norm_boxes_graph(boxes, shape):
    """Pixel boxes to normalised ones, in which the last pixel's centre is 1.

    Parameters
    ----------
    boxes : tensor [..., 4]
    shape : tensor or pair
        (height, width) in pixels.

    Returns
    -------
    float32 tensor [..., 4]
    """
    scale, shift = _scale_and_shift(shape)
    return (ops.cast(boxes, "float32") - shift) / scale


def denorm_boxes_graph(boxes, shape):
    """Normalised boxes to int32 pixel boxes; the inverse of `norm_boxes_graph`."""
    scale, shift = _scale_and_shift(shape)
    return ops.cast(ops.round(boxes * scale + shift), "int32")


def _scale_and_shift(shape):
    height, width = ops.cast(shape[0], "float32"), ops.cast(shape[1], "float32")
    scale = ops.stack([height, width, height, width], axis=-1) - 1.0
    return scale, ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0])


def _columns(boxes):
    return boxes[..., 0], boxes[..., 1], boxes[..., 2], boxes[..., 3]
