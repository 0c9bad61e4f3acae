"""Augmentation keeps image and label map registered, and labels exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import hed_from_rgb
from timing import shortest

from mrcnn.errors import InputError
from mrcnn_nuclei.augmentation import Augmentation
from mrcnn_nuclei.datasets.synthetic import draw_tile

PLAIN = {"rotate": False, "flip": False, "blur": 0}


@pytest.fixture(scope="module")
def tile():
    return draw_tile(160, np.random.default_rng(4))


def dihedral(array):
    """The eight turned and flipped copies of a square array."""
    turned = [np.rot90(array, turns) for turns in range(4)]
    return turned + [np.flip(copy, 1) for copy in turned]


def same(first, second):
    return all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def test_crop_is_a_window_of_the_image(tile):
    image, labels = tile
    crop, crop_labels = Augmentation((48, 70), **PLAIN)(image, labels, np.random.default_rng(0))
    windows = np.lib.stride_tricks.sliding_window_view(labels, (48, 70))
    ((y, x),) = np.argwhere((windows == crop_labels).all((2, 3)))
    np.testing.assert_array_equal(crop, image[y : y + 48, x : x + 70])


def test_crops_reach_every_corner(tile):
    image, labels = tile
    labels = np.arange(labels.size, dtype=np.int32).reshape(labels.shape)
    augment = Augmentation(159, **PLAIN)
    corners = {augment(image, labels, np.random.default_rng(seed))[1][0, 0] for seed in range(40)}
    assert corners == {0, 1, 160, 161}


def test_flips_are_exact_and_all_four_occur(tile):
    expected = [tile, *[[np.flip(part, axis) for part in tile] for axis in (0, 1, (0, 1))]]
    augment = Augmentation(160, rotate=False, blur=0)
    seen = set()
    for seed in range(30):
        result = augment(*tile, np.random.default_rng(seed))
        seen |= {index for index, copy in enumerate(expected) if same(result, copy)} or {"other"}
    assert seen == {0, 1, 2, 3}


def test_image_of_the_crop_size_takes_quarter_turns_and_flips_only(tile):
    expected = list(zip(dihedral(tile[0]), dihedral(tile[1])))
    augment = Augmentation(160, scale=(0.5, 1), blur=0)
    seen = set()
    for seed in range(60):
        result = augment(*tile, np.random.default_rng(seed))
        seen |= {index for index, copy in enumerate(expected) if same(result, copy)} or {"other"}
    assert seen == set(range(8))


def test_oblong_image_of_the_crop_size_is_never_laid_across(tile):
    image, labels = (part[:120] for part in tile)
    for seed in range(10):
        augment = Augmentation((120, 160), blur=0)
        _, result = augment(image, labels, np.random.default_rng(seed))
        assert np.array_equal(np.bincount(result.ravel()), np.bincount(labels.ravel()))


def test_image_smaller_than_the_crop_keeps_every_pixel(tile):
    image, labels = (part[:50, :60] for part in tile)
    crop, result = Augmentation(96, blur=0)(image, labels, np.random.default_rng(2))
    np.testing.assert_array_equal(np.bincount(result.ravel())[1:], np.bincount(labels.ravel())[1:])
    np.testing.assert_allclose(crop.mean((0, 1)), image.mean((0, 1)), atol=1)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    crop=st.tuples(st.integers(1, 200), st.integers(1, 200)),
    scale=st.floats(0.5, 2),
)
def test_size_type_and_label_set(tile, seed, crop, scale):
    image, labels = tile
    big = labels.astype(np.int64) * 2**24 // 3  # labels that float32 could not hold
    augment = Augmentation(crop, scale=(scale, scale), noise=4, stain=0.2, brightness=0.1)
    result, result_labels = augment(image, big.astype(np.int32), np.random.default_rng(seed))
    assert result.shape == (*crop, 3) and result.dtype == np.uint8
    assert result_labels.shape == crop and result_labels.dtype == np.int32
    assert np.isin(result_labels, np.append(big, 0)).all()


@pytest.mark.parametrize("scale", [0.7, 1, 1.6])
def test_image_and_labels_stay_registered(scale):
    _, labels = draw_tile(400, np.random.default_rng(8))
    painted = np.repeat(np.uint8(255 * (labels > 0))[..., None], 3, axis=2)
    augment = Augmentation(128, scale=(scale, scale), blur=0)
    overlaps = []
    for seed in range(30):
        image, crop = augment(painted, labels, np.random.default_rng(seed))
        seen, true = image[..., 0] > 127, crop > 0
        overlaps.append((seen & true).sum() / max(1, (seen | true).sum()))
    assert np.mean(overlaps) > 0.97


def test_scale_magnifies():
    labels = np.zeros((300, 300), np.int32)
    labels[140:160, 140:160] = 1
    image = np.zeros((300, 300, 3), np.uint8)
    augment = Augmentation(300, rotate=False, scale=(1.5, 1.5))
    areas = [(augment(image, labels, np.random.default_rng(s))[1] == 1).sum() for s in range(20)]
    assert np.median(areas) == pytest.approx(30 * 30, rel=0.02)


def test_same_generator_state_same_crop(tile):
    augment = Augmentation(96, scale=(0.8, 1.2), noise=5, stain=0.1, brightness=0.1)
    first, again, other = (augment(*tile, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert same(first, again)
    assert not np.array_equal(first[0], other[0])


def test_stain_moves_along_the_stains_only(tile):
    image, labels = tile
    augment = Augmentation(160, **PLAIN, stain=0.3)
    changed, _ = augment(image, labels, np.random.default_rng(1))
    before, after = (-np.log((part + 1.0) / 256) @ hed_from_rgb for part in (image, changed))
    for stain in range(2):
        strong = before[..., stain] > 0.3
        ratio = after[..., stain][strong] / before[..., stain][strong]
        assert abs(np.median(ratio) - 1) <= 0.3
        assert ratio.std() < 0.05


def test_switches_are_off_by_default(tile):
    image, labels = tile
    for seed in range(8):
        sharp = Augmentation(160, blur=0)(image, labels, np.random.default_rng(seed))[0]
        assert any(np.array_equal(sharp, copy) for copy in dihedral(image))


def test_wrong_settings_are_refused():
    with pytest.raises(InputError, match="crop size 0"):
        Augmentation(0)
    with pytest.raises(InputError, match="scale"):
        Augmentation(8, scale=(1.2, 0.8))


def test_only_the_crop_is_computed():
    image, labels = np.zeros((4000, 4000, 3), np.uint8), np.zeros((4000, 4000), np.int32)
    augment = Augmentation(256)
    seconds, _ = shortest(augment, image, labels, np.random.default_rng(0), runs=9, limit=0.03)
    assert seconds < 0.03
