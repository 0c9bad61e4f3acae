"""Images that are blank or dark, and what is done with them."""

import numpy as np
import pytest
from tiny import tiny_preset, write_tiny_weights

from mrcnn_nuclei.config import make_config
from mrcnn_nuclei.contrast import Prepared, enhance, is_blank, is_dark, prepare
from mrcnn_nuclei.datasets import NucleusDataset, blank, synthetic
from mrcnn_nuclei.detector import Detector


def spot(level, other, radius, size=200):
    """A disc on an even ground."""
    y, x = np.ogrid[:size, :size]
    disc = (y - size // 2) ** 2 + (x - size // 2) ** 2 <= radius**2
    return np.dstack([np.where(disc, level, other).astype(np.uint8)] * 3)


def test_one_faint_nucleus_is_enough():
    assert is_blank(np.full((64, 48, 3), 240, np.uint8))
    assert not is_blank(spot(220, 240, radius=8))
    assert not is_blank(spot(25, 5, radius=8))
    assert is_blank(spot(235, 240, radius=8))
    assert is_blank(spot(0, 240, radius=0))  # one dead pixel


def test_the_light_may_change_over_the_image():
    ramp = np.linspace(180, 250, 512)
    assert is_blank(np.dstack([np.tile(ramp, (512, 1))] * 3).astype(np.uint8))


@pytest.mark.parametrize("size", [64, 300, 1000])
def test_drawn_glass_and_dark_fields(size):
    for name, image, _ in blank.generate(count=18, size=size, seed=7):
        kind = blank.KINDS[int(name[-3:]) % len(blank.KINDS)]
        if kind != "tissue":
            assert is_blank(image), name


@pytest.mark.parametrize("folder", ["dsb2018_fluo_sample", "dsb2018_histology", "monuseg"])
def test_fluorescence_is_dark_and_tissue_is_not_and_neither_is_blank(folder, shared):
    dataset = NucleusDataset().load(shared / "data" / folder)
    for image_id in dataset.image_ids:
        image = dataset.load_image(image_id)
        assert not is_blank(image), dataset.names[image_id]
        assert is_dark(image) == ("fluo" in folder), dataset.names[image_id]


def test_dark_images_are_inverted_where_it_is_wanted():
    dark, bright = spot(90, 5, radius=8), spot(90, 240, radius=8)
    config = make_config("compact", {"INVERT_DARK": True})
    np.testing.assert_array_equal(prepare(dark, config), spot(165, 250, radius=8))
    assert prepare(bright, config) is bright
    assert prepare(dark, make_config("compact")) is dark
    config = make_config("compact", {"INVERT_DARK": True, "CLAHE": 2.0})
    np.testing.assert_array_equal(prepare(dark, config), enhance(255 - dark, 2.0))


def test_networks_train_on_what_they_detect_in(tmp_path):
    synthetic.write_tiles(tmp_path, [("a", spot(90, 5, 8), np.eye(200, dtype=int))])
    config = make_config("compact", {"INVERT_DARK": True})
    dataset = Prepared(NucleusDataset().load(tmp_path), config)
    np.testing.assert_array_equal(dataset.load_image(0), 255 - spot(90, 5, 8))
    assert dataset.names == ["a"]


def test_nothing_is_detected_in_a_blank_image(tmp_path):
    with tiny_preset():
        detector = Detector(write_tiny_weights(tmp_path / "tiny.h5"))
        ((_, image, _),) = synthetic.generate(count=1, size=96)
        ((_, glass, _),) = blank.generate(count=1, size=96)
        assert len(detector.detect(image)) > 0
        found = detector.detect(glass)
    assert len(found) == 0 and found.shape == (96, 96) and detector.capped == 0
