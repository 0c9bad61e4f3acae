"""One image of a report: its pixels, outlines of truth and predictions, and what is right."""

import base64
from typing import NamedTuple

import numpy as np

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn.opencv import cv2
from mrcnn_nuclei.evaluation import without_crowds
from mrcnn_nuclei.metrics import find_matched, find_overlaps
from mrcnn_nuclei.predictions import open_predictions

MAX_SIDE, QUALITY = 2000, 85
"""Larger images are shown smaller, in pixels; and of WebP, of 100."""


class Marked(NamedTuple):
    """A prediction for an image, set against the truth by pairs of IoU above 0.5.

    Attributes
    ----------
    number : int
        Of the prediction, in the report.
    row : dict
        The scores, see `mrcnn_nuclei.evaluation.Evaluation`.
    found : bool array [N]
        Of the true nuclei, without crowds; the others are missed.
    right : bool array [M]
        Of the predicted nuclei; the others are false.
    outlines : list of M str
        SVG paths in pixels of the image.
    """

    number: int
    row: dict
    found: np.ndarray
    right: np.ndarray
    outlines: list

    @property
    def counts(self):
        """How many nuclei are "found", "missed" and "false"."""
        found, right = int(self.found.sum()), int(self.right.sum())
        return {"found": found, "missed": len(self.found) - found, "false": len(self.right) - right}


class Picture(NamedTuple):
    """An image, its truth and its predictions.

    Attributes
    ----------
    name : str
    shape : (int, int)
        (H, W) in pixels.
    pixels : str
        A data URI.
    truth : list of N str
        SVG paths, without those of crowds.
    marked : list of Marked
    """

    name: str
    shape: tuple
    pixels: str
    truth: list
    marked: list

    @property
    def outlines(self):
        """What the page's script draws, JSON-able."""
        predictions = {
            one.number: {
                "found": np.flatnonzero(one.found).tolist(),
                "missed": np.flatnonzero(~one.found).tolist(),
                "right": np.flatnonzero(one.right).tolist(),
                "false": np.flatnonzero(~one.right).tolist(),
                "outlines": one.outlines,
            }
            for one in self.marked
        }
        return {"truth": self.truth, "predictions": predictions}


def make_picture(name, source, predictions):
    """Read an image, its truth and its predictions.

    Parameters
    ----------
    name : str
    source : (NucleusDataset, int)
        Where the image and its truth are.
    predictions : list of (int, Prediction)
        Those of this image, with their numbers in the report.

    Returns
    -------
    Picture

    Raises
    ------
    InputError
        If a file is missing or cannot be read, or a prediction has another size than the image.
    """
    dataset, image_id = source
    image = dataset.load_image(image_id)
    labels, class_ids = dataset.load_labels(image_id)
    marked = []
    for number, prediction in predictions:
        predicted = _read_prediction(prediction.folders[name], name, labels.shape)
        truth, predicted = without_crowds(labels, class_ids, predicted)
        try:
            found, right = find_matched(find_overlaps(truth, predicted))
        except InputError as error:
            raise InputError(f"{prediction.folders[name]}: {name}: {error}") from None
        row = next(row for row in prediction.rows if row["image"] == name)
        marked.append(Marked(number, row, found, right, _outlines(predicted)))
    truth = _outlines(labels)[: np.count_nonzero(class_ids > 0)]  # crowds come last
    return Picture(name, labels.shape, _data_uri(image), truth, marked)


def _read_prediction(folder, name, shape):
    """The label map that `mrcnn_nuclei.evaluation.evaluate_folder` has scored."""
    predictions = open_predictions(folder / "labels", [name])
    if not predictions.has(name):
        raise InputError(
            f"{predictions.path}: has no label map of {name}; repeat what wrote the folder"
        )
    return predictions.read_labels(name, shape)


def _outlines(labels):
    return [_path(rings) for rings in Instances.from_label_map(labels).to_polygons()]


def _path(rings):
    """Closed rings along the edges of pixels as an SVG path, in steps from corner to corner."""
    parts = []
    for ring in rings:
        ring = ring.astype(int)
        steps = np.diff(ring[:-1], axis=0).tolist()
        parts.append(f"M{ring[0, 0]} {ring[0, 1]}")
        parts += [f"h{dx}" if dx else f"v{dy}" for dx, dy in steps]
        parts.append("z")
    return "".join(parts)


def _data_uri(image):
    """The image as WebP, no larger than the page needs it."""
    scale = MAX_SIDE / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".webp", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    return "data:image/webp;base64," + base64.b64encode(data).decode()
