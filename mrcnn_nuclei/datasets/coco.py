"""COCO instances: one JSON file with polygons or run lengths, images beside it or in `images`.

The file may be in `annotations`, and then the images of `instances_SUBSET.json` in `images/SUBSET`,
as CVAT has them. All categories count as nuclei. Annotations with `iscrowd` become negative labels.
Lin et al., "Microsoft COCO: Common Objects in Context", 2014.
"""

import json
import logging
from functools import cache
from pathlib import Path

import numpy as np

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn_nuclei.datasets import Sample, missing_annotation, subset_folders

LOGGER = logging.getLogger("mrcnn_nuclei")

#: JSON files that may lie in a data set's folder without being its annotation.
OTHER_FILES = ("folds.json", "organs.json", "sources.json")


def recognises(root):
    """Tell whether this is a JSON file, or a folder (or its `train` or `val`) with just one."""
    root = Path(root)
    if root.is_file():
        return root.suffix.lower() == ".json"
    return root.is_dir() and any(len(_json_files(folder)) == 1 for folder in subset_folders(root))


def find(root, subset=None):
    """List the images of a COCO file.

    Parameters
    ----------
    root : str or Path
        The JSON file, or a folder that holds exactly one.
    subset : str, optional
        A subfolder with a JSON file of its own. Default: "train" and "val" where they exist.

    Returns
    -------
    list of Sample
        The annotation is a tuple of the file's path, its record of the image and the list of the
        image's annotations, in the order of the file and empty for an image without nuclei. It is
        None for all images if the file has no "annotations".

    Raises
    ------
    InputError
        If there is no such file or folder, not exactly one JSON file in it, not a COCO file, or an
        image that it names is missing.
    """
    root = Path(root)
    if root.is_file():
        if subset is not None:
            raise InputError(f"{root}: is a file without subfolders; give its folder, or no subset")
        json_paths = [root]
    else:
        json_paths = [_only_json(folder) for folder in subset_folders(root, subset)]
    samples = [sample for path in json_paths for sample in _find_in(path)]
    if not samples:
        raise InputError(f"{root}: lists no images; check that it is the wanted COCO file")
    return sorted(samples, key=lambda sample: sample.name)


def read_labels(sample, shape):
    """Paint the annotations of a sample in the order of the file, labelled from 1; crowds first."""
    if sample.annotation is None:
        raise missing_annotation(sample)
    json_path, record, annotations = sample.annotation
    height, width = shape[:2]
    size = (record.get("height", height), record.get("width", width))
    if size != (height, width):
        raise InputError(
            f"{json_path}: says {size[1]} x {size[0]} pixels for {sample.image_path}, which has "
            f"{width} x {height}; pair each image with its own annotation"
        )
    try:
        instances = Instances.from_coco(annotations, (height, width))
    except Exception as error:  # pycocotools raises all kinds
        raise InputError(
            f"{json_path}: has no usable segmentation for {sample.image_path} "
            f"({str(error) or type(error).__name__}); export polygons or run lengths again"
        ) from None
    crowd = np.array([bool(annotation.get("iscrowd")) for annotation in annotations], bool)
    labels = np.zeros((height, width), np.int32)
    for k in np.argsort(~crowd, kind="stable"):  # nuclei are painted over crowds
        y1, x1, y2, x2 = instances.boxes[k]
        labels[y1:y2, x1:x2][instances.masks[k]] = -(k + 1) if crowd[k] else k + 1
    return labels


def read_file(json_path):
    """Read a COCO file.

    Parameters
    ----------
    json_path : Path

    Returns
    -------
    list of (Path, dict, list of dict)
        The file name of each image, its record, and its annotations in the order of the file; None
        for the latter if the file has no "annotations".

    Raises
    ------
    InputError
        If it is no COCO file.
    """
    try:
        content = json.loads(json_path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{json_path}: is no readable JSON ({error}); export it again") from None
    try:
        annotations = {record["id"]: [] for record in content["images"]}
        for annotation in content.get("annotations", ()):
            annotations[annotation["image_id"]].append(annotation)
        annotated = "annotations" in content
        return [
            (Path(record["file_name"]), record, annotations[record["id"]] if annotated else None)
            for record in content["images"]
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{json_path}: is not a COCO instances file ({type(error).__name__}: {error}); "
            "it wants the lists images and annotations"
        ) from None


def _json_files(folder):
    for place in (folder, folder / "annotations"):
        paths = sorted(path for path in place.glob("*.json") if path.name not in OTHER_FILES)
        if paths:
            return paths
    return []


def _only_json(folder):
    paths = _json_files(folder)
    if len(paths) != 1:
        raise InputError(f"{folder}: holds {len(paths)} JSON files; give the COCO file itself")
    return paths[0]


def _find_in(json_path):
    records = read_file(json_path)
    _tell_of(json_path, [x for _, _, annotations in records for x in annotations or ()])
    return [
        Sample(
            file_name.stem,
            _find_image(json_path, file_name),
            None if annotations is None else (json_path, record, annotations),
        )
        for file_name, record, annotations in records
    ]


def _tell_of(json_path, annotations):
    """Say what of a file is not taken as its authors may have meant it."""
    crowds = sum(bool(annotation.get("iscrowd")) for annotation in annotations)
    if crowds:
        _warn(
            f"{json_path}: {crowds} of {len(annotations)} annotations have iscrowd 1 and are "
            "ignored, neither nucleus nor background; set it to 0 where they are nuclei"
        )
    categories = len({annotation.get("category_id") for annotation in annotations})
    if categories > 1:
        _warn(f"{json_path}: all {categories} categories count as nuclei")


@cache
def _warn(message):
    LOGGER.warning(message)


def _find_image(json_path, file_name):
    folder = json_path.parent
    root = folder.parent if folder.name == "annotations" else folder
    subset = json_path.stem.removeprefix("instances_")
    for place in dict.fromkeys((folder, root, root / "images", root / "images" / subset)):
        if (place / file_name).is_file():
            return place / file_name
    raise InputError(
        f"{json_path}: names the image {file_name}, which is neither beside it nor in images/; "
        "put it there"
    )
