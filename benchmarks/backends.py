"""Compare TensorFlow, JAX and PyTorch: `python benchmarks/backends.py`. Prints a table.

Each runs in a process of its own, from the same weights, and must compute what TensorFlow does.
With names of backends after it, the script measures those only.
"""

import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

BACKENDS = ("tensorflow", "jax", "torch")
REPETITIONS = 5


def measure(folder):
    """Measure the backend of this process; the first to come writes the weights for the others."""
    from tiles import Tiles

    from mrcnn.data import DataGenerator
    from mrcnn.model import MaskRCNN
    from mrcnn.weights import save_weights
    from mrcnn_nuclei.augmentation import Augmentation
    from mrcnn_nuclei.config import inference_config, make_config
    from mrcnn_nuclei.datasets import synthetic

    logging.getLogger("mrcnn").setLevel(logging.ERROR)  # random weights reach every cap
    config = make_config("compact")
    image, labels = synthetic.draw_tile(1000, np.random.default_rng(0), nuclei=1000)
    augmentation = Augmentation(config.IMAGE_MIN_DIM, **config.AUGMENTATION)
    dataset = Tiles([(image, labels)])
    inputs, _ = DataGenerator(dataset, config, augmentation=augmentation, seed=0)[0]

    training = MaskRCNN("training", config, folder)
    weights = Path(folder, "weights.h5")
    if not weights.exists():
        save_weights(training.keras_model, weights)
    training.load_weights(weights)
    training.compile(config.LEARNING_RATE, config.LEARNING_MOMENTUM)
    network = training.keras_model
    batch = dict(zip([tensor.name for tensor in network.inputs], inputs))
    train = time_calls(lambda: network.train_on_batch(batch, return_dict=True))

    detector = MaskRCNN("inference", inference_config(config), folder)
    detector.load_weights(weights)
    side = config.DETECTION_TILE
    tile = np.ascontiguousarray(image[:side, :side])
    detect = time_calls(lambda: detector.detect_instances([tile])[0])

    # Proposals for the heads are drawn, differently by each backend; what the RPN learns is not.
    losses = {name: float(value) for name, value in train["first"].items() if "rpn" in name}
    found = detect["first"]
    return {
        "train": train["seconds"],
        "detect": detect["seconds"],
        "compile": train["compile"] + detect["compile"],
        "losses": losses,
        "boxes": found.boxes.tolist(),
        "scores": found.scores.tolist(),
    }


def time_calls(function):
    """The first result of a function, how long it took, and the median of later calls."""
    times = []
    for repetition in range(1 + REPETITIONS):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
        if repetition == 0:
            first = result
    seconds = statistics.median(times[1:])
    return {"first": first, "seconds": seconds, "compile": times[0] - seconds}


def measure_in_process(name, folder):
    """What `measure` returns, on a backend."""
    # PyTorch's threads would spend their time waiting for each other.
    environment = {**os.environ, "KERAS_BACKEND": name, "GOMP_SPINCOUNT": "0"}
    output = Path(folder, f"{name}.json")
    subprocess.run(
        [sys.executable, __file__, "--measure", str(output)], env=environment, check=True
    )
    return json.loads(output.read_text())


def check(name, found, expected):
    """Fail unless two backends agree."""
    for loss, value in expected["losses"].items():
        assert abs(found["losses"][loss] / value - 1) < 1e-4, (name, loss)
    # Two whose scores are equal up to rounding may come in either order.
    assert sorted(found["boxes"]) == sorted(expected["boxes"]), name
    assert np.allclose(found["scores"], expected["scores"], rtol=1e-4), name


def main(names):
    """Measure, compare and print."""
    with tempfile.TemporaryDirectory() as folder:
        results = {name: measure_in_process(name, folder) for name in names}
    reference = results[names[0]]
    packages = ", ".join(f"{name} {version(name)}" for name in ("keras", *names))
    print(f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, ")
    print(f"{packages}; compact, float32; medians of {REPETITIONS}\n")
    print("| backend | training step | detect | compile |\n|---|---|---|---|")
    for name, result in results.items():
        check(name, result, reference)
        cells = [
            f"{result[key]:.3f} s ({result[key] / reference[key]:.2f} x)"
            for key in ("train", "detect")
        ]
        print(f"| {name} | {' | '.join(cells)} | {result['compile']:.0f} s |")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        target = Path(sys.argv[2])
        target.write_text(json.dumps(measure(target.parent)))
    else:
        main(sys.argv[1:] or BACKENDS)
