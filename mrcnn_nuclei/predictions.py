"""Predictions on disk, by whatever tool: a folder of label maps, or a COCO file."""

import csv
from pathlib import Path

import numpy as np

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn_nuclei.datasets.coco import read_file
from mrcnn_nuclei.formats import WRITERS
from mrcnn_nuclei.image_files import (
    LABEL_SUFFIXES,
    find_images,
    labelled_name,
    match_label_maps,
    read_label_map,
)


def open_predictions(path):
    """Find the predictions for a set of images.

    Parameters
    ----------
    path : str or Path
        A COCO file, or a folder with one called `coco.json`: scores, classes and overlaps are kept.
        Otherwise a folder of label maps, right in it or in its subfolder `labels`. Their scores are
        1, unless the file `measurements/NAME.csv` beside `labels` tells them, as `nucleus detect
        --write labels,csv` writes it.

    Returns
    -------
    CocoPredictions or LabelMapPredictions

    Raises
    ------
    InputError
        If there is no such file or folder, or no predictions in it.
    """
    path = Path(path)
    if path.is_dir():
        coco = WRITERS["coco"].path(path)
        return CocoPredictions(coco) if coco.is_file() else LabelMapPredictions(path)
    if path.is_file():
        return CocoPredictions(path)
    raise InputError(f"{path}: no such folder; give a folder of predictions or a COCO file")


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
            name = file_name.stem.removesuffix(".ome")
            if name in self._images:
                raise InputError(f"{path}: names two images {name}; rename one of them")
            self._images[name] = (file_name.name, record, annotations or [])
        self.names = list(self._images)

    def file_name(self, name):
        """What the image's file is called."""
        return self._images[name][0]

    def files(self, name):
        """The files that tell of an image."""
        return [self.path]

    def read(self, name):
        """The Instances of an image; all categories count as nuclei."""
        _, record, annotations = self._images[name]
        try:
            nuclei = [{**annotation, "category_id": 1} for annotation in annotations]
            return Instances.from_coco(nuclei, (record["height"], record["width"]))
        except Exception as error:  # pycocotools raises all kinds
            raise InputError(
                f"{self.path}: its record of {name} cannot be used "
                f"({str(error) or type(error).__name__}); export the file again"
            ) from None


class LabelMapPredictions:
    """The predictions of a folder of label maps, with scores where there are tables of them.

    Parameters
    ----------
    path : Path
        The folder, or one with a subfolder `labels`.

    Attributes
    ----------
    path : Path
    names : list of str
        Of the images, without suffix.
    """

    def __init__(self, path):
        self.path = path
        folder = path / "labels" if (path / "labels").is_dir() else path
        files = find_images(folder, LABEL_SUFFIXES)
        self._label_maps = match_label_maps(sorted(set(map(labelled_name, files))), files)
        self._scored = folder.parent if folder.name == "labels" else None
        self.names = list(self._label_maps)
        if not self.names:
            raise InputError(
                f"{path}: no predictions in it, neither label maps ({', '.join(LABEL_SUFFIXES)}) "
                "nor coco.json; give the folder that holds them"
            )

    def file_name(self, name):
        """What the image's file might be called: the suffix is that of its label map."""
        return name + self._label_maps[name].suffix

    def files(self, name):
        """The files that tell of an image."""
        scores = self._scores(name)
        return [self._label_maps[name], *([scores] if scores else [])]

    def read(self, name):
        """The Instances of an image."""
        labels = read_label_map(self._label_maps[name])
        path = self._scores(name)
        scores = None if path is None else _read_scores(path, np.unique(labels[labels > 0]))
        return Instances.from_label_map(labels, scores)

    def _scores(self, name):
        path = self._scored and WRITERS["csv"].path(self._scored, name)
        return path if path and path.is_file() else None


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
