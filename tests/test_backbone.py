"""Batch normalisation that can be frozen, and the maps of the ResNet."""

import numpy as np
import pytest
from helpers import to_numpy
from keras import layers

from mrcnn.backbone import BatchNorm, resnet_graph

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
