"""Images that need not fit into memory: read window by window, at whatever resolution.

`open_slide` reads what OpenSlide reads (extra `slides`), pyramidal, tiled and OME-TIFF, OME-Zarr,
and every picture that `mrcnn_nuclei.image_files` reads.
"""

import importlib
from pathlib import Path

from mrcnn.errors import InputError
from mrcnn_nuclei.image_files import read_image
from mrcnn_nuclei.slides.slide import Slide

OPENSLIDE_SUFFIXES = {".svs", ".svslide", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif"}
OPENSLIDE_SUFFIXES |= {".czi", ".dcm"}
"""Files that OpenSlide is asked to open; TIFF is tifffile's."""

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class Picture(Slide):
    """An image that is in memory.

    Parameters
    ----------
    pixels : uint8 array [H, W, 3]
    path : str or Path
        Where it comes from.
    mpp : float, optional
        Microns per pixel.
    """

    def __init__(self, pixels, path="", mpp=None):
        super().__init__(path, [pixels.shape[:2]], mpp)
        self.pixels = pixels

    def _read_level(self, level, window):
        y1, x1, y2, x2 = window
        return self.pixels[y1:y2, x1:x2]


def open_slide(path):
    """Open an image of any size.

    Parameters
    ----------
    path : str or Path
        A file, or the folder of an OME-Zarr.

    Returns
    -------
    Slide
        A `Picture` where the file holds one plain image of moderate size: it is read whole.

    Raises
    ------
    InputError
        If it is missing, truncated, corrupt, a decompression bomb or no RGB image, or the package
        that reads it is not installed.
    """
    path = Path(path)
    if path.is_dir():
        return _module("ome_zarr").open_zarr(path)
    if path.suffix.lower() in OPENSLIDE_SUFFIXES and path.is_file():
        return _module("openslide").OpenSlideFile(path)
    mpp = None
    if _is_tiff(path):
        tiff = _module("tiff")
        if tiff.is_slide(path):
            return tiff.TiffSlide(path)
        mpp = tiff.read_mpp(path)
    return Picture(read_image(path), path, mpp)


def require(package):
    """Import an optional package of the extra `slides`.

    Parameters
    ----------
    package : str

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise InputError(
            f"this needs the package {package}; pip install 'mrcnn-nuclei[slides]'"
        ) from None


def _module(name):
    return importlib.import_module(f"mrcnn_nuclei.slides.{name}")


def _is_tiff(path):
    try:
        with open(path, "rb") as file:
            return file.read(4) in TIFF_STARTS
    except OSError:
        return False  # read_image says what is wrong
