"""The page of a report: a template, a style and a script, filled in and written as one file."""

from pathlib import Path

import jinja2
import numpy as np
from tqdm import tqdm

from mrcnn import __version__
from mrcnn.files import atomic_path
from mrcnn_nuclei.evaluation import COLUMNS
from mrcnn_nuclei.report.contents import read_contents
from mrcnn_nuclei.report.curves import draw_curves
from mrcnn_nuclei.report.pictures import make_picture

PARTS = Path(__file__).parent
"""Where `template.html`, `style.css` and `script.js` are."""

SORTED_BY = "AJI"

SPOKEN = ("loss", "val_loss", "val_aji")
"""Of a training's last epoch, what is told in words to those who cannot see its curves."""


def write_report(folder, output=None, dataset=None, format=None):
    """Write the report of a folder.

    Parameters
    ----------
    folder, dataset, format
        See `mrcnn_nuclei.report.contents.read_contents`.
    output : str or Path, optional
        Default: `report.html` in the folder. It appears whole or not at all.

    Returns
    -------
    Path
        The page. It needs no other file and no network.

    Raises
    ------
    InputError
        If there is nothing to report, or a file cannot be used.
    """
    contents = read_contents(folder, dataset, format)
    output = Path(output or Path(folder) / "report.html")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PARTS),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    names = _worst_first(contents)
    page = environment.get_template("template.html").stream(
        title=contents.title,
        version=__version__,
        style=(PARTS / "style.css").read_text(encoding="utf-8"),
        script=(PARTS / "script.js").read_text(encoding="utf-8"),
        tables=contents.tables,
        curves=list(_curves(contents.histories)),
        scores=_scores(contents),
        columns=COLUMNS[1:],
        predictions=[prediction.name for prediction in contents.predictions],
        best=_best(contents.predictions),
        organs=contents.organs,
        numbers={name: number for number, name in enumerate(names)},
        pictures=_pictures(contents, names),
    )
    with atomic_path(output) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for part in page:  # one image at a time in memory
            file.write(part)
    return output


def _curves(histories):
    """For each group: its name, what the picture shows in words, and the picture."""
    groups = {}
    for history in histories:
        groups.setdefault(history.group, []).append(history)
    for group, same in groups.items():
        told = []
        for history in same:
            last = history.losses.iloc[-1]
            values = ", ".join(f"{name} {last[name]:.3f}" for name in SPOKEN if name in last)
            told.append(f"{history.name}: {values} after {last['epoch']:.0f} epochs")
        yield group, "; ".join(told), draw_curves(same)


def _scores(contents):
    """A row an image and prediction, worst first: (number of the prediction, row)."""
    scores = [
        (number, row)
        for number, prediction in enumerate(contents.predictions)
        for row in prediction.rows
    ]
    return sorted(scores, key=lambda score: score[1][SORTED_BY])


def _best(predictions):
    """The number of the prediction that is shown first: the best of those of most images."""
    return max(
        range(len(predictions)),
        key=lambda k: (
            len(predictions[k].rows),
            np.mean([row[SORTED_BY] for row in predictions[k].rows]),
        ),
        default=0,
    )


def _worst_first(contents):
    """Names of the images to show, by the prediction that is shown first; what it lacks comes last.

    Only those that there are pictures of.
    """
    best = _best(contents.predictions)
    scores = sorted(_scores(contents), key=lambda score: score[0] != best)
    names = dict.fromkeys(row["image"] for _, row in scores)
    return [name for name in names if name in contents.sources]


def _pictures(contents, names):
    for name in tqdm(names, desc="Images", unit="image", delay=1):
        predictions = [
            (number, prediction)
            for number, prediction in enumerate(contents.predictions)
            if name in prediction.folders
        ]
        yield make_picture(name, contents.sources[name], predictions)
