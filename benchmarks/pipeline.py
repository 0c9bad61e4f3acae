"""How many images a second the input pipeline makes: `python benchmarks/pipeline.py`.

Crops of drawn 1000 x 1000 images with 600 nuclei, for 1, 4 and 16 threads and processes. Each keeps
one core busy at most: read the figures of more than there are cores as what too many cost. What is
needed: training the compact presets, measured here, and the paper's whole protocol (five folds of
300 epochs on 24 images) in half an hour of a GPU.
"""

import itertools
import time

import numpy as np
from harness import machine, median, publish
from tiles import Tiles

from mrcnn.data import DataGenerator
from mrcnn_nuclei.augmentation import Augmentation
from mrcnn_nuclei.config import make_config
from mrcnn_nuclei.datasets import synthetic
from mrcnn_nuclei.unet.batches import MapBatches

KINDS = ("threads", "processes")
WORKERS = (1, 4, 16)
IMAGES, SIZE, NUCLEI = 4, 1000, 600
BATCHES = {"mrcnn": DataGenerator, "unet": MapBatches}
CASES = (("compact", "mrcnn"), ("compact", "unet"), ("paper", "mrcnn"), ("paper", "unet"))
PROTOCOL = 5 * 300 * 24 / 1800
"""Images a second that the paper's protocol in half an hour takes."""


def batches_of(preset, model, dataset):
    """The batches that training with a preset would see, and its configuration."""
    config = make_config(preset, model=model)
    augmentation = Augmentation(config.IMAGE_MIN_DIM, **config.AUGMENTATION)
    return BATCHES[model](dataset, config, augmentation=augmentation, seed=0, steps=100), config


def images_a_second(generator, batch_size, seconds=6.0, **workers):
    """Throughput once the first batches are there."""
    from mrcnn.batches import close, stream  # imports Keras, which processes do without

    names = [str(k) for k in range(len(generator[0][0]))]
    batches = stream(generator, names, **workers)
    try:
        for (batch,) in itertools.islice(batches, max(workers.values()) + 1):
            assert all(np.isfinite(array).all() for array in batch.values())
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            next(batches)
            count += batch_size
        return count / (time.perf_counter() - start)
    finally:
        close(batches)


def trained_a_second(generator, config):
    """Images a second that this machine's training takes."""
    from mrcnn_nuclei.networks import NETWORKS

    model = NETWORKS[config.MODEL]("training", config, ".")
    model.compile(config.LEARNING_RATE, config.LEARNING_MOMENTUM)
    inputs, _ = generator[0]
    batch = dict(zip([tensor.name for tensor in model.keras_model.inputs], inputs))
    seconds, losses = median(lambda: model.keras_model.train_on_batch(batch, return_dict=True), 3)
    assert np.isfinite(losses["loss"])
    return config.BATCH_SIZE / seconds


def main():
    """Measure and publish."""
    rng = np.random.default_rng(0)
    dataset = Tiles([synthetic.draw_tile(SIZE, rng, nuclei=NUCLEI) for _ in range(IMAGES)])
    lines = []
    for preset, model in CASES:
        generator, config = batches_of(preset, model, dataset)
        rates = [
            images_a_second(generator, config.BATCH_SIZE, **{kind: count})
            for kind in KINDS
            for count in WORKERS
        ]
        needed = PROTOCOL if preset == "paper" else trained_a_second(generator, config)
        print(preset, model, rates, needed, flush=True)
        side = int(config.IMAGE_SHAPE[0])
        figures = [f"{rate:.0f}" for rate in rates]
        lines.append(
            [preset, model, f"{config.BATCH_SIZE} x {side} x {side}", *figures, f"{needed:.1f}"]
        )
    publish(
        "pipeline",
        "`python benchmarks/pipeline.py`: images/s with 1, 4 and 16 threads or processes, and what "
        "training takes: of `compact` on this machine, of `paper` in half an hour for the whole "
        f"protocol. {machine()}.",
        [
            *("preset", "network", "batch"),
            *(f"{kind}: {count}" for kind in KINDS for count in WORKERS),
            "needed",
        ],
        lines,
        names=3,
    )


if __name__ == "__main__":
    main()
