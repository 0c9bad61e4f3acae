"""Axis-aligned boxes in NumPy: overlap, suppression, regression and normalisation.

A box is (y1, x1, y2, x2) in pixels, end exclusive, so that its height is y2 - y1.
"""

import numpy as np

PAIRS_AT_ONCE = 1 << 16  # temporaries of this many elements stay in the processor's cache
LEAST_UNION = 1e-30  # square pixels; makes 0 / 0 a plain 0


def compute_iou(box, boxes, box_area, boxes_area):
    """Intersection over union of one box with many.

    Parameters
    ----------
    box : ndarray [4]
    boxes : ndarray [N, 4]
    box_area : float
        Area of `box`; it and `boxes_area` are passed in because callers need them repeatedly.
    boxes_area : ndarray [N]

    Returns
    -------
    ndarray float [N]
        0 where neither box has an area. Leading axes broadcast, as in `compute_overlaps`.
    """
    heights = np.minimum(box[..., 2], boxes[..., 2]) - np.maximum(box[..., 0], boxes[..., 0])
    widths = np.minimum(box[..., 3], boxes[..., 3]) - np.maximum(box[..., 1], boxes[..., 1])
    intersection = np.maximum(heights, 0) * np.maximum(widths, 0)
    union = box_area + boxes_area - intersection
    return intersection / np.maximum(union, LEAST_UNION)


def compute_overlaps(boxes1, boxes2):
    """Intersection over union of every box of one set with every box of another.

    Parameters
    ----------
    boxes1 : ndarray [N, 4]
    boxes2 : ndarray [M, 4]

    Returns
    -------
    ndarray float64 [N, M]
    """
    areas1, areas2 = _areas(boxes1), _areas(boxes2)
    overlaps = np.empty((len(boxes1), len(boxes2)))
    step = max(1, PAIRS_AT_ONCE // max(1, len(boxes2)))
    for start in range(0, len(boxes1), step):
        rows = slice(start, start + step)
        overlaps[rows] = compute_iou(boxes1[rows, None], boxes2, areas1[rows, None], areas2)
    return overlaps


def non_max_suppression(boxes, scores, threshold):
    """Greedily keep the best-scored box and drop those that overlap it too much.

    Parameters
    ----------
    boxes : ndarray [N, 4]
        Boxes may reach beyond the image.
    scores : ndarray [N]
        Of equal scores the later one goes first, as in Matterport's function.
    threshold : float
        A box is dropped if its IoU with a kept one is greater than this.

    Returns
    -------
    ndarray int32 [K]
        Indices of the kept boxes in descending order of score.
    """
    areas = _areas(boxes)
    remaining = np.argsort(scores, kind="stable")[::-1]
    kept = []
    while len(remaining):
        best, remaining = remaining[0], remaining[1:]
        kept.append(best)
        iou = compute_iou(boxes[best], boxes[remaining], areas[best], areas[remaining])
        remaining = remaining[iou <= threshold]
    return np.array(kept, np.int32)


def apply_box_deltas(boxes, deltas):
    """Move and stretch boxes as a network's refinements say; the inverse of `box_refinement`.

    Parameters
    ----------
    boxes : ndarray [N, 4]
    deltas : ndarray [N, 4]
        (dy, dx, log(dh), log(dw)); dy and dx in units of the box's height and width.

    Returns
    -------
    ndarray float32 [N, 4]
    """
    boxes = boxes.astype(np.float32)
    sizes = boxes[:, 2:] - boxes[:, :2]
    centres = boxes[:, :2] + 0.5 * sizes
    centres += deltas[:, :2] * sizes
    sizes *= np.exp(deltas[:, 2:])
    corners = centres - 0.5 * sizes
    return np.concatenate([corners, corners + sizes], axis=1)


def box_refinement(box, gt_box):
    """Deltas that turn each box into its ground truth.

    Parameters
    ----------
    box, gt_box : ndarray [N, 4]
        Boxes with an area.

    Returns
    -------
    ndarray float32 [N, 4]
        (dy, dx, log(dh), log(dw)), see `apply_box_deltas`.
    """
    box, gt_box = box.astype(np.float32), gt_box.astype(np.float32)
    sizes, gt_sizes = box[:, 2:] - box[:, :2], gt_box[:, 2:] - gt_box[:, :2]
    shifts = (gt_box[:, :2] + 0.5 * gt_sizes) - (box[:, :2] + 0.5 * sizes)
    return np.concatenate([shifts / sizes, np.log(gt_sizes / sizes)], axis=1)


def norm_boxes(boxes, shape):
    """Boxes in pixels to normalised coordinates: 0 to 1 from first to last pixel, end inclusive.

    Parameters
    ----------
    boxes : ndarray [N, 4]
    shape : sequence of int
        (height, width) in pixels.

    Returns
    -------
    ndarray float32 [N, 4]
        (box - [0, 0, 1, 1]) / [h - 1, w - 1, h - 1, w - 1].
    """
    scale, shift = _normalisation(shape)
    return ((boxes - shift) / scale).astype(np.float32)


def denorm_boxes(boxes, shape):
    """Boxes in normalised coordinates to whole pixels; the inverse of `norm_boxes`.

    Parameters
    ----------
    boxes : ndarray [N, 4]
    shape : sequence of int
        (height, width) in pixels.

    Returns
    -------
    ndarray int32 [N, 4]
    """
    scale, shift = _normalisation(shape)
    return np.around(boxes * scale + shift).astype(np.int32)


def trim_zeros(x):
    """Remove the rows that hold nothing but zeros, which is how short lists are padded.

    Parameters
    ----------
    x : ndarray [N, C]

    Returns
    -------
    ndarray [K, C]
    """
    return x[np.any(x != 0, axis=1)]


def compute_recall(pred_boxes, gt_boxes, iou):
    """Share of the ground-truth boxes that some predicted box overlaps well enough.

    Each prediction counts for the one ground-truth box that it overlaps most.

    Parameters
    ----------
    pred_boxes : ndarray [N, 4]
    gt_boxes : ndarray [M, 4]
    iou : float
        Least IoU of a hit.

    Returns
    -------
    recall : float
        1 if both sets are empty, 0 if only one is.
    positive_ids : ndarray int64 [K]
        Indices of the predictions that hit.
    """
    if not len(pred_boxes) or not len(gt_boxes):
        return float(len(pred_boxes) == len(gt_boxes)), np.zeros(0, np.int64)
    overlaps = compute_overlaps(pred_boxes, gt_boxes)
    positive_ids = np.flatnonzero(overlaps.max(axis=1) >= iou)
    hit = np.unique(overlaps[positive_ids].argmax(axis=1))
    return len(hit) / len(gt_boxes), positive_ids


def _areas(boxes):
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _normalisation(shape):
    height, width = shape[:2]
    scale = np.array([height - 1, width - 1, height - 1, width - 1])
    return scale, np.array([0, 0, 1, 1])
