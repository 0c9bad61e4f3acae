"""Region proposals, against the port of Matterport's."""

import keras
import numpy as np
import pytest
from backends import gradients
from helpers import assert_close, golden_arrays, tiny_config, to_numpy
from keras import layers, ops

from mrcnn.rpn import ProposalLayer, SampledConv2D, build_rpn_model

pytestmark = pytest.mark.backend

GOLDEN = golden_arrays("layers")


def propose(probabilities, deltas, anchors, count, threshold=0.7, **settings):
    layer = ProposalLayer(count, threshold, config=tiny_config(**settings))
    return to_numpy(layer([probabilities, deltas, anchors]))


@pytest.mark.parametrize(("count", "threshold"), [(50, 0.7), (150, 0.5)])
def test_golden_proposals(count, threshold):
    # Of 200 anchors the best 120 take part; at threshold 0.5 fewer than 150 remain.
    inputs = [GOLDEN[f"pl_{name}"] for name in ("probs", "deltas", "anchors")]
    proposals = propose(*inputs, count, threshold, PRE_NMS_LIMIT=120)
    expected = GOLDEN[f"pl_out_{count}_{threshold}"]
    assert_close(proposals, expected, 1e-6)
    np.testing.assert_array_equal((proposals == 0).all(-1), (expected == 0).all(-1))


def test_proposals_are_sorted_clipped_and_padded():
    anchors = np.array([[[0, 0, 0.2, 0.2], [0.5, 0.5, 0.9, 0.9], [0.5, 0.5, 0.9, 0.91]]], "float32")
    deltas = np.zeros((1, 3, 4), "float32")
    deltas[0, 0, :2] = [-5, 10]  # in units of 0.1: up by half a height, right by one width
    scores = np.array([[[0.4, 0.6], [0.2, 0.8], [0.3, 0.7]]], "float32")
    proposals = propose(scores, deltas, anchors, 5)
    expected = [[0.5, 0.5, 0.9, 0.9], [0, 0.2, 0.1, 0.4], *[[0] * 4] * 3]
    np.testing.assert_allclose(proposals[0], expected, atol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
def test_outputs_follow_the_order_of_anchors(stride):
    # Each filter answers with its own number, so that the order of the outputs shows.
    model = build_rpn_model(stride, anchors_per_location=3, depth=4, channels=5)
    for layer in ("rpn_class_raw", "rpn_bbox_pred"):
        kernel, bias = model.get_layer(layer).weights
        kernel.assign(np.zeros(kernel.shape))
        bias.assign(np.arange(bias.shape[0]))
    logits, probabilities, deltas = to_numpy(model(ops.ones((2, 4, 6, 4))))
    places = (4 // stride) * (6 // stride)
    assert logits.shape == probabilities.shape == (2, places * 3, 2)
    np.testing.assert_array_equal(logits[1], np.tile(np.arange(6).reshape(3, 2), (places, 1)))
    np.testing.assert_array_equal(deltas[1], np.tile(np.arange(12).reshape(3, 4), (places, 1)))
    # The two logits of an anchor differ by 1: the second is "object".
    np.testing.assert_allclose(probabilities[..., 1], 1 / (1 + np.exp(-1)), atol=1e-6)


@pytest.mark.parametrize("size", [1, 3])
def test_training_at_sampled_places_has_the_gradients_of_the_whole_map(size):
    random = np.random.default_rng(0)
    upstream = random.normal(size=(2, 5, 7, 6)) * (random.random((2, 5, 7, 1)) < 0.2)
    upstream[0, 0, 0] = upstream[1, 4, 6] = 1  # corners
    x = keras.Variable(random.normal(size=(2, 5, 7, 4)))
    convolutions = [kind(6, size, padding="same") for kind in (layers.Conv2D, SampledConv2D)]
    for layer in convolutions:
        layer.build(x.shape)
    weights = random.normal(size=(size, size, 4, 6)), random.normal(size=6)

    def gradients_by(layer):
        layer.set_weights(weights)
        return gradients(
            lambda upstream: ops.sum(layer(x, training=True) * upstream),
            [x, *layer.trainable_variables],
            ops.cast(upstream, "float32"),
        )

    for whole, sampled in zip(*map(gradients_by, convolutions)):
        assert np.abs(whole).max() > 0
        assert_close(sampled, whole, 1e-5)
