"""Where on a slide tissue lies, and how bright it is."""

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from mrcnn.images import LEAST_DEVIATION

REDUCTION = 32
"""Full-resolution pixels along a side of a pixel of the mask: 8 microns at 40x."""

CHROMA = (12, 25)
"""Least and greatest threshold, in grey levels between the strongest and the weakest colour. Glass
has less than the least; a slide full of tissue must not be parted into stronger and weaker."""

DARK = 160
"""Grey levels of the strongest colour below which something is tissue though it has no hue."""

MARGIN = 2
"""Pixels of the mask by which tissue is grown; gaps up to twice that are closed with it."""

SAMPLES = 64
SAMPLE_SIDE = 256
"""How many windows of the tissue are looked at to normalise it, and their side in pixels."""


def find_tissue(slide):
    """Tell tissue from glass, on a small version of a slide.

    Glass is bright and has no colour. The threshold between the two is Otsu's, of the difference
    between the strongest and the weakest colour, within CHROMA; what is darker than DARK counts
    too. Rather too much than too little is taken for tissue.

    Parameters
    ----------
    slide : Slide

    Returns
    -------
    bool array [h, w]
        Each pixel stands for about REDUCTION x REDUCTION of the slide's.
    """
    shape = [max(1, round(side / REDUCTION)) for side in slide.shape[:2]]
    small = slide.thumbnail(shape)
    strongest = small.max(axis=2)
    chroma = strongest - small.min(axis=2)
    threshold = np.clip(threshold_otsu(chroma), *CHROMA) if np.ptp(chroma) else CHROMA[0]
    tissue = (chroma > threshold) | (strongest < DARK)
    return ndimage.binary_dilation(tissue, np.ones((2 * MARGIN + 1, 2 * MARGIN + 1)))


def tissue_statistics(slide, tissue, scale, prepare=lambda image: image):
    """Mean and deviation of a slide's tissue, as z-score normalisation wants them.

    They are of the same windows, drawn at random, whatever is detected in which order. A small
    version of the slide would do for the mean only: shrinking lowers the deviation.

    Parameters
    ----------
    slide : Slide
    tissue : bool array [h, w]
        From `find_tissue`.
    scale : float
        Pixels of what the network sees for each of the slide's.
    prepare : callable, optional
        What is done to each window first: uint8 [h, w, 3] -> uint8 [h, w, 3].

    Returns
    -------
    (mean, std) or None
        Of each channel, float64 [3]; see `mrcnn.images.normalize_statistics`. None without tissue.
    """
    rows, columns = np.nonzero(tissue)
    if not len(rows):
        return None
    chosen = np.random.default_rng(0).permutation(len(rows))[:SAMPLES]
    step = np.divide(slide.shape[:2], tissue.shape)
    side = np.minimum(round(SAMPLE_SIDE / scale), slide.shape[:2])
    total, squares, count = np.zeros(3), np.zeros(3), 0
    for place in np.stack([rows, columns], axis=1)[chosen]:
        start = np.clip((place + 0.5) * step - side / 2, 0, slide.shape[:2] - side).astype(int)
        window = (*start, *(start + side))
        pixels = prepare(slide.read(window, np.maximum(np.rint(side * scale), 1).astype(int)))
        y, x = (
            ((first + (np.arange(size) + 0.5) * length / size) / ratio).astype(int)
            for first, size, length, ratio in zip(start, pixels.shape, side, step)
        )
        values = pixels[tissue[np.ix_(y, x)]].astype(float)
        total += values.sum(axis=0)
        squares += (values**2).sum(axis=0)
        count += len(values)
    mean = total / count
    return mean, np.maximum(np.sqrt(np.maximum(squares / count - mean**2, 0)), LEAST_DEVIATION)
