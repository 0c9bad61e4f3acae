"""The whole network, against the port of Matterport's with the same weights, and at its limits."""

import json
import types

import keras
import numpy as np
import pytest
from helpers import (
    GOLDEN,
    assert_close,
    fill_by_rule,
    golden_arrays,
    make_config,
    tiny_config,
    to_numpy,
    unpack,
)

from mrcnn import losses, rpn, targets
from mrcnn.image_meta import compose_image_meta
from mrcnn.model import LAYER_PATTERNS, MaskRCNN
from mrcnn.network import build_network
from mrcnn.weights import weighted_layers

# The port differs from itself by 5e-6 of a tensor's largest value with other CPU kernels.
NOISE = 2e-5


def golden_model(mode, name, folder):
    """The network of a golden file, with that file's settings and weights."""
    settings = json.loads((GOLDEN / f"{name}.json").read_text())["overrides"]
    if "MEAN_PIXEL" in settings:
        settings["MEAN_PIXEL"] = np.array(settings["MEAN_PIXEL"])
    model = MaskRCNN(mode, make_config(NAME="golden", **settings), folder)
    fill_by_rule(model.keras_model)
    return model


# Names and shapes of the weights


@pytest.mark.parametrize(
    ("backbone", "mode"),
    [
        ("resnet50", "inference"),
        ("resnet50", "training"),
        pytest.param("resnet101", "inference", marks=pytest.mark.slow),
        pytest.param("resnet101", "training", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("classes", [2, pytest.param(81, marks=pytest.mark.slow)])
def test_weights_are_those_of_matterport(backbone, mode, classes):
    suffix = "_training" if mode == "training" else ""
    inventory = json.loads((GOLDEN / f"h5_inventory_{backbone}_{classes}{suffix}.json").read_text())
    groups = {
        name: group["attrs"]["weight_names"]
        for name, group in inventory["groups_with_weights"].items()
        if name != "anchors"  # a variable that only the port has
    }
    network = build_network(mode, make_config(BACKBONE=backbone, NUM_CLASSES=classes))

    expected = {}
    for group, names in groups.items():
        for name in names:
            owner, weight = name.split("/")
            # Keras appends _1 to names it has seen before; the rpn_model is a group of layers.
            layer = owner.removesuffix("_1") if group == "rpn_model" else group
            shape, dtype = inventory["datasets"][f"{group}/{name}"]
            expected[f"{layer}/{weight}"] = (tuple(shape), dtype)
    found = {
        f"{layer.name}/{weight.name}:0": (tuple(weight.shape), weight.dtype)
        for layer in weighted_layers(network)
        for weight in layer.weights
    }
    assert found == expected
    # Old files without names for their weights are read in this order.
    for layer in network.layers:
        if layer.weights and layer.name != "rpn_model":
            short = [name.rpartition("/")[2] for name in groups[layer.name]]
            assert [f"{weight.name}:0" for weight in layer.weights] == short


# Inference


@pytest.fixture(
    scope="module",
    params=["infer_a", pytest.param("infer_b", marks=pytest.mark.slow)],
)
def inference(request, tmp_path_factory):
    """A golden case: its name, its arrays, and the model."""
    name = request.param
    arrays = {}
    for part in ("inputs", "features", "heads"):
        arrays.update(golden_arrays(f"{name}_{part}"))
    return name, arrays, golden_model("inference", name, tmp_path_factory.mktemp(name))


def test_images_are_molded(inference):
    _, golden, model = inference
    molded, metas, windows = model.mold_inputs([golden["image_uint8"]])
    np.testing.assert_allclose(molded, golden["molded_image"], rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(metas, golden["image_meta"], rtol=1e-12)
    np.testing.assert_array_equal(windows, golden["windows"])
    assert_close(model.get_anchors(molded.shape[1:])[None], golden["anchors"], 1e-6)


def test_inference(inference):
    name, golden, model = inference
    network = model.keras_model
    last = {"infer_a": "res4f_out", "infer_b": "res4w_out"}[name]
    layers = {"C2": "res2c_out", "C3": "res3d_out", "C4": last, "C5": "res5c_out"}
    layers |= {f"P{level}": f"fpn_p{level}" for level in range(2, 7)}
    layers |= {key: key for key in ("mrcnn_class_logits", "roi_align_classifier")}
    outputs = {key: network.get_layer(layer).output for key, layer in layers.items()}
    order = ("detections", "mrcnn_class", "mrcnn_bbox", "mrcnn_mask", "rpn_rois")
    outputs |= zip((*order, "rpn_class", "rpn_bbox"), network.outputs)
    found = model.run_graph(golden["molded_image"], list(outputs.items()), golden["image_meta"])

    stats = json.loads((GOLDEN / f"{name}.json").read_text())["feature_stats"]
    for key in layers:
        if key in stats:
            kept = found[key][..., :: stats[key]["stored_channel_step"]]
            assert_close(kept, golden[key], NOISE)
            assert np.abs(found[key]).sum() == pytest.approx(stats[key]["abs_sum"], rel=1e-5)
    rpn_model = network.get_layer("rpn_model")
    logits = [to_numpy(rpn_model(found[f"P{level}"])[0]) for level in range(2, 7)]
    assert_close(np.concatenate(logits, axis=1), golden["rpn_class_logits"], NOISE)
    pooled = found["roi_align_classifier"][:, :20, ..., ::8]
    # A sample moves with its box: noise of the boxes times the slope of the features.
    assert_close(pooled, golden["roi_align_classifier_first20_every8ch"], NOISE)
    for key in ("mrcnn_class_logits", *order, "rpn_class", "rpn_bbox"):
        assert_close(found[key], golden[key], NOISE)
    np.testing.assert_array_equal(found["detections"][..., 4], golden["detections"][..., 4])


@pytest.mark.parametrize("inference", ["infer_a"], indirect=True)
def test_detect(inference):
    _, arrays, model = inference
    golden = golden_arrays("infer_a_detect")
    (found,) = model.detect([arrays["image_uint8"]])
    np.testing.assert_array_equal(found["rois"], golden["rois"])
    np.testing.assert_array_equal(found["class_ids"], golden["class_ids"])
    assert_close(found["scores"], golden["scores"], NOISE)
    np.testing.assert_array_equal(found["masks"], unpack(golden, "masks"))


# Training


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """The golden training case: what is known of it, its inputs and outputs, and the model."""
    about = json.loads((GOLDEN / "train_2.json").read_text())
    arrays = golden_arrays("train_2_inputs")
    names = ("images", "image_meta", "rpn_match", "rpn_bbox", "gt_class_ids", "gt_boxes")
    inputs = [*(arrays[name] for name in names), unpack(arrays, "gt_masks")]
    inputs = [x.astype("float32") if x.dtype == np.float64 else x for x in inputs]
    model = golden_model("training", "train_2", tmp_path_factory.mktemp("train_2"))
    return about, inputs, golden_arrays("train_2_outputs"), model


def test_training_forward(training):
    about, inputs, golden, model = training
    network = model.keras_model
    model.set_trainable(".*", verbose=0)
    sampled = network.get_layer("proposal_targets").output
    part = keras.Model(network.inputs, [*network.outputs, *sampled])
    values = to_numpy(list(part(inputs, training=True)))
    rpn_logits, _, rpn_deltas, logits, _, deltas, _, proposals, _ = values[:9]
    assert_close(rpn_logits, golden["rpn_class_logits"], NOISE)
    assert_close(rpn_deltas, golden["rpn_bbox"], NOISE)
    assert_close(proposals, golden["rpn_rois"], NOISE)

    for name, value in zip(losses.LOSS_NAMES, values[9:14]):
        assert value == pytest.approx(about["losses"][name], rel=1e-5), name
    decay = losses.weight_decay(network.trainable_variables, model.config.WEIGHT_DECAY)
    assert to_numpy(decay) == pytest.approx(about["l2_regularisation"], rel=1e-5)
    total = network.compute_loss(y_pred=values[:14])
    assert to_numpy(total) == pytest.approx(about["total_loss"], rel=1e-5)

    # The port shuffles the sampled ROIs.
    rois, class_ids, target_deltas, masks = values[14:]
    names = ("target_rois", "target_class_ids", "target_bbox")
    expected = [*(golden[name] for name in names), unpack(golden, "target_mask")]
    expected += [golden["mrcnn_class_logits"], golden["mrcnn_bbox"]]
    found = [rois, class_ids, target_deltas, masks, logits, deltas]
    for image in range(2):
        ours, theirs = np.lexsort(rois[image].T), np.lexsort(expected[0][image].T)
        for x, y in zip(found, expected):
            assert_close(x[image][ours].astype("float32"), y[image][theirs], NOISE)


@pytest.mark.parametrize("stage", LAYER_PATTERNS)
def test_stages_train_the_same_weights(training, stage):
    *_, model = training
    golden = json.loads((GOLDEN / "trainable_by_stage.json").read_text())[stage]
    model.set_trainable(LAYER_PATTERNS[stage], verbose=0)
    found = {
        f"{layer.name}/{weight.name}:0"
        for layer in weighted_layers(model.keras_model)
        for weight in layer.trainable_weights
    }
    assert found == set(golden["names"]) - {"Variable:0"}  # the port's anchors
    assert len(model.keras_model.trainable_weights) == len(found)


def leaky_ops():
    """`keras.ops` without a gradient stop, for Matterport's path from box targets to the RPN."""
    return types.SimpleNamespace(**{**vars(keras.ops), "stop_gradient": lambda x: x})


def test_gradients_and_a_step(training, monkeypatch):
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("takes gradients with a tape, which is TensorFlow's")
    about, inputs, golden, model = training
    network = model.keras_model
    model.set_trainable(".*", verbose=0)
    # The golden gradients have the path that docs/matterport.md says is closed here.
    monkeypatch.setattr(rpn, "ops", leaky_ops())
    monkeypatch.setattr(targets, "ops", leaky_ops())
    weights = {
        f"{layer.name}/{weight.name}": weight
        for layer in weighted_layers(network)
        for weight in layer.trainable_weights
    }
    with tf.GradientTape() as tape:
        loss = network.compute_loss(y_pred=network(inputs, training=True))
    gradients = tape.gradient(loss, {name: weight.value for name, weight in weights.items()})
    gradients = {name: to_numpy(gradient) for name, gradient in gradients.items()}

    for key in golden:
        if key.startswith("grad__"):
            name = key.removeprefix("grad__").replace("__", "/")
            # Behind some thirty ReLUs, single activations near zero take the other side.
            deep = name.startswith(("conv1", "bn_conv1", "res2"))
            assert_close(gradients[name], golden[key], 3e-4 if deep else NOISE)
    rows = {row["name"].removesuffix(":0"): row for row in about["step_rows"]}
    assert rows.keys() == gradients.keys()
    for name, row in rows.items():
        norm = np.linalg.norm(gradients[name].astype(np.float64))
        assert norm == pytest.approx(row["grad_norm_unclipped"], rel=5e-4, abs=1e-6), name

    # One step of SGD, each tensor's gradient clipped by itself, as the port does.
    before = {name: to_numpy(weight) for name, weight in weights.items()}
    for name, weight in weights.items():
        shrink = min(1.0, 5.0 / max(np.linalg.norm(gradients[name]), 1e-12))
        weight.assign_sub(0.001 * shrink * gradients[name])
    after = to_numpy(network(inputs, training=True)[-5:])
    for name, weight in weights.items():
        weight.assign(before[name])
    for name, value in zip(losses.LOSS_NAMES, after):
        # After the step an image has three positives left and may keep 21 of its negatives: which
        # ones is drawn, and shows in the class loss only.
        tolerance = 0.03 if name == "mrcnn_class_loss" else 2e-5
        assert value == pytest.approx(about["losses_after_one_step"][name], rel=tolerance), name


# The tiny network

ANCHOR = [0, 4, 4, 12]  # one of 8 x 8 pixels at the upper edge, which cuts it in half


def training_inputs(config, boxes=(), class_ids=(), positive_anchors=0, negative_anchors=10):
    """A batch of one image: noise, with square objects whose masks are full."""
    shape = (64, 64, 3)
    meta = compose_image_meta(0, shape, shape, (0, 0, 64, 64), 1.0, [1] * config.NUM_CLASSES)
    match = np.zeros((1, 1023, 1), np.int32)
    match[0, :positive_anchors] = 1
    match[0, len(match[0]) - negative_anchors :] = -1
    ids = np.zeros((1, config.MAX_GT_INSTANCES), np.int32)
    padded = np.zeros((1, config.MAX_GT_INSTANCES, 4), np.float32)
    ids[0, : len(class_ids)] = class_ids
    padded[0, : len(boxes)] = np.reshape(boxes, (-1, 4))
    return {
        "input_image": np.random.default_rng(1).normal(0, 50, (1, *shape)).astype(np.float32),
        "input_image_meta": meta[None].astype(np.float32),
        "input_rpn_match": match,
        "input_rpn_bbox": np.ones((1, config.RPN_TRAIN_ANCHORS_PER_IMAGE, 4), np.float32),
        "input_gt_class_ids": ids,
        "input_gt_boxes": padded,
        "input_gt_masks": np.ones((1, 28, 28, config.MAX_GT_INSTANCES), bool),
    }


def train_step(network, inputs):
    """Take one step of SGD and return the losses before it."""
    network.compile(optimizer=keras.optimizers.SGD(0.01), run_eagerly=True)
    network.reset_metrics()
    return network.train_on_batch(inputs, return_dict=True)


@pytest.fixture(scope="module")
def tiny():
    """The configuration, a network and its weights at the start: proposals are its anchors."""
    config = tiny_config()
    network = build_network("training", config)
    fill_by_rule(network)
    for name in ("rpn_class_raw", "rpn_bbox_pred"):
        for weight in network.get_layer("rpn_model").get_layer(name).weights:
            weight.assign(np.zeros(weight.shape))
    return config, network, network.get_weights()


NOTHING_FOUND = {"rpn_bbox_loss", "mrcnn_bbox_loss", "mrcnn_mask_loss"}


@pytest.mark.parametrize(
    ("objects", "zero"),
    [
        pytest.param({}, NOTHING_FOUND, id="no object"),
        pytest.param({"boxes": [ANCHOR], "class_ids": [-1]}, NOTHING_FOUND, id="a crowd only"),
        pytest.param({"boxes": [[20, 20, 20, 44]], "class_ids": [1]}, NOTHING_FOUND, id="no area"),
        pytest.param(
            {"boxes": [ANCHOR], "class_ids": [2], "positive_anchors": 3}, set(), id="one object"
        ),
        pytest.param(
            {
                "boxes": [[0, 8 * i, 4, 8 * i + 8] for i in range(8)],
                "class_ids": [1, 2] * 4,
                "positive_anchors": 32,
                "negative_anchors": 0,
            },
            set(),
            id="as many objects as there are places",
        ),
        pytest.param(
            {"negative_anchors": 0},
            {*NOTHING_FOUND, "rpn_class_loss"},
            id="no anchor takes part",
        ),
    ],
)
def test_losses_and_gradients_are_finite(tiny, objects, zero):
    config, network, weights = tiny
    network.set_weights(weights)
    found = train_step(network, training_inputs(config, **objects))
    assert all(np.isfinite(value) for value in found.values())
    assert {name for name in losses.LOSS_NAMES if found[name] == 0} == zero
    assert all(np.isfinite(weight).all() for weight in network.get_weights())


def test_no_proposal(tiny):
    config, network, weights = tiny
    network.set_weights(weights)
    kernel, bias = network.get_layer("rpn_model").get_layer("rpn_bbox_pred").weights
    kernel.assign(np.zeros(kernel.shape))
    bias.assign(np.tile([-1000.0, -1000.0, 0.0, 0.0], 3))  # all boxes out of the image
    inputs = training_inputs(config, [ANCHOR], [1], positive_anchors=3)
    proposals = to_numpy(network(inputs, training=True)[7])
    assert (proposals == 0).all()
    found = train_step(network, inputs)
    assert found["mrcnn_bbox_loss"] == found["mrcnn_mask_loss"] == 0
    assert all(np.isfinite(weight).all() for weight in network.get_weights())


def test_the_total_is_weighted():
    config = tiny_config(LOSS_WEIGHTS={"rpn_bbox_loss": 3.0, "mrcnn_mask_loss": 0.0})
    network = build_network("training", config)
    values = [np.full((1, 1), i + 1.0, np.float32) for i in range(5)]
    total = to_numpy(network.compute_loss(y_pred=values))
    decay = to_numpy(losses.weight_decay(network.trainable_variables, config.WEIGHT_DECAY))
    assert total == pytest.approx(1 + 3 * 2 + 3 + 4 + 0 + decay)
    assert [float(mean.result()) for mean in network.loss_means] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("train_bn", "moves"), [(False, False), (None, True), (True, True)])
def test_frozen_batch_norm_keeps_its_statistics(train_bn, moves):
    config = tiny_config(TRAIN_BN=train_bn, BATCH_NORM_MOMENTUM=0.9)
    network = build_network("training", config)
    before = {weight.path: to_numpy(weight) for weight in network.weights}
    inputs = training_inputs(config, [ANCHOR], [1], positive_anchors=3)
    train_step(network, inputs)
    changed = {w.path for w in network.weights if not np.array_equal(to_numpy(w), before[w.path])}
    statistics = {path for path in before if "moving_" in path}
    assert len(statistics) == 2 * (5 + 2 + 4)
    assert (statistics <= changed) if moves else not (statistics & changed)
    assert {"bn_conv1/gamma", "bn_conv1/beta"} <= changed
    momenta = {x.momentum for x in network.layers if hasattr(x, "momentum")}
    assert momenta == {0.9}


def test_box_targets_do_not_train_the_rpn(tiny):
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("takes gradients with a tape, which is TensorFlow's")
    config, network, weights = tiny
    network.set_weights(weights)
    kernel = network.get_layer("rpn_model").get_layer("rpn_bbox_pred").kernel
    inputs = training_inputs(config, [ANCHOR], [1], positive_anchors=3)
    with tf.GradientTape(persistent=True) as tape:
        values = dict(zip(losses.LOSS_NAMES, network(inputs, training=True)[-5:]))
    for name in ("mrcnn_class_loss", "mrcnn_bbox_loss", "mrcnn_mask_loss"):
        assert tape.gradient(values[name], kernel.value) is None
    assert tape.gradient(values["rpn_bbox_loss"], kernel.value) is not None
