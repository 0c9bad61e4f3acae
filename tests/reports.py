"""A cross-validation of two folds whose nuclei can be counted by hand, and a reader of its page."""

import json
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from mrcnn_nuclei import crossval
from mrcnn_nuclei.datasets import NucleusDataset
from mrcnn_nuclei.datasets.folds import write_folds
from mrcnn_nuclei.evaluation import evaluate_folder
from mrcnn_nuclei.runs import Run

HOSTILE = """<img src=x onerror=alert(1)> & "it's" $x_1$ {{ 7*7 }}"""
PLAIN = "plain"
ORGANS = {HOSTILE: "<b>Liver</b>", PLAIN: None}
SHAPE = (40, 60)
MODELS = ("mrcnn", "unet")


def squares(*corners, size=6):
    """A label map of squares with these upper left corners, as (y, x)."""
    labels = np.zeros(SHAPE, np.uint8)
    for label, (y, x) in enumerate(corners, start=1):
        labels[y : y + size, x : x + size] = label
    return labels


TRUTH = squares((2, 3), (12, 3), (22, 3))
# The first is found; the second has an IoU of 24 / 48, which is not above 0.5; the fourth is false.
PREDICTED = {
    (HOSTILE, "mrcnn"): squares((2, 3), (12, 5), (30, 40), (2, 50)),
    (PLAIN, "mrcnn"): squares((2, 3), (12, 3)),
    (HOSTILE, "unet"): squares((2, 3)),
    (PLAIN, "unet"): squares((22, 3)),
}
COUNTS = {
    (HOSTILE, "mrcnn"): {"found": 1, "missed": 2, "false": 3},
    (PLAIN, "mrcnn"): {"found": 2, "missed": 1, "false": 0},
    (HOSTILE, "unet"): {"found": 1, "missed": 2, "false": 0},
    (PLAIN, "unet"): {"found": 1, "missed": 2, "false": 0},
}


def write_dataset(root, truths):
    """Images with their label maps, by name; the tissue is noise."""
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, labels in truths.items():
        pixels = rng.integers(120, 250, (*labels.shape, 3), np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{name}.png")
        Image.fromarray(labels).save(root / "labels" / f"{name}.png")
    return NucleusDataset().load(root)


def write_run(folder, dataset, predicted, history=(), **config):
    """A finished run with these label maps; its metrics are those of `nucleus evaluate`."""
    run = Run(folder, config)
    labels = folder / "predictions" / "labels"
    labels.mkdir(parents=True)
    for name, label_map in predicted.items():
        Image.fromarray(label_map).save(labels / f"{name}.png")
    scores = json.loads(evaluate_folder(labels, dataset).to_json())
    inputs = run.do("predictions", dict, weights="a digest")["inputs"]
    run.do("metrics", lambda: scores, predictions=inputs)
    if history:
        write_history(folder / "logs" / "nucleus20261122T2334", history)


def write_history(folder, losses):
    folder.mkdir(parents=True)
    lines = [f"{epoch},{loss},{loss + 0.5},{1 / loss}" for epoch, loss in enumerate(losses)]
    text = "\n".join(["epoch,loss,val_loss,val_aji", *lines]) + "\n"
    (folder / "history.csv").write_text(text)


def write_crossval(root):
    """The cross-validation; returns its folder."""
    output = root / "runs"
    dataset = write_dataset(root / "data", dict.fromkeys([HOSTILE, PLAIN], TRUTH))
    names = [HOSTILE, PLAIN]
    output.mkdir()
    notes = {"dataset": str(root / "data"), "format": None, "organs": ORGANS}
    (output / "crossval.json").write_text(json.dumps(notes))
    write_folds(output / "folds.json", [[name] for name in names])
    for k, name in enumerate(names):
        held_out = NucleusDataset().load(root / "data", names=[name])
        for model in MODELS:
            folder = output / f"fold{k}-{model}"
            trained_on = [other for other in dataset.names if other != name]
            predicted = {name: PREDICTED[name, model]}
            losses = [3.0, 2.0, 1.5] if model == "mrcnn" else ()
            write_run(folder, held_out, predicted, losses, model=model, trained_on=trained_on)
    assert crossval.read_notes(output) == notes
    return output


class Page(HTMLParser):
    """The elements of a page in their order.

    Attributes
    ----------
    elements : list of (str, dict, list of str)
        Tag, attributes, and the texts right in it or in an element of it.
    """

    VOID = {"meta", "link", "input", "br", "img"}

    def __init__(self, path):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self._open, f"left open: {self._open[-1]}"

    def handle_starttag(self, tag, attributes):
        element = (tag, dict(attributes), [])
        self.elements.append(element)
        if tag not in self.VOID:
            self._open.append(element)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), []))

    def handle_endtag(self, tag):
        opened = self._open.pop()
        assert opened[0] == tag, f"</{tag}> ends {opened}"

    def handle_data(self, text):
        for _, _, texts in self._open:
            texts.append(text)

    def find(self, tag, **attributes):
        """All elements of a tag with these attributes; `class_` is one of the classes."""
        wanted = attributes.pop("class_", None)
        return [
            (found, texts)
            for name, found, texts in self.elements
            if name == tag
            and attributes.items() <= found.items()
            and (wanted is None or wanted in found.get("class", "").split())
        ]

    def within(self, tag, **attributes):
        """For each element of `find`, the elements inside of it."""
        starts = [
            k
            for k, (name, found, _) in enumerate(self.elements)
            if name == tag and attributes.items() <= found.items()
        ]
        return [self.elements[a + 1 : b] for a, b in zip(starts, [*starts[1:], len(self.elements)])]
