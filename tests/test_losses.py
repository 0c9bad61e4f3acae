"""The losses, against the port of Matterport's and by hand."""

import keras
import numpy as np
import pytest
from helpers import assert_close, golden_arrays, to_numpy, unpack
from keras import ops

from mrcnn.losses import (
    Loss,
    mrcnn_bbox_loss_graph,
    mrcnn_class_loss_graph,
    mrcnn_mask_loss_graph,
    rpn_bbox_loss_graph,
    rpn_class_loss_graph,
    smooth_l1_loss,
    weight_decay,
)

pytestmark = pytest.mark.backend

GOLDEN = golden_arrays("layers")
MATCH = GOLDEN["ls_rpn_match"]
IDS = GOLDEN["lm_ids"]
MASKS = unpack({"mask": GOLDEN["lm_target_mask"], "mask_shape": (2, 10, 28, 28)}, "mask")


def value(function, *inputs):
    return float(to_numpy(function(*[ops.convert_to_tensor(np.asarray(x)) for x in inputs])))


def rpn_bbox_loss(match, target, deltas):
    return rpn_bbox_loss_graph(None, target, match, deltas)


@pytest.mark.parametrize(
    ("function", "inputs", "key"),
    [
        (rpn_class_loss_graph, (MATCH, "ls_rpn_logits"), "ls_rpn_class"),
        (rpn_bbox_loss, (MATCH, "ls_rpn_target_bbox", "ls_rpn_bbox"), "ls_rpn_bbox_out"),
        # Every class is in the images' data set, or class 2 is not.
        (mrcnn_class_loss_graph, (IDS, "lm_logits", [[1.0] * 3] * 2), "lm_class_all"),
        (mrcnn_class_loss_graph, (IDS, "lm_logits", [[1.0, 1, 0]] * 2), "lm_class_active110"),
        (mrcnn_bbox_loss_graph, ("lm_target_bbox", IDS, "lm_bbox"), "lm_bbox_out"),
        # The probabilities hold zeros and ones.
        (mrcnn_mask_loss_graph, (MASKS.astype("float32"), IDS, "lm_mask"), "lm_mask_out"),
        # Nothing takes part.
        (rpn_class_loss_graph, (0 * MATCH, "ls_rpn_logits"), "ls_rpn_class_none"),
        (rpn_bbox_loss, (0 * MATCH, "ls_rpn_target_bbox", "ls_rpn_bbox"), "ls_rpn_bbox_none"),
        (mrcnn_bbox_loss_graph, ("lm_target_bbox", 0 * IDS, "lm_bbox"), "lm_bbox_none"),
        (mrcnn_mask_loss_graph, (MASKS.astype("float32"), 0 * IDS, "lm_mask"), "lm_mask_none"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_golden(function, inputs, key):
    inputs = [GOLDEN[x] if isinstance(x, str) else x for x in inputs]
    assert value(function, *inputs) == pytest.approx(GOLDEN[key], rel=1e-6, abs=0)


def test_golden_smooth_l1():
    found = smooth_l1_loss(*(ops.convert_to_tensor(GOLDEN[f"sl_{x}"]) for x in ("true", "pred")))
    assert_close(found, GOLDEN["sl_out"], 1e-6)


@pytest.mark.parametrize(("difference", "loss"), [(0, 0), (0.5, 0.125), (1, 0.5), (-3, 2.5)])
def test_smooth_l1_by_hand(difference, loss):
    assert value(smooth_l1_loss, 1.0, 1.0 + difference) == pytest.approx(loss)


def test_a_class_loss_without_any_active_class_is_zero():
    assert value(mrcnn_class_loss_graph, IDS, GOLDEN["lm_logits"], [[0.0] * 3] * 2) == 0


def test_targets_of_the_rpn_belong_to_the_positive_anchors_in_order():
    # Positive are anchors 1 and 3 of the first image, and anchor 0 of the second.
    match = np.array([[0, 1, -1, 1], [1, -1, -1, 0]])[..., None]
    targets = np.array([[[1] * 4, [2] * 4, [9] * 4], [[3] * 4, [9] * 4, [9] * 4]], np.float32)
    deltas = np.full((2, 4, 4), 7, np.float32)
    deltas[0, 1], deltas[0, 3], deltas[1, 0] = 1, 2, 3
    assert value(rpn_bbox_loss, match, targets, deltas) == 0
    deltas[1, 0] = 5
    assert value(rpn_bbox_loss, match, targets, deltas) == pytest.approx(1.5 / 3)


def test_masks_that_are_certain_have_a_finite_loss():
    wrong = np.zeros((1, 1, 2, 2, 2), np.float32)
    loss = value(mrcnn_mask_loss_graph, np.ones((1, 1, 2, 2), np.float32), [[1]], wrong)
    assert loss == pytest.approx(-np.log(2e-7), rel=1e-5)


def test_weight_decay_by_hand():
    def variable(values, name):
        return keras.Variable(np.array(values, np.float32), name=name)

    weights = [
        variable([[1, 2], [3, 4]], "kernel"),  # 30 / 4
        variable([3, 5], "bias"),  # 34 / 2
        variable([100], "gamma"),
        variable([100], "beta"),
    ]
    assert float(to_numpy(weight_decay(weights, 0.1))) == pytest.approx(0.1 * (7.5 + 17))
    assert float(to_numpy(weight_decay([], 0.1))) == 0


def test_loss_layer():
    layer = Loss(lambda a, b: ops.sum(a * b), name="product")
    assert to_numpy(layer([np.ones((2, 3)), np.full((2, 3), 2.0)])).tolist() == [[12]]
