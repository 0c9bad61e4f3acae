"""Measure Mask-NMS: `python benchmarks/mask_nms.py`.

Five imitated predictions of drawn nuclei are fused: of one crowded tile, and of canvases up to
10,000 x 10,000 pixels with 100,000 instances, whose times are plotted into docs/images.
"""

import time
import tracemalloc
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from harness import machine, publish

from mrcnn.files import atomic_path
from mrcnn.instances import Instances
from mrcnn_nuclei.datasets.synthetic import draw_tile
from mrcnn_nuclei.mask_nms import mask_nms
from mrcnn_nuclei.metrics import evaluate_pair
from mrcnn_nuclei.noise import noisy_copy

PLOT = Path(__file__).parent.parent / "docs" / "images" / "mask_nms_scaling.png"
TILE, PREDICTIONS = 1000, 5
CROWDED, SPARSE = 1000, 200
"""Nuclei of a tile: in the one that is measured alone, and where tiles fill a canvas."""

SIDES = (1, 2, 4, 7, 10)
"""Tiles in a row, and in a column, of each canvas."""


def imitate(nuclei, rng):
    """The nuclei of a tile, and five imitated predictions of it."""
    labels = draw_tile(TILE, rng, nuclei=nuclei)[1]
    truth = Instances.from_label_map(labels)
    return truth, [noisy_copy(truth, rng) for _ in range(PREDICTIONS)]


def repeat(prediction, side):
    """The prediction of a tile, on each of side x side tiles of a canvas."""
    canvas = (side * TILE, side * TILE)
    places = [(y * TILE, x * TILE) for y in range(side) for x in range(side)]
    return Instances.concatenate([prediction.translate(*place, canvas) for place in places])


def measure(predictions, repetitions):
    """The fused instances, the median CPU and wall time in seconds, and the peak memory in MB."""
    times = []
    for _ in range(repetitions):
        cpu, wall = time.process_time(), time.perf_counter()
        fused = mask_nms(predictions)
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
    tracemalloc.start()
    again = mask_nms(predictions)
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    np.testing.assert_array_equal(again.boxes, fused.boxes)
    return fused, *np.median(times, axis=0), peak


def rows():
    """Yield (side of the canvas, instances, CPU seconds, wall seconds, MB) of each measurement."""
    rng = np.random.default_rng(0)
    truth, predictions = imitate(CROWDED, rng)
    fused, *cost = measure(predictions, 5)
    best = max(evaluate_pair(truth, prediction)["AJI"] for prediction in predictions)
    assert evaluate_pair(truth, fused)["AJI"] > best + 0.03
    yield TILE, sum(map(len, predictions)), *cost

    _, predictions = imitate(SPARSE, rng)
    in_one = len(mask_nms(predictions))
    for side in SIDES:
        repeated = [repeat(prediction, side) for prediction in predictions]
        fused, *cost = measure(repeated, 3 if side < 5 else 1)
        assert len(fused) == side**2 * in_one
        yield side * TILE, sum(map(len, repeated)), *cost


def plot(count, seconds):
    """Draw time over the number of instances, beside N log N, into PLOT."""
    count, seconds = np.array(count), np.array(seconds)
    expected = count * np.log(count)
    figure, axes = plt.subplots(figsize=(5.4, 3.8), layout="constrained")
    axes.loglog(count, expected * (seconds / expected)[0], "--", color="0.6", label="N log N")
    axes.loglog(count, seconds, "o-", color="#7b3294", label="mask_nms")
    axes.set_xlabel("N, instances of five predictions together")
    axes.set_ylabel("CPU time in seconds")
    axes.grid(which="both", color="0.92")
    axes.legend(frameon=False)
    with atomic_path(PLOT) as temporary:
        figure.savefig(temporary, dpi=150)
    # A half more is allowed, since the time of the smallest canvas is short and scatters.
    assert seconds[-1] / seconds[0] < 1.5 * expected[-1] / expected[0]


if __name__ == "__main__":
    measured, lines = [], []
    for size, count, cpu, wall, peak in rows():
        measured.append((count, cpu))
        lines.append(
            [f"{size} x {size}", f"{count:,}", f"{cpu:.2f} s", f"{wall:.2f} s", f"{peak:.0f} MB"]
        )
        print(*lines[-1], flush=True)
    plot(*zip(*measured[1:]))
    publish(
        "mask_nms",
        f"`python benchmarks/mask_nms.py`: five predictions fused, {machine()}. The first line is "
        "one crowded tile, the others a sparse one side by side.",
        ["canvas", "instances", "CPU time", "wall time", "peak memory"],
        lines,
    )
