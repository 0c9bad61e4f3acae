"""File formats for results. Each is a module with a `write`, loaded when it is first asked for.

A writer of one file an image is called as `write(path, found, image=None, mpp=None)`:

- `found` is an `Instances`, or stands for a slide: it has `shape` (H, W), a length, and `bands()`,
  see `bands`. Nuclei are numbered from 1 in that order.
- `image` is uint8 RGB [H, W, 3], something that is sliced like it, or None.
- `mpp` is the size of a pixel in microns, or None where it is unknown.

Such writers go band by band and hold one at a time: a slide of a million nuclei costs no more
memory than its densest band. A writer of one file a set is called as `write(path, predictions)`,
with a mapping, or pairs, of each image's file name and its Instances; it is for sets of images, not
slides.

Where a format can be read too, its module has a `read`; `mrcnn_nuclei.predictions` knows of them.
"""

import difflib
import importlib
from pathlib import Path
from typing import NamedTuple

from mrcnn.errors import InputError


class Writer(NamedTuple):
    """Where a format's `write` is, and the name of its file under the output folder.

    `file` has a place for the image's name without suffix; a file without one holds the whole set.
    """

    module: str
    file: str

    @property
    def per_image(self):
        return "{" in self.file

    def path(self, folder, name=None):
        """The file to write under `folder`, for the image called `name`."""
        return Path(folder) / self.file.format(name=name)

    def write(self, path, *args, **kwargs):
        """Call the format's `write`."""
        return importlib.import_module(self.module).write(path, *args, **kwargs)


#: What `--write` accepts.
WRITERS = {
    "overlay": Writer("mrcnn_nuclei.overlay", "overlay/{name}.png"),
    "labels": Writer("mrcnn_nuclei.formats.label_tiff", "labels/{name}.tif"),
    "geojson": Writer("mrcnn_nuclei.formats.geojson", "geojson/{name}.geojson"),
    "geojson.gz": Writer("mrcnn_nuclei.formats.geojson", "geojson/{name}.geojson.gz"),
    "imagej": Writer("mrcnn_nuclei.formats.imagej", "imagej/{name}.zip"),
    "xml": Writer("mrcnn_nuclei.formats.imagescope", "xml/{name}.xml"),
    "zarr": Writer("mrcnn_nuclei.formats.ome_zarr", "zarr/{name}.zarr"),
    "csv": Writer("mrcnn_nuclei.formats.measurements", "measurements/{name}.csv"),
    "parquet": Writer("mrcnn_nuclei.formats.measurements", "measurements/{name}.parquet"),
    "coco": Writer("mrcnn_nuclei.formats.coco", "coco.json"),
    "rle": Writer("mrcnn_nuclei.formats.rle", "submission.csv"),
}


def bands(found):
    """Go through the nuclei of an image or a slide from top to bottom, some at a time.

    Parameters
    ----------
    found : Instances, or an object with `bands()`

    Returns
    -------
    iterator of (int, Instances)
        Row `top` and nuclei. None of these nuclei, or of later ones, has a pixel above `top`, so
        that what lies there is complete. The shape is that of the whole image in every band; an
        Instances is one band.
    """
    return iter(found.bands() if hasattr(found, "bands") else [(0, found)])


def require(package):
    """Import an optional package of the extra `formats`.

    Raises
    ------
    InputError
        If it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise InputError(
            f"this format needs the package {package}; pip install 'mrcnn-nuclei[formats]'"
        ) from None


def parse_writers(text):
    """Read the value of `--write`.

    Parameters
    ----------
    text : str
        Names of WRITERS, separated by commas.

    Returns
    -------
    list of str
        Each name once, in the order given.

    Raises
    ------
    InputError
        If a name is unknown, or there is none.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in WRITERS:
            near = difflib.get_close_matches(name, WRITERS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(WRITERS)}"
            raise InputError(f"--write: no format {name!r}; {hint}")
    if not names:
        raise InputError(f"--write: no format given; choose from {', '.join(WRITERS)}")
    return names
