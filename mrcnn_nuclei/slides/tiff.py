"""Pyramidal, tiled and OME-TIFF, by tifffile."""

import defusedxml.ElementTree
import tifffile

from mrcnn.errors import InputError
from mrcnn_nuclei.image_files import MAX_PIXELS, broken
from mrcnn_nuclei.slides import require
from mrcnn_nuclei.slides.zarr_levels import ZarrLevels

MICRONS = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6, "in": 25400.0}
"""Of the units that OME-XML and OME-Zarr have."""

_RESOLUTION_UNITS = {2: MICRONS["in"], 3: MICRONS["cm"]}


class TiffSlide(ZarrLevels):
    """The first image of a TIFF file, with the levels of its pyramid.

    Parameters
    ----------
    path : str or Path

    Raises
    ------
    InputError
        If it is truncated or corrupt, or no 8-bit RGB image.
    """

    def __init__(self, path):
        zarr = require("zarr")
        try:
            self._file = tifffile.TiffFile(path)
            series = self._file.series[0]
            _check_complete(path, self._file, series)
            mpp = _mpp(self._file)
            arrays = [
                zarr.open_array(series.aszarr(level=level), mode="r")
                for level in range(len(series.levels))
            ]
        except InputError:
            raise
        except Exception as error:  # decoders raise all kinds on broken files
            raise broken(path, error) from None
        super().__init__(path, arrays, series.axes, mpp)
        if series.keyframe.photometric.name not in ("RGB", "YCBCR", "MINISBLACK"):
            raise InputError(
                f"{path}: pixels of type {series.keyframe.photometric.name} are not supported in a "
                "slide; export it as RGB"
            )


def is_slide(path):
    """Whether a TIFF file is more than one plain image of moderate size, which is read whole.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    bool
        Also False if the file cannot be understood: reading it will tell why.
    """
    return _ask(path, _is_slide, default=False)


def read_mpp(path):
    """The microns per pixel that a TIFF file tells.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    float or None
        From OME-XML, else from the resolution in inches or centimetres. None if it tells none.
    """
    return _ask(path, _mpp, default=None)


def _ask(path, question, default):
    try:
        with tifffile.TiffFile(path) as file:
            return question(file)
    except Exception:  # tifffile raises all kinds on broken files
        return default


def _is_slide(file):
    page = file.pages[0]
    if page.imagelength * page.imagewidth > MAX_PIXELS:
        return True
    if len(file.pages) == 1 and not page.subifds:
        return False
    return file.is_ome or len(file.series[0].levels) > 1


def _check_complete(path, file, series):
    size = file.filehandle.size
    ends = [0]
    for level in series.levels:
        if level.dataoffset is not None:  # one piece, whose pages need not be listed
            ends.append(level.dataoffset + level.nbytes)
        for page in filter(None, level.pages):
            ends += [at + count for at, count in zip(page.dataoffsets, page.databytecounts)]
    if max(ends) > size:
        raise broken(path, "some of its strips or tiles are missing")


def _mpp(file):
    if file.is_ome:
        pixels = defusedxml.ElementTree.fromstring(file.ome_metadata).find(".//{*}Pixels")
        size = None if pixels is None else pixels.get("PhysicalSizeX")
        if size is not None:
            return float(size) * MICRONS.get(pixels.get("PhysicalSizeXUnit", "µm"), 0)
    tags = file.pages[0].tags
    unit, resolution = tags.valueof("ResolutionUnit"), tags.valueof("XResolution")
    if unit in _RESOLUTION_UNITS and resolution and resolution[0]:
        return _RESOLUTION_UNITS[unit] * resolution[1] / resolution[0]
    return None
