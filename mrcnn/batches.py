"""Batches made ahead of the training step, in threads, in a fixed order."""

import contextlib
import itertools
import os
from concurrent.futures import ThreadPoolExecutor

WORKERS = min(os.cpu_count() or 1, 8)


def stream(generator, names, first_epoch=0, repeat=False, workers=WORKERS, errors=None):
    """Yield batches without end, as `keras.Model.fit` takes them.

    Parameters
    ----------
    generator : mrcnn.data.Batches
    names : list of str
        Of the network's inputs, in the generator's order.
    first_epoch : int
    repeat : bool
        Whether every epoch has the batches of the first one, as suits validation.
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
        for epoch in itertools.repeat(first_epoch) if repeat else itertools.count(first_epoch):
            generator.set_epoch(epoch)
            # No batch of the next epoch is begun before the last one of this is done.
            waiting = []
            for index in range(len(generator)):
                waiting.append(pool.submit(generator.__getitem__, index))
                if len(waiting) > workers:
                    yield _named(waiting.pop(0), names, errors)
            for future in waiting:
                yield _named(future, names, errors)


def _named(future, names, errors):
    try:
        inputs, _ = future.result()
        return (dict(zip(names, inputs, strict=True)),)
    except Exception as error:
        if errors is not None:
            errors.append(error)
        raise


def close(batches):
    """End a stream and its threads; Keras keeps it, and with it the data set, beyond `fit`."""
    with contextlib.suppress(ValueError):  # a thread of TensorFlow waits for its next batch
        batches.close()
