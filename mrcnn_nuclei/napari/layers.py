"""Image layers of napari as images, and nuclei as layers of labels; without napari itself."""

from pathlib import Path

import numpy as np

from mrcnn.errors import InputError
from mrcnn_nuclei.predictions import is_zarr, open_predictions

PLACE = ("scale", "translate")
"""What of an image layer its labels share, so that they lie on it."""


def labels_layer(nuclei, name, **attributes):
    """The nuclei of an image as napari adds them.

    Parameters
    ----------
    nuclei : Instances
    name : str
        Of the layer.
    **attributes
        Further ones of `napari.layers.Labels`.

    Returns
    -------
    (int32 array [H, W], dict, "labels")
        napari's "layer data tuple". Nucleus k has the label k + 1; `features` hold, for each label
        as `index`, the `score` and the `area` in pixels.
    """
    features = {
        "index": np.arange(1, len(nuclei) + 1),
        "score": nuclei.scores,
        "area": nuclei.areas,
    }
    return nuclei.to_label_map(), {"name": name, "features": features, **attributes}, "labels"


def rgb_pixels(layer):
    """The pixels of an image layer as detectors want them.

    Parameters
    ----------
    layer : napari.layers.Image
        Of several resolutions the finest is taken.

    Returns
    -------
    uint8 array [H, W, 3]

    Raises
    ------
    InputError
        If the layer is a stack, or its pixels have not 8 bits.
    """
    pixels = np.asarray(layer.data[0] if layer.multiscale else layer.data)
    if pixels.ndim != (3 if layer.rgb else 2):
        raise InputError(
            f"{layer.name}: is a stack of {pixels.ndim} dimensions; choose a layer of one image"
        )
    if pixels.dtype != np.uint8:
        raise InputError(f"{layer.name}: pixels are {pixels.dtype}; convert them to 8 bits (uint8)")
    if not layer.rgb:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])


def place_of(layer):
    """Where a layer lies, as attributes of another of two dimensions."""
    return {name: np.asarray(getattr(layer, name))[-2:] for name in PLACE}


def read_nuclei(path, image_path, shape):
    """The nuclei that a file, or one of a folder, tells of an image.

    Parameters
    ----------
    path : str or Path
        See `mrcnn_nuclei.predictions.open_predictions`. Of a file, or an OME-Zarr, that tells of
        one image only, the name does not matter.
    image_path : str or Path
    shape : (int, int)
        (H, W) of the image.

    Returns
    -------
    Instances

    Raises
    ------
    InputError
        If there is nothing for the image, or it cannot be read or has another size.
    """
    name = Path(image_path).stem
    predictions = open_predictions(path)
    is_one = Path(path).is_file() or is_zarr(Path(path))
    if is_one and len(predictions.names) == 1 and not predictions.has(name):
        (name,) = predictions.names
    if not predictions.has(name):
        raise InputError(f"{path}: tells nothing of an image {name}; name the file that does")
    nuclei = predictions.read(name, shape)
    if nuclei.shape != tuple(shape):
        sizes = " and ".join(f"{h} x {w}" for h, w in (nuclei.shape, shape))
        raise InputError(f"{path}: is of another size than {image_path}: {sizes} pixels")
    return nuclei
