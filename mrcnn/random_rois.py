"""Random ROIs and their targets: the heads without the RPN, to see where training goes wrong."""

import random

import numpy as np

from mrcnn.boxes import box_refinement, compute_overlaps
from mrcnn.images import resize

POSITIVE_IOU = 0.5
HARD_NEGATIVE_IOU = 0.1
"""ROIs between the two are the negatives of choice; easier ones serve if there are none."""

NEAR_OBJECTS = 0.9
"""Share of the random ROIs that is drawn around objects."""


def generate_random_rois(image_shape, count, gt_class_ids, gt_boxes, rng=None):
    """Draw ROIs, nine in ten of them around objects, the others anywhere.

    Parameters
    ----------
    image_shape : sequence of int
        (H, W, ...); both at least 2.
    count : int
    gt_class_ids : ndarray [N] int
        Unused; part of Matterport's signature.
    gt_boxes : ndarray [N, 4] int
        An ROI near an object lies within three times its box.
    rng : numpy.random.Generator, optional
        None follows Python's global stream.

    Returns
    -------
    ndarray [count, 4] int32
        (y1, x1, y2, x2) in pixels, at least one pixel high and wide.
    """
    rng = np.random.default_rng(random.getrandbits(32)) if rng is None else rng
    image = np.array([[0, 0, image_shape[0], image_shape[1]]])
    boxes = np.asarray(gt_boxes).reshape(-1, 4).astype(np.int64)
    size = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    near = np.clip(boxes + size * [-1, -1, 1, 1], 0, image[:, [2, 3, 2, 3]])
    near = near.repeat(int(NEAR_OBJECTS * count / max(len(boxes), 1)), axis=0)
    areas = np.concatenate([near, image.repeat(count - len(near), axis=0)])

    # Two different corners: the second is some steps further than the first, modulo the side.
    side = areas[:, 2:] - areas[:, :2] + 1
    first = rng.integers(side)
    second = (first + rng.integers(1, side)) % side
    corners = np.sort([first, second], axis=0) + areas[:, :2]
    return np.concatenate(list(corners), axis=1).astype(np.int32)


def build_detection_targets(rpn_rois, gt_class_ids, gt_boxes, gt_masks, config, rng=None):
    """Sample ROIs and say what the heads should make of them; for debugging and for notebooks.

    Training does this inside the network, see `mrcnn.targets`.

    Parameters
    ----------
    rpn_rois : ndarray [R, 4] int
        (y1, x1, y2, x2) in pixels.
    gt_class_ids : ndarray [N] int
        Objects of class 0 or below are left out.
    gt_boxes : ndarray [N, 4] int
    gt_masks : ndarray [h, w, N] bool
        Mini masks if `config.USE_MINI_MASK`, else of the size of the image.
    config : Config
    rng : numpy.random.Generator, optional
        None draws from NumPy's global stream.

    Returns
    -------
    rois : ndarray [TRAIN_ROIS_PER_IMAGE, 4]
        Positives first, at most ROI_POSITIVE_RATIO of all; negatives are repeated as needed.
    class_ids : ndarray [TRAIN_ROIS_PER_IMAGE] int32
    deltas : ndarray [TRAIN_ROIS_PER_IMAGE, NUM_CLASSES, 4] float32
        (dy, dx, log dh, log dw) / BBOX_STD_DEV at the class of the ROI, else 0.
    masks : ndarray [TRAIN_ROIS_PER_IMAGE, *MASK_SHAPE, NUM_CLASSES] float32
        The object within the ROI, at its class.

    Raises
    ------
    ValueError
        If there is no ROI, or too few of them are background to fill up with.
    """
    rng = np.random if rng is None else rng
    objects = np.flatnonzero(np.asarray(gt_class_ids) > 0)
    overlaps = np.zeros((len(rpn_rois), len(objects) + 1))
    overlaps[:, :-1] = compute_overlaps(rpn_rois, gt_boxes[objects])
    best = overlaps.max(axis=1)
    nearest = overlaps.argmax(axis=1)

    total = config.TRAIN_ROIS_PER_IMAGE
    positive = np.flatnonzero(best > POSITIVE_IOU)
    positive = _at_most(positive, int(total * config.ROI_POSITIVE_RATIO), rng)
    negative = np.flatnonzero((best >= HARD_NEGATIVE_IOU) & (best < POSITIVE_IOU))
    if not len(negative):
        negative = np.flatnonzero(best < POSITIVE_IOU)
    negative = _at_most(negative, total - len(positive), rng)
    missing = total - len(positive) - len(negative)
    if missing:
        negative = np.concatenate([negative, rng.choice(negative, missing)])

    rois = rpn_rois[np.concatenate([positive, negative])]
    assigned = objects[nearest[positive]]
    class_ids = np.zeros(total, np.int32)
    class_ids[: len(positive)] = gt_class_ids[assigned]
    deltas = np.zeros((total, config.NUM_CLASSES, 4), np.float32)
    masks = np.zeros((total, *config.MASK_SHAPE, config.NUM_CLASSES), np.float32)
    if len(positive):
        index = np.arange(len(positive)), class_ids[: len(positive)]
        deltas[index] = box_refinement(rpn_rois[positive], gt_boxes[assigned])
        deltas /= config.BBOX_STD_DEV
    for i, k in enumerate(assigned):
        mask = _mask_in_roi(gt_masks[..., k], gt_boxes[k], rois[i].astype(int), config)
        masks[i, :, :, class_ids[i]] = resize(mask, config.MASK_SHAPE)
    return rois, class_ids, deltas, masks


def _at_most(indices, limit, rng):
    return indices if len(indices) <= limit else rng.choice(indices, limit, replace=False)


def _mask_in_roi(mask, box, roi, config):
    """The part of an object's mask, mini or full-size, that lies within `roi`."""
    top, left, bottom, right = roi
    if not config.USE_MINI_MASK:
        return mask[top:bottom, left:right]
    y1, x1, y2, x2 = box
    mask = np.round(resize(mask, (y2 - y1, x2 - x1))).astype(bool)
    inside = np.zeros((bottom - top, right - left), bool)
    y, x = max(y1, top), max(x1, left)
    part = mask[y - y1 : bottom - y1, x - x1 : right - x1]
    inside[y - top : y - top + part.shape[0], x - left : x - left + part.shape[1]] = part
    return inside
