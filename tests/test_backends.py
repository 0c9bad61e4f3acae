"""TensorFlow, JAX and PyTorch: each trains, compiles, saves and detects, and all agree."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from backends import BACKEND, eagerly
from helpers import fill_by_rule, tiny_config, to_numpy
from shapes import ShapesDataset
from test_devices import train_in_subprocess

from mrcnn.checkpoints import checkpoints_in, restore_optimizer
from mrcnn.data import DataGenerator
from mrcnn.losses import LOSS_NAMES
from mrcnn.model import LAYER_PATTERNS, MaskRCNN
from mrcnn.weights import load_state

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("tensorflow", "jax", "torch")
RESULT = ("rois", "class_ids", "scores", "masks")


def make_model(mode, folder, **overrides):
    """A tiny network with the weights that all backends start from."""
    config = tiny_config(RPN_ANCHOR_SCALES=(16, 20, 24, 32, 48), STEPS_PER_EPOCH=1, **overrides)
    model = MaskRCNN(mode, config, folder)
    fill_by_rule(model.keras_model)
    return model


def find(model):
    """What `detect` finds in a picture, also if a few steps have taught that all is background."""
    model.keras_model.get_layer("mrcnn_class_logits").bias.assign([-9, 0, 0])
    (found,) = model.detect([ShapesDataset(1).load_image(0)])
    assert len(found["scores"]) > 5
    return found


def arrays_of(model):
    return {weight.path: to_numpy(weight) for weight in model.keras_model.weights}


# On the backend that runs the tests


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model after two epochs of one step."""
    with eagerly():
        model = make_model("training", tmp_path_factory.mktemp("logs"))
        model.train(ShapesDataset(2), ShapesDataset(1, first=2), 0.001, 2, "all", verbose=0)
        yield model


@pytest.mark.backend
def test_saved_and_loaded_weights_detect(trained, tmp_path):
    model = make_model("inference", tmp_path)
    before = arrays_of(model)
    report = model.load_weights(trained.find_last())
    assert not report.missing and not report.mismatched
    learnt = arrays_of(trained)
    for name, value in arrays_of(model).items():
        np.testing.assert_array_equal(value, learnt[name], err_msg=name)
        assert "moving" in name or not np.array_equal(value, before[name]), name
    assert find(model)["masks"].any()


@pytest.mark.backend
def test_training_goes_on_with_the_optimisers_state(trained, tmp_path):
    first = checkpoints_in(trained.log_dir)[0]
    assert len(load_state(first)["optimizer"]) > 20  # momenta
    model = make_model("training", tmp_path)
    model.load_weights(first)
    assert model.epoch == 1
    model.train(ShapesDataset(2), ShapesDataset(1, first=2), 0.001, 2, "all", verbose=0)
    expected = arrays_of(trained)
    for name, value in arrays_of(model).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6, err_msg=name)


EVERY_ROI = {"TRAIN_ROIS_PER_IMAGE": 1000, "ROI_POSITIVE_RATIO": 0.04}
"""All 40 proposals take part, whatever is drawn: random numbers differ once compiled."""

needs_xla = pytest.mark.skipif(BACKEND == "torch", reason="PyTorch has no XLA")


@pytest.mark.slow
@needs_xla
def test_a_compiled_training_step_computes_the_same(tmp_path):
    found = {}
    for jit_compile in (False, True):
        model = make_model("training", tmp_path, **EVERY_ROI, JIT_COMPILE=jit_compile)
        inputs, _ = DataGenerator(ShapesDataset(2), model.config, seed=0)[0]
        model.compile(0.01, 0.9)
        assert model.keras_model.jit_compile is jit_compile
        names = [tensor.name for tensor in model.keras_model.inputs]
        losses = model.keras_model.train_on_batch(dict(zip(names, inputs)), return_dict=True)
        found[jit_compile] = losses, arrays_of(model)
    losses, weights = found[True]
    assert set(losses) == {"loss", *LOSS_NAMES} and min(losses.values()) > 0
    for name, value in found[False][0].items():
        assert losses[name] == pytest.approx(value, rel=1e-5), name
    for name, value in found[False][1].items():
        np.testing.assert_allclose(weights[name], value, atol=1e-5, err_msg=name)


@pytest.mark.slow
@needs_xla
def test_compiled_detection_finds_the_same(tmp_path):
    expected, found = (
        find(make_model("inference", tmp_path, JIT_COMPILE=jit_compile))
        for jit_compile in (False, True)
    )
    assert_same_detections(found, expected)


def assert_same_detections(found, expected):
    for name in ("rois", "class_ids", "masks"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=1e-5)


# All of them, in processes of their own


def require(*names):
    for name in names:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install 'mrcnn-nuclei[{name}]'")


def start(name, *arguments):
    """Run this file on a backend."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": name}
    command = [sys.executable, __file__, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait(*processes):
    for process in processes:
        output, _ = process.communicate(timeout=900)
        assert process.returncode == 0, output


@pytest.mark.slow
def test_all_backends_learn_the_same_and_read_each_others_weights(tmp_path):
    require(*BACKENDS)
    learnt = {name: train_in_subprocess(name, tmp_path / name, 1) for name in BACKENDS}
    expected_losses, expected = learnt["tensorflow"]
    for name, (losses, weights) in learnt.items():
        for key, values in expected_losses.items():
            np.testing.assert_allclose(losses[key], values, rtol=1e-4, err_msg=f"{name} {key}")
        for key in expected:
            np.testing.assert_allclose(weights[key], expected[key], atol=1e-5, err_msg=name)

    files = [str(checkpoints_in(next((tmp_path / name).glob("tiny*")))[-1]) for name in BACKENDS]
    wait(*(start(name, "detect", tmp_path / f"{name}.npz", *files) for name in BACKENDS))
    reference, *others = (np.load(tmp_path / f"{name}.npz") for name in BACKENDS)
    for writer in files:
        expected = {key: reference[f"{writer}:{key}"] for key in RESULT}
        for detections in others:
            assert_same_detections({key: detections[f"{writer}:{key}"] for key in RESULT}, expected)


def detect(output, *files):
    """Detect in one picture with the weights of each file, which also continues a training."""
    training = make_model("training", Path(output).parent)
    training.compile(0.01, 0.9)
    found = {}
    for path in files:
        assert restore_optimizer(training.keras_model, path, LAYER_PATTERNS["all"])
        model = make_model("inference", Path(output).parent)
        model.load_weights(path)
        found |= {f"{path}:{key}": value for key, value in find(model).items()}
    np.savez(output, **found)


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKENDS[1:])
def test_the_commands_train_and_detect(tmp_path, name):
    require(name)
    from tiny import tiny_preset, write_pairs, write_tiny_weights

    write_pairs(tmp_path / "data")
    with tiny_preset():
        write_tiny_weights(tmp_path / "tiny.h5")
    wait(start(name, "commands", tmp_path, name), start("tensorflow", "commands", tmp_path, "tf"))
    for number in range(3):
        ours, theirs = (
            tifffile.imread(tmp_path / folder / "labels" / f"tile{number}.tif")
            for folder in (name, "tf")
        )
        assert theirs.max() > 5
        np.testing.assert_array_equal(ours, theirs)


def commands(folder, output):
    """Detect by given weights into a folder; train and detect by what was learnt."""
    from tiny import tiny_preset

    from mrcnn_nuclei.cli import main

    data, logs = ["--dataset", f"{folder}/data"], ["--logs", f"{folder}/logs-{output}"]
    with tiny_preset():
        detect = ["detect", *data, "--preset", "tiny", "--write", "labels"]
        given = ["--weights", f"{folder}/tiny.h5", "--output", f"{folder}/{output}"]
        assert main([*detect, *given]) == 0
        for model in ("mrcnn", "unet"):
            which = [*logs, "--model", model]
            assert main(["train", *data, *which, "--preset", "tiny", "--epochs", "1"]) == 0
            learnt = ["--weights", "last", "--output", f"{folder}/{output}-{model}"]
            assert main([*detect, *which, *learnt]) == 0


if __name__ == "__main__":
    {"detect": detect, "commands": commands}[sys.argv[1]](*sys.argv[2:])
