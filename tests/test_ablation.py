"""Each switch changes what it says, by hand; and ablations are run, continued and tabulated."""

import csv
import io
import json
import types
from unittest import mock

import h5py
import keras
import numpy as np
import pytest
from backends import outputs_of
from helpers import tiny_config, to_numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops
from scipy import ndimage
from skimage.morphology import disk
from tiny import tiny_preset, write_pairs, write_tiny_weights

from mrcnn.anchors import pyramid_anchors
from mrcnn.backbone import GroupNorm, normalization, normalize
from mrcnn.config import Config
from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn.losses import mrcnn_mask_dice_loss_graph
from mrcnn.model import MaskRCNN
from mrcnn.network import build_network
from mrcnn.opencv import cv2
from mrcnn.soft_instances import SoftInstances
from mrcnn.weights import load_weights, read_attribute, save_weights
from mrcnn_nuclei import ablation, training
from mrcnn_nuclei.ablation import ablate
from mrcnn_nuclei.ablation_table import AblationTable
from mrcnn_nuclei.augmentation import Augmentation
from mrcnn_nuclei.backbone import compact_resnet
from mrcnn_nuclei.cli import main
from mrcnn_nuclei.config import (
    MODELS,
    inference_config,
    json_settings,
    make_config,
    parse_settings,
)
from mrcnn_nuclei.contrast import enhance
from mrcnn_nuclei.datasets import NucleusDataset
from mrcnn_nuclei.datasets.synthetic import draw_tile
from mrcnn_nuclei.detector import Detector
from mrcnn_nuclei.evaluation import Evaluation
from mrcnn_nuclei.metrics import METRICS
from mrcnn_nuclei.postprocessing import dilate, postprocess
from mrcnn_nuclei.rcnn import NucleusRCNN, Prediction, flip
from mrcnn_nuclei.runs import Run, read_step
from mrcnn_nuclei.switches import ABLATIONS, AT_DETECTION, choose
from mrcnn_nuclei.training import find_weights
from mrcnn_nuclei.tuning import CHOICES, tune
from mrcnn_nuclei.unet.batches import MapBatches
from mrcnn_nuclei.unet.model import build_unet

# Of TensorFlow, on running networks without tracing.
pytestmark = pytest.mark.filterwarnings("ignore:Even though the .tf.config.experimental_run")

OFF = {
    "MASK_LOSS": "bce",
    "NORMALIZATION": "batch",
    "TEST_TIME_AUGMENTATION": False,
    "MASK_NMS": "none",
    "MASK_DILATION": 0,
    "CLAHE": 0.0,
    "AUGMENTATION_GROWTH": 0,
}


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with tiny_preset():
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.h5")


def squares(*boxes, shape=(40, 40), scores=None):
    """Instances that fill their boxes (y1, x1, y2, x2)."""
    masks = [np.ones((y2 - y1, x2 - x1), bool) for y1, x1, y2, x2 in boxes]
    scores = np.ones(len(boxes)) if scores is None else scores
    return Instances(shape, boxes, scores, np.ones(len(boxes)), masks)


# The settings


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("preset", ["paper", "compact"])
def test_all_is_off_by_default(preset, model):
    config = make_config(preset, model=model)
    assert {name: getattr(config, name) for name in OFF} == OFF
    assert "noise" not in config.AUGMENTATION
    assert (Config.MASK_LOSS, Config.NORMALIZATION) == ("bce", "batch")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"MASK_LOSS": "focal"}, "MASK_LOSS = focal: choose bce or dice"),
        ({"MASK_NMS": "hard"}, "MASK_NMS = hard: choose none or greedy or soft"),
        ({"NORMALIZATION": "none"}, "NORMALIZATION = none: choose batch or group or layer"),
        ({"CLAHE": -1.0}, "CLAHE = -1.0: must be at least 0"),
        ({"AUGMENTATION_GROWTH": -1}, "AUGMENTATION_GROWTH = -1: must be at least 0"),
        ({"MASK_DILATION": 0.5}, "0.5 is not a whole number"),
        ({"BACKBONE": "resnet34"}, "BACKBONE = resnet34: choose resnet50 or resnet101"),
    ],
)
def test_values_that_are_no_choice(settings, words):
    with pytest.raises(InputError) as caught:
        make_config("compact", settings)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_masks_that_cannot_overlap_need_no_nms():
    with pytest.raises(InputError, match="MASK_NMS = soft: the masks of the U-Net do not overlap"):
        make_config("compact", {"MASK_NMS": "soft"}, model="unet")


# Dice loss


def test_dice_loss_by_hand():
    truth = np.zeros((1, 2, 2, 2), np.float32)
    truth[0, 0] = [[1, 1], [0, 0]]
    masks = np.full((1, 2, 2, 2, 3), 0.9, np.float32)
    masks[0, 0, :, :, 1] = [[0.5, 1.0], [0.5, 0.0]]
    # Of the first ROI, class 1: 1 - (2 * 1.5 + 1) / (2 + 2 + 1). The second is background.
    loss = mrcnn_mask_dice_loss_graph(*map(ops.convert_to_tensor, (truth, [[1, 0]], masks)))
    assert float(to_numpy(loss)) == pytest.approx(0.2)
    # The second's class is 2: an empty truth, 1 - 1 / (3.6 + 1).
    loss = mrcnn_mask_dice_loss_graph(*map(ops.convert_to_tensor, (truth, [[1, 2]], masks)))
    assert float(to_numpy(loss)) == pytest.approx((0.2 + 3.6 / 4.6) / 2)
    loss = mrcnn_mask_dice_loss_graph(*map(ops.convert_to_tensor, (truth, [[0, 0]], masks)))
    assert float(to_numpy(loss)) == 0


# Normalisation


@pytest.fixture
def features():
    """Two pixels of 32 channels: 0 and 2 in the first half of them, 10 and 14 in the others."""
    x = np.zeros((1, 1, 2, 32), np.float32)
    x[0, 0, 1, :16] = 2
    x[0, 0, :, 16:] = [[10], [14]]
    return x


@pytest.mark.parametrize(
    ("kind", "means", "variances"),
    [("group", (1, 12), (1, 4)), ("layer", (6.5, 6.5), (32.75, 32.75))],
)
def test_normalisation_by_hand(features, kind, means, variances):
    with normalization(kind):
        image = layers.Input(features.shape[1:])
        roi = layers.Input((2, *features.shape[1:]))
        network = keras.Model([image, roi], [normalize(image), normalize(roi)])
    # The second ROI is brighter by far, which is no matter of the first.
    rois = np.stack([features, 100 * features + 50], axis=1)
    of_image, of_rois = outputs_of(network, [features, rois], training=True)
    mean = np.repeat(means, 16)
    deviation = np.sqrt(np.repeat(variances, 16) + 1e-3)
    np.testing.assert_allclose(of_image, (features - mean) / deviation, rtol=1e-4)
    np.testing.assert_allclose(of_rois[:, 0], of_image, rtol=1e-4)
    np.testing.assert_allclose(of_rois[:, 1], of_image, rtol=2e-3)


def test_groups_divide_the_channels():
    with normalization("group"):
        outputs = [normalize(layers.Input((4, 4, channels))) for channels in (8, 48, 256)]
    assert [x._keras_history.operation.groups for x in outputs] == [1, 3, 16]


@pytest.fixture(scope="module")
def switched():
    """A detector's training network with group normalisation and Dice loss."""
    config = tiny_config(
        BACKBONE=staticmethod(compact_resnet), NORMALIZATION="group", MASK_LOSS="dice"
    )
    return build_network("training", config)


def test_switches_reach_the_network(switched):
    assert switched.get_layer("mrcnn_mask_loss").function is mrcnn_mask_dice_loss_graph
    for name in ("bn_conv1", "bn5b_branch2c", "mrcnn_class_bn2", "mrcnn_mask_bn4"):
        assert isinstance(switched.get_layer(name), GroupNorm)
    unet = build_unet(make_config("tiny", {"NORMALIZATION": "layer"}, model="unet"))
    assert unet.get_layer("decoder_border_1_bn").groups == 1


def test_batch_norm_weights_start_other_networks(switched, tmp_path):
    plain = build_network("training", tiny_config(BACKBONE=staticmethod(compact_resnet)))
    plain.get_layer("bn3a_branch2a").gamma.assign(np.full(64, 3.0))
    save_weights(plain, tmp_path / "batch.h5")
    report = load_weights(switched, tmp_path / "batch.h5")
    assert not report.missing and not report.mismatched
    assert {name.split("/")[1] for name in report.unused} == {"moving_mean", "moving_variance"}
    np.testing.assert_array_equal(to_numpy(switched.get_layer("bn3a_branch2a").gamma), 3)


# Noise


def test_noise_by_hand():
    """Grey levels spread by a deviation between 0 and 8: 64 / 3 in the mean, and the rounding."""
    image, labels = np.full((32, 32, 3), 128, np.uint8), np.zeros((32, 32), np.int32)
    config = make_config("tiny", {"AUGMENTATION": {"blur": 0.0, "noise": 8.0}})
    noisy = training._augmentations(config)[0]
    noisy.crop_size = (32, 32)
    crops = [noisy(image, labels, np.random.default_rng(seed))[0] for seed in range(400)]
    assert np.mean([crop.var() for crop in crops]) == pytest.approx(64 / 3 + 1 / 12, abs=3)
    assert np.mean(crops) == pytest.approx(128, abs=0.1)
    assert max(crop.std() for crop in crops) < 8.3


# Augmentation that grows


def test_growth_by_hand():
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    labels = np.arange(48 * 48, dtype=np.int32).reshape(48, 48)
    whole = Augmentation(48, scale=(0.5, 2.0), noise=4.0, stain=0.2, brightness=0.1, growth=4)
    nothing = whole.at_epoch(0)
    for seed in range(5):
        crop, cut = nothing(image, labels, np.random.default_rng(seed))
        np.testing.assert_array_equal(crop, image)
        np.testing.assert_array_equal(cut, labels)
    half = whole.at_epoch(2)
    assert (half.rotate, half.flip, half.blur, half.noise) == (0.5, 0.5, 0.5, 2.0)
    assert (half.stain, half.brightness) == (0.1, 0.05)
    assert half.scale == pytest.approx((0.5**0.5, 2**0.5))
    assert whole.at_epoch(4) is whole and whole.at_epoch(400) is whole


def test_half_a_flip_happens_half_as_often():
    image = np.zeros((8, 8, 3), np.uint8)
    labels = np.arange(64, dtype=np.int32).reshape(8, 8)
    half = Augmentation(8, rotate=False, growth=2, blur=0).at_epoch(1)
    firsts = [half(image, labels, np.random.default_rng(seed))[1][0, 0] for seed in range(800)]
    flipped = np.mean(np.isin(firsts, [7, 63]))  # left to right: a quarter, not a half
    assert flipped == pytest.approx(0.25, abs=0.05)


def test_growth_follows_from_the_epoch(tmp_path):
    """A run that starts at epoch 2 sees what one sees that comes there from epoch 0."""
    dataset = NucleusDataset().load(write_pairs(tmp_path / "set", 2))
    config = make_config("tiny", {"AUGMENTATION_GROWTH": 4}, model="unet")
    augmentation, plain = training._augmentations(config)

    def batches():
        return MapBatches(dataset, config, augmentation=augmentation, batch_size=1, seed=5)

    continued, resumed = batches(), batches()
    for _ in range(2):
        continued.on_epoch_end()
    resumed.set_epoch(2)
    (image, _, _), _ = resumed[0]
    np.testing.assert_array_equal(image, continued[0][0][0])
    strength = {"rotate": 0.5, "flip": 0.5, "blur": 0.5, "stain": 0.1, "brightness": 0.05}
    by_hand = Augmentation(64, **strength, scale=(0.7**0.5 * 0.98**0.25, 1.4**0.5 * 0.98**0.25))
    pixels = dataset.load_image(resumed._order[0])
    crop, _ = by_hand(
        pixels, dataset.load_labels(resumed._order[0])[0], np.random.default_rng([5, 2, 0])
    )
    expected = (crop - pixels.mean((0, 1))) / pixels.std((0, 1))
    np.testing.assert_allclose(image[0], expected, rtol=1e-4, atol=1e-4)
    assert plain.growth == 0


# CLAHE


def test_clahe_by_hand():
    """Without a limit it is histogram equalisation: half of the pixels at 128, half at 255."""
    image = np.full((64, 64, 3), 100, np.uint8)
    image[32:] = 103
    found = enhance(image, 256.0)
    lightness = cv2.cvtColor(found, cv2.COLOR_RGB2LAB)[..., 0]
    assert (found[32:] == 255).all()
    assert set(np.unique(lightness[:32])) <= {127, 128, 129}
    limited = enhance(image, 2.0).astype(int)
    assert 3 < limited[40, 0, 0] - limited[0, 0, 0] < 30
    assert enhance(image, 0.0) is image


def test_clahe_keeps_the_colour_and_looks_at_tiles():
    image = draw_tile(256, np.random.default_rng(0))[0]
    before, after = (cv2.cvtColor(x, cv2.COLOR_RGB2LAB) for x in (image, enhance(image, 2.0)))
    by_opencv = cv2.createCLAHE(2.0, (2, 2)).apply(np.ascontiguousarray(before[..., 0]))
    inside = (after[..., 0] > 40) & (after[..., 0] < 215)  # of the colours that RGB has
    assert inside.mean() > 0.5
    assert np.abs(by_opencv.astype(int) - after[..., 0])[inside].mean() < 2
    assert np.abs(before.astype(int) - after)[inside][:, 1:].mean() < 3


def test_training_and_validation_see_enhanced_images(monkeypatch, tmp_path):
    seen = []

    class Recorder:
        kind, epoch, log_dir = "mask_rcnn", 0, str(tmp_path)

        def __init__(self, mode, config, model_dir):
            pass

        def train(self, train_dataset, val_dataset, epochs, **kwargs):
            seen.extend(dataset.load_image(0) for dataset in (train_dataset, val_dataset))
            self.epoch = epochs

    monkeypatch.setitem(training.NETWORKS, "mrcnn", Recorder)
    monkeypatch.setattr(training, "best_checkpoint", lambda log_dir, kind: None)
    dataset = NucleusDataset().load(write_pairs(tmp_path / "set", 2))
    for clip_limit in (2.0, 0.0):
        config = make_config("tiny", {"CLAHE": clip_limit})
        training.train(config, dataset, dataset, tmp_path, epochs=1)
        image = enhance(dataset.load_image(0), clip_limit)
        assert len(seen) == 2 and all(np.array_equal(x, image) for x in seen)
        seen.clear()


def test_detection_sees_enhanced_images(weights, monkeypatch):
    detector = Detector(weights, settings={"CLAHE": 2.0})
    detect_soft, seen = detector.model.detect_soft, []

    def spy(crops, statistics):
        seen.append((crops[0], statistics[0][0]))
        return detect_soft(crops, statistics)

    monkeypatch.setattr(detector.model, "detect_soft", spy)
    image = draw_tile(200, np.random.default_rng(0))[0]
    detector.detect(image)
    enhanced = enhance(image, 2.0)  # as a whole, then cut
    assert len(seen) == 4
    np.testing.assert_array_equal(seen[0][0], enhanced[:128, :128])
    np.testing.assert_allclose(seen[0][1], enhanced.mean((0, 1)), rtol=1e-6)


# Flips at test time


@given(
    boxes=st.lists(
        st.tuples(*[st.integers(0, 10)] * 2, *[st.integers(11, 20)] * 2), min_size=0, max_size=3
    ),
    rows=st.sampled_from([1, -1]),
    columns=st.sampled_from([1, -1]),
)
@settings(max_examples=30, deadline=None)
def test_flips_are_those_of_the_dense_masks(boxes, rows, columns):
    masks = np.random.default_rng(0).random((len(boxes), 7, 7)).astype(np.float32)
    ones = np.ones(len(boxes), np.int32)
    boxes = np.array(boxes, np.int32).reshape(-1, 4)
    found = SoftInstances((20, 24), boxes, ones.astype(np.float32), ones, masks)
    flipped = flip(found, rows, columns).harden(0.5)
    np.testing.assert_array_equal(
        flipped.to_dense(), found.harden(0.5).to_dense()[::rows, ::columns]
    )


def network_that_finds(views, settings=None):
    """A NucleusRCNN that sees the bright part of a picture, with the scores given, view by view."""
    network = object.__new__(NucleusRCNN)
    network.config = inference_config(
        make_config("tiny", {"TEST_TIME_AUGMENTATION": True, **(settings or {})})
    )
    network.seen, network.least = [], []

    def detect_soft(images, statistics):
        network.least.append(network.config.DETECTION_MIN_CONFIDENCE)
        score = views[len(network.seen)]
        network.seen.append(images[0])
        y, x = np.nonzero(images[0][..., 0] > 128)
        box = np.array([[y.min(), x.min(), y.max() + 1, x.max() + 1]], np.int32)
        if score is None:
            box = box[:0]
        y1, x1, y2, x2 = (y.min(), x.min(), y.max() + 1, x.max() + 1)
        mask = (images[0][y1:y2, x1:x2, 0] > 128).astype(np.float32)[None][: len(box)]
        ones = np.ones(len(box), np.int32)
        shape = images[0].shape[:2]
        return [SoftInstances(shape, box, np.float32([score or 0][: len(box)]), ones, mask)]

    network.detect_soft = detect_soft
    return network


def test_flips_are_turned_back_and_fused():
    image = np.zeros((20, 30, 3), np.uint8)
    image[2:7, 4:12] = 200
    image[6, 4:8] = 0  # neither side is like the other
    least = {"DETECTION_MIN_CONFIDENCE": 0.4}
    network = network_that_finds([0.9, 0.6, 0.6, 0.7], least)
    found = network.segment(network.predict(image))
    views = (image, image[::-1], image[:, ::-1], image[::-1, ::-1])
    for view, expected in zip(network.seen, views, strict=True):
        np.testing.assert_array_equal(view, expected)
    assert len(found) == 1 and found.scores[0] == pytest.approx(0.7)
    np.testing.assert_array_equal(found.to_label_map() > 0, image[..., 0] > 128)
    # Each view tells of a quarter of the least confidence; that of the result stays.
    assert network.least == [0.1] * 4 and network.config.DETECTION_MIN_CONFIDENCE == 0.4
    # A nucleus that few of the views show is as likely as few of four.
    network = network_that_finds([0.9, None, 0.6, 0.7], least)
    assert network.segment(network.predict(image)).scores == pytest.approx([0.55])
    network = network_that_finds([None, 0.9, None, None], least)
    assert len(network.segment(network.predict(image))) == 0
    # Without the switch the image is seen once.
    network = network_that_finds([0.9], {"TEST_TIME_AUGMENTATION": False})
    assert network.segment(network.predict(image)).scores == pytest.approx([0.9])


def test_confidence_and_mask_threshold_come_after_the_network():
    image = np.zeros((20, 30, 3), np.uint8)
    image[2:7, 4:12] = 200
    network = network_that_finds([0.6], {"TEST_TIME_AUGMENTATION": False})
    prediction = network.predict(image)
    assert len(network.segment(prediction)) == 1
    network.config.DETECTION_MIN_CONFIDENCE = 0.61
    assert len(network.segment(prediction)) == 0


# NMS of the masks


@pytest.mark.parametrize(
    ("method", "least", "scores"),
    [
        ("none", 0.5, [0.9, 0.8, 0.7]),
        ("greedy", 0.5, [0.9, 0.7]),
        ("soft", 0.5, [0.9, 0.7]),
        ("soft", 0.2, [0.9, 0.7, 0.8 / 3]),
    ],
)
def test_mask_nms_by_hand(method, least, scores):
    """The first two squares share 80 pixels of 120, an IoU of 2 / 3; the third stands alone."""
    found = squares(
        (0, 0, 10, 10), (0, 2, 10, 12), (20, 20, 30, 30), scores=np.float32([0.9, 0.8, 0.7])
    )
    config = make_config("tiny", {"MASK_NMS": method, "DETECTION_MIN_CONFIDENCE": least})
    kept = postprocess(found, config)
    assert kept.scores.tolist() == pytest.approx(scores)
    assert kept.boxes[0].tolist() == [0, 0, 10, 10]  # no union with what it suppresses
    assert (kept is found) == (method == "none")


def test_masks_of_one_prediction_may_overlap_by_half():
    """60 pixels of 140 are an IoU below 0.5, and above what fuses several predictions."""
    found = squares((0, 0, 10, 10), (0, 4, 10, 14), scores=np.float32([0.9, 0.8]))
    assert len(postprocess(found, make_config("tiny", {"MASK_NMS": "greedy"}))) == 2


# Dilation and erosion


def test_dilation_by_hand():
    found = dilate(squares((10, 10, 11, 11), (0, 0, 1, 1)), 1)
    assert found.boxes.tolist() == [[9, 9, 12, 12], [0, 0, 2, 2]]
    np.testing.assert_array_equal(found.masks[0], [[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    np.testing.assert_array_equal(found.masks[1], [[1, 1], [1, 0]])
    assert dilate(squares((10, 10, 11, 11)), 2).areas.tolist() == [13]


def test_erosion_by_hand():
    found = squares((10, 10, 15, 15), (20, 0, 25, 5), (30, 30, 31, 33), scores=[0.9, 0.8, 0.7])
    eroded = dilate(found, -1)
    # Not from the edge of the image; and what would vanish stays.
    assert eroded.boxes.tolist() == [[11, 11, 14, 14], [21, 0, 24, 4], [30, 30, 31, 33]]
    assert eroded.areas.tolist() == [9, 12, 3]
    np.testing.assert_array_equal(eroded.scores, found.scores)
    assert dilate(found, 0) is found
    empty = Instances.empty((40, 40))
    assert len(dilate(empty, 2)) == len(dilate(empty, -2)) == 0


@given(seed=st.integers(0, 2**32 - 1), pixels=st.integers(-3, 3).filter(bool))
@settings(max_examples=30, deadline=None)
def test_each_mask_is_changed_as_on_the_whole_image(seed, pixels):
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 5, (5, 6)), np.ones((4, 4), int))
    labels[rng.random(labels.shape) < 0.1] = 0
    found = Instances.from_label_map(labels)
    changed = dilate(found, pixels).to_dense()
    for k in range(len(found)):
        mask = found.to_dense()[..., k]
        if pixels > 0:
            expected = ndimage.binary_dilation(mask, disk(pixels))
        else:
            expected = ndimage.binary_erosion(mask, disk(-pixels), border_value=1)
        np.testing.assert_array_equal(changed[..., k], expected if expected.any() else mask)


def test_detection_ends_with_postprocessing(weights):
    image = draw_tile(100, np.random.default_rng(0))[0]
    plain = Detector(weights).detect(image)
    assert len(plain) > 0
    thick = Detector(weights, settings={"MASK_DILATION": 2}).detect(image)
    np.testing.assert_array_equal(thick.to_dense(), dilate(plain, 2).to_dense())


# Backbone, initial weights


@pytest.mark.parametrize("preset", ["paper", "compact"])
def test_backbone_can_be_set(preset):
    config = make_config(preset, parse_settings(["BACKBONE=resnet50"], preset))
    assert json_settings(config)["BACKBONE"] == "resnet50"
    if preset == "paper":
        return
    model = MaskRCNN("inference", inference_config(config), "logs")
    assert model.keras_model.get_layer("res4f_out") is not None  # the last of ResNet-50's six
    inputs, output = model.keras_model.inputs[:1], model.keras_model.get_layer("rpn_class").output
    scores = keras.Model(inputs, output)([np.zeros((1, 128, 192, 3), np.float32)])
    assert scores.shape[1] == len(pyramid_anchors(config, (128, 192)))


def test_initial_weights_can_be_set():
    assert find_weights(None, make_config("paper", {"INITIAL_WEIGHTS": "none"}), "logs") == "none"
    given = parse_settings(["INITIAL_WEIGHTS=none"], "paper")
    assert given == {"INITIAL_WEIGHTS": "none"}
    given = parse_settings(["INITIAL_WEIGHTS=my/weights.h5"], "compact")
    assert find_weights(None, make_config("compact", given), "logs") == "my/weights.h5"
    with mock.patch.object(training, "imagenet_weights", lambda backbone: f"{backbone}.h5"):
        settings = {"INITIAL_WEIGHTS": "imagenet", "BACKBONE": "resnet50"}
        assert find_weights(None, make_config("compact", settings), "logs") == "resnet50.h5"
        settings = {"BACKBONE": "resnet50", "SCHEDULE": [("all", 12, 1.0)]}
        assert find_weights(None, make_config("lite", settings), "logs") == "resnet50.h5"
    with mock.patch.object(training, "lite_weights", lambda: "lite.h5"):
        assert find_weights(None, make_config("lite"), "logs") == "lite.h5"
    with pytest.raises(InputError, match="fits ResNets only"):
        find_weights(None, make_config("compact", {"INITIAL_WEIGHTS": "coco"}), "logs")


# Thresholds


class OneNucleus:
    """A data set of one image, whose nucleus covers 6 x 6 pixels."""

    image_ids = np.array([0])

    def load_image(self, image_id):
        return np.zeros((40, 40, 3), np.uint8)

    def load_labels(self, image_id):
        labels = np.zeros((40, 40), np.int32)
        labels[2:8, 2:8] = 1
        return labels, np.array([1], np.int32)


def test_tuning_a_detector_by_hand():
    """A mask with a faint rim of two pixels, and a false nucleus that is less certain."""
    network = object.__new__(NucleusRCNN)
    network.config = inference_config(
        make_config("tiny", {"DETECTION_MIN_CONFIDENCE": 0.5, "DETECTION_MASK_THRESHOLD": 0.35})
    )
    masks = np.full((2, 10, 10), 0.42, np.float32)
    masks[0, 2:8, 2:8] = masks[1] = 0.9
    boxes = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.int32)
    soft = SoftInstances((40, 40), boxes, np.float32([0.9, 0.62]), np.ones(2, np.int32), masks)
    network.predict = lambda image: Prediction((40, 40), [(0, 0, 40, 40)], [soft])
    found, before, after = tune(network, OneNucleus(), progress=False)
    assert before == pytest.approx(36 / (100 + 100))
    assert after == 1
    assert found == {"DETECTION_MIN_CONFIDENCE": 0.65, "DETECTION_MASK_THRESHOLD": 0.45}
    assert network.config.DETECTION_MASK_THRESHOLD == 0.45


def test_tuning_saves_what_it_found(capsys, tmp_path):
    """Also in a file that did not say what it is."""
    write_pairs(tmp_path / "set", 2)
    model = MaskRCNN("inference", make_config("tiny"), tmp_path)
    path = tmp_path / "theirs.h5"
    save_weights(model.keras_model, path)
    found = {"DETECTION_MIN_CONFIDENCE": 0.7, "DETECTION_MASK_THRESHOLD": 0.4}
    tuned = []

    def pretend(network, dataset, image_ids=None):
        tuned.append([dataset.load_image(i) for i in dataset.image_ids])
        return found, 0.2, 0.3

    arguments = ["tune", "--dataset", tmp_path / "set", "--subset", "val", "--weights", path]
    arguments += ["--preset", "tiny", "--set", "CLAHE=2.0"]
    with mock.patch("mrcnn_nuclei.detector.tune", pretend):
        assert main([str(argument) for argument in arguments]) == 0
    assert "mean AJI of 1 images 0.200 -> 0.300" in capsys.readouterr().out
    told = read_attribute(path, "nuclei")
    assert told["preset"] == "tiny" and told["settings"] == {"CLAHE": 2.0, **found}
    assert Detector(path).config.DETECTION_MASK_THRESHOLD == 0.4
    image = NucleusDataset().load(tmp_path / "set", subset="val").load_image(0)
    np.testing.assert_array_equal(tuned[0][0], enhance(image, 2.0))


def test_choices_are_settings():
    for model, choices in CHOICES.items():
        for name, values in choices.items():
            for value in values:
                make_config("compact", {name: value}, model=model)


# The ablations


def test_ablations_change_what_they_say():
    """Each is one switch, and its effect on the configuration is the hand-written one."""
    paper = make_config("paper")
    changes = {name: each.changes(paper) for name, each in ABLATIONS.items()}
    assert changes == {
        "dice": {"MASK_LOSS": "dice"},
        "noise": {
            "AUGMENTATION": {"rotate": True, "flip": True, "blur": 1.0, "noise": 10.0},
        },
        "growth": {"AUGMENTATION_GROWTH": 150},
        "clahe": {"CLAHE": 2.0},
        "scratch": {"INITIAL_WEIGHTS": "none"},
        "group-norm": {"NORMALIZATION": "group"},
        "layer-norm": {"NORMALIZATION": "layer"},
        "resnet50": {"BACKBONE": "resnet50", "INITIAL_WEIGHTS": "imagenet"},
        "resnet101": {},
        "flips": {"TEST_TIME_AUGMENTATION": True},
        "nms": {"MASK_NMS": "greedy"},
        "soft-nms": {"MASK_NMS": "soft"},
        "dilation": {"MASK_DILATION": 1},
        "erosion": {"MASK_DILATION": -1},
        "search": {},
    }
    for name, changed in changes.items():
        config = make_config("paper", changed)
        assert all(getattr(config, key) == value for key, value in changed.items()), name


def test_what_imagenet_knows_nothing_of_is_trained_whole():
    lite = make_config("lite")
    stages = [("all", 7, 1.0), ("all", 10, 0.3), ("all", 12, 0.05)]
    assert ABLATIONS["scratch"].changes(lite) == {"INITIAL_WEIGHTS": "none", "SCHEDULE": stages}
    assert ABLATIONS["resnet50"].changes(lite) == {"BACKBONE": "resnet50", "SCHEDULE": stages}


def test_which_ablations_can_be_run():
    assert "resnet101" not in choose(make_config("paper"))
    compact = make_config("compact")
    assert set(ABLATIONS) - set(choose(compact)) == {"scratch"}
    unet = choose(make_config("compact", model="unet"))
    assert set(ABLATIONS) - set(unet) == {"scratch", "dice", "nms", "soft-nms"}
    assert choose(compact, ["flips", "dice"]) == ["dice", "flips"]
    for name, words in [
        ("dise", "--only dise: unknown; choose of dice, noise, "),
        ("scratch", "--only scratch: the baseline is so already; leave it out"),
    ]:
        with pytest.raises(InputError) as caught:
            choose(compact, [name])
        assert str(caught.value).startswith(words)
    with pytest.raises(InputError, match="--only nms: acts on mrcnn only"):
        choose(make_config("compact", model="unet"), ["nms"])


def evaluation(*values):
    counts = {"nuclei_true": 3, "nuclei_pred": 4}
    return Evaluation(
        [{"image": f"i{k}", **counts, **dict.fromkeys(METRICS, v)} for k, v in enumerate(values)]
    )


def test_table_by_hand(tmp_path):
    table = AblationTable(evaluation(0.5, 0.7))
    table.add("dice", {"MASK_LOSS": "dice"}, evaluation(0.4, 0.6))
    markdown = table.to_markdown().splitlines()
    assert markdown[2].startswith("| baseline | baseline | 0.6000 | 0.6000 ")
    assert markdown[3].startswith("| dice | Dice loss of the masks | 0.5000 (-0.1000) | ")
    table.write(tmp_path)
    (_, row) = csv.DictReader(io.StringIO((tmp_path / "ablation.csv").read_text()))
    assert row["name"] == "dice" and json.loads(row["settings"]) == {"MASK_LOSS": "dice"}
    assert float(row["AJI"]) == 0.5 and float(row["d_AJI"]) == pytest.approx(-0.1)
    rows = json.loads((tmp_path / "ablation.json").read_text())
    assert rows == table.rows and rows[1]["difference"]["PQ"] == pytest.approx(-0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("tissue") / "set", 5)


def command(folder, output, *arguments):
    given = ["ablate", "--dataset", folder, "--fold", "0", "--preset", "tiny", "--epochs", "1"]
    return main([str(x) for x in (*given, "--output", output, *arguments)])


@pytest.fixture(scope="module")
def ran(folder, tmp_path_factory):
    """Ablations that need the baseline's training only."""
    output = tmp_path_factory.mktemp("ablation")
    arguments = ["--set", "DETECTION_MAX_INSTANCES=8", "--only", "nms,erosion,flips"]
    assert command(folder, output, *arguments) == 0
    return output


def test_what_acts_at_detection_has_no_training_of_its_own(ran):
    trained = {path.parent.name for path in ran.glob("*/training.json")}
    assert trained == {"baseline"}
    digests = {
        json.loads(path.read_text())["inputs"]["weights"] for path in ran.glob("*/predictions.json")
    }
    assert len(digests) == 1
    rows = json.loads((ran / "ablation.json").read_text())
    assert [row["name"] for row in rows] == ["baseline", "flips", "nms", "erosion"]
    for row in rows:
        scores = json.loads((ran / row["name"] / "metrics.json").read_text())["images"]
        assert row["mean"]["AJI"] == pytest.approx(np.mean([each["AJI"] for each in scores]))
        difference = row["mean"]["AJI"] - rows[0]["mean"]["AJI"]
        assert row["difference"]["AJI"] == pytest.approx(difference)
    predictions = json.loads((ran / "nms" / "predictions.json").read_text())
    assert predictions["inputs"]["settings"] == {"MASK_NMS": "greedy"}


def test_what_is_finished_is_not_done_again(ran, folder, capsys):
    """After a kill, here before the last step of one, and another call with a further ablation."""
    table = (ran / "ablation.md").read_text()
    (ran / "erosion" / "metrics.json").unlink()

    def fail(*arguments, **kwargs):
        raise AssertionError("was done before")

    arguments = ["--set", "DETECTION_MAX_INSTANCES=8", "--only", "erosion"]
    with mock.patch.object(training, "train", fail), mock.patch.object(Detector, "detect", fail):
        assert command(folder, ran, *arguments) == 0
    assert (ran / "ablation.md").read_text() == table
    assert f"wrote {ran / 'ablation.md'}" in capsys.readouterr().out
    assert command(folder, ran, "--set", "DETECTION_MAX_INSTANCES=9", "--only", "erosion") == 2
    assert "made with another DETECTION_MAX_INSTANCES" in capsys.readouterr().err


def test_search_scores_no_image_with_thresholds_found_on_it(tmp_path, monkeypatch):
    tuned, detected = [], []

    class Pretender:
        def __init__(self, weights):
            tuned.append(None)

        def tune(self, dataset, image_ids):
            tuned[-1] = list(image_ids)
            return {"DETECTION_MASK_THRESHOLD": len(tuned) / 10}, 0.0, 0.0

        def detect(self, image):
            detected.append((len(tuned) - 1, image[0, 0, 0]))
            return Instances.empty(image.shape[:2])

    names = ["a", "b", "c"]
    dataset = types.SimpleNamespace(
        image_ids=np.arange(3),
        names=names,
        load_image=lambda i: np.full((8, 8, 3), i, np.uint8),
    )
    monkeypatch.setattr("mrcnn_nuclei.detector.Detector", Pretender)
    found = ablation._search(Run(tmp_path / "search", {}), "w.h5", dataset, {"weights": "w.h5"})
    assert found == {"DETECTION_MASK_THRESHOLD": [0.1, 0.2]}
    assert sorted(image for _, image in detected) == [0, 1, 2]
    assert all(image not in tuned[half] for half, image in detected)
    assert len(list((tmp_path / "search").rglob("*.tif"))) == 3


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_every_ablation_at_toy_size(folder, weights, tmp_path, model):
    train_set = NucleusDataset().load(folder, subset="train", fold=0)
    val_set = NucleusDataset().load(write_pairs(tmp_path / "held-out", 2))
    given = {"SCHEDULE": [("all", 1, 1.0)], "INITIAL_WEIGHTS": str(weights), "SEED": 1}
    config = make_config("tiny", given, model=model)
    names = [name for name in choose(config) if not name.startswith("resnet")]
    assert len(names) == {"mrcnn": 13, "unet": 10}[model]
    output = tmp_path / "out"
    table = ablate(output, train_set, val_set, "tiny", given, model, names)
    assert [row["name"] for row in table.rows] == ["baseline", *names]
    for row in table.rows:
        mean = Evaluation(read_step(output / row["name"], "metrics")["images"]).mean
        assert row["mean"] == {metric: mean[metric] for metric in METRICS}
    assert_trained_with_their_changes(output, config, names)


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_other_architectures_at_toy_size(folder, tmp_path, model):
    train_set = NucleusDataset().load(folder, subset="train", fold=0)
    val_set = NucleusDataset().load(write_pairs(tmp_path / "held-out", 1))
    given = {"SCHEDULE": [("all", 1, 1.0)]}
    config = make_config("tiny", given, model=model)
    names = ["resnet50", "resnet101"]
    ablate(tmp_path / "out", train_set, val_set, "tiny", given, model, names)
    assert_trained_with_their_changes(tmp_path / "out", config, names)
    sizes = [
        (tmp_path / "out" / name / read_step(tmp_path / "out" / name, "training")["weights"])
        .stat()
        .st_size
        for name in ("baseline", *names)
    ]
    assert sizes == sorted(sizes)
    assert sizes[1] > 50e6  # more than half of ResNet-50's 23.5 million weights of 4 bytes


def assert_trained_with_their_changes(output, config, names):
    """What acts in training has weights of its own, all else is predicted by the baseline's."""
    acts_in_training = {"baseline"}
    for name in names:
        changes = ABLATIONS[name].changes(config)
        assert read_step(output / name, "config")["changes"] == json.loads(json.dumps(changes))
        if not changes.keys() <= AT_DETECTION:
            acts_in_training.add(name)
    assert {path.parent.name for path in output.glob("*/training.json")} == acts_in_training
    # Eight channels are one group, and no proposal of random weights need be a nucleus.
    different = acts_in_training - {"layer-norm", "dice"}
    assert len({weights_of(output / name) for name in different}) == len(different)
    baseline = read_step(output / "baseline", "predictions")["inputs"]["weights"]
    for name in set(names) - acts_in_training - {"search"}:
        assert read_step(output / name, "predictions")["inputs"]["weights"] == baseline


def weights_of(run):
    """The weights that a run trained, as bytes, without the settings that lie beside them."""
    found = []
    with h5py.File(run / read_step(run, "training")["weights"]) as file:
        file.visititems(
            lambda name, item: (
                found.append(item[()].tobytes()) if isinstance(item, h5py.Dataset) else None
            )
        )
    return b"".join(found)
