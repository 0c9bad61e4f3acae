"""Batches made by several workers at once, a program: `python workers.py fork|spawn|training`.

It ends, or hangs where a test can stop it.
"""

import multiprocessing
import sys
import tempfile
from functools import partial

import numpy as np
from shapes import ShapesDataset

from mrcnn.batches import close, stream
from mrcnn.config import Config
from mrcnn.data import DataGenerator
from mrcnn.errors import InputError

WORKERS = 2


class SmallConfig(Config):
    """A class that other processes can import, as a user's is."""

    NUM_CLASSES = 3
    IMAGES_PER_GPU = 2
    IMAGE_MIN_DIM = 64
    IMAGE_MAX_DIM = 64


class Broken(ShapesDataset):
    """One of its images cannot be read."""

    def load_image(self, image_id):
        if image_id == 3:
            raise InputError("slide.tif: not a readable image")
        return super().load_image(image_id)


def make_by_processes(method):
    """Compare what two processes make with what this one makes, and print how they fail."""
    generator = DataGenerator(ShapesDataset(6), SmallConfig(), seed=4)
    expected = [generator[i] for i in range(len(generator))]
    if method == "spawn":
        names = [str(k) for k in range(len(expected[0][0]))]
        batches = stream(generator, names, processes=WORKERS)
        for (batch,), (inputs, _) in zip(batches, expected):
            for array, other in zip(batch.values(), inputs, strict=True):
                np.testing.assert_array_equal(array, other)
        close(batches)
    with multiprocessing.get_context(method).Pool(WORKERS) as pool:
        made = pool.map(generator.__getitem__, range(len(generator)), chunksize=1)
        for (inputs, _), (same, _) in zip(made, expected, strict=True):
            for array, other in zip(inputs, same, strict=True):
                np.testing.assert_array_equal(array, other)
        broken = DataGenerator(Broken(6), SmallConfig(), shuffle=False, seed=4)
        try:
            pool.map(broken.__getitem__, range(len(broken)), chunksize=1)
        except InputError as error:
            print(f"InputError: {error}")


def train():
    """Train by threads, then let Keras fork processes in which its backend runs already."""
    import keras
    from backends import eagerly
    from helpers import tiny_config

    from mrcnn import trainer
    from mrcnn.model import MaskRCNN

    class Pictures(keras.utils.PyDataset):
        def __init__(self, batches):
            super().__init__(workers=WORKERS, use_multiprocessing=True)
            self.batches = batches

        def __len__(self):
            return len(self.batches)

        def __getitem__(self, index):
            images = self.batches[index][0][0]
            return images, np.zeros(len(images))

    trainer.stream = partial(stream, threads=4 * WORKERS)
    with eagerly(), tempfile.TemporaryDirectory() as logs:
        model = MaskRCNN("training", tiny_config(STEPS_PER_EPOCH=6), logs)
        for epochs in (1, 2):
            history = model.train(
                ShapesDataset(6), ShapesDataset(2), 1e-3, epochs, "heads", verbose=0
            )
            print("threads", history.epoch)
    generator = DataGenerator(ShapesDataset(6), tiny_config(), seed=4)
    small = keras.Sequential([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(1)])
    small.compile("sgd", "mse")
    history = small.fit(Pictures(generator), epochs=2, verbose=0)
    print("processes", history.epoch)


if __name__ == "__main__":
    train() if sys.argv[1] == "training" else make_by_processes(sys.argv[1])
