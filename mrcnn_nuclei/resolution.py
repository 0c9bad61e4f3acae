"""Images brought to the resolution that a network was trained with, and nuclei back from it."""

import numpy as np

from mrcnn.instances import Instances
from mrcnn.opencv import cv2

TOLERANCE = 0.1
"""Images whose resolution differs by less than this part are seen as they are: networks are trained
on nuclei that differ more than that."""


def network_scale(mpp, network_mpp):
    """By how much an image is enlarged for a network.

    Parameters
    ----------
    mpp : float or None
        Microns per pixel of the image; None: unknown, and taken for the network's.
    network_mpp : float
        Microns per pixel of the images that it was trained on.

    Returns
    -------
    float
        1 within TOLERANCE.
    """
    scale = 1.0 if mpp is None else mpp / network_mpp
    return 1.0 if 1 / (1 + TOLERANCE) <= scale <= 1 + TOLERANCE else scale


def scaled_shape(shape, scale):
    """(h, w) of an image (H, W) that is enlarged; at least one pixel."""
    return tuple(max(1, round(float(side * scale))) for side in shape)


def rescale(instances, shape):
    """Bring instances to another resolution.

    Parameters
    ----------
    instances : Instances
    shape : (int, int)
        (H, W) that their image has there.

    Returns
    -------
    Instances
        A pixel belongs to a mask if it is more than half inside, by linear interpolation between
        the centres of the old pixels; instances of which nothing is left are gone.
    """
    if instances.shape == tuple(shape):
        return instances
    factors = np.divide(shape, instances.shape)
    low = np.floor(instances.boxes[:, :2] * factors)
    high = np.ceil(instances.boxes[:, 2:] * factors)
    boxes = np.concatenate([low, np.minimum(high, shape)], axis=1).astype(int)
    masks = [
        _resample(mask, old, new, factors)
        for mask, old, new in zip(instances.masks, instances.boxes, boxes)
    ]
    left = np.flatnonzero([mask.any() for mask in masks])
    return Instances(
        shape,
        boxes[left],
        instances.scores[left],
        instances.class_ids[left],
        [masks[k] for k in left],
    )


def _resample(mask, old, new, factors):
    """A mask of the box `old` in the box `new`, whose image is larger by `factors`."""
    height, width = (new[2:] - new[:2]).tolist()
    if not mask.size or height < 1 or width < 1:
        return np.zeros((max(height, 0), max(width, 0)), bool)
    # Pixel centres: a new one at y lies at (y + 0.5) / factor - 0.5 of the old ones.
    step = 1 / factors
    start = (new[:2] + 0.5) * step - 0.5 - old[:2]
    matrix = np.array([[step[1], 0, start[1]], [0, step[0], start[0]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    resampled = cv2.warpAffine(mask.astype(np.float32), matrix, (width, height), flags=flags)
    return resampled > 0.5
