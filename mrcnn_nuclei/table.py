"""The table of a cross-validation: every network and ensemble, with intervals, by organ and image.

docs/crossval.md tells what its rows are and how the intervals are made.
"""

import csv
import io
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mrcnn.errors import InputError
from mrcnn.files import atomic_path
from mrcnn_nuclei.config import MODELS
from mrcnn_nuclei.crossval import FLIPS, HELD_OUT, JOINT, TEST, read_notes
from mrcnn_nuclei.datasets.folds import read_folds
from mrcnn_nuclei.evaluation import COLUMNS, Evaluation
from mrcnn_nuclei.markdown import markdown_table
from mrcnn_nuclei.metrics import METRICS
from mrcnn_nuclei.runs import read_step

LOGGER = logging.getLogger("mrcnn_nuclei")

RESAMPLES, SEED, CONFIDENCE = 10_000, 0, 0.95
"""Of the bootstrap."""

PAPER = 0.4502
"""Average mask IoU over five folds (Ren et al., "Mask-RCNN for Cell Instance Segmentation")."""

NAMES = {
    "mrcnn": "Mask R-CNN",
    f"mrcnn-{FLIPS}": "Mask R-CNN, flips",
    "unet": "U-Net",
    f"unet-{FLIPS}": "U-Net, flips and turns",
    "both": "Both networks, Mask-NMS",
    JOINT: "Both networks, joint",
    f"{JOINT}-{FLIPS}": "Both networks, joint, flips",
}
NUMBERS = "no one two three four five six seven eight nine ten".split()
SECTIONS = ("held-out images", "images of fold 0", "test images")

DRAWN = ("mAP", "AJI")
"""Metrics in the picture."""
COLOURS = {
    "mrcnn": "#0072B2",
    f"mrcnn-{FLIPS}": "#56B4E9",
    "unet": "#D55E00",
    f"unet-{FLIPS}": "#E69F00",
    "both": "#009E73",
    JOINT: "#CC79A7",
    f"{JOINT}-{FLIPS}": "#F0E442",
    "other": "#555555",
}
MARKERS = dict(zip(COLOURS, "oPsXDv<^"))
"""Colours of Okabe and Ito, which colour-blind people can tell apart; shapes for print in grey."""


def bootstrap_interval(values, resamples=RESAMPLES, seed=SEED):
    """The 95 % interval of a mean, by the percentile method.

    Parameters
    ----------
    values : array [N]
        One an image.
    resamples : int
        How often N images are drawn, with replacement.
    seed : int

    Returns
    -------
    (float, float)
        The 2.5 % and the 97.5 % quantile of the means of the draws. Source: Efron and Tibshirani,
        An Introduction to the Bootstrap, 1993, chapter 13.
    """
    values = np.asarray(values, float)
    drawn = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values[drawn].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True, eq=False)
class Row:
    """What one network or ensemble reaches, or several networks in the mean.

    Attributes
    ----------
    section : str
        One of SECTIONS: on which images.
    name : str
    model : str
        A key of COLOURS.
    images : list of dict
        One an image, as in `Evaluation.rows`; the mean of the networks where several tried it.
        Empty if there are no results.
    spread : dict or None
        Of several networks, the standard deviation (divisor N) of their means.
    single : bool
        Whether another row sums it up with others.
    paper : float or None
        The paper's figure.
    predicted : dict
        Image -> folder of its predictions, see `mrcnn_nuclei.runs`; empty where there are several.
    """

    section: str
    name: str
    model: str
    images: list
    spread: dict | None = None
    single: bool = False
    paper: float | None = None
    predicted: dict = field(default_factory=dict)


class Table:
    """Rows in every form in which they are written.

    Parameters
    ----------
    rows : list of Row
    organs : dict
        Of each image, as far as it is known.

    Attributes
    ----------
    rows : list of Row
    records : list of dict
        For each row one of all its images and, unless it is single, one of their spread, one an
        organ and one an image: `section`, `row`, `level` ("all", "spread", "organ" or "image"),
        `of` (which organ or image), `images` (how many), then means, and for each metric the ends
        of its interval, such as `AJI_low` and `AJI_high`, where there are images enough.
    """

    def __init__(self, rows, organs):
        self.rows = rows
        self.records = [record for row in rows for record in _records(row, organs)]

    def to_markdown(self):
        """All images, then by organ, then by image."""
        parts = [
            "# Cross-validation\n\nMeans over images, and in brackets their "
            f"{CONFIDENCE:.0%} bootstrap intervals ({RESAMPLES:,} resamples of the images, "
            f"percentile method, seed {SEED}). Spread: standard deviation of the networks' means. "
            "Paper: average mask IoU of ResNet-101 on MoNuSeg.\n"
        ]
        for section in SECTIONS:
            records = [r for r in self.records if r["section"] == section]
            overall = [_line(r) for r in records if r["level"] in ("all", "spread")]
            if overall:
                header = ["model", "images", *METRICS, "paper"]
                parts.append(f"## {section.capitalize()}\n\n{markdown_table(header, overall)}")
            for level in ("organ", "image"):
                lines = [
                    [r["of"], r["row"], *_counts(r), *_cells(r)]
                    for r in sorted(records, key=lambda r: r["of"])
                    if r["level"] == level
                ]
                if lines:
                    header = [level, "model", "images", "true", "pred", *METRICS]
                    title = f"### {section.capitalize()} by {level}"
                    parts.append(f"{title}\n\n{markdown_table(header, lines, 2)}")
        return "\n".join(parts)

    def to_csv(self):
        """The records, in full precision."""
        ends = [f"{metric}_{end}" for metric in METRICS for end in ("low", "high")]
        names = ["section", "row", "level", "of", "images", *COLUMNS[1:], *ends, "paper"]
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.records)
        return text.getvalue()

    def to_json(self):
        """The records, in full precision, and how the intervals were made."""
        bootstrap = {"resamples": RESAMPLES, "seed": SEED, "confidence": CONFIDENCE}
        return json.dumps({"bootstrap": bootstrap, "records": self.records}, indent=1) + "\n"

    def draw(self, path):
        """Write a picture: for each row that sums up, its images, its mean and the interval.

        Parameters
        ----------
        path : str or Path
            Its suffix says the format, such as .png.
        """
        from matplotlib.figure import Figure

        rows = [row for row in self.rows if row.images and not row.single]
        means = [r for r in self.records if r["level"] == "all" and r["images"]]
        means = {(r["section"], r["row"]): r for r in means}
        figure = Figure(figsize=(11, 1.6 + 0.55 * len(rows)), layout="constrained")
        axes = figure.subplots(1, len(DRAWN), sharey=True)
        jitter = np.random.default_rng(SEED)
        for ax, metric in zip(axes, DRAWN):
            for y, row in enumerate(rows):
                values = [image[metric] for image in row.images]
                colour, record = COLOURS[row.model], means[row.section, row.name]
                heights = y + jitter.uniform(-0.22, 0.22, len(values))
                ax.scatter(values, heights, s=14, color=colour, alpha=0.4, linewidths=0)
                mean, ends = record[metric], None
                if f"{metric}_low" in record:
                    ends = [[mean - record[f"{metric}_low"]], [record[f"{metric}_high"] - mean]]
                style = {"color": colour, "markeredgecolor": "black", "ecolor": "black"}
                ax.errorbar(mean, y, xerr=ends, fmt=MARKERS[row.model], capsize=4, **style)
            ax.set(xlabel=metric, xlim=(0, 1))
            ax.grid(axis="x", alpha=0.3)
        axes[0].axvline(PAPER, color="black", linestyle=":", linewidth=1)
        axes[0].annotate(f" paper {PAPER}", (PAPER, len(rows) - 0.45), fontsize=8, va="center")
        axes[0].set_yticks(range(len(rows)), [f"{row.name}\n{row.section}" for row in rows])
        axes[0].set_ylim(len(rows) - 0.3, -0.6)
        figure.suptitle(f"Images, mean and its {CONFIDENCE:.0%} interval", fontsize=10)
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=150)

    def write(self, folder):
        """Write `table.md`, `table.csv`, `table.json` and `table.png`.

        Parameters
        ----------
        folder : str or Path
        """
        folder = Path(folder)
        for suffix, text in (
            ("md", self.to_markdown()),
            ("csv", self.to_csv()),
            ("json", self.to_json()),
        ):
            with atomic_path(folder / f"table.{suffix}") as temporary:
                temporary.write_text(text, encoding="utf-8", newline="\n")
        self.draw(folder / "table.png")


def read_table(output, added=None):
    """The table of a cross-validation, as far as it has come.

    Parameters
    ----------
    output : str or Path
        Of `mrcnn_nuclei.crossval.cross_validate`.
    added : dict, optional
        Evaluation of other predictions for all held-out images, by name.

    Returns
    -------
    Table
        A row without results has no images: an ensemble whose networks are not trained, or the mean
        over folds that are not all done.

    Raises
    ------
    InputError
        If there is no cross-validation, or no run in it is done.
    """
    output = Path(output)
    organs = read_notes(output)["organs"]
    n_folds = len(read_folds(output / "folds.json"))
    models = [model for model in MODELS if _is_begun(output, model, n_folds)]
    rows = [*_held_out_rows(output, models, n_folds)]
    for name, evaluation in (added or {}).items():
        rows.append(Row(SECTIONS[0], name, "other", evaluation.rows))
    rows += _new_images_rows(output, models, n_folds)
    if not any(row.images for row in rows):
        raise InputError(f"{output}: no run in it is done; let nucleus crossval go on")
    return Table(rows, organs)


def _is_begun(output, name, n_folds):
    return any((output / f"fold{k}-{name}").is_dir() for k in range(n_folds))


def _held_out_rows(output, models, n_folds):
    tried = [name for name in NAMES if _is_begun(output, name, n_folds)]
    both = ["both"] if len(models) > 1 else []
    for model in [name for name in NAMES if name in {*tried, *both}]:
        folders = [output / f"fold{k}-{model}" for k in range(n_folds)]
        singles = [
            _row(SECTIONS[0], f"{NAMES[model]}, fold {k}", model, folder, HELD_OUT, single=True)
            for k, folder in enumerate(folders)
        ]
        yield from singles
        yield _mean(SECTIONS[0], model, "folds", singles, PAPER if model == "mrcnn" else None)


def _new_images_rows(output, models, n_folds):
    """Rows of networks that all saw none of the same images, and of what Mask-NMS makes of them."""
    for section, prefix, steps, numbers, ensemble in (
        (SECTIONS[1], "nested", HELD_OUT, range(1, n_folds), "nested"),
        (SECTIONS[2], "fold", TEST, range(n_folds), "test"),
    ):
        for model in models:
            singles = []
            for k in numbers:
                name, folder = f"{NAMES[model]}, without fold {k}", output / f"{prefix}{k}-{model}"
                singles.append(_row(section, name, model, folder, steps, single=True))
            if any(row.images for row in singles):
                yield from singles
                yield _mean(section, model, "networks", singles)
            name = f"{NAMES[model]}, {_number(len(singles))} by Mask-NMS"
            yield _row(section, name, model, output / f"{ensemble}-{model}", steps)


def _row(section, name, model, folder, steps, single=False):
    """The row of one run."""
    images = _results(folder, steps)
    predicted = {image["image"]: folder / steps.predictions for image in images}
    return Row(section, name, model, images, single=single, predicted=predicted)


def _results(folder, steps):
    """The scores of a run's images, empty if it is not done or they say nothing of it."""
    scores, config = read_step(folder, steps.metrics), read_step(folder, "config")
    if scores is None or "trained_on" not in (config or {}):
        return []
    if not is_current(scores, config, folder, steps):
        LOGGER.warning("%s: left out, since it was predicted anew; repeat nucleus crossval", folder)
        return []
    seen = {image["image"] for image in scores["images"]} & set(config["trained_on"])
    if seen:
        LOGGER.warning("%s: left out, since its networks were trained on %s", folder, min(seen))
        return []
    return scores["images"]


def is_current(scores, config, folder, steps):
    """Whether scores are of the predictions that are there, and these of those that were fused.

    Parameters
    ----------
    scores, config : dict
        Of a run, see `mrcnn_nuclei.runs.read_step`.
    folder : Path
        Of the run.
    steps : mrcnn_nuclei.crossval.Steps

    Returns
    -------
    bool
    """
    if "inputs" not in scores:  # of another tool, which keeps no record
        return True
    predicted = _inputs(folder, steps.predictions)
    if scores["inputs"]["predictions"] != predicted:
        return False
    members = [folder.parent / name for name in config.get("members", [])]
    theirs = [_inputs(run, steps.predictions) for run in members]
    if predicted and "members" in predicted:
        return predicted["members"] == theirs
    # Predicted anew by the members' weights.
    used = [(predicted or {}).get(name) for name in ("weights", "unet")]
    return all(inputs and inputs["weights"] == file for inputs, file in zip(theirs, used))


def _inputs(folder, step):
    done = read_step(folder, step)
    return done and done["inputs"]


def _mean(section, model, kind, singles, paper=None):
    """The row that sums up several networks of a kind, empty unless all of them are done."""
    name = f"{NAMES[model]}, mean of {_number(len(singles))} {kind}"
    tried = [row.images for row in singles]
    if not all(tried):
        return Row(section, name, model, [], paper=paper)
    by_image, predicted = {}, {}
    for row in singles:
        predicted |= row.predicted
    for image in sum(tried, []):
        by_image.setdefault(image["image"], []).append(image)
    images = [{"image": name, **Evaluation(same).mean} for name, same in by_image.items()]
    means = [Evaluation(images).mean for images in tried]
    spread = {column: float(np.std([m[column] for m in means])) for column in COLUMNS[1:]}
    if any(len(same) > 1 for same in by_image.values()):
        predicted = {}
    return Row(section, name, model, images, spread, paper=paper, predicted=predicted)


def _number(count):
    return NUMBERS[count] if count < len(NUMBERS) else str(count)


def _records(row, organs):
    head = {"section": row.section, "row": row.name}
    yield {**head, "level": "all", "of": "", **_summary(row.images), "paper": row.paper}
    if row.spread:
        yield {**head, "level": "spread", "of": "", "images": len(row.images), **row.spread}
    if row.single:
        return
    of_organ = {}
    for image in row.images:
        of_organ.setdefault(organs.get(image["image"]), []).append(image)
    for organ, images in of_organ.items():
        if organ is not None:
            yield {**head, "level": "organ", "of": organ, **_summary(images)}
    for image in row.images:
        yield {**head, "level": "image", "of": image["image"], **_summary([image])}


def _summary(images):
    """Number of images, means, and the ends of the intervals."""
    if not images:
        return {"images": 0}
    summary = {"images": len(images), **Evaluation(images).mean}
    if len(images) > 1:
        for metric in METRICS:
            ends = bootstrap_interval([image[metric] for image in images])
            summary[f"{metric}_low"], summary[f"{metric}_high"] = ends
    return summary


def row_title(record):
    """What a record of `Table.records` is called in a table of all images."""
    name = record["row"]
    return name.replace("mean of", "spread of") if record["level"] == "spread" else name


def _line(record):
    """The cells of a record in a table of all images."""
    paper = f"{record['paper']:.4f}" if record.get("paper") else "-"
    return [row_title(record), str(record["images"]), *_cells(record), paper]


def _counts(record):
    return [str(record["images"]), *(f"{record[name]:.0f}" for name in COLUMNS[1:3])]


def _cells(record):
    """Each metric as text, with its interval if there is one."""
    if not record["images"]:
        return ["-"] * len(METRICS)
    return [
        f"{record[m]:.3f} [{record[m + '_low']:.3f}, {record[m + '_high']:.3f}]"
        if f"{m}_low" in record
        else f"{record[m]:.3f}"
        for m in METRICS
    ]
