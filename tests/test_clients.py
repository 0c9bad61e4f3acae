"""Scripts as users of Matterport's package write them, run at toy size; and the page for them."""

import csv
import importlib.util
import json
import random
import re
import subprocess
import time
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest
from backends import eagerly
from helpers import TinyConfig, fill_by_rule, make_config
from PIL import Image, ImageDraw

from mrcnn import utils
from mrcnn.model import MaskRCNN
from mrcnn.weights import save_weights

CLIENTS = Path(__file__).parent / "clients"
PAGE = Path(__file__).parent.parent / "docs" / "migrating.md"


def load_client(name):
    """A script of the folder `clients` as a module."""
    spec = importlib.util.spec_from_file_location(f"client_{name}", CLIENTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shrink(monkeypatch, config, **settings):
    """Give a client's Config class the size of TinyConfig, but not its name and classes."""
    settings = {**vars(TinyConfig), **settings}
    for name, value in settings.items():
        if name.isupper() and name not in ("NAME", "NUM_CLASSES"):
            monkeypatch.setattr(config, name, value)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def interpreted():
    with eagerly():
        yield


def weights_in(path):
    """The weights of an .h5 file by name."""
    import h5py

    found = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and not name.startswith("training_state"):
            found[name.partition("/")[2]] = item[()]

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def changed_layers(before, after):
    """The layers of which a weight differs, in two dictionaries by `weights_in`."""
    return {name.split("/")[0] for name in before if not np.array_equal(before[name], after[name])}


# Balloons


@pytest.fixture(scope="module")
def balloons(tmp_path_factory):
    """VIA's two ways to write regions, in two folders with two images each, and one without any."""
    root = tmp_path_factory.mktemp("balloons")
    rng = np.random.default_rng(0)
    for subset, version in [("train", 1), ("val", 2)]:
        (root / subset).mkdir()
        annotations = {}
        for number in range(3):
            name = f"{number}.png"
            image = Image.fromarray(rng.integers(0, 60, (50, 64, 3), dtype=np.uint8))
            # Corners between pixels: 12 rows of 20 pixels, then a triangle.
            polygons = [
                ([9.5, 21.5, 21.5, 9.5], [4.5, 4.5, 24.5, 24.5]),
                ([25.5, 45.5, 45.5], [40.5, 30.5, 50.5 + number]),
            ]
            for ys, xs in polygons:
                ImageDraw.Draw(image).polygon(list(zip(xs, ys)), fill=(230, 40, 40))
            image.save(root / subset / name)
            regions = [
                {
                    "shape_attributes": {"name": "polygon", "all_points_y": ys, "all_points_x": xs},
                    "region_attributes": {},
                }
                for ys, xs in polygons
            ]
            if number == 2:
                regions = []
            if version == 1:
                regions = {str(k): region for k, region in enumerate(regions)}
            annotations[f"{name}999"] = {"filename": name, "size": 999, "regions": regions}
        (root / subset / "via_region_data.json").write_text(json.dumps(annotations))
    return root


@pytest.mark.parametrize("subset", ["train", "val"])
def test_via_polygons(balloons, subset):
    dataset = load_client("balloon").load_dataset(str(balloons / subset))
    assert len(dataset.image_ids) == 2 and dataset.class_names == ["BG", "balloon"]
    assert dataset.image_reference(1) == str(balloons / subset / "1.png")
    masks, class_ids = dataset.load_mask(0)
    assert (masks.shape, masks.dtype) == ((50, 64, 2), bool)
    assert (class_ids.tolist(), class_ids.dtype) == ([1, 1], np.int32)
    assert masks[10:22, 5:25, 0].all() and masks[..., 0].sum() == 12 * 20
    assert utils.extract_bboxes(masks)[0].tolist() == [10, 5, 22, 25]
    dataset.image_info[1]["source"] = "other"
    assert dataset.load_mask(1)[0].shape == (0, 0, 0) and dataset.image_reference(1) == ""


def test_colour_splash():
    image = np.array([[[200, 100, 0], [10, 20, 30]]], np.uint8)
    masks = np.array([[[False, True], [False, False]]])
    splashed = load_client("balloon").color_splash(image, masks)
    grey = int(0.2125 * 10 + 0.7154 * 20 + 0.0721 * 30)
    assert splashed.tolist() == [[[200, 100, 0], [grey] * 3]]
    nothing = load_client("balloon").color_splash(image, np.zeros((1, 2, 0), bool))
    assert (nothing == nothing[..., :1]).all()


def test_balloon(balloons, tmp_path, monkeypatch, interpreted):
    balloon = load_client("balloon")
    monkeypatch.setattr(balloon, "EPOCHS", 1)
    monkeypatch.setattr(balloon, "COCO_WEIGHTS_PATH", str(tmp_path / "mask_rcnn_coco.h5"))
    shrink(monkeypatch, balloon.BalloonConfig, STEPS_PER_EPOCH=1, VALIDATION_STEPS=0)
    coco = MaskRCNN("training", make_config(TinyConfig, NUM_CLASSES=81), tmp_path)
    fill_by_rule(coco.keras_model)
    save_weights(coco.keras_model, balloon.COCO_WEIGHTS_PATH)
    options = ["train", f"--dataset={balloons}", f"--logs={tmp_path}"]

    model = balloon.main([*options, "--weights=coco"])
    assert model.epoch == 1 and model.keras_model.history.epoch == [0]
    before, after = weights_in(balloon.COCO_WEIGHTS_PATH), weights_in(model.find_last())
    assert after.keys() == before.keys()
    assert after["mrcnn_class_logits/kernel:0"].shape[-1] == 2
    changed = changed_layers(before, after)
    assert "rpn_conv_shared" in changed
    assert all(name.startswith(("mrcnn_", "rpn_", "fpn_")) for name in changed)

    monkeypatch.setattr(balloon, "EPOCHS", 2)
    first = model.find_last()
    model = balloon.main([*options, "--weights=last"])
    assert model.epoch == 2 and model.find_last() == first.replace("_0001", "_0002")

    last = model.find_last()
    outputs = model.keras_model.get_layer("res5a_branch2a").output
    save_weights(keras.Model(model.keras_model.inputs[0], outputs), tmp_path / "imagenet.h5")
    imagenet = str(tmp_path / "imagenet.h5")
    monkeypatch.setattr(MaskRCNN, "get_imagenet_weights", lambda self: imagenet)
    photo = str(balloons / "val" / "0.png")
    for weights in ("last", last, "imagenet"):
        options = [f"--weights={weights}", f"--logs={tmp_path}", f"--image={photo}"]
        result = balloon.main(["splash", *options])
        with Image.open(photo) as before, Image.open(result) as after:
            before, after = np.asarray(before), np.asarray(after)
        changed = (before != after).any(axis=-1)
        grey = np.ptp(after, axis=-1) == 0
        assert before.shape == after.shape and changed.any() and grey[changed].all()


# Nuclei


@pytest.fixture(scope="module")
def bowl(tmp_path_factory):
    """Folders of the Data Science Bowl: three images to train on, two held out, one to submit."""
    root = tmp_path_factory.mktemp("bowl")
    rng = np.random.default_rng(1)
    for number in range(6):
        name = f"nuclei{number}"
        folder = root / ("stage1_test" if number == 5 else "stage1_train") / name
        image = rng.integers(0, 40, (50, 60, 4), dtype=np.uint8)
        image[..., 3] = 255
        (folder / "images").mkdir(parents=True)
        (folder / "masks").mkdir()
        for k in range(4):
            y, x = np.indices((50, 60))
            nucleus = np.hypot(y - 12 - 25 * (k // 2), x - 15 - 28 * (k % 2)) < 7 + k
            image[nucleus, :3] = 160
            Image.fromarray(nucleus.astype(np.uint8) * 255).save(folder / "masks" / f"{k}.png")
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
    return root


def pixels_of(runs):
    """The pixels that Kaggle's run lengths stand for, counted from 0, column by column."""
    numbers = list(map(int, runs.split()))
    pairs = zip(numbers[::2], numbers[1::2])
    return [pixel for start, length in pairs for pixel in range(start - 1, start - 1 + length)]


def test_submission_runs():
    nucleus = load_client("nucleus")
    # Kaggle's own example: "1 3 10 5" is pixels 1, 2, 3, 10, 11, 12, 13, 14.
    mask = np.zeros(15, bool)
    mask[[0, 1, 2, 9, 10, 11, 12, 13]] = True
    assert nucleus.encode_runs(mask.reshape(5, 3, order="F")) == "1 3 10 5"
    worse, better = np.zeros((2, 3), bool), np.zeros((2, 3), bool)
    worse[:, :2], better[:, 1:], hidden = True, True, better.copy()
    masks = np.stack([worse, better, hidden], axis=-1)
    rows = list(nucleus.submission_rows("a", masks, np.array([0.8, 0.9, 0.1])))
    assert rows == [("a", "3 4"), ("a", "1 2")]


def test_nucleus(bowl, tmp_path, monkeypatch, interpreted):
    nucleus = load_client("nucleus")
    monkeypatch.setattr(nucleus, "STAGES", [("heads", 1), ("all", 2)])
    crop = {"IMAGE_RESIZE_MODE": "crop", "IMAGE_MIN_SCALE": 2.0}
    shrink(monkeypatch, nucleus.NucleusConfig, **crop, STEPS_PER_EPOCH=1, VALIDATION_STEPS=0)
    dataset = nucleus.load_dataset(str(bowl), "train")
    assert [info["id"] for info in dataset.image_info] == ["nuclei2", "nuclei3", "nuclei4"]
    masks, class_ids = dataset.load_mask(0)
    assert masks.shape == (50, 60, 4) and class_ids.tolist() == [1] * 4
    assert dataset.load_image(0).shape == (50, 60, 3)

    start = MaskRCNN("training", nucleus.NucleusConfig(), tmp_path)
    fill_by_rule(start.keras_model)
    path = str(tmp_path / "start.h5")
    start.keras_model.save_weights(path)
    options = [f"--dataset={bowl}", f"--logs={tmp_path}"]
    augmented, freeze = [], nucleus.AUGMENTATION.to_deterministic
    monkeypatch.setattr(
        nucleus.AUGMENTATION, "to_deterministic", lambda *args: augmented.append(1) or freeze(*args)
    )
    model = nucleus.main(["train", *options, f"--weights={path}"])
    assert model.epoch == 2 and len(augmented) >= 2
    changed = changed_layers(weights_in(path), weights_in(model.find_last()))
    assert {"conv1", "res5a_branch2a", "rpn_conv_shared"} <= changed

    output = tmp_path / "results"
    options += ["--subset=stage1_test", f"--output={output}", "--weights=last"]
    model = nucleus.main(["detect", *options])
    # The image is doubled, then padded to multiples of 64.
    molded, _, (window,) = model.mold_inputs([np.zeros((50, 60, 3), np.uint8)])
    assert molded.shape == (1, 128, 128, 3) and window.tolist() == [14, 4, 114, 124]
    with open(output / "submission.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["ImageId"] for row in rows} == {"nuclei5"}
    pixels = [pixel for row in rows for pixel in pixels_of(row["EncodedPixels"])]
    assert len(pixels) == len(set(pixels)) and 0 <= min(pixels) <= max(pixels) < 50 * 60
    with Image.open(output / "nuclei5.png") as picture:
        assert picture.size == (1600, 1600)


# Looking inside


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """The shapes' own network with weights by the rule, and four of their pictures."""
    shapes = load_client("shapes")
    random.seed(0)
    config = make_config(shapes.InferenceConfig, DETECTION_MIN_CONFIDENCE=0)
    model = MaskRCNN("inference", config, tmp_path_factory.mktemp("logs"))
    fill_by_rule(model.keras_model)
    return model, shapes.make_dataset(4, config), config


@pytest.fixture(scope="module")
def inspect():
    return load_client("inspect_model")


def test_inspect_data(scene, inspect):
    _, dataset, config = scene
    assert inspect.inspect_masks(dataset, config, 0).min() > 0.9
    (image, meta, class_ids, boxes, masks), later = inspect.inspect_loading(dataset, config, 0)
    assert masks.shape == (128, 128, len(class_ids)) and later[4].shape[:2] == (28, 28)
    for first, second in zip((image, meta, class_ids, boxes), later):
        np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(masks, dataset.load_mask(0)[0])

    anchors, by_level = inspect.inspect_anchors(dataset, config)
    assert by_level == [3072, 768, 192, 48, 12] and len(anchors) == sum(by_level)


def test_inspect_batches(scene, inspect, capsys):
    _, dataset, config = scene
    anchors, _ = inspect.inspect_anchors(dataset, config)
    inputs, outputs, refined = inspect.inspect_batches(dataset, config, anchors)
    targets, objects = config.TRAIN_ROIS_PER_IMAGE, config.MAX_GT_INSTANCES
    assert [array.shape for array in inputs] == [
        *((4, 128, 128, 3), (4, 16), (4, len(anchors), 1), (4, 256, 4)),
        *((4, objects), (4, objects, 4), (4, 28, 28, objects), (4, 4, 4), (4, targets, 4)),
    ]
    assert [array.shape for array in outputs] == [
        *((4, targets, 1), (4, targets, 4, 4), (4, targets, 28, 28, 4)),
    ]
    # Moved by its target, a positive anchor is the box of its object.
    assert len(refined) and utils.compute_overlaps(refined, inputs[5][0]).max(axis=1).min() > 0.99
    assert "Positive ROIs" in capsys.readouterr().out


def test_both_generators_make_the_same_batches(scene):
    from mrcnn import model as modellib

    _, dataset, config = scene
    np.random.seed(0)  # noqa: NPY002
    ours, _ = modellib.DataGenerator(dataset, config, shuffle=False)[0]
    np.random.seed(0)  # noqa: NPY002
    theirs, outputs = next(modellib.data_generator(dataset, config, shuffle=False, batch_size=1))
    assert outputs == [] and len(ours) == 7
    for first, second in zip(ours, theirs):
        np.testing.assert_array_equal(first, second)


def test_inspect_detections(scene, inspect, monkeypatch, interpreted, capsys):
    model, dataset, config = scene
    AP, over_ious = inspect.inspect_detections(model, dataset, config, 1)
    assert 0 <= over_ious <= AP <= 1

    masks, class_ids = dataset.load_mask(1)
    truth = {"rois": utils.extract_bboxes(masks), "class_ids": class_ids, "masks": masks}
    truth["scores"] = np.linspace(1, 0.9, len(class_ids))
    monkeypatch.setattr(model, "detect", lambda images, verbose: [truth])
    monkeypatch.setattr(model, "detect_molded", lambda images, metas, verbose: [truth])
    assert inspect.inspect_detections(model, dataset, config, 1) == (1, 1)
    assert "AP @0.50-0.95:\t 1.000" in capsys.readouterr().out


def test_inspect_rpn(scene, inspect, interpreted):
    model, dataset, config = scene
    rpn, anchors = inspect.inspect_rpn(model, dataset, config, 0)
    (before,), (after,), (clipped,), (proposals,) = (
        rpn[name]
        for name in ("pre_nms_anchors", "refined_anchors", "refined_anchors_clipped", "proposals")
    )
    scores = rpn["rpn_class"][0, :, 1]
    best = np.argsort(-scores, kind="stable")[: config.PRE_NMS_LIMIT]
    np.testing.assert_allclose(before, utils.norm_boxes(anchors[best], (128, 128)), atol=1e-6)
    deltas = rpn["rpn_bbox"][0, best] * config.RPN_BBOX_STD_DEV
    np.testing.assert_allclose(after, utils.apply_box_deltas(before, deltas), atol=1e-5)
    np.testing.assert_array_equal(clipped, np.clip(after, 0, 1))
    kept = rpn["post_nms_anchor_ix"]
    expected = utils.non_max_suppression(clipped, scores[best], config.RPN_NMS_THRESHOLD)
    count = min(len(expected), config.POST_NMS_ROIS_INFERENCE)
    np.testing.assert_array_equal(kept[:count], expected[:count])
    np.testing.assert_array_equal(proposals[:count], clipped[kept[:count]])
    assert kept.shape == (config.POST_NMS_ROIS_INFERENCE,) and not proposals[count:].any()


def test_inspect_heads(scene, inspect, interpreted):
    model, dataset, config = scene
    mrcnn, by_hand, by_network = inspect.inspect_heads(model, dataset, config, 0)
    count = config.POST_NMS_ROIS_INFERENCE
    assert mrcnn["roi_align"].shape == (1, count, 7, 7, 64)
    assert mrcnn["masks"].shape == (1, config.DETECTION_MAX_INSTANCES, 28, 28, 4)
    # By hand boxes are whole pixels, so that fewer or more of the worse ones may overlap.
    np.testing.assert_allclose(sorted(by_hand)[-3:], by_network[:3][::-1], rtol=1e-5)


def test_inspect_activations(scene, inspect, interpreted):
    from mrcnn import model as modellib

    model, dataset, config = scene
    image, activations = inspect.inspect_activations(
        model, dataset, config, 0, ["res2b_out", "res3b_out", "res4b_out", "rpn_bbox", "ROI"]
    )
    # Matterport's unmold_image cuts off fractions, which float32 leaves a little too small.
    shown = modellib.unmold_image(activations["input_image"][0], config)
    np.testing.assert_allclose(shown.astype(int), image, atol=1)
    shapes = [value.shape for value in activations.values()]
    assert shapes[1:4] == [(1, 32, 32, 32), (1, 16, 16, 48), (1, 8, 8, 64)]
    assert (activations["res4b_out"] >= 0).all() and activations["res4b_out"].any()


def test_inspect_weights(scene, inspect, capsys):
    model, _, _ = scene
    layers = inspect.inspect_weights(model)
    assert {"conv1", "rpn_model", "mrcnn_mask"} <= {layer.name for layer in layers}
    table = capsys.readouterr().out
    kernel = model.keras_model.get_layer("conv1").get_weights()[0]
    line = next(line for line in table.split("\n") if line.startswith("conv1/kernel"))
    assert "(3, 3, 3, 16)" in line and f"{kernel.min():+.4f}" in line


# The page


def test_every_block_of_the_page_runs(balloons, tmp_path, monkeypatch, interpreted):
    """In order, in one session, with what the page says its reader has."""
    monkeypatch.chdir(tmp_path)
    balloon = load_client("balloon")

    class MyDataset(balloon.BalloonDataset):
        def __init__(self, subset):
            super().__init__()
            self.load_balloon(str(balloons / subset))

    session = {
        "MyConfig": type("MyConfig", (TinyConfig,), {"NUM_CLASSES": 2, "STEPS_PER_EPOCH": 1}),
        "MyDataset": MyDataset,
    }
    old = MaskRCNN("training", make_config(TinyConfig, NUM_CLASSES=2), tmp_path)
    save_weights(old.keras_model, "mask_rcnn_mine.h5")
    Path("mine.py").write_text("mask = mask.astype(np.bool)\nage = np.int(3.5)\nnp.bool_, np.int32")
    Image.new("RGB", (64, 48)).save("photo.png")
    Image.fromarray(np.kron([[0, 1], [2, 0]], np.ones((24, 32))).astype(np.uint8)).save(
        "labels.png"
    )
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    for language, code in blocks:
        if language == "python":
            exec(compile(code, str(PAGE), "exec"), session)
        else:
            assert language == "sh"
            subprocess.run(["bash", "-euc", code], check=True)
    assert session["boxes"].tolist() == [[8, 32, 32, 64], [32, 0, 56, 32]]
    assert session["dense"].shape[:2] == session["labels"].shape == (48, 64)
    given, saved = weights_in("mask_rcnn_mine.h5"), weights_in("mask_rcnn_for_matterport.h5")
    assert given.keys() == saved.keys()
    assert Path("mine.py").read_text() == (
        "mask = mask.astype(bool)\nage = int(3.5)\nnp.bool_, np.int32"
    )


# Shapes


@pytest.mark.slow
def test_shapes_are_learnt_from_random_weights(tmp_path):
    started = time.process_time()
    mAP = load_client("shapes").main([f"--logs={tmp_path}", "--seed=0"])
    assert mAP >= 0.6
    assert time.process_time() - started < 2 * 20 * 60  # of two cores
