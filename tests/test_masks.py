"""Masks against Matterport's numbers, hand-worked cases and invariants."""

import numpy as np
import pytest
import skimage.transform
from helpers import golden_arrays
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mrcnn import utils
from mrcnn.config import Config

SHAPE = (80, 90, 3)


def unpack(packed, shape):
    return np.unpackbits(packed)[: np.prod(shape)].reshape(shape).astype(bool)


@pytest.fixture(scope="module")
def numbers():
    return golden_arrays("utils_masks")


@pytest.fixture(scope="module")
def stacks(numbers):
    """The two stacks of the golden file; the last mask of the first is empty."""
    return tuple(unpack(numbers[k], numbers[k + "_shape"]) for k in ("masks1", "masks2"))


def stack_strategy(count):
    return hnp.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(count)))


def test_every_golden_number(numbers, stacks):
    masks, others = stacks
    boxes = utils.extract_bboxes(masks)
    assert boxes.dtype == np.int32
    five, five_boxes = masks[..., :5], boxes[:5]
    mini = utils.minimize_mask(five_boxes, five, (56, 56))
    exact = {
        "extract_bboxes": boxes,
        "minimize_56": np.packbits(mini),
        "minimize_28": np.packbits(utils.minimize_mask(five_boxes, five, (28, 28))),
        "expand_56": np.packbits(utils.expand_mask(five_boxes, mini, SHAPE)),
        "unmold": np.stack(
            [
                np.packbits(utils.unmold_mask(soft, box, SHAPE))
                for soft, box in zip(numbers["soft_masks"], numbers["unmold_boxes"])
            ]
        ),
        "overlaps_masks": utils.compute_overlaps_masks(five, others),
        "overlaps_masks_empty": utils.compute_overlaps_masks(five[..., :0], others),
    }
    inputs = {"masks1", "masks1_shape", "masks2", "masks2_shape", "soft_masks", "unmold_boxes"}
    assert set(exact) == set(numbers) - inputs
    for key, result in exact.items():
        np.testing.assert_array_equal(result, numbers[key], key)


def test_crops_give_what_whole_frames_give(numbers, stacks):
    masks = stacks[0][..., :5]
    boxes = utils.extract_bboxes(masks)
    mini = utils.minimize_mask(boxes, masks, (28, 28))
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        crop = masks[y1:y2, x1:x2, i]
        np.testing.assert_array_equal(utils.minimize_crop(crop, (28, 28)), mini[..., i])
    for soft, box in zip(numbers["soft_masks"], numbers["unmold_boxes"]):
        y1, x1, y2, x2 = box
        pasted = utils.paste_mask(soft, box, 0.35)
        assert pasted.dtype == bool
        assert pasted.shape == (y2 - y1, x2 - x1)
        full = utils.unmold_mask(soft, box, SHAPE, threshold=0.35)
        np.testing.assert_array_equal(full[y1:y2, x1:x2], pasted)
        assert full.sum() == pasted.sum()


@given(
    hnp.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
)
@settings(max_examples=150, deadline=None)
def test_mini_masks_are_scikit_image_s_to_the_pixel(crop, shape):
    expected = skimage.transform.resize(
        crop.astype(float), shape, order=1, mode="constant", anti_aliasing=False
    )
    np.testing.assert_array_equal(utils.minimize_crop(crop, shape), np.around(expected) == 1)


@given(
    hnp.arrays(np.float32, (14, 14), elements=st.floats(0, 1, width=32)),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.floats(0.05, 0.95),
)
@settings(max_examples=100, deadline=None)
def test_pasted_masks_are_scikit_image_s_but_for_rounding(mask, shape, threshold):
    expected = skimage.transform.resize(mask, shape, order=1, mode="constant", anti_aliasing=False)
    differs = utils.paste_mask(mask, (0, 0, *shape), threshold) != (expected >= threshold)
    assert (np.abs(expected[differs] - threshold) < 1e-6).all()


@given(stack_strategy(3), st.integers(1, 255))
@settings(max_examples=60, deadline=None)
def test_boxes_are_the_tightest(masks, value):
    boxes = utils.extract_bboxes(masks.astype(np.uint8) * value)
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        ys, xs = np.nonzero(masks[..., i])
        tightest = (ys.min(), xs.min(), ys.max() + 1, xs.max() + 1) if len(ys) else (0, 0, 0, 0)
        assert (y1, x1, y2, x2) == tightest


@given(stack_strategy(3), st.data())
@settings(max_examples=60, deadline=None)
def test_overlaps_are_those_of_whole_frames(masks1, data):
    masks2 = data.draw(hnp.arrays(bool, (*masks1.shape[:2], 2)))
    overlaps = utils.compute_overlaps_masks(masks1, masks2)
    for i in range(3):
        for j in range(2):
            both = (masks1[..., i] & masks2[..., j]).sum()
            either = (masks1[..., i] | masks2[..., j]).sum()
            assert overlaps[i, j] == (np.float32(both / either) if either else 0)


def test_overlaps_of_probabilities_count_what_exceeds_a_half():
    masks = np.zeros((4, 4, 1), np.float32)
    masks[1:3, 1:3] = 0.6
    masks[0] = 0.5
    square = np.zeros((4, 4, 1), bool)
    square[1:3, 1:4] = True
    np.testing.assert_array_equal(
        utils.compute_overlaps_masks(masks, square), [[np.float32(4 / 6)]]
    )


def test_nothing():
    none = np.zeros((0, 0, 0), bool)
    assert utils.extract_bboxes(none).shape == (0, 4)
    assert utils.compute_overlaps_masks(none, none).shape == (0, 0)
    assert utils.minimize_mask(np.zeros((0, 4), int), none, (28, 28)).shape == (28, 28, 0)
    assert utils.expand_mask(np.zeros((0, 4), int), none, (5, 6, 3)).shape == (5, 6, 0)
    assert utils.resize_mask(np.zeros((5, 6, 0), bool), 2, [(0, 0)] * 3).shape == (10, 12, 0)


def test_masks_are_not_copied_where_they_need_not_be():
    masks = np.zeros((20, 30, 2), bool)
    masks.setflags(write=False)
    part = utils.resize_mask(masks, 1, [(0, 0)] * 3, crop=(2, 3, 10, 11))
    assert part.shape == (10, 11, 2) and np.shares_memory(part, masks)
    assert not np.shares_memory(utils.resize_mask(masks, 1, [(0, 1), (0, 0), (0, 0)]), masks)


def test_a_box_without_area():
    with pytest.raises(ValueError, match="area"):
        utils.minimize_mask(np.array([[3, 3, 3, 8]]), np.ones((9, 9, 1), bool), (28, 28))
    assert not utils.expand_mask(np.array([[0, 0, 0, 0]]), np.ones((28, 28, 1)), (5, 5)).any()
    assert utils.paste_mask(np.ones((28, 28), np.float32), (3, 3, 3, 8), 0.5).shape == (0, 5)


def test_a_single_pixel_survives_minimising():
    assert utils.minimize_crop(np.ones((1, 1), bool), (28, 28)).all()


def test_molded_masks_have_the_shape_of_the_mask_head(stacks):
    masks = stacks[0][..., :5]
    boxes = utils.extract_bboxes(masks)
    np.testing.assert_array_equal(
        utils.mold_mask(masks, Config()), utils.minimize_mask(boxes, masks, (28, 28))
    )


def test_hundreds_of_masks_need_little_memory():
    import tracemalloc

    masks = np.zeros((500, 500, 200), bool)
    for i in range(200):
        y, x = divmod(i, 20)
        masks[20 * y : 20 * y + 24, 20 * x : 20 * x + 24, i] = True
    tracemalloc.start()
    overlaps = utils.compute_overlaps_masks(masks, masks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < masks.nbytes / 20
    np.testing.assert_array_equal(np.diag(overlaps), 1)
    assert overlaps[0, 1] == np.float32(4 * 24 / (2 * 24 * 24 - 4 * 24))
    assert np.count_nonzero(overlaps) == (3 * 20 - 2) * (3 * 10 - 2)
