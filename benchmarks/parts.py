"""Seconds of the parts that a user waits for: `python benchmarks/parts.py`."""

import logging
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from harness import FOLDER, machine, median, publish
from tiles import Tiles

from mrcnn.data import DataGenerator, load_image_gt
from mrcnn.instances import Instances
from mrcnn.overlaps import mask_iou
from mrcnn.weights import save_weights
from mrcnn_nuclei.augmentation import Augmentation
from mrcnn_nuclei.config import inference_config, make_config
from mrcnn_nuclei.datasets import synthetic
from mrcnn_nuclei.metrics import evaluate_pair
from mrcnn_nuclei.networks import NETWORKS, recipe

SIZE, NUCLEI = 1000, 1000


def measure():
    """Yield (what, seconds) for each benchmark."""
    image, labels = synthetic.draw_tile(SIZE, np.random.default_rng(0), nuclei=NUCLEI)
    dataset = Tiles([(image, labels)])
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


def measure_start_up():
    """Yield (what, seconds) for the command line, each call in a process of its own."""
    seconds, text = median(lambda: _nucleus("--help"))
    assert "detect" in text
    yield "`nucleus --help`", seconds
    for model in NETWORKS:
        yield f"`nucleus detect`, {model}, 256 x 256, from the start of Python", _detect(model)


def _detect(model):
    """Median seconds of the command line's detection in a small image."""
    with tempfile.TemporaryDirectory() as folder:
        (picture,) = synthetic.write(Path(folder, "data"), count=1, size=256)
        config = make_config("compact", model=model)
        weights = Path(folder, "weights.h5")
        network = NETWORKS[model]("inference", inference_config(config), folder)
        save_weights(network.keras_model, weights, recipe(config))
        options = ["--image", picture, "--weights", weights, "--output"]

        def detect():
            output = tempfile.mkdtemp(dir=folder)  # in the same one it would have nothing to do
            _nucleus("detect", *options, output)
            assert list(Path(output).rglob("*.png"))

        return median(detect, repetitions=3, warm=0)[0]


def _nucleus(*arguments):
    """What the command line prints."""
    command = [sys.executable, FOLDER.parent / "samples" / "nucleus.py", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    logging.getLogger("mrcnn").setLevel(logging.ERROR)  # random weights reach every cap
    lines = []
    for what, seconds in [*measure(), *measure_start_up()]:
        print(f"{what:70} {seconds:8.4f} s", flush=True)
        lines.append([what, f"{seconds:.3g} s"])
    publish(
        "parts",
        f"`python benchmarks/parts.py`: medians of 5 calls (`detect`: 3), {machine()}.",
        ["what", "median"],
        lines,
    )
