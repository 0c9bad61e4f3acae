"""Stages, weights to start from, and a run from its first step to a detector."""

import csv
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from tiny import TinyNucleusConfig, tiny_preset, write_pairs

from mrcnn import model as modellib
from mrcnn import pretrained
from mrcnn.data import DataGenerator
from mrcnn.errors import InputError
from mrcnn.losses import LOSS_NAMES
from mrcnn.weights import load_state, read_attribute, save_arrays, save_weights
from mrcnn_nuclei import training
from mrcnn_nuclei.augmentation import Augmentation
from mrcnn_nuclei.config import NucleusConfig, make_config
from mrcnn_nuclei.datasets import NucleusDataset
from mrcnn_nuclei.detector import Detector
from mrcnn_nuclei.networks import recipe
from mrcnn_nuclei.training import find_weights, load_initial_weights, scale_schedule, train

# Of TensorFlow, on running networks without tracing.
pytestmark = pytest.mark.filterwarnings("ignore:Even though the .tf.config.experimental_run")

ROOT = Path(__file__).resolve().parent.parent
THREE_STAGES = NucleusConfig.SCHEDULE


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with tiny_preset():
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("data") / "set")


@pytest.fixture(scope="module")
def train_set(data):
    return NucleusDataset().load(data, subset="train")


@pytest.fixture(scope="module")
def val_set(data):
    return NucleusDataset().load(data, subset="val")


class InMemory:
    """One image with its label map, as a data set."""

    def __init__(self, image, labels):
        self.image_ids = np.array([0])
        self.image_info = [{"id": "only", "source": "nucleus", "path": "only"}]
        self.num_classes, self.source_class_ids = 2, {"nucleus": [0, 1]}
        self.image, self.labels = image, labels

    def load_image(self, image_id):
        return self.image.copy()

    def load_labels(self, image_id):
        values, labels = np.unique(self.labels, return_inverse=True)
        count = len(values) - (values[0] == 0)
        labels = labels.reshape(self.labels.shape) + (values[0] != 0)
        return labels.astype(np.int32), np.ones(count, np.int32)


# The schedule


def test_no_number_of_epochs_leaves_the_schedule():
    assert scale_schedule(THREE_STAGES) == THREE_STAGES


@pytest.mark.parametrize(
    ("epochs", "stages"),
    [
        (300, [("heads", 50), ("4+", 150), ("all", 300)]),
        (600, [("heads", 100), ("4+", 300), ("all", 600)]),
        (30, [("heads", 5), ("4+", 15), ("all", 30)]),
        (10, [("heads", 2), ("4+", 5), ("all", 10)]),
        # A sixth of so few epochs rounds to none, but there is one for each stage.
        (4, [("heads", 1), ("4+", 2), ("all", 4)]),
        (3, [("heads", 1), ("4+", 2), ("all", 3)]),
        # Here there is not: the short stages go.
        (2, [("4+", 1), ("all", 2)]),
        (1, [("all", 1)]),
    ],
)
def test_schedule_in_proportion(epochs, stages):
    scaled = scale_schedule(THREE_STAGES, epochs)
    assert [stage[:2] for stage in scaled] == stages
    factors = {"heads": 1.0, "4+": 1.0, "all": 0.1}
    assert all(factor == factors[layers] for layers, _, factor in scaled)


def test_every_stage_trains_where_there_is_an_epoch_for_it():
    for schedule in (THREE_STAGES, [("a", 97, 1), ("b", 98, 1), ("c", 99, 1), ("d", 100, 1)]):
        for epochs in range(len(schedule), 120):
            layers, until, _ = zip(*scale_schedule(schedule, epochs))
            assert layers == tuple(stage[0] for stage in schedule)
            assert until[-1] == epochs
            assert until[0] >= 1 and all(np.diff(until) >= 1)


@pytest.mark.parametrize("epochs", [0, -3])
def test_no_epochs(epochs):
    with pytest.raises(InputError, match=f"^--epochs {epochs}: give at least 1$"):
        scale_schedule(THREE_STAGES, epochs)


@pytest.mark.parametrize("schedule", [[], [1, 2], [("heads", 5)]])
def test_what_is_no_schedule(schedule):
    with pytest.raises(InputError, match="SCHEDULE"):
        scale_schedule(schedule, 3)


def test_unknown_augmentation():
    config = make_config("tiny", {"AUGMENTATION": {"rotat": True}})
    with pytest.raises(InputError, match="AUGMENTATION.*rotat"):
        train(config, None, None, "logs")


@pytest.mark.parametrize(("images", "batch", "steps"), [(30, 5, 6), (31, 5, 7), (3, 5, 1)])
def test_an_epoch_shows_each_image_once(images, batch, steps):
    dataset = types.SimpleNamespace(image_ids=np.arange(images))
    assert training._batches(dataset, types.SimpleNamespace(BATCH_SIZE=batch)) == steps


def test_stages_reach_the_engine(monkeypatch, tmp_path):
    """Layers, epochs and learning rates, and where a continued run starts."""
    calls = []

    class Recorder:
        kind = "mask_rcnn"

        def __init__(self, mode, config, model_dir):
            self.epoch, self.log_dir = 0, str(tmp_path)

        def train(self, train_dataset, val_dataset, learning_rate, epochs, layers, **kwargs):
            calls.append((layers, epochs, learning_rate))
            self.epoch = epochs

    def continue_after_60(model, weights):
        if weights == "60.h5":
            model.epoch = 60

    monkeypatch.setitem(training.NETWORKS, "mrcnn", Recorder)
    monkeypatch.setattr(training, "load_initial_weights", continue_after_60)
    monkeypatch.setattr(training, "best_checkpoint", lambda log_dir, kind: Path(log_dir))
    config = type("Config", (TinyNucleusConfig,), {"SCHEDULE": THREE_STAGES})
    dataset = types.SimpleNamespace(image_ids=[0])  # all that counts here
    train(config(), dataset, dataset, tmp_path)
    assert calls == [("heads", 50, 1e-3), ("4+", 150, 1e-3), ("all", 300, pytest.approx(1e-4))]
    calls.clear()
    train(config(), dataset, dataset, tmp_path, weights="60.h5")
    assert calls == [("4+", 150, 1e-3), ("all", 300, pytest.approx(1e-4))]


# A run


@pytest.fixture(scope="module")
def run(tmp_path_factory, train_set, val_set):
    """The best checkpoint of a run of two stages, one epoch each."""
    logs = tmp_path_factory.mktemp("logs")
    return train(
        make_config("tiny", {"DETECTION_TILE": 192}, name="tiny"),
        train_set,
        val_set,
        logs,
    )


def test_a_run_leaves_checkpoints_and_losses(run):
    names = {path.name for path in run.parent.glob("*.h5")}
    assert names == {"mask_rcnn_tiny_0001.h5", "mask_rcnn_tiny_0002.h5"}
    assert not list(run.parent.glob(".part*"))
    with open(run.parent / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1"]
    for name in ("loss", *LOSS_NAMES):
        for prefix in ("", "val_"):
            values = [float(row[prefix + name]) for row in rows]
            assert np.isfinite(values).all() and min(values) >= 0
    val_losses = {int(row["epoch"]) + 1: float(row["val_loss"]) for row in rows}
    assert run.name == f"mask_rcnn_tiny_{min(val_losses, key=val_losses.get):04d}.h5"


def test_the_first_stage_trained_the_heads_alone(run):
    """The backbone has the weights of the seed after the first stage, others after the second."""
    keras.utils.set_random_seed(0)
    initial = new_model("logs").keras_model

    def trained(path, name):
        with h5py.File(path) as file:
            kernel = initial.get_layer(name).kernel
            return not np.array_equal(file[name][name]["kernel:0"], kernel)

    first, second = sorted(run.parent.glob("*.h5"))
    assert [trained(first, name) for name in ("res2a_branch2a", "fpn_c5p5")] == [False, True]
    assert [trained(second, name) for name in ("res2a_branch2a", "fpn_c5p5")] == [True, True]
    state = load_state(first)
    assert (state["epoch"], state["layers"]) == (1, modellib.LAYER_PATTERNS["heads"])
    assert load_state(second)["layers"] == modellib.LAYER_PATTERNS["all"]


def test_a_checkpoint_says_how_to_build_its_network(run, val_set):
    told = read_attribute(run, "nuclei")
    assert (told["model"], told["preset"]) == ("mrcnn", "tiny")
    assert told["settings"]["DETECTION_TILE"] == 192
    detector = Detector(run)
    assert detector.config.DETECTION_TILE == 192
    found = detector.detect(val_set.load_image(0)[:80])
    assert found.shape == (80, 96)
    assert 0 < len(found) <= detector.config.DETECTION_MAX_INSTANCES


def new_model(logs, name="tiny"):
    return modellib.MaskRCNN("training", make_config("tiny", name=name), logs)


def same_weights(model, path):
    reference = new_model("logs")
    reference.load_weights(path)
    pairs = zip(model.keras_model.get_weights(), reference.keras_model.get_weights())
    return all(np.array_equal(a, b) for a, b in pairs)


def test_last_continues_the_newest_run(run):
    logs = run.parent.parent
    model = new_model(logs)
    load_initial_weights(model, find_weights("last", model.config, model.model_dir))
    assert (model.epoch, Path(model.log_dir)) == (2, run.parent)
    assert same_weights(model, run.parent / "mask_rcnn_tiny_0002.h5")
    # What follows an earlier checkpoint is kept: to go on from it is another run.
    model = new_model(logs)
    load_initial_weights(model, str(run.parent / "mask_rcnn_tiny_0001.h5"))
    assert model.epoch == 1
    assert Path(model.log_dir).parent == logs and Path(model.log_dir) != run.parent


def test_a_finished_run_trains_nothing_more(run, train_set, val_set, caplog):
    before = sorted(path.name for path in run.parent.iterdir())
    config, logs = make_config("tiny", name="tiny"), run.parent.parent
    assert train(config, train_set, val_set, logs, weights="last") == run
    assert "nothing to train: 2 of 2 epochs are done already" in caplog.text
    assert sorted(path.name for path in run.parent.iterdir()) == before


def test_an_earlier_checkpoint_with_nothing_left_to_train_is_returned(
    run, train_set, val_set, caplog
):
    logs = run.parent.parent
    before = sorted(logs.rglob("*"))
    first = run.parent / "mask_rcnn_tiny_0001.h5"
    config = make_config("tiny", name="tiny")
    assert train(config, train_set, val_set, logs, weights=str(first), epochs=1) == first
    assert "nothing to train: 1 of 1 epochs are done already" in caplog.text
    assert sorted(logs.rglob("*")) == before


def test_a_longer_schedule_continues_in_the_same_folder(run, train_set, val_set, tmp_path):
    folder = tmp_path / run.parent.name
    shutil.copytree(run.parent, folder)
    config = make_config("tiny", {"SCHEDULE": [("heads", 1, 1.0), ("all", 3, 0.1)]}, name="tiny")
    best = train(config, train_set, val_set, tmp_path, weights="last")
    assert best.parent == folder
    assert (folder / "mask_rcnn_tiny_0003.h5").exists()
    assert len((folder / "history.csv").read_text().splitlines()) == 1 + 3


def test_weights_of_another_run_start_afresh(run, tmp_path):
    model = new_model(tmp_path, name="other")
    load_initial_weights(model, run)
    assert model.epoch == 0
    assert Path(model.log_dir).parent == tmp_path
    assert same_weights(model, run)


def test_a_file_that_is_no_checkpoint_starts_afresh(run, tmp_path):
    shutil.copy(run, tmp_path / "weights.h5")
    model = new_model(tmp_path)
    load_initial_weights(model, tmp_path / "weights.h5")
    assert model.epoch == 0
    assert same_weights(model, run)


# Weights that cannot be had


def one_line(error, *words):
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


def test_none_leaves_random_weights(tmp_path):
    model = new_model(tmp_path)
    before = model.keras_model.get_weights()
    load_initial_weights(model, "none")
    assert model.epoch == 0
    assert all(np.array_equal(*pair) for pair in zip(before, model.keras_model.get_weights()))


def test_last_without_a_run(tmp_path):
    with pytest.raises(InputError) as caught:
        find_weights("last", make_config("tiny", name="tiny"), tmp_path)
    one_line(caught, "--weights last", "no checkpoint of tiny", tmp_path)


def test_weights_that_need_no_search(tmp_path):
    config = make_config("tiny", name="tiny")
    assert find_weights(None, config, tmp_path) == config.INITIAL_WEIGHTS == "none"
    assert find_weights("own.h5", config, tmp_path) == "own.h5"


def test_missing_truncated_and_other_files(run, tmp_path):
    model = new_model(tmp_path)
    with pytest.raises(InputError) as caught:
        load_initial_weights(model, tmp_path / "missing.h5")
    one_line(caught, tmp_path / "missing.h5", "no such weights file")

    cut = tmp_path / "cut.h5"
    cut.write_bytes(run.read_bytes()[:5000])
    with pytest.raises(InputError) as caught:
        load_initial_weights(model, cut)
    one_line(caught, cut, "not a readable .h5 file")

    wide = make_config("tiny", {"TOP_DOWN_PYRAMID_SIZE": 16}, name="tiny")
    with pytest.raises(InputError) as caught:
        load_initial_weights(modellib.MaskRCNN("training", wide, tmp_path), run)
    one_line(caught, run, "another shape", "same architecture")


@pytest.mark.parametrize("weights", ["coco", "imagenet"])
def test_weights_for_resnets_are_not_fetched_for_others(tmp_path, weights):
    with pytest.raises(InputError, match="fits ResNets only"):
        find_weights(weights, make_config("tiny", name="tiny"), tmp_path)


def test_published_weights_are_taken_from_the_cache(monkeypatch, tmp_path):
    """Of COCO, and of ImageNet those of the backbone."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(pretrained, "COCO_SHAPES", {"conv1": (1,)})
    monkeypatch.setattr(pretrained, "IMAGENET_SHAPES", {"conv1": (1,)})
    config = make_config("paper", {"BACKBONE": "resnet50"})
    for weights, name in (
        (None, "mask_rcnn_coco.h5"),
        ("coco", "mask_rcnn_coco.h5"),
        ("imagenet", "mrcnn_resnet50_imagenet.h5"),
    ):
        path = tmp_path / "models" / name
        save_arrays(path, {"conv1": {"conv1/bias:0": np.zeros(1)}})
        assert find_weights(weights, config, "logs") == path


def test_weights_of_other_classes(tmp_path, caplog):
    """What depends on the number of classes keeps its random weights."""
    path = tmp_path / "coco.h5"
    coco = modellib.MaskRCNN("training", make_config("tiny", {"NUM_CLASSES": 81}), tmp_path)
    save_weights(coco.keras_model, path)
    model = new_model(tmp_path)
    logits = model.keras_model.get_layer("mrcnn_class_logits").get_weights()
    with caplog.at_level("INFO", "mrcnn_nuclei"):
        load_initial_weights(model, path)
    for name in ("res2a_branch2a", "fpn_c5p5", "mrcnn_mask_conv1"):
        theirs = coco.keras_model.get_layer(name).get_weights()
        ours = model.keras_model.get_layer(name).get_weights()
        assert all(np.array_equal(*pair) for pair in zip(theirs, ours))
    kept = model.keras_model.get_layer("mrcnn_class_logits").get_weights()
    assert all(np.array_equal(*pair) for pair in zip(logits, kept))
    assert model.epoch == 0
    assert f"{path}: " in caplog.text
    assert "3 of another shape (mrcnn_bbox_fc, mrcnn_class_logits, mrcnn_mask)" in caplog.text


def test_weights_of_the_backbone_only(tmp_path):
    """As those of ImageNet are."""
    other = new_model(tmp_path).keras_model
    kernel, _ = other.get_layer("res5a_branch2a").get_weights()
    path = tmp_path / "imagenet.h5"
    arrays = {
        layer.name: {f"{layer.name}/{weight.name}:0": weight + 1 for weight in layer.weights}
        for layer in other.layers
        if layer.name.startswith(("conv1", "bn", "res"))
    }
    save_arrays(path, arrays)
    model = new_model(tmp_path)
    load_initial_weights(model, path)
    loaded = model.keras_model.get_layer("res5a_branch2a").get_weights()
    np.testing.assert_array_equal(loaded[0], kernel + 1)

    del arrays["res5a_branch2a"]
    save_arrays(path, arrays)
    with pytest.raises(InputError) as caught:
        load_initial_weights(model, path)
    one_line(caught, path, "another architecture", "res5a_branch2a")
    assert "these are of" not in str(caught.value)

    save_arrays(path, arrays, recipe(make_config("lite")))
    with pytest.raises(InputError, match="; these are of --preset lite$"):
        load_initial_weights(model, path)


def test_the_best_or_the_last_checkpoint_is_the_result(monkeypatch):
    monkeypatch.setattr(training, "checkpoints_in", lambda folder, kind: [folder, f"{kind} last"])
    monkeypatch.setattr(training, "best_checkpoint", lambda folder, kind: f"{kind} best")
    for preset, model, word in (
        ("compact", "mrcnn", "best"),
        ("lite", "mrcnn", "last"),
        ("lite", "unet", "best"),
    ):
        config = make_config(preset, model=model)
        trained = types.SimpleNamespace(log_dir="logs", kind="k")
        assert training._result(config, trained) == f"k {word}"
    with pytest.raises(InputError, match="CHECKPOINT = first: choose best or last"):
        make_config("lite", {"CHECKPOINT": "first"})


# Crops without nuclei, and with very many


@pytest.fixture(scope="module")
def whole_image_model(tmp_path_factory):
    """A network that takes all of a 1000 x 1000 image, and that knows every nucleus of it."""
    settings = {
        "IMAGE_MIN_DIM": 1000,
        "IMAGE_MAX_DIM": 1000,
        "MAX_GT_INSTANCES": 2048,
        "PRE_NMS_LIMIT": 6000,
        "POST_NMS_ROIS_TRAINING": 2000,
        "TRAIN_ROIS_PER_IMAGE": 100,
        "RPN_TRAIN_ANCHORS_PER_IMAGE": 320,
        "DETECTION_TILE": 1024,
        "SCHEDULE": [("all", 1, 1.0)],
    }
    keras.utils.set_random_seed(0)
    model = modellib.MaskRCNN("training", make_config("tiny", settings), "logs")
    model.compile(0.001, 0.9)
    model.keras_model.run_eagerly = True
    return model


def step(model, dataset, augmentation=None):
    """The losses of one training step by name, the total first, and its batch."""
    generator = DataGenerator(dataset, model.config, augmentation=augmentation, seed=0, steps=1)
    inputs, _ = generator[0]
    batch = dict(zip([tensor.name for tensor in model.keras_model.inputs], inputs))
    model.keras_model.reset_metrics()
    values = dict(zip(("loss", *LOSS_NAMES), model.keras_model.train_on_batch(batch)))
    assert np.isfinite(list(values.values())).all()
    return values, batch


def tissue(size=1000):
    return np.random.default_rng(0).integers(120, 240, (size, size, 3), dtype=np.uint8)


def test_a_crop_without_nuclei_trains(whole_image_model):
    dataset = InMemory(tissue(), np.zeros((1000, 1000), np.int32))
    losses, batch = step(whole_image_model, dataset, Augmentation(1000))
    # There are anchors to call background, but no box and no mask to learn.
    assert not batch["input_gt_class_ids"].any()
    assert set(np.unique(batch["input_rpn_match"])) == {-1, 0}
    for name in ("rpn_bbox_loss", "mrcnn_bbox_loss", "mrcnn_mask_loss"):
        assert losses[name] == 0


def test_a_crop_with_one_pixel_of_a_nucleus_trains(whole_image_model):
    labels = np.zeros((1000, 1000), np.int32)
    labels[999, 0] = 1
    losses, batch = step(whole_image_model, InMemory(tissue(), labels))
    assert losses["rpn_bbox_loss"] > 0
    assert np.count_nonzero(batch["input_gt_class_ids"]) == 1
    assert batch["input_gt_boxes"][0, 0].tolist() == [999, 0, 1000, 1]


def test_the_densest_image_trains_whole(whole_image_model, monuseg):
    dataset = NucleusDataset().load(monuseg, format="monuseg")
    index = dataset.names.index("TCGA-HE-7130-01Z-00-DX1")
    labels, _ = dataset.load_labels(index)
    losses, batch = step(whole_image_model, InMemory(dataset.load_image(index), labels))
    assert min(losses.values()) > 0
    assert np.count_nonzero(batch["input_gt_class_ids"]) == 1862


# The disk


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_the_disk(tmp_path, data):
    """The limit on the size of files stands for a full disk: the run ends in one line."""
    script = f"""
import resource, signal, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from tiny import tiny_preset
from mrcnn_nuclei.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
with tiny_preset():
    status = main(["train", "--dataset", {str(data)!r}, "--preset", "tiny", "--epochs", "1"])
resource.setrlimit(resource.RLIMIT_FSIZE, limits)
sys.exit(status)
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert result.returncode == 2, result.stderr
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("nucleus: error: ") and "File too large" in last
    assert "Traceback" not in result.stderr
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".h5"]
