"""The five losses of Mask R-CNN (He et al. 2017; Girshick 2015 for the smooth L1), and L2.

The masks have two to choose from. Each loss is a scalar, and 0 where nothing takes part in it.
"""

import numpy as np
from keras import ops

from mrcnn.precision import Float32Layer

LOSS_NAMES = (
    "rpn_class_loss",
    "rpn_bbox_loss",
    "mrcnn_class_loss",
    "mrcnn_bbox_loss",
    "mrcnn_mask_loss",
)


class Loss(Float32Layer):
    """A loss function as a named layer, so that its value can be asked for by name.

    Parameters
    ----------
    function : callable
        (*inputs) -> scalar tensor.

    Notes
    -----
    The output is [1, 1].
    """

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, inputs):
        return ops.reshape(self.function(*inputs), (1, 1))

    def compute_output_shape(self, input_shape):
        return (1, 1)


def smooth_l1_loss(y_true, y_pred):
    """Squared below a difference of 1, linear above; elementwise, any shape."""
    difference = ops.abs(y_true - y_pred)
    return ops.where(difference < 1.0, 0.5 * ops.square(difference), difference - 0.5)


def rpn_class_loss_graph(rpn_match, rpn_class_logits):
    """Cross-entropy of the anchors that are object or background.

    Parameters
    ----------
    rpn_match : int tensor [B, A, 1]
        1: object, -1: background, 0: not used.
    rpn_class_logits : float32 tensor [B, A, 2]

    Returns
    -------
    float32 scalar
    """
    match = rpn_match[..., 0]
    entropy = _cross_entropy(ops.cast(match == 1, "int32"), rpn_class_logits)
    return _mean_over(entropy, match != 0)


def rpn_bbox_loss_graph(config, target_bbox, rpn_match, rpn_bbox):
    """Smooth L1 between the deltas of positive anchors and their targets.

    Parameters
    ----------
    config : Config
        Not used; Matterport's signature has it.
    target_bbox : float32 tensor [B, T, 4]
        Those of each image's positive anchors, in the anchors' order, then zeros.
    rpn_match : int tensor [B, A, 1]
    rpn_bbox : float32 tensor [B, A, 4]

    Returns
    -------
    float32 scalar
    """
    positive = rpn_match[..., 0] == 1
    rank = ops.cumsum(ops.cast(positive, "int32"), axis=1) - 1
    rank = ops.clip(rank, 0, target_bbox.shape[1] - 1)
    targets = ops.take_along_axis(ops.cast(target_bbox, "float32"), rank[..., None], axis=1)
    return _mean_over(ops.mean(smooth_l1_loss(targets, rpn_bbox), axis=-1), positive)


def mrcnn_class_loss_graph(target_class_ids, pred_class_logits, active_class_ids):
    """Cross-entropy of the ROIs whose predicted class exists in the image's data set.

    Parameters
    ----------
    target_class_ids : int tensor [B, R]
        Padding counts as background.
    pred_class_logits : float32 tensor [B, R, classes]
    active_class_ids : tensor [B, classes]
        1 for the classes that the data set of an image has; the first image's are used for all.

    Returns
    -------
    float32 scalar
    """
    entropy = _cross_entropy(ops.cast(target_class_ids, "int32"), pred_class_logits)
    predicted = ops.argmax(pred_class_logits, axis=-1)
    return _mean_over(entropy, ops.take(active_class_ids[0], predicted, axis=0))


def mrcnn_bbox_loss_graph(target_bbox, target_class_ids, pred_bbox):
    """Smooth L1 between the deltas of positive ROIs, for their class, and their targets.

    Parameters
    ----------
    target_bbox : float32 tensor [B, R, 4]
    target_class_ids : int tensor [B, R]
    pred_bbox : float32 tensor [B, R, classes, 4]

    Returns
    -------
    float32 scalar
    """
    class_ids = ops.cast(target_class_ids, "int32")
    predicted = ops.take_along_axis(pred_bbox, class_ids[..., None, None], axis=2)[:, :, 0]
    difference = ops.mean(smooth_l1_loss(target_bbox, predicted), axis=-1)
    return _mean_over(difference, class_ids > 0)


def mrcnn_mask_loss_graph(target_masks, target_class_ids, pred_masks):
    """Binary cross-entropy of positive ROIs' masks, for their class.

    Parameters
    ----------
    target_masks : float32 tensor [B, R, height, width]
        {0, 1}.
    target_class_ids : int tensor [B, R]
    pred_masks : float32 tensor [B, R, height, width, classes]
        Probabilities.

    Returns
    -------
    float32 scalar
    """
    predicted = _of_class(pred_masks, target_class_ids)
    # As Keras 2 computed it on TensorFlow: clipped, and kept off zero once more in the logarithm.
    epsilon = 1e-7
    predicted = ops.clip(predicted, epsilon, 1.0 - epsilon)
    inside = target_masks * ops.log(predicted + epsilon)
    outside = (1.0 - target_masks) * ops.log(1.0 - predicted + epsilon)
    entropy = -(inside + outside)
    return _mean_over(ops.mean(entropy, axis=(-2, -1)), target_class_ids > 0)


def mrcnn_mask_dice_loss_graph(target_masks, target_class_ids, pred_masks):
    """One minus the Dice coefficient of positive ROIs' masks, for their class.

    The coefficient of an ROI is (2 sum(p g) + 1) / (sum(p) + sum(g) + 1) over its pixels, with
    probabilities p and truth g; the ones keep it defined where a mask is empty (Milletari et al.
    2016, "V-Net", without their squares).

    Parameters are those of `mrcnn_mask_loss_graph`.

    Returns
    -------
    float32 scalar
    """
    predicted = ops.cast(_of_class(pred_masks, target_class_ids), "float32")
    shared = ops.sum(predicted * target_masks, axis=(-2, -1))
    total = ops.sum(predicted, axis=(-2, -1)) + ops.sum(target_masks, axis=(-2, -1))
    return _mean_over(1.0 - (2.0 * shared + 1.0) / (total + 1.0), target_class_ids > 0)


MASK_LOSSES = {"bce": mrcnn_mask_loss_graph, "dice": mrcnn_mask_dice_loss_graph}
"""By `Config.MASK_LOSS`."""


def weight_decay(weights, rate):
    """L2 regularisation, each tensor's divided by its size; batch norm's are left out.

    Parameters
    ----------
    weights : list of keras.Variable
    rate : float

    Returns
    -------
    float32 scalar
    """
    total = ops.zeros(())
    for weight in weights:
        if "gamma" not in weight.path and "beta" not in weight.path:
            size = int(np.prod(weight.shape))
            total = total + rate * ops.sum(ops.square(ops.cast(weight, "float32"))) / size
    return total


def _of_class(pred_masks, class_ids):
    """The mask of each ROI's class: [B, R, height, width, classes] to [B, R, height, width]."""
    class_ids = ops.cast(class_ids, "int32")
    channel = ops.one_hot(class_ids, pred_masks.shape[-1], dtype=pred_masks.dtype)
    return ops.sum(pred_masks * channel[:, :, None, None], axis=-1)


def _cross_entropy(class_ids, logits):
    log_probabilities = ops.log_softmax(logits, axis=-1)
    return -ops.take_along_axis(log_probabilities, class_ids[..., None], axis=-1)[..., 0]


def _mean_over(values, weights):
    weights = ops.cast(weights, "float32")
    total = ops.sum(weights)
    return ops.sum(values * weights) / ops.where(total > 0, total, 1.0)
