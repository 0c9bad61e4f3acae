"""Submission CSV of the 2018 Data Science Bowl.

One row a nucleus, `ImageId,EncodedPixels`; the pixels as pairs "start length", numbered from 1 down
the columns; no pixel in two nuclei; an image without nuclei has one row without pixels
(https://www.kaggle.com/competitions/data-science-bowl-2018/overview/evaluation).
"""

import csv
import math
from pathlib import Path

import numpy as np

from mrcnn.errors import InputError
from mrcnn.files import atomic_path
from mrcnn.instances import Instances, column_runs


def write(path, predictions):
    """Write the instances of a set of images.

    Parameters
    ----------
    path : str or Path
    predictions : mapping, or iterable of pairs, of str and Instances
        File name of each image and what it shows. The id is the name without folder and suffix.
        Where instances overlap, the best score keeps the pixel.
    """
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["ImageId", "EncodedPixels"])
        for name, instances in dict(predictions).items():
            image_id = Path(name).stem
            disjoint = Instances.from_label_map(instances.to_label_map())
            for pixels in _encode(disjoint) or [""]:
                rows.writerow([image_id, pixels])


def read(path):
    """Read a submission, or the truth of the challenge, which has the same form.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    dict of str to list of str
        For each image id, the pixels of its nuclei, for `decode`.

    Raises
    ------
    InputError
        If it cannot be read, or lacks the columns.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            found = {}
            for row in csv.DictReader(file):
                pixels = found.setdefault(row["ImageId"], [])
                if row["EncodedPixels"].strip():
                    pixels.append(row["EncodedPixels"])
            return found
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except (OSError, KeyError, ValueError, AttributeError, csv.Error) as error:
        raise InputError(
            f"{path}: is no table ImageId,EncodedPixels of the Data Science Bowl 2018 "
            f"({type(error).__name__}: {error}); export it again"
        ) from None


def decode(encoded, shape):
    """Make masks of the pixels of an image's nuclei.

    Parameters
    ----------
    encoded : list of str
        Pairs "start length" of each nucleus.
    shape : tuple of int
        (H, W) of the image.

    Returns
    -------
    Instances

    Raises
    ------
    InputError
        If a nucleus has something else than such pairs, or leaves the image.
    """
    pixels = math.prod(shape)
    nuclei = [
        {"segmentation": {"size": list(shape), "counts": _counts(text, pixels, number)}}
        for number, text in enumerate(encoded, start=1)
    ]
    return Instances.from_coco(nuclei, shape)


def _counts(text, pixels, number):
    """COCO's lengths of runs, background first, of pairs "start length"."""
    try:
        pairs = np.array(text.split(), np.int64).reshape(-1, 2)
    except (ValueError, OverflowError):
        raise InputError(f"nucleus {number} is no list of pairs; export it again") from None
    pairs = pairs[np.argsort(pairs[:, 0])]
    turns = np.stack([pairs[:, 0] - 1, pairs.sum(axis=1) - 1], axis=1).ravel()
    if turns[0] < 0 or turns[-1] > pixels or (np.diff(turns) < 0).any():
        raise InputError(
            f"nucleus {number} leaves its image of {pixels} pixels, or has some of them twice; "
            "pair each image with its own nuclei"
        )
    return np.diff(turns, prepend=0, append=pixels)


def _encode(instances):
    encoded = []
    for mask, box in zip(instances.masks, instances.boxes):
        starts, ends = column_runs(mask, box, instances.shape[0])
        pairs = np.stack([starts + 1, ends - starts], axis=1)
        encoded.append(" ".join(map(str, pairs.ravel().tolist())))
    return encoded
