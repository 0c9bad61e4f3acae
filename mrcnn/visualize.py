"""Pictures of images, instances, boxes and training internals, with Matplotlib.

Functions that take an `ax` draw into it and leave showing to the caller; without one they make a
figure and show it. Those that colour instances take a `palette`: a name of `mrcnn.palettes`, whose
colours any eye can tell apart, or "auto" for the one that suits the image. By default each instance
has a random hue, as Matterport's.
"""

import colorsys
import os
import random

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects
from matplotlib.collections import PolyCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from mrcnn import utils
from mrcnn.instances import Instances
from mrcnn.palettes import find_palette, neighbour_indices

ROOT_DIR = os.path.abspath("../")

FEW, MANY = 30, 200
"""Up to so many instances all have a caption; of more than so many none has, and masks are tinted
lightly."""

TINT, LIGHT_TINT = 0.5, 0.2
"""Share of the colour in the pixels of a mask."""

CAPTION_SIZES = (5, 11)
"""Points. Where captions would have to be smaller to find room, they are left out."""


def display_images(images, titles=None, cols=4, cmap=None, norm=None, interpolation=None):
    """Show a list of images in a grid.

    Parameters
    ----------
    images : list of arrays [H, W] or [H, W, 3]
    titles : list of str, optional
    cols : int
        Images per row.
    cmap, norm, interpolation : optional
        As for `matplotlib.pyplot.imshow`.
    """
    titles = titles if titles is not None else [""] * len(images)
    rows = -(-len(images) // cols)
    plt.figure(figsize=(14, 14 * max(rows, 1) / cols))
    for k, (image, title) in enumerate(zip(images, titles), start=1):
        plt.subplot(rows, cols, k)
        plt.title(title, fontsize=9)
        plt.axis("off")
        plt.imshow(_displayable(image), cmap=cmap, norm=norm, interpolation=interpolation)
    _show()


def random_colors(N, bright=True):
    """Return N colours of evenly spaced hue in random order.

    Parameters
    ----------
    N : int
    bright : bool
        Full brightness, or 0.7 of it.

    Returns
    -------
    list of (red, green, blue)
        From 0 to 1. The order comes from Python's global random stream.
    """
    brightness = 1.0 if bright else 0.7
    colors = [colorsys.hsv_to_rgb(k / N, 1, brightness) for k in range(N)]
    random.shuffle(colors)
    return colors


def apply_mask(image, mask, color, alpha=0.5):
    """Blend a colour into the masked pixels of an image, in place.

    Parameters
    ----------
    image : array [H, W, 3]
        Levels from 0 to 255.
    mask : array [H, W]
        Pixels where it is 1 are coloured.
    color : (red, green, blue)
        From 0 to 1.
    alpha : float
        Share of the colour.

    Returns
    -------
    array [H, W, 3]
        `image`.
    """
    inside = np.asarray(mask) == 1
    tint = alpha * 255 * np.asarray(color[:3])
    image[inside] = (image[inside] * (1 - alpha) + tint).astype(image.dtype)
    return image


def display_instances(
    image,
    boxes,
    masks,
    class_ids,
    class_names,
    scores=None,
    title="",
    figsize=(16, 16),
    ax=None,
    show_mask=True,
    show_bbox=True,
    colors=None,
    captions=None,
    palette=None,
):
    """Show an image with its instances, legibly for one as for a thousand.

    Parameters
    ----------
    image : uint8 array [H, W, 3]
    boxes : array [N, 4]
        (y1, x1, y2, x2) in pixels. Instances whose box is all zeros are not drawn.
    masks : array [H, W, N], or the `masks` of an Instances whose `boxes` are given
    class_ids : int array [N]
    class_names : list of str
        Name of each class id.
    scores : float array [N], optional
    title : str
    figsize : (float, float)
        Inches, if there is no `ax`.
    ax : matplotlib.axes.Axes, optional
    show_mask, show_bbox : bool
        Whether to tint the masks, to draw the boxes. The outlines of the masks are always drawn.
        Lines are as thin as the instances are small.
    colors : sequence of N colours, optional
    captions : sequence of N str, optional
        Default: class and score, in a small font for many instances and left out for hundreds, or
        where there is no room.
    palette : str, optional
        See above; neighbours get different colours of it. `colors` go before.
    """
    count = len(boxes)
    if count == 0:
        print("\n*** No instances to display *** \n")
    instances = _as_instances(image, boxes, masks)
    if not count == len(instances) == len(class_ids):
        raise ValueError(
            f"{count} boxes, {len(instances)} masks and {len(class_ids)} class_ids differ in number"
        )
    own_figure = ax is None
    if own_figure:
        _, ax = plt.subplots(1, figsize=figsize)
    if colors is None:
        colors = _choose_colors(image, boxes, palette)
    height, width = image.shape[:2]
    ax.set_ylim(height + 10, -10)
    ax.set_xlim(-10, width + 10)
    ax.axis("off")
    ax.set_title(title)

    boxes = np.asarray(boxes)
    shown = [k for k in range(count) if boxes[k].any()]
    if show_mask:
        image = _tint(image, instances, shown, colors, TINT if count <= MANY else LIGHT_TINT)
    ax.imshow(_displayable(image))
    side = _side_in_points(ax, boxes[shown])
    if show_bbox:
        _add_boxes(ax, boxes[shown], [colors[k] for k in shown], side)
    _add_outlines(ax, instances, shown, colors, side)
    own_captions = captions is not None
    if not own_captions:
        captions = [class_names[class_id] for class_id in class_ids]
        if scores is not None:
            captions = [f"{name} {score:.3f}" for name, score in zip(captions, scores)]
    size = _caption_size([captions[k] or "" for k in shown], side, own_captions)
    for k in shown if size else ():
        y1, x1 = boxes[k, :2]
        _add_caption(ax, x1, y1 + 8, captions[k], size=size)
    if own_figure:
        _show()


def display_differences(
    image,
    gt_box,
    gt_class_id,
    gt_mask,
    pred_box,
    pred_class_id,
    pred_score,
    pred_mask,
    class_names,
    title="",
    ax=None,
    show_mask=True,
    show_box=True,
    iou_threshold=0.5,
    score_threshold=0.5,
    palette=None,
):
    """Show ground truth (green) and predictions (red) in one picture.

    Each prediction is captioned with its score and its IoU with the ground truth that it matches,
    or else with the one it overlaps most; where there are hundreds, none is.

    Parameters
    ----------
    image : uint8 array [H, W, 3]
    gt_box, gt_class_id, gt_mask : arrays [M, 4], [M], [H, W, M]
    pred_box, pred_class_id, pred_score, pred_mask : arrays [N, 4], [N], [N], [H, W, N]
    class_names : list of str
    title : str
    ax : matplotlib.axes.Axes, optional
    show_mask, show_box : bool
    iou_threshold, score_threshold : float
        As for `mrcnn.utils.compute_matches`.
    palette : str, optional
        See above: its first two colours in place of green and red, with a legend.
    """
    # compute_matches drops padding and sorts by score: do it here, to keep its indices.
    gt = np.flatnonzero(np.asarray(gt_box).any(axis=1))
    pred = np.flatnonzero(np.asarray(pred_box).any(axis=1))
    pred = pred[np.argsort(-np.asarray(pred_score)[pred], kind="stable")]
    gt_box, gt_class_id, gt_mask = gt_box[gt], gt_class_id[gt], gt_mask[..., gt]
    pred_box, pred_class_id, pred_score = pred_box[pred], pred_class_id[pred], pred_score[pred]
    pred_mask = pred_mask[..., pred]

    _, pred_match, overlaps = utils.compute_matches(
        gt_box,
        gt_class_id,
        gt_mask,
        pred_box,
        pred_class_id,
        pred_score,
        pred_mask,
        iou_threshold=iou_threshold,
        score_threshold=score_threshold,
    )
    captions = [""] * len(gt)
    for k, (score, matched) in enumerate(zip(pred_score, pred_match)):
        best = overlaps[k, int(matched)] if matched > -1 else np.max(overlaps[k], initial=0)
        captions.append(f"{score:.2f} / {best:.2f}")
    if len(captions) > MANY:
        captions = [""] * len(captions)
    own_figure = ax is None
    if own_figure:
        _, ax = plt.subplots(1, figsize=(16, 16))
    if palette is None:
        true_color, pred_color = (0, 1, 0, 0.8), (1, 0, 0, 1)
        title = title or "Ground truth (green) and predictions (red): score / IoU"
    else:
        true_color, pred_color = _levels(palette, image)[:2] / 255
        title = title or "Ground truth and predictions: score / IoU"
    display_instances(
        image,
        np.concatenate([gt_box, pred_box]),
        np.concatenate([gt_mask, pred_mask], axis=2),
        np.concatenate([gt_class_id, pred_class_id]),
        class_names,
        title=title,
        ax=ax,
        show_mask=show_mask,
        show_bbox=show_box,
        colors=[true_color] * len(gt) + [pred_color] * len(pred),
        captions=captions,
    )
    if palette is not None:
        names = ("ground truth", "predictions")
        lines = [Line2D([], [], color=color) for color in (true_color, pred_color)]
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "ncols": 2}
        ax.legend(lines, names, facecolor="0.6", framealpha=1, labelcolor="black", **place)
    if own_figure:
        _show()


def draw_rois(image, rois, refined_rois, mask, class_ids, class_names, limit=10, palette=None):
    """Show a random choice of proposals with their refined boxes, and count the positive ones.

    Parameters
    ----------
    image : uint8 array [H, W, 3]
    rois, refined_rois : int arrays [N, 4]
        (y1, x1, y2, x2) in pixels, before and after refinement.
    mask : float array [N, h, w]
        Mini masks in the frame of the refined boxes.
    class_ids : int array [N]
        0 for background, whose proposals are drawn in grey.
    class_names : list of str
    limit : int
        How many to draw. Which, is decided by NumPy's global random stream.
    palette : str, optional
        See above.
    """
    chosen = np.random.permutation(len(rois))[:limit]  # noqa: NPY002
    _, ax = plt.subplots(1, figsize=(12, 12))
    if len(rois) > limit:
        plt.title(f"Showing {limit} random ROIs out of {len(rois)}")
    else:
        plt.title(f"{len(rois)} ROIs")
    height, width = image.shape[:2]
    ax.set_ylim(height + 20, -20)
    ax.set_xlim(-50, width + 20)
    ax.axis("off")

    tinted = image.copy()
    colors = _choose_colors(image, np.asarray(rois)[chosen], palette)
    for k, color in zip(chosen, colors):
        positive = class_ids[k] > 0
        _add_rectangle(ax, rois[k], color if positive else "gray", "dashed")
        if not positive:
            continue
        refined = np.asarray(refined_rois[k]).astype(np.int32)
        _add_rectangle(ax, refined, color, "solid")
        _connect(ax, rois[k], refined, color)
        y1, x1 = np.asarray(rois[k])[:2]
        _add_caption(ax, x1, y1 + 8, class_names[class_ids[k]], size=11)
        apply_mask(tinted, utils.unmold_mask(mask[k], refined, image.shape), color)
    ax.imshow(tinted)

    positives = int(np.sum(np.asarray(class_ids) > 0))
    print("Positive ROIs: ", positives)
    print("Negative ROIs: ", len(class_ids) - positives)
    print(f"Positive Ratio: {positives / max(len(class_ids), 1):.2f}")
    _show()


def draw_box(image, box, color):
    """Draw a box into an image, in place, with lines of two pixels.

    Parameters
    ----------
    image : array [H, W, 3]
    box : (y1, x1, y2, x2)
        In pixels.
    color : (red, green, blue)
        In the image's own levels.

    Returns
    -------
    array [H, W, 3]
        `image`.
    """
    y1, x1, y2, x2 = box
    image[y1 : y1 + 2, x1:x2] = color
    image[y2 : y2 + 2, x1:x2] = color
    image[y1:y2, x1 : x1 + 2] = color
    image[y1:y2, x2 : x2 + 2] = color
    return image


def display_top_masks(image, mask, class_ids, class_names, limit=4):
    """Show an image beside the masks of the classes that cover most of it.

    Parameters
    ----------
    image : uint8 array [H, W, 3]
    mask : array [H, W, N]
    class_ids : int array [N]
    class_names : list of str
    limit : int
        How many classes to show; a class without pixels leaves its place blank.
    """
    class_ids = np.asarray(class_ids)
    areas = np.asarray(mask).sum(axis=(0, 1), dtype=np.int64)
    covered = {k: areas[class_ids == k].sum() for k in np.unique(class_ids).tolist()}
    largest = [k for k in sorted(covered, key=covered.get, reverse=True) if covered[k] > 0]

    panels, titles = [image], [f"H x W={image.shape[0]}x{image.shape[1]}"]
    for k in range(limit):
        # Each instance in a shade of its own.
        panel = np.zeros(image.shape[:2], np.int64)
        if k < len(largest):
            for shade, index in enumerate(np.flatnonzero(class_ids == largest[k]), start=1):
                panel[mask[..., index] > 0] = shade
        panels.append(panel)
        titles.append(class_names[largest[k]] if k < len(largest) else "-")
    display_images(panels, titles=titles, cols=limit + 1, cmap="Blues_r")


def plot_precision_recall(AP, precisions, recalls):
    """Plot a precision-recall curve.

    Parameters
    ----------
    AP : float
        Average precision at IoU 0.5, for the title.
    precisions, recalls : float arrays [K]
    """
    _, ax = plt.subplots(1)
    ax.set_title(f"Precision-Recall Curve. AP@50 = {AP:.3f}")
    ax.set_xlabel("Recall")
    ax.set_ylabel("Precision")
    ax.set_xlim(0, 1.1)
    ax.set_ylim(0, 1.1)
    ax.plot(recalls, precisions)


def plot_overlaps(gt_class_ids, pred_class_ids, pred_scores, overlaps, class_names, threshold=0.5):
    """Plot a table of the IoU of every prediction with every ground truth object.

    Parameters
    ----------
    gt_class_ids : int array [M]
    pred_class_ids : int array [N]
    pred_scores : float array [N]
    overlaps : float array [N, M]
    class_names : list of str
    threshold : float
        IoU above which a pair is called a match, or wrong if the classes differ.
    """
    gt_class_ids = [k for k in gt_class_ids if k != 0]
    pred_class_ids = [k for k in pred_class_ids if k != 0]
    plt.figure(figsize=(12, 10))
    plt.imshow(overlaps, interpolation="nearest", cmap=plt.cm.Blues)
    plt.yticks(
        range(len(pred_class_ids)),
        [f"{class_names[k]} ({s:.2f})" for k, s in zip(pred_class_ids, pred_scores)],
    )
    plt.xticks(range(len(gt_class_ids)), [class_names[k] for k in gt_class_ids], rotation=90)
    middle = np.max(overlaps, initial=0) / 2
    for row, pred in enumerate(pred_class_ids):
        for col, true in enumerate(gt_class_ids):
            overlap = overlaps[row, col]
            verdict = ""
            if overlap > threshold:
                verdict = "\nmatch" if pred == true else "\nwrong"
            plt.text(
                col,
                row,
                f"{overlap:.3f}{verdict}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if overlap > middle else "black",
            )
    plt.xlabel("Ground Truth")
    plt.ylabel("Predictions")
    plt.tight_layout()


def draw_boxes(
    image,
    boxes=None,
    refined_boxes=None,
    masks=None,
    captions=None,
    visibilities=None,
    title="",
    ax=None,
    palette=None,
):
    """Show an image with boxes before refinement, after it, or both.

    Parameters
    ----------
    image : uint8 array [H, W, 3]
    boxes, refined_boxes : arrays [N, 4], optional, at least one of the two
        (y1, x1, y2, x2) in pixels. Refined boxes are drawn solid, with a line from the corner of
        the box that they come from.
    masks : array [H, W, N], optional
    captions : sequence of N str, optional
    visibilities : sequence of N int, optional
        Emphasis of each of `boxes`: 0 grey, 1 dotted (default), 2 solid.
    title : str
    ax : matplotlib.axes.Axes, optional
    palette : str, optional
        See above.
    """
    if boxes is None and refined_boxes is None:
        raise ValueError("draw_boxes needs boxes, refined_boxes or both")
    count = len(boxes if boxes is not None else refined_boxes)
    own_figure = ax is None
    if own_figure:
        _, ax = plt.subplots(1, figsize=(12, 12))
    height, width = image.shape[:2]
    margin = height // 10
    ax.set_ylim(height + margin, -margin)
    ax.set_xlim(-margin, width + margin)
    ax.axis("off")
    ax.set_title(title)

    styles = {0: ("dotted", 0.5), 1: ("dotted", 1), 2: ("solid", 1)}
    colors = _choose_colors(image, boxes if boxes is not None else refined_boxes, palette)
    for k in range(count):
        visibility = 1 if visibilities is None else int(visibilities[k])
        color = "gray" if visibility == 0 else colors[k]
        corner = None
        if boxes is not None and np.any(boxes[k]):
            _add_rectangle(ax, boxes[k], color, *styles[visibility])
            corner = boxes[k]
        if refined_boxes is not None and visibility > 0:
            _add_rectangle(ax, refined_boxes[k], color, "solid")
            if corner is not None:
                _connect(ax, corner, refined_boxes[k], color)
            corner = refined_boxes[k]
        if captions is not None and corner is not None:
            ax.text(
                corner[1],
                corner[0],
                captions[k],
                size=11,
                va="top",
                color="w",
                bbox={"facecolor": color, "alpha": 0.5, "pad": 2, "edgecolor": "none"},
            )
    if masks is not None:
        instances = Instances.from_dense(masks)
        image = _tint(image, instances, range(count), colors, TINT)
        _add_outlines(ax, instances, range(count), colors, _side_in_points(ax, instances.boxes))
    ax.imshow(_displayable(image))
    if own_figure:
        _show()


def display_table(table):
    """Show rows of values as a table, in a notebook as HTML and elsewhere as text.

    Parameters
    ----------
    table : sequence of sequences
        Rows, the first of them the header.
    """
    rows = [[str(value) for value in row] for row in table]
    try:
        from IPython import get_ipython
        from IPython.display import HTML, display
    except ImportError:
        get_ipython = None
    if get_ipython is not None and get_ipython() is not None:
        cells = ("".join(f"<td>{value}</td>" for value in row) for row in rows)
        display(HTML("<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"))
        return
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print("  ".join(value.ljust(width) for value, width in zip(row, widths)).rstrip())


def display_weight_stats(model):
    """Show the shape and range of every weight of a model, and mark those that look broken.

    Parameters
    ----------
    model : mrcnn.model.MaskRCNN or keras.Model
        Layers of nested models are listed too.
    """
    table = [["WEIGHT NAME", "SHAPE", "MIN", "MAX", "STD"]]
    for layer in _leaf_layers(getattr(model, "keras_model", model)):
        for weight, values in zip(layer.weights, layer.get_weights()):
            if values.size == 0 or values.dtype.kind != "f":
                continue
            alert = ""
            if values.min() == values.max() and "bias" not in weight.name:
                alert += " *** dead?"
            if np.abs(values).max() > 1000:
                alert += " *** Overflow?"
            table.append(
                [
                    f"{layer.name}/{weight.name}{alert}",
                    str(values.shape),
                    f"{values.min():+9.4f}",
                    f"{values.max():+10.4f}",
                    f"{values.std():+9.4f}",
                ]
            )
    display_table(table)


def _leaf_layers(layer):
    """Layers without layers of their own, each once."""
    leaves = {}
    for inner in getattr(layer, "layers", []):
        found = _leaf_layers(inner) if hasattr(inner, "layers") else [inner]
        leaves.update((id(leaf), leaf) for leaf in found)
    return list(leaves.values())


def _show():
    # Agg only draws into files, and warns when asked to show.
    if matplotlib.get_backend().lower() != "agg":
        plt.show()


def _displayable(image):
    """What Matplotlib takes for colours: floats from 0 to 1, or else levels to 255 as uint8."""
    image = np.asarray(image)
    fractions = image.dtype.kind == "f" and image.max(initial=0) <= 1
    return image if image.ndim == 2 or fractions else image.astype(np.uint8)


def _as_instances(image, boxes, masks):
    if isinstance(masks, np.ndarray):
        return Instances.from_dense(masks)
    ones = np.ones(len(masks))
    return Instances(image.shape[:2], boxes, ones, ones, masks)


def _levels(palette, image):
    """The colours of a palette that is to be drawn on an image, uint8 [K, 3]."""
    image = _displayable(image)
    image = np.stack([image] * 3, axis=-1) if image.ndim == 2 else image[..., :3]
    return find_palette(palette, image if image.dtype == np.uint8 else 255 * image)


def _choose_colors(image, boxes, palette):
    """A colour for each box: random hues, or by a palette."""
    if palette is None:
        return random_colors(len(boxes))
    levels = _levels(palette, image)
    boxes = np.asarray(boxes).astype(int)
    return [tuple(color) for color in levels[neighbour_indices(boxes, len(levels))] / 255]


def _tint(image, instances, shown, colors, alpha):
    image = np.array(image)
    for k in shown:
        y1, x1, y2, x2 = instances.boxes[k]
        apply_mask(image[y1:y2, x1:x2], instances.masks[k], colors[k], alpha)
    return image


def _side_in_points(ax, boxes):
    """How large the median box is on paper; infinite if there is none."""
    if not len(boxes):
        return np.inf
    boxes = np.asarray(boxes)
    side = np.median(np.sqrt(np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1)))
    pixels = abs(np.diff(ax.get_xlim())[0])
    inches = ax.get_window_extent().width / ax.figure.dpi
    return side * inches * 72 / pixels


def _line_width(side, limits):
    return float(np.clip(side / 14, *limits))


def _caption_size(captions, side, always):
    """Points with which the median caption is hardly wider than its box; None: better without."""
    smallest, largest = CAPTION_SIZES
    length = np.median([len(caption) for caption in captions]) if captions else 0
    fitting = 1.4 * side / (0.6 * length) if length else largest
    if always or len(captions) <= FEW or (len(captions) <= MANY and fitting >= smallest):
        return float(np.clip(fitting, smallest, largest))
    return None


def _add_caption(ax, x, y, text, **style):
    if text:
        edge = patheffects.withStroke(linewidth=1.5, foreground="black")
        ax.text(x, y, text, color="w", path_effects=[edge], **style)


def _add_outlines(ax, instances, shown, colors, side):
    polygons = instances.to_polygons()
    # Matplotlib puts the centre of a pixel, not its corner, at whole numbers.
    rings = [(ring - 0.5, colors[k]) for k in shown for ring in polygons[k]]
    width = _line_width(side, (0.7, 1.5))
    # A dark edge keeps bright lines apart from a bright ground.
    edge = patheffects.withStroke(linewidth=width + 0.8, foreground="black", alpha=0.4)
    style = {"linewidths": width, "path_effects": [edge]}
    _add_collection(ax, [r for r, _ in rings], [c for _, c in rings], **style)


def _add_boxes(ax, boxes, colors, side):
    corners = [[(x1, y1), (x2, y1), (x2, y2), (x1, y2)] for y1, x1, y2, x2 in boxes]
    width = _line_width(side, (0.4, 2))
    alpha = 0.7 if len(corners) <= MANY else 0.35
    _add_collection(ax, corners, colors, linewidths=width, linestyles="dashed", alpha=alpha)


def _add_collection(ax, polygons, colors, **style):
    if polygons:
        ax.add_collection(PolyCollection(polygons, edgecolors=colors, facecolors="none", **style))


def _add_rectangle(ax, box, color, linestyle, alpha=1):
    y1, x1, y2, x2 = np.asarray(box)[:4]
    ax.add_patch(
        Rectangle(
            (x1, y1),
            x2 - x1,
            y2 - y1,
            linewidth=2,
            edgecolor=color,
            facecolor="none",
            linestyle=linestyle,
            alpha=alpha,
        )
    )


def _connect(ax, box, refined, color):
    """A line from the top left corner of one box to that of another."""
    ax.add_line(Line2D([box[1], refined[1]], [box[0], refined[0]], color=color))
