"""Label map as OME-Zarr: a pyramid of chunks in a folder, for napari and programs of big images.

A label image of OME-NGFF 0.4 (https://ngff.openmicroscopy.org/0.4/): 0 is background, k is the k-th
nucleus. It may be moved into the folder `labels` of its image's OME-Zarr.
"""

import math
from pathlib import Path

import numpy as np

from mrcnn.errors import InputError
from mrcnn.files import atomic_folder
from mrcnn.instances import Instances
from mrcnn_nuclei.formats import require
from mrcnn_nuclei.formats.raster import label_dtype, label_strips
from mrcnn_nuclei.image_files import MAX_PIXELS

#: Side of a chunk in pixels; a power of 2, so that strips of it fit every level of the pyramid.
CHUNK = 512

VERSION = "0.4"


def write(path, found, image=None, mpp=None):
    """Write the label map of one image.

    Parameters
    ----------
    path : str or Path
        A folder, replaced if it is there.
    found : Instances, or an object with `bands()`
        The best score wins a contested pixel.
    image : ignored
    mpp : float, optional
        Microns per pixel, for the scale of the axes.

    Notes
    -----
    Each level of the pyramid has every second pixel of the one below it, until it fits a chunk.
    16 bits a pixel, 32 above 65,535 nuclei; compressed with zlib; chunks of background are absent.
    """
    zarr, numcodecs = require("zarr"), require("numcodecs")
    steps = [2**level for level in range(_levels(found.shape))]
    with atomic_folder(path) as folder:
        group = zarr.create_group(
            str(folder), zarr_format=2, attributes=_metadata(path, steps, mpp)
        )
        levels = [
            group.create_array(
                str(level),
                shape=[math.ceil(size / step) for size in found.shape],
                dtype=label_dtype(found),
                chunks=(CHUNK, CHUNK),
                compressors=numcodecs.Zlib(),
                chunk_key_encoding={"name": "v2", "separator": "/"},
                fill_value=0,
            )
            for level, step in enumerate(steps)
        ]
        for k, strip in enumerate(label_strips(found, CHUNK)):
            for step, array in zip(steps, levels):
                rows = strip[::step, ::step]
                top = k * CHUNK // step
                array[top : top + len(rows)] = rows


def read(path, shape=None):
    """Read a label map from OME-Zarr.

    Parameters
    ----------
    path : str or Path
        A label image, or an image with one in its folder `labels`; of OME-NGFF 0.4 or 0.5.
    shape : ignored
        The folder tells it.

    Returns
    -------
    Instances
        In ascending order of their labels.

    Raises
    ------
    InputError
        If it cannot be read, has not exactly one label image of one plane of whole numbers, or is
        too large.
    """
    zarr = require("zarr")
    try:
        labels = _full_resolution(path, zarr.open_group(str(path), mode="r"))
        if math.prod(labels.shape) > MAX_PIXELS:
            raise InputError(
                f"{path}: {' x '.join(map(str, labels.shape))} pixels are more than the limit of "
                f"{MAX_PIXELS:,}; cut it into smaller images"
            )
        if len(labels.shape) < 2 or math.prod(labels.shape[:-2]) != 1:
            raise InputError(
                f"{path}: its labels are {' x '.join(map(str, labels.shape))}; export one plane"
            )
        if labels.dtype.kind not in "biu":  # objects might come with code to make them of
            raise InputError(f"{path}: its labels are {labels.dtype}; export them as integers")
        plane = np.asarray(labels[...]).reshape(labels.shape[-2:])
    except InputError:
        raise
    except Exception as error:  # zarr raises all kinds on broken folders
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: is no readable OME-Zarr ({reason}); export or copy it again"
        ) from None
    try:
        return Instances.from_label_map(plane)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _levels(shape):
    """Number of levels; a step beyond the chunk's side would skip strips."""
    return 1 + sum(max(shape) > CHUNK * 2**level for level in range(CHUNK.bit_length() - 1))


def _metadata(path, steps, mpp):
    unit = {} if mpp is None else {"unit": "micrometer"}
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [{"type": "scale", "scale": [step * (mpp or 1.0)] * 2}],
        }
        for level, step in enumerate(steps)
    ]
    multiscale = {
        "version": VERSION,
        "name": Path(path).stem,
        "axes": [{"name": axis, "type": "space", **unit} for axis in "yx"],
        "datasets": datasets,
    }
    return {"multiscales": [multiscale], "image-label": {"version": VERSION}}


def _full_resolution(path, group):
    """The largest array of a label image, or of the only one of an image."""
    if "labels" in group and "image-label" not in _attributes(group):
        group = group["labels"]
    names = _attributes(group).get("labels")
    if names is not None:
        if len(names) != 1:
            raise InputError(
                f"{path}: has {len(names)} label images ({', '.join(names)}); give the folder of "
                "the wanted one"
            )
        group = group[names[0]]
    return group[_attributes(group)["multiscales"][0]["datasets"][0]["path"]]


def _attributes(group):
    """OME's metadata, which 0.5 has moved one level down."""
    attributes = group.attrs.asdict()
    return attributes.get("ome", attributes)
