"""Palettes: their colours differ, from each other and from the ground, for any colour vision."""

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from mrcnn.errors import InputError
from mrcnn.palettes import NEIGHBOURHOOD, PALETTES, find_palette, neighbour_indices

# Machado, Oliveira and Fernandes 2009, "A physiologically-based model for simulation of color
# vision deficiency", IEEE TVCG 15(6), table 1, severity 1.0; for linear RGB.
VISIONS = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}

NUCLEI = np.array([(90, 60, 130), (110, 75, 150), (70, 45, 110), (130, 95, 160)])
"""Haematoxylin, from dark to pale: what an outline lies on in stained tissue."""

DARK_FIELD = np.array([(0, 0, 0), (60, 60, 60), (100, 100, 100), (20, 20, 120)])
"""Ground and nuclei of fluorescence, grey and DAPI."""


def seen(levels, vision):
    """CIE Lab of RGB levels, as an eye of this vision sees them."""
    shares = np.asarray(levels) / 255
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ VISIONS[vision].T, 0, 1)
    shares = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb2lab(shares)


def differences(a, b, vision):
    """CIEDE2000 of each colour of `a` with each of `b`."""
    return deltaE_ciede2000(seen(a, vision)[:, None], seen(b, vision)[None])


def test_the_simulation_confuses_what_the_colour_blind_do():
    red, green = [(200, 60, 60)], [(110, 110, 50)]
    assert differences(red, green, "normal") > 30
    assert differences(red, green, "deuteranopia") < 20 > differences(red, green, "protanopia")
    for vision in VISIONS:  # greys look the same to all
        np.testing.assert_allclose(seen([(128, 128, 128)], vision)[0, 1:], 0, atol=0.1)


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize(("name", "least"), [("light", 19), ("dark", 19), ("okabe-ito", 11)])
def test_colours_of_a_palette_differ(name, least, vision):
    palette = PALETTES[name]
    pairs = differences(palette, palette, vision)[np.triu_indices(len(palette), 1)]
    assert pairs.min() >= least


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize(("name", "ground"), [("light", NUCLEI), ("dark", DARK_FIELD)])
def test_a_palette_stands_out_from_its_ground(name, ground, vision):
    assert differences(PALETTES[name], ground, vision).min() >= 25


def test_auto_goes_by_the_ground():
    tissue, field = np.full((9, 9, 3), 200, np.uint8), np.full((9, 9, 3), 9, np.uint8)
    np.testing.assert_array_equal(find_palette("auto", tissue), PALETTES["light"])
    np.testing.assert_array_equal(find_palette("auto", field), PALETTES["dark"])
    np.testing.assert_array_equal(find_palette("dark", tissue), PALETTES["dark"])
    with pytest.raises(InputError, match="choose auto, light, dark, okabe-ito"):
        find_palette("viridis", tissue)


def test_neighbours_differ_and_colours_are_used_evenly():
    boxes = [(y, x, y + 10, x + 10) for y in range(0, 60, 10) for x in range(0, 60, 10)]
    grid = neighbour_indices(boxes, 5).reshape(6, 6)
    assert (grid[1:] != grid[:-1]).all() and (grid[:, 1:] != grid[:, :-1]).all()
    assert np.ptp(np.bincount(grid.ravel(), minlength=5)) <= 4
    far = [(0, x, 10, x + 10) for x in range(0, 200, 10 + NEIGHBOURHOOD + 1)]
    np.testing.assert_array_equal(neighbour_indices(far, 5), np.arange(len(far)) % 5)
    assert len(neighbour_indices(np.zeros((0, 4), int), 5)) == 0
