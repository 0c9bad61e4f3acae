"""Submission CSV of the 2018 Data Science Bowl.

One row a nucleus, `ImageId,EncodedPixels`; the pixels as pairs "start length", numbered from 1 down
the columns; no pixel in two nuclei; an image without nuclei has one row without pixels
(https://www.kaggle.com/competitions/data-science-bowl-2018/overview/evaluation).
"""

import csv
from pathlib import Path

import numpy as np

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


def _encode(instances):
    encoded = []
    for mask, box in zip(instances.masks, instances.boxes):
        starts, ends = column_runs(mask, box, instances.shape[0])
        pairs = np.stack([starts + 1, ends - starts], axis=1)
        encoded.append(" ".join(map(str, pairs.ravel().tolist())))
    return encoded
