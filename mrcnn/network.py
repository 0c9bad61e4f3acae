"""The Keras model: stages composed for training and for inference."""

from pathlib import Path

import keras
from keras import layers, ops

from mrcnn import backend, losses
from mrcnn.anchors import pyramid_anchors
from mrcnn.backbone import build_backbone, normalization, set_batch_norm_momentum
from mrcnn.box_ops import norm_boxes_graph
from mrcnn.boxes import norm_boxes
from mrcnn.detection import DetectionLayer
from mrcnn.errors import InputError
from mrcnn.heads import build_fpn_mask_graph, fpn_classifier_graph
from mrcnn.image_meta import parse_image_meta_graph
from mrcnn.precision import Float32Layer, dtype_policy
from mrcnn.pyramid import build_pyramid
from mrcnn.rpn import ProposalLayer, build_rpn_model
from mrcnn.targets import DetectionTargetLayer, positive_limit
from mrcnn.weights import load_weights, save_weights


class Network(keras.Model):
    """A functional model whose last outputs are its losses, when it was built for training.

    Parameters
    ----------
    inputs, outputs : list of KerasTensor
    config : Config
        LOSS_WEIGHTS and WEIGHT_DECAY count.
    loss_names : sequence of str
        Of the last outputs.
    """

    def __init__(self, inputs, outputs, config, loss_names=losses.LOSS_NAMES, **kwargs):
        super().__init__(inputs=inputs, outputs=outputs, **kwargs)
        self.weight_decay = config.WEIGHT_DECAY
        self.loss_weights = [config.LOSS_WEIGHTS.get(name, 1.0) for name in loss_names]
        self.loss_means = [keras.metrics.Mean(name=name) for name in loss_names]

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True, **kwargs
    ):
        total = losses.weight_decay(self.trainable_variables, self.weight_decay)
        values = y_pred[-len(self.loss_means) :]
        for value, weight, mean in zip(values, self.loss_weights, self.loss_means):
            value = value[0, 0]
            mean.update_state(value)
            total = total + weight * value
        return backend.scale_loss(total)

    def save_weights(self, filepath, overwrite=True):
        """Save all weights, in Matterport's layout whatever the name of the file.

        Parameters
        ----------
        filepath : str or Path
        overwrite : bool
            Whether a file of this name may go.
        """
        if not overwrite and Path(filepath).exists():
            raise InputError(f"{filepath}: is there already; choose another name")
        save_weights(self, filepath)

    def load_weights(self, filepath, by_name=False, skip_mismatch=False):
        """Load weights by layer and weight name, from what `save_weights` or Matterport wrote.

        Parameters
        ----------
        filepath : str or Path
        by_name : bool
            Whether the file may lack weights of this network, which then stay as they are.
        skip_mismatch : bool
            Whether weights of another shape stay as they are.

        Returns
        -------
        mrcnn.weights.LoadReport

        Raises
        ------
        InputError
            If the file is not readable, lacks a weight, or has one of another shape.
        """
        report = load_weights(self, filepath)
        for unfit, allowed, reason, option in (
            (report.mismatched, skip_mismatch, "has another shape in it", "skip_mismatch"),
            (report.missing, by_name, "is not in it", "by_name"),
        ):
            if unfit and not allowed:
                raise InputError(
                    f"{filepath}: {unfit[0]} {reason} ({report}): give weights of the same "
                    f"architecture, or {option}=True"
                )
        return report

    def _maybe_symbolic_build(self, *args, **kwargs):
        """All is built. Keras would use up batches, and fail on the mean of bools over replicas."""


class NormalizeBoxes(Float32Layer):
    """Pixel boxes [B, N, 4] to normalised ones, given the images [B, H, W, C] they lie in."""

    def call(self, inputs):
        boxes, images = inputs
        return norm_boxes_graph(boxes, ops.shape(images)[1:3])

    def compute_output_shape(self, input_shape):
        return input_shape[0]


class Anchors(Float32Layer):
    """The anchors of a training image, normalised, [B, A, 4].

    Parameters
    ----------
    config : Config
        IMAGE_SHAPE and the anchors' settings count.
    """

    def __init__(self, config, **kwargs):
        super().__init__(**kwargs)
        shape = tuple(config.IMAGE_SHAPE[:2])
        self.anchors = norm_boxes(pyramid_anchors(config, shape), shape).astype("float32")

    def call(self, images):
        shape = (ops.shape(images)[0], *self.anchors.shape)
        return ops.broadcast_to(ops.convert_to_tensor(self.anchors)[None], shape)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.anchors.shape)


def build_network(mode, config):
    """Build the network of a Config.

    Parameters
    ----------
    mode : {"training", "inference"}
    config : Config

    Returns
    -------
    Network
        Inputs and outputs are Matterport's, in its order: see `_training` and `_inference`.
    """
    with normalization(config.NORMALIZATION), dtype_policy(config.DTYPE_POLICY):
        network = _build(mode, config)
    set_batch_norm_momentum(network, config.BATCH_NORM_MOMENTUM)
    return network


def _build(mode, config):
    image = layers.Input((None, None, config.IMAGE_CHANNEL_COUNT), name="input_image")
    meta = layers.Input((config.IMAGE_META_SIZE,), name="input_image_meta")
    _, *stages = build_backbone(image, config)
    pyramid = build_pyramid(stages, config.TOP_DOWN_PYRAMID_SIZE)
    rpn = build_rpn_model(
        config.RPN_ANCHOR_STRIDE,
        len(config.RPN_ANCHOR_RATIOS),
        config.TOP_DOWN_PYRAMID_SIZE,
        config.RPN_CHANNELS,
        sampled=mode == "training" and backend.has_dynamic_shapes(config.JIT_COMPILE),
    )
    by_level = [rpn(level) for level in pyramid]
    names = ("rpn_class_logits", "rpn_class", "rpn_bbox")
    rpn_outputs = [
        layers.Concatenate(axis=1, name=name, dtype="float32")(list(outputs))
        for name, outputs in zip(names, zip(*by_level))
    ]
    build = {"training": _training, "inference": _inference}[mode]
    return build(image, meta, pyramid[:4], rpn_outputs, config)


def _training(image, meta, pyramid, rpn_outputs, config):
    """Inputs: image, meta, anchors' matches and deltas, objects' classes, boxes and masks."""
    mask_shape = config.MINI_MASK_SHAPE if config.USE_MINI_MASK else config.IMAGE_SHAPE[:2]
    objects = config.MAX_GT_INSTANCES
    rpn_match = layers.Input((None, 1), name="input_rpn_match", dtype="int32")
    rpn_bbox = layers.Input((None, 4), name="input_rpn_bbox")
    gt_class_ids = layers.Input((objects,), name="input_gt_class_ids", dtype="int32")
    gt_boxes = layers.Input((objects, 4), name="input_gt_boxes")
    gt_masks = layers.Input((*map(int, mask_shape), objects), name="input_gt_masks", dtype="bool")
    inputs = [image, meta, rpn_match, rpn_bbox, gt_class_ids, gt_boxes, gt_masks]

    rpn_logits, rpn_class, rpn_deltas = rpn_outputs
    anchors = Anchors(config, name="anchors")(image)
    proposals = ProposalLayer(
        config.POST_NMS_ROIS_TRAINING, config.RPN_NMS_THRESHOLD, config=config, name="ROI"
    )([rpn_class, rpn_deltas, anchors])
    target_rois = proposals
    if not config.USE_RPN_ROIS:
        given = layers.Input((config.POST_NMS_ROIS_TRAINING, 4), name="input_roi")
        target_rois = NormalizeBoxes(name="normalized_rois")([given, image])
        inputs.append(given)

    normalized = NormalizeBoxes(name="normalized_gt_boxes")([gt_boxes, image])
    rois, class_ids, deltas, masks = DetectionTargetLayer(config, name="proposal_targets")(
        [target_rois, gt_class_ids, normalized, gt_masks]
    )
    logits, probabilities, refinements = _classify(rois, pyramid, meta, config)
    # Positives come first, and only they have a mask to learn.
    positive = positive_limit(config)
    predicted_masks = _draw_masks(
        rois[:, :positive],
        class_ids[:, :positive],
        pyramid,
        meta,
        config,
        training=True,
    )

    active = parse_image_meta_graph(meta)["active_class_ids"]
    named = {
        "rpn_class_loss": (losses.rpn_class_loss_graph, [rpn_match, rpn_logits]),
        "rpn_bbox_loss": (_rpn_bbox_loss, [rpn_bbox, rpn_match, rpn_deltas]),
        "mrcnn_class_loss": (losses.mrcnn_class_loss_graph, [class_ids, logits, active]),
        "mrcnn_bbox_loss": (losses.mrcnn_bbox_loss_graph, [deltas, class_ids, refinements]),
        "mrcnn_mask_loss": (
            losses.MASK_LOSSES[config.MASK_LOSS],
            [masks[:, :positive], class_ids[:, :positive], predicted_masks],
        ),
    }
    outputs = [*rpn_outputs, logits, probabilities, refinements, predicted_masks, proposals]
    outputs.append(layers.Identity(dtype="float32", name="output_rois")(rois))
    outputs += [
        losses.Loss(function, name=name)(operands) for name, (function, operands) in named.items()
    ]
    return Network(inputs, outputs, config, name="mask_rcnn")


def _rpn_bbox_loss(target_bbox, rpn_match, rpn_bbox):
    return losses.rpn_bbox_loss_graph(None, target_bbox, rpn_match, rpn_bbox)


def _inference(image, meta, pyramid, rpn_outputs, config):
    """Inputs: image, meta, normalised anchors. Outputs start with detections and end with RPN's."""
    anchors = layers.Input((None, 4), name="input_anchors")
    rpn_logits, rpn_class, rpn_deltas = rpn_outputs
    rois = ProposalLayer(
        config.POST_NMS_ROIS_INFERENCE, config.RPN_NMS_THRESHOLD, config=config, name="ROI"
    )([rpn_class, rpn_deltas, anchors])
    _, probabilities, deltas = _classify(rois, pyramid, meta, config)
    detections = DetectionLayer(config, name="mrcnn_detection")([rois, probabilities, deltas, meta])
    masks = _draw_masks(
        detections[..., :4], detections[..., 4], pyramid, meta, config, training=False
    )
    outputs = [detections, probabilities, deltas, masks, rois, rpn_class, rpn_deltas]
    return Network([image, meta, anchors], outputs, config, name="mask_rcnn")


def _classify(rois, pyramid, meta, config):
    return fpn_classifier_graph(
        rois,
        pyramid,
        meta,
        config.POOL_SIZE,
        config.NUM_CLASSES,
        train_bn=config.TRAIN_BN,
        fc_layers_size=config.FPN_CLASSIF_FC_LAYERS_SIZE,
    )


def _draw_masks(rois, class_ids, pyramid, meta, config, training):
    """Masks of ROIs, drawn into positive ones only where that does not change them."""
    by_batch = config.TRAIN_BN if config.TRAIN_BN is not None else training
    mixed = config.NORMALIZATION == "batch" and by_batch  # by the statistics of all ROIs
    trimmed = not mixed and backend.has_dynamic_shapes(config.JIT_COMPILE)
    return build_fpn_mask_graph(
        rois,
        pyramid,
        meta,
        config.MASK_POOL_SIZE,
        config.NUM_CLASSES,
        train_bn=config.TRAIN_BN,
        channels=config.FPN_MASK_CHANNELS,
        class_ids=class_ids if trimmed else None,
    )
