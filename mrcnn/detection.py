"""From classified proposals to final detections."""

from keras import ops

from mrcnn.backend import top_k
from mrcnn.box_ops import apply_box_deltas_graph, clip_boxes_graph, norm_boxes_graph
from mrcnn.image_meta import parse_image_meta_graph
from mrcnn.nms import non_max_suppression
from mrcnn.precision import Float32Layer


class DetectionLayer(Float32Layer):
    """Apply each proposal's best class and its deltas, drop background, suppress duplicates.

    As in Matterport's code background is what no class is likelier than. With
    DETECTION_ABOVE_BACKGROUND off, DETECTION_MIN_CONFIDENCE alone decides, so that it may be below
    the half of two classes.

    Parameters
    ----------
    config : Config
        BBOX_STD_DEV and the DETECTION_* settings count.

    Notes
    -----
    Inputs are proposals [B, N, 4], class probabilities [B, N, classes], deltas [B, N, classes, 4]
    and image_meta; the output is [B, DETECTION_MAX_INSTANCES, 6]: normalised y1, x1, y2, x2, class
    and score, sorted by score, 0 where there is no further detection.
    """

    def __init__(self, config=None, **kwargs):
        super().__init__(**kwargs)
        self.config = config

    def get_config(self):
        return super().get_config()

    def call(self, inputs):
        rois, probabilities, deltas, image_meta = inputs
        meta = parse_image_meta_graph(image_meta)
        window = norm_boxes_graph(meta["window"], ops.cast(meta["image_shape"][0], "float32"))
        return _refine(rois, probabilities, deltas, window, self.config)

    def compute_output_shape(self, input_shape):
        return (input_shape[0][0], self.config.DETECTION_MAX_INSTANCES, 6)


def refine_detections_graph(rois, probs, deltas, window, config):
    """The detections of one image; see `DetectionLayer`.

    Parameters
    ----------
    rois : float32 tensor [N, 4]
    probs : float32 tensor [N, classes]
    deltas : float32 tensor [N, classes, 4]
    window : float32 tensor [4]
        The part of the input that is image and not padding, normalised.
    config : Config

    Returns
    -------
    float32 tensor [DETECTION_MAX_INSTANCES, 6]
    """
    return _refine(rois[None], probs[None], deltas[None], window[None], config)[0]


def _refine(rois, probabilities, deltas, window, config):
    first = 0 if config.DETECTION_ABOVE_BACKGROUND else 1
    scores, chosen = top_k(probabilities[..., first:], 1)
    scores, class_ids = scores[..., 0], chosen[..., 0] + first
    deltas = ops.take_along_axis(deltas, class_ids[..., None, None], axis=2)[:, :, 0]
    deltas = deltas * ops.convert_to_tensor(config.BBOX_STD_DEV, "float32")
    boxes = clip_boxes_graph(apply_box_deltas_graph(rois, deltas), window[:, None])
    eligible = class_ids > 0
    if config.DETECTION_MIN_CONFIDENCE:
        eligible = ops.logical_and(eligible, scores >= config.DETECTION_MIN_CONFIDENCE)
    kept, valid = non_max_suppression(
        boxes,
        scores,
        config.DETECTION_MAX_INSTANCES,
        config.DETECTION_NMS_THRESHOLD,
        classes=class_ids,
        eligible=eligible,
    )
    detections = ops.concatenate(
        [boxes, ops.cast(class_ids, "float32")[..., None], scores[..., None]], axis=-1
    )
    detections = ops.take_along_axis(detections, kept[..., None], axis=1)
    return ops.where(valid[..., None], detections, 0.0)
