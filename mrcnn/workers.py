"""Workers that make batches: threads of this process, or processes of their own."""

import contextlib
import copy
import functools
import multiprocessing
import signal
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

from mrcnn.opencv import cv2


@contextlib.contextmanager
def workers(generator, threads, processes=0):
    """Workers that live as long as the `with` block.

    Parameters
    ----------
    generator : mrcnn.data.Batches
        Sent to each process once. Processes need one with a seed, or each has an order of its own.
    threads : int
    processes : int
        If not 0, these in place of the threads, of which Python runs one at a time.

    Yields
    ------
    callable
        (epoch, index) -> Future of that batch; epochs come one after the other.
    """
    if processes:
        # A fork of a process in which TensorFlow or JAX run may hang.
        pool = ProcessPoolExecutor(
            processes, multiprocessing.get_context("spawn"), _adopt, (generator,)
        )
        submit = functools.partial(pool.submit, _make)
    else:
        pool = ThreadPoolExecutor(threads)
        at_epoch = functools.lru_cache(1)(functools.partial(_at_epoch, generator))

        def submit(epoch, index):
            return pool.submit(at_epoch(epoch).__getitem__, index)

    try:
        yield submit
    finally:
        pool.shutdown(cancel_futures=True)


def _at_epoch(generator, epoch):
    """A copy, since other threads may still make batches of the epoch before."""
    generator = copy.copy(generator)
    generator.set_epoch(epoch)
    return generator


def _adopt(generator):
    """The first thing that a process does."""
    global _adopted
    _adopted = generator
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    cv2.setNumThreads(1)


def _make(epoch, index):
    if _adopted.epoch != epoch:
        _adopted.set_epoch(epoch)
    return _adopted[index]
