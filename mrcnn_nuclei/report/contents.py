"""What a report shows of a folder: tables, scores, losses, and where images and predictions are."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mrcnn.errors import InputError
from mrcnn_nuclei.ablation_table import BASELINE
from mrcnn_nuclei.crossval import HELD_OUT, TEST, load_held_out, read_notes
from mrcnn_nuclei.datasets import NucleusDataset
from mrcnn_nuclei.evaluation import COLUMNS, Evaluation
from mrcnn_nuclei.metrics import METRICS
from mrcnn_nuclei.runs import read_step
from mrcnn_nuclei.switches import ABLATIONS
from mrcnn_nuclei.table import (
    CONFIDENCE,
    NAMES,
    RESAMPLES,
    SECTIONS,
    is_current,
    read_table,
    row_title,
)

LOGGER = logging.getLogger("mrcnn_nuclei")


class Cell(NamedTuple):
    """A number of a table, and what stands below it in small print."""

    value: float | None
    note: str = ""


class SummaryTable(NamedTuple):
    """A table of means.

    Attributes
    ----------
    title : str
    note : str
    header : list of str
    rows : list of (str, list of Cell)
        What a row is of, and its numbers: one fewer than the header has names.
    """

    title: str
    note: str
    header: list
    rows: list


class Prediction(NamedTuple):
    """What one network, or several, predicted for some images.

    Attributes
    ----------
    name : str
    rows : list of dict
        One an image, see `mrcnn_nuclei.evaluation.Evaluation`.
    folders : dict
        Image -> folder whose subfolder `labels` holds its label map.
    """

    name: str
    rows: list
    folders: dict


class History(NamedTuple):
    """The losses of a training.

    Attributes
    ----------
    name : str
    group : str
        Of trainings to draw in one picture, such as "U-Net".
    losses : pandas.DataFrame
        `epoch`, from 1, and what Keras noted for each.
    """

    name: str
    group: str
    losses: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Contents:
    """All that a page is made of; what a folder has none of is empty.

    Attributes
    ----------
    title : str
    tables : list of SummaryTable
    predictions : list of Prediction
    histories : list of History
    organs : dict
        Of each image, as far as it is known.
    sources : dict
        Image -> (NucleusDataset, image id).
    """

    title: str
    tables: list = field(default_factory=list)
    predictions: list = field(default_factory=list)
    histories: list = field(default_factory=list)
    organs: dict = field(default_factory=dict)
    sources: dict = field(default_factory=dict)


def read_contents(folder, dataset=None, format=None):
    """Find out what there is to show.

    Parameters
    ----------
    folder : str or Path
        Of `nucleus crossval`, of one of its runs, of `nucleus ablate` or one of its runs, or a run
        folder of `nucleus train`.
    dataset, format : optional
        Where the annotated images are, see `NucleusDataset.load`; a cross-validation knows.

    Returns
    -------
    Contents

    Raises
    ------
    InputError
        If the folder is none of these, or what it holds cannot be used.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one that crossval, ablate or train wrote")
    for step, read in (
        ("crossval.json", _cross_validation),
        ("ablation.json", _ablation),
        ("config.json", _run),
        ("history.csv", _training),
    ):
        if (folder / step).is_file():
            return read(folder, dataset, format)
    raise InputError(
        f"{folder}: nothing to report in it; give a folder that nucleus crossval, ablate or train "
        "wrote, or one of the runs in it"
    )


def _cross_validation(folder, dataset, format):
    table, notes = read_table(folder), read_notes(folder)
    predictions = list(_predictions_of(table.rows))
    new = [row for row in table.rows if row.section == SECTIONS[2] and row.predicted]
    sources = {}
    if predictions:
        sources = _sources_or_none(lambda: load_held_out(folder, dataset))
    if new:
        sources |= _sources_or_none(
            lambda: NucleusDataset().load(notes["test"], notes["format"], annotated=False)
        )
    return Contents(
        f"Cross-validation {folder.resolve().name}",
        list(_summaries(table.records)),
        predictions,
        _histories(sorted(path.parent for path in folder.glob("*/config.json"))),
        notes["organs"],
        sources,
    )


def _predictions_of(rows):
    """Of the table's rows those with one prediction an image; a fold's where no mean has it."""
    means = {(row.section, row.model) for row in rows if row.predicted and not row.single}
    sections = {row.section for row in rows if row.predicted}
    for row in rows:
        if row.predicted and not (row.single and (row.section, row.model) in means):
            name = f"{row.name} ({row.section})" if len(sections) > 1 else row.name
            yield Prediction(name, row.images, row.predicted)


def _summaries(records):
    note = (
        f"Means over images, with {CONFIDENCE:.0%} bootstrap intervals ({RESAMPLES:,} resamples of "
        "the images, percentile method). Spread: standard deviation of the networks' means."
    )
    for section in SECTIONS:
        mine = [record for record in records if record["section"] == section]
        if not any(record["images"] for record in mine):
            continue
        rows = [
            (row_title(record), [*_numbers(record), Cell(record.get("paper"))])
            for record in mine
            if record["level"] in ("all", "spread")
        ]
        header = ["model", "images", *METRICS, "paper"]
        yield SummaryTable(section.capitalize(), note, header, rows)
        rows = [
            (f"{record['of']}: {record['row']}", _numbers(record))
            for record in sorted(mine, key=lambda record: record["of"])
            if record["level"] == "organ"
        ]
        if rows:
            title = f"{section.capitalize()} by organ"
            yield SummaryTable(title, "", ["organ: model", "images", *METRICS], rows)


def _numbers(record):
    """The cells of a record of `mrcnn_nuclei.table`: how many images, then the metrics."""
    if not record["images"]:
        return [Cell(0), *[Cell(None)] * len(METRICS)]
    cells = [Cell(record["images"])]
    for metric in METRICS:
        low, high = record.get(f"{metric}_low"), record.get(f"{metric}_high")
        note = "" if low is None else f"{low:.3f} \N{EN DASH} {high:.3f}"
        cells.append(Cell(record[metric], note))
    return cells


def _ablation(folder, dataset, format):
    tried = read_step(folder, "ablation")
    if tried is None:
        raise InputError(f"{folder / 'ablation.json'}: is damaged; repeat nucleus ablate")
    rows = [
        (
            f"{row['name']}: {row['title']}" if row["name"] in ABLATIONS else row["name"],
            [
                Cell(
                    row["mean"][metric],
                    "" if row["name"] == BASELINE else f"{row['difference'][metric]:+.3f}",
                )
                for metric in METRICS
            ],
        )
        for row in tried
    ]
    note = "Means over the held-out images, and below them the difference to the baseline."
    table = SummaryTable("Ablations", note, ["ablation", *METRICS], rows)
    folders = [folder / row["name"] for row in tried]
    predictions = [p for run in folders for p in _run_predictions(run)]
    sources = _given_sources(folder, predictions, dataset, format)
    title = f"Ablations {folder.resolve().name}"
    return Contents(title, [table], predictions, _histories(folders), {}, sources)


def _run(folder, dataset, format):
    predictions = list(_run_predictions(folder))
    notes = read_step(folder.resolve().parent, "crossval")
    organs = notes["organs"] if notes else {}
    if notes and dataset is None and predictions:
        names = {name for prediction in predictions for name in prediction.folders}
        root, format = notes["dataset"], notes["format"]
        sources = _sources(NucleusDataset().load(root, format, annotated=False))
        if "test" in notes and not names <= sources.keys():
            sources |= _sources(NucleusDataset().load(notes["test"], format, annotated=False))
    else:
        sources = _given_sources(folder, predictions, dataset, format)
    tables = []
    for prediction in predictions:
        evaluation = Evaluation(prediction.rows)
        rows = [
            (name, [Cell(statistic[column]) for column in COLUMNS[1:]])
            for name, statistic in (("mean", evaluation.mean), ("std", evaluation.std))
        ]
        header = [f"{len(prediction.rows)} images", "true", "pred", *METRICS]
        tables.append(SummaryTable(prediction.name, "", header, rows))
    title = f"Run {folder.resolve().name}"
    return Contents(title, tables, predictions, _histories([folder]), organs, sources)


def _run_predictions(folder):
    folder = folder.resolve()
    config = read_step(folder, "config")
    for steps, name in ((HELD_OUT, folder.name), (TEST, f"{folder.name} (test images)")):
        scores = read_step(folder, steps.metrics)
        if config is None or scores is None:
            continue
        if not is_current(scores, config, folder, steps):
            LOGGER.warning("%s: left out, since it was predicted anew; score it again", folder)
            continue
        folders = {row["image"]: folder / steps.predictions for row in scores["images"]}
        yield Prediction(name, scores["images"], folders)


def _training(folder, dataset, format):
    losses = _read_history(folder / "history.csv")
    return Contents(
        f"Training {folder.resolve().name}", histories=[History(folder.name, "", losses)]
    )


def _given_sources(folder, predictions, dataset, format):
    if not predictions:
        return {}
    if dataset is None:
        LOGGER.warning("%s: reported without its images; give --dataset DIR to see them", folder)
        return {}
    return _sources(NucleusDataset().load(dataset, format, annotated=False))


def _sources_or_none(load):
    """The images of a data set; none, and a warning, if it is not where it was."""
    try:
        return _sources(load())
    except InputError as error:
        LOGGER.warning("%s; its images are left out of the report", error)
        return {}


def _sources(dataset):
    return {name: (dataset, i) for i, name in enumerate(dataset.names)}


def _histories(folders):
    """The losses of those folders that are runs of a training, see `mrcnn_nuclei.runs`."""
    found = []
    for folder in folders:
        config = read_step(folder, "config")
        paths = sorted(folder.glob("logs/*/history.csv"), key=lambda path: path.parent.name)
        if config is not None and paths:
            group = NAMES.get(config.get("model"), "")
            try:
                found.append(History(folder.resolve().name, group, _read_history(paths[-1])))
            except InputError as error:
                LOGGER.warning("%s; its curve is left out", error)
    return found


def _read_history(path):
    try:
        losses = pd.read_csv(path)
        # An epoch that was broken off is there twice.
        losses = losses.drop_duplicates("epoch", keep="last").sort_values("epoch")
        losses = losses.assign(epoch=losses["epoch"].astype(int) + 1).astype(float)
        if losses.empty or not set(losses) & {"loss", "val_loss", "val_aji"}:
            raise ValueError("no epoch, or no loss")
        return losses
    except (KeyError, ValueError) as error:  # of pandas' parser too
        raise InputError(
            f"{path}: is no history of a training ({' '.join(str(error).split())}); delete it"
        ) from None
