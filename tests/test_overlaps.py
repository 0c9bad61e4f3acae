"""Which boxes and masks overlap, and by how much, against comparisons of all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stacks import dense_masks
from timing import shortest

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn.overlaps import mask_intersections, mask_iou, meeting_boxes

quick = settings(max_examples=80, deadline=None)


@quick
@given(dense_masks(), st.randoms())
def test_overlaps_equal_those_of_dense_masks(dense, random):
    order = list(range(dense.shape[2]))
    random.shuffle(order)
    a = Instances.from_dense(dense)
    b = a[np.array(order, int)]
    expected = np.einsum(
        "hwi,hwj->ij", dense.astype(int), dense[..., np.array(order, int)].astype(int)
    )
    found = np.zeros_like(expected)
    rows, cols, intersections = mask_intersections(a, b)
    found[rows, cols] = intersections
    np.testing.assert_array_equal(found, expected)
    assert (intersections > 0).all()
    assert sorted(zip(rows, cols)) == list(zip(rows, cols))


@st.composite
def boxes(draw):
    """Boxes of all sizes, some without area, some beyond an edge of the image."""
    corner, side = st.integers(-9, 40), st.sampled_from([0, 1, 2, 3, 9, 60])
    found = draw(st.lists(st.tuples(corner, corner, side, side), max_size=12))
    return np.array([(y, x, y + h, x + w) for y, x, h, w in found], int).reshape(-1, 4)


@quick
@given(boxes(), boxes())
def test_boxes_that_meet_equal_a_comparison_of_all(a, b):
    starts = np.maximum(a[:, None, :2], b[:, :2])
    ends = np.minimum(a[:, None, 2:], b[:, 2:])
    np.testing.assert_array_equal(meeting_boxes(a, b), np.nonzero((starts < ends).all(axis=-1)))


def test_a_hundred_thousand_boxes_are_compared_in_seconds():
    # 300 candidates each if whole rows were compared, and one box that meets all.
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 10_000, (100_000, 2))
    found = np.concatenate([corners, corners + rng.integers(10, 40, (100_000, 2))], axis=1)
    found[0] = (0, 0, 10_050, 10_050)
    seconds, (rows, cols) = shortest(meeting_boxes, found, found, limit=6)
    assert (rows == 0).sum() == 100_000 and (rows == cols).sum() == 100_000
    chosen = rng.integers(1, 100_000, 20)
    for k in chosen:
        meet = (found[:, :2] < found[k, 2:]).all(axis=1) & (found[:, 2:] > found[k, :2]).all(axis=1)
        np.testing.assert_array_equal(cols[rows == k], np.flatnonzero(meet))
    assert seconds < 6


def test_words_of_wide_masks():
    # 200 columns from 60 on lie in five words, and from 130 on in four.
    rng = np.random.default_rng(0)
    masks = rng.random((2, 3, 200)) < 0.5
    a, b = (
        Instances((3, 400), [[0, left, 3, left + 200]], [1], [1], [mask])
        for left, mask in zip((60, 130), masks)
    )
    expected = np.count_nonzero(masks[0][:, 70:] & masks[1][:, :130])
    assert mask_intersections(a, b)[2].tolist() == [expected]


def test_iou_by_hand():
    a = Instances.from_label_map(np.array([[1, 1, 1, 0], [0, 2, 2, 0]]))
    b = Instances.from_label_map(np.array([[0, 1, 1, 1], [0, 1, 0, 3]]))
    rows, cols, iou = mask_iou(a, b)
    assert rows.tolist() == [0, 1] and cols.tolist() == [0, 0]
    np.testing.assert_allclose(iou, [2 / 5, 1 / 5])
    with pytest.raises(InputError, match="compared"):
        mask_iou(a, Instances.empty((9, 9)))
