"""Which proposals train the heads, and towards what."""

import keras
import numpy as np
from keras import ops

from mrcnn.box_ops import box_refinement_graph, overlaps_graph
from mrcnn.precision import Float32Layer
from mrcnn.roi_align import align


class DetectionTargetLayer(Float32Layer):
    """Sample proposals for training and attach their targets.

    Parameters
    ----------
    config : Config
        TRAIN_ROIS_PER_IMAGE (R below), ROI_POSITIVE_RATIO, BBOX_STD_DEV, MASK_SHAPE and
        USE_MINI_MASK count.

    Notes
    -----
    Inputs are proposals [B, N, 4] and the ground truth: class ids [B, G] (0: padding, negative: a
    crowd), boxes [B, G, 4], both kinds of boxes normalised, and masks [B, height, width, G].
    Outputs are, positives first, then negatives, then zeros: ROIs [B, R, 4], class ids [B, R],
    deltas [B, R, 4] and masks [B, R, *MASK_SHAPE]. No gradient passes.
    """

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.seed_generator = keras.random.SeedGenerator(config.SEED)

    def get_config(self):
        return super().get_config()

    def call(self, inputs):
        proposals = inputs[0]
        shape = (ops.shape(proposals)[0], _padded_count(proposals, self.config))
        draws = keras.random.uniform(shape, seed=self.seed_generator)
        return detection_targets(*inputs, self.config, draws)

    def compute_output_spec(self, inputs):
        batch, rois = inputs[0].shape[0], self.config.TRAIN_ROIS_PER_IMAGE
        return (
            keras.KerasTensor((batch, rois, 4), "float32"),
            keras.KerasTensor((batch, rois), "int32"),
            keras.KerasTensor((batch, rois, 4), "float32"),
            keras.KerasTensor((batch, rois, *self.config.MASK_SHAPE), "float32"),
        )


def positive_limit(config):
    """The most positive ROIs that an image may have in training."""
    return int(config.TRAIN_ROIS_PER_IMAGE * config.ROI_POSITIVE_RATIO)


def detection_targets_graph(proposals, gt_class_ids, gt_boxes, gt_masks, config):
    """The targets of one image; see `DetectionTargetLayer`, whose shapes lack the batch axis here.

    Returns
    -------
    rois, class_ids, deltas, masks : tensors
    """
    draws = keras.random.uniform((1, _padded_count(proposals[None], config)))
    inputs = (x[None] for x in (proposals, gt_class_ids, gt_boxes, gt_masks))
    return tuple(x[0] for x in detection_targets(*inputs, config, draws))


def detection_targets(proposals, gt_class_ids, gt_boxes, gt_masks, config, draws):
    """As `DetectionTargetLayer`, with the random numbers that rank the proposals given.

    Parameters
    ----------
    proposals, gt_class_ids, gt_boxes, gt_masks : tensors
        See `DetectionTargetLayer`.
    config : Config
    draws : float32 tensor [B, max(N, R)]
        In [0, 1); of the proposals that could be taken, those with the highest are.

    Returns
    -------
    rois, class_ids, deltas, masks : tensors
    """
    proposals = ops.stop_gradient(proposals)
    gt_boxes = ops.stop_gradient(ops.cast(gt_boxes, "float32"))
    gt_class_ids = ops.cast(gt_class_ids, "int32")
    padding = _padded_count(proposals, config) - proposals.shape[1]
    proposals = ops.pad(proposals, [[0, 0], [0, padding], [0, 0]])

    overlaps = overlaps_graph(proposals, gt_boxes)
    objects = ops.where((gt_class_ids > 0)[:, None], overlaps, -1.0)
    crowds = ops.where((gt_class_ids < 0)[:, None], overlaps, -1.0)
    best = ops.max(objects, axis=-1)
    real = ops.any(proposals != 0, axis=-1)
    positive = ops.logical_and(real, best >= 0.5)
    negative = ops.logical_and(real, best < 0.5)
    negative = ops.logical_and(negative, ops.max(crowds, axis=-1) < 0.001)

    matched = ops.cast(ops.argmax(objects, axis=-1), "int32")
    empty = ops.logical_not(ops.any(gt_class_ids > 0, axis=-1))
    rois, matched, is_positive = _sample(
        proposals, matched, positive, negative, empty, draws, config
    )
    boxes = ops.take_along_axis(gt_boxes, matched[..., None], axis=1)
    class_ids = ops.where(is_positive, ops.take_along_axis(gt_class_ids, matched, axis=1), 0)
    deviation = ops.convert_to_tensor(config.BBOX_STD_DEV, "float32")
    deltas = box_refinement_graph(rois, boxes) / deviation
    deltas = ops.where(is_positive[..., None], deltas, 0.0)
    frames = _relative(rois, boxes) if config.USE_MINI_MASK else rois
    masks = _crop_masks(gt_masks, frames, matched, config.MASK_SHAPE)
    masks = ops.where(is_positive[..., None, None], masks, 0.0)
    return tuple(ops.stop_gradient(x) for x in (rois, class_ids, deltas, masks))


def _padded_count(proposals, config):
    return max(proposals.shape[1], config.TRAIN_ROIS_PER_IMAGE)


def _sample(proposals, matched, positive, negative, empty, draws, config):
    """Pick positives and negatives by their draws, positives first: ROIs, matches, positive?"""
    total = config.TRAIN_ROIS_PER_IMAGE
    most_positive = positive_limit(config)
    picked_positive, chosen_positive = _highest(draws, positive, most_positive)
    picked_negative, chosen_negative = _highest(draws, negative, total - most_positive)
    positives = ops.sum(ops.cast(picked_positive, "int32"), axis=-1)
    # A table, because a float quotient may round differently from backend to backend.
    ratio = np.float32(1.0 / config.ROI_POSITIVE_RATIO)
    wanted = [int(ratio * np.float32(n)) - n for n in range(most_positive + 1)]
    wanted = ops.take(ops.convert_to_tensor(wanted, dtype="int32"), positives)
    # No object, no positive, and by the ratio no negative: but such an image is all background.
    wanted = ops.where(empty, total - most_positive, wanted)
    rank = ops.arange(total - most_positive, dtype="int32")[None]
    picked_negative = ops.logical_and(picked_negative, rank < wanted[:, None])

    picked = ops.concatenate([picked_positive, picked_negative], axis=1)
    chosen = ops.concatenate([chosen_positive, chosen_negative], axis=1)
    # Close the gap that missing positives leave, in place order.
    place = ops.where(picked, 0, total) + ops.arange(total, dtype="int32")[None]
    order = ops.cast(ops.argsort(place, axis=-1), "int32")
    picked = ops.take_along_axis(picked, order, axis=1)
    chosen = ops.take_along_axis(chosen, order, axis=1)
    rois = ops.take_along_axis(proposals, chosen[..., None], axis=1)
    rois = ops.where(picked[..., None], rois, 0.0)
    is_positive = ops.arange(total, dtype="int32")[None] < positives[:, None]
    return rois, ops.take_along_axis(matched, chosen, axis=1), is_positive


def _highest(draws, eligible, count):
    values, indices = ops.top_k(ops.where(eligible, draws, -1.0), count)
    return values >= 0, ops.cast(indices, "int32")


def _relative(rois, boxes):
    """ROIs in the coordinates of their ground-truth box, which a mini-mask fills."""
    y1, x1, y2, x2 = (boxes[..., i] for i in range(4))
    height, width = ops.maximum(y2 - y1, 1e-7), ops.maximum(x2 - x1, 1e-7)
    origin = ops.stack([y1, x1, y1, x1], axis=-1)
    return (rois - origin) / ops.stack([height, width, height, width], axis=-1)


def _crop_masks(masks, frames, matched, shape):
    """Sample each ROI's mask from that of its object: {0, 1} in float32, [B, R, *shape]."""
    height, width, count = masks.shape[1:]
    # As a pyramid of one level whose "images" are the masks, each seen by one ROI.
    stack = ops.reshape(ops.transpose(masks, (0, 3, 1, 2)), (-1, height * width))
    image = ops.arange(ops.shape(matched)[0], dtype="int32")[:, None]
    chosen = ops.take(stack, ops.reshape(matched + image * count, (-1,)), axis=0)
    chosen = ops.reshape(ops.cast(chosen, "float32"), (-1, height, width, 1))
    levels = ops.zeros_like(ops.reshape(matched, (-1, 1)))
    sampled = align(ops.reshape(frames, (-1, 1, 4)), levels, [chosen], shape)
    return ops.round(ops.reshape(sampled, (-1, matched.shape[1], *shape)))
