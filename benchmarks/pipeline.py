"""How many images a second the input pipeline makes: `python benchmarks/pipeline.py`.

Crops of drawn 1000 x 1000 images with 600 nuclei, for 1, 4 and 16 threads, against what the
training step takes. A thread keeps one core busy: read the figures of more threads than cores as
what it costs to have too many.
"""

import itertools
import time

import numpy as np
from harness import machine, publish
from tiles import Tiles

from mrcnn.batches import close, stream
from mrcnn.data import DataGenerator
from mrcnn_nuclei.augmentation import Augmentation
from mrcnn_nuclei.config import make_config
from mrcnn_nuclei.datasets import synthetic
from mrcnn_nuclei.unet.batches import MapBatches

WORKERS = (1, 4, 16)
IMAGES, SIZE, NUCLEI = 4, 1000, 600
BATCHES = {"mrcnn": DataGenerator, "unet": MapBatches}
CASES = (("compact", "mrcnn"), ("compact", "unet"), ("paper", "mrcnn"), ("paper", "unet"))


def batches_of(preset, model, dataset):
    """The batches that training with a preset would see, and its configuration."""
    config = make_config(preset, model=model)
    augmentation = Augmentation(config.IMAGE_MIN_DIM, **config.AUGMENTATION)
    return BATCHES[model](dataset, config, augmentation=augmentation, seed=0, steps=100), config


def images_a_second(generator, batch_size, workers, seconds=6.0):
    """Throughput once the first batches are there."""
    batches = stream(generator, [str(k) for k in range(len(generator[0][0]))], workers=workers)
    try:
        for (batch,) in itertools.islice(batches, workers + 1):
            assert all(np.isfinite(array).all() for array in batch.values())
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            next(batches)
            count += batch_size
        return count / (time.perf_counter() - start)
    finally:
        close(batches)


def main():
    """Measure and publish."""
    rng = np.random.default_rng(0)
    dataset = Tiles([synthetic.draw_tile(SIZE, rng, nuclei=NUCLEI) for _ in range(IMAGES)])
    lines = []
    for preset, model in CASES:
        generator, config = batches_of(preset, model, dataset)
        rates = [images_a_second(generator, config.BATCH_SIZE, count) for count in WORKERS]
        print(preset, model, rates, flush=True)
        side = int(config.IMAGE_SHAPE[0])
        lines.append(
            [preset, model, f"{config.BATCH_SIZE} x {side} x {side}", *(f"{x:.0f}" for x in rates)]
        )
    publish(
        "pipeline",
        f"`python benchmarks/pipeline.py`: images/s with 1, 4 and 16 threads, {machine()}.",
        ["preset", "network", "batch", *(f"threads: {count}" for count in WORKERS)],
        lines,
        names=3,
    )


if __name__ == "__main__":
    main()
