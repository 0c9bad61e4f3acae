"""Whether another runtime would be faster: `python benchmarks/runtimes.py [--weights FILE ...]`.

Networks on a drawn tile, by Keras and, exported to ONNX, by ONNX Runtime and OpenVINO (`pip install
onnxruntime openvino`), all in float32 on all cores. Without weights, those of the demonstration.
"""

import argparse
import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from harness import in_process, machine, median, publish
from throughput import demo_weights

RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def measure(weights, runtime):
    """Median seconds of a tile by Keras and by a runtime, and how far their results are apart."""
    from mrcnn.images import mold_image
    from mrcnn_nuclei.datasets import synthetic
    from mrcnn_nuclei.detector import Detector

    detector = Detector(weights)
    side = detector.config.DETECTION_TILE
    image, _ = synthetic.draw_tile(side, np.random.default_rng(0))
    tile = mold_image(image[None], detector.config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        detector.export(path)
        try:
            forward = LOADERS[runtime](path)
        except Exception as error:  # each has its own
            print(error)
            return {"model": detector.config.MODEL, "refused": True}
    keras_seconds, expected = median(forward_by_keras(detector.model, image, tile))
    seconds, found = median(lambda: forward(tile))
    error = float(np.abs(found - expected).max())
    assert error < 1e-3, error
    return {"model": detector.config.MODEL, "keras": keras_seconds, "runtime": seconds}


def forward_by_keras(network, image, tile):
    """A function that gives the network's first output."""
    if network.kind == "unet":
        return lambda: network._forward([tile])[0]
    _, metas, _ = network.mold_inputs([image])
    return lambda: network._run(tile, metas)[0]


def load_onnxruntime(path):
    """A function of the tile that gives the network's first output."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count()
    session = onnxruntime.InferenceSession(path, options)
    return lambda tile: session.run(None, {"image": tile})[0]


def load_openvino(path):
    """As `load_onnxruntime`."""
    import openvino

    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(path, "CPU", hints)
    return lambda tile: compiled({"image": tile})[0]


LOADERS = {"onnxruntime": load_onnxruntime, "openvino": load_openvino}


def main(weights):
    """Measure and publish."""
    for package in RUNTIMES:
        if importlib.util.find_spec(package) is None:
            sys.exit(f"needs {package}: pip install {' '.join(RUNTIMES)}")
    lines = []
    for file in weights or demo_weights():
        for runtime, name in RUNTIMES.items():
            found = in_process(__file__, "--measure", file, runtime)
            print(runtime, found, flush=True)
            if "refused" in found:
                lines.append([found["model"], name, "", "", "cannot read it"])
                continue
            ratio = found["keras"] / found["runtime"]
            figures = [f"{found[key]:.2f} s" for key in ("keras", "runtime")]
            lines.append([found["model"], name, *figures, f"{ratio:.2f} x"])
    publish(
        "runtimes",
        "`python benchmarks/runtimes.py`: a tile of 576 x 576 by the compact networks, float32, "
        f"results equal within 1e-3. {machine()}.",
        ["network", "runtime", "Keras", "runtime's", "speed"],
        lines,
        names=2,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", nargs="+", metavar="FILE")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(*arguments.measure)))
    else:
        main(arguments.weights)
