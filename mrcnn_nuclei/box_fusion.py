"""Weighted boxes fusion: what Mask R-CNN finds in several views of an image, made one.

After Solovyev et al., "Weighted boxes fusion: Ensembling boxes from different object detection
models" (Image and Vision Computing 107, 2021), with one change and one addition: a view adds one
object at most to a fused one, and masks are averaged too, as probabilities, before any threshold.
"""

import numpy as np

from mrcnn.boxes import compute_overlaps
from mrcnn.soft_instances import SoftInstances

IOU_THRESHOLD = 0.4
"""Of a box and a fused one, above which they show the same nucleus."""


def fuse_boxes(views):
    """Fuse the objects that were found in several views of an image.

    Best first, each object joins the fused one of its class whose box it overlaps most, if their
    IoU exceeds the threshold and no object of its view is a part of that already; else it begins a
    new one.

    Parameters
    ----------
    views : sequence of SoftInstances
        At least one, turned back to the same coordinates, with masks of one size.

    Returns
    -------
    SoftInstances
        Scores are the sum of the members' over the number of views. Boxes are the mean of the
        members', weighted by score, rounded to pixels. Masks are the mean of the members', each of
        which is 0 outside of its box.
    """
    shape, boxes, scores, class_ids, masks = (
        views[0].shape,
        *(np.concatenate(parts) for parts in zip(*(view[1:] for view in views))),
    )
    view = np.repeat(np.arange(len(views)), [len(found.boxes) for found in views])
    groups = _group(boxes, scores, class_ids, view, len(views))
    fused = [np.average(boxes[group], axis=0, weights=scores[group]) for group in groups]
    fused = np.rint(np.reshape(fused, (-1, 4))).astype(np.int32)
    fused[:, 2:] = np.maximum(fused[:, 2:], fused[:, :2] + 1)
    total = np.array([scores[group].sum() for group in groups], np.float32) / len(views)
    drawn = [_resample(masks[g], boxes[g], box).mean(axis=0) for g, box in zip(groups, fused)]
    order = np.argsort(-total, kind="stable")
    return SoftInstances(
        shape,
        fused[order],
        total[order],
        class_ids[[group[0] for group in groups]][order],
        np.reshape(drawn, (-1, *masks.shape[1:])).astype(np.float32)[order],
    )


def _group(boxes, scores, class_ids, view, views):
    """Index lists of the objects that are one, the best of each first."""
    groups = []
    fused = np.zeros((len(boxes), 4))
    weights = np.zeros(len(boxes))
    closed = np.ones((len(boxes), views, class_ids.max(initial=0) + 1), bool)
    for k in np.argsort(-scores, kind="stable"):
        iou = compute_overlaps(boxes[k : k + 1], fused[: len(groups)])[0]
        iou[closed[: len(groups), view[k], class_ids[k]]] = 0
        if iou.max(initial=0) > IOU_THRESHOLD:
            best = iou.argmax()
        else:
            best = len(groups)
            groups.append([])
            closed[best, :, class_ids[k]] = False
        groups[best].append(k)
        closed[best, view[k]] = True
        weights[best] += scores[k]
        fused[best] += (boxes[k] - fused[best]) * scores[k] / weights[best]
    return groups


def _resample(masks, boxes, box):
    """Masks [N, h, w] that are stretched over boxes [N, 4], on the grid of another box."""
    axes = zip(masks.shape[1:], boxes[:, :2].T, boxes[:, 2:].T, box[:2], box[2:])
    rows, columns = (_taps(*axis) for axis in axes)
    return rows @ masks @ columns.transpose(0, 2, 1)


def _taps(size, start, end, new_start, new_end):
    """Weights [N, size, size] of linear interpolation along one axis, 0 beyond its ends."""
    pixels = new_start + (np.arange(size) + 0.5) / size * (new_end - new_start)
    position = (pixels - start[:, np.newaxis]) / (end - start)[:, np.newaxis] * size - 0.5
    return np.maximum(1 - np.abs(position[..., np.newaxis] - np.arange(size)), 0)
