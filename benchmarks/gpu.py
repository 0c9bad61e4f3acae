"""How long the paper's protocol takes on this GPU: `KERAS_BACKEND=jax python benchmarks/gpu.py`.

Times steps of each stage of training (heads, upper layers, all) of the `paper` preset, input
pipeline included, and extrapolates to five folds of 300 epochs on 24 images. With JAX the memory
is capped. `--toy` runs the same at a size that a CPU bears, to see that the script works.
"""

import argparse
import os
import statistics
import subprocess
import tempfile
import time

import numpy as np

FOLDS, IMAGES = 5, 24
TOY = {
    "BACKBONE": "resnet50",
    "IMAGES_PER_GPU": 1,
    "IMAGE_MIN_DIM": 128,
    "IMAGE_MAX_DIM": 128,
    "POST_NMS_ROIS_TRAINING": 50,
    "TRAIN_ROIS_PER_IMAGE": 12,
    "FPN_CLASSIF_FC_LAYERS_SIZE": 64,
}


def cap_memory(gigabytes):
    """Have JAX reserve no more than this of the first GPU; before it is imported."""
    try:
        total = subprocess.run(
            ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError):
        return
    os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{gigabytes * 1024 / float(total):.4f}"


def measure(config, dataset, steps):
    """Median seconds of a step, for each stage of the schedule."""
    import keras

    from mrcnn_nuclei.augmentation import Augmentation
    from mrcnn_nuclei.networks import NETWORKS

    class Stopwatch(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.ends = []

        def on_train_batch_end(self, batch, logs=None):
            assert np.isfinite(float(logs["loss"])), logs
            self.ends.append(time.perf_counter())

    augmentation = Augmentation(config.IMAGE_MIN_DIM, **config.AUGMENTATION)
    with tempfile.TemporaryDirectory() as logs:
        model = NETWORKS[config.MODEL]("training", config, logs)
        found = []
        for epoch, (layers, _, _) in enumerate(config.SCHEDULE, start=1):
            watch = Stopwatch()
            model.train(
                dataset,
                None,
                config.LEARNING_RATE / 100,
                epochs=epoch,
                layers=layers,
                augmentation=augmentation,
                custom_callbacks=[watch],
                verbose=0,
            )
            found.append(statistics.median(np.diff(watch.ends[steps // 10 :])))
            print(f"{layers}: {found[-1]:.3f} s a step", flush=True)
    return found


def protocol_minutes(config, seconds):
    """The time of the whole protocol, from the seconds of a step in each stage."""
    steps = -(-IMAGES // config.BATCH_SIZE)
    begins = [0, *(until for _, until, _ in config.SCHEDULE)]
    epochs = np.diff(begins)
    return FOLDS * steps * float(np.dot(epochs, seconds)) / 60


def peak_gigabytes():
    """The most memory that JAX has used on the first device, if it knows."""
    import keras

    if keras.backend.backend() != "jax":
        return None
    import jax

    statistics_of_device = jax.devices()[0].memory_stats() or {}
    peak = statistics_of_device.get("peak_bytes_in_use")
    return peak / 2**30 if peak else None


def main():
    """Measure and print a line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["mrcnn", "unet"], default="mrcnn")
    parser.add_argument(
        "--precision",
        choices=["float32", "mixed_bfloat16", "mixed_float16"],
        default="float32",
        help="default: float32",
    )
    parser.add_argument("--steps", type=int, default=80, help="of each stage (default: 80)")
    parser.add_argument("--memory", type=float, default=11.0, help="GB that JAX may use")
    parser.add_argument("--toy", action="store_true", help="a size that a CPU bears")
    arguments = parser.parse_args()
    cap_memory(arguments.memory)

    from tiles import Tiles

    from mrcnn_nuclei.config import make_config
    from mrcnn_nuclei.datasets import synthetic

    rng = np.random.default_rng(0)
    size, nuclei = (200, 30) if arguments.toy else (1000, 600)
    dataset = Tiles([synthetic.draw_tile(size, rng, nuclei=nuclei) for _ in range(4)])
    settings = {
        "DTYPE_POLICY": arguments.precision,
        "STEPS_PER_EPOCH": arguments.steps,
        "VALIDATION_STEPS": 0,
        **(TOY if arguments.toy else {}),
    }
    config = make_config("paper", settings, model=arguments.model)
    seconds = measure(config, dataset, arguments.steps)
    peak = peak_gigabytes()
    print(
        f"{arguments.precision}: {config.BATCH_SIZE / seconds[-1]:.1f} images/s with all layers; "
        f"{FOLDS} folds of {config.SCHEDULE[-1][1]} epochs on {IMAGES} images: "
        f"{protocol_minutes(config, seconds):.0f} minutes without validation and checkpoints"
        + (f"; {peak:.1f} GB at most" if peak else "")
    )


if __name__ == "__main__":
    main()
