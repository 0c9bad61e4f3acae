"""File formats for results. Each is a module with a `write`, loaded when it is first asked for.

A writer of one file an image is called as `write(path, instances, image=None)`, with the uint8 RGB
image where there is one. A writer of one file a set is called as `write(path, predictions)`, with a
mapping, or pairs, of each image's file name and its Instances.
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
    "csv": Writer("mrcnn_nuclei.formats.measurements", "measurements/{name}.csv"),
    "coco": Writer("mrcnn_nuclei.formats.coco", "coco.json"),
    "rle": Writer("mrcnn_nuclei.formats.rle", "submission.csv"),
}


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
