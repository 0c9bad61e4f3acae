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

    image, labels = synthetic.draw_tile(size, np.random.default_rng(0), nuclei=nuclei)
    detector = Detector(weights)
    repetitions = 3 if size <= SIDE else 1
    seconds, found = median(lambda: detector.detect(image), repetitions, warm=repetitions // 3)
    assert found.shape == labels.shape
    # Networks of the demonstration are not good ones, but they see nuclei.
    scores = evaluate_pair(labels, found.to_label_map())
    assert nuclei == 0 or scores["Dice"] > 0.3, scores
    return {
        "model": detector.config.MODEL,
        "true": int(labels.max()),
        "found": len(found),
        "seconds": seconds,
        "memory": peak_memory(),
    }


def demo_weights(folder=Path("demo")):
    """Each network's best checkpoint of the demonstration, trained if it has not been yet."""
    from mrcnn.checkpoints import best_checkpoint

    runs = sorted((folder / "logs").glob("nucleus-demo-*"))
    if not runs:
        from mrcnn_nuclei.demo import run_demo

        run_demo(folder)
        runs = sorted((folder / "logs").glob("nucleus-demo-*"))
    newest = {run.name.split("2")[0]: run for run in runs}
    return [best_checkpoint(run) for run in newest.values()]


def main(weights):
    """Measure and publish."""
    cases = [(size, round(DENSITY * size**2)) for size in SIZES]
    cases += [(SIDE, count) for count in COUNTS]
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
        f"`python benchmarks/throughput.py`: {machine()}; the networks of `make demo`. Peak memory "
        "is the whole process's.",
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
