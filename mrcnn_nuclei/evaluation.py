"""Score a folder of predictions, from whatever tool, against a dataset."""

import csv
import io
import json
from dataclasses import dataclass
from itertools import zip_longest
from operator import length_hint
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mrcnn.errors import InputError
from mrcnn.files import atomic_path
from mrcnn_nuclei.markdown import markdown_table
from mrcnn_nuclei.metrics import METRICS, evaluate_overlaps, find_overlaps
from mrcnn_nuclei.predictions import open_predictions
from mrcnn_nuclei.recall import Recall

REPORTS = (".json", ".csv", ".md", ".txt")
"""Suffixes of the files that an evaluation can be written to."""

COLUMNS = ("image", "nuclei_true", "nuclei_pred", *METRICS)

# Shorter evaluations show no progress bar.
PROGRESS_FROM = 6


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The metrics of a set of images.

    Attributes
    ----------
    rows : list of dict
        One an image: `image` (its name), `nuclei_true`, `nuclei_pred`, and the metrics of
        `mrcnn_nuclei.metrics.METRICS`, fractions in [0, 1].
    ignored : tuple of str
        File names in the folder of predictions that belong to none of the images.
    recall : dict or None
        Group of nuclei -> (found, true), see `mrcnn_nuclei.recall.Recall`, if it was asked for.
    """

    rows: list
    ignored: tuple = ()
    recall: dict | None = None

    @property
    def mean(self):
        """Mean over the images of each number in `rows`, as a dict; every image weighs the same."""
        return self._over_images(np.mean)

    @property
    def std(self):
        """Standard deviation over the images (divisor N) of each number in `rows`, as a dict."""
        return self._over_images(np.std)

    def _over_images(self, statistic):
        return {name: float(statistic([row[name] for row in self.rows])) for name in COLUMNS[1:]}

    def to_text(self):
        """The table for a terminal: one line an image, then mean and standard deviation."""
        table = self._cells()
        widths = [max(map(len, column)) for column in zip(*table)]
        lines = [
            "  ".join(
                cell.ljust(width) if k == 0 else cell.rjust(width)
                for k, (cell, width) in enumerate(zip(cells, widths))
            )
            for cells in table
        ]
        rule = "-" * len(lines[0])
        lines = [lines[0], rule, *lines[1:-2], rule, *lines[-2:]]
        if self.recall:
            lines += ["", "recall at IoU 0.5"]
            lines += [
                f"  {group:<18} {_ratio(found, true)}  ({found} of {true})"
                for group, (found, true) in self.recall.items()
            ]
        if self.ignored:
            count = len(self.ignored)
            files = "1 file matches" if count == 1 else f"{count} files match"
            lines.append(f"{files} no image and went unscored: {_first_few(self.ignored)}")
        return "\n".join(lines) + "\n"

    def to_markdown(self):
        """The tables in Markdown."""
        header, *lines = self._cells()
        text = markdown_table(header, lines)
        if self.recall:
            cells = [
                [group, str(true), str(found), _ratio(found, true)]
                for group, (found, true) in self.recall.items()
            ]
            text += "\n" + markdown_table(["nuclei", "true", "found", "recall"], cells)
        return text

    def to_csv(self):
        """The rows of the images alone, in full precision."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()

    def to_json(self):
        """`images` (the rows), `mean`, `std`, `ignored`, and `recall` if there is one."""
        content = {
            "images": self.rows,
            "mean": self.mean,
            "std": self.std,
            "ignored": list(self.ignored),
        }
        if self.recall:
            content["recall"] = {
                group: {"found": int(found), "true": int(true)}
                for group, (found, true) in self.recall.items()
            }
        return json.dumps(content, indent=2) + "\n"

    def write(self, path):
        """Write the table in the format that the suffix names.

        Parameters
        ----------
        path : str or Path
            Its suffix is one of REPORTS. The file appears whole or not at all.

        Raises
        ------
        InputError
            If the suffix is another one.
        """
        path = Path(path)
        if path.suffix.lower() not in REPORTS:
            raise InputError(f"{path}: tables are written as {', '.join(REPORTS)}; choose one")
        writers = (self.to_json, self.to_csv, self.to_markdown, self.to_text)
        text = dict(zip(REPORTS, writers))[path.suffix.lower()]()
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")

    def _cells(self):
        """Header, images, mean and deviation as text."""
        body = [
            [row["image"], str(row["nuclei_true"]), str(row["nuclei_pred"]), *_digits(row)]
            for row in self.rows
        ]
        for name, values in (("mean", self.mean), ("std", self.std)):
            counts = [f"{values[key]:.1f}" for key in ("nuclei_true", "nuclei_pred")]
            body.append([name, *counts, *_digits(values)])
        return [["image", "true", "pred", *METRICS], *body]


def evaluate_folder(predictions, dataset, progress=True, by_shape=False):
    """Score the predictions of a folder, or file, against the ground truth of a dataset.

    The prediction of the image NAME is the file NAME, NAME_labels, NAME_masks, ... of a kind that
    `mrcnn_nuclei.predictions` reads. Where nuclei overlap, the best score keeps the pixel.

    Parameters
    ----------
    predictions : str or Path
        See `mrcnn_nuclei.predictions.open_predictions`. May hold other files and predictions of
        other images too; the latter are reported.
    dataset : object with `names` and `load_labels`, such as NucleusDataset
        `names` [N]; `load_labels(i)` returns the nuclei of `names[i]`: a label map int32 [H, W],
        labelled 1 to M, and the class of each, int32 [M]. Negative classes are crowds, regions of
        which nothing is known: they and predictions mostly inside them are left out.
    progress : bool
        Show a bar for six images or more.
    by_shape : bool
        Also count the nuclei found by their size and shape.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        If there is no such file or folder, an image has no prediction, or a file cannot be used.
    """
    names = list(dataset.names)
    given = open_predictions(predictions, names)
    missing = [name for name in names if not given.has(name)]
    if missing:
        raise InputError(
            f"{given.path}: {len(missing)} of {len(names)} images have no prediction, such as "
            f"{_first_few(missing)}; save each label map as NAME.tif or NAME_labels.tif, "
            "or choose what to score by --subset and --fold"
        )

    def triples():
        for i, name in enumerate(names):
            labels, class_ids = dataset.load_labels(i)
            found = given.read_labels(name, labels.shape)
            yield name, *without_crowds(labels, class_ids, found)

    recall = Recall() if by_shape else None
    rows = _score(triples(), len(names), progress, recall)
    return Evaluation(rows, tuple(given.others(names)), recall.counts if recall else None)


def evaluate_set(truths, predictions, total=None, progress=True):
    """Score the predictions of several images.

    Parameters
    ----------
    truths, predictions : iterable of (name, label map or Instances)
        The same names in the same order. Read pair by pair, so that generators keep memory low.
    total : int, optional
        Number of images, for the progress bar; needed where `truths` is a generator.
    progress : bool
        Show a bar for six images or more.

    Returns
    -------
    Evaluation

    Raises
    ------
    InputError
        If names differ, there are none, or a prediction does not fit its ground truth.
    """
    rows = _score(_pair_up(truths, predictions), total or length_hint(truths), progress)
    if not rows:
        raise InputError("there are no images to evaluate")
    return Evaluation(rows)


def _pair_up(truths, predictions):
    for truth, prediction in zip_longest(truths, predictions, fillvalue=("nothing", None)):
        if truth[0] != prediction[0]:
            raise InputError(
                f"ground truth of {truth[0]} is paired with the prediction of {prediction[0]}; "
                "give the same names in the same order"
            )
        yield truth[0], truth[1], prediction[1]


def _score(triples, total, progress, recall=None):
    """The rows of an Evaluation from (name, truth, prediction); a `total` of 0 is unknown.

    `recall`, a `Recall`, is told of the nuclei of each image.
    """
    rows = []
    for name, truth, prediction in tqdm(
        triples,
        total=total or None,
        unit="image",
        desc="Evaluating",
        disable=not progress or 0 < total < PROGRESS_FROM,
    ):
        try:
            overlaps = find_overlaps(truth, prediction)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        if recall:
            recall.add(truth, overlaps)
        counts = (len(overlaps.areas_true), len(overlaps.areas_pred))
        rows.append(dict(zip(COLUMNS, (name, *counts)), **evaluate_overlaps(overlaps)))
    return rows


def without_crowds(labels, class_ids, prediction):
    """Clear the crowds of the truth, and the predicted nuclei that lie mostly inside them.

    Parameters
    ----------
    labels : int array [H, W]
        Labelled 1 to N.
    class_ids : int array [N]
        Negative for a crowd.
    prediction : int array [H, W]

    Returns
    -------
    labels, prediction : int array [H, W]
        Fit for `mrcnn_nuclei.metrics.evaluate_pair`.
    """
    crowd = np.concatenate([[False], class_ids < 0])[labels]
    if not crowd.any() or crowd.shape != prediction.shape:
        return labels, prediction
    _, index, areas = np.unique(prediction, return_inverse=True, return_counts=True)
    mostly = 2 * np.bincount(index.ravel(), crowd.ravel()) > areas
    return np.where(crowd, 0, labels), np.where(mostly[index], 0, prediction)


def _ratio(found, true):
    return f"{found / true:.4f}" if true else "-"


def _digits(values):
    return [f"{values[name]:.4f}" for name in METRICS]


def _first_few(names, count=3):
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")
