"""Measure speed: `make bench`. Prints a table and writes it into RESULTS.md.

Each benchmark checks the result of what it times. Quote ratios and medians: machines are noisy.
"""

import logging
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from mrcnn.data import DataGenerator, load_image_gt
from mrcnn.files import atomic_path
from mrcnn.instances import Instances
from mrcnn.overlaps import mask_iou
from mrcnn.utils import Dataset
from mrcnn_nuclei.augmentation import Augmentation
from mrcnn_nuclei.config import inference_config, make_config
from mrcnn_nuclei.datasets import synthetic
from mrcnn_nuclei.metrics import evaluate_pair

RESULTS = Path(__file__).parent / "RESULTS.md"
BEGIN, END = "<!-- speed: written by run.py -->", "<!-- end of speed -->"
SIZE, NUCLEI = 1000, 1000


class Tile(Dataset):
    """One drawn image with its label map."""

    def __init__(self, image, labels):
        super().__init__()
        self.image, self.labels = image, labels
        self.add_class("nucleus", 1, "nucleus")
        self.add_image("nucleus", "tile", None)
        self.prepare()

    def load_image(self, image_id):
        """The image."""
        return self.image

    def load_labels(self, image_id):
        """The label map, and a class for each label."""
        return self.labels, np.ones(self.labels.max(), np.int32)


def median(function, repetitions=5):
    """Median seconds of a call, after one that warms up, and the last result."""
    result = function()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def measure():
    """Yield (what, seconds) for each benchmark."""
    image, labels = synthetic.draw_tile(SIZE, np.random.default_rng(0), nuclei=NUCLEI)
    dataset = Tile(image, labels)
    count = int(labels.max())
    scene = f"{SIZE} x {SIZE}, {count} nuclei"

    config = make_config("compact")
    augmentation = Augmentation(config.IMAGE_MIN_DIM, **config.AUGMENTATION)
    rng = np.random.default_rng(0)
    seconds, (_, _, class_ids, boxes, _) = median(
        lambda: load_image_gt(dataset, config, 0, augmentation=augmentation, rng=rng)
    )
    assert len(class_ids) == len(boxes) > 0
    yield f"load_image_gt with augmentation, {scene}, crop 256", seconds

    truth = Instances.from_label_map(labels)
    moved = Instances.from_label_map(np.roll(labels, 2, axis=0))
    seconds, (rows, _, iou) = median(lambda: mask_iou(truth, moved))
    assert len(rows) >= count - 10 and (iou <= 1).all()
    yield f"IoU of all pairs of masks that meet, {scene}, twice", seconds

    seconds, scores = median(lambda: evaluate_pair(labels, labels))
    assert scores["AJI"] == scores["mAP"] == 1
    yield f"all metrics, {scene}", seconds

    yield from measure_network(config, dataset, image, augmentation)


def measure_network(config, dataset, image, augmentation):
    """Yield (what, seconds) for the compact preset's network, with random weights."""
    from mrcnn.model import MaskRCNN

    with tempfile.TemporaryDirectory() as logs:
        model = MaskRCNN("training", config, logs)
        model.compile(config.LEARNING_RATE, config.LEARNING_MOMENTUM)
        generator = DataGenerator(dataset, config, augmentation=augmentation, seed=0)
        inputs, _ = generator[0]
        names = [tensor.name for tensor in model.keras_model.inputs]
        batch = dict(zip(names, inputs))
        seconds, loss = median(lambda: model.keras_model.train_on_batch(batch))
        assert np.isfinite(loss).all()
        yield f"training step, compact, batch {config.BATCH_SIZE} of 256 x 256", seconds

        detector = MaskRCNN("inference", inference_config(config), logs)
        side = config.DETECTION_TILE
        tile = np.ascontiguousarray(image[:side, :side])
        seconds, (found,) = median(lambda: detector.detect_instances([tile]))
        assert found.shape == (side, side)
        yield f"detect, compact, one tile of {side} x {side}", seconds


def write(rows):
    """Put the table between its marks in RESULTS.md."""
    table = "\n".join(f"| {what} | {seconds:.3g} s |" for what, seconds in rows)
    packages = ", ".join(f"{name} {version(name)}" for name in ("tensorflow", "keras", "numpy"))
    section = (
        f"{BEGIN}\n`make bench`: medians of 5 calls, {os.cpu_count()} CPU cores "
        f"({platform.machine()}), Python {platform.python_version()}, {packages}.\n\n"
        f"| what | median |\n|---|---|\n{table}\n{END}"
    )
    text = RESULTS.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    with atomic_path(RESULTS) as temporary:
        temporary.write_text(before + section + after, encoding="utf-8")


if __name__ == "__main__":
    logging.getLogger("mrcnn").setLevel(logging.ERROR)  # random weights reach every cap
    results = []
    for what, seconds in measure():
        print(f"{what:70} {seconds:8.4f} s", flush=True)
        results.append((what, seconds))
    write(results)
    print(f"wrote {RESULTS}")
