"""How well a prediction outlines the nuclei of one image: nine metrics from one table of overlaps.

`evaluate_pair` gives them all. Formulas, sources and a worked example: docs/metrics.md.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn.overlaps import mask_intersections

METRICS = ("mAP", "mask_iou", "AJI", "AJI_plus", "PQ", "DQ", "SQ", "F1", "Dice")

# 0.50, 0.55, ... 0.95, each the double nearest to it, so that "greater than" is exact.
IOU_THRESHOLDS = np.arange(50, 100, 5) / 100


def evaluate_pair(truth, prediction):
    """Score the prediction of one image against its ground truth.

    Parameters
    ----------
    truth, prediction : integer array [H, W] or Instances
        Either a label map (0 is background, each other value one nucleus, gaps allowed) or
        Instances, whose overlaps are kept. The two may be of different kinds. Instances without
        pixels are ignored; scores and classes play no part.

    Returns
    -------
    dict of str to float
        `mAP`, `mask_iou`, `AJI`, `AJI_plus`, `PQ`, `DQ`, `SQ`, `F1` and `Dice`, each in [0, 1].
        All are 1 where neither side has a nucleus and 0 where only one side has.

    Raises
    ------
    InputError
        If the two differ in size, or one is neither Instances nor a label map.
    """
    return evaluate_overlaps(find_overlaps(truth, prediction))


def evaluate_overlaps(overlaps):
    """Score one image from its table of overlaps; returns what `evaluate_pair` does."""
    if len(overlaps.areas_true) == 0 or len(overlaps.areas_pred) == 0:
        both_empty = len(overlaps.areas_true) == len(overlaps.areas_pred)
        return dict.fromkeys(METRICS, float(both_empty))
    pq, dq, sq = panoptic_quality(overlaps)
    values = {
        "mAP": mean_average_precision(overlaps),
        "mask_iou": mean_mask_iou(overlaps),
        "AJI": aggregated_jaccard(overlaps),
        "AJI_plus": aggregated_jaccard_plus(overlaps),
        "PQ": pq,
        "DQ": dq,
        "SQ": sq,
        "F1": dq,
        "Dice": foreground_dice(overlaps),
    }
    return {name: float(value) for name, value in values.items()}


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Which nuclei of the ground truth and of the prediction share pixels, and how many.

    Attributes
    ----------
    areas_true : int64 array [N]
    areas_pred : int64 array [M]
        Pixels of each nucleus, at least 1.
    rows, cols : int64 arrays [K]
        Each pair that shares a pixel: index into `areas_true` and into `areas_pred`.
    intersections : int64 array [K]
        Pixels that the pair shares, at least 1.
    foreground : tuple of int
        Pixels of any true nucleus, of any predicted nucleus, and of both.
    """

    areas_true: np.ndarray
    areas_pred: np.ndarray
    rows: np.ndarray
    cols: np.ndarray
    intersections: np.ndarray
    foreground: tuple

    @property
    def unions(self):
        """Pixels of each pair together, int64 [K]."""
        return self.areas_true[self.rows] + self.areas_pred[self.cols] - self.intersections

    @property
    def ious(self):
        """Intersection over union of each pair, float64 [K]."""
        return self.intersections / self.unions


def find_overlaps(truth, prediction):
    """Compare two label maps or Instances of one image; see `evaluate_pair`.

    Returns
    -------
    Overlaps

    Raises
    ------
    InputError
        If the two differ in size, or one is neither Instances nor a label map.
    """
    truth, prediction = (
        given if isinstance(given, Instances) else _label_map(given)
        for given in (truth, prediction)
    )
    if truth.shape != prediction.shape:
        sizes = " and ".join(f"{h} x {w}" for h, w in (truth.shape, prediction.shape))
        raise InputError(f"ground truth and prediction differ in size: {sizes} pixels")
    if isinstance(truth, Instances) or isinstance(prediction, Instances):
        return _instance_overlaps(_instances(truth), _instances(prediction))
    return _label_overlaps(truth, prediction)


def mean_average_precision(overlaps):
    """Mean of TP / (TP + FP + FN) over the IoU thresholds 0.50, 0.55, ... 0.95.

    A pair counts where its IoU exceeds the threshold. Source: the 2018 Data Science Bowl.
    """
    either = len(overlaps.areas_true) + len(overlaps.areas_pred)
    matched = np.array([match(overlaps, t).sum() for t in IOU_THRESHOLDS])
    return np.mean(matched / (either - matched))


def mean_mask_iou(overlaps):
    """Mean IoU of the true nuclei under the one-to-one assignment of greatest total IoU."""
    return overlaps.ious[match(overlaps)].sum() / len(overlaps.areas_true)


def aggregated_jaccard(overlaps):
    """AJI of Kumar et al. 2017, algorithm 1.

    Each true nucleus takes the prediction of greatest IoU, which may serve several. Among equal IoU
    the larger intersection goes first, then the first prediction.
    """
    best_first = np.lexsort((overlaps.cols, -overlaps.intersections, -overlaps.ious, overlaps.rows))
    _, first = np.unique(overlaps.rows[best_first], return_index=True)
    return _aggregate(overlaps, best_first[first])


def aggregated_jaccard_plus(overlaps):
    """AJI under the one-to-one assignment of greatest total IoU (Graham et al. 2019)."""
    return _aggregate(overlaps, np.flatnonzero(match(overlaps)))


def panoptic_quality(overlaps):
    """PQ, DQ and SQ of Kirillov et al. 2019 for pairs of IoU above 0.5; PQ = DQ * SQ.

    DQ is the F1 score of detection; SQ the mean IoU of the detected, 0 where there are none.
    """
    pairs = match(overlaps, 0.5)
    matched = pairs.sum()
    dq = 2 * matched / (len(overlaps.areas_true) + len(overlaps.areas_pred))
    sq = overlaps.ious[pairs].mean() if matched else 0.0
    return dq * sq, dq, sq


def foreground_dice(overlaps):
    """Dice coefficient of the pixels of all nuclei together."""
    true, pred, both = overlaps.foreground
    return 2 * both / (true + pred)


def match(overlaps, threshold=0.0):
    """Choose the one-to-one pairs of greatest total IoU among those whose IoU exceeds a threshold.

    Parameters
    ----------
    overlaps : Overlaps
    threshold : float
        Pairs of this IoU or less are left out.

    Returns
    -------
    bool array [K]
        The chosen ones of the pairs of `overlaps`.
    """
    ious = overlaps.ious
    allowed = ious > threshold
    rows, cols, ious = overlaps.rows[allowed], overlaps.cols[allowed], ious[allowed]
    # Without overlap inside either side this always holds above 0.5.
    if len(np.unique(rows)) == len(rows) and len(np.unique(cols)) == len(cols):
        return allowed

    # The solver pairs every row. Each gets a column of its own that stands for "unpaired", of
    # weight 1 where a pair weighs 1 + IoU, since it takes zeros for missing entries.
    n, m = len(overlaps.areas_true), len(overlaps.areas_pred)
    weights = sparse.csr_array(
        (
            np.concatenate([1 + ious, np.ones(n)]),
            (np.concatenate([rows, np.arange(n)]), np.concatenate([cols, m + np.arange(n)])),
        ),
        shape=(n, m + n),
    )
    row, col = (
        indices.astype(np.int64)
        for indices in min_weight_full_bipartite_matching(weights, maximize=True)
    )
    paired = col < m
    chosen = row[paired] * m + col[paired]
    return allowed & np.isin(overlaps.rows * m + overlaps.cols, chosen)


def find_matched(overlaps, threshold=0.5):
    """Which nuclei have a partner in the other side, one to one.

    Parameters
    ----------
    overlaps : Overlaps
    threshold : float
        A pair counts where its IoU exceeds this.

    Returns
    -------
    found : bool array [N]
        Of the true nuclei; the others are missed.
    right : bool array [M]
        Of the predicted nuclei; the others are false.
    """
    pairs = match(overlaps, threshold)
    found = np.zeros(len(overlaps.areas_true), bool)
    right = np.zeros(len(overlaps.areas_pred), bool)
    found[overlaps.rows[pairs]] = True
    right[overlaps.cols[pairs]] = True
    return found, right


def _aggregate(overlaps, pairs):
    """Intersections of `pairs` over their unions and the area of every nucleus in none of them."""
    missed = np.delete(overlaps.areas_true, overlaps.rows[pairs]).sum()
    unused = np.delete(overlaps.areas_pred, overlaps.cols[pairs]).sum()
    return overlaps.intersections[pairs].sum() / (overlaps.unions[pairs].sum() + missed + unused)


def _label_map(labels):
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "biu":
        raise InputError(
            f"a label map must be [H, W] integers, not {labels.dtype} {list(labels.shape)}"
        )
    if labels.size and labels.min() < 0:
        raise InputError(f"a label map must not hold negative labels, found {labels.min()}")
    return labels


def _label_overlaps(truth, prediction):
    in_true, in_pred = truth > 0, prediction > 0
    both = in_true & in_pred
    labels_true, areas_true = np.unique(truth[in_true], return_counts=True)
    labels_pred, areas_pred = np.unique(prediction[in_pred], return_counts=True)
    rows = np.searchsorted(labels_true, truth[both])
    cols = np.searchsorted(labels_pred, prediction[both])
    pairs, intersections = np.unique(rows * len(labels_pred) + cols, return_counts=True)
    rows, cols = np.divmod(pairs, max(len(labels_pred), 1))
    foreground = (int(areas_true.sum()), int(areas_pred.sum()), int(both.sum()))
    return Overlaps(areas_true, areas_pred, rows, cols, intersections, foreground)


def _instances(given):
    instances = given if isinstance(given, Instances) else Instances.from_label_map(given)
    return instances[instances.areas > 0]


def _instance_overlaps(truth, prediction):
    rows, cols, intersections = mask_intersections(truth, prediction)
    in_true, in_pred = _foreground(truth), _foreground(prediction)
    foreground = tuple(np.count_nonzero(pixels) for pixels in (in_true, in_pred, in_true & in_pred))
    return Overlaps(truth.areas, prediction.areas, rows, cols, intersections, foreground)


def _foreground(instances):
    covered = np.zeros(instances.shape, bool)
    for (y1, x1, y2, x2), mask in zip(instances.boxes, instances.masks):
        covered[y1:y2, x1:x2] |= mask
    return covered
