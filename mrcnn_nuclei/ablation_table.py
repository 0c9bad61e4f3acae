"""The table of ablations: what each reaches, and its difference to the baseline."""

import csv
import io
import json
from pathlib import Path

from mrcnn.files import atomic_path
from mrcnn_nuclei.markdown import markdown_table
from mrcnn_nuclei.metrics import METRICS
from mrcnn_nuclei.switches import ABLATIONS

BASELINE = "baseline"


class AblationTable:
    """Each ablation's metrics and their difference to the baseline's, as means over the images.

    Parameters
    ----------
    baseline : Evaluation

    Attributes
    ----------
    rows : list of dict
        `name`, `title`, `settings` (those changed), `mean` and `difference`; the last two hold the
        metrics of `mrcnn_nuclei.metrics.METRICS`.
    """

    def __init__(self, baseline):
        self._baseline = baseline.mean
        self.rows = []
        self.add(BASELINE, {}, baseline)

    def add(self, name, settings, evaluation):
        """Add a row.

        Parameters
        ----------
        name : str
            BASELINE, or of ABLATIONS.
        settings : dict
        evaluation : Evaluation
        """
        mean = {metric: evaluation.mean[metric] for metric in METRICS}
        self.rows.append(
            {
                "name": name,
                "title": ABLATIONS[name].title if name in ABLATIONS else BASELINE,
                "settings": settings,
                "mean": mean,
                "difference": {metric: mean[metric] - self._baseline[metric] for metric in mean},
            }
        )

    def to_markdown(self):
        """The table in Markdown: metrics, and in brackets the difference to the baseline."""
        lines = []
        for row in self.rows:
            cells = [f"{row['mean'][metric]:.4f}" for metric in METRICS]
            if row["name"] != BASELINE:
                cells = [
                    f"{cell} ({row['difference'][metric]:+.4f})"
                    for cell, metric in zip(cells, METRICS)
                ]
            lines.append([row["name"], row["title"], *cells])
        return markdown_table(["ablation", "", *METRICS], lines, 2)

    def to_csv(self):
        """A line an ablation, in full precision; `d_AJI` is the difference in AJI, and so on."""
        text = io.StringIO()
        columns = ["name", "title", "settings", *METRICS, *(f"d_{metric}" for metric in METRICS)]
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            differences = {f"d_{metric}": value for metric, value in row["difference"].items()}
            given = {"name": row["name"], "title": row["title"]}
            settings = json.dumps(row["settings"])
            writer.writerow({**given, "settings": settings, **row["mean"], **differences})
        return text.getvalue()

    def to_json(self):
        """`rows`, in full precision."""
        return json.dumps(self.rows, indent=2) + "\n"

    def write(self, folder):
        """Write `ablation.md`, `.csv` and `.json`.

        Parameters
        ----------
        folder : str or Path
        """
        texts = {"md": self.to_markdown(), "csv": self.to_csv(), "json": self.to_json()}
        for suffix, text in texts.items():
            with atomic_path(Path(folder) / f"ablation.{suffix}") as temporary:
                temporary.write_text(text, encoding="utf-8", newline="\n")
