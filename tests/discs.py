"""Label maps of discs, and whether two sets of instances are the same."""

import numpy as np

from mrcnn.overlaps import mask_iou


def touching_discs(rng, shape, count, radii):
    """Label map of discs that touch, the later ones cut off by the earlier."""
    labels = np.zeros(shape, np.int32)
    placed = 0
    while placed < count:
        radius = rng.uniform(*radii) if placed % 3 else radii[0]
        y, x = rng.uniform((0, 0), shape)
        y1, x1 = max(int(y - radius), 0), max(int(x - radius), 0)
        window = labels[y1 : int(y + radius) + 2, x1 : int(x + radius) + 2]
        rows, cols = np.ogrid[y1 : y1 + window.shape[0], x1 : x1 + window.shape[1]]
        disc = (rows - y) ** 2 + (cols - x) ** 2 <= radius**2
        free = disc & (window == 0)
        if free.sum() > 0.85 * disc.sum() and free.sum() > 25:
            placed += 1
            window[free] = placed
    return labels


def same_masks(a, b):
    """Whether two sets of instances consist of the same masks, in whatever order."""
    rows, cols, iou = mask_iou(a, b)
    exact = iou == 1
    return len(a) == len(b) == exact.sum() == len(set(rows[exact])) == len(set(cols[exact]))
