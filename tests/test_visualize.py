"""Matterport's pictures: what is drawn where, and that hundreds of instances stay affordable."""

import inspect
import random
import time

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from mrcnn import visualize
from mrcnn.instances import Instances

NAMES = ["BG", "nucleus", "debris"]


@pytest.fixture(autouse=True)
def no_windows(monkeypatch):
    """Count calls of plt.show, and leave no figure behind."""
    shown = []
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: shown.append(1))
    monkeypatch.setattr(matplotlib, "get_backend", lambda: "inline")
    yield shown
    plt.close("all")


@pytest.fixture
def ax():
    return plt.subplots()[1]


def scene():
    """A dark image with two overlapping instances."""
    image = np.full((30, 40, 3), 50, np.uint8)
    masks = np.zeros((30, 40, 2), bool)
    masks[5:15, 5:15, 0] = masks[10:25, 12:30, 1] = True
    boxes = np.array([[5, 5, 15, 15], [10, 12, 25, 30]])
    return image, boxes, masks, np.array([1, 2])


def texts(ax):
    return [text.get_text() for text in ax.texts]


def collections(ax):
    return [c for c in ax.collections if isinstance(c, PolyCollection)]


def test_signatures_are_matterports():
    parameters = {
        name: list(inspect.signature(getattr(visualize, name)).parameters)
        for name in ("display_instances", "display_differences", "draw_boxes", "draw_rois")
    }
    assert " ".join(parameters["display_instances"]) == (
        "image boxes masks class_ids class_names scores title figsize ax show_mask show_bbox "
        "colors captions palette"
    )
    assert " ".join(parameters["display_differences"]) == (
        "image gt_box gt_class_id gt_mask pred_box pred_class_id pred_score pred_mask class_names "
        "title ax show_mask show_box iou_threshold score_threshold palette"
    )
    assert " ".join(parameters["draw_boxes"]) == (
        "image boxes refined_boxes masks captions visibilities title ax palette"
    )
    assert " ".join(parameters["draw_rois"]) == (
        "image rois refined_rois mask class_ids class_names limit palette"
    )


def test_random_colors():
    random.seed(3)
    colors = visualize.random_colors(3)
    assert sorted(colors) == [(0, 0, 1), (0, 1, 0), (1, 0, 0)]
    random.seed(3)
    assert visualize.random_colors(3) == colors
    assert max(max(color) for color in visualize.random_colors(4, bright=False)) == 0.7
    assert visualize.random_colors(0) == []


def test_apply_mask_by_hand():
    image = np.full((2, 2, 3), 100, np.uint8)
    mask = np.array([[1, 0], [0, 1]])
    result = visualize.apply_mask(image, mask, (1, 0, 0.5))
    assert result is image
    # 100 / 2 + (255, 0, 127.5) / 2
    assert result[0, 0].tolist() == result[1, 1].tolist() == [177, 50, 113]
    assert result[0, 1].tolist() == [100, 100, 100]
    assert visualize.apply_mask(image, mask, (0, 0, 1), alpha=1)[0, 0].tolist() == [0, 0, 255]


def test_draw_box_by_hand():
    image = visualize.draw_box(np.zeros((10, 10, 3), np.uint8), (2, 3, 6, 7), (9, 8, 7))
    painted = np.zeros((10, 10), bool)
    painted[2:4, 3:7] = painted[6:8, 3:7] = painted[2:6, 3:5] = painted[2:6, 7:9] = True
    np.testing.assert_array_equal(image.any(axis=-1), painted)
    assert image[2, 3].tolist() == [9, 8, 7]


def test_display_instances_draws_masks_boxes_outlines_and_captions(ax, no_windows):
    image, boxes, masks, class_ids = scene()
    colors = [(1, 0, 0), (0, 1, 0)]
    visualize.display_instances(
        image, boxes, masks, class_ids, NAMES, scores=[0.5, 0.25], title="t", ax=ax, colors=colors
    )
    assert no_windows == [] and ax.get_title() == "t"
    assert texts(ax) == ["nucleus 0.500", "debris 0.250"]
    pixels = ax.images[0].get_array()
    assert pixels[6, 6].tolist() == [152, 25, 25] and pixels[24, 29].tolist() == [25, 152, 25]
    assert pixels[0, 0].tolist() == [50, 50, 50] and (image == 50).all()
    box_lines, outlines = collections(ax)
    for collection, shift in [(box_lines, 0), (outlines, -0.5)]:
        paths = collection.get_paths()
        assert len(paths) == 2
        np.testing.assert_array_equal(paths[0].vertices.min(axis=0), np.array([5, 5]) + shift)
        np.testing.assert_array_equal(paths[1].vertices.max(axis=0), np.array([30, 25]) + shift)


def test_display_instances_options(ax, no_windows):
    image, boxes, masks, class_ids = scene()
    boxes = np.concatenate([boxes, np.zeros((1, 4), int)])
    masks = np.concatenate([masks, np.zeros((30, 40, 1), bool)], axis=2)
    visualize.display_instances(
        image,
        boxes,
        masks,
        [1, 2, 1],
        NAMES,
        ax=ax,
        show_mask=False,
        show_bbox=False,
        captions=["a", None, "c"],
    )
    assert texts(ax) == ["a"] and len(collections(ax)) == 1
    assert (ax.images[0].get_array() == 50).all()
    visualize.display_instances(image, boxes, masks, [1, 2, 1], NAMES)
    assert no_windows == [1]
    with pytest.raises(ValueError, match="differ in number"):
        visualize.display_instances(image, boxes, masks, class_ids, NAMES, ax=ax)


def test_display_instances_without_instances(ax, capsys):
    image = scene()[0]
    visualize.display_instances(image, np.zeros((0, 4)), np.zeros((30, 40, 0)), [], NAMES, ax=ax)
    assert "No instances" in capsys.readouterr().out and len(ax.images) == 1


def test_hundreds_of_instances_are_drawn_from_their_crops(ax):
    labels = np.kron(np.arange(1, 901).reshape(30, 30), np.ones((33, 33), int))
    labels[::33] = labels[:, ::33] = 0
    instances = Instances.from_label_map(labels)
    image = np.zeros((*labels.shape, 3), np.uint8)
    start = time.thread_time()
    visualize.display_instances(
        image, instances.boxes, instances.masks, instances.class_ids, NAMES, ax=ax
    )
    ax.figure.canvas.draw()
    assert time.thread_time() - start < 10
    assert texts(ax) == [] and len(ax.patches) == 0
    assert [len(collection.get_paths()) for collection in collections(ax)] == [900, 900]


def test_display_differences_pairs_captions_with_predictions(ax):
    image, boxes, masks, class_ids = scene()
    # The better prediction comes second, and a row of padding last.
    pred_masks = np.zeros((30, 40, 3), bool)
    pred_masks[10:25, 12:30, 1] = pred_masks[5:10, 5:15, 0] = True
    pred_boxes = np.array([[5, 5, 10, 15], [10, 12, 25, 30], [0, 0, 0, 0]])
    visualize.display_differences(
        image,
        boxes,
        class_ids,
        masks,
        pred_boxes,
        np.array([1, 2, 0]),
        np.array([0.7, 0.9, 0]),
        pred_masks,
        NAMES,
        ax=ax,
    )
    assert texts(ax) == ["0.90 / 1.00", "0.70 / 0.50"]
    outlines = collections(ax)[1]
    np.testing.assert_allclose(outlines.get_edgecolor()[[0, 3]], [[0, 1, 0, 0.8], [1, 0, 0, 1]])


def test_display_images_makes_a_grid(no_windows):
    images = [np.zeros((4, 4)), np.zeros((4, 4, 3), np.int32), np.full((4, 4, 3), 0.5)]
    visualize.display_images(images, titles=["a", "b", "c"], cols=2, cmap="gray")
    axes = plt.gcf().axes
    assert [one.get_title() for one in axes] == ["a", "b", "c"] and no_windows == [1]
    assert axes[2].get_subplotspec().get_geometry()[:2] == (2, 2)
    assert axes[2].images[0].get_array().max() == 0.5


def test_display_top_masks_orders_classes_by_area():
    image, _, masks, class_ids = scene()
    visualize.display_top_masks(image, masks, class_ids, NAMES, limit=3)
    axes = plt.gcf().axes
    assert [one.get_title() for one in axes] == ["H x W=30x40", "debris", "nucleus", "-"]
    np.testing.assert_array_equal(axes[1].images[0].get_array() > 0, masks[..., 1])


def test_draw_boxes(ax, no_windows):
    image, boxes, masks, _ = scene()
    visualize.draw_boxes(
        image, boxes, boxes + 1, masks, ["a", "b"], visibilities=[0, 2], title="t", ax=ax
    )
    # A grey box, and a solid one with its refined box and the line between them.
    assert len(ax.patches) == 3 and len(ax.lines) == 1 and texts(ax) == ["a", "b"]
    assert ax.patches[0].get_linestyle() in ("dotted", ":")
    assert ax.patches[2].get_xy() == (13, 11) and ax.patches[2].get_height() == 15
    assert len(collections(ax)[0].get_paths()) == 2 and no_windows == []
    visualize.draw_boxes(image, refined_boxes=boxes)
    assert no_windows == [1]
    with pytest.raises(ValueError, match="draw_boxes needs"):
        visualize.draw_boxes(image)


def test_draw_rois_counts_and_draws(capsys, no_windows):
    image, boxes, _, _ = scene()
    rois = np.concatenate([boxes, [[0, 0, 4, 4]]])
    mask = np.ones((3, 28, 28), np.float32)
    visualize.draw_rois(image, rois, rois + 1, mask, np.array([1, 2, 0]), NAMES)
    out = capsys.readouterr().out
    assert "Positive ROIs:  2" in out and "Negative ROIs:  1" in out and "Ratio: 0.67" in out
    ax = plt.gcf().axes[0]
    assert len(ax.patches) == 5 and sorted(texts(ax)) == ["debris", "nucleus"]
    changed = (ax.images[0].get_array() != 50).any(axis=-1)
    assert changed[8, 8] and not changed[2, 2] and no_windows == [1]


def test_plots_of_precision_and_overlaps():
    visualize.plot_precision_recall(0.5, np.array([1, 0.5, 0]), np.array([0, 0.5, 1]))
    ax = plt.gcf().axes[0]
    assert ax.get_title().endswith("AP@50 = 0.500") and ax.get_xlabel() == "Recall"
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [1, 0.5, 0])
    overlaps = np.array([[0.9, 0.1], [0.0, 0.6], [0.0, 0.2]])
    visualize.plot_overlaps([1, 2], [1, 1, 2], [0.9, 0.8, 0.7], overlaps, NAMES)
    ax = plt.gcf().axes[0]
    assert texts(ax)[0] == "0.900\nmatch" and texts(ax)[3] == "0.600\nwrong"
    assert texts(ax)[5] == "0.200"
    assert [label.get_text() for label in ax.get_yticklabels()][0] == "nucleus (0.90)"


def test_display_table_prints_outside_notebooks(capsys):
    visualize.display_table([["name", "n"], ["a", 10]])
    assert capsys.readouterr().out == "name  n\na     10\n"


class Weight:
    def __init__(self, name):
        self.name = name


class Layer:
    def __init__(self, name, **weights):
        self.name = name
        self.weights = [Weight(key) for key in weights]
        self._values = [np.asarray(value, np.float32) for value in weights.values()]

    def get_weights(self):
        return self._values


class Model:
    def __init__(self, *layers):
        self.layers = list(layers)


def test_weight_stats_reach_nested_layers_and_mark_what_is_broken(capsys):
    shared = Layer("inner", kernel=[[1, 2], [3, 5000]], bias=[0, 0])
    model = Model(Layer("relu"), Layer("dense", kernel=[1, 1], bias=[0]), Model(shared), shared)
    visualize.display_weight_stats(model)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and lines[0].split()[-3:] == ["MIN", "MAX", "STD"]
    assert "dense/kernel *** dead?" in lines[1] and "***" not in lines[2]
    assert "inner/kernel *** Overflow?" in lines[3] and "(2, 2)" in lines[3]
