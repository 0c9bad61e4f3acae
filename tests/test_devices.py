"""Training on two devices, which are two halves of this machine's processor here."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from mrcnn import backend
from mrcnn.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


def assert_refused(count, *words):
    with pytest.raises(InputError) as caught:
        backend.replica_scope(count)
    message = str(caught.value)
    assert "\n" not in message
    for word in (f"GPU_COUNT = {count}", *words):
        assert word in message


def test_one_device_needs_no_preparation(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with backend.replica_scope(1)():
        pass


def test_torch_is_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    assert_refused(2, "not available on the torch backend", "set GPU_COUNT = 1")


def test_more_devices_than_there_are():
    assert_refused(99, "this machine offers", "lower it")


def train_in_subprocess(backend_name, folder, count):
    """Losses and weights of a training on so many devices, of two images a step in all."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "KERAS_BACKEND": backend_name,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, __file__, str(folder), str(count)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert process.returncode == 0, process.stderr
    result = json.loads((folder / "result.json").read_text())
    assert result["devices"] == count
    return result["losses"], np.load(folder / "weights.npz")


@pytest.mark.slow
@pytest.mark.parametrize("backend_name", ["tensorflow", "jax"])
def test_two_devices_learn_what_one_does(tmp_path, backend_name):
    if importlib.util.find_spec(backend_name) is None:
        pytest.skip(f"{backend_name} is not installed: pip install 'mrcnn-nuclei[{backend_name}]'")
    expected_losses, expected = train_in_subprocess(backend_name, tmp_path / "1", 1)
    losses, weights = train_in_subprocess(backend_name, tmp_path / "2", 2)
    assert losses.keys() == expected_losses.keys() and len(losses) == 12
    for name, values in expected_losses.items():
        assert values[-1] > 0, name
        np.testing.assert_allclose(losses[name], values, rtol=2e-5, err_msg=name)
    for name in expected:
        np.testing.assert_allclose(weights[name], expected[name], atol=2e-6, err_msg=name)


def devices_of(value):
    """On how many devices a variable lives, as TensorFlow or JAX hold it."""
    if hasattr(value, "sharding"):
        return len(value.sharding.device_set)
    copies = getattr(value, "values", None)
    return len(copies) if isinstance(copies, tuple) else 1


def train(folder, count):
    """Two epochs on two pictures of the same shapes in different colours.

    A replica's losses are means over its own image, one device's over both images. They agree where
    one image has as many positive anchors and ROIs as the other; so all anchors are proposals here,
    whatever their score, and all of both train.
    """
    from helpers import fill_by_rule, tiny_config
    from shapes import ShapesDataset

    from mrcnn.model import MaskRCNN

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        halves = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], halves
        )

    class TwoColors(ShapesDataset):
        def load_image(self, image_id):
            return np.roll(super().load_image(0), image_id, axis=-1)

        def load_labels(self, image_id):
            return super().load_labels(0)

    anchors = 1023
    config = tiny_config(
        GPU_COUNT=count,
        IMAGES_PER_GPU=2 // count,
        RPN_ANCHOR_SCALES=(16, 20, 24, 32, 48),
        RPN_TRAIN_ANCHORS_PER_IMAGE=2 * anchors,
        RPN_NMS_THRESHOLD=1.0,
        PRE_NMS_LIMIT=anchors,
        POST_NMS_ROIS_TRAINING=anchors,
        TRAIN_ROIS_PER_IMAGE=4000,
        ROI_POSITIVE_RATIO=0.01,
    )
    model = MaskRCNN("training", config, folder)
    fill_by_rule(model.keras_model)
    rpn = model.keras_model.get_layer("rpn_model")
    for weight in rpn.get_layer("rpn_bbox_pred").weights:
        weight.assign(np.zeros(weight.shape))  # proposals are anchors
    losses = model.train(TwoColors(2), TwoColors(2), 0.002, 2, "all", verbose=0).history
    assert (Path(model.log_dir) / "mask_rcnn_tiny_0002.h5").exists()
    weights = {
        weight.path.replace("/", "."): np.array(weight) for weight in model.keras_model.weights
    }
    result = {"losses": losses, "devices": devices_of(model.keras_model.weights[0].value)}
    (folder / "result.json").write_text(json.dumps(result))
    np.savez(folder / "weights.npz", **weights)


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]))
