"""Compare with a TensorFlow 2 port of Matterport's code: `python benchmarks/compared.py`.

The port was measured with tools/bench_mrcnn.py of the folder NUCLEI_SHARED, which measures this
package too: same networks, same weights, same images. Without that folder there is nothing to do.
"""

import json
import os
import runpy
import sys
import tracemalloc
from pathlib import Path

import numpy as np
from harness import FOLDER, in_process, machine, median, publish

# Seconds and memory (MB) of the port, and the ratio of times that is wanted.
PORT = {
    "train256": ("training step, 256 x 256, 128 ROIs", 2.70, None, 2),
    "train512": ("training step, 512 x 512, 128 ROIs", 4.44, None, 2),
    "detect512": ("`detect`, 512 x 512, 282 detections", 3.25, None, 2),
    "train256 bfloat16": ("training step, 256 x 256, `mixed_bfloat16`", 2.70, None, 2.8),
    "train512 bfloat16": ("training step, 512 x 512, `mixed_bfloat16`", 4.44, None, 2.8),
    "detect512 bfloat16": ("`detect`, 512 x 512, `mixed_bfloat16`", 3.25, None, None),
    "labels": ("`load_image_gt`, 1000 x 1000, 600 nuclei, label map", 0.84, 620, 30),
    "load": ("the same, dense masks", 0.84, 620, 5),
    "labels2x": ("the same, label map, IMAGE_MIN_SCALE = 2", 29, 2300, 300),
    "load2x": ("the same, dense masks, IMAGE_MIN_SCALE = 2", 29, 2300, None),
    "instances": ("IoU of 600 with 600 masks, `Instances`", 8.6, 5100, 200),
    "overlaps": ("the same, dense masks", 8.6, 5100, None),
}

SHARED = os.environ.get("NUCLEI_SHARED", FOLDER.parent.parent / "shared")
TOOL = Path(SHARED, "tools", "bench_mrcnn.py")

PORT_PRODUCT = 0.093
"""Seconds that the port's machine took for the product of two 2048 x 2048 matrices."""


def measure(item):
    """What a process of its own says of an item: `median_s` and others."""
    if item == "instances":
        return in_process(__file__, "--measure", item)
    item, _, policy = item.partition(" ")
    program = [__file__, f"--{policy}"] if policy else [TOOL]
    found = in_process(*program, item, "--src", FOLDER.parent)
    assert np.isfinite(found.get("loss", 0)).all(), found
    if item == "detect512" and not policy:
        assert found["n_detections"] == 282, found
    if item == "overlaps":
        assert abs(found["checksum"] - 529.99) < 0.01, found
    return found


def measure_in_bfloat16(arguments):
    """The port's program, with another default of `Config`."""
    from mrcnn.config import Config

    Config.DTYPE_POLICY = "mixed_bfloat16"
    sys.argv = [str(TOOL), *arguments]
    runpy.run_path(str(TOOL), run_name="__main__")


def measure_instances():
    """Compare 600 nuclei with themselves moved by two pixels, as crops and, to check, densely."""
    from mrcnn.instances import Instances
    from mrcnn.overlaps import mask_iou
    from mrcnn.utils import compute_overlaps_masks
    from mrcnn_nuclei.datasets import synthetic

    _, labels = synthetic.draw_tile(1000, np.random.default_rng(0), nuclei=600)
    pair = [Instances.from_label_map(each) for each in (labels, np.roll(labels, 2, axis=0))]
    seconds, (rows, columns, iou) = median(lambda: mask_iou(*pair))
    tracemalloc.start()
    mask_iou(*pair)
    needed = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    found = np.zeros((len(pair[0]), len(pair[1])), np.float32)
    found[rows, columns] = iou
    expected = compute_overlaps_masks(*(each.to_dense() for each in pair))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    return {"median_s": seconds, "peak_rss_above_start_mb": needed}


def compare():
    """Measure all items and publish the table."""
    product = np.random.default_rng(0).random((2, 2048, 2048), np.float32)
    seconds_of_product, _ = median(lambda: product[0] @ product[1])
    lines = []
    for item, (what, seconds, memory, wanted) in PORT.items():
        found = measure(item)
        print(item, found["median_s"], flush=True)
        line = [what, f"{seconds:.3g} s", f"{found['median_s']:.3g} s"]
        line += [f"{seconds / found['median_s']:.3g}", f"{wanted}" if wanted else ""]
        needed = found.get("peak_rss_above_start_mb", 0)
        line += [f"{memory:,} MB", f"{needed:,.0f} MB"] if memory else ["", ""]
        lines.append(line)
    publish(
        "compared",
        f"`python benchmarks/compared.py`: medians of 5 calls, {machine()}. Memory is what a call "
        "needs beyond its arguments. A product of two 2048 x 2048 matrices takes "
        f"{seconds_of_product:.3f} s here, {PORT_PRODUCT} s on the port's machine.",
        ["what", "port", "here", "times as fast", "wanted", "memory: port", "here"],
        lines,
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["--measure", "instances"]:
        print(json.dumps(measure_instances()))
    elif sys.argv[1:2] == ["--bfloat16"]:
        measure_in_bfloat16(sys.argv[2:])
    elif TOOL.is_file():
        compare()
    else:
        print("compared: skipped; NUCLEI_SHARED has to name a folder with tools/bench_mrcnn.py")
