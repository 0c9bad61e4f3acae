"""MaskRCNN and the names around it: build, load, train by stages, detect, look inside."""

import csv
import importlib
import inspect
import json
import logging
import math
import threading
from pathlib import Path

import keras
import numpy as np
import pytest
from backends import eagerly
from helpers import fill_by_rule, golden_json, tiny_config
from keras import layers
from shapes import ShapesDataset

from mrcnn.errors import InputError
from mrcnn.imgaug_compat import load_imgaug
from mrcnn.losses import LOSS_NAMES
from mrcnn.model import MaskRCNN
from mrcnn.parallel_model import ParallelModel
from mrcnn.weights import save_weights, weighted_layers

API = json.loads((Path(__file__).parent / "api.json").read_text())
"""Matterport's public names; a parameter is [name] or [name, default]."""

SHAPES = {"RPN_ANCHOR_SCALES": (16, 20, 24, 32, 48), "STEPS_PER_EPOCH": 1, "VALIDATION_STEPS": 0}
"""Anchors that fit the shapes, and as few steps as there can be."""


@pytest.fixture(name="eagerly")
def run_eagerly():
    """Without compilation, which takes longer than the few steps of a test."""
    with eagerly():
        yield


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """Detects in one image of 64 x 64 at a time."""
    config = tiny_config(IMAGES_PER_GPU=1)
    model = MaskRCNN("inference", config, tmp_path_factory.mktemp("logs"))
    fill_by_rule(model.keras_model)
    return model


def weights_of(model):
    return {
        f"{layer.name}/{weight.name}": keras.ops.convert_to_numpy(weight)
        for layer in weighted_layers(model.keras_model)
        for weight in layer.weights
    }


def changed_layers(before, after):
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    return {name.split("/")[0] for name in changed}


def picture(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


# Names and signatures


def as_json(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def assert_takes(callable_, expected, name):
    """Every call that Matterport's signature allows is possible; more parameters may follow."""
    parameters = [p for p in inspect.signature(callable_).parameters.values() if p.name != "self"]
    if any(parameter[0].startswith("*") for parameter in expected):
        assert any(p.kind is p.VAR_KEYWORD for p in parameters), name
        expected = [parameter for parameter in expected if not parameter[0].startswith("*")]
    for found, (wanted, *default) in zip(parameters, expected):
        assert found.name == wanted, name
        assert found.kind is found.POSITIONAL_OR_KEYWORD, name
        if default:
            assert as_json(found.default) == default[0], f"{name}({wanted})"
    assert len(parameters) >= len(expected), name
    for extra in parameters[len(expected) :]:
        assert extra.default is not extra.empty or extra.kind is extra.VAR_KEYWORD, name


@pytest.mark.parametrize("module_name", API)
def test_matterports_names_and_signatures(module_name):
    module, table = importlib.import_module(module_name), API[module_name]
    for name, value in table.get("constants", {}).items():
        assert hasattr(module, name)
        assert value in (None, getattr(module, name))
    for name, parameters in table.get("functions", {}).items():
        if name == "load_image_gt":
            continue  # its fourth parameter is that of both generations of callers
        assert_takes(getattr(module, name), parameters, f"{module_name}.{name}")
    for class_name, details in table.get("classes", {}).items():
        class_ = getattr(module, class_name)
        for name, value in details.get("attributes", {}).items():
            assert as_json(getattr(class_, name)) == value, f"{class_name}.{name}"
        for name, parameters in details.get("methods", {}).items():
            if parameters == "property":
                assert isinstance(getattr(class_, name), property)
            elif name == "__getitem__" or getattr(class_, name).__module__.startswith("keras"):
                continue  # never called by keyword; inherited as it is
            else:
                assert_takes(getattr(class_, name), parameters, f"{class_name}.{name}")


def test_load_image_gt_takes_the_calls_of_both_generations():
    parameters = inspect.signature(importlib.import_module("mrcnn.model").load_image_gt).parameters
    assert list(parameters)[:6] == [
        *("dataset", "config", "image_id", "augment", "augmentation", "use_mini_mask")
    ]
    defaults = [parameter.default for parameter in list(parameters.values())[3:6]]
    assert defaults == [False, None, None]


def test_parallel_model_is_the_model_and_warns():
    model = keras.Sequential()
    with pytest.warns(UserWarning, match="GPU_COUNT = 2"):
        assert ParallelModel(model, 2) is model


# Building


def test_inputs_and_outputs_are_matterports(detector, tmp_path):
    names = [tensor.name for tensor in detector.keras_model.inputs]
    assert names == ["input_image", "input_image_meta", "input_anchors"]
    shapes = [tuple(output.shape) for output in detector.keras_model.outputs]
    assert shapes == [
        (None, 10, 6),
        (None, 30, 3),
        (None, 30, 3, 4),
        (None, 10, 28, 28, 3),
        (None, 30, 4),
        (None, None, 2),
        (None, None, 4),
    ]
    training = MaskRCNN("training", tiny_config(USE_RPN_ROIS=False), tmp_path).keras_model
    assert [tensor.name for tensor in training.inputs] == [
        *("input_image", "input_image_meta", "input_rpn_match", "input_rpn_bbox"),
        *("input_gt_class_ids", "input_gt_boxes", "input_gt_masks", "input_roi"),
    ]
    assert len(training.outputs) == 14


def test_what_cannot_be_built(tmp_path):
    with pytest.raises(InputError, match="100 x 100 is no multiple of 64"):
        MaskRCNN("inference", tiny_config(IMAGE_MAX_DIM=100), tmp_path)
    with pytest.raises(ValueError, match="'training' or 'inference'"):
        MaskRCNN("test", tiny_config(), tmp_path)
    model = MaskRCNN("training", tiny_config(OPTIMIZER="lion"), tmp_path)
    with pytest.raises(InputError, match="'sgd' or 'adam'"):
        model.compile(0.1, 0.9)
    assert not list(tmp_path.iterdir())


def test_compile_clips_the_global_norm(tmp_path):
    model = MaskRCNN("training", tiny_config(), tmp_path)
    model.compile(0.25, 0.75)
    optimizer = model.keras_model.optimizer
    assert isinstance(optimizer, keras.optimizers.SGD)
    assert (float(optimizer.learning_rate), optimizer.momentum) == (0.25, 0.75)
    assert (optimizer.global_clipnorm, optimizer.clipnorm) == (5.0, None)


# Weights and run folders


def test_load_weights_demands_all_layers_unless_by_name_or_excluded(tmp_path):
    model = MaskRCNN("training", tiny_config(), tmp_path)
    path = tmp_path / "w.h5"
    save_weights(model.keras_model, path)
    report = model.load_weights(path)
    assert len(report.loaded) == len(weights_of(model)) and not report.missing

    two = MaskRCNN("training", tiny_config(NUM_CLASSES=2), tmp_path)
    with pytest.raises(InputError, match="first mrcnn_bbox_fc/kernel") as caught:
        two.load_weights(path, by_name=True)
    assert "\n" not in str(caught.value) and "exclude" in str(caught.value)
    class_layers = ["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"]
    before = weights_of(two)
    report = two.load_weights(path, by_name=True, exclude=class_layers)
    assert not report.missing
    kept = set(weights_of(two)) - {name for name in report.loaded}
    assert {name.split("/")[0] for name in kept} == set(class_layers) - {"mrcnn_bbox"}
    assert not changed_layers({name: before[name] for name in kept}, weights_of(two))

    backbone = keras.Model(model.keras_model.inputs[0], model.keras_model.get_layer("conv1").output)
    save_weights(backbone, path)
    with pytest.raises(InputError, match="are not in it, first bn_conv1/gamma"):
        model.load_weights(path)
    assert model.load_weights(path, by_name=True).loaded == ["conv1/kernel", "conv1/bias"]


def test_a_checkpoint_sets_run_and_epoch(tmp_path):
    model = MaskRCNN("training", tiny_config(), tmp_path)
    assert model.epoch == 0 and Path(model.log_dir).parent == tmp_path
    with pytest.raises(FileNotFoundError):
        model.find_last()
    run = tmp_path / "tiny20180101T0000"
    path = run / "mask_rcnn_tiny_0007.h5"
    save_weights(model.keras_model, path)
    assert model.find_last() == str(path)
    model.load_weights(path)
    assert (model.epoch, model.log_dir) == (7, str(run))
    assert model.checkpoint_path.format(epoch=8) == str(run / "mask_rcnn_tiny_0008.h5")
    model.set_log_dir()
    assert model.epoch == 0 and model.log_dir != str(run)
    model.set_log_dir(str(path))
    assert (model.epoch, model.log_dir) == (7, str(run))
    # To go on from a checkpoint before the last is another run.
    save_weights(model.keras_model, run / "mask_rcnn_tiny_0008.h5")
    model.load_weights(path)
    assert model.epoch == 7 and model.log_dir != str(run)
    model.set_log_dir(tmp_path / "mask_rcnn_coco.h5")
    assert model.epoch == 0 and model.log_dir != str(run)


# Training


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model after an epoch of "heads", compiled, what it was before, and its history."""
    config = tiny_config(**{**SHAPES, "STEPS_PER_EPOCH": 2, "VALIDATION_STEPS": 1})
    model = MaskRCNN("training", config, tmp_path_factory.mktemp("logs"))
    fill_by_rule(model.keras_model)
    before = weights_of(model)
    seen = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    augmenters = load_imgaug().augmenters
    history = model.train(
        ShapesDataset(4),
        ShapesDataset(2, first=4),
        learning_rate=0.01,
        epochs=1,
        layers="heads",
        augmentation=augmenters.Fliplr(0.5),
        custom_callbacks=[callback],
        verbose=0,
    )
    assert seen == [0]
    return model, before, history.history


def test_all_losses_are_reported(trained):
    model, _, history = trained
    names = {"loss", *LOSS_NAMES}
    names |= {f"val_{name}" for name in names}
    assert set(history) == names
    assert all(math.isfinite(value) and value > 0 for (value,) in history.values()), history
    for prefix in ("", "val_"):
        parts = sum(history[prefix + name][0] for name in LOSS_NAMES)
        assert 0 <= history[prefix + "loss"][0] - parts < 0.02  # the rest is weight decay
    with open(Path(model.log_dir) / "history.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert {name: float(value) for name, value in row.items() if name != "epoch"} == {
        name: pytest.approx(values[0]) for name, values in history.items()
    }


def test_a_run_folder_has_checkpoint_and_events(trained):
    model, _, _ = trained
    folder = Path(model.log_dir)
    assert [path.name for path in folder.glob("*.h5")] == ["mask_rcnn_tiny_0001.h5"]
    assert list(folder.glob("train/events.out.tfevents.*"))
    assert list(folder.glob("validation/events.out.tfevents.*"))
    assert not list(folder.glob(".part*"))


def test_stages_change_exactly_their_layers(trained, eagerly, caplog):
    model, before, _ = trained
    everything = {layer.name for layer in weighted_layers(model.keras_model)}
    heads = {name for name in everything if name.startswith(("mrcnn_", "rpn_", "fpn_"))}
    after = weights_of(model)
    assert changed_layers(before, after) == heads
    statistics = {name for name in after if "moving" in name}
    assert not changed_layers(
        {name: before[name] for name in statistics}, {name: after[name] for name in statistics}
    )

    model.config.VALIDATION_STEPS, before = 0, after
    threads = threading.active_count()
    history = model.train(ShapesDataset(4), None, 0.01, 2, r"res4.*|mrcnn_mask", verbose=0)
    assert history.epoch == [1] and model.epoch == 2
    assert changed_layers(before, weights_of(model)) == {"res4a_branch2a", "mrcnn_mask"}
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("ThreadPoolExecutor") for name in names[threads:]), names

    before = weights_of(model)
    model.train(ShapesDataset(4), ShapesDataset(1), 0.01, 3, "all", verbose=0)
    assert changed_layers(before, weights_of(model)) == everything

    with caplog.at_level(logging.WARNING, "mrcnn"):
        assert model.train(ShapesDataset(4), None, 0.01, 3, "all", verbose=0) is None
    assert "nothing to train: 3 epochs are asked for in all, and 3 are done" in caplog.text
    assert model.find_last().endswith("mask_rcnn_tiny_0003.h5")


@pytest.mark.parametrize("layers", ["heads", "5+", "4+", "3+", "all"])
def test_stages_train_the_weights_that_matterports_do(detector, layers):
    from mrcnn.model import LAYER_PATTERNS

    detector.set_trainable(LAYER_PATTERNS[layers], verbose=0)
    ours = {
        f"{layer.name}/{weight.name}:0"
        for layer in weighted_layers(detector.keras_model)
        for weight in layer.trainable_weights
    }
    every = {f"{name}:0" for name in weights_of(detector) if "moving" not in name}
    assert ours == every & set(golden_json("trainable_by_stage")[layers]["names"])
    detector.set_trainable(".*", verbose=0)


def test_set_trainable_prints_what_it_chose(detector, capsys):
    detector.set_trainable("rpn_conv_shared|conv1")
    printed = capsys.readouterr().out.split("\n")
    assert [line.split()[0] for line in printed if line] == ["conv1", "rpn_conv_shared"]
    detector.set_trainable(".*", verbose=0)


@pytest.mark.parametrize(
    "overrides",
    [
        {"USE_RPN_ROIS": False},
        {"USE_MINI_MASK": False},
        # A crop that is no multiple of 64 is padded to 128.
        {
            "IMAGE_NORMALIZATION": "zscore",
            "IMAGE_RESIZE_MODE": "crop",
            "IMAGE_MIN_DIM": 100,
            "IMAGES_PER_GPU": 1,
        },
        {"OPTIMIZER": "adam", "TRAIN_BN": None},
    ],
    ids=lambda overrides: "-".join(overrides),
)
def test_other_ways_to_train(tmp_path, eagerly, overrides):
    config = tiny_config(**SHAPES, **overrides)
    model = MaskRCNN("training", config, tmp_path)
    fill_by_rule(model.keras_model)
    before = weights_of(model)
    size = 120 if config.IMAGE_RESIZE_MODE == "crop" else 64
    history = model.train(ShapesDataset(2, size), None, 0.001, 1, "all", verbose=0).history
    assert set(history) == {"loss", *LOSS_NAMES}
    assert all(math.isfinite(value) for (value,) in history.values())
    assert history["rpn_class_loss"][0] > 0
    moved = changed_layers(before, weights_of(model))
    assert {"conv1", "rpn_conv_shared", "mrcnn_class_logits"} <= moved
    statistics = {name: value for name, value in before.items() if name == "bn_conv1/moving_mean"}
    assert bool(changed_layers(statistics, weights_of(model))) == (config.TRAIN_BN is None)


@pytest.mark.parametrize("first_bad", [0, 2])
def test_an_image_that_cannot_be_read_is_one_line(tmp_path, eagerly, first_bad):
    """At once or later, when TensorFlow would wrap the error in its own."""

    class Broken(ShapesDataset):
        loaded = 0

        def load_image(self, image_id):
            self.loaded += 1
            if self.loaded > first_bad:
                raise InputError("slide.tif: not a readable image")
            return super().load_image(image_id)

    config = tiny_config(**{**SHAPES, "STEPS_PER_EPOCH": 4, "IMAGES_PER_GPU": 1})
    model = MaskRCNN("training", config, tmp_path)
    with pytest.raises(InputError, match=r"^slide.tif: not a readable image$"):
        model.train(Broken(8), None, 0.001, 1, "mrcnn_mask", verbose=0)


def test_a_model_does_what_its_mode_is_for(detector, tmp_path):
    with pytest.raises(ValueError, match="build it for training"):
        detector.train(None, None, 0.1, 1, "all")
    model = MaskRCNN("training", tiny_config(), tmp_path)
    with pytest.raises(ValueError, match="build it for inference"):
        model.detect([picture(64, 64)] * 2)


# Detection


@pytest.mark.parametrize("shape", [(64, 64), (48, 64), (131, 90), (20, 33)])
def test_detect_gives_matterports_dictionaries(detector, shape):
    (result,) = detector.detect([picture(*shape)])
    count = len(result["scores"])
    assert count > 0
    assert list(result) == ["rois", "class_ids", "scores", "masks"]
    assert (result["rois"].shape, result["rois"].dtype) == ((count, 4), np.int32)
    assert (result["class_ids"].shape, result["class_ids"].dtype) == ((count,), np.int32)
    assert (result["scores"].shape, result["scores"].dtype) == ((count,), np.float32)
    assert (result["masks"].shape, result["masks"].dtype) == ((*shape, count), bool)
    assert (np.diff(result["scores"]) <= 0).all()
    assert set(result["class_ids"]) <= {1, 2}
    y1, x1, y2, x2 = result["rois"].T
    assert (y1 >= 0).all() and (x1 >= 0).all()
    assert ((y1 < y2) & (y2 <= shape[0])).all() and ((x1 < x2) & (x2 <= shape[1])).all()
    for box, mask in zip(result["rois"], np.moveaxis(result["masks"], -1, 0)):
        outside = mask.copy()
        outside[box[0] : box[2], box[1] : box[3]] = False
        assert not outside.any()


def test_inputs_of_several_sizes(tmp_path, eagerly):
    config = tiny_config(IMAGES_PER_GPU=1, IMAGE_RESIZE_MODE="pad64")
    model = MaskRCNN("inference", config, tmp_path)
    fill_by_rule(model.keras_model)
    for shape, anchors in [((64, 64), 1023), ((100, 60), 2046), ((64, 64), 1023)]:
        (result,) = model.detect([picture(*shape)])
        assert result["masks"].shape[:2] == shape and len(result["scores"])
        assert len(model.anchors) == anchors


def test_nothing_found(detector, eagerly, monkeypatch):
    monkeypatch.setattr(detector.config, "DETECTION_MIN_CONFIDENCE", 1.1)
    (result,) = detector.detect([picture(30, 40)])
    assert {name: (value.shape, value.dtype) for name, value in result.items()} == {
        "rois": ((0, 4), np.int32),
        "class_ids": ((0,), np.int32),
        "scores": ((0,), np.float32),
        "masks": ((30, 40, 0), bool),
    }


def test_a_reached_cap_is_reported(tmp_path, eagerly, caplog, detector):
    detector.detect([picture(64, 64)])
    assert "DETECTION_MAX_INSTANCES" not in caplog.text
    config = tiny_config(IMAGES_PER_GPU=1, DETECTION_MAX_INSTANCES=2)
    model = MaskRCNN("inference", config, tmp_path)
    fill_by_rule(model.keras_model)
    (result,) = model.detect([picture(64, 64)])
    assert len(result["scores"]) == 2
    assert "DETECTION_MAX_INSTANCES = 2" in caplog.text


def test_batches_must_be_of_their_size(tmp_path, eagerly, detector):
    with pytest.raises(ValueError, match="2 images given, BATCH_SIZE is 1"):
        detector.detect([picture(64, 64)] * 2)
    model = MaskRCNN(
        "inference", tiny_config(IMAGES_PER_GPU=2, IMAGE_RESIZE_MODE="pad64"), tmp_path
    )
    fill_by_rule(model.keras_model)
    with pytest.raises(ValueError, match="must be of one size once resized"):
        model.detect([picture(64, 64), picture(100, 64)])
    # Images of a batch do not influence each other.
    images = [picture(64, 64), picture(64, 64)[::-1].copy()]
    for image, together in zip(images, model.detect(images), strict=True):
        (alone,) = detector.detect([image])
        np.testing.assert_array_equal(together["class_ids"], alone["class_ids"])
        np.testing.assert_allclose(together["scores"], alone["scores"], rtol=1e-5)
        np.testing.assert_array_equal(together["rois"], alone["rois"])


def test_detect_molded_is_detect_in_the_molded_pixels(detector, capsys):
    image = picture(64, 64)
    (expected,) = detector.detect([image])
    molded, metas, windows = detector.mold_inputs([image])
    np.testing.assert_allclose(molded[0], image - detector.config.MEAN_PIXEL, atol=1e-4)
    assert windows.tolist() == [[0, 0, 64, 64]]
    (found,) = detector.detect_molded(molded, metas, verbose=1)
    assert "Processing 1 images" in capsys.readouterr().out
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_compact_and_dense_detections_agree(detector):
    image = picture(50, 64)
    (dense,), (compact,) = detector.detect([image]), detector.detect_instances([image])
    np.testing.assert_array_equal(compact.boxes, dense["rois"])
    np.testing.assert_array_equal(compact.to_dense(), dense["masks"])


def test_the_mask_threshold_is_a_setting(detector, monkeypatch):
    (default,) = detector.detect([picture(64, 64)])
    monkeypatch.setattr(detector.config, "DETECTION_MASK_THRESHOLD", 0.2)
    (larger,) = detector.detect([picture(64, 64)])
    assert (larger["masks"] >= default["masks"]).all()
    assert larger["masks"].sum() > default["masks"].sum()


# Looking inside


def test_anchors(detector):
    anchors = detector.get_anchors((64, 64, 3))
    assert (anchors.shape, anchors.dtype) == ((1023, 4), np.float32)
    # At (0, 0), 8 pixels, width / height = 1/2; normalised = (box - [0, 0, 1, 1]) / 63.
    height, width = 8 / math.sqrt(0.5), 8 * math.sqrt(0.5)
    first = np.array([-height, -width, height, width]) / 2
    np.testing.assert_allclose(detector.anchors[0], first, rtol=1e-6)
    np.testing.assert_allclose(anchors[0], (first - [0, 0, 1, 1]) / 63, rtol=1e-5)
    assert detector.get_anchors((64, 64)) is anchors


def test_run_graph_computes_what_lies_on_the_way(detector, eagerly, capsys):
    image = picture(64, 64)
    outputs = [
        ("p2", detector.keras_model.get_layer("fpn_p2").output),
        ("rois", detector.keras_model.get_layer("ROI").output),
        ("detections", detector.keras_model.get_layer("mrcnn_detection").output),
    ]
    found = detector.run_graph([image], outputs)
    assert list(found) == ["p2", "rois", "detections"]
    assert "rois" in capsys.readouterr().out
    assert found["p2"].shape == (1, 16, 16, 16) and found["rois"].shape == (1, 30, 4)
    (expected,) = detector.detect([image])
    scores = found["detections"][0, :, 5]
    np.testing.assert_allclose(scores[: len(expected["scores"])], expected["scores"], rtol=1e-5)
    molded, metas, _ = detector.mold_inputs([image])
    again = detector.run_graph(molded, outputs[:1], image_metas=metas)
    np.testing.assert_allclose(again["p2"], found["p2"], rtol=1e-6)


def test_ancestor(detector):
    output = detector.keras_model.outputs[0]
    rois = detector.keras_model.get_layer("ROI").output
    assert detector.ancestor(output, "ROI") is rois
    assert detector.ancestor(output, "scope/ROI/") is rois
    conv1 = detector.keras_model.get_layer("conv1").output
    assert detector.ancestor(rois, "conv1") is conv1
    assert detector.ancestor(rois, "mrcnn_mask") is None
    checked = ["ROI"]
    assert detector.ancestor(rois, "conv1", checked) is None


def test_ancestor_of_what_matterports_notebooks_ask_for(detector):
    rois = detector.keras_model.get_layer("ROI").output
    for name in ("pre_nms_anchors", "refined_anchors", "refined_anchors_clipped"):
        found = detector.ancestor(detector.keras_model.outputs[0], f"ROI/{name}:0")
        assert (found.shape, found.dtype) == ((None, None, 4), "float32")
    kept = "ROI/rpn_non_max_suppression"
    for name in (kept, f"{kept}:0", *(f"{kept}/NonMaxSuppressionV{k}:0" for k in (2, 3, 5))):
        found = detector.ancestor(rois, name)
        assert (found.shape, found.dtype) == ((30,), "int32")
    assert detector.ancestor(rois, "ROI/packed_2:0") is None
    assert detector.ancestor(rois, "conv1/BiasAdd:0") is None
    assert detector.keras_model.get_layer("ROI").output is rois


def test_log_prints_the_range_of_arrays(capsys):
    log = importlib.import_module("mrcnn.model").log
    log("scores", np.array([[0.25, -1.5]], np.float32))
    log("class_ids", np.array([3, 12]))
    log("masks", np.array([True, False]))
    log("boxes", np.zeros((0, 4)))
    log("done")
    scores, class_ids, masks, boxes, done = capsys.readouterr().out.splitlines()
    assert scores.split() == "scores shape: (1, 2) min: -1.50000 max: 0.25000 float32".split()
    assert class_ids.split() == "class_ids shape: (2,) min: 3.00000 max: 12.00000 int64".split()
    assert masks.split() == "masks shape: (2,) min: 0.00000 max: 1.00000 bool".split()
    assert boxes.split() == "boxes shape: (0, 4) empty float64".split()
    assert done == "done"


def test_trainable_layers(detector):
    names = [layer.name for layer in detector.get_trainable_layers()]
    assert {"conv1", "bn_conv1", "rpn_model", "mrcnn_mask"} <= set(names)
    assert "ROI" not in names and len(names) == len(set(names))
    inner = layers.Dense(2)
    assert detector.find_trainable_layer(layers.TimeDistributed(inner)) is inner
    assert detector.find_trainable_layer(inner) is inner
