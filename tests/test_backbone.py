"""Batch normalisation that can be frozen, and the maps of the ResNet."""

import keras
import numpy as np
import pytest
from helpers import to_numpy
from keras import layers

from mrcnn.backbone import BatchNorm, resnet_graph
from mrcnn.backend import normalize_batch, normalize_by

X = np.array([[0.0], [2.0], [4.0], [6.0]], np.float32)


@pytest.mark.parametrize(
    ("train_bn", "training", "by_batch"),
    [
        (False, True, False),
        (False, False, False),
        (True, True, True),
        (True, False, True),
        (None, True, True),
        (None, False, False),
    ],
)
def test_which_statistics_normalise(train_bn, training, by_batch):
    layer = BatchNorm(train_bn)
    layer.build(X.shape)
    layer.moving_mean.assign([1.0])
    layer.moving_variance.assign([4.0])
    found = to_numpy(layer(X, training=training))
    mean, variance = (3.0, 5.0) if by_batch else (1.0, 4.0)
    np.testing.assert_allclose(found, (X - mean) / np.sqrt(variance + 1e-3), rtol=1e-5)
    # Momentum 0.99: a hundredth of the way to the batch's mean.
    assert float(to_numpy(layer.moving_mean)[0]) == pytest.approx(1.02 if by_batch else 1.0)


def test_a_frozen_layer_still_has_scale_and_offset_to_train():
    layer = BatchNorm(train_bn=False)
    layer.build(X.shape)
    assert [weight.name for weight in layer.trainable_weights] == ["gamma", "beta"]


@pytest.mark.backend
@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (2, 3, 5, 4, 3)])
def test_given_statistics_normalise_images_and_rois(shape):
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape).astype(np.float32)
    mean, variance, scale, offset = rng.uniform(0.5, 2, (4, 3)).astype(np.float32)
    found = to_numpy(normalize_by(x, mean, variance, scale, offset, 1e-3))
    expected = (x - mean) / np.sqrt(variance + 1e-3) * scale + offset
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.backend
def test_statistics_of_bfloat16_are_summed_in_float32():
    rng = np.random.default_rng(0)
    x = keras.ops.cast(rng.normal(100, 3, (4, 16, 16, 3)).astype(np.float32), "bfloat16")
    exact = to_numpy(keras.ops.cast(x, "float32")).astype(np.float64)
    scale, offset = np.float32([0.5, 1, 2]), np.float32([0, 1, -1])
    found, mean, variance = normalize_batch(
        x, *map(keras.ops.convert_to_tensor, (scale, offset)), 1e-3
    )
    axes = (0, 1, 2)
    for statistic, expected in ((mean, exact.mean(axes)), (variance, exact.var(axes))):
        assert keras.backend.standardize_dtype(statistic.dtype) == "float32"
        np.testing.assert_allclose(to_numpy(statistic), expected, rtol=1e-4)
    expected = (exact - exact.mean(axes)) / np.sqrt(exact.var(axes) + 1e-3) * scale + offset
    found = to_numpy(keras.ops.cast(found, "float32"))
    np.testing.assert_allclose(found, expected, rtol=0.01, atol=0.01)


def test_without_scale_and_offset():
    layer = BatchNorm(train_bn=False, scale=False, center=False)
    np.testing.assert_allclose(to_numpy(layer(X)), X / np.sqrt(1 + 1e-3), rtol=1e-5)


def test_a_copy_is_frozen_too():
    layer = BatchNorm.from_config(BatchNorm(train_bn=False, name="bn").get_config())
    assert layer.train_bn is False


@pytest.mark.parametrize("stage5", [True, False])
def test_maps_of_the_resnet(stage5):
    image = layers.Input((128, 192, 3))
    maps = resnet_graph(image, "resnet50", stage5=stage5)
    channels = (64, 256, 512, 1024, 2048)
    shapes = [(None, 128 // s, 192 // s, c) for s, c in zip((4, 4, 8, 16, 32), channels)]
    assert [m.shape for m in maps[:4]] == shapes[:4]
    assert maps[4].shape == shapes[4] if stage5 else maps[4] is None
