"""Tissue is told from glass, and its brightness measured at full resolution."""

import numpy as np
import pytest

from mrcnn_nuclei.datasets.synthetic import draw_tile
from mrcnn_nuclei.slides import Picture, open_slide
from mrcnn_nuclei.tissue import REDUCTION, find_tissue, tissue_statistics


@pytest.fixture(scope="module")
def tile():
    return draw_tile(512, np.random.default_rng(3))[0]


def on_glass(tile, glass=(238, 240, 239)):
    """A piece of tissue in the middle of glass with a scanner's noise."""
    image = np.random.default_rng(0).normal(glass, 4, (2048, 2048, 3)).clip(0, 255)
    image[768:1280, 768:1280] = tile
    return image.astype(np.uint8)


@pytest.mark.parametrize("glass", [(238, 240, 239), (255, 255, 255), (221, 219, 224)])
def test_tissue_is_found_with_a_margin_and_glass_is_not(tile, glass):
    mask = find_tissue(Picture(on_glass(tile, glass)))
    assert mask.shape == (2048 // REDUCTION, 2048 // REDUCTION)
    assert mask[24:40, 24:40].mean() > 0.97
    far = np.ones_like(mask)
    far[20:44, 20:44] = False
    assert not mask[far].any()


def test_tissue_from_edge_to_edge_is_not_parted(tile):
    assert find_tissue(Picture(np.tile(tile, (4, 4, 1)))).mean() > 0.97


def test_real_tissue_is_found(monuseg):
    for path in sorted((monuseg / "train").glob("*.tif"))[::10]:
        assert find_tissue(open_slide(path)).mean() > 0.9


def test_what_is_dark_or_grey_is_looked_at():
    grey = np.full((640, 640, 3), 100, np.uint8)
    assert find_tissue(Picture(grey)).all()
    assert not find_tissue(Picture(grey + 130)).any()


def test_statistics_are_those_of_the_tissue(tile):
    slide = Picture(on_glass(tile))
    mask = np.zeros((64, 64), bool)
    mask[24:40, 24:40] = True
    mean, deviation = tissue_statistics(slide, mask, 1.0)
    pixels = tile.reshape(-1, 3).astype(float)
    np.testing.assert_allclose(mean, pixels.mean(axis=0), atol=1)
    np.testing.assert_allclose(deviation, pixels.std(axis=0), atol=1)
    again, _ = tissue_statistics(slide, mask, 1.0)
    np.testing.assert_array_equal(mean, again)
    assert tissue_statistics(slide, np.zeros_like(mask), 1.0) is None


def test_statistics_are_of_what_the_network_sees(tile):
    slide = Picture(on_glass(tile))
    mask = np.zeros((64, 64), bool)
    mask[24:40, 24:40] = True
    reduced = tile.reshape(128, 4, 128, 4, 3).mean(axis=(1, 3))
    _, deviation = tissue_statistics(slide, mask, 0.25)
    np.testing.assert_allclose(deviation, reduced.std(axis=(0, 1)), atol=1)
    assert (deviation < tile.std(axis=(0, 1)) - 1).all()
    inverted, _ = tissue_statistics(slide, mask, 0.25, lambda image: 255 - image)
    np.testing.assert_allclose(inverted, 255 - reduced.mean(axis=(0, 1)), atol=1)
