"""What the region proposal network shall learn from an image: which anchors hold an object."""

import numpy as np

POSITIVE_IOU = 0.7
NEGATIVE_IOU = 0.3
CROWD_IOU = 0.001
"""Thresholds of Matterport's code: an anchor that overlaps a crowd by more is never negative."""

BOXES_AT_ONCE = 32
"""Bounds the memory: dense overlaps of 1000 boxes with 100,000 anchors would take 800 MB."""


def build_rpn_targets(image_shape, anchors, gt_class_ids, gt_boxes, config, rng=None):
    """Match anchors with the ground truth and choose those to train on.

    An anchor is positive if its IoU with a box is at least 0.7, or is that box's best (all anchors
    that tie for it); negative if its IoU with every box is below 0.3; neutral otherwise, and where
    it would be negative but overlaps a crowd. At most half of RPN_TRAIN_ANCHORS_PER_IMAGE stay
    positive and negatives fill up the rest; surplus anchors become neutral at random.

    Parameters
    ----------
    image_shape : sequence of int
        Unused; part of Matterport's signature.
    anchors : ndarray [A, 4] or AnchorRows
        (y1, x1, y2, x2) in pixels; the latter saves time where the same anchors serve many images.
    gt_class_ids : ndarray [N] int
        Negative: a crowd, whose box is neither learnt nor learnt as background.
    gt_boxes : ndarray [N, 4] int
        (y1, x1, y2, x2) in pixels, end exclusive.
    config : Config
    rng : numpy.random.Generator, optional
        None draws from NumPy's global stream in Matterport's order.

    Returns
    -------
    rpn_match : ndarray [A] int32
        1 positive, -1 negative, 0 neutral.
    rpn_bbox : ndarray [RPN_TRAIN_ANCHORS_PER_IMAGE, 4] float64
        (dy, dx, log dh, log dw) / RPN_BBOX_STD_DEV of the positive anchors in the order of
        `anchors`; the remaining rows are 0.
    """
    rng = np.random if rng is None else rng
    rows = anchors if isinstance(anchors, AnchorRows) else AnchorRows(anchors)
    gt_class_ids, gt_boxes = np.asarray(gt_class_ids), np.asarray(gt_boxes, np.float64)
    objects, crowds = gt_boxes[gt_class_ids > 0], gt_boxes[gt_class_ids < 0]

    best_iou = np.zeros(len(rows))
    nearest = np.zeros(len(rows), np.intp)
    best_of_a_box = np.zeros(len(rows), bool)
    # Backwards, so that among boxes of equal IoU the first has the last word.
    for first in reversed(range(0, len(objects), BOXES_AT_ONCE)):
        box, anchor, iou = rows.overlaps(objects[first : first + BOXES_AT_ONCE])
        np.maximum.at(best_iou, anchor, iou)
        nearer = np.flatnonzero(iou == best_iou[anchor])[::-1]
        nearest[anchor[nearer]] = first + box[nearer]
        best_of_box = np.zeros(BOXES_AT_ONCE)
        np.maximum.at(best_of_box, box, iou)
        best_of_a_box[anchor[iou == best_of_box[box]]] = True

    rpn_match = np.where(best_iou < NEGATIVE_IOU, -1, 0).astype(np.int32)
    for first in range(0, len(crowds), BOXES_AT_ONCE):
        _, anchor, iou = rows.overlaps(crowds[first : first + BOXES_AT_ONCE])
        rpn_match[anchor[iou >= CROWD_IOU]] = 0
    rpn_match[(best_iou >= POSITIVE_IOU) | best_of_a_box] = 1

    total = config.RPN_TRAIN_ANCHORS_PER_IMAGE
    _thin_out(rpn_match, 1, total // 2, rng)
    _thin_out(rpn_match, -1, total - np.count_nonzero(rpn_match == 1), rng)

    positive = np.flatnonzero(rpn_match == 1)
    rpn_bbox = np.zeros((total, 4))
    if len(positive):
        deltas = _deltas(rows.anchors[positive], objects[nearest[positive]])
        rpn_bbox[: len(positive)] = deltas / config.RPN_BBOX_STD_DEV
    return rpn_match, rpn_bbox


class AnchorRows:
    """Anchors sorted into rows, to find those that overlap a box without looking at all.

    A row is what shares y1 and y2, sorted by x1; a regular grid of 100,000 has some hundred rows.
    Any other set of anchors gives the same results, more slowly.

    Parameters
    ----------
    anchors : ndarray [A, 4]
        (y1, x1, y2, x2).
    """

    def __init__(self, anchors):
        self.anchors = np.asarray(anchors, np.float64)
        self._order = np.lexsort(self.anchors[:, [1, 2, 0]].T)
        self._sorted = self.anchors[self._order].T
        y1, x1, y2, x2 = self._sorted
        self._areas = (y2 - y1) * (x2 - x1)
        new_row = np.ones(len(anchors), bool)
        new_row[1:] = (y1[1:] != y1[:-1]) | (y2[1:] != y2[:-1])
        start = np.flatnonzero(new_row)
        self._y1, self._y2 = y1[start], y2[start]
        self._widest = np.maximum.reduceat(x2 - x1, start)
        # One ascending key for all rows: x1, counted from the left, plus one span a row.
        self._left, self._span = x1.min(), np.ptp(x1) + 1
        self._key = (np.cumsum(new_row) - 1) * self._span + (x1 - self._left)

    def __len__(self):
        return len(self.anchors)

    def overlaps(self, boxes):
        """All pairs of a box and an anchor that overlap.

        Parameters
        ----------
        boxes : ndarray [N, 4] float64

        Returns
        -------
        box, anchor : ndarray [K] int
            The pairs, in ascending order of the box.
        iou : ndarray [K] float64
            Greater than 0.
        """
        y1, x1, y2, x2 = boxes.T
        box, row = np.nonzero((self._y1 < y2[:, np.newaxis]) & (self._y2 > y1[:, np.newaxis]))
        low = np.clip(x1[box] - self._widest[row] - self._left, 0, self._span)
        high = np.clip(x2[box] - self._left, 0, self._span)
        start, stop = np.searchsorted(self._key, row * self._span + [low, high])
        box, found = np.repeat(box, stop - start), _ranges(start, stop)
        top, left, bottom, right = self._sorted[:, found]
        height = np.minimum(bottom, y2[box]) - np.maximum(top, y1[box])
        width = np.minimum(right, x2[box]) - np.maximum(left, x1[box])
        intersection = np.maximum(height, 0) * np.maximum(width, 0)
        areas = (y2 - y1) * (x2 - x1)
        iou = intersection / (areas[box] + self._areas[found] - intersection)
        real = iou > 0
        return box[real], self._order[found[real]], iou[real]

    def best(self, boxes):
        """The anchor that overlaps each box most.

        Parameters
        ----------
        boxes : ndarray [N, 4]

        Returns
        -------
        anchor : ndarray [N] int
            The first of those that tie; 0 where none overlaps the box.
        iou : ndarray [N] float64
        """
        best, best_iou = np.zeros(len(boxes), np.intp), np.zeros(len(boxes))
        for first in range(0, len(boxes), BOXES_AT_ONCE):
            part = np.asarray(boxes[first : first + BOXES_AT_ONCE], np.float64)
            box, anchor, iou = self.overlaps(part)
            # Of several that are written to a place the last one stays.
            order = np.lexsort([-anchor, iou])
            best[first + box[order]] = anchor[order]
            best_iou[first + box[order]] = iou[order]
        return best, best_iou


def _ranges(starts, stops):
    """All integers of the half-open ranges, one range after the other."""
    lengths = stops - starts
    offsets = np.cumsum(lengths) - lengths
    return np.arange(lengths.sum()) + np.repeat(starts - offsets, lengths)


def _deltas(anchors, boxes):
    """`mrcnn.boxes.box_refinement` in float64, as Matterport computes these."""
    sizes, box_sizes = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
    shifts = (boxes[:, :2] + 0.5 * box_sizes) - (anchors[:, :2] + 0.5 * sizes)
    return np.concatenate([shifts / sizes, np.log(box_sizes / sizes)], axis=1)


def _thin_out(rpn_match, value, limit, rng):
    """Make all but `limit` of the anchors that have `value` neutral."""
    ids = np.flatnonzero(rpn_match == value)
    if len(ids) > limit:
        rpn_match[rng.choice(ids, len(ids) - limit, replace=False)] = 0
