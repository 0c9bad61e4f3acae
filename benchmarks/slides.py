"""What a slide costs: `python benchmarks/slides.py --weights FILE [--side 10000] [--nuclei 50000]`.

A slide is drawn, a pyramidal TIFF of tissue from edge to edge, or with `--canvas 100000` of tissue
in the middle of much glass, and detected with its label map, outlines and measurements written: by
this process alone, by one worker of one thread and by two. Peak memory is that of the greediest
process, and the one that reads, merges and writes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import tifffile
from harness import machine, publish

from mrcnn_nuclei.datasets.synthetic import draw_tile

TILE = 1000
DRAWN = 4
"""Different drawn tiles, repeated over the slide in different orientations."""

TIFF_TILE = 512

REDUCED = (2, 4, 8)
"""How many times the further levels of the pyramid are reduced."""

GLASS = 243
"""Grey level of glass."""

KINDS = "overlay,labels,geojson,csv"


def draw_slide(path, side, nuclei, canvas):
    """Write a slide of H&E-like tissue, in the middle of glass; returns how many nuclei it has."""
    repeats = side // TILE
    each = round(nuclei / repeats**2)
    drawn = [draw_tile(TILE, np.random.default_rng(k), nuclei=each) for k in range(DRAWN)]
    counts = [int(labels.max()) for _, labels in drawn]
    rng = np.random.default_rng(0)
    chosen = rng.integers(DRAWN, size=(repeats, repeats))
    turns = rng.integers(4, size=(repeats, repeats))

    def tissue(step):
        rows = [
            [
                np.rot90(drawn[k][0], turn).reshape(TILE // step, step, -1, step, 3).mean((1, 3))
                for k, turn in zip(*row)
            ]
            for row in zip(chosen, turns)
        ]
        return np.concatenate([np.concatenate(np.uint8(row), axis=1) for row in rows])

    options = {"photometric": "rgb", "compression": "jpeg", "metadata": None}
    resolution = {"resolution": (40000, 40000), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(**on_glass(tissue(1), canvas), subifds=len(REDUCED), **options, **resolution)
        for step in REDUCED:
            file.write(**on_glass(tissue(step), canvas // step), subfiletype=1, **options)
    return sum(counts[k] for k in chosen.ravel())


def on_glass(tissue, canvas):
    """What `TiffWriter.write` takes for tissue in the middle of glass, tile by tile."""
    start = (canvas - len(tissue)) // 2

    def tiles():
        for y in range(0, canvas, TIFF_TILE):
            for x in range(0, canvas, TIFF_TILE):
                tile = np.full((TIFF_TILE, TIFF_TILE, 3), GLASS, np.uint8)
                top, left = max(y, start), max(x, start)
                part = tissue[
                    top - start : max(y + TIFF_TILE - start, 0),
                    left - start : max(x + TIFF_TILE - start, 0),
                ]
                tile[top - y :, left - x :][: part.shape[0], : part.shape[1]] = part
                yield tile

    return {
        "data": tiles(),
        "shape": (canvas, canvas, 3),
        "dtype": np.uint8,
        "tile": (TIFF_TILE, TIFF_TILE),
    }


def measure(weights, slide, output, workers):
    """Run the command; seconds, peak memory in MB of itself and of a worker, nuclei."""
    command = [sys.executable, "-m", "mrcnn_nuclei.cli", "detect", "--weights", weights]
    command += ["--image", slide, "--output", output, "--write", KINDS]
    command += ["--workers", workers] if workers else []
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    start = time.perf_counter()
    process = subprocess.Popen(
        [str(word) for word in command], env=environment, stdout=subprocess.PIPE, text=True
    )
    peaks = {}
    watching = threading.Thread(target=watch, args=(process, peaks))
    watching.start()
    out, _ = process.communicate()
    seconds = time.perf_counter() - start
    watching.join()
    assert process.returncode == 0, process.returncode
    return {
        "seconds": seconds,
        "own": peaks.pop(process.pid),
        "worker": max(peaks.values(), default=0),
        "nuclei": int(out.split()[0]),
    }


def watch(process, peaks):
    """Note the most memory that a process and each of its children have had, in MB."""
    while process.poll() is None:
        try:
            own = psutil.Process(process.pid)
            for each in [own, *own.children(recursive=True)]:
                with open(f"/proc/{each.pid}/status") as file:
                    told = next((line for line in file if line.startswith("VmHWM")), None)
                if told:
                    peaks[each.pid] = int(told.split()[1]) / 1024
        except (psutil.Error, OSError):
            pass  # it has just ended
        time.sleep(0.2)


def main(weights, side, nuclei, counts, canvas):
    """Measure and publish."""
    with tempfile.TemporaryDirectory() as folder:
        slide = Path(folder) / "slide.tif"
        drawn = draw_slide(slide, side, nuclei, canvas)
        found = {}
        for workers in counts:
            found[workers] = measure(weights, slide, Path(folder) / f"out{workers}", workers)
            print(json.dumps({"workers": workers, **found[workers]}), flush=True)
    alone = found[1]["seconds"] if 1 in found else None
    lines = [
        [
            f"{workers} of one thread" if workers else "none",
            f"{drawn:,}",
            f"{one['nuclei']:,}",
            f"{one['seconds']:.0f} s",
            f"{alone / one['seconds']:.2f}" if alone and workers else "-",
            f"{one['own']:,.0f} MB",
            f"{one['worker']:,.0f} MB" if workers else "-",
        ]
        for workers, one in found.items()
    ]
    publish(
        "slides" if canvas == side else "slides_on_glass",
        f"`{' '.join(['python', 'benchmarks/slides.py', *command_line()])}`: {machine()}. "
        f"A pyramidal TIFF of {canvas:,} x {canvas:,} pixels, JPEG, {side:,} x {side:,} of them "
        f"tissue; {KINDS} are written. Start-up, compiling and writing are counted. Peak memory of "
        "a process is what the system gave it.",
        [
            "workers",
            "nuclei",
            "found",
            "time",
            "times as fast as one",
            "peak of the command",
            "peak of a worker",
        ],
        lines,
    )


def command_line():
    """The arguments given, but the path of the weights."""
    words = iter(sys.argv[1:])
    return [
        word if word != "--weights" else f"--weights {Path(next(words)).name}" for word in words
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True, metavar="FILE")
    parser.add_argument("--side", type=int, default=10000, metavar="N")
    parser.add_argument("--nuclei", type=int, default=50000, metavar="N")
    parser.add_argument(
        "--canvas", type=int, metavar="N", help="side of the slide; default: --side"
    )
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="0: none"
    )
    arguments = parser.parse_args()
    canvas = arguments.canvas or arguments.side
    main(arguments.weights, arguments.side, arguments.nuclei, arguments.workers, canvas)
