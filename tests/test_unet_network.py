"""The U-Net's network: its decoders, its losses, and the encoder it shares with the detector."""

import math
import re

import keras
import numpy as np
import pytest
from backends import gradients, outputs_of
from helpers import TinyConfig, make_config, tiny_config, to_numpy

from mrcnn.network import build_network
from mrcnn.weights import load_weights, save_weights, weighted_layers
from mrcnn_nuclei.config import CompactUNetConfig, UNetConfig
from mrcnn_nuclei.datasets.synthetic import draw_tile
from mrcnn_nuclei.unet.losses import map_loss, soft_iou
from mrcnn_nuclei.unet.model import LAYER_PATTERNS, LOSS_NAMES, MAP_NAMES, build_unet
from mrcnn_nuclei.unet.targets import make_targets


class TinyUNetConfig(TinyConfig):
    """Eight channels everywhere: 21,035 weights that train."""

    TRAIN_BN = None
    LOSS_WEIGHTS = {}
    WEIGHT_DECAY = 0.0
    DECODER_CHANNELS = (8, 8, 8, 8, 8)
    FOCAL_GAMMA = 0.0
    SOFT_IOU_WEIGHT = 1.0


def unet_config(**overrides):
    return make_config(TinyUNetConfig, **overrides)


@pytest.fixture(scope="module")
def unet():
    """A network for training."""
    keras.utils.set_random_seed(0)
    return build_unet(unet_config(), "training")


@pytest.fixture(scope="module")
def detector():
    keras.utils.set_random_seed(1)
    return build_network("training", tiny_config())


def values_of(model):
    return {
        f"{layer.name}/{weight.name}": to_numpy(weight)
        for layer in weighted_layers(model)
        for weight in layer.weights
    }


def size_of(weights):
    return sum(math.prod(weight.shape) for weight in weights)


def random_batch(rng, size=64, count=2):
    """Images, maps and weights."""
    return [
        rng.standard_normal((count, size, size, 3)).astype("float32"),
        (rng.random((count, size, size, 3)) < [0.4, 0.05, 0.3]).astype("float32"),
        rng.uniform(1, 5, (count, size, size)).astype("float32"),
    ]


def maps_of(network, image):
    """The only output of a network."""
    return np.stack(outputs_of(network, [image]))


# The loss of one map

TARGETS = np.float32([1, 0, 0, 1]).reshape(1, 2, 2)
PROBABILITIES = np.float32([0.8, 0.4, 0.1, 0.5]).reshape(1, 2, 2)
ENTROPIES = -np.log([0.8, 0.6, 0.9, 0.5])  # of what is given to the true class


def loss_of(targets, probabilities, weights=None, **kwargs):
    """All pixels count alike by default."""
    weights = np.ones_like(targets) if weights is None else weights
    return float(to_numpy(map_loss(targets, probabilities, weights, **kwargs)))


def iou_of(targets, probabilities):
    return float(to_numpy(soft_iou(targets, probabilities, np.ones_like(targets))))


@pytest.mark.backend
def test_cross_entropy_and_soft_iou():
    # Intersection 0.8 + 0.5; union 2 + 1.8 - 1.3; a pixel of smoothing on both.
    assert iou_of(TARGETS, PROBABILITIES) == pytest.approx(2.3 / 3.5, rel=1e-6)
    assert loss_of(TARGETS, PROBABILITIES, soft_iou_weight=0.0) == pytest.approx(0.38312, abs=1e-5)
    assert loss_of(TARGETS, PROBABILITIES) == pytest.approx(0.38312 + 1.2 / 3.5, abs=1e-5)
    assert loss_of(TARGETS, PROBABILITIES, soft_iou_weight=0.5) == pytest.approx(
        0.38312 + 0.6 / 3.5, abs=1e-5
    )


@pytest.mark.backend
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_focal_term_acts_on_each_pixel(gamma):
    wrong = np.array([0.2, 0.4, 0.1, 0.5])
    expected = np.mean(wrong**gamma * ENTROPIES)
    loss = loss_of(TARGETS, PROBABILITIES, focal_gamma=gamma, soft_iou_weight=0.0)
    assert loss == pytest.approx(expected, rel=1e-5)
    batch_mean = (1 - math.exp(-ENTROPIES.mean())) ** gamma * ENTROPIES.mean()
    assert loss != pytest.approx(batch_mean, rel=1e-2)


@pytest.mark.backend
def test_weights_make_a_weighted_mean():
    weights = np.float32([1, 3, 0, 4]).reshape(1, 2, 2)
    expected = (ENTROPIES[0] + 3 * ENTROPIES[1] + 4 * ENTROPIES[3]) / 8
    kwargs = {"soft_iou_weight": 0.0}
    assert loss_of(TARGETS, PROBABILITIES, weights, **kwargs) == pytest.approx(expected, rel=1e-5)
    assert loss_of(TARGETS, PROBABILITIES, 7 * weights, **kwargs) == pytest.approx(
        expected, rel=1e-5
    )
    assert loss_of(TARGETS, PROBABILITIES, 0 * weights, **kwargs) == 0
    # Intersection 0.8 + 4 * 0.5; sums 1 + 4 and 0.8 + 3 * 0.4 + 4 * 0.5; a pixel on both.
    iou = 3.8 / (5 + 4 - 2.8 + 1)
    assert loss_of(TARGETS, PROBABILITIES, weights) == pytest.approx(expected + 1 - iou, rel=1e-5)


@pytest.mark.backend
def test_a_pixel_without_weight_does_not_exist():
    rng = np.random.default_rng(2)
    targets = (rng.random((1, 16, 24)) < 0.3).astype("float32")
    probabilities = rng.random((1, 16, 24)).astype("float32")
    weights = np.ones_like(targets)
    weights[..., 16:] = 0
    whole = loss_of(targets, probabilities, weights)
    assert whole == pytest.approx(loss_of(targets[..., :16], probabilities[..., :16]), rel=1e-5)


@pytest.mark.backend
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_loss_of_perfect_and_worst_maps(gamma):
    rng = np.random.default_rng(0)
    targets = (rng.random((2, 32, 32)) < 0.1).astype("float32")
    empty = np.zeros_like(targets)
    assert loss_of(targets, targets, focal_gamma=gamma) == pytest.approx(0, abs=1e-5)
    assert loss_of(empty, empty, focal_gamma=gamma) == pytest.approx(0, abs=1e-5)
    worst = loss_of(targets, 1 - targets, focal_gamma=gamma)
    assert worst == pytest.approx(-math.log(1e-7) + 1, rel=1e-2)


def test_an_empty_border_map_is_no_way_out():
    """Cross-entropy alone hardly minds that all of a rare map is missed; soft IoU does."""
    targets = np.zeros((1, 40, 40), "float32")
    targets[0, :, 20] = 1
    assert loss_of(targets, np.full_like(targets, 0.025), soft_iou_weight=0.0) < 0.12
    assert loss_of(targets, np.full_like(targets, 0.025)) > 1


def test_soft_iou_is_that_of_the_batch():
    """An image without borders leaves that of another as it is."""
    targets = np.zeros((2, 8, 8), "float32")
    targets[0, 2:6, 2:6] = 1
    probabilities = targets * np.float32(0.5)
    assert iou_of(targets, probabilities) == pytest.approx(9 / 17)


@pytest.mark.backend
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_gradient_is_finite_everywhere(gamma, share):
    rng = np.random.default_rng(1)
    targets = (rng.random((1, 16, 16)) < share).astype("float32")
    values = rng.choice(np.float32([0, 1e-30, 1e-7, 0.3, 0.999, 1]), targets.shape)
    probabilities = keras.Variable(values)

    def loss(targets):
        weights = np.ones(targets.shape, "float32")
        return map_loss(targets, probabilities, weights, focal_gamma=gamma)

    (gradient,) = gradients(loss, [probabilities], targets)
    assert np.isfinite(gradient).all() and gradient.any()


# The network


@pytest.mark.backend
@pytest.mark.parametrize("height, width", [(32, 32), (64, 96), (160, 32)])
def test_maps_of_any_multiple_of_32(unet, height, width):
    part = keras.Model(unet.inputs[:1], unet.get_layer("maps").output)
    image = np.random.default_rng(0).normal(0, 3, (2, height, width, 3)).astype("float32")
    maps = maps_of(part, image)
    assert maps.shape == (2, height, width, 3) and maps.dtype == np.float32
    assert 0 <= maps.min() and maps.max() <= 1
    assert (maps.std(axis=(1, 2)) > 0).all()


@pytest.mark.parametrize("backbone", ["resnet50", "compact"])
def test_real_encoders(backbone):
    config = make_config(CompactUNetConfig)
    if backbone == "resnet50":
        config = make_config(UNetConfig, BACKBONE=backbone)
    channels = config.DECODER_CHANNELS
    assert len(channels) == {"compact": 4, "resnet50": 5}[backbone]
    network = build_unet(config)
    assert network.output_shape == (None, None, None, 3)
    # Strides 16 to 2, or to 1: the encoder's channels where the decoders join it.
    deep = {"compact": (384, 256, 128, 32), "resnet50": (1024, 512, 256, 64, 16)}[backbone]
    for name in MAP_NAMES:
        for stride, width, joined in zip((16, 8, 4, 2, 1), channels, deep):
            stage = f"decoder_{name}_{stride}"
            assert network.get_layer(f"{stage}_conv").kernel.shape[-1] == width
            if joined > width:
                assert network.get_layer(f"{stage}_skip").kernel.shape == (1, 1, joined, width)
    if backbone == "compact":
        assert network.count_params() <= 8_000_000


@pytest.mark.backend
@pytest.mark.parametrize("stages", [1, 3, 4])
def test_fewer_stages_make_the_pixels_of_a_map_in_blocks(stages):
    network = build_unet(unet_config(DECODER_CHANNELS=(8,) * stages))
    block = 2 ** (5 - stages)
    assert network.get_layer("decoder_border_map").kernel.shape == (1, 1, 8, block**2)
    image = np.random.default_rng(0).normal(0, 3, (1, 64, 96, 3)).astype("float32")
    maps = maps_of(network, image)
    assert maps.shape == (1, 64, 96, 3)

    # Channel 1 of a block is the pixel right of its first one.
    kernel, bias = network.get_layer("decoder_border_map").get_weights()
    bias[1] = 50.0
    network.get_layer("decoder_border_map").set_weights([kernel, bias])
    changed = maps_of(network, image) != maps
    expected = np.zeros((64, 96), bool)
    expected[::block, 1::block] = True
    np.testing.assert_array_equal(changed[0, ..., 1], expected)
    assert not changed[..., [0, 2]].any()


def test_what_each_pattern_trains(unet):
    # A 3 x 3 convolution of 8 to 8 channels has 576 weights, the encoder's 8 biases too; a batch
    # normalisation trains 16. A decoder: five stages of 16 to 8 channels, the stem narrowed from
    # 16, the map. The stem: 3 to 16 channels.
    decoder = 5 * (2 * 576 + 16) + 16 * 8 + 9
    heads = 3 * decoder + (27 * 16 + 32)
    stage = 576 + 8 + 16
    expected = {
        "heads": heads,
        "5+": heads + stage,
        "4+": heads + 2 * stage,
        "3+": heads + 3 * stage,
        "all": heads + 4 * stage + (27 * 8 + 8 + 16),
    }
    assert expected["all"] == 21_035
    found = {
        name: size_of(
            weight
            for layer in unet.layers
            if re.fullmatch(pattern, layer.name)
            for weight in layer.trainable_weights
        )
        for name, pattern in LAYER_PATTERNS.items()
    }
    assert found == expected


@pytest.mark.backend
def test_losses_are_those_of_their_maps(unet):
    image, targets, weights = random_batch(np.random.default_rng(2))
    maps, *values = outputs_of(unet, [image, targets, weights])
    assert len(values) == len(LOSS_NAMES) == len(MAP_NAMES) == 3
    for i, value in enumerate(values):
        expected = loss_of(targets[..., i], maps[..., i], weights)
        assert value.shape == (1, 1)
        assert value[0, 0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.backend
def test_settings_reach_the_network(unet):
    config = unet_config(
        FOCAL_GAMMA=2.0,
        SOFT_IOU_WEIGHT=0.25,
        LOSS_WEIGHTS={"border_loss": 3.0, "interior_loss": 0.5},
        TRAIN_BN=False,
        BATCH_NORM_MOMENTUM=0.9,
    )
    network = build_unet(config, "training")
    assert [tensor.name for tensor in network.inputs] == [
        "input_image",
        "input_maps",
        "input_weights",
    ]
    norms = [layer for layer in network.layers if layer.name.endswith("_bn")]
    assert len(norms) == 1 + 3 * 5
    assert all(norm.momentum == 0.9 and norm.train_bn is False for norm in norms)
    assert unet.get_layer("decoder_border_1_bn").train_bn is None

    image, targets, weights = random_batch(np.random.default_rng(3))
    maps, *values = outputs = outputs_of(network, [image, targets, weights])
    for i, value in enumerate(values):
        expected = loss_of(
            targets[..., i], maps[..., i], weights, focal_gamma=2.0, soft_iou_weight=0.25
        )
        assert value[0, 0] == pytest.approx(expected, rel=1e-4)
    total = float(to_numpy(network.compute_loss(y_pred=outputs)))
    foreground, border, interior = (value[0, 0] for value in values)
    assert total == pytest.approx(foreground + 3 * border + 0.5 * interior, rel=1e-5)


@pytest.mark.backend
def test_float32_maps_and_losses_under_mixed_precision():
    network = build_unet(unet_config(DTYPE_POLICY="mixed_bfloat16"), "training")
    assert network.get_layer("decoder_interior_1_conv").compute_dtype == "bfloat16"
    image, targets, weights = random_batch(np.random.default_rng(4))
    maps, *values = outputs_of(network, [image, targets, weights])
    assert all(output.dtype == np.float32 for output in [maps, *values])
    # bfloat16 would keep two or three digits.
    assert values[1][0, 0] == pytest.approx(
        loss_of(targets[..., 1], maps[..., 1], weights), rel=1e-5
    )


# The encoder that both networks have


@pytest.mark.parametrize("direction", ["from the detector", "to the detector"])
def test_encoder_weights_start_the_other_network(unet, detector, tmp_path, direction):
    source, target = (detector, unet) if direction == "from the detector" else (unet, detector)
    path = tmp_path / "weights.h5"
    save_weights(source, path)
    before = values_of(target)
    report = load_weights(target, path)
    encoder = {name for name in before if re.match(r"(conv1|bn_conv1|res|bn)", name)}
    assert len(encoder) == 5 * (2 + 4)
    assert set(report.loaded) == encoder and len(report.loaded) == len(encoder)
    assert report.mismatched == []
    assert set(report.missing) == set(before) - encoder
    assert not encoder & set(report.unused)
    given, after = values_of(source), values_of(target)
    for name in before:
        np.testing.assert_array_equal(after[name], (given if name in encoder else before)[name])


@pytest.mark.backend
def test_weights_saved_in_training_serve_inference(unet, tmp_path):
    path = tmp_path / "weights.h5"
    save_weights(unet, path)
    keras.utils.set_random_seed(5)
    network = build_unet(unet_config())
    image, targets, weights = random_batch(np.random.default_rng(5))
    expected = outputs_of(unet, [image, targets, weights])[0]
    assert not np.allclose(maps_of(network, image), expected, atol=1e-2)
    report = load_weights(network, path)
    assert report.missing == report.unused == report.mismatched == []
    np.testing.assert_allclose(maps_of(network, image), expected, atol=1e-6)


@pytest.mark.slow
def test_learns_one_tile():
    keras.utils.set_random_seed(0)
    image, labels = draw_tile(64, np.random.default_rng(0), nuclei=10)
    batch = {
        "input_image": ((image - image.mean()) / image.std()).astype("float32")[None],
        "input_maps": make_targets(labels)[None],
        "input_weights": np.ones((1, 64, 64), "float32"),
    }
    assert batch["input_maps"].mean(axis=(0, 1, 2)).min() > 0  # each map has something to learn
    network = build_unet(unet_config(), "training")
    network.compile(optimizer=keras.optimizers.Adam(0.01))
    losses = [network.train_on_batch(batch, return_dict=True) for _ in range(60)]
    for name in LOSS_NAMES:
        assert losses[-1][name] < 0.5 * losses[0][name], name
    assert losses[-1]["loss"] < 0.4 * losses[0]["loss"]
