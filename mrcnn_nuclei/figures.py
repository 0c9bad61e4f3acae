"""The figures of the paper, for any weights and images: `nucleus figures`.

Figure 1 is the model, with the sizes and numbers of the network that the weights belong to; figures
2 and 3 show what it finds in images with a truth (validation) and without one (test).
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from tqdm import tqdm

from mrcnn.files import atomic_path
from mrcnn_nuclei import overlay
from mrcnn_nuclei.config import LiteConfig
from mrcnn_nuclei.metrics import evaluate_pair

COLOURS = {
    "backbone": "#a6cee3",
    "pyramid": "#cab2d6",
    "proposals": "#fdbf6f",
    "heads": "#b2df8a",
    "note": "none",
}
"""Of the parts of the model: pastels of ColorBrewer's Paired, on which black text is legible."""

PARTS = {
    "backbone": r"conv1|bn_conv1|(res|bn)\d.*",
    "pyramid": r"fpn_.*",
    "rpn": r"rpn_.*",
    "classifier": r"mrcnn_(class|bbox).*",
    "mask": r"mrcnn_mask.*",
    "foreground": r"decoder_foreground.*",
    "border": r"decoder_border.*",
    "interior": r"decoder_interior.*",
    "stem": r"decoder_stem.*",
}
"""Names of the layers of each part."""

SHOWN_SIDE = 512
"""Of the window in the middle of an image that figures 2 and 3 show, in pixels."""


class Box(NamedTuple):
    """A box of the diagram: its place in inches, the lines in it, and what it belongs to."""

    x: float
    y: float
    width: float
    height: float
    text: str
    part: str


def count_weights(model):
    """The number of weights of each part of a network.

    Parameters
    ----------
    model : keras.Model

    Returns
    -------
    dict
        Part -> number, batch normalisation's statistics included; "all" is all of them.
    """
    counts = dict.fromkeys(PARTS, 0)
    for weight in model.weights:
        layer = weight.path.split("/")[-2]
        for part, pattern in PARTS.items():
            if re.fullmatch(pattern, layer):
                counts[part] += math.prod(weight.shape)
    return {**counts, "all": model.count_params()}


def draw_model(detector, image, found, path):
    """Draw the model of a detector: figure 1.

    Parameters
    ----------
    detector : mrcnn_nuclei.detector.Detector
    image : ndarray uint8 [H, W, 3]
        What goes in.
    found : Instances
        What comes out.
    path : str or Path
        Of the picture, of a format that its suffix names.
    """
    draw = {"mrcnn": _mask_rcnn, "unet": _unet}[detector.config.MODEL]
    weights = count_weights(detector.model.keras_model)
    boxes, arrows, title = draw(detector.config, detector.model.keras_model, weights)
    width = max(box.x + box.width for box in boxes) + 2.5
    height = max(box.y + box.height for box in boxes) + 0.75
    figure = plt.figure(figsize=(width, height))
    ax = figure.add_axes([0, 0, 1, 1])
    ax.set_xlim(0, width)
    ax.set_ylim(0, height)
    ax.axis("off")
    for box in boxes:
        ax.add_patch(
            FancyBboxPatch(
                (box.x, box.y),
                box.width,
                box.height,
                boxstyle="round,pad=0,rounding_size=0.06",
                facecolor=COLOURS[box.part],
                edgecolor="none" if box.part == "note" else "0.35",
            )
        )
        middle = box.x + box.width / 2, box.y + box.height / 2
        ax.text(*middle, box.text, ha="center", va="center", fontsize=9, linespacing=1.35)
    for start, end in arrows:
        style = {"arrowstyle": "-|>", "mutation_scale": 10, "color": "0.35", "linewidth": 1}
        ax.add_patch(FancyArrowPatch(start, end, shrinkA=0, shrinkB=0, **style))
    bottom = (height - 0.6) / 2 - 0.75
    shown = {0.15: image, width - 1.75: overlay.draw_overlay(image, found)}
    for left, picture in shown.items():
        ax.imshow(picture, extent=(left, left + 1.5, bottom, bottom + 1.5), aspect="auto")
    ax.text(0.9, bottom - 0.2, f"image\n{image.shape[1]} x {image.shape[0]} x 3", **BELOW)
    ax.text(width - 1, bottom - 0.2, f"{len(found)} nuclei", **BELOW)
    ax.text(width / 2, height - 0.3, title, ha="center", va="center", fontsize=12)
    ax.set_xlim(0, width)
    ax.set_ylim(0, height)
    _save(figure, path)


BELOW = {"ha": "center", "va": "top", "fontsize": 9}


def _millions(count):
    return f"{count / 1e6:.2f} M weights" if count >= 1e5 else f"{count:,} weights"


def _side(config, stride):
    return -(-config.DETECTION_TILE // stride)


def _backbone_name(config):
    if callable(config.BACKBONE):
        lite = config.BACKBONE is LiteConfig.BACKBONE
        return "EfficientNet-Lite0" if lite else "compact ResNet"
    return f"ResNet-{config.BACKBONE[6:]}"


def _mask_rcnn(config, network, weights):
    """Boxes, arrows and title of Mask R-CNN."""
    backbone = _backbone_name(config)
    channels = {
        level: network.get_layer(f"fpn_c{level}p{level}").input.shape[-1] for level in (2, 3, 4)
    }
    channels[5] = network.get_layer("fpn_c5p5").input.shape[-1]
    tile = (
        f"; sizes are those of a tile of {config.DETECTION_TILE} x {config.DETECTION_TILE} pixels"
    )
    boxes, arrows = [], []
    for level in range(2, 7):
        y = 0.45 + 0.75 * (level - 2)
        side = _side(config, 2**level)
        if level < 6:
            text = f"C{level}  {side} x {side} x {channels[level]}"
            boxes.append(Box(2.1, y, 2.0, 0.5, text, "backbone"))
            arrows.append(((4.1, y + 0.25), (4.6, y + 0.25)))
        text = f"P{level}  {side} x {side} x {config.TOP_DOWN_PYRAMID_SIZE}"
        boxes.append(Box(4.6, y, 1.9, 0.5, text, "pyramid"))
        arrows.append(((6.5, y + 0.25), (7.0, 2.2)))
        if level < 5:
            arrows.append(((3.1, y + 0.5), (3.1, y + 0.75)))
            arrows.append(((5.55, y + 0.75), (5.55, y + 0.5)))
    arrows.append(((5.55, 3.2), (5.55, 3.45)))  # P6 is P5 subsampled
    anchors = len(config.RPN_ANCHOR_RATIOS)
    rpn = (
        "region proposal network\n"
        f"3 x 3, {config.RPN_CHANNELS} channels\n"
        f"{anchors} anchors a place, scales\n{', '.join(map(str, config.RPN_ANCHOR_SCALES))}\n"
        f"{_millions(weights['rpn'])}"
    )
    boxes.append(Box(7.0, 1.6, 2.0, 1.25, rpn, "proposals"))
    proposals = f"up to {config.POST_NMS_ROIS_INFERENCE:,}\nproposals"
    boxes.append(Box(9.4, 1.9, 1.1, 0.65, proposals, "proposals"))
    pool, mask = config.POOL_SIZE, config.MASK_POOL_SIZE
    boxes.append(Box(10.9, 2.75, 1.1, 0.65, f"RoIAlign\n{pool} x {pool}", "heads"))
    boxes.append(Box(10.9, 1.05, 1.1, 0.65, f"RoIAlign\n{mask} x {mask}", "heads"))
    side = config.MASK_SHAPE[0]
    head = f"class, box\n2 x {config.FPN_CLASSIF_FC_LAYERS_SIZE} units\n"
    boxes.append(Box(12.4, 2.65, 1.5, 0.85, head + _millions(weights["classifier"]), "heads"))
    head = f"mask {side} x {side}\n4 + 1 convolutions\n"
    boxes.append(Box(12.4, 0.95, 1.5, 0.85, head + _millions(weights["mask"]), "heads"))
    arrows += [
        ((1.65, 1.4), (2.1, 0.7)),
        ((9.0, 2.22), (9.4, 2.22)),
        ((10.5, 2.3), (10.9, 3.07)),
        ((12.0, 3.07), (12.4, 3.07)),
        # Masks are drawn into the boxes that the classifier has corrected.
        ((12.4, 2.8), (11.45, 1.7)),
        ((12.0, 1.37), (12.4, 1.37)),
        ((13.9, 3.07), (14.65, 2.6)),
        ((13.9, 1.37), (14.65, 1.8)),
    ]
    boxes.append(Box(2.1, 3.45, 2.0, 0.5, f"{backbone}\n{_millions(weights['backbone'])}", "note"))
    boxes.append(Box(4.6, 4.0, 1.9, 0.3, _millions(weights["pyramid"]), "note"))
    return boxes, arrows, f"Mask R-CNN, {backbone} and FPN: {_millions(weights['all'])}{tile}"


def _unet(config, network, weights):
    """Boxes, arrows and title of the multi-task U-Net."""
    backbone = _backbone_name(config)
    encoder = {stride: level for level, stride in enumerate((2, 4, 8, 16, 32), start=1)}
    tile = (
        f"; sizes are those of a tile of {config.DETECTION_TILE} x {config.DETECTION_TILE} pixels"
    )
    boxes, arrows = [], []
    for row, (stride, level) in enumerate(encoder.items()):
        y = 0.45 + 0.75 * (4 - row)
        side = _side(config, stride)
        boxes.append(Box(2.1, y, 1.6, 0.5, f"C{level}  {side} x {side}", "backbone"))
        if row:
            arrows.append(((2.9, y + 0.75), (2.9, y + 0.5)))
    stages = len(config.DECODER_CHANNELS)
    widths = ", ".join(map(str, config.DECODER_CHANNELS))
    for row, name in enumerate(("foreground", "border", "interior")):
        y = 2.95 - 1.25 * row
        text = f"decoder: {name}\n{stages} stages of {widths} channels\n{_millions(weights[name])}"
        boxes.append(Box(5.0, y, 2.7, 0.9, text, "heads"))
        side = config.DETECTION_TILE
        boxes.append(Box(8.3, y + 0.15, 1.5, 0.6, f"{name}\n{side} x {side}", "proposals"))
        arrows += [
            ((7.7, y + 0.45), (8.3, y + 0.45)),
            ((9.8, y + 0.45), (10.4, 2.15)),
            *(((3.7, 0.7 + 0.75 * k), (5.0, y + 0.45)) for k in range(5)),
        ]
    boxes.append(Box(10.4, 1.75, 1.4, 0.8, "watershed\nfrom the interiors", "pyramid"))
    boxes.append(Box(2.1, 4.2, 1.6, 0.5, f"{backbone}\n{_millions(weights['backbone'])}", "note"))
    arrows += [((1.65, 2.0), (2.1, 3.6)), ((11.8, 2.15), (12.55, 2.15))]
    return boxes, arrows, f"Multi-task U-Net, {backbone}: {_millions(weights['all'])}{tile}"


def draw_segmentation(rows, path, title):
    """Draw images beside what was found in them: figures 2 and 3.

    Parameters
    ----------
    rows : sequence of (str, ndarray uint8 [H, W, 3], Instances or None, Instances)
        Name, image, truth if there is one, and nuclei found. The middle of each is shown.
    path : str or Path
    title : str
    """
    columns = 2 if all(truth is None for _, _, truth, _ in rows) else 4
    figure, axes = plt.subplots(
        len(rows), columns, figsize=(3.6 * columns, 3.9 * len(rows) + 0.4), squeeze=False
    )
    for (name, image, truth, found), row in zip(rows, axes):
        top, left = (max(0, (side - SHOWN_SIDE) // 2) for side in image.shape[:2])
        window = slice(top, top + SHOWN_SIDE), slice(left, left + SHOWN_SIDE)
        size = image[window].shape[:2]
        image = image[window]
        found, truth = (
            each if each is None else each.translate(-top, -left, size) for each in (found, truth)
        )
        pictures = {name: image, f"{len(found)} found": overlay.draw_overlay(image, found)}
        if truth is not None:
            scores = evaluate_pair(truth, found)
            compared = overlay.compare_overlay(image, truth, found)[: size[0]]
            pictures |= {
                f"{len(truth)} annotated": overlay.draw_overlay(image, truth),
                f"AJI {scores['AJI']:.2f}: cyan found, yellow false, white missed": compared,
            }
        for ax, (label, picture) in zip(row, pictures.items()):
            ax.imshow(picture)
            ax.set_title(label, fontsize=10)
        for ax in row:
            ax.axis("off")
    figure.suptitle(title, fontsize=12)
    figure.tight_layout()
    _save(figure, path)


def draw_figures(detector, validation, test, output):
    """Draw all three figures.

    Parameters
    ----------
    detector : mrcnn_nuclei.detector.Detector
    validation : sequence of (str, ndarray uint8 [H, W, 3], Instances)
        Name, image and truth.
    test : sequence of (str, ndarray uint8 [H, W, 3])
        Name and image.
    output : str or Path
        A folder; gets `figure1.svg`, and `figure1.png` to `figure3.png` as far as there are images.

    Returns
    -------
    list of Path
        What was written.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    everything = [*validation, *((name, image, None) for name, image in test)]
    rows = [
        (name, image, truth, detector.detect(image))
        for name, image, truth in tqdm(everything, desc="Detecting", unit="image")
    ]
    name, image, _, found = rows[0]
    top, left = (max(0, (side - 256) // 2) for side in image.shape[:2])
    window = image[top : top + 256, left : left + 256]
    shown = found.translate(-top, -left, window.shape[:2])
    shown = shown[shown.areas > 0]
    written = [output / "figure1.svg", output / "figure1.png"]
    for path in written:
        draw_model(detector, window, shown, path)
    for number, title, chosen in (
        (2, "Segmentation of validation images", rows[: len(validation)]),
        (3, "Segmentation of test images", rows[len(validation) :]),
    ):
        if chosen:
            written.append(output / f"figure{number}.png")
            draw_segmentation(chosen, written[-1], title)
    return written


def _save(figure, path):
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=Path(path).suffix[1:], dpi=150, facecolor="white")
    plt.close(figure)
