"""Label map as TIFF: 0 is background, k is the k-th nucleus. For Fiji, napari and QuPath.

Large ones are tiled OME-TIFF, which these programs open without reading all of it:
https://docs.openmicroscopy.org/ome-model/stable/ome-tiff/specification.html
"""

import math

import numpy as np
import tifffile

from mrcnn.files import atomic_path
from mrcnn.instances import Instances
from mrcnn_nuclei.formats.raster import label_dtype, label_strips
from mrcnn_nuclei.image_files import read_label_map

#: Pixels above which a label map is tiled.
LARGE = 4096 * 4096

#: Side of a tile in pixels.
TILE = 512


def write(path, found, image=None, mpp=None):
    """Write the label map of one image.

    Parameters
    ----------
    path : str or Path
    found : Instances, or an object with `bands()`
        The best score wins a contested pixel.
    image : ignored
    mpp : float, optional
        Microns per pixel, noted in OME-TIFF.

    Notes
    -----
    16 bits a pixel, 32 above 65,535 nuclei; compressed with zlib. Above LARGE pixels it is a
    BigTIFF with tiles of TILE x TILE pixels and OME metadata.
    """
    options = {"photometric": "minisblack", "compression": "zlib"}
    with atomic_path(path) as temporary:
        if math.prod(found.shape) <= LARGE:
            (labels,) = label_strips(found, found.shape[0])
            tifffile.imwrite(temporary, labels, **options)
            return
        size = {} if mpp is None else _physical_size(mpp)
        with tifffile.TiffWriter(temporary, bigtiff=True, ome=True) as tiff:
            tiff.write(
                _tiles(found),
                shape=found.shape,
                dtype=label_dtype(found),
                tile=(TILE, TILE),
                metadata={"axes": "YX", **size},
                **options,
            )


def read(path, shape=None):
    """Read a label map as Instances.

    Parameters
    ----------
    path : str or Path
    shape : ignored
        The file tells it.

    Returns
    -------
    Instances
        In ascending order of their labels.

    Raises
    ------
    InputError
        If the file is not a label map.
    """
    return Instances.from_label_map(read_label_map(path))


def _physical_size(mpp):
    return {f"PhysicalSize{axis}": mpp for axis in "XY"} | {
        f"PhysicalSize{axis}Unit": "µm" for axis in "XY"
    }


def _tiles(found):
    """The tiles row by row, padded with background at the right and bottom edge."""
    for strip in label_strips(found, TILE):
        right = -strip.shape[1] % TILE
        strip = np.pad(strip, ((0, TILE - len(strip)), (0, right)))
        for x in range(0, strip.shape[1], TILE):
            yield np.ascontiguousarray(strip[:, x : x + TILE])
