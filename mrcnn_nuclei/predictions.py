"""Predictions on disk, by whatever tool: a folder of a file an image, or one file of them all."""

import csv
import dataclasses
import importlib
from pathlib import Path

import numpy as np

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn_nuclei.datasets.coco import read_file
from mrcnn_nuclei.formats import WRITERS, hovernet, rle
from mrcnn_nuclei.formats.outlines import require_shape
from mrcnn_nuclei.image_files import (
    LABEL_ENDINGS,
    LABEL_SUFFIXES,
    labelled_name,
    match_label_maps,
    read_label_map,
)

#: How the names of other files than label maps end, and the module that reads them. Where an image
#: has several, the first counts.
READERS = {
    "_seg.npy": "cellpose",
    ".zarr": "ome_zarr",
    ".mat": "hovernet",
    ".geojson": "geojson",
    ".geojson.gz": "geojson",
    ".zip": "imagej",
    ".xml": "imagescope",
    ".json": "hovernet",
}

#: What may stand between an image's name and these.
ENDINGS = ("", "_rois", *LABEL_ENDINGS)

#: Subfolders in which `nucleus detect` and HoVer-Net leave their results; the first counts.
SUBFOLDERS = ("labels", ".", "zarr", "geojson", "imagej", "xml", "mat", "json")


def open_predictions(path, names=None):
    """Find the predictions for a set of images.

    Parameters
    ----------
    path : str or Path
        One of, and where a folder has several, the first that it has:

        - a COCO file, or a folder with one called `coco.json`: scores and overlaps are kept;
        - a folder of label maps, right in it or in its subfolder `labels`. Their scores are 1,
          unless the file `measurements/NAME.csv` beside `labels` tells them, as `nucleus detect
          --write labels,csv` writes it;
        - a folder of the files of READERS, right in it or in one of SUBFOLDERS, or one such file,
          or a folder of label images inside an OME-Zarr;
        - a CSV file of the Data Science Bowl 2018, or a folder with one called `submission.csv`.
    names : list of str, optional
        Of the images that are looked for. Default: as the files tell them.

    Returns
    -------
    CocoPredictions, FilePredictions or SubmissionPredictions

    Raises
    ------
    InputError
        If there is no such file or folder, or no predictions in it.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() == ".csv":
        return SubmissionPredictions(path)
    if path.is_file() and (path.suffix.lower() != ".json" or hovernet.recognises(path)):
        if not _is_prediction(path):
            raise InputError(
                f"{path}: is of no kind that predictions come in; give a file that ends in .json, "
                f".csv, {', '.join((*LABEL_SUFFIXES, *READERS))}"
            )
        return FilePredictions(path, [path], names)
    if path.is_file():
        return CocoPredictions(path)
    if not path.is_dir():
        raise InputError(
            f"{path}: no such file or folder; give a folder of predictions or a file of them"
        )
    if is_zarr(path):
        return FilePredictions(path, [path], names)

    coco, submission = (WRITERS[kind].path(path) for kind in ("coco", "rle"))
    if coco.is_file():
        return CocoPredictions(coco)
    for folder in (path / name for name in SUBFOLDERS):
        files = sorted(file for file in folder.glob("*") if _is_prediction(file))
        if files:
            return FilePredictions(path, files, names)
    if submission.is_file():
        return SubmissionPredictions(submission)
    if names is None:
        raise InputError(
            f"{path}: no predictions in it, neither label maps ({', '.join(LABEL_SUFFIXES)}) nor "
            f"{', '.join(READERS)} nor {coco.name} or {submission.name}; give the folder that "
            "holds them"
        )
    return FilePredictions(path, [], names)


class CocoPredictions:
    """The predictions of a COCO file.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    path : Path
    names : list of str
        Of the images, without suffix.
    """

    def __init__(self, path):
        self.path = path
        self._images = {}
        for file_name, record, annotations in read_file(path):
            name = _plain(file_name.stem)
            if name in self._images:
                raise InputError(f"{path}: names two images {name}; rename one of them")
            self._images[name] = (file_name.name, record, annotations or [])
        self.names = list(self._images)

    def has(self, name):
        """Whether there is a prediction for an image."""
        return _plain(name) in self._images

    def file_name(self, name):
        """What the image's file is called."""
        return self._images[_plain(name)][0]

    def files(self, name):
        """The files that tell of an image."""
        return [self.path]

    def others(self, names):
        """What is there for images of none of these names."""
        return [name for name in self.names if name not in set(map(_plain, names))]

    def read(self, name, shape=None):
        """The Instances of an image; all categories count as nuclei. The file tells its shape."""
        _, record, annotations = self._images[_plain(name)]
        try:
            nuclei = [{**annotation, "category_id": 1} for annotation in annotations]
            return Instances.from_coco(nuclei, (record["height"], record["width"]))
        except Exception as error:  # pycocotools raises all kinds
            raise InputError(
                f"{self.path}: its record of {name} cannot be used "
                f"({str(error) or type(error).__name__}); export the file again"
            ) from None

    def read_labels(self, name, shape=None):
        """The label map of an image, int32 [H, W]; see `read`."""
        return self.read(name, shape).to_label_map()


class SubmissionPredictions:
    """The predictions of a CSV file of the Data Science Bowl 2018.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    path : Path
    names : list of str
        The ids of the images.
    """

    def __init__(self, path):
        self.path = path
        self._encoded = rle.read(path)
        self.names = list(self._encoded)

    def has(self, name):
        """Whether there is a prediction for an image."""
        return name in self._encoded

    def file_name(self, name):
        """What the image's file might be called, as in the challenge."""
        return f"{name}.png"

    def files(self, name):
        """The files that tell of an image."""
        return [self.path]

    def others(self, names):
        """What is there for images of none of these names."""
        return [name for name in self.names if name not in set(names)]

    def read(self, name, shape=None):
        """The Instances of an image of (H, W) pixels, which the file does not tell."""
        require_shape(self.path, shape)
        try:
            return rle.decode(self._encoded[name], shape)
        except InputError as error:
            raise InputError(f"{self.path}: {name}: {error}") from None

    def read_labels(self, name, shape=None):
        """The label map of an image, int32 [H, W]; see `read`."""
        return self.read(name, shape).to_label_map()


class FilePredictions:
    """Predictions of a file an image.

    Parameters
    ----------
    path : Path
        The folder that was asked for.
    files : list of Path
        Label maps, or files of READERS.
    names : list of str, optional
        Of the images that are looked for. Default: as the files tell them.

    Attributes
    ----------
    path : Path
    names : list of str
        Of the images with a prediction, without suffix.
    """

    def __init__(self, path, files, names=None):
        self.path = path
        self._files = files
        if names is None:
            names = sorted(set(map(_image_name, files)))
        self._paths = _match(names, files)
        self.names = list(self._paths)

    def has(self, name):
        """Whether there is a prediction for an image."""
        return name in self._paths

    def file_name(self, name):
        """What the image's file might be called: the suffix is that of its prediction."""
        return name + self._paths[name].suffix

    def files(self, name):
        """The files that tell of an image."""
        path, scores = self._paths[name], self._scores(name)
        # A folder's time is not that of what is in it.
        within = sorted(file for file in path.rglob("*") if file.is_file())
        return [*(within or [path]), *([scores] if scores else [])]

    def others(self, names):
        """What is there for images of none of these names."""
        ours = tuple(name + separator for name in names for separator in "._")
        return [path.name for path in self._files if not path.name.startswith(ours)]

    def read(self, name, shape=None):
        """The Instances of an image; all classes count as nuclei.

        `shape` (H, W) is that of the image, for files of outlines, which do not tell it.
        """
        path = self._paths[name]
        if _reader(path):
            found = _read_module(path).read(path, shape)
            return dataclasses.replace(found, class_ids=np.ones(len(found)))
        labels = read_label_map(path)
        table = self._scores(name)
        scores = None if table is None else _read_scores(table, np.unique(labels[labels > 0]))
        return Instances.from_label_map(labels, scores)

    def read_labels(self, name, shape=None):
        """The label map of an image, int32 [H, W]; see `read`."""
        path = self._paths[name]
        return self.read(name, shape).to_label_map() if _reader(path) else read_label_map(path)

    def _scores(self, name):
        folder = self._paths[name].parent
        path = WRITERS["csv"].path(folder.parent, name)
        return path if folder.name == "labels" and path.is_file() else None


def is_zarr(path):
    """Whether a path is the folder of an OME-Zarr, or one inside it."""
    return path.is_dir() and _zarr_folder(path) is not None


def _zarr_folder(path):
    folders = (one for one in (path, *path.parents) if one.suffix.lower() == ".zarr")
    return next(folders, None)


def _plain(name):
    return name.removesuffix(".ome")


def _reader(path):
    """The ending in READERS of a file's name, or None."""
    if is_zarr(path):
        return ".zarr"
    return next((ending for ending in READERS if path.name.lower().endswith(ending)), None)


def _read_module(path):
    return importlib.import_module(f"mrcnn_nuclei.formats.{READERS[_reader(path)]}")


def _is_prediction(path):
    """Whether a path is named like one. Of JSON files, which are many, HoVer-Net's are."""
    ending = _reader(path)
    if path.name.startswith(".") or (ending is None and path.suffix.lower() not in LABEL_SUFFIXES):
        return False
    if ending == ".zarr":
        return path.is_dir()
    return path.is_file() and (ending != ".json" or hovernet.recognises(path))


def _stem(path):
    ending = _reader(path) or path.suffix
    if ending == ".zarr":  # of label images inside, the image's is the name of the whole
        path = _zarr_folder(path)
    return _plain(path.name[: -len(ending)])


def _image_name(path):
    """The name of the image that a file belongs to."""
    if _reader(path) is None:
        return labelled_name(path)
    stem = _stem(path)
    return stem.removesuffix(max((end for end in ENDINGS if stem.endswith(end)), key=len))


def _match(names, files):
    """The file of each name that has one."""
    maps = match_label_maps(names, [path for path in files if _reader(path) is None])
    others = {}
    for path in sorted(filter(_reader, files), key=lambda path: [*READERS].index(_reader(path))):
        others.setdefault(_stem(path), path)
    matched = {}
    for name in names:
        outlines = [others[_plain(name) + end] for end in ENDINGS if _plain(name) + end in others]
        found = maps.get(name)
        # A file of the bare name may be a picture of the image.
        if found and (not outlines or _plain(found.stem) != _plain(name)):
            matched[name] = found
        elif outlines:
            matched[name] = outlines[0]
    return matched


def _read_scores(path, labels):
    """The scores of nuclei in a table of measurements, in the order of their labels."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            scores = {int(row["label"]): float(row["score"]) for row in csv.DictReader(file)}
        return [scores[label] for label in labels.tolist()]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: does not tell the score of each nucleus of the label map of this name "
            f"({type(error).__name__}: {error}); write both again, or delete the table"
        ) from None
