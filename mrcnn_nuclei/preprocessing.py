"""Clean-up of annotated masks before training, as the paper did it: on label maps.

Only training labels pass through here. The truth that a prediction is scored against stays as its
annotators drew it.
"""

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from mrcnn.opencv import cv2

# Of its nucleus: what erosion leaves below this is a spur, no nucleus of its own. Six erosions then
# split 0.1 % of the MoNuSeg training nuclei, and most pairs fused over up to 12 pixels.
MIN_PART = 0.08


def clean_labels(labels):
    """Fill holes, then split fused nuclei.

    Parameters
    ----------
    labels : ndarray
        Integer label map [H, W], 0 for background.

    Returns
    -------
    ndarray
        int32 [H, W].
    """
    return split_fused(fill_holes(labels))


def fill_holes(labels):
    """Give background that one nucleus encloses to that nucleus.

    Another nucleus inside the hole stays what it is.

    Parameters
    ----------
    labels : ndarray
        Integer label map [H, W], 0 for background.

    Returns
    -------
    ndarray
        int32 [H, W].
    """
    filled = np.array(labels, np.int32)
    for label, window in _instances(filled):
        crop = filled[window]
        solid = ndimage.binary_fill_holes(crop == label)
        crop[solid & (crop == 0)] = label
    return filled


def split_fused(labels, iterations=6):
    """Split instances that are several nuclei fused into one mask.

    An instance is eroded until it falls apart into several sizeable parts; each of them grows back
    by dilation inside the original mask and becomes an instance. Convex shapes never fall apart.

    Parameters
    ----------
    labels : ndarray
        Integer label map [H, W], 0 for background.
    iterations : int
        Erosions by one pixel at most: bridges up to twice as wide break.

    Returns
    -------
    ndarray
        int32 [H, W] with the same foreground. The largest part keeps the label of the instance,
        the others get new labels above the largest one.
    """
    split = np.array(labels, np.int32)
    newest = int(split.max(initial=0))
    for label, window in _instances(split):
        crop = split[window]
        mask = crop == label
        parts = _sizeable_parts(mask, iterations)
        if parts.max() < 2:
            continue
        grown = watershed(np.zeros(mask.shape, np.uint8), parts, mask=mask)
        for part in range(2, parts.max() + 1):
            newest += 1
            crop[grown == part] = newest
    return split


def _instances(labels):
    """List label and bounding box (a pair of slices) of each instance."""
    windows = enumerate(ndimage.find_objects(labels), start=1)
    return [(label, window) for label, window in windows if window is not None]


def _sizeable_parts(mask, iterations):
    """Return the parts into which erosion first breaks a mask, int32, 1 for the largest."""
    eroded = np.pad(mask, 1).astype(np.uint8)
    least = MIN_PART * np.count_nonzero(mask)
    for step in range(iterations):
        # Cross and square in turn are close to a disc: slanted bridges wear as fast as level ones.
        shape = cv2.MORPH_RECT if step % 2 else cv2.MORPH_CROSS
        eroded = cv2.erode(eroded, cv2.getStructuringElement(shape, (3, 3)))
        # Thin slanted shapes touch by their corners once eroded, and are still one.
        count, parts, statistics, _ = cv2.connectedComponentsWithStats(eroded, connectivity=8)
        areas = statistics[1:, cv2.CC_STAT_AREA]
        order = np.argsort(-areas, kind="stable")
        order = order[areas[order] >= least]
        if len(order) != 1:
            break
    number = np.zeros(count, np.int32)
    number[1 + order] = np.arange(1, len(order) + 1)
    return number[parts][1:-1, 1:-1]
