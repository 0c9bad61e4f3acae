"""A training that was killed ends where an uninterrupted one does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from mrcnn.checkpoints import checkpoints_in, find_last

EPOCHS = 3
ROOT = Path(__file__).resolve().parent.parent


def weights_in(path):
    """Every array of a checkpoint, the optimiser's included."""
    arrays = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return arrays


def start(logs, network, *arguments):
    command = [sys.executable, __file__, str(logs), network, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def wait(process):
    _, messages = process.communicate(timeout=600)
    return process.returncode, messages


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mask_rcnn", "unet"])
def test_killed_in_an_epoch_and_continued(tmp_path, network):
    logs, other_logs = tmp_path / "killed", tmp_path / "uninterrupted"
    killed, uninterrupted = start(logs, network, "kill"), start(other_logs, network)
    status, messages = wait(killed)
    assert status == -signal.SIGKILL, messages
    first = find_last(logs, "tiny", network)
    assert first.name == f"{network}_tiny_0001.h5"
    assert [path.name for path in checkpoints_in(first.parent, network)] == [first.name]
    before = weights_in(first)

    status, messages = wait(start(logs, network))
    assert status == 0, messages
    last = find_last(logs, "tiny", network)
    assert last == first.parent / f"{network}_tiny_0003.h5"
    status, messages = wait(uninterrupted)
    assert status == 0, messages

    found, expected = weights_in(last), weights_in(find_last(other_logs, "tiny", network))
    assert found.keys() == expected.keys()
    assert any(name.startswith("training_state/optimizer") for name in found)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=1e-6, err_msg=name)
    assert any(abs(found[name] - before[name]).max() > 1e-4 for name in expected)
    history = (first.parent / "history.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in history] == ["epoch", "0", "1", "2"]


def build(network, logs):
    from helpers import tiny_config
    from tiny import TinyUNetConfig

    from mrcnn.model import MaskRCNN
    from mrcnn_nuclei.unet.model import UNet

    if network == "mask_rcnn":
        return MaskRCNN("training", tiny_config(STEPS_PER_EPOCH=4, SEED=3), logs)
    config = type("Config", (TinyUNetConfig,), {"NAME": "tiny", "STEPS_PER_EPOCH": 4, "SEED": 3})()
    return UNet("training", config, logs)


def train(logs, network, kill):
    """Train, from the last checkpoint if there is one; `kill`: end halfway the second epoch."""
    import keras
    from shapes import ShapesDataset

    from mrcnn import backend

    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            if (self.epoch, batch) == (1, 1):
                os.kill(os.getpid(), signal.SIGKILL)

    backend.make_deterministic(0)
    model = build(network, logs)
    try:
        model.load_weights(model.find_last())
    except FileNotFoundError:
        pass
    model.train(
        ShapesDataset(6),
        ShapesDataset(2, first=6),
        learning_rate=0.01,
        epochs=EPOCHS,
        layers="all",
        custom_callbacks=[Kill()] if kill else None,
        verbose=0,
    )


if __name__ == "__main__":
    train(sys.argv[1], sys.argv[2], kill="kill" in sys.argv[3:])
