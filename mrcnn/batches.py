"""Batches made ahead of the training step, in threads, in a fixed order."""

import contextlib
import itertools
import os
from concurrent.futures import ThreadPoolExecutor

import keras

WORKERS = min(os.cpu_count() or 1, 8)


def stream(generator, names, first_epoch=0, workers=WORKERS, errors=None):
    """Yield batches without end, as `keras.Model.fit` takes them for training.

    Parameters
    ----------
    generator : mrcnn.data.Batches
    names : list of str
        Of the network's inputs, in the generator's order.
    first_epoch : int
    workers : int
        Number of threads; NumPy, SciPy and OpenCV let them run side by side.
    errors : list, optional
        Receives what the generator raises, because TensorFlow reports it as an error of its own.

    Yields
    ------
    tuple of one dict
        Input name -> array.
    """
    with ThreadPoolExecutor(workers) as pool:
        for epoch in itertools.count(first_epoch):
            generator.set_epoch(epoch)
            # No batch of the next epoch is begun before the last one of this is done.
            waiting = []
            for index in range(len(generator)):
                waiting.append(pool.submit(generator.__getitem__, index))
                if len(waiting) > workers:
                    yield _named(waiting.pop(0).result, names, errors)
            for future in waiting:
                yield _named(future.result, names, errors)


class FixedBatches(keras.utils.PyDataset):
    """The batches of a generator's first epoch, each time anew, as `fit` takes them for validation.

    A stream would not do: Keras begins a new iterator for each evaluation while TensorFlow's last
    one still fetches ahead, so that the two share the batches.

    Parameters
    ----------
    generator, names, workers, errors
        See `stream`.
    """

    def __init__(self, generator, names, workers=WORKERS, errors=None):
        super().__init__(workers=workers)
        generator.set_epoch(0)
        self.generator = generator
        self.names = names
        self.errors = errors

    def __len__(self):
        return len(self.generator)

    def __getitem__(self, index):
        return _named(lambda: self.generator[index], self.names, self.errors)


def _named(make, names, errors):
    try:
        inputs, _ = make()
        return (dict(zip(names, inputs, strict=True)),)
    except Exception as error:
        if errors is not None:
            errors.append(error)
        raise


def close(batches):
    """End a stream and its threads; Keras keeps it, and with it the data set, beyond `fit`."""
    with contextlib.suppress(ValueError):  # a thread of TensorFlow waits for its next batch
        batches.close()
