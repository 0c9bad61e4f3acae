"""Box geometry on tensors, against the port of Matterport's and against its NumPy twin."""

import numpy as np
import pytest
from helpers import assert_close, golden_arrays, to_numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from mrcnn import boxes as numpy_boxes
from mrcnn.box_ops import (
    apply_box_deltas_graph,
    box_refinement_graph,
    clip_boxes_graph,
    denorm_boxes_graph,
    norm_boxes_graph,
    overlaps_graph,
)

pytestmark = pytest.mark.backend

GOLDEN = golden_arrays("layers")
BOXES = ops.convert_to_tensor(GOLDEN["gh_boxes"])
BOXES2 = ops.convert_to_tensor(GOLDEN["gh_boxes2"])


@st.composite
def pixel_boxes(draw, count=6):
    """Boxes with an area, in pixels of an image of 64 x 96, float32 [count, 4]."""
    corner = st.tuples(st.integers(0, 63), st.integers(0, 95))
    size = st.tuples(st.integers(1, 64), st.integers(1, 96))
    rows = []
    for _ in range(count):
        (y, x), (height, width) = draw(corner), draw(size)
        rows.append([y, x, min(y + height, 64), min(x + width, 96)])
    return np.array(rows, np.float32)


def test_golden_deltas():
    deltas = ops.convert_to_tensor(GOLDEN["gh_deltas"])
    assert_close(apply_box_deltas_graph(BOXES, deltas), GOLDEN["gh_apply"], 1e-6)
    assert_close(box_refinement_graph(BOXES[:5], BOXES2), GOLDEN["gh_refine"], 1e-6)


def test_boxes_of_whatever_deltas_lie_in_the_image():
    """As a network's are whose normalisation fails; RoIAlign has no place for what is no number."""
    huge = np.float32([3e38, -3e38, 200, -200])
    deltas = np.stack(np.meshgrid(huge, huge, huge, huge), axis=-1).reshape(-1, 4)
    boxes = np.tile(np.float32([[0.2, 0.3, 0.4, 0.6]]), (len(deltas), 1))
    moved = apply_box_deltas_graph(*map(ops.convert_to_tensor, (boxes, deltas)))
    clipped = to_numpy(clip_boxes_graph(moved, ops.convert_to_tensor(np.float32([0, 0, 1, 1]))))
    assert ((clipped >= 0) & (clipped <= 1)).all()


def test_golden_clipping_is_exact():
    clipped = to_numpy(clip_boxes_graph(BOXES, ops.convert_to_tensor(GOLDEN["gh_window"])))
    np.testing.assert_array_equal(clipped, GOLDEN["gh_clip"])


def test_golden_overlaps():
    assert_close(overlaps_graph(BOXES, BOXES2), GOLDEN["gh_overlaps"], 1e-6)


def test_golden_normalisation():
    assert_close(norm_boxes_graph(BOXES * 100, (100, 120)), GOLDEN["gh_norm"], 1e-6)
    pixels = to_numpy(denorm_boxes_graph(BOXES, (100, 120)))
    assert pixels.dtype == np.int32
    np.testing.assert_array_equal(pixels, GOLDEN["gh_denorm"])


def test_leading_axes_broadcast():
    boxes, deltas = GOLDEN["gh_boxes"].reshape(2, 4, 4), GOLDEN["gh_deltas"].reshape(2, 4, 4)
    moved = apply_box_deltas_graph(ops.convert_to_tensor(boxes), ops.convert_to_tensor(deltas))
    assert_close(moved, GOLDEN["gh_apply"].reshape(2, 4, 4), 1e-6)
    windows = ops.convert_to_tensor(np.array([[[0, 0, 0.5, 1]], [[0.5, 0, 1, 1]]], np.float32))
    clipped = to_numpy(clip_boxes_graph(ops.convert_to_tensor(boxes), windows))
    assert clipped[0, :, [0, 2]].max() <= 0.5 <= clipped[1, :, [0, 2]].min()


@settings(deadline=None, max_examples=30)
@given(boxes=pixel_boxes(), others=pixel_boxes())
def test_numpy_twins_agree(boxes, others):
    tensors = ops.convert_to_tensor(boxes), ops.convert_to_tensor(others)
    assert_close(overlaps_graph(*tensors), numpy_boxes.compute_overlaps(boxes, others), 1e-6)
    normalized = norm_boxes_graph(tensors[0], (64, 96))
    assert_close(normalized, numpy_boxes.norm_boxes(boxes, (64, 96)), 1e-6)
    np.testing.assert_array_equal(to_numpy(denorm_boxes_graph(normalized, (64, 96))), boxes)


@settings(deadline=None, max_examples=30)
@given(boxes=pixel_boxes(), others=pixel_boxes())
def test_refinement_leads_from_one_box_to_the_other(boxes, others):
    boxes, others = ops.convert_to_tensor(boxes), ops.convert_to_tensor(others)
    moved = apply_box_deltas_graph(boxes, box_refinement_graph(boxes, others))
    assert_close(moved, to_numpy(others), 1e-5)


@pytest.mark.parametrize("box", [[0, 0, 0, 0], [0.5, 0.2, 0.5, 0.9]])
def test_boxes_without_area(box):
    flat, whole = np.array([box], np.float32), np.array([[0, 0, 1, 1]], np.float32)
    flat, whole = ops.convert_to_tensor(flat), ops.convert_to_tensor(whole)
    for a, b in ((flat, flat), (flat, whole), (whole, flat)):
        assert to_numpy(overlaps_graph(a, b)) == 0
        assert np.isfinite(to_numpy(box_refinement_graph(a, b))).all()
