"""Drawn images without nuclei."""

import numpy as np
import pytest

from mrcnn_nuclei.datasets import NucleusDataset, blank


def test_kinds_take_turns_and_look_like_what_they_are():
    names, images, labels = zip(*blank.generate(count=30, size=64))
    assert names[:2] == ("blank_000", "blank_001")
    assert all(image.shape == (64, 64, 3) and image.dtype == np.uint8 for image in images)
    assert not np.any(labels)
    glass, dark, tissue = ([image.astype(float) for image in images[k::3]] for k in range(3))
    assert all(image.mean() > 190 and image.std(axis=(0, 1)).max() < 15 for image in glass)
    assert all(image.mean() < 50 and image.std(axis=(0, 1)).max() < 15 for image in dark)
    assert all(np.ptp(image, axis=2).max() < 25 for image in dark)  # no colour but JPEG's
    # A small tile may lie in a hole of the tissue.
    assert np.median([image.std(axis=(0, 1)).max() for image in tissue]) > 15


def test_an_image_depends_on_seed_and_number_only():
    few, many = blank.generate(count=2, size=32), blank.generate(count=5, size=32)
    np.testing.assert_array_equal(few[1][1], many[1][1])
    other = blank.generate(count=2, size=32, seed=1)
    assert (few[0][1] != other[0][1]).any()


def test_written_images_are_an_annotated_data_set(tmp_path):
    paths = blank.write(tmp_path, count=3, size=48)
    assert [path.parent.name for path in paths] == ["images"] * 3
    dataset = NucleusDataset().load(tmp_path)
    assert dataset.names == ["blank_000", "blank_001", "blank_002"]
    labels, class_ids = dataset.load_labels(0)
    assert labels.shape == (48, 48) and not labels.any() and len(class_ids) == 0


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="fog"):
        blank.draw_blank(32, np.random.default_rng(0), "fog")
