"""The stream of batches: its order, its epochs, its errors and its end."""

import itertools
import threading
import time

import keras
import pytest
from numbered import Generator

from mrcnn.batches import FixedBatches, close, stream
from mrcnn.errors import InputError


def take(batches, count):
    """(epoch, index) of the next batches."""
    taken = [batch for (batch,) in itertools.islice(batches, count)]
    assert all(list(batch) == ["epoch", "index"] for batch in taken)
    return [(int(batch["epoch"][0]), int(batch["index"][0])) for batch in taken]


NAMES = ["epoch", "index"]


@pytest.mark.parametrize("workers", [1, 2, 7, 16])
def test_order_does_not_depend_on_the_number_of_workers(workers):
    batches = stream(Generator(), NAMES, first_epoch=3, threads=workers)
    expected = [(epoch, index) for epoch in (3, 4, 5) for index in range(5)]
    assert take(batches, 15) == expected
    close(batches)


def test_processes_keep_the_order_too():
    errors = []
    batches = stream(Generator(fails_at=(5, 1)), NAMES, first_epoch=3, processes=2, errors=errors)
    assert take(batches, 11) == [(epoch, index) for epoch in (3, 4, 5) for index in range(5)][:11]
    with pytest.raises(ValueError, match="image 1 of epoch 5"):
        next(batches)
    assert len(errors) == 1


def test_a_process_that_dies_is_told_in_one_line():
    batches = stream(Generator(dies_at=(0, 1)), NAMES, processes=1)
    with pytest.raises(InputError, match="lower BATCH_PROCESSES"):
        take(batches, 3)


def test_the_next_epoch_begins_before_the_last_one_is_done():
    batches = stream(Generator(length=1), NAMES, threads=4)
    assert take(batches, 6) == [(epoch, 0) for epoch in range(6)]
    close(batches)


class PowerOfIndex(keras.layers.Layer):
    """Has the loss 4 ** index."""

    def call(self, inputs):
        self.add_loss(keras.ops.mean(4.0 ** keras.ops.cast(inputs["index"], "float32")))
        return inputs["epoch"]


def test_each_evaluation_has_each_batch_once():
    inputs = {name: keras.Input((), name=name) for name in NAMES}
    model = keras.Model(inputs, PowerOfIndex()(inputs))
    model.compile("sgd")
    training = stream(Generator(1), NAMES)
    validation = FixedBatches(Generator(3), NAMES, threads=2)
    history = model.fit(
        training,
        steps_per_epoch=1,
        epochs=4,
        validation_data=validation,
        shuffle=False,
        verbose=0,
    ).history
    close(training)
    assert history["val_loss"] == [7] * 4  # (1 + 4 + 16) / 3


def test_what_validation_raises_reaches_the_consumer():
    errors = []
    batches = FixedBatches(Generator(fails_at=(0, 1)), NAMES, errors=errors)
    assert take([batches[0]], 1) == [(0, 0)]
    with pytest.raises(ValueError, match="image 1 of epoch 0"):
        batches[1]
    assert [str(error) for error in errors] == ["image 1 of epoch 0"]


def test_no_more_batches_are_made_ahead_than_workers():
    generator = Generator(50)
    batches = stream(generator, NAMES, threads=2)
    take(batches, 1)
    time.sleep(0.1)
    assert sorted(generator.made) == [0, 1, 2]
    close(batches)


def test_a_batch_has_the_inputs_of_the_network():
    batches = stream(Generator(), NAMES[:1])
    with pytest.raises(ValueError, match="argument 2 is longer"):
        next(batches)
    close(batches)


def test_an_exception_reaches_the_consumer_in_its_turn():
    errors = []
    batches = stream(Generator(fails_at=(0, 3)), NAMES, threads=3, errors=errors)
    assert take(batches, 3) == [(0, 0), (0, 1), (0, 2)]
    with pytest.raises(ValueError, match="image 3 of epoch 0"):
        next(batches)
    assert [str(error) for error in errors] == ["image 3 of epoch 0"]


@pytest.mark.parametrize("fails", [False, True])
def test_threads_end_with_the_stream(fails):
    generator = Generator(fails_at=(0, 2) if fails else None)
    batches = stream(generator, NAMES, threads=3)
    take(batches, 2)
    if fails:
        with pytest.raises(ValueError):
            next(batches)
    else:
        close(batches)
    assert generator.threads and not any(thread.is_alive() for thread in generator.threads)
    assert list(batches) == []


def test_closing_a_stream_that_another_thread_waits_on_does_no_harm():
    started, released = threading.Event(), threading.Event()

    class Slow(Generator):
        def __getitem__(self, index):
            started.set()
            released.wait(5)
            return super().__getitem__(index)

    batches = stream(Slow(), NAMES, threads=1)
    taken = []
    consumer = threading.Thread(target=lambda: taken.extend(take(batches, 1)))
    consumer.start()
    started.wait(5)
    close(batches)
    released.set()
    consumer.join(5)
    assert taken == [(0, 0)]
    close(batches)
