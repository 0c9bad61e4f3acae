"""OME-Zarr, versions 0.4 and 0.5: https://ngff.openmicroscopy.org."""

from mrcnn.errors import InputError
from mrcnn_nuclei.image_files import broken
from mrcnn_nuclei.slides import require
from mrcnn_nuclei.slides.zarr_levels import ZarrLevels

_MICRONS = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3, "meter": 1e6}


def open_zarr(path):
    """Open the multiscale image of an OME-Zarr folder.

    Parameters
    ----------
    path : str or Path
        Its own folder, or one that has it as image "0", as bioformats2raw writes it.

    Returns
    -------
    Slide

    Raises
    ------
    InputError
        If there is no 8-bit RGB image in it.
    """
    zarr = require("zarr")
    try:
        group = zarr.open_group(str(path), mode="r")
    except Exception:  # Zarr raises all kinds
        raise InputError(
            f"{path}: is a folder without an OME-Zarr image; give a file, or --dataset for a "
            "folder of images"
        ) from None
    try:
        image = _multiscales(group)
        if image is None and "0" in group:
            group = group["0"]
            image = _multiscales(group)
        if image is None:
            raise InputError(f"{path}: is a Zarr group without multiscales; export it as OME-Zarr")
        arrays = [group[dataset["path"]] for dataset in image["datasets"]]
        axes = image["axes"]
        names = "".join(axis["name"] for axis in axes)
        return ZarrLevels(path, arrays, names, _mpp(image, axes))
    except InputError:
        raise
    except Exception as error:  # metadata may be anything
        raise broken(path, error) from None


def _multiscales(group):
    attributes = dict(group.attrs)
    known = attributes.get("ome", attributes).get("multiscales")
    return known[0] if known else None


def _mpp(image, axes):
    """Microns per pixel of the x axis; None without a scale in a known unit."""
    x = next(k for k, axis in enumerate(axes) if axis["name"] == "x")
    micron = _MICRONS.get(axes[x].get("unit"))
    steps = [
        *image["datasets"][0].get("coordinateTransformations", ()),
        *image.get("coordinateTransformations", ()),
    ]
    scales = [step["scale"][x] for step in steps if step["type"] == "scale"]
    if micron is None or not scales:
        return None
    for scale in scales:
        micron *= scale
    return micron
