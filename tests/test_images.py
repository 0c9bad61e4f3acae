"""Resizing and normalisation against Matterport's numbers, hand-worked cases and invariants."""

import json
import random

import numpy as np
import pytest
from helpers import golden_arrays
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn import utils
from mrcnn.config import Config
from mrcnn.errors import InputError

CASES = [
    (tag, mode)
    for tag in ("land", "port", "big")
    for mode in ("none", "square", "square_ms2", "pad64", "pad64_ms15", "crop")
]


class ZScore(Config):
    IMAGE_NORMALIZATION = "zscore"


@pytest.fixture(scope="module")
def numbers():
    return golden_arrays("utils_resize")


def unpack(numbers, key):
    shape = numbers[key + "_shape"]
    return np.unpackbits(numbers[key])[: np.prod(shape)].reshape(shape).astype(bool)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_the_cases_are_all_of_the_golden_file(numbers):
    assert {f"{tag}_{mode}_kw" for tag, mode in CASES} == {k for k in numbers if k.endswith("_kw")}


@pytest.mark.parametrize("tag, mode", CASES)
def test_every_golden_number(numbers, tag, mode):
    prefix = f"{tag}_{mode}_"
    random.seed(1234)
    image, window, scale, padding, crop = utils.resize_image(
        numbers[f"{tag}_image"], **json.loads(str(numbers[prefix + "kw"]))
    )
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, numbers[prefix + "image"])
    np.testing.assert_array_equal(window, numbers[prefix + "window"])
    np.testing.assert_array_equal(padding, numbers[prefix + "padding"])
    np.testing.assert_array_equal([-1] if crop is None else crop, numbers[prefix + "crop"])
    assert scale == numbers[prefix + "scale"]
    assert type(scale) is type(numbers[prefix + "scale"].item())

    masks = unpack(numbers, f"{tag}_mask")
    expected = unpack(numbers, prefix + "mask")
    np.testing.assert_array_equal(utils.resize_mask(masks, scale, padding, crop), expected)
    one = utils.resize_mask(masks[..., 0].astype(np.int32) * 7, scale, padding, crop)
    assert one.dtype == np.int32
    np.testing.assert_array_equal(one, expected[..., 0] * 7)


def test_molding_gives_the_golden_numbers():
    numbers = golden_arrays("model_numpy")
    molded = utils.mold_image(numbers["image"], Config())
    assert molded.dtype == numbers["mold"].dtype
    np.testing.assert_allclose(molded, numbers["mold"], rtol=1e-6)
    np.testing.assert_array_equal(utils.unmold_image(molded, Config()), numbers["unmold"])


def test_upscaling_blends_the_border_with_zero():
    image = np.zeros((4, 4))
    image[:2] = 1
    half = 0.75  # the outermost of the new pixels lie a quarter of an old one beyond its centre
    expected = np.array([half, 1, 1, 0.75, 0.25, 0, 0, 0])
    np.testing.assert_allclose(utils.resize(image, (8, 8))[:, 4], expected)
    np.testing.assert_allclose(utils.resize(image.astype(bool), (8, 8))[:, 4], expected)


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from(["square", "pad64", "crop"]),
    st.sampled_from([None, 1.3]),
    st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_image_and_mask_stay_together(height, width, mode, min_scale, seed):
    image = noise(height, width, seed)
    config = dict(min_dim=40, max_dim=128, min_scale=min_scale, mode=mode)
    out, window, scale, padding, crop = utils.resize_image(
        image, **config, rng=np.random.default_rng(seed)
    )
    y1, x1, y2, x2 = window
    assert out.shape[0] % 64 == 0 and out.shape[1] % 64 == 0
    outside = np.ones(out.shape[:2], bool)
    outside[y1:y2, x1:x2] = False
    assert not out[outside].any()
    labels = utils.resize_mask(np.ones((height, width), np.int32), scale, padding, crop)
    np.testing.assert_array_equal(labels == 0, outside)
    if mode == "crop":
        assert (y2 - y1, x2 - x1) == crop[2:] == (40, 40)
        assert out.shape == (64, 64, 3)


@given(
    st.integers(20, 70),
    st.integers(20, 70),
    st.sampled_from([1.3, 2.0, 2.71]),
    st.booleans(),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_a_crop_is_a_part_of_the_enlarged_image(height, width, scale, flat, seed):
    image = noise(height, width, seed)
    if flat:  # where rounding in another order would show
        image[:, : width // 2] = 255
    out, _, _, _, (y, x, h, w) = utils.resize_image(
        image, 20, min_scale=scale, mode="crop", rng=np.random.default_rng(seed)
    )
    size = (round(height * scale), round(width * scale))
    whole = utils.resize(image, size, preserve_range=True).astype(np.uint8)
    np.testing.assert_array_equal(out[:h, :w], whole[y : y + h, x : x + w])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16])
def test_a_crop_of_any_type_is_a_part_of_the_enlarged_image(dtype):
    image = (noise(40, 50) / 255 * np.array([1, 2, 300])).astype(dtype)
    out, _, _, _, (y, x, h, w) = utils.resize_image(
        image, 30, min_scale=2, mode="crop", rng=np.random.default_rng(0)
    )
    whole = utils.resize(image, (80, 100), preserve_range=True).astype(dtype)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out[:h, :w], whole[y : y + h, x : x + w])


def test_a_crop_is_padded_at_bottom_and_right_to_a_multiple_of_64():
    image = noise(130, 150)
    out, window, scale, padding, (y, x, h, w) = utils.resize_image(
        image, min_dim=100, max_dim=100, mode="crop", rng=np.random.default_rng(3)
    )
    assert out.shape == (128, 128, 3)
    assert window == (0, 0, 100, 100)
    assert padding == [(0, 28), (0, 28), (0, 0)]
    assert scale == 1
    assert (h, w) == (100, 100)
    np.testing.assert_array_equal(out[:100, :100], image[y : y + 100, x : x + 100])


def test_crop_positions_follow_the_generator_or_python_s_random():
    image = noise(130, 150)
    generator = np.random.default_rng(3)
    expected = (int(generator.integers(31)), int(generator.integers(51)), 100, 100)
    rng = np.random.default_rng(3)
    assert utils.resize_image(image, 100, mode="crop", rng=rng)[4] == expected
    random.seed(8)
    expected = (random.randint(0, 30), random.randint(0, 50), 100, 100)
    random.seed(8)
    assert utils.resize_image(image, 100, mode="crop")[4] == expected


@pytest.mark.parametrize(
    "arguments, word",
    [
        (dict(mode="stretch"), "stretch"),
        (dict(mode="crop"), "min_dim"),
        (dict(mode="square", min_dim=64), "max_dim"),
    ],
)
def test_impossible_resizing_is_explained(arguments, word):
    with pytest.raises(InputError, match=word):
        utils.resize_image(noise(9, 9), **arguments)


def test_z_scores_have_mean_zero_and_deviation_one():
    image = noise(70, 50)
    molded = utils.mold_image(image, ZScore())
    assert molded.dtype == np.float32
    np.testing.assert_allclose(molded.mean(axis=(0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(molded.std(axis=(0, 1)), 1, rtol=1e-5)


def test_z_scores_by_hand():
    image = np.array([[[10, 0], [30, 7]]], np.uint8)  # deviations 10 and 3.5
    mean, std = utils.normalize_statistics(image, ZScore())
    np.testing.assert_array_equal(mean, [20, 3.5])
    np.testing.assert_array_equal(std, [10, 3.5])
    np.testing.assert_array_equal(utils.mold_image(image, ZScore()), [[[-1, -1], [1, 1]]])


@given(st.integers(1, 5), st.sampled_from(["uint8", "uint16", "int64", "float32"]))
@settings(max_examples=20, deadline=None)
def test_statistics_are_numpy_s_for_any_channels_and_type(channels, dtype):
    image = np.random.default_rng(channels).integers(0, 256, (8, 9, channels)).astype(dtype)
    view = image[1:, ::2]
    mean, std = utils.normalize_statistics(view, ZScore())
    np.testing.assert_allclose(mean, view.mean(axis=(0, 1), dtype=float), rtol=1e-9)
    np.testing.assert_allclose(std, view.std(axis=(0, 1), dtype=float), rtol=1e-9)


def test_an_empty_field_is_not_blown_up():
    image = np.full((64, 64, 3), 240, np.uint8)
    image[0, 0] = 241
    molded = utils.mold_image(image, ZScore())
    assert np.abs(molded).max() <= 1
    assert np.ptp(molded) == pytest.approx(1)


def test_given_statistics_are_used_and_padding_is_zero():
    whole = noise(130, 150)
    statistics = utils.normalize_statistics(whole, ZScore())
    crop, window, *_, position = utils.resize_image(
        whole, 100, mode="crop", rng=np.random.default_rng(0)
    )
    molded = utils.mold_image(crop, ZScore(), statistics, window)
    y, x = position[:2]
    expected = utils.mold_image(whole, ZScore())[y : y + 100, x : x + 100]
    np.testing.assert_allclose(molded[:100, :100], expected, atol=1e-6)
    assert not molded[100:].any() and not molded[:, 100:].any()

    alone = utils.mold_image(crop, ZScore(), window=window)  # its padding is no part of the image
    np.testing.assert_allclose(alone[:100, :100].mean(axis=(0, 1)), 0, atol=1e-5)


def test_each_image_of_a_batch_has_its_own_statistics():
    batch = np.stack([noise(20, 30, seed) // (seed + 1) for seed in range(3)])
    molded = utils.mold_image(batch, ZScore())
    for image, result in zip(batch, molded):
        np.testing.assert_allclose(result, utils.mold_image(image, ZScore()), atol=1e-6)


def test_unmolding_undoes_molding():
    image = noise(20, 30)
    statistics = utils.normalize_statistics(image, ZScore())
    molded = utils.mold_image(image, ZScore(), statistics)
    np.testing.assert_array_equal(utils.unmold_image(molded, ZScore(), statistics), image)
    picture = utils.unmold_image(molded, ZScore())
    assert picture.dtype == np.uint8
    assert abs(picture.mean() - 128) < 5


def test_statistics_of_mean_pixel_are_its_constants():
    mean, std = utils.normalize_statistics(noise(5, 5), Config())
    np.testing.assert_array_equal(mean, Config.MEAN_PIXEL)
    np.testing.assert_array_equal(std, 1)


def test_unknown_normalisation_is_explained():
    class Unknown(Config):
        IMAGE_NORMALIZATION = "minmax"

    for function in (utils.mold_image, utils.unmold_image, utils.normalize_statistics):
        with pytest.raises(InputError, match="minmax"):
            function(noise(5, 5), Unknown())
