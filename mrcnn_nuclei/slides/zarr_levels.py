"""A pyramid of arrays as Zarr has them, be they a folder's or a TIFF file's."""

import numpy as np

from mrcnn.errors import InputError
from mrcnn_nuclei.image_files import MAX_PIXELS, broken
from mrcnn_nuclei.slides.slide import Slide


class ZarrLevels(Slide):
    """A slide whose levels are Zarr arrays.

    Parameters
    ----------
    path : str or Path
    arrays : list of zarr.Array
        Full resolution first.
    axes : str
        A letter for each dimension: Y, X and, for colours, S or C; of any other there is one.
    mpp : float, optional
        Microns per pixel.

    Raises
    ------
    InputError
        If the pixels are not 8-bit RGB or grey, or are stored in pieces too large to decode.
    """

    def __init__(self, path, arrays, axes, mpp=None):
        self._arrays, self._axes = arrays, axes.upper().replace("S", "C")
        first = arrays[0]
        sizes = dict(zip(self._axes, first.shape))
        if sizes.pop("Y", 0) < 1 or sizes.pop("X", 0) < 1 or sizes.pop("C", 1) not in (1, 3, 4):
            raise InputError(
                f"{path}: has {' x '.join(map(str, first.shape))} values (axes: {axes}), which is "
                "no RGB image; export it as one"
            )
        if any(size != 1 for size in sizes.values()):
            raise InputError(
                f"{path}: is a stack ({' x '.join(map(str, first.shape))}, axes: {axes}), not one "
                "image; save the wanted one as a file of its own"
            )
        if any(array.dtype != np.uint8 for array in arrays):
            raise InputError(
                f"{path}: pixels are {first.dtype}; slides are read with 8 bits a colour, so "
                "export it as 8-bit RGB"
            )
        chunk = max(_pixels_of_chunk(array, self._axes) for array in arrays)
        if chunk > MAX_PIXELS:
            raise InputError(
                f"{path}: is stored in pieces of {chunk:,} pixels, more than the limit of "
                f"{MAX_PIXELS:,}; save it in tiles"
            )
        rows, columns = self._axes.index("Y"), self._axes.index("X")
        levels = [(array.shape[rows], array.shape[columns]) for array in arrays]
        super().__init__(path, levels, mpp)

    def _read_level(self, level, window):
        y1, x1, y2, x2 = window
        where = {"Y": slice(y1, y2), "X": slice(x1, x2), "C": slice(0, 3)}
        try:
            pixels = self._arrays[level][tuple(where.get(axis, 0) for axis in self._axes)]
        except Exception as error:  # decoders raise all kinds on broken files
            raise broken(self.path, error) from None
        left = [axis for axis in self._axes if axis in where]
        if "C" not in left:
            pixels, left = pixels[..., np.newaxis], [*left, "C"]
        pixels = np.transpose(pixels, [left.index(axis) for axis in "YXC"])
        if pixels.shape[2] < 3:
            pixels = np.repeat(pixels[..., :1], 3, axis=2)
        return np.ascontiguousarray(pixels)


def _pixels_of_chunk(array, axes):
    sides = dict(zip(axes, array.chunks))
    return sides["Y"] * sides["X"]
