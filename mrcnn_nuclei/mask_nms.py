"""Mask-NMS: the predictions of several networks for one image, fused into one.

The last step of the paper (Ren et al., "Mask-RCNN for Cell Instance Segmentation"). How its
sentences are read here, with a drawn example: docs/mask_nms.md.
"""

import heapq

import numpy as np

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn.masks import extract_bboxes
from mrcnn.overlaps import mask_iou

FUSIONS = ("union", "vote")
METHODS = ("greedy", "soft")

#: The paper prints none. docs/mask_nms.md compares it with others.
IOU_THRESHOLD = 0.4


def mask_nms(
    predictions, *, iou_threshold=IOU_THRESHOLD, min_votes=None, fuse="union", method="greedy"
):
    """Fuse several predictions for the same image.

    The instances of all predictions go into one list. Until it is empty, the best, M, is taken from
    it; from every other prediction, the one instance left in the list whose IoU with M is greatest
    joins M, if this IoU exceeds the threshold; all else whose IoU with M does so is removed. What
    joined is fused into one object, or dropped where too few predictions have a part in it.

    Parameters
    ----------
    predictions : sequence of Instances or of integer arrays [H, W]
        At least one. The instances of a label map (0 is background) have score 1. Instances may
        overlap, those of one prediction too; instances without pixels are left out. Instances of
        different classes do not meet.
    iou_threshold : float
        From 0 to 1: the IoU with M above which an instance shows the same nucleus as M.
    min_votes : int, optional
        How many predictions must have a part in an object, that of M included. Default: half of the
        predictions, rounded up.
    fuse : "union" or "vote"
        The pixels of an object: those of any member, or those of at least half of the members.
    method : "greedy" or "soft"
        "soft" removes nothing: the score of what would be is multiplied by 1 - IoU. This is linear
        soft-NMS (Bodla et al., "Soft-NMS: Improving Object Detection With One Line of Code", 2017).

    Returns
    -------
    Instances
        In descending order of the scores: the sum of the members' scores over the number of
        predictions. They may overlap. The result does not depend on the order of the predictions,
        nor on that of their instances.

    Raises
    ------
    InputError
        If there are no predictions, their sizes differ, a score is no number from 0 up, or an
        option is none of the above.
    """
    predictions = [
        given if isinstance(given, Instances) else Instances.from_label_map(given)
        for given in predictions
    ]
    min_votes = check_options(len(predictions), iou_threshold, min_votes, fuse, method)
    instances = Instances.concatenate(predictions)
    if not (np.isfinite(instances.scores) & (instances.scores >= 0)).all():
        raise InputError("the scores of predictions to fuse must be numbers from 0 up")
    sources = np.repeat(np.arange(len(predictions)), [len(given) for given in predictions])
    visible = instances.areas > 0
    instances, sources = instances[visible], sources[visible]

    rows, cols, iou = mask_iou(instances, instances)
    meet = (rows != cols) & (instances.class_ids[rows] == instances.class_ids[cols])
    rows, cols, iou = rows[meet], cols[meet], iou[meet]
    order = _best_first(instances, _agreement(sources, rows, cols, iou))
    instances, sources, rank = instances[order], sources[order], np.argsort(order)
    above = iou > iou_threshold
    pairs = rank[rows[above]], rank[cols[above]], iou[above]

    boxes, scores, class_ids, masks = [], [], [], []
    for members, member_scores in _groups(instances.scores, sources, pairs, method == "soft"):
        box, mask = _fuse(instances.boxes[members], [instances.masks[k] for k in members], fuse)
        if len(members) >= min_votes and mask.any():
            boxes.append(box)
            scores.append(sum(member_scores) / len(predictions))
            class_ids.append(instances.class_ids[members[0]])
            masks.append(mask)
    fused = Instances(instances.shape, boxes, scores, class_ids, masks)
    return fused[np.argsort(-fused.scores, kind="stable")]


def default_votes(count):
    """How many of so many predictions must show a nucleus: half of them, rounded up."""
    return (count + 1) // 2


def check_options(count, iou_threshold, min_votes, fuse, method):
    """Check the options of `mask_nms` for a number of predictions; return its `min_votes`."""
    if count < 1:
        raise InputError("there are no predictions to fuse; give at least one")
    if not 0 <= iou_threshold <= 1:
        raise InputError(f"iou_threshold is {iou_threshold}; choose a number from 0 to 1")
    if min_votes is None:
        min_votes = default_votes(count)
    if not 1 <= min_votes <= count:
        raise InputError(
            f"min_votes is {min_votes}; {count} predictions can give from 1 to {count} votes"
        )
    for name, value, values in (("fuse", fuse, FUSIONS), ("method", method, METHODS)):
        if value not in values:
            raise InputError(f"{name} is {value!r}; choose {' or '.join(values)}")
    return min_votes


def _agreement(sources, rows, cols, iou):
    """How far the other predictions confirm each instance: the sum of the greatest IoU in each."""
    greatest = np.zeros((len(sources), sources.max(initial=0) + 1))
    np.maximum.at(greatest, (rows, sources[cols]), iou)
    greatest[np.arange(len(sources)), sources] = 0
    # Added in ascending order, so that no rounding tells the order of the predictions.
    return np.sort(greatest, axis=1).sum(axis=1)


def _best_first(instances, agreement):
    """Indices in descending order of the scores; ties are broken by what the instances are."""
    keys = zip(
        (-instances.scores).tolist(),
        (-agreement).tolist(),
        instances.boxes.tolist(),
        instances.class_ids.tolist(),
        (mask.tobytes() for mask in instances.masks),
    )
    return np.array([k for _, k in sorted(zip(keys, range(len(instances))))], int)


def _groups(scores, sources, pairs, soft):
    """Yield the members of each group, M first, and their scores.

    `scores` are in descending order; `pairs` are both directions of those above the threshold.
    """
    rows, cols, iou = pairs
    nearest_first = np.lexsort((cols, -iou, rows))
    cols, iou = cols[nearest_first], iou[nearest_first]
    starts = np.searchsorted(rows[nearest_first], np.arange(len(scores) + 1)).tolist()
    sources = sources.tolist()
    left = dict(enumerate(scores.tolist()))
    queue = [(-score, k) for k, score in left.items()]
    while left:
        negative, best = heapq.heappop(queue)
        if left.get(best) != -negative:
            continue  # it has gone, or its score has changed since
        group = {sources[best]: (best, left.pop(best))}
        near = slice(starts[best], starts[best + 1])
        for k, overlap in zip(cols[near].tolist(), iou[near].tolist()):
            if k not in left:
                continue
            score = left.pop(k)
            if sources[k] not in group:
                group[sources[k]] = (k, score)
            elif soft and overlap < 1:
                left[k] = score * (1 - overlap)
                heapq.heappush(queue, (-left[k], k))
        members, member_scores = zip(*group.values())
        yield list(members), member_scores


def _fuse(boxes, masks, fuse):
    """The box and the mask that the members of a group make together."""
    y1, x1 = boxes[:, :2].min(axis=0)
    y2, x2 = boxes[:, 2:].max(axis=0)
    votes = np.zeros((y2 - y1, x2 - x1), np.int32)
    for (top, left, bottom, right), mask in zip(boxes - [y1, x1, y1, x1], masks):
        votes[top:bottom, left:right] += mask
    if fuse == "union":
        return (y1, x1, y2, x2), votes > 0
    mask = 2 * votes >= len(masks)
    top, left, bottom, right = extract_bboxes(mask[..., None])[0]
    return (y1 + top, x1 + left, y1 + bottom, x1 + right), mask[top:bottom, left:right]
