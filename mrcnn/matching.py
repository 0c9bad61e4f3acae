"""Matching predictions to ground truth, and average precision: Matterport's evaluation."""

import numpy as np

from mrcnn.boxes import trim_zeros
from mrcnn.masks import compute_overlaps_masks

COCO_THRESHOLDS = np.arange(0.5, 1.0, 0.05)


def compute_matches(
    gt_boxes,
    gt_class_ids,
    gt_masks,
    pred_boxes,
    pred_class_ids,
    pred_scores,
    pred_masks,
    iou_threshold=0.5,
    score_threshold=0.0,
):
    """Match each prediction, best score first, to the free instance that it overlaps most.

    Only instances of the prediction's class are considered.

    Parameters
    ----------
    gt_boxes : ndarray int [M, 4]
        Rows of zeros at the end are padding.
    gt_class_ids : ndarray int [M]
    gt_masks : ndarray bool [H, W, M]
    pred_boxes, pred_class_ids, pred_scores, pred_masks
        The same for N predictions, [N, 4], [N], [N] and [H, W, N]. Of equal scores the later one
        goes first, as in Matterport's function.
    iou_threshold : float
        Least mask IoU of a match.
    score_threshold : float
        Another lower bound of the mask IoU, in spite of its name.

    Returns
    -------
    gt_match : ndarray float64 [M]
        For each instance its prediction in descending order of score, or -1.
    pred_match : ndarray float64 [N]
        For each prediction, in descending order of score, its instance, or -1.
    overlaps : ndarray float32 [N, M]
        Mask IoU, predictions in descending order of score.
    """
    overlaps, same_class = _compare(
        gt_boxes, gt_class_ids, gt_masks, pred_boxes, pred_class_ids, pred_scores, pred_masks
    )
    return *_match(overlaps, same_class, max(iou_threshold, score_threshold)), overlaps


def compute_ap(
    gt_boxes,
    gt_class_ids,
    gt_masks,
    pred_boxes,
    pred_class_ids,
    pred_scores,
    pred_masks,
    iou_threshold=0.5,
):
    """Average precision of one image at one IoU threshold, VOC 2010 style.

    Parameters
    ----------
    gt_boxes, gt_class_ids, gt_masks, pred_boxes, pred_class_ids, pred_scores, pred_masks
        See `compute_matches`.
    iou_threshold : float

    Returns
    -------
    mAP : float
        Area under the precision-recall curve, precision made monotonic. 1 if there is neither an
        instance nor a prediction, 0 if only one of them is missing.
    precisions, recalls : ndarray float64 [N + 2]
        The curve, from recall 0 to recall 1.
    overlaps : ndarray float32 [N, M]
        See `compute_matches`.
    """
    overlaps, same_class = _compare(
        gt_boxes, gt_class_ids, gt_masks, pred_boxes, pred_class_ids, pred_scores, pred_masks
    )
    return *_average_precision(overlaps, same_class, iou_threshold), overlaps


def compute_ap_range(
    gt_box,
    gt_class_id,
    gt_mask,
    pred_box,
    pred_class_id,
    pred_score,
    pred_mask,
    iou_thresholds=None,
    verbose=1,
):
    """Average precision of one image, averaged over IoU thresholds.

    Parameters
    ----------
    gt_box, gt_class_id, gt_mask, pred_box, pred_class_id, pred_score, pred_mask
        See `compute_matches`.
    iou_thresholds : sequence of float, optional
        COCO's by default: 0.50, 0.55, ..., 0.95.
    verbose : int
        1 prints the value at each threshold and the mean.

    Returns
    -------
    float
    """
    thresholds = COCO_THRESHOLDS if iou_thresholds is None else iou_thresholds
    overlaps, same_class = _compare(
        gt_box, gt_class_id, gt_mask, pred_box, pred_class_id, pred_score, pred_mask
    )
    values = []
    for threshold in thresholds:
        values.append(_average_precision(overlaps, same_class, threshold)[0])
        if verbose:
            print(f"AP @{threshold:.2f}:\t {values[-1]:.3f}")
    mean = float(np.mean(values))
    if verbose:
        print(f"AP @{thresholds[0]:.2f}-{thresholds[-1]:.2f}:\t {mean:.3f}")
    return mean


def _compare(gt_boxes, gt_class_ids, gt_masks, pred_boxes, pred_class_ids, pred_scores, pred_masks):
    """Mask IoU [N, M] and equality of class [N, M]; no padding, predictions best first."""
    gt_count, pred_count = len(trim_zeros(gt_boxes)), len(trim_zeros(pred_boxes))
    order = np.argsort(pred_scores[:pred_count], kind="stable")[::-1]
    overlaps = compute_overlaps_masks(pred_masks[..., :pred_count], gt_masks[..., :gt_count])
    same_class = np.equal.outer(pred_class_ids[:pred_count], gt_class_ids[:gt_count])
    return overlaps[order], same_class[order]


def _match(overlaps, same_class, threshold):
    """Greedy assignment, see `compute_matches`: (gt_match [M], pred_match [N])."""
    pred_match, gt_match = (np.full(count, -1.0) for count in overlaps.shape)
    eligible = same_class & (overlaps >= threshold)
    for prediction in np.flatnonzero(eligible.any(axis=1)):
        candidates = np.flatnonzero(eligible[prediction] & (gt_match < 0))
        if len(candidates):
            ranking = np.argsort(overlaps[prediction, candidates], kind="stable")
            instance = candidates[ranking[-1]]
            gt_match[instance] = prediction
            pred_match[prediction] = instance
    return gt_match, pred_match


def _average_precision(overlaps, same_class, threshold):
    """(average precision, precisions [N + 2], recalls [N + 2]) of sorted predictions."""
    gt_match, pred_match = _match(overlaps, same_class, threshold)
    hits = np.cumsum(pred_match >= 0)
    precisions = np.concatenate([[0], hits / np.arange(1, len(hits) + 1), [0]])
    recalls = np.concatenate([[0], hits / max(len(gt_match), 1), [1]])
    precisions = np.maximum.accumulate(precisions[::-1])[::-1]
    if not overlaps.size:
        return float(len(gt_match) == len(pred_match)), precisions, recalls
    return float(np.sum(np.diff(recalls) * precisions[1:])), precisions, recalls
