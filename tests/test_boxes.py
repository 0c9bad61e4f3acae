"""Boxes against Matterport's numbers, hand-worked cases and invariants."""

import numpy as np
import pytest
from helpers import golden_arrays
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrcnn import utils

NOTHING = np.zeros((0, 4))


@pytest.fixture(scope="module")
def numbers():
    return golden_arrays("utils_boxes")


def boxes(max_count=12, least=1):
    """Integer boxes with an area, [N, 4]."""
    corners = hnp.arrays(
        np.int32,
        st.tuples(st.integers(least, max_count), st.just(4)),
        elements=st.integers(0, 60),
    )
    return corners.map(lambda c: np.concatenate([c[:, :2], c[:, :2] + 1 + c[:, 2:]], axis=1))


def area(boxes):
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def golden_results(n):
    """Each key of the golden file with what our function makes of the same input."""
    b1, b2, i1, i2 = n["b1"], n["b2"], n["b1_int"], n["b2_int"]
    size = (100, 120)
    recall, positive_ids = utils.compute_recall(b1, b2, 0.3)
    return {
        "compute_iou_b2_0_vs_b1": utils.compute_iou(b2[0], b1, area(b2)[0], area(b1)),
        "compute_overlaps": utils.compute_overlaps(b1, b2),
        "compute_overlaps_int": utils.compute_overlaps(i1, i2),
        "nms_03": utils.non_max_suppression(b1, n["scores"], 0.3),
        "nms_05_int": utils.non_max_suppression(i1, n["scores"], 0.5),
        "apply_box_deltas": utils.apply_box_deltas(b1, n["deltas"]),
        "apply_box_deltas_int": utils.apply_box_deltas(i1, n["deltas"]),
        "box_refinement": utils.box_refinement(b1[:12], b2),
        "box_refinement_int": utils.box_refinement(i1[:12], i2),
        "norm_boxes": utils.norm_boxes(i1, size),
        "norm_boxes_float": utils.norm_boxes(b1, size),
        "denorm_boxes": utils.denorm_boxes(utils.norm_boxes(b1, size), size),
        "trim_zeros_out": utils.trim_zeros(n["trim_zeros_in"]),
        "compute_recall_b1_b2_iou03": np.array(recall),
        "compute_recall_positive_ids": positive_ids,
    }


def test_every_golden_number(numbers):
    results = golden_results(numbers)
    inputs = {"b1", "b2", "b1_int", "b2_int", "scores", "deltas", "trim_zeros_in"}
    assert set(results) == set(numbers) - inputs
    for key, result in results.items():
        expected = numbers[key]
        assert result.shape == expected.shape, key
        assert result.dtype == expected.dtype, key
        if expected.dtype.kind == "i":
            np.testing.assert_array_equal(result, expected, key)
        else:
            np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6, err_msg=key)


def test_overlaps_by_hand():
    a = np.array([[0, 0, 10, 10], [5, 5, 5, 9]])
    b = np.array([[0, 5, 10, 15], [20, 20, 30, 30], [5, 5, 5, 9]])
    expected = [[50 / 150, 0, 0], [0, 0, 0]]  # a box without area overlaps nothing, itself included
    np.testing.assert_allclose(utils.compute_overlaps(a, b), expected)


def test_overlaps_of_many_boxes_are_computed_in_blocks_that_fit_together():
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 500, (3000, 2))
    many = np.concatenate([corner, corner + rng.integers(1, 40, (3000, 2))], axis=1)
    few = many[::40]
    overlaps = utils.compute_overlaps(many, few)
    for j in (0, 7, 74):
        expected = utils.compute_iou(few[j], many, area(few)[j], area(many))
        np.testing.assert_array_equal(overlaps[:, j], expected)


@given(boxes(), boxes())
@settings(max_examples=50, deadline=None)
def test_overlaps_are_symmetric_fractions_and_one_only_for_equal_boxes(a, b):
    overlaps = utils.compute_overlaps(a, b)
    np.testing.assert_array_equal(overlaps, utils.compute_overlaps(b, a).T)
    assert (overlaps >= 0).all() and (overlaps <= 1).all()
    np.testing.assert_array_equal(overlaps == 1, (a[:, None] == b).all(axis=-1))


@given(boxes(), st.floats(0, 1), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_suppression_keeps_what_does_not_overlap_and_drops_what_does(a, threshold, random):
    scores = np.array([random.random() for _ in a])
    kept = utils.non_max_suppression(a, scores, threshold)
    assert (np.diff(scores[kept]) <= 0).all()
    overlaps = utils.compute_overlaps(a, a)
    among = overlaps[np.ix_(kept, kept)] - np.eye(len(kept))
    assert (among <= threshold).all()
    for dropped in set(range(len(a))) - set(kept.tolist()):
        better = kept[scores[kept] >= scores[dropped]]
        assert (overlaps[dropped, better] > threshold).any()


def test_an_overlap_equal_to_the_threshold_is_kept():
    pair = np.array([[0, 0, 10, 10], [0, 0, 10, 5]])
    assert utils.non_max_suppression(pair, np.array([0.9, 0.8]), 0.5).tolist() == [0, 1]
    assert utils.non_max_suppression(pair, np.array([0.8, 0.9]), 0.49).tolist() == [1]


@given(boxes(8, least=8), boxes(8, least=8))
@settings(max_examples=50, deadline=None)
def test_refinement_applied_gives_the_target(a, b):
    a, b = a[:8], b[:8]
    np.testing.assert_allclose(
        utils.apply_box_deltas(a, utils.box_refinement(a, b)), b, rtol=1e-5, atol=1e-3
    )


@given(boxes())
@settings(max_examples=50, deadline=None)
def test_normalised_boxes_return_to_the_same_pixels(a):
    normalised = utils.norm_boxes(a, (130, 140))
    np.testing.assert_array_equal(utils.denorm_boxes(normalised, (130, 140)), a)


def test_the_whole_image_is_the_unit_box():
    np.testing.assert_array_equal(
        utils.norm_boxes(np.array([[0, 0, 5, 9]]), (5, 9)), [[0, 0, 1, 1]]
    )


def test_no_boxes():
    some = np.array([[0, 0, 4, 4]])
    assert utils.compute_overlaps(NOTHING, some).shape == (0, 1)
    assert utils.compute_overlaps(some, NOTHING).shape == (1, 0)
    assert utils.non_max_suppression(NOTHING, np.zeros(0), 0.5).shape == (0,)
    assert utils.apply_box_deltas(NOTHING, NOTHING).shape == (0, 4)
    assert utils.box_refinement(NOTHING, NOTHING).shape == (0, 4)
    assert utils.norm_boxes(NOTHING, (5, 5)).shape == (0, 4)
    assert utils.trim_zeros(NOTHING).shape == (0, 4)


def test_recall_of_nothing():
    some = np.array([[0, 0, 4, 4]])
    assert utils.compute_recall(NOTHING, NOTHING, 0.5)[0] == 1
    assert utils.compute_recall(some, NOTHING, 0.5)[0] == 0
    assert utils.compute_recall(NOTHING, some, 0.5)[0] == 0
    assert utils.compute_recall(some + 50, some, 0.5)[0] == 0
