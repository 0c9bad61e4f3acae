"""Nuclei brought to another resolution, and kept in files, are the same nuclei."""

import numpy as np
import pytest
from discs import touching_discs
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn.instances import Instances
from mrcnn_nuclei import instance_files
from mrcnn_nuclei.resolution import network_scale, rescale, scaled_shape


def test_scales_by_hand():
    assert network_scale(0.5, 0.25) == 2
    assert network_scale(0.125, 0.25) == 0.5
    assert network_scale(None, 0.25) == 1
    assert network_scale(0.2277, 0.25) == network_scale(0.2738, 0.25) == 1
    assert network_scale(0.2, 0.25) == 0.8
    assert scaled_shape((1000, 3), 0.1) == (100, 1)


@pytest.mark.parametrize("factor", [2, 3])
def test_whole_factors_and_back(factor):
    labels = touching_discs(np.random.default_rng(0), (150, 130), 40, (5, 12))
    nuclei = Instances.from_label_map(labels)
    large = rescale(nuclei, tuple(factor * side for side in labels.shape))
    np.testing.assert_allclose(large.areas, factor**2 * nuclei.areas, rtol=0.15)
    back = rescale(large, labels.shape)
    assert len(back) == len(nuclei)
    changed = (back.to_dense() != nuclei.to_dense()).sum(axis=(0, 1))
    assert (changed <= 0.05 * nuclei.areas).all()


@given(st.integers(0, 2**32 - 1), st.floats(0.3, 3))
@settings(max_examples=25, deadline=None)
def test_boxes_scores_and_centres_go_along(seed, scale):
    rng = np.random.default_rng(seed)
    nuclei = Instances.from_label_map(touching_discs(rng, (120, 90), 15, (6, 12)))
    nuclei = Instances(nuclei.shape, nuclei.boxes, rng.random(15), nuclei.class_ids, nuclei.masks)
    shape = scaled_shape(nuclei.shape, scale)
    moved = rescale(nuclei, shape)
    assert moved.shape == shape
    np.testing.assert_array_equal(moved.scores, nuclei.scores)
    for k in range(len(nuclei)):
        before = np.argwhere(nuclei.masks[k]).mean(axis=0) + nuclei.boxes[k, :2] + 0.5
        after = np.argwhere(moved.masks[k]).mean(axis=0) + moved.boxes[k, :2] + 0.5
        assert np.abs(after - before * np.divide(shape, nuclei.shape)).max() < 0.75


def test_what_vanishes_is_gone():
    dot = Instances((100, 100), [(50, 50, 51, 51)], [1], [1], [np.ones((1, 1), bool)])
    assert len(rescale(dot, (10, 10))) == 0
    assert len(rescale(Instances.empty((100, 100)), (10, 10))) == 0


@given(st.integers(0, 2**32 - 1), st.integers(0, 20))
@settings(max_examples=25, deadline=None)
def test_files_give_back_what_was_packed(tmp_path_factory, seed, count):
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 50, (count, 2))
    boxes = np.concatenate([corners, corners + rng.integers(0, 40, (count, 2))], axis=1)
    masks = [rng.random((y2 - y1, x2 - x1)) > 0.5 for y1, x1, y2, x2 in boxes]
    found = Instances((90, 95), boxes, rng.random(count), rng.integers(1, 4, count), masks)
    path = tmp_path_factory.mktemp("files") / "a.npz"
    path.write_bytes(instance_files.pack(found))
    read = instance_files.read(path)
    assert read.shape == found.shape
    for name in ("boxes", "scores", "class_ids"):
        np.testing.assert_array_equal(getattr(read, name), getattr(found, name))
    for one, other in zip(read.masks, found.masks, strict=True):
        np.testing.assert_array_equal(one, other)
