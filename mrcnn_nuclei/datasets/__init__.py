"""Readers of annotated images, one module a format.

Each of `monuseg`, `dsb2018`, `label_maps`, `outlines` and `coco` offers three functions:

- `recognises(root)` tells cheaply whether a folder (for `coco` also a file) looks like its layout;
- `find(root, subset=None)` lists the samples, in the order of their names, without reading pixels;
- `read_labels(sample, shape)` reads one annotation as an int32 label map [H, W] whose positive
  labels are nuclei, 0 background and negative labels crowds: regions to be ignored.

`NucleusDataset` puts them behind Matterport's `Dataset`.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from mrcnn.errors import InputError

__all__ = ["FORMATS", "NucleusDataset", "Sample", "detect_format", "reader"]

#: Formats read from disk, in the order in which `detect_format` tries them.
FORMATS = ("dsb2018", "monuseg", "label_maps", "outlines", "coco")

LAYOUTS = (
    "dsb2018 (ID/images/ID.png with ID/masks/*.png), "
    "monuseg (NAME.tif with NAME.xml, or train/NAME.tif with labels/NAME.png), "
    "label_maps (images/NAME.* with labels/NAME.*, or NAME.* with NAME_label.*), "
    "outlines (images/NAME.* with annotations/NAME.geojson or NAME.zip, or beside each other), "
    "coco (one JSON file, also in annotations/, with the images beside it or in images/)"
)


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and where its annotation is.

    Attributes
    ----------
    name : str
        Unique in its data set: the image's file name without suffix, or its id.
    image_path : Path
    annotation : object, optional
        What the format's `read_labels` needs: a path, several paths or parsed annotations. None
        where the image has no annotation.
    organ : str, optional
    """

    name: str
    image_path: Path
    annotation: Any = None
    organ: str | None = None

    @property
    def group(self):
        """The patient, whose images folds keep together; None for an image of its own.

        Told by names that are TCGA barcodes: "TCGA-<site>-<participant>-...".
        """
        parts = self.name.split("-")
        return "-".join(parts[:3]) if parts[0] == "TCGA" and len(parts) > 3 else None


def reader(format):
    """Return the module that reads a format.

    Raises
    ------
    InputError
        If there is no such format.
    """
    if format not in FORMATS:
        raise InputError(f"format {format!r} is unknown; choose one of {', '.join(FORMATS)}")
    return import_module(f"{__name__}.{format}")


def detect_format(root, subset=None):
    """Tell which format a data set has.

    Parameters
    ----------
    root : str or Path
    subset : str, optional
        A subfolder of `root` that is looked at too, if it exists.

    Returns
    -------
    str
        One of `FORMATS`.

    Raises
    ------
    InputError
        If `root` does not exist, holds no images, or has none of the five layouts.
    """
    from mrcnn_nuclei.image_files import IMAGE_SUFFIXES

    root = Path(root)
    if not root.exists():
        raise InputError(f"{root}: no such folder; check the path")
    folders = [root / subset, root] if subset and (root / subset).is_dir() else [root]
    for format in FORMATS:
        if any(reader(format).recognises(folder) for folder in folders):
            return format
    if root.is_dir() and not any(p.suffix.lower() in IMAGE_SUFFIXES for p in root.rglob("*")):
        raise InputError(f"{root}: no images in it; check the path")
    raise InputError(f"{root}: is none of the known layouts; arrange it as one of {LAYOUTS}")


#: Other names of subfolders: Roboflow calls them "train", "valid" and "test".
ALIASES = {"val": "valid"}


def subset_folders(root, subset=None, default=("train", "val")):
    """List the folders that make up a subset.

    Parameters
    ----------
    root : str or Path
    subset : str, optional
        Name of a subfolder of `root`; "valid" may stand for "val".
    default : sequence of str
        Subfolders that together are the whole data set, where `root` has any of them.

    Returns
    -------
    list of Path
        The subset's folder; without a subset the default subfolders, else `root` itself.

    Raises
    ------
    InputError
        If `root` or the subset's folder does not exist.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; check the path")
    if subset is None:
        return [folder for name in default if (folder := _subfolder(root, name))] or [root]
    folder = _subfolder(root, subset)
    if folder is None:
        raise InputError(f"{root}: has no subfolder {subset!r}; check the subset's name")
    return [folder]


def has_both_subfolders(root):
    """Tell whether a folder has the subsets "train" and "val"."""
    return all(_subfolder(Path(root), name) for name in ("train", "val"))


def _subfolder(root, name):
    folders = [root / x for x in (name, ALIASES.get(name)) if x]
    return next((folder for folder in folders if folder.is_dir()), None)


def check_shape(labels, shape, sample, annotation=None):
    """Refuse an annotation of another size than its image, naming both files."""
    if labels.shape[:2] != tuple(shape[:2]):
        raise InputError(
            f"{annotation or sample.annotation}: has {labels.shape[1]} x {labels.shape[0]} pixels, "
            f"its image {sample.image_path} has {shape[1]} x {shape[0]}; "
            "pair each image with its own annotation"
        )


def missing_annotation(sample):
    """Make the error for an image whose labels are asked for but do not exist."""
    return InputError(
        f"{sample.image_path}: has no annotation; add it, or leave the image out of this data set"
    )


def __getattr__(name):
    if name == "NucleusDataset":
        from mrcnn_nuclei.datasets.nucleus import NucleusDataset

        return NucleusDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
