"""Matterport's pictures, looked at: they are what they were when somebody found them good.

`python tests/test_visualize_pictures.py` draws the references anew; look at them before they count.
"""

import random
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from discs import touching_discs
from matplotlib.legend import Legend
from matplotlib.text import Text

from mrcnn import visualize
from mrcnn.instances import Instances
from mrcnn.opencv import cv2

REFERENCES = Path(__file__).resolve().parent / "golden" / "visualize"
NAMES = ["BG", "nucleus", "debris"]
SIDE, DPI = 3, 80
"""Inches, and pixels an inch."""

TOLERANCE = 1.5
"""Grey levels, on average over pixels that are blurred a little: lines may lie a fraction aside."""


def scene(count, radii, ground, side=160):
    """Discs of an even colour, and the image that they make on an even ground."""
    labels = touching_discs(np.random.default_rng(0), (side, side), count, radii)
    image = np.full((side, side, 3), ground, np.uint8)
    image[labels > 0] = (110, 75, 150) if ground[0] > 100 else (90, 90, 90)
    return image, Instances.from_label_map(labels)


TISSUE, FIELD = (230, 190, 215), (10, 10, 20)


def figure():
    return plt.subplots(figsize=(SIDE, SIDE), layout="constrained")[1]


def instances(count, radii, ground, **options):
    image, found = scene(count, radii, ground)
    visualize.display_instances(
        image, found.boxes, found.masks, found.class_ids, NAMES, ax=figure(), **options
    )


def differences():
    image, truth = scene(12, (12, 18), TISSUE)
    found = truth[2:].translate(3, 2, truth.shape)
    visualize.display_differences(
        image,
        *(truth.boxes, truth.class_ids, truth.to_dense()),
        *(found.boxes, found.class_ids, found.scores, found.to_dense()),
        NAMES,
        ax=figure(),
        palette="okabe-ito",
    )


def boxes():
    image, found = scene(6, (14, 20), FIELD)
    moved = found.boxes + [4, -3, 2, 5]
    visualize.draw_boxes(
        image,
        *(found.boxes, moved, found.to_dense()),
        visibilities=np.arange(len(found)) % 3,
        ax=figure(),
        palette="auto",
    )


def rois():
    image, found = scene(6, (14, 20), TISSUE)
    np.random.seed(0)  # noqa: NPY002
    masks = np.ones((len(found), 28, 28))
    class_ids = np.arange(len(found)) % 3
    visualize.draw_rois(image, found.boxes + 3, found.boxes, masks, class_ids, NAMES, limit=5)


def top_masks():
    image, found = scene(6, (14, 20), TISSUE)
    class_ids = np.arange(len(found)) % 2 + 1
    visualize.display_top_masks(image, found.to_dense(), class_ids, NAMES, limit=2)


def overlaps():
    table = np.linspace(0, 1, 12).reshape(3, 4)
    visualize.plot_overlaps([1, 1, 2, 1], [1, 2, 1], [0.9, 0.8, 0.7], table, NAMES)


PICTURES = {
    "tissue": lambda: instances(9, (14, 20), TISSUE, palette="auto"),
    "tissue_hundreds": lambda: instances(260, (3, 6), TISSUE, palette="auto"),
    "field_hundreds": lambda: instances(210, (2.9, 5), FIELD, palette="auto", show_bbox=False),
    "okabe_ito": lambda: instances(60, (6, 9), TISSUE, palette="okabe-ito", show_bbox=False),
    "random_hues": lambda: instances(60, (6, 9), TISSUE, show_bbox=False),
    "differences": differences,
    "boxes": boxes,
    "rois": rois,
    "top_masks": top_masks,
    "overlaps": overlaps,
    "precision_recall": lambda: visualize.plot_precision_recall(0.5, [1, 0.5, 0], [0, 0.5, 1]),
}


def draw(name):
    """A picture without its text, which each version of FreeType draws in its own way."""
    random.seed(0)
    with matplotlib.rc_context(matplotlib.rcParamsDefault):
        matplotlib.use("Agg")
        PICTURES[name]()
        drawn = plt.gcf()
        drawn.set_size_inches(SIDE, SIDE)
        for legend in drawn.findobj(Legend):
            legend.set_visible(False)
        for text in drawn.findobj(Text):
            text.set_alpha(0)
            text.set_path_effects([])
        drawn.set_dpi(DPI)
        drawn.canvas.draw()
        pixels = np.array(drawn.canvas.buffer_rgba())[..., :3]
        plt.close("all")
    return pixels


def reference(name):
    return cv2.imread(str(REFERENCES / f"{name}.png"))[..., ::-1]


def difference(a, b):
    """Mean absolute difference of two pictures in grey levels, once blurred."""
    a, b = (cv2.GaussianBlur(x.astype(np.float32), (0, 0), 1) for x in (a, b))
    return np.abs(a - b).mean()


@pytest.mark.parametrize("name", PICTURES)
def test_picture(name):
    assert difference(draw(name), reference(name)) < TOLERANCE


def test_the_comparison_sees_what_an_eye_would(monkeypatch):
    monkeypatch.setattr(visualize, "_add_outlines", lambda *args: None)
    assert difference(draw("tissue_hundreds"), reference("tissue_hundreds")) > 2 * TOLERANCE
    assert difference(reference("okabe_ito"), reference("random_hues")) > 2 * TOLERANCE


if __name__ == "__main__":
    REFERENCES.mkdir(exist_ok=True)
    for each in PICTURES:
        cv2.imwrite(str(REFERENCES / f"{each}.png"), draw(each)[..., ::-1])
