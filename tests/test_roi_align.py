"""ROIAlign, against `tf.image.crop_and_resize` and the pyramid layer of the port."""

import numpy as np
import pytest
from backends import compiled
from helpers import assert_close, golden_arrays, to_numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from mrcnn.roi_align import PyramidROIAlign, align, log2_graph, roi_levels

pytestmark = pytest.mark.backend

GOLDEN = golden_arrays("layers")

align_compiled = compiled(align, static_argnames="pool_shape")


def align_one_level(boxes, features, pool_shape):
    """Sample one map, [height, width, C], with boxes [N, 4]."""
    boxes = ops.convert_to_tensor(np.asarray(boxes, np.float32)[None])
    levels = ops.zeros(boxes.shape[:2], dtype="int32")
    features = ops.convert_to_tensor(np.asarray(features, np.float32)[None])
    return to_numpy(align_compiled(boxes, levels, [features], pool_shape))[0]


@pytest.mark.parametrize("size", [7, 14])
def test_golden_pyramid(size):
    maps = [GOLDEN[f"ra_P{level}"] for level in (2, 3, 4, 5)]
    pooled = PyramidROIAlign((size, size))([GOLDEN["ra_boxes"], GOLDEN["ra_meta"], *maps])
    assert_close(pooled, GOLDEN[f"ra_out_{size}"], 1e-5)


@pytest.mark.parametrize("size", [5, 1])
def test_golden_crop_and_resize(size):
    # Boxes inside, partly outside, without area, flipped.
    pooled = align_one_level(GOLDEN["car_boxes"], GOLDEN["car_image"][0], (size, size))
    assert_close(pooled, GOLDEN[f"car_out_{size}x{size}"], 1e-6)


def test_golden_log2():
    numbers = ops.convert_to_tensor([1.0, 2.0, 3.0, 8.0])
    assert_close(log2_graph(numbers), GOLDEN["gh_log2"], 1e-6)


@settings(deadline=None, max_examples=30)
@given(
    corners=st.lists(
        st.tuples(*[st.floats(0, 1, width=32)] * 4),
        min_size=5,
        max_size=5,
    ),
    shape=st.sampled_from([(9, 13), (1, 4), (16, 5)]),
    pool=st.sampled_from([(3, 3), (2, 5), (1, 4)]),
)
def test_a_linear_map_is_sampled_exactly(corners, shape, pool):
    # Bilinear interpolation reproduces y and x themselves, so that each sample tells its place.
    boxes = np.array(corners, np.float32)
    features = np.stack(np.mgrid[: shape[0], : shape[1]], axis=-1)
    sampled = align_one_level(boxes, features, pool)
    for axis in range(2):
        start, stop, last = boxes[:, axis], boxes[:, axis + 2], shape[axis] - 1
        steps = np.linspace(0, 1, pool[axis]) if pool[axis] > 1 else np.array([0.5])
        expected = (start[:, None] + steps * (stop - start)[:, None]) * last
        expected = np.expand_dims(expected, 2 - axis)
        np.testing.assert_allclose(
            sampled[..., axis], np.broadcast_to(expected, sampled.shape[:3]), atol=1e-4
        )


def test_outside_is_zero_but_rounding_is_not_outside():
    ones = np.ones((8, 8, 1))
    assert align_one_level([[0, 0, 1 + 2e-7, 1]], ones, (3, 3)).min() == 1
    assert align_one_level([[-2e-7, 0, 1, 1]], ones, (3, 3)).min() == 1
    beyond = align_one_level([[-0.5, 0, 1.5, 1]], ones, (5, 5))[0, ..., 0]
    np.testing.assert_array_equal(beyond, [[0] * 5, [1] * 5, [1] * 5, [1] * 5, [0] * 5])


@pytest.mark.parametrize(
    ("side", "level"),
    # In an image of 1024 x 1024. P4 takes ROIs of 224 pixels; half an octave to either side.
    [(224, 2), (320, 3), (310, 2), (160, 2), (150, 1), (80, 1), (70, 0), (1, 0), (0, 0), (1024, 3)],
)
def test_level(side, level):
    box = np.array([[0.0, 0.0, side / 1024, side / 1024]], np.float32)
    found = roi_levels(ops.convert_to_tensor(box), ops.convert_to_tensor(1024.0**2), 4)
    assert to_numpy(found).tolist() == [level]
