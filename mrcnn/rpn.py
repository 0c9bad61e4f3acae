"""Region proposal network (Ren et al. 2015): where objects may be."""

import keras
import numpy as np
from keras import layers, ops

from mrcnn.backend import convolve_sampled, top_k
from mrcnn.box_ops import apply_box_deltas_graph, clip_boxes_graph
from mrcnn.nms import non_max_suppression
from mrcnn.precision import Float32Layer


class SampledConv2D(layers.Conv2D):
    """A convolution that is trained at sampled places only, see `mrcnn.backend.convolve_sampled`.

    Parameters
    ----------
    *args, **kwargs
        Of `keras.layers.Conv2D`, with strides of 1, padding "same" and a bias.
    """

    def call(self, inputs, training=None):
        if not training:
            return super().call(inputs)
        return self.activation(convolve_sampled(inputs, self.kernel) + self.bias)


def rpn_graph(feature_map, anchors_per_location, anchor_stride, channels=512, sampled=False):
    """Score and refine the anchors of one pyramid level.

    Parameters
    ----------
    feature_map : KerasTensor [B, H, W, C]
    anchors_per_location : int
    anchor_stride : int
        1: anchors at every pixel of the map; 2: at every second one.
    channels : int
        Of the shared convolution.
    sampled : bool
        Whether the losses see a few anchors of a map only, and sizes may depend on values, see
        `mrcnn.backend.has_dynamic_shapes`: training is faster then, with an `anchor_stride` of 1.

    Returns
    -------
    list of KerasTensor
        Class logits and probabilities (background, object), [B, anchors, 2], and deltas
        (dy, dx, log(dh), log(dw)), [B, anchors, 4].
    """
    convolution = SampledConv2D if sampled and anchor_stride == 1 else layers.Conv2D
    shared = convolution(
        channels,
        3,
        padding="same",
        strides=anchor_stride,
        activation="relu",
        name="rpn_conv_shared",
    )(feature_map)
    logits = layers.Conv2D(2 * anchors_per_location, 1, dtype="float32", name="rpn_class_raw")(
        shared
    )
    logits = layers.Reshape((-1, 2), dtype="float32")(logits)
    probabilities = layers.Activation("softmax", dtype="float32", name="rpn_class_xxx")(logits)
    deltas = layers.Conv2D(4 * anchors_per_location, 1, dtype="float32", name="rpn_bbox_pred")(
        shared
    )
    return [logits, probabilities, layers.Reshape((-1, 4), dtype="float32")(deltas)]


def build_rpn_model(anchor_stride, anchors_per_location, depth, channels=512, sampled=False):
    """The RPN as a model of its own, shared by all levels; see `rpn_graph`.

    Parameters
    ----------
    anchor_stride, anchors_per_location, channels : int
    depth : int
        Channels of the pyramid.
    sampled : bool

    Returns
    -------
    keras.Model
        Named `rpn_model`.
    """
    features = layers.Input((None, None, depth), name="input_rpn_feature_map")
    outputs = rpn_graph(features, anchors_per_location, anchor_stride, channels, sampled)
    return keras.Model(features, outputs, name="rpn_model")


class ProposalLayer(Float32Layer):
    """Turn scored anchors into proposals: refine the best, suppress the overlapping.

    Parameters
    ----------
    proposal_count : int
        Number of proposals an image; missing ones are 0.
    nms_threshold : float
    config : Config
        Its PRE_NMS_LIMIT and RPN_BBOX_STD_DEV count.

    Notes
    -----
    Inputs are the RPN's probabilities [B, A, 2] and deltas [B, A, 4] and the normalised anchors
    [B, A, 4]; the output is [B, proposal_count, 4], normalised, best first.
    """

    def __init__(self, proposal_count, nms_threshold, config=None, **kwargs):
        super().__init__(**kwargs)
        self.proposal_count = proposal_count
        self.nms_threshold = nms_threshold
        self.pre_nms_limit = config.PRE_NMS_LIMIT
        self.deviation = np.asarray(config.RPN_BBOX_STD_DEV, "float32")

    def call(self, inputs):
        return self.steps(inputs)["proposals"]

    def steps(self, inputs):
        """The proposals and what is computed on the way to them, see `ProposalSteps`."""
        probabilities, deltas, anchors = (ops.stop_gradient(x) for x in inputs)
        limit = min(self.pre_nms_limit, anchors.shape[1])
        scores, best = top_k(probabilities[..., 1], limit)
        best = best[..., None]
        deltas = ops.take_along_axis(deltas, best, axis=1)
        deltas = deltas * ops.convert_to_tensor(self.deviation)
        anchors = ops.take_along_axis(anchors, best, axis=1)
        refined = apply_box_deltas_graph(anchors, deltas)
        clipped = clip_boxes_graph(refined, ops.convert_to_tensor([0.0, 0.0, 1.0, 1.0]))
        kept, valid = non_max_suppression(clipped, scores, self.proposal_count, self.nms_threshold)
        proposals = ops.take_along_axis(clipped, kept[..., None], axis=1)
        return {
            "pre_nms_anchors": anchors,
            "refined_anchors": refined,
            "refined_anchors_clipped": clipped,
            "rpn_non_max_suppression": kept[0],
            "proposals": ops.where(valid[..., None], proposals, 0.0),
        }

    def compute_output_shape(self, input_shape):
        return (input_shape[0][0], self.proposal_count, 4)


class ProposalSteps(Float32Layer):
    """What a ProposalLayer computes on the way, under the names of Matterport's tensors.

    Parameters
    ----------
    proposal_layer : ProposalLayer

    Notes
    -----
    Inputs are those of the layer; outputs are, by name, `pre_nms_anchors` [B, limit, 4], the best
    anchors by falling score, as many as there are up to PRE_NMS_LIMIT; `refined_anchors` and
    `refined_anchors_clipped`, the same moved by their deltas and cut at the image's edge;
    `rpn_non_max_suppression` int32 [proposal_count], which of these became the proposals of the
    first image (as Matterport's tensor of this name; 0 in place of missing ones); and `proposals`,
    as the layer's. Boxes are normalised.
    """

    def __init__(self, proposal_layer, **kwargs):
        super().__init__(**kwargs)
        self.proposal_layer = proposal_layer

    def call(self, inputs):
        return self.proposal_layer.steps(inputs)

    def compute_output_spec(self, inputs):
        batch, count = inputs[0].shape[0], self.proposal_layer.proposal_count
        boxes = ("pre_nms_anchors", "refined_anchors", "refined_anchors_clipped")
        return {
            **{name: keras.KerasTensor((batch, None, 4), "float32") for name in boxes},
            "rpn_non_max_suppression": keras.KerasTensor((count,), "int32"),
            "proposals": keras.KerasTensor((batch, count, 4), "float32"),
        }
