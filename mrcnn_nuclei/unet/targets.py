"""What the U-Net is to predict for a label map, and how much each pixel counts.

Erosion and dilation are by the cross of the 4 neighbours. Done twice they reach as far as a diamond
of radius 2, so that the smallest and the largest label within it tell of all nuclei at once.
"""

import numpy as np

from mrcnn.errors import InputError
from mrcnn.opencv import cv2

REACH = 2  # dilations that make the border, erosions that make the interior


def make_targets(labels):
    """Draw the three maps of a label map.

    Parameters
    ----------
    labels : int array [H, W]
        Positive labels are nuclei, which may have gaps in their numbers or consist of several
        parts; everything else is background.

    Returns
    -------
    float32 array [H, W, 3]
        0 or 1 each: foreground, the pixels of nuclei; border, the pixels within two dilations of
        two or more nuclei; interior, each nucleus eroded twice, or once, or not at all, whichever
        is the last to leave a pixel. The edge of the image neither erodes nor dilates.

    Raises
    ------
    InputError
        If `labels` is not a two-dimensional array of integers.
    """
    labels = _renumber(labels)
    targets = np.empty((*labels.shape, 3), np.float32)
    targets[..., 0] = labels > 0
    targets[..., 1] = _border(labels)
    targets[..., 2] = _interior(labels)
    return targets


def boundary_weights(labels, strength, sigma=5.0):
    """Weigh the pixels near places where nuclei meet more than the others.

    The idea is that of Ronneberger, Fischer and Brox, "U-Net", 2015, equation 2, where background
    weighs more the closer the two nearest cells are. Here the distance is that to the nearest pixel
    of the border map: nothing is measured for each nucleus, and the nuclei's own pixels weigh more
    too. Their term that balances the classes is left out.

    Parameters
    ----------
    labels : int array [H, W]
        As for `make_targets`.
    strength : float
        What a pixel of the border map weighs more than one far from it; theirs is 10.
    sigma : float
        How far the weight reaches, in pixels; the default is theirs.

    Returns
    -------
    float32 array [H, W]
        1 + strength exp(-d^2 / (2 sigma^2)), d the distance in pixels to the nearest border pixel;
        1 everywhere if there is none.

    Raises
    ------
    InputError
        If `labels` is not a two-dimensional array of integers.
    """
    border = _border(_renumber(labels))
    if not (strength and border.any()):
        return np.ones(border.shape, np.float32)
    away = (~border).astype(np.uint8)
    distance = cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return 1 + np.float32(strength) * np.exp(-np.square(distance) / np.float32(2 * sigma**2))


def _renumber(labels):
    """Return labels as float32, exactly, 0 for background and few enough to index a table."""
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "biu":
        raise InputError(
            f"a label map must be [H, W] integers, not {labels.dtype} {list(labels.shape)}"
        )
    labels = np.maximum(labels, 0)
    if labels.max(initial=0) > min(labels.size, 2**24):
        values, inverse = np.unique(labels, return_inverse=True)
        labels = inverse.reshape(labels.shape) + (values[0] > 0)
    return labels.astype(np.float32)


def _border(labels):
    background_last = np.where(labels > 0, labels, np.float32(np.inf))
    smallest, _ = _extremes(background_last, REACH)
    _, largest = _extremes(labels, REACH)
    return (largest > 0) & (smallest != largest)


def _interior(labels):
    interior = np.zeros(labels.shape, bool)
    index = labels.astype(np.int32)
    missing = np.arange(index.max(initial=0) + 1) > 0
    for reach in range(REACH, -1, -1):
        smallest, largest = _extremes(labels, reach)
        eroded = (smallest == largest) & missing[index]
        interior |= eroded
        missing[index[eroded]] = False
        if not missing.any():
            break
    return interior


def _extremes(labels, reach):
    """Return the smallest and the largest label within a diamond of that radius."""
    offsets = np.abs(np.arange(-reach, reach + 1))
    diamond = (offsets[:, None] + offsets <= reach).astype(np.uint8)
    return cv2.erode(labels, diamond), cv2.dilate(labels, diamond)
