"""The embedded set is exact, reproducible, quick to draw, and too hard for a threshold."""

import warnings

import numpy as np
import pytest
from scipy import ndimage
from skimage import color, filters, io, measure
from timing import shortest

from mrcnn_nuclei.datasets import synthetic


@pytest.fixture(scope="module")
def tiles():
    return synthetic.generate(12, 256, seed=0)


def touching(labels):
    """Labels with a pixel of another label among the eight neighbours of one of their own."""
    found = set()
    padded = np.pad(labels, 1)
    height, width = labels.shape
    for dy in range(3):
        for dx in range(3):
            other = padded[dy : dy + height, dx : dx + width]
            found |= set(labels[(labels > 0) & (other > 0) & (other != labels)])
    return found


def otsu(channel):
    """Otsu's threshold, connected components, no specks under 10 pixels."""
    components = measure.label(channel > filters.threshold_otsu(channel))
    small = np.bincount(components.ravel()) < 10
    return measure.label(np.where(small[components], 0, components))


def aji(truth, prediction):
    """Aggregated Jaccard index, from algorithm 1 of Kumar et al. 2017."""
    table = np.zeros((truth.max() + 1, prediction.max() + 1))
    np.add.at(table, (truth, prediction), 1)
    area, predicted = table.sum(1), table.sum(0)
    intersection = union = 0
    used = {0}
    for nucleus in range(1, len(area)):
        common = table[nucleus].copy()
        common[0] = 0
        best = np.argmax(common / (area[nucleus] + predicted - common))
        intersection += common[best]
        union += area[nucleus] + (predicted[best] - common[best] if common[best] else 0)
        used |= {best} if common[best] else set()
    union += sum(pixels for index, pixels in enumerate(predicted) if index not in used)
    return intersection / union


def test_aji_of_a_hand_worked_case():
    truth = np.array([[1, 1, 0, 2, 2, 0]])
    prediction = np.array([[1, 1, 1, 0, 0, 2]])
    assert aji(truth, prediction) == 2 / (3 + 2 + 1)


def test_form(tiles):
    assert [name for name, _, _ in tiles] == [f"synthetic_{index:03d}" for index in range(12)]
    for _, image, labels in tiles:
        assert image.shape == (256, 256, 3) and image.dtype == np.uint8
        assert labels.shape == (256, 256) and labels.dtype == np.int32
        np.testing.assert_array_equal(np.unique(labels), np.arange(labels.max() + 1))


def test_same_seed_same_tiles_whatever_the_count(tiles):
    (_, image, labels), *_ = synthetic.generate(1, 256, seed=0)
    np.testing.assert_array_equal(image, tiles[0][1])
    np.testing.assert_array_equal(labels, tiles[0][2])
    assert not np.array_equal(image, synthetic.generate(1, 256, seed=1)[0][1])
    assert not np.array_equal(image, tiles[1][1])


def test_density_is_that_of_tissue(tiles):
    counts = [labels.max() for _, _, labels in tiles]
    assert 55 <= np.mean(counts) <= 95
    cover = [(labels > 0).mean() for _, _, labels in tiles]
    assert 0.12 <= np.mean(cover) <= 0.45


def test_sizes_and_shapes_vary_as_in_tissue(tiles):
    nuclei = [
        region
        for _, _, labels in tiles
        for region in measure.regionprops(labels)
        if min(region.bbox[:2]) > 0 and max(region.bbox[2:]) < 256
    ]
    areas = [region.area for region in nuclei]
    elongation = [region.axis_major_length / region.axis_minor_length for region in nuclei]
    assert np.percentile(areas, 5) < 90 and np.percentile(areas, 95) > 400
    assert np.mean(np.array(elongation) > 2.2) > 0.05


def test_a_fifth_of_the_nuclei_or_more_touch_another(tiles):
    for _, _, labels in tiles:
        assert len(touching(labels)) >= 0.2 * labels.max()


def test_no_nucleus_is_cut_in_two_by_another(tiles):
    for _, _, labels in tiles:
        for label, window in enumerate(ndimage.find_objects(labels), start=1):
            mask = labels[window] == label
            inner = window[0].start > 0 and window[1].start > 0
            if inner and window[0].stop < 256 and window[1].stop < 256:
                assert ndimage.label(mask)[1] == 1


def test_nuclei_are_darker_in_haematoxylin_than_what_surrounds_them(tiles):
    for _, image, labels in tiles:
        haematoxylin = color.rgb2hed(image)[..., 0]
        assert haematoxylin[labels > 0].mean() > 1.5 * haematoxylin[labels == 0].mean()


def test_threshold_and_components_fail(tiles):
    scores = [
        max(
            aji(labels, otsu(color.rgb2hed(image)[..., 0])),
            aji(labels, otsu(1 - color.rgb2gray(image))),
        )
        for _, image, labels in tiles
    ]
    assert 0.2 < np.mean(scores) < 0.4


def test_empty_and_dense_tiles():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image, labels = synthetic.draw_tile(96, np.random.default_rng(0), nuclei=0)
        assert not labels.any() and image.std() > 5
        _, labels = synthetic.draw_tile(256, np.random.default_rng(0), nuclei=300)
    assert labels.max() > 220


def test_written_files_read_back(tmp_path):
    paths = synthetic.write(tmp_path, count=2, size=64, seed=3)
    for path, (name, image, labels) in zip(paths, synthetic.generate(2, 64, seed=3)):
        assert path == tmp_path / "images" / f"{name}.png"
        np.testing.assert_array_equal(io.imread(path), image)
        stored = io.imread(tmp_path / "labels" / f"{name}.png")
        assert stored.dtype == np.uint16
        np.testing.assert_array_equal(stored, labels)
    assert len(list(tmp_path.rglob("*.*"))) == 4


def test_a_tile_is_drawn_in_a_fraction_of_a_second():
    rng = np.random.default_rng(0)
    seconds, _ = shortest(synthetic.draw_tile, 256, rng, runs=5, limit=0.3)
    assert seconds < 0.3
