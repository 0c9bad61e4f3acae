"""Where this package differs from Matterport's on purpose: all that docs/matterport.md says."""

import ast
import csv
import importlib
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from backends import eagerly
from helpers import fill_by_rule, tiny_config
from shapes import ShapesDataset

from mrcnn import backend, utils
from mrcnn.config import Config
from mrcnn.dataset import Dataset
from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn.losses import LOSS_NAMES
from mrcnn.model import MaskRCNN
from mrcnn.weights import save_weights
from mrcnn_nuclei.formats import WRITERS
from mrcnn_nuclei.formats.label_tiff import read
from mrcnn_nuclei.overlay import draw_overlay

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
PAGE = (ROOT / "docs" / "matterport.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """A network to train, with random weights."""
    keras.utils.set_random_seed(0)
    config = tiny_config(VALIDATION_STEPS=1, STEPS_PER_EPOCH=2, IMAGES_PER_GPU=2)
    return MaskRCNN("training", config, tmp_path_factory.mktemp("logs"))


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    model = MaskRCNN("inference", tiny_config(), tmp_path_factory.mktemp("logs"))
    fill_by_rule(model.keras_model)
    return model


# The page


def differences():
    """Every paragraph and list item below the page's introduction."""
    blocks = re.split(r"\n\n|\n(?=- )", PAGE[PAGE.index("\n## ") :].strip())
    return [block for block in blocks if not block.startswith(("#", "|"))]


def names_in(path):
    """The names of a file's tests, those of a class with the class before them."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.ClassDef):
            yield from (f"{node.name}::{x.name}" for x in node.body if hasattr(x, "name"))


@pytest.mark.parametrize("text", differences(), ids=lambda text: text[:40].replace("\n", " "))
def test_every_difference_has_a_test(text):
    named = re.findall(r"`(test_\w+\.py)::([\w:]+)`", text)
    assert named
    for file, name in named:
        assert name.rpartition("::")[2].startswith("test_")
        assert name in names_in(TESTS / file), f"{file}::{name}"


def test_the_table_lists_the_settings_that_matterport_does_not_have():
    api = json.loads((TESTS / "api.json").read_text())
    theirs = api["mrcnn.config"]["classes"]["Config"]["attributes"]
    ours = {name: value for name, value in vars(Config).items() if name.isupper()}
    rows = re.findall(r"^\| `([A-Z_]+)` \| `?([^|`]+)`? \|", PAGE, re.MULTILINE)
    listed = {name: ast.literal_eval(default.strip()) for name, default in rows}
    assert listed == {name: value for name, value in ours.items() if name not in theirs}


def test_the_versions_that_the_page_names():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert "NumPy 2; Python 3.11 to 3.13" in PAGE
    assert '"numpy>=2"' in setup and 'python_requires=">=3.11,<3.14"' in setup


# In training


def test_clipping_keeps_the_direction_of_a_step(trainer):
    """A gradient of ones: every weight takes the same step, whatever tensor it is in."""
    network = trainer.keras_model
    trainer.compile(learning_rate=1.0, momentum=0.0)
    before = [keras.ops.convert_to_numpy(v).copy() for v in network.trainable_variables]
    ones = [keras.ops.ones(v.shape) for v in network.trainable_variables]
    network.optimizer.apply(ones, network.trainable_variables)
    step = 5.0 / sum(value.size for value in before) ** 0.5
    for variable, value in zip(network.trainable_variables, before):
        moved = value - keras.ops.convert_to_numpy(variable)
        np.testing.assert_allclose(moved, step, atol=1e-6)
        variable.assign(value)


def test_the_mask_head_sees_only_rois_that_can_be_positive(trainer):
    _, _, _, logits, _, _, masks, *_ = trainer.keras_model.outputs
    assert logits.shape[1] == 12  # TRAIN_ROIS_PER_IMAGE
    assert masks.shape[1] == 3  # a third of them, ROI_POSITIVE_RATIO


class Tissue(Dataset):
    """Noise without any object, and no `load_mask` of its own."""

    def __init__(self, count):
        super().__init__()
        self.add_class("tissue", 1, "nucleus")
        self.add_class("tissue", 2, "other")
        for number in range(count):
            self.add_image("tissue", number, None)
        self.prepare()

    def load_image(self, image_id):
        return np.random.default_rng(image_id).integers(0, 256, (64, 64, 3), dtype=np.uint8)


class LabelledTissue(Tissue):
    """The same, with label maps that are empty."""

    def load_labels(self, image_id):
        return np.zeros((64, 64), np.int32), np.zeros(0, np.int32)


@pytest.mark.parametrize("dataset", [Tissue, LabelledTissue])
def test_training_on_images_without_objects(trainer, dataset, tmp_path):
    trainer.model_dir = tmp_path
    trainer.set_log_dir()
    with eagerly():
        trainer.train(dataset(3), dataset(2), 0.01, 1, "all", verbose=0)
    with open(Path(trainer.log_dir) / "history.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    losses = {name: float(value) for name, value in row.items()}
    assert np.isfinite(list(losses.values())).all()
    for name in LOSS_NAMES:
        learnt = name in ("rpn_class_loss", "mrcnn_class_loss")  # that all is background
        assert (losses[name] > 0) == (losses["val_" + name] > 0) == learnt, name
    for weight in trainer.keras_model.weights:
        assert np.isfinite(keras.ops.convert_to_numpy(weight)).all(), weight.path


def test_no_metric_of_nothing_is_nan():
    boxes, ids, masks = np.zeros((0, 4), np.int32), np.zeros(0, np.int32), np.zeros((8, 8, 0), bool)
    some = np.array([[1, 1, 5, 5]]), np.ones(1, np.int32), np.zeros((8, 8, 1), bool)
    some[2][1:5, 1:5] = True
    none = boxes, ids, masks
    scores = {0: np.zeros(0), 1: np.ones(1)}
    for truth, found in [(none, none), (none, some), (some, none), (some, some)]:
        right = float(len(truth[0]) == len(found[0]))
        arguments = *truth, *found[:2], scores[len(found[0])], found[2]
        value, precisions, recalls, _ = utils.compute_ap(*arguments)
        assert value == right
        assert np.isfinite(precisions).all() and np.isfinite(recalls).all()
        assert utils.compute_ap_range(*arguments, verbose=0) == right
        recall, _ = utils.compute_recall(found[0], truth[0], iou=0.5)
        assert np.isfinite(recall)


def test_the_state_of_training_is_in_no_list_of_layers(trainer, tmp_path):
    state = {"epoch": 3, "seed": 4, "layers": ".*", "optimizer": [np.ones(2)]}
    save_weights(trainer.keras_model, tmp_path / "w.h5", {"recipe": {"preset": "x"}}, state)
    with h5py.File(tmp_path / "w.h5") as file:
        followed = {name.decode() for name in file.attrs["layer_names"]}
        assert set(file) - followed == {"training_state"}


@pytest.mark.parametrize("epochs", [2, 3])
def test_epochs_that_would_train_nothing_are_reported(trainer, epochs, monkeypatch, caplog):
    monkeypatch.setattr(trainer, "epoch", 3)
    before = sorted(Path(trainer.model_dir).rglob("*"))
    with caplog.at_level(logging.WARNING, "mrcnn"):
        assert trainer.train(ShapesDataset(2), None, 0.1, epochs, "all", verbose=0) is None
    assert caplog.messages == [
        f"nothing to train: {epochs} epochs are asked for in all, and 3 are done"
    ]
    assert sorted(Path(trainer.model_dir).rglob("*")) == before


# Memory


def exhaust(name):
    """Ask a backend, or NumPy, for a hundred terabytes."""
    if name == "tensorflow":
        errors = importlib.import_module("tensorflow").errors
        # What it says after ten seconds of trying.
        raise errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[9]")
    if name == "torch":
        return importlib.import_module(name).empty(2**45)
    return importlib.import_module({"jax": "jax.numpy"}.get(name, name)).ones(2**45)


@pytest.mark.parametrize("name", [keras.backend.backend(), "numpy"])
def test_every_backend_says_that_memory_ran_out_in_its_own_way(name):
    with pytest.raises(Exception) as caught:
        exhaust(name)
    assert backend.is_out_of_memory(caught.value), repr(caught.value)


def test_what_a_gpu_says_when_memory_runs_out():
    # PyTorch's torch.OutOfMemoryError, JAX's XlaRuntimeError, and the driver in TensorFlow's words.
    for message in (
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 11.91 GiB",
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 2147483648 bytes.",
        "failed to allocate 2.00GiB from device: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
    ):
        assert backend.is_out_of_memory(RuntimeError(message))
    for message in ("shapes (3, 4) and (5, 6) do not match", "CUDA error: an illegal access"):
        assert not backend.is_out_of_memory(RuntimeError(message))


def test_training_that_runs_out_of_memory_says_what_to_lower(trainer, tmp_path, monkeypatch):
    trainer.model_dir = tmp_path
    trainer.set_log_dir()

    def fails_with(error):
        def fit(*args, **kwargs):
            raise error

        monkeypatch.setattr(trainer.keras_model, "fit", fit)

    full = RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 5 bytes.")
    fails_with(full)
    with pytest.raises(InputError) as caught:
        trainer.train(ShapesDataset(2), None, 0.1, 1, "all", verbose=0)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(
        "out of memory on batches of 2 images of 64 x 64 pixels: lower IMAGES"
    )
    assert caught.value.__cause__ is full
    fails_with(RuntimeError("another fault"))
    with pytest.raises(RuntimeError, match="another fault"):
        trainer.train(ShapesDataset(2), None, 0.1, 1, "all", verbose=0)


# In detection


def overlapping():
    """Two nuclei of 2 x 4 pixels that share four; the one found last or first has the best score.

    [[a a b b b b]
     [a a b b b b]]
    """
    masks = np.zeros((2, 6, 2), bool)
    masks[:, :4, 0] = masks[:, 2:, 1] = True
    return masks


@pytest.mark.parametrize("best_first", [False, True])
def test_the_best_score_wins_a_contested_pixel_everywhere(best_first, tmp_path):
    order = [1, 0] if best_first else [0, 1]
    scores = np.array([0.6, 0.9])[order]
    found = Instances.from_dense(overlapping()[..., order], scores)
    label = {k: order.index(k) + 1 for k in (0, 1)}
    expected = np.array([[label[0]] * 2 + [label[1]] * 4] * 2)
    np.testing.assert_array_equal(found.to_label_map(), expected)

    path = WRITERS["labels"].path(tmp_path, "a")
    WRITERS["labels"].write(path, found)
    np.testing.assert_array_equal(read(path).to_label_map(), expected)

    path = WRITERS["rle"].path(tmp_path)
    WRITERS["rle"].write(path, {"a.png": found})
    _, *rows = path.read_text().splitlines()
    # Pixels are counted down the columns from 1.
    assert sorted(rows) == ["a,1 4", "a,5 8"]

    colours = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)
    picture = draw_overlay(np.zeros((2, 6), np.uint8), found, palette=colours, thickness=1)
    np.testing.assert_array_equal(picture, colours[expected - 1])


def test_proposals_fill_their_limit_without_any_object(detector):
    rois = detector.keras_model.get_layer("ROI").output
    blank = np.full((64, 64, 3), 200, np.uint8)
    with eagerly():
        (proposals,) = detector.run_graph([blank], [("rois", rois)])["rois"]
    assert len(proposals) == 30  # POST_NMS_ROIS_INFERENCE
    assert (proposals[:, 2:] > proposals[:, :2]).all()


# In data


def run_workers(what):
    """The printed lines of tests/workers.py, or a failure if it hangs."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(TESTS / "workers.py"), what]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


@pytest.mark.slow
def test_training_by_several_workers_ends():
    expected = ["threads [0]", "threads [1]", "processes [0, 1]"]
    assert run_workers("training") == expected


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_batches_made_by_processes_are_the_same(method):
    """And what is wrong with an image arrives from a process as it was raised."""
    assert run_workers(method) == ["InputError: slide.tif: not a readable image"]


# In form


def test_heads_are_not_wrapped(detector):
    kinds = {type(layer).__name__ for layer in detector.keras_model.layers}
    assert "TimeDistributed" not in kinds
    assert detector.keras_model.get_layer("mrcnn_mask").output.shape == (None, 10, 28, 28, 3)
