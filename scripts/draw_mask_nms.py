"""Draw docs/images/mask_nms.png: `python scripts/draw_mask_nms.py`.

Three imitated predictions of drawn nuclei, one with a nucleus missed, one with two merged, one with
a false one, and what Mask-NMS makes of them.
"""

from itertools import cycle
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from mrcnn.files import atomic_path
from mrcnn.instances import Instances
from mrcnn_nuclei.datasets.synthetic import draw_tile
from mrcnn_nuclei.mask_nms import mask_nms
from mrcnn_nuclei.noise import noisy_copy

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "mask_nms.png"
COLOURS = ("#0072b2", "#d55e00", "#009e73")
FUSED = ("#000000", "#aa00aa", "#886600")
SCORES = (0.9, 0.7, 0.8)
SIDE, SEED, NUCLEI = 100, 5, 16
MISSED, MERGED, COPIED = 12, [7, 3], 4
"""The nuclei of the tile that mistakes are made with: a copy of the last is the false one."""

MARKS = {"A": (51, 18), "B": (84, 47), "C": (69, 29)}
"""What docs/mask_nms.md tells of, and its (x, y)."""


def predict(truth, rng):
    """Three predictions with a mistake each."""
    every = np.arange(len(truth))
    labels = truth.to_label_map()
    labels[np.isin(labels, np.add(MERGED, 1))] = 1 + MERGED[0]
    false = truth[COPIED].translate(-8, 53, truth.shape)
    mistaken = [
        truth[every != MISSED],
        Instances.from_label_map(labels),
        Instances.concatenate([truth, false]),
    ]
    jittered = [noisy_copy(m, rng, dropped=0, spurious=0, merged=0, jitter=0.9) for m in mistaken]
    return [
        Instances(one.shape, one.boxes, np.full(len(one), score), one.class_ids, one.masks)
        for one, score in zip(jittered, SCORES)
    ]


def draw(axes, title, image, layers):
    """An image with the outlines of each (colour, Instances) on it."""
    axes.imshow(image, interpolation="bicubic", alpha=0.55, extent=(0, SIDE, SIDE, 0))
    axes.set(title=title, xticks=[], yticks=[], xlim=(0, SIDE), ylim=(SIDE, 0))
    for colour, instances in layers:
        for rings in instances.to_polygons():
            for ring in rings:
                axes.plot(*ring.T, color=colour, linewidth=1.7)
    for mark, (x, y) in MARKS.items():
        axes.text(x, y, mark, fontsize=15, weight="bold", ha="center", va="center")


if __name__ == "__main__":
    rng = np.random.default_rng(SEED)
    image, labels = draw_tile(SIDE, rng, nuclei=NUCLEI)
    predictions = predict(Instances.from_label_map(labels), rng)
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.3), layout="constrained")
    draw(axes[0], "three predictions", image, zip(COLOURS, predictions))
    for panel, fuse in zip(axes[1:], ("union", "vote")):
        fused = mask_nms(predictions, fuse=fuse)
        draw(panel, f'fuse="{fuse}"', image, zip(cycle(FUSED), fused))
    with atomic_path(PICTURE) as temporary:
        figure.savefig(temporary, dpi=100)
    print(f"wrote {PICTURE}")
