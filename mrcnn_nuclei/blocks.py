"""Blocks of a slide: what is read, seen and kept at once."""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mrcnn_nuclei.instance_files import pack
from mrcnn_nuclei.resolution import rescale, scaled_shape
from mrcnn_nuclei.slides import open_slide

SIDE = 2048
"""Pixels of a block's side, at the network's resolution, are at most that, or a few tiles' more."""


class Block(NamedTuple):
    """A part of a slide, in pixels of full resolution.

    Attributes
    ----------
    row, column : int
        Its place in the grid.
    core : (y1, x1, y2, x2)
        End exclusive. Cores cover the slide, and do not overlap.
    window : (y1, x1, y2, x2)
        The core, and half of the overlap around it.
    """

    row: int
    column: int
    core: tuple
    window: tuple

    @property
    def size(self):
        """(height, width) of the window."""
        y1, x1, y2, x2 = self.window
        return y2 - y1, x2 - x1


class Seen(NamedTuple):
    """What was seen in a block: packed Instances, how many, and how many tiles were full."""

    data: bytes
    count: int
    capped: int


def block_grid(shape, config, scale):
    """Cut a slide into blocks of about the same size.

    Blocks are as large as SIDE allows tiles to fit into them without a rest, and overlap by
    DETECTION_OVERLAP as tiles do. Only blocks next to each other overlap.

    Parameters
    ----------
    shape : (int, int)
        (H, W) of the slide in pixels.
    config : NucleusConfig
    scale : float
        Pixels that the network sees for each of the slide's.

    Returns
    -------
    list of Block
        Row by row.
    """
    tile, overlap = config.DETECTION_TILE, config.DETECTION_OVERLAP
    tiles = max(SIDE - tile, 4 * overlap) // (tile - overlap)
    side = math.floor((tile + tiles * (tile - overlap)) / scale)
    half = math.ceil(overlap / scale / 2)
    spans = [_spans(length, side, half) for length in shape]
    return [
        Block(row, column, (y1, x1, y2, x2), (top, left, bottom, right))
        for row, ((y1, y2), (top, bottom)) in enumerate(spans[0])
        for column, ((x1, x2), (left, right)) in enumerate(spans[1])
    ]


def _spans(length, side, half):
    """Of each block along a side, (start, end) of its core and of its window."""
    count = 1 if length <= side else math.ceil(length / (side - 2 * half))
    edges = [round(k * length / count) for k in range(count + 1)]
    return [
        ((start, end), (max(start - half, 0), min(end + half, length)))
        for start, end in zip(edges, edges[1:])
    ]


def detect_block(detector, slide, block, scale, statistics):
    """Find the nuclei of a block.

    Parameters
    ----------
    detector : Detector
    slide : Slide
    block : Block
    scale : float
        Pixels that the network sees for each of the slide's.
    statistics : (mean, std) or None
        Of the slide's tissue; see `mrcnn.images.normalize_statistics`.

    Returns
    -------
    Seen
        In full-resolution pixels of the window.
    """
    image = slide.read(block.window, scaled_shape(block.size, scale))
    found = rescale(detector.detect(image, statistics=statistics), block.size)
    return Seen(pack(found), len(found), detector.capped)


def detect_block_of(recipe, path, block, scale, statistics):
    """Find the nuclei of a block, in a process that knows no more than where everything is.

    Parameters
    ----------
    recipe
        `recipe.load()` returns the detector; see `mrcnn_nuclei.detector.Recipe`.
    path : str
        Of the slide, as this machine sees it.
    block, scale, statistics
        See `detect_block`.

    Returns
    -------
    Seen
    """
    return detect_block(_load(recipe), _open(path), block, scale, statistics)


@lru_cache(maxsize=1)
def _load(recipe):
    return recipe.load()


@lru_cache(maxsize=1)
def _open(path):
    return open_slide(path)


def touches(block, mask, shape):
    """Whether a mask of a slide, of whatever size, is true anywhere in a block's core.

    Parameters
    ----------
    block : Block
    mask : bool array [h, w]
    shape : (int, int)
        (H, W) of the slide.
    """
    y1, x1, y2, x2 = np.array(block.core) * np.tile(np.divide(mask.shape, shape), 2)
    return mask[int(y1) : math.ceil(y2), int(x1) : math.ceil(x2)].any()
