"""Overlay pictures: which pixels change, and to which colours."""

import numpy as np
import pytest
from discs import touching_discs
from skimage.io import imread
from skimage.segmentation import find_boundaries

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn.opencv import cv2
from mrcnn.palettes import PALETTES
from mrcnn_nuclei import overlay
from mrcnn_nuclei.overlay import (
    FALSE,
    FOUND,
    MISSED,
    compare_overlay,
    draw_overlay,
    save_png,
    write,
)


def squares(*corners, size=6, shape=(40, 60)):
    boxes = [(y, x, y + size, x + size) for y, x in corners]
    ones = np.ones(len(boxes))
    return Instances(shape, boxes, ones, ones, [np.ones((size, size), bool)] * len(boxes))


def colours_in(picture):
    return {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}


def test_only_the_rim_of_a_mask_is_painted():
    image = np.full((40, 60, 3), 7, np.uint8)
    instances = squares((10, 20))
    picture = draw_overlay(image, instances)
    changed = (picture != image).any(axis=-1)
    rim = find_boundaries(instances.to_label_map(), mode="inner")
    np.testing.assert_array_equal(changed, rim)
    assert (image == 7).all()
    thick = (draw_overlay(image, instances, thickness=2) != image).any(axis=-1)
    assert thick.sum() == 6 * 6 - 2 * 2


def test_nuclei_at_the_border_and_single_pixels_are_outlined_too():
    image = np.zeros((4, 5, 3), np.uint8)
    labels = np.zeros((4, 5), int)
    labels[:, :3], labels[0, 4] = 1, 2
    changed = draw_overlay(image, Instances.from_label_map(labels)).any(axis=-1)
    np.testing.assert_array_equal(
        changed, [[1, 1, 1, 0, 1], [1, 0, 1, 0, 0], [1, 0, 1, 0, 0], [1, 1, 1, 0, 0]]
    )


def test_touching_nuclei_differ_in_colour():
    grid = [(y, x) for y in range(0, 40, 6) for x in range(0, 60, 6)][:60]
    instances = squares(*grid, shape=(60, 80))
    picture = draw_overlay(np.zeros((60, 80, 3), np.uint8), instances)
    colours = {(y // 6, x // 6): tuple(picture[y, x]) for y, x in grid}
    for (row, col), colour in colours.items():
        assert colours.get((row, col + 1)) != colour and colours.get((row + 1, col)) != colour
    assert colours_in(picture) == {(0, 0, 0), *PALETTES["dark"]}


def test_comparison_tells_found_false_and_missed():
    image = np.full((40, 60, 3), 90, np.uint8)
    truth = squares((2, 2), (2, 20), (2, 40))
    prediction = squares((2, 2), (3, 20), (30, 30), (6, 40))
    picture = compare_overlay(image, truth, prediction)
    assert picture.shape[0] > 40 and picture.shape[1:] == (60, 3)
    drawn = picture[:40]
    assert tuple(drawn[2, 2]) == tuple(drawn[3, 20]) == FOUND
    assert tuple(drawn[30, 30]) == tuple(drawn[6, 40]) == FALSE
    assert tuple(drawn[2, 40]) == MISSED
    assert {FOUND, FALSE, MISSED} <= colours_in(picture[40:])


def test_comparison_with_nothing_on_one_side():
    image = np.zeros((40, 60, 3), np.uint8)
    some, none = squares((2, 2)), squares()
    assert tuple(compare_overlay(image, some, none)[2, 2]) == MISSED
    assert tuple(compare_overlay(image, none, some)[2, 2]) == FALSE
    assert not compare_overlay(image, none, none)[:40].any()


def test_grey_images_become_rgb_and_wrong_ones_are_refused():
    instances = squares((1, 1))
    assert draw_overlay(np.zeros((40, 60), np.uint8), instances).shape == (40, 60, 3)
    with pytest.raises(InputError, match="differ in size"):
        draw_overlay(np.zeros((40, 61, 3), np.uint8), instances)
    with pytest.raises(InputError, match="8-bit"):
        draw_overlay(np.zeros((40, 60, 3)), instances)
    with pytest.raises(InputError, match="needs the image"):
        write("a.png", instances)


def test_png_holds_the_picture_in_rgb(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    save_png(tmp_path / "new" / "a.png", picture)
    np.testing.assert_array_equal(imread(tmp_path / "new" / "a.png"), picture)
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_tissue_stays_visible_under_1862_nuclei(monuseg):
    name = "TCGA-HE-7130-01Z-00-DX1"
    image = imread(monuseg / "train" / f"{name}.tif")
    instances = Instances.from_label_map(imread(monuseg / "labels" / f"{name}.png"))
    changed = (draw_overlay(image, instances) != image).any(axis=-1)
    # Nuclei cover 29 % of this image; the lines leave more than half of that free.
    assert 0.03 < changed.mean() < 0.145
    assert not changed[instances.to_label_map() == 0].any()


def test_a_large_image_is_shown_reduced():
    rng = np.random.default_rng(0)
    labels = touching_discs(rng, (1000, 700), 300, (8, 14))
    nuclei = Instances.from_label_map(labels)
    image = np.full((*labels.shape, 3), 200, np.uint8)
    image[:, :352] = 100
    picture = overlay.draw_reduced_overlay(image, nuclei, 250)
    assert picture.shape == (250, 175, 3)
    drawn = (picture != cv2.resize(image, (175, 250), interpolation=cv2.INTER_AREA)).any(axis=2)
    # Outlines are where pixels have an edge of a nucleus in them, and only there.
    edges = np.zeros_like(labels, bool)
    edges[1:] |= labels[1:] != labels[:-1]
    edges[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    for border in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        edges[border] |= labels[border] > 0
    near = cv2.dilate(edges.astype(np.uint8), np.ones((5, 5), np.uint8))
    cells = near.reshape(250, 4, 175, 4).max(axis=(1, 3))
    assert not drawn[cells == 0].any()
    assert drawn[edges.reshape(250, 4, 175, 4).sum(axis=(1, 3)) >= 4].mean() > 0.9


def test_an_overlay_goes_by_bands(tmp_path, monkeypatch):
    labels = touching_discs(np.random.default_rng(1), (300, 200), 60, (5, 9))
    nuclei = Instances.from_label_map(labels)
    nuclei = nuclei[np.argsort(nuclei.boxes[:, 0], kind="stable")]
    image = np.full((*labels.shape, 3), 200, np.uint8)

    class Bands:
        shape = nuclei.shape

        def bands(self):
            for k in range(0, len(nuclei), 10):
                yield int(nuclei.boxes[k, 0]), nuclei[k : k + 10]

    monkeypatch.setattr(overlay, "MAX_SIDE", 100)
    overlay.write(tmp_path / "a.png", Bands(), image)
    picture = cv2.imread(str(tmp_path / "a.png"))[..., ::-1]
    assert picture.shape == (100, 67, 3)
    drawn = (picture != 200).any(axis=2)
    np.testing.assert_array_equal(
        drawn, (overlay.draw_reduced_overlay(image, nuclei, 100) != 200).any(axis=2)
    )
    with pytest.raises(InputError, match="differ in size"):
        overlay.draw_reduced_overlay(image[:-1], nuclei, 100)
