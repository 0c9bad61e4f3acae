"""Weighted boxes fusion: worked by hand, and what must hold of any views."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn.soft_instances import SoftInstances
from mrcnn_nuclei.box_fusion import fuse_boxes

SHAPE = (60, 80)


def view(*boxes, scores, class_ids=None, masks=None):
    """What is found in one view, as whole boxes unless masks are given."""
    boxes = np.array(boxes, np.int32).reshape(-1, 4)
    masks = np.ones((len(boxes), 4, 4)) if masks is None else np.array(masks)
    class_ids = np.ones(len(boxes)) if class_ids is None else np.array(class_ids)
    scores = np.array(scores, np.float32)
    return SoftInstances(SHAPE, boxes, scores, class_ids.astype(np.int32), masks.astype(np.float32))


def test_worked_by_hand():
    """The first two boxes share 60 pixels of 140; weighted 3 to 1 they give x from 1 to 11."""
    fused = fuse_boxes(
        [
            view((0, 0, 10, 10), (30, 30, 40, 40), scores=[0.9, 0.6]),
            view((0, 4, 10, 14), scores=[0.3]),
        ]
    )
    assert fused.boxes.tolist() == [[0, 1, 10, 11], [30, 30, 40, 40]]
    assert fused.scores == pytest.approx([0.6, 0.3])
    assert fused.class_ids.tolist() == [1, 1]
    assert fused.shape == SHAPE


def test_masks_are_averaged_where_they_lie_in_the_image():
    """The left half of a box and the left half of one 4 pixels to the right."""
    half = [[[1, 1, 0, 0]] * 4]
    fused = fuse_boxes(
        [
            view((0, 0, 16, 16), scores=[0.5], masks=half),
            view((0, 4, 16, 20), scores=[0.5], masks=half),
        ]
    )
    assert fused.boxes.tolist() == [[0, 2, 16, 18]]
    # The middles of the four columns lie at x = 4, 8, 12 and 16.
    first = np.interp([4, 8, 12, 16], [2, 6, 10, 14], [1, 1, 0, 0])
    second = np.interp([4, 8, 12, 16], [2, 6, 10, 14, 18], [0, 1, 1, 0, 0])
    np.testing.assert_allclose(fused.masks[0][1], (first + second) / 2, rtol=1e-6)


def test_objects_of_one_view_and_of_other_classes_stay_apart():
    same = (0, 0, 10, 10), (0, 1, 10, 11)
    assert len(fuse_boxes([view(*same, scores=[0.9, 0.8])]).boxes) == 2
    classes = fuse_boxes([view(same[0], scores=[0.9]), view(same[0], scores=[0.8], class_ids=[2])])
    assert classes.class_ids.tolist() == [1, 2]
    assert classes.scores == pytest.approx([0.45, 0.4])
    # The second of a view joins another object, if it overlaps that too.
    fused = fuse_boxes(
        [view(*same, scores=[0.9, 0.8]), view((0, 0, 10, 10), (0, 1, 10, 11), scores=[0.7, 0.6])]
    )
    assert fused.scores == pytest.approx([0.8, 0.7])


def test_nothing_found():
    fused = fuse_boxes([view(scores=[]), view(scores=[])])
    assert len(fused.boxes) == 0 and fused.masks.shape == (0, 4, 4)
    fused = fuse_boxes([view(scores=[]), view((0, 0, 5, 5), scores=[0.8])])
    assert fused.scores == pytest.approx([0.4])


corners = st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(1, 20)] * 2)
found = st.lists(corners, max_size=5)


@given(views=st.lists(found, min_size=1, max_size=4), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_of_any_views(views, seed):
    rng = np.random.default_rng(seed)
    # All different, so that the order of the views cannot matter.
    scores = np.split(
        rng.permutation(np.linspace(0.1, 0.9, 20))[: sum(map(len, views))],
        np.cumsum([len(boxes) for boxes in views])[:-1],
    )
    views = [
        view(
            *[(y, x, y + h, x + w) for y, x, h, w in boxes],
            scores=own,
            masks=rng.random((len(boxes), 4, 4)),
        )
        for boxes, own in zip(views, scores)
    ]
    fused = fuse_boxes(views)
    assert (np.diff(fused.scores) <= 0).all()
    assert fused.scores.sum() == pytest.approx(sum(v.scores.sum() for v in views) / len(views))
    assert max(len(v.boxes) for v in views) <= len(fused.boxes) <= sum(len(v.boxes) for v in views)
    assert (fused.boxes[:, :2] < fused.boxes[:, 2:]).all()
    assert ((fused.masks >= 0) & (fused.masks <= 1)).all()
    backwards = fuse_boxes(views[::-1])
    np.testing.assert_array_equal(backwards.boxes, fused.boxes)
    np.testing.assert_allclose(backwards.masks, fused.masks, atol=1e-6)
    # One view alone, or the same view again, is what it was.
    alone = fuse_boxes(views[:1])
    order = np.argsort(-views[0].scores, kind="stable")
    np.testing.assert_array_equal(alone.boxes, views[0].boxes[order])
    np.testing.assert_allclose(alone.masks, views[0].masks[order], atol=1e-6)
