"""Batches made ahead of the training step, by several workers, in a fixed order."""

import contextlib
import itertools
import os
from collections import deque
from concurrent.futures.process import BrokenProcessPool

import keras

from mrcnn.errors import InputError
from mrcnn.workers import workers

THREADS = min(os.cpu_count() or 1, 8)


def stream(generator, names, first_epoch=0, threads=THREADS, processes=0, errors=None):
    """Yield batches without end, as `keras.Model.fit` takes them for training.

    Parameters
    ----------
    generator : mrcnn.data.Batches
    names : list of str
        Of the network's inputs, in the generator's order.
    first_epoch : int
    threads : int
        NumPy, SciPy and OpenCV let some of their work run side by side.
    processes : int
        If not 0, these make the batches in place of the threads; see `mrcnn.workers.workers`.
    errors : list, optional
        Receives what the generator raises, because TensorFlow reports it as an error of its own.

    Yields
    ------
    tuple of one dict
        Input name -> array.
    """
    with workers(generator, threads, processes) as submit:
        ahead = deque()
        for epoch in itertools.count(first_epoch):
            for index in range(len(generator)):
                ahead.append(submit(epoch, index))
                if len(ahead) > (processes or threads):
                    yield _named(ahead.popleft().result, names, errors)


class FixedBatches(keras.utils.PyDataset):
    """The batches of a generator's first epoch, each time anew, as `fit` takes them for validation.

    A stream would not do: Keras begins a new iterator for each evaluation while TensorFlow's last
    one still fetches ahead, so that the two share the batches.

    Parameters
    ----------
    generator, names, threads, errors
        See `stream`.
    """

    def __init__(self, generator, names, threads=THREADS, errors=None):
        super().__init__(workers=threads)
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
        if isinstance(error, BrokenProcessPool):
            error = InputError(
                "a process that makes batches has died, perhaps for want of memory: lower "
                'BATCH_PROCESSES (a script that sets it needs if __name__ == "__main__")'
            )
        if errors is not None:
            errors.append(error)
        raise error


def close(batches):
    """End a stream and its threads; Keras keeps it, and with it the data set, beyond `fit`."""
    with contextlib.suppress(ValueError):  # a thread of TensorFlow waits for its next batch
        batches.close()
