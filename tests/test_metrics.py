"""The metrics against fractions worked out by hand, invariants and a plain dense computation."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment
from timing import shortest

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn_nuclei.image_files import read_label_map
from mrcnn_nuclei.metrics import (
    METRICS,
    Overlaps,
    aggregated_jaccard,
    evaluate_pair,
    find_overlaps,
    match,
)

label_maps = arrays(np.int32, (6, 7), elements=st.integers(0, 5))
dense_masks = arrays(bool, (5, 5, 4), elements=st.booleans())


def squares(shape, *boxes):
    """Label map with one rectangle (y1, x1, y2, x2) a label, from 1."""
    labels = np.zeros(shape, np.int32)
    for label, (y1, x1, y2, x2) in enumerate(boxes, start=1):
        labels[y1:y2, x1:x2] = label
    return labels


def assert_values(result, **expected):
    for name, value in expected.items():
        assert result[name] == pytest.approx(float(value), abs=1e-12), name


def test_example_of_the_documentation():
    truth = np.array([[1, 1, 1, 1, 0, 2, 2, 3, 3, 0, 0, 4]])
    prediction = np.array([[1, 1, 1, 0, 0, 5, 5, 5, 5, 0, 7, 0]])
    result = evaluate_pair(truth, prediction)
    assert tuple(result) == METRICS
    assert_values(
        result,
        mAP=Fraction(1, 12),
        mask_iou=Fraction(5, 16),
        AJI=Fraction(1, 2),
        AJI_plus=Fraction(5, 12),
        PQ=Fraction(3, 14),
        DQ=Fraction(2, 7),
        SQ=Fraction(3, 4),
        F1=Fraction(2, 7),
        Dice=Fraction(14, 17),
    )


def test_two_squares_one_shifted():
    # 4 x 4 squares; the prediction is one column off: 12 shared of 20, IoU 3/5.
    truth = squares((10, 10), (2, 2, 6, 6))
    prediction = squares((10, 10), (2, 3, 6, 7))
    assert_values(
        evaluate_pair(truth, prediction),
        mAP=Fraction(2, 10),  # 0.50 and 0.55; 0.60 is not exceeded
        mask_iou=Fraction(3, 5),
        AJI=Fraction(3, 5),
        AJI_plus=Fraction(3, 5),
        PQ=Fraction(3, 5),
        DQ=1,
        SQ=Fraction(3, 5),
        F1=1,
        Dice=Fraction(24, 32),
    )


@pytest.mark.parametrize("tenths", range(10, 20))
def test_an_iou_equal_to_a_threshold_does_not_exceed_it(tenths):
    # A strip of 20 pixels and its first 10 to 19: IoU is 0.50, 0.55, ... 0.95.
    truth = np.ones((1, 20), np.int32)
    prediction = np.zeros((1, 20), np.int32)
    prediction[0, :tenths] = 1
    assert_values(evaluate_pair(truth, prediction), mAP=Fraction(tenths - 10, 10))


def test_prediction_that_serves_two_nuclei():
    # Two halves under one prediction, each of IoU 1/2.
    truth = squares((4, 8), (0, 0, 4, 4), (0, 4, 4, 8))
    prediction = squares((4, 8), (0, 0, 4, 8))
    assert_values(
        evaluate_pair(truth, prediction),
        mAP=0,
        mask_iou=Fraction(1, 4),
        AJI=Fraction(16 + 16, 32 + 32),
        AJI_plus=Fraction(16, 32 + 16),
        PQ=0,
        DQ=0,
        SQ=0,
        Dice=1,
    )


def test_aji_takes_the_greatest_iou_not_the_greatest_intersection():
    # Truth of 12 pixels: prediction 1 shares 7 of its 27 (IoU 7/32), prediction 2 all its 5 (5/12).
    truth = np.array([[1] * 12 + [0] * 20])
    prediction = np.array([[2] * 5 + [1] * 27])
    assert_values(evaluate_pair(truth, prediction), AJI=Fraction(5, 12 + 27))


def test_aji_counts_an_unused_prediction_that_meets_a_nucleus():
    # Halves of 3 and 5 pixels: the larger is the best, the smaller is added below.
    truth = np.array([[1] * 8])
    prediction = np.array([[1] * 3 + [2] * 5])
    assert_values(evaluate_pair(truth, prediction), AJI=Fraction(5, 8 + 3), DQ=Fraction(2, 3))


def test_assignment_is_not_greedy():
    # IoUs: (1, 1) 4/8, (1, 2) 3/8 and (2, 1) 3/8. Greedy has 1/2, the best total is 3/8 + 3/8.
    overlaps = Overlaps(
        areas_true=np.array([7, 6]),
        areas_pred=np.array([5, 4]),
        rows=np.array([0, 0, 1]),
        cols=np.array([0, 1, 0]),
        intersections=np.array([4, 3, 3]),
        foreground=(13, 9, 10),
    )
    assert overlaps.ious.tolist() == [4 / 8, 3 / 8, 3 / 8]
    assert match(overlaps).tolist() == [False, True, True]


def test_second_detection_of_a_nucleus_is_a_false_positive():
    truth = squares((6, 6), (1, 1, 5, 5))
    twice = Instances.concatenate([Instances.from_label_map(truth)] * 2)
    assert_values(
        evaluate_pair(truth, twice),
        mAP=Fraction(1, 2),
        mask_iou=1,
        AJI=Fraction(16, 16 + 16),
        AJI_plus=Fraction(16, 16 + 16),
        DQ=Fraction(2, 3),
        SQ=1,
        Dice=1,
    )


def test_overlap_inside_a_side_is_kept():
    # Two 2 x 4 nuclei that share their middle 2 x 2; the prediction has the same two.
    dense = np.zeros((2, 6, 2), bool)
    dense[:, :4, 0] = dense[:, 2:, 1] = True
    both = Instances.from_dense(dense)
    assert_values(evaluate_pair(both, both), **dict.fromkeys(METRICS, 1))
    # As a label map the first nucleus lies in front: 2 x 4 and 2 x 2 pixels.
    assert_values(
        evaluate_pair(both, both.to_label_map()),
        SQ=Fraction(1),  # the second has IoU 4/8, which is not above 0.5
        DQ=Fraction(1, 2),
        mask_iou=Fraction(3, 4),
        AJI=Fraction(8 + 4, 8 + 8),
        Dice=1,
    )


@pytest.mark.parametrize("as_instances", [False, True])
def test_empty_rule(as_instances):
    none, some = np.zeros((8, 8), np.int32), squares((8, 8), (1, 1, 4, 4))
    if as_instances:
        none, some = Instances.from_label_map(none), Instances.from_label_map(some)
    assert evaluate_pair(none, none) == dict.fromkeys(METRICS, 1.0)
    assert evaluate_pair(some, none) == dict.fromkeys(METRICS, 0.0)
    assert evaluate_pair(none, some) == dict.fromkeys(METRICS, 0.0)


def test_nothing_in_common_is_zero():
    truth = squares((8, 8), (0, 0, 3, 3))
    prediction = squares((8, 8), (5, 5, 8, 8))
    assert evaluate_pair(truth, prediction) == dict.fromkeys(METRICS, 0.0)


def test_instances_without_pixels_are_ignored():
    dense = np.zeros((4, 4, 2), bool)
    dense[1:3, 1:3, 0] = True
    truth = dense[..., 0].astype(np.int32)
    assert_values(evaluate_pair(truth, Instances.from_dense(dense)), DQ=1, AJI=1)


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (np.zeros((4, 5), int), np.zeros((5, 4), int), "4 x 5 and 5 x 4"),
        (np.zeros((4, 5), int), Instances.empty((4, 6)), "4 x 5 and 4 x 6"),
        (np.zeros((4, 5, 2), int), np.zeros((4, 5), int), r"\[H, W\] integers"),
        (np.zeros((4, 5)), np.zeros((4, 5), int), "float64"),
        (np.zeros((4, 5), int), np.full((4, 5), -1), "negative"),
    ],
)
def test_what_cannot_be_compared_is_refused(truth, prediction, message):
    with pytest.raises(InputError, match=message):
        evaluate_pair(truth, prediction)


@given(label_maps)
@settings(max_examples=30, deadline=None)
def test_identity_is_perfect(labels):
    assert evaluate_pair(labels, labels) == dict.fromkeys(METRICS, 1.0)


@given(label_maps, label_maps, st.permutations([0, 3, 70000, 2**31 - 1, 9]))
@settings(max_examples=50, deadline=None)
def test_labels_are_only_names(truth, prediction, names):
    renamed = np.array([0, *(name + 1 for name in names)], np.int64)
    before, after = evaluate_pair(truth, prediction), evaluate_pair(renamed[truth], prediction)
    # Several assignments may share the greatest total IoU and differ in AJI_plus.
    for name in set(METRICS) - {"AJI_plus"}:
        assert after[name] == pytest.approx(before[name]), name
    # So may several predictions be the best of a nucleus.
    after = evaluate_pair(truth, renamed[prediction])
    for name in set(METRICS) - {"AJI_plus", "AJI"}:
        assert after[name] == pytest.approx(before[name]), name
    swapped = evaluate_pair(prediction, truth)
    for name in ("mAP", "PQ", "DQ", "SQ", "F1", "Dice"):
        assert swapped[name] == pytest.approx(before[name]), name


@given(label_maps, label_maps)
@settings(max_examples=50, deadline=None)
def test_label_maps_and_instances_agree(truth, prediction):
    expected = evaluate_pair(truth, prediction)
    as_instances = Instances.from_label_map(truth), Instances.from_label_map(prediction)
    assert evaluate_pair(*as_instances) == expected
    assert evaluate_pair(truth, as_instances[1]) == expected
    assert evaluate_pair(as_instances[0], prediction) == expected


@given(dense_masks, dense_masks)
@settings(max_examples=50, deadline=None)
def test_overlapping_instances_equal_the_dense_computation(truth, prediction):
    result = evaluate_pair(Instances.from_dense(truth), Instances.from_dense(prediction))
    assert all(0 <= value <= 1 for value in result.values())
    truth = truth[..., truth.any(axis=(0, 1))].reshape(25, -1).astype(int)
    prediction = prediction[..., prediction.any(axis=(0, 1))].reshape(25, -1).astype(int)
    if 0 in (truth.shape[1], prediction.shape[1]):
        return
    shared = truth.T @ prediction
    union = truth.sum(axis=0)[:, None] + prediction.sum(axis=0) - shared
    iou = shared / union

    def total(threshold):
        allowed = np.where(iou > threshold, iou, 0)
        rows, cols = linear_sum_assignment(allowed, maximize=True)
        return allowed[rows, cols][allowed[rows, cols] > 0]

    true_positives = np.array([len(total(t / 100)) for t in range(50, 100, 5)])
    either = truth.shape[1] + prediction.shape[1]
    assert_values(
        result,
        mask_iou=total(0).sum() / truth.shape[1],
        mAP=np.mean(true_positives / (either - true_positives)),
        PQ=2 * total(0.5).sum() / either,
        Dice=2
        * (truth.any(axis=1) & prediction.any(axis=1)).sum()
        / (truth.any(axis=1).sum() + prediction.any(axis=1).sum()),
    )


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_assignment_equals_the_dense_solver(seed):
    # Chains and clusters, many of equal IoU: nuclei of a row cut at random, twice.
    rng = np.random.default_rng(seed)
    truth, prediction = (np.cumsum(rng.random((1, 400)) < rate) for rate in (0.2, 0.3))
    overlaps = find_overlaps(truth[None], prediction[None])
    iou = np.zeros((len(overlaps.areas_true), len(overlaps.areas_pred)))
    iou[overlaps.rows, overlaps.cols] = overlaps.ious
    rows, cols = linear_sum_assignment(iou, maximize=True)
    chosen = match(overlaps)
    assert overlaps.ious[chosen].sum() == pytest.approx(iou[rows, cols].sum())
    assert len(set(overlaps.rows[chosen])) == len(set(overlaps.cols[chosen])) == chosen.sum()


@pytest.fixture(scope="module")
def dense_image(monuseg):
    return read_label_map(monuseg / "labels" / "TCGA-HE-7130-01Z-00-DX1.png")


@pytest.mark.parametrize("shift", [1, 3, 8])
def test_densest_image_takes_less_than_a_second(dense_image, shift):
    prediction = np.roll(dense_image, (shift, shift), (0, 1))
    seconds, result = shortest(evaluate_pair, dense_image, prediction, limit=1)
    assert seconds < 1
    overlaps = find_overlaps(dense_image, prediction)
    assert len(overlaps.areas_true) == 1862

    iou = np.zeros((len(overlaps.areas_true), len(overlaps.areas_pred)))
    iou[overlaps.rows, overlaps.cols] = overlaps.ious
    rows, cols = linear_sum_assignment(iou, maximize=True)
    assert_values(result, mask_iou=iou[rows, cols].sum() / 1862)
    seconds, _ = shortest(match, overlaps, limit=0.5)
    assert seconds < 0.5


@pytest.mark.parametrize(
    ("name", "nuclei"),
    [
        ("TCGA-HE-7130-01Z-00-DX1", 1862),
        ("TCGA-HE-7129-01Z-00-DX1", 1584),
        ("TCGA-KB-A93J-01A-01-TS1", 1390),
        ("TCGA-RD-A8N9-01A-01-TS1", 1165),
        ("TCGA-HE-7128-01Z-00-DX1", 1073),
        ("TCGA-49-4488-01Z-00-DX1", 557),
    ],
)
def test_the_six_densest_images_take_less_than_a_second(monuseg, name, nuclei):
    """Each predicted nucleus is off by up to 3 pixels, so that it overlaps several true ones."""
    labels = read_label_map(monuseg / "labels" / f"{name}.png")
    truth = Instances.from_label_map(labels)
    assert len(truth) == nuclei
    offsets = np.random.default_rng(0).integers(-3, 4, (nuclei, 2))
    room = np.array(truth.shape) - truth.boxes[:, 2:]
    offsets = np.tile(np.clip(offsets, -truth.boxes[:, :2], room), 2).astype(np.int32)
    prediction = Instances(
        truth.shape, truth.boxes + offsets, truth.scores, truth.class_ids, truth.masks
    )
    seconds, result = shortest(evaluate_pair, labels, prediction, limit=1)
    assert seconds < 1
    aji = aggregated_jaccard(find_overlaps(labels, prediction))
    assert result["AJI"] == aji and 0.5 < aji < 0.8


def test_aji_of_the_densest_image_equals_a_plain_computation(dense_image):
    prediction = np.roll(dense_image, (2, -3), (0, 1))
    labels = np.unique(dense_image[dense_image > 0])
    area = dict(zip(labels, np.bincount(dense_image.ravel())[labels]))
    rolled_area = dict(zip(labels, np.bincount(prediction.ravel())[labels]))
    by_truth = np.argsort(dense_image.ravel(), kind="stable")
    pixels = np.split(by_truth, np.searchsorted(dense_image.ravel()[by_truth], labels))[1:]
    above = below = 0
    unused = set(labels)
    for label, where in zip(labels, pixels):
        hits = np.bincount(prediction.ravel()[where])
        candidates = [
            (hits[p] / (area[label] + rolled_area[p] - hits[p]), hits[p], -p)
            for p in np.flatnonzero(hits)
            if p > 0
        ]
        if not candidates:
            below += area[label]
            continue
        _, shared, best = max(candidates)
        above += shared
        below += area[label] + rolled_area[-best] - shared
        unused.discard(-best)
    below += sum(rolled_area[p] for p in unused)
    seconds, result = shortest(evaluate_pair, dense_image, prediction, limit=1)
    assert seconds < 1
    assert_values(result, AJI=Fraction(int(above), int(below)))
