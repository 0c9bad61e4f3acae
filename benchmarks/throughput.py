"""How detection scales: `python benchmarks/throughput.py [--weights FILE ...]`.

Over the size of the image, and over the number of nuclei in one of 1024 x 1024 pixels: seconds,
pixels a second and peak memory, each in a process of its own. Without weights, those that the
demonstration has trained are taken; it is run first if need be.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from harness import in_process, machine, median, peak_memory, publish

SIZES = (256, 512, 1024, 2048, 4096)
COUNTS = (0, 100, 300, 600, 1000, 2000)
SIDE = 1024
DENSITY = 600 / SIDE**2
"""Nuclei a pixel, in images of different sizes."""


def measure(weights, size, nuclei):
    """Time the detection of one drawn image."""
    from mrcnn_nuclei.datasets import synthetic
    from mrcnn_nuclei.detector import Detector
    from mrcnn_nuclei.metrics import evaluate_pair

    rng = np.random.default_rng(0)
    # Larger images are repeated tiles: drawing them would take more memory than detection.
    repeats = max(size // SIDE, 1)
    image, labels = synthetic.draw_tile(size // repeats, rng, nuclei=nuclei // repeats**2)
    image = np.tile(image, (repeats, repeats, 1))
    detector = Detector(weights)
    detector.detect(image[: detector.config.DETECTION_TILE, : detector.config.DETECTION_TILE])
    repetitions = 3 if size <= SIDE else 1
    seconds, found = median(lambda: detector.detect(image), repetitions, warm=0)
    memory = peak_memory()
    assert found.shape == image.shape[:2]
    if nuclei and repeats == 1:  # networks of the demonstration are no good ones, but see nuclei
        scores = evaluate_pair(labels, found.to_label_map())
        assert scores["Dice"] > 0.3, scores
    return {
        "model": detector.config.MODEL,
        "true": int(labels.max()) * repeats**2,
        "found": len(found),
        "seconds": seconds,
        "memory": memory,
    }


def demo_weights(folder=Path("demo")):
    """Each network's best checkpoint of the demonstration, trained if it has not been yet."""
    from mrcnn.checkpoints import best_checkpoint
    from mrcnn_nuclei.demo import run_demo
    from mrcnn_nuclei.networks import NETWORKS
    from mrcnn_nuclei.training import last_checkpoint

    if not (folder / "logs").is_dir():
        run_demo(folder)
    runs = {model: f"nucleus-demo-{model}" for model in NETWORKS}
    last = {model: last_checkpoint(folder / "logs", run, model) for model, run in runs.items()}
    return [best_checkpoint(Path(last[model]).parent, NETWORKS[model].kind) for model in NETWORKS]


def main(weights):
    """Measure and publish."""
    cases = dict.fromkeys((size, round(DENSITY * size**2)) for size in SIZES)
    cases |= dict.fromkeys((SIDE, count) for count in COUNTS)
    lines = []
    for file in weights or demo_weights():
        for size, nuclei in cases:
            case = json.dumps([str(file), size, nuclei])
            found = in_process(__file__, "--measure", case)
            print(found, flush=True)
            seconds = found["seconds"]
            lines.append(
                [
                    found["model"],
                    f"{size} x {size}",
                    f"{found['true']:,}",
                    f"{found['found']:,}",
                    f"{seconds:.3g} s",
                    f"{size**2 / seconds / 1e6:.2f}",
                    f"{found['memory']:,.0f} MB",
                ]
            )
    publish(
        "throughput",
        f"`python benchmarks/throughput.py`: {machine()}; "
        f"{'weights given' if weights else 'the networks of `make demo`'}. Compiling is left out. "
        "Peak memory is the whole process's.",
        ["network", "image", "nuclei", "found", "seconds", "megapixels/s", "peak memory"],
        lines,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", nargs="+", metavar="FILE")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*json.loads(arguments.measure))))
    else:
        main(arguments.weights)
