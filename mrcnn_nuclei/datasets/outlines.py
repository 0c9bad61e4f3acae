"""Pairs of an image and what was drawn on it in QuPath, Fiji or Cellpose.

Either `images/NAME.*` with `annotations/NAME.geojson` (or `labels/`, `masks/`), or both in one
folder. QuPath's outlines are GeoJSON, compressed or not; Fiji's a zip of the ROI Manager;
Cellpose's labels `NAME_seg.npy`. QuPath may keep the image's own suffix: `NAME.png.geojson`.
"""

from pathlib import Path

from mrcnn.errors import InputError
from mrcnn_nuclei.datasets import Sample, check_shape, missing_annotation, subset_folders
from mrcnn_nuclei.datasets.label_maps import LABEL_FOLDERS
from mrcnn_nuclei.formats import cellpose, geojson, imagej
from mrcnn_nuclei.image_files import find_images

READERS = {
    ".geojson": geojson.read,
    ".geojson.gz": geojson.read,
    ".zip": imagej.read,
    "_seg.npy": cellpose.read,
}
"""By the end of the file's name; of several files the first in this order counts."""

FOLDERS = ("annotations", *LABEL_FOLDERS)


def recognises(root):
    """Tell whether a folder, or its `train` or `val`, holds at least one pair."""
    root = Path(root)
    return root.is_dir() and any(
        sample.annotation is not None
        for folder in subset_folders(root)
        for sample in _find_pairs(folder)
    )


def find(root, subset=None):
    """List the images of a folder of pairs.

    Parameters
    ----------
    root : str or Path
    subset : str, optional
        A subfolder. Default: "train" and "val" where they exist, else `root`.

    Returns
    -------
    list of Sample
        Images without outlines have no annotation.

    Raises
    ------
    InputError
        If there is no such folder or no image in it.
    """
    samples = [sample for folder in subset_folders(root, subset) for sample in _find_pairs(folder)]
    if not samples:
        raise InputError(f"{root}: no images in it; format outlines wants images/ and annotations/")
    return sorted(samples, key=lambda sample: sample.name)


def read_labels(sample, shape):
    """Fill the outlines of a sample; where two overlap, the first of the file wins."""
    if sample.annotation is None:
        raise missing_annotation(sample)
    read = next(READERS[end] for end in READERS if sample.annotation.name.lower().endswith(end))
    labels = read(sample.annotation, tuple(shape[:2])).to_label_map()
    check_shape(labels, shape, sample)
    return labels


def _find_pairs(folder):
    images = folder / "images" if (folder / "images").is_dir() else folder
    places = [folder / name for name in FOLDERS if (folder / name).is_dir()] or [folder]
    drawn = {path.name.lower(): path for place in places for path in place.iterdir()}
    return [Sample(path.stem, path, _pick(drawn, path)) for path in find_images(images)]


def _pick(drawn, image):
    names = (name.lower() + end for end in READERS for name in (image.stem, image.name))
    return next((drawn[name] for name in names if name in drawn), None)
