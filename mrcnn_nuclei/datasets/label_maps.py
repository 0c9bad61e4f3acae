"""Pairs of an image and a label map: what Fiji, QuPath, Cellpose and StarDist users have.

Either `images/NAME.*` with `labels/NAME.*` (or `masks/NAME.*`), or both in one folder as `NAME.*`
with `NAME_label.*`; for other endings see `mrcnn_nuclei.image_files.LABEL_ENDINGS`. They may follow
the name in the first layout too. Subfolders `train` and `val` with one of these layouts are
subsets.
"""

from pathlib import Path

from mrcnn.errors import InputError
from mrcnn_nuclei.datasets import Sample, check_shape, missing_annotation, subset_folders
from mrcnn_nuclei.image_files import LABEL_ENDINGS, LABEL_SUFFIXES, find_images, read_label_map

LABEL_FOLDERS = ("labels", "masks")


def recognises(root):
    """Tell whether a folder, or its `train` or `val`, has pairs or is laid out for them."""
    root = Path(root)
    return root.is_dir() and any(
        _is_laid_out(folder) or any(sample.annotation is not None for sample in _find_pairs(folder))
        for folder in subset_folders(root)
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
        Images without a label map have no annotation.

    Raises
    ------
    InputError
        If there is no such folder or no image in it.
    """
    samples = [sample for folder in subset_folders(root, subset) for sample in _find_pairs(folder)]
    if not samples:
        raise InputError(f"{root}: no images in it; format label_maps wants images/ and labels/")
    return sorted(samples, key=lambda sample: sample.name)


def read_labels(sample, shape):
    """Read the label map of a sample, as stored."""
    if sample.annotation is None:
        raise missing_annotation(sample)
    labels = read_label_map(sample.annotation)
    check_shape(labels, shape, sample)
    return labels


def _is_laid_out(folder):
    labels = any(find_images(folder / name, LABEL_SUFFIXES) for name in LABEL_FOLDERS)
    return labels and bool(find_images(folder / "images"))


def _find_pairs(folder):
    images_folder = folder / "images" if (folder / "images").is_dir() else folder
    candidates = find_images(folder, LABEL_SUFFIXES) if images_folder == folder else []
    label_maps = {path.stem: path for path in candidates if path.stem.endswith(LABEL_ENDINGS)}
    for name in LABEL_FOLDERS:
        for path in find_images(folder / name, LABEL_SUFFIXES):
            label_maps.setdefault(path.stem, path)
    own_folder_labels = {path for path in label_maps.values() if path.parent == images_folder}
    return [
        Sample(path.stem, path, _pick(label_maps, path.stem))
        for path in find_images(images_folder)
        if path not in own_folder_labels
    ]


def _pick(label_maps, name):
    names = (name, *(name + ending for ending in LABEL_ENDINGS))
    return next((label_maps[name] for name in names if name in label_maps), None)
