"""What all slides have in common: levels of a pyramid, and windows read from the best of them."""

import numpy as np
from PIL import Image

from mrcnn_nuclei.config import PLAUSIBLE_MPP

PIECE = 2048
"""Side in pixels of what is read at once where a whole level is looked at."""


class Slide:
    """An image as a pyramid of levels, of which no more is in memory than what is asked for.

    `slide[y1:y2, x1:x2]` is a window at full resolution, uint8 [h, w, 3].

    Parameters
    ----------
    path : str or Path
    levels : list of (int, int)
        (h, w) of each level in pixels, full resolution first.
    mpp : float, optional
        Microns per pixel at full resolution; None, or not plausible: unknown.

    Attributes
    ----------
    path : str
    shape : (int, int, int)
        (H, W, 3) at full resolution.
    mpp : float or None
    """

    def __init__(self, path, levels, mpp=None):
        self.path = str(path)
        self.levels = levels
        self.shape = (*(int(side) for side in levels[0]), 3)
        self.mpp = mpp if mpp and PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1] else None

    def _read_level(self, level, window):
        """The pixels of a window (y1, x1, y2, x2) of a level, uint8 [h, w, 3]."""
        raise NotImplementedError

    def __getitem__(self, key):
        rows, columns = key
        (y1, y2, _), (x1, x2, _) = rows.indices(self.shape[0]), columns.indices(self.shape[1])
        if y2 <= y1 or x2 <= x1:
            return np.zeros((max(y2 - y1, 0), max(x2 - x1, 0), 3), np.uint8)
        return self._read_level(0, (y1, x1, y2, x2))

    def read(self, window, shape=None):
        """Read a window, at full resolution or any other.

        Parameters
        ----------
        window : (y1, x1, y2, x2)
            In pixels of full resolution, end exclusive, inside the image.
        shape : (int, int), optional
            (h, w) to show it in. It comes from the coarsest level that is no coarser than that.

        Returns
        -------
        uint8 array [h, w, 3]
        """
        y1, x1, y2, x2 = (int(side) for side in window)
        if shape is None or tuple(shape) == (y2 - y1, x2 - x1):
            return np.ascontiguousarray(self._read_level(0, (y1, x1, y2, x2)))
        level = self._best_level((y2 - y1) / shape[0], (x2 - x1) / shape[1])
        sides = np.array(self.levels[level])
        start, end = (np.array(corner) * sides / self.shape[:2] for corner in ((y1, x1), (y2, x2)))
        whole = np.clip(np.floor(start), 0, sides - 1).astype(int)
        pixels = self._read_level(level, (*whole.tolist(), *np.ceil(end).astype(int).tolist()))
        return resize_pixels(pixels, shape, (*(start - whole), *(end - whole)))

    def thumbnail(self, shape):
        """The whole image in a small size, read piece by piece.

        Parameters
        ----------
        shape : (int, int)
            (h, w) in pixels.

        Returns
        -------
        uint8 array [h, w, 3]
        """
        height, width = shape
        factor = np.divide(self.shape[:2], shape)
        level = self._best_level(*factor)
        side = np.maximum(PIECE * np.divide(shape, self.levels[level]), 1).astype(int)
        small = np.empty((height, width, 3), np.uint8)
        for y in range(0, height, side[0]):
            for x in range(0, width, side[1]):
                part = small[y : y + side[0], x : x + side[1]]
                corners = np.array([(y, x), (y + part.shape[0], x + part.shape[1])]) * factor
                window = np.rint(corners).astype(int)
                window[1] = np.maximum(window[1], window[0] + 1)
                part[:] = self.read(window.ravel(), part.shape[:2])
        return small

    def _best_level(self, *factors):
        """The coarsest level that is reduced by no more than the factors of rows and columns."""
        fits = [
            level
            for level, sides in enumerate(self.levels)
            if (np.divide(self.shape[:2], sides) <= np.multiply(factors, 1.01)).all()
        ]
        return max(fits, default=0)


def resize_pixels(pixels, shape, part=None):
    """Resize an image: averaged where it becomes smaller, interpolated where it grows.

    Parameters
    ----------
    pixels : uint8 array [H, W, 3]
    shape : (int, int)
        (h, w) of the result.
    part : (y1, x1, y2, x2), optional
        What of the image to show, in fractions of its pixels too; by default all.

    Returns
    -------
    uint8 array [h, w, 3]
    """
    height, width = (int(side) for side in shape)
    y1, x1, y2, x2 = part or (0, 0, *pixels.shape[:2])
    if part is None and pixels.shape[:2] == (height, width):
        return pixels
    smaller = height * width < (y2 - y1) * (x2 - x1)
    method = Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC
    box = (x1, y1, min(x2, pixels.shape[1]), min(y2, pixels.shape[0]))
    return np.array(Image.fromarray(pixels).resize((width, height), method, box))
