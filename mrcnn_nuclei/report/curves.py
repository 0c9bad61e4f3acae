"""Losses and scores over the epochs, as SVG that takes the colours of the page around it."""

import io
import re

import matplotlib
from matplotlib.figure import Figure

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#888888")
"""Colours of Okabe and Ito, as far as they are legible on white and on black."""

INK = "#010203"
"""Stands for the page's colour of text until the picture is in it."""

PANELS = (
    ("loss", "loss", "val_loss"),
    ("AJI on validation images", None, "val_aji"),
)
"""Title, and the columns of training and of validation."""


def draw_curves(histories):
    """Draw the trainings of one group.

    Parameters
    ----------
    histories : list of History

    Returns
    -------
    str
        An SVG element. Validation is a full line, training a thin one.
    """
    panels = [
        panel
        for panel in PANELS
        if any(column in history.losses for history in histories for column in panel[1:])
    ]
    style = {
        "svg.fonttype": "none",
        "text.parse_math": False,  # names are no formulas
        "svg.hashsalt": " ".join(history.name for history in histories),
        "font.family": "sans-serif",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    style |= dict.fromkeys(["text.color", "axes.labelcolor", "axes.edgecolor"], INK)
    style |= dict.fromkeys(["xtick.color", "ytick.color"], INK)
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5.5 * len(panels), 3.2), layout="constrained")
        drawn = {}
        for ax, (title, training, validation) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels
        ):
            for k, history in enumerate(histories):
                for line in _draw(ax, history, training, validation, LINES[k % len(LINES)]):
                    drawn[history.name] = line
            ax.set(title=title, xlabel="epoch")
            ax.xaxis.get_major_locator().set_params(integer=True)
            ax.grid(alpha=0.25, color=INK)
        if len(histories) > 1:
            lines, names = list(drawn.values()), list(drawn)
            figure.legend(lines, names, loc="outside right center", frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return _inline(text.getvalue())


def _draw(ax, history, training, validation, colour):
    """Draw what there is of the two, and return the lines."""
    losses, lines = history.losses, []
    marker = "o" if len(losses) < 30 else ""  # a single epoch is no line
    for column, look in ((training, {"linewidth": 0.7, "alpha": 0.85}), (validation, {})):
        if column in losses:
            values = losses["epoch"], losses[column]
            lines += ax.plot(*values, color=colour, marker=marker, markersize=3, **look)
    return lines


def _inline(svg):
    """The element alone, without what only a file of its own needs."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' height="[\d.]+pt"', "", svg, count=1)
    return svg.replace(INK, "currentColor")
