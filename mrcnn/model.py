"""`MaskRCNN`: build the network, train it, detect with it. Also Matterport's import path."""

import logging
from collections import OrderedDict

import keras
import numpy as np

from mrcnn import backend
from mrcnn.anchors import compute_backbone_shapes, pyramid_anchors
from mrcnn.backbone import BatchNorm, conv_block, identity_block, resnet_graph
from mrcnn.box_ops import (
    apply_box_deltas_graph,
    clip_boxes_graph,
    denorm_boxes_graph,
    norm_boxes_graph,
    overlaps_graph,
)
from mrcnn.boxes import denorm_boxes, norm_boxes
from mrcnn.data import DataGenerator, data_generator, load_image_gt
from mrcnn.detection import DetectionLayer, refine_detections_graph
from mrcnn.errors import InputError
from mrcnn.export import Constant, export_model
from mrcnn.heads import build_fpn_mask_graph, fpn_classifier_graph
from mrcnn.image_meta import compose_image_meta, parse_image_meta, parse_image_meta_graph
from mrcnn.images import mold_image, normalize_statistics, resize_image, unmold_image
from mrcnn.losses import (
    mrcnn_bbox_loss_graph,
    mrcnn_class_loss_graph,
    mrcnn_mask_loss_graph,
    rpn_bbox_loss_graph,
    rpn_class_loss_graph,
    smooth_l1_loss,
)
from mrcnn.network import build_network
from mrcnn.pretrained import imagenet_weights
from mrcnn.random_rois import build_detection_targets, generate_random_rois
from mrcnn.roi_align import PyramidROIAlign, log2_graph
from mrcnn.rpn import ProposalLayer, ProposalSteps, build_rpn_model, rpn_graph
from mrcnn.rpn_targets import build_rpn_targets
from mrcnn.soft_instances import SoftInstances
from mrcnn.targets import DetectionTargetLayer, detection_targets_graph
from mrcnn.tensors import batch_pack_graph, trim_zeros_graph
from mrcnn.trainer import Trainer, stage_patterns

__all__ = [
    "BatchNorm",
    "DataGenerator",
    "DetectionLayer",
    "DetectionTargetLayer",
    "MaskRCNN",
    "ProposalLayer",
    "PyramidROIAlign",
    "apply_box_deltas_graph",
    "batch_pack_graph",
    "build_detection_targets",
    "build_fpn_mask_graph",
    "build_rpn_model",
    "build_rpn_targets",
    "clip_boxes_graph",
    "compose_image_meta",
    "compute_backbone_shapes",
    "conv_block",
    "data_generator",
    "denorm_boxes_graph",
    "detection_targets_graph",
    "fpn_classifier_graph",
    "generate_random_rois",
    "identity_block",
    "load_image_gt",
    "log",
    "log2_graph",
    "mold_image",
    "mrcnn_bbox_loss_graph",
    "mrcnn_class_loss_graph",
    "mrcnn_mask_loss_graph",
    "norm_boxes_graph",
    "overlaps_graph",
    "parse_image_meta",
    "parse_image_meta_graph",
    "refine_detections_graph",
    "resnet_graph",
    "rpn_bbox_loss_graph",
    "rpn_class_loss_graph",
    "rpn_graph",
    "smooth_l1_loss",
    "trim_zeros_graph",
    "unmold_image",
]

LOGGER = logging.getLogger("mrcnn")

LAYER_PATTERNS = stage_patterns(r"(mrcnn\_.*)|(rpn\_.*)|(fpn\_.*)")
"""Names for the layers that a stage of training changes."""


def log(text, array=None):
    """Print a line, with shape, range and type of an array if one is given."""
    if array is None:
        print(text)
        return
    array = np.asarray(array)
    extent = "empty"
    if array.size:
        extent = f"min: {float(array.min()):10.5f}  max: {float(array.max()):10.5f}"
    print(f"{text:25}  shape: {array.shape!s:20}  {extent}  {array.dtype}")


class MaskRCNN(Trainer):
    """Mask R-CNN (He et al. 2017) on a ResNet with a feature pyramid.

    Parameters
    ----------
    mode : {"training", "inference"}
    config : Config
    model_dir : str or Path
        Where training makes a folder for each run, with logs and checkpoints.

    Attributes
    ----------
    keras_model : keras.Model
        Inputs and outputs are Matterport's, in its order.
    epoch : int
        Number of epochs that the weights have been trained for.
    log_dir : str
    seed : int
        `config.SEED`, or that of the run that is continued.
    """

    layer_patterns = LAYER_PATTERNS

    def __init__(self, mode, config, model_dir):
        self.anchors = None
        self._anchors = {}
        self._forward = None
        super().__init__(mode, config, model_dir)

    # Training; most of it is the base class's

    def build(self, mode, config):
        """Build the Keras model; see `mrcnn.network.build_network`."""
        height, width = config.IMAGE_SHAPE[:2]
        if height % 64 or width % 64:
            raise InputError(
                f"image size {height} x {width} is no multiple of 64, as the feature pyramid "
                "needs: choose IMAGE_MIN_DIM and IMAGE_MAX_DIM such as 256, 320, 384, 448 or 512"
            )
        return build_network(mode, config)

    def _make_batches(self, dataset, steps, augmentation=None, no_augmentation_sources=None):
        """The batches of a data set that training sees; see `mrcnn.data.DataGenerator`."""
        config = self.config
        return DataGenerator(
            dataset,
            config,
            augmentation=augmentation,
            random_rois=0 if config.USE_RPN_ROIS else config.POST_NMS_ROIS_TRAINING,
            no_augmentation_sources=no_augmentation_sources,
            seed=self.seed,
            steps=steps,
        )

    def _callbacks(self, val_dataset):
        """Random targets that depend on the seed and the epoch only."""
        return [_EpochSeed(self.seed)]

    def get_imagenet_weights(self):
        """The path of a file with ImageNet weights of `config.BACKBONE`, to be loaded `by_name`.

        They are downloaded once; see `mrcnn.pretrained.imagenet_weights`.

        Returns
        -------
        str

        Raises
        ------
        InputError
            If the backbone is neither "resnet50" nor "resnet101", or they cannot be had.
        """
        return str(imagenet_weights(self.config.BACKBONE))

    # Detection

    def mold_inputs(self, images, statistics=None):
        """Resize, pad and normalise images as the network takes them.

        Parameters
        ----------
        images : list of ndarray uint8 [H, W, C]
            Of any sizes.
        statistics : list of (mean, std), optional
            One for each image, see `mrcnn.images.normalize_statistics`. By default its own.

        Returns
        -------
        molded_images : list of ndarray float32 [h, w, C], or one array if they are of one size
        image_metas : ndarray [N, length]
        windows : ndarray [N, 4]
            (y1, x1, y2, x2): where in the molded image the original is.
        """
        config = self.config
        molded_images, metas, windows = [], [], []
        for i, image in enumerate(images):
            resized, window, scale, _, _ = resize_image(
                image,
                min_dim=config.IMAGE_MIN_DIM,
                min_scale=config.IMAGE_MIN_SCALE,
                max_dim=config.IMAGE_MAX_DIM,
                mode=config.IMAGE_RESIZE_MODE,
            )
            given = statistics[i] if statistics else normalize_statistics(image, config)
            molded_images.append(mold_image(resized, config, given, window))
            inactive = np.zeros(config.NUM_CLASSES, np.int32)
            metas.append(compose_image_meta(0, image.shape, resized.shape, window, scale, inactive))
            windows.append(window)
        if len({image.shape for image in molded_images}) == 1:
            molded_images = np.stack(molded_images)
        return molded_images, np.stack(metas), np.stack(windows)

    def unmold_detections(self, detections, mrcnn_mask, original_image_shape, image_shape, window):
        """Turn one image's detections into boxes and masks of the original image.

        Parameters
        ----------
        detections : ndarray [N, 6]
            Normalised y1, x1, y2, x2, class and score, zero-padded.
        mrcnn_mask : ndarray [N, height, width, classes]
        original_image_shape, image_shape : sequence of int
            (height, width, channels) before and after resizing and padding.
        window : sequence of int
            (y1, x1, y2, x2): the part of the network's input that is image.

        Returns
        -------
        boxes : ndarray int32 [N, 4]
        class_ids : ndarray int32 [N]
        scores : ndarray float32 [N]
        masks : ndarray bool [H, W, N]
        """
        soft = _unmold(detections, mrcnn_mask, original_image_shape, image_shape, window)
        found = soft.harden(self.config.DETECTION_MASK_THRESHOLD)
        return found.boxes, found.class_ids, found.scores, found.to_dense()

    def detect_instances(self, images, statistics=None):
        """Find the objects in images; the compact form of `detect`.

        Parameters
        ----------
        images : list of ndarray uint8 [H, W, C]
            `config.BATCH_SIZE` of them, of one size once they are resized.
        statistics : list of (mean, std), optional
            See `mold_inputs`.

        Returns
        -------
        list of Instances
            Sorted by falling score. Overlaps are kept.
        """
        threshold = self.config.DETECTION_MASK_THRESHOLD
        return [soft.harden(threshold) for soft in self.detect_soft(images, statistics)]

    def detect_soft(self, images, statistics=None):
        """Find the objects in images, their masks as probabilities.

        Parameters
        ----------
        images, statistics
            See `detect_instances`.

        Returns
        -------
        list of SoftInstances
        """
        self._require_batch(images)
        molded_images, metas, windows = self.mold_inputs(images, statistics)
        if not isinstance(molded_images, np.ndarray):
            raise ValueError(
                f"images of a batch must be of one size once resized: IMAGE_RESIZE_MODE "
                f"{self.config.IMAGE_RESIZE_MODE!r} made them "
                f"{sorted({image.shape[:2] for image in molded_images})}"
            )
        detections, _, _, masks, *_ = self._run(molded_images, metas)
        limit = self.config.DETECTION_MAX_INSTANCES
        if (detections[:, -1, 4] > 0).any():
            LOGGER.warning(
                "an image has DETECTION_MAX_INSTANCES = %d detections: there may be more objects; "
                "raise it, or detect by smaller tiles",
                limit,
            )
        return [
            _unmold(detections[i], masks[i], image.shape, molded_images.shape[1:], windows[i])
            for i, image in enumerate(images)
        ]

    def detect(self, images, verbose=0):
        """Find the objects in images.

        Parameters
        ----------
        images : list of ndarray uint8 [H, W, C]
            See `detect_instances`.
        verbose : int
            Whether to print what goes in.

        Returns
        -------
        list of dict
            One an image: `rois` int32 [N, 4] (y1, x1, y2, x2), `class_ids` int32 [N], `scores`
            float32 [N] and `masks` bool [H, W, N].
        """
        if verbose:
            log(f"Processing {len(images)} images")
            for image in images:
                log("image", image)
        return [
            {
                "rois": found.boxes,
                "class_ids": found.class_ids,
                "scores": found.scores,
                "masks": found.to_dense(),
            }
            for found in self.detect_instances(images)
        ]

    def detect_molded(self, molded_images, image_metas, verbose=0):
        """As `detect`, on what `mold_inputs` makes; results are in the molded images' pixels.

        Parameters
        ----------
        molded_images : ndarray float32 [B, h, w, C]
        image_metas : ndarray [B, length]
        verbose : int

        Returns
        -------
        list of dict
            See `detect`.
        """
        self._require_batch(molded_images)
        if verbose:
            log(f"Processing {len(molded_images)} images")
            for image in molded_images:
                log("image", image)
        detections, _, _, masks, *_ = self._run(np.asarray(molded_images), image_metas)
        results = []
        for found, mask, image in zip(detections, masks, molded_images):
            window = [0, 0, *image.shape[:2]]
            boxes, class_ids, scores, full = self.unmold_detections(
                found, mask, image.shape, image.shape, window
            )
            results.append({"rois": boxes, "class_ids": class_ids, "scores": scores, "masks": full})
        return results

    def _require_inference(self):
        if self.mode != "inference":
            raise ValueError("a model in training mode does not detect: build it for inference")

    def _require_batch(self, images):
        self._require_inference()
        if len(images) != self.config.BATCH_SIZE:
            raise ValueError(
                f"{len(images)} images given, BATCH_SIZE is {self.config.BATCH_SIZE}: "
                "give as many, or set IMAGES_PER_GPU"
            )

    def _run(self, molded_images, image_metas):
        anchors = self.get_anchors(molded_images.shape[1:])
        anchors = np.broadcast_to(anchors, (len(molded_images), *anchors.shape))
        if self._forward is None:
            self._forward = backend.compiled_inference(self.keras_model, self.config.JIT_COMPILE)
        return self._forward(
            [molded_images.astype(np.float32), image_metas.astype(np.float32), anchors]
        )

    def get_anchors(self, image_shape):
        """The anchors of an image, normalised, float32 [A, 4]; `anchors` has them in pixels.

        Parameters
        ----------
        image_shape : sequence of int
            (height, width, ...) of the network's input.
        """
        shape = tuple(image_shape[:2])
        if shape not in self._anchors:
            anchors = pyramid_anchors(self.config, shape)
            self._anchors[shape] = anchors, norm_boxes(anchors, shape).astype(np.float32)
        self.anchors, normalized = self._anchors[shape]
        return normalized

    def export(self, path, format=None, metadata=None):
        """Write the network for programs that have neither Keras nor this package.

        Its input is one image of `config.IMAGE_SHAPE`, `image` float32 [1, H, W, C], resized,
        padded and normalised; image meta and anchors are folded in. Its outputs are `detections`
        [1, N, 6] and `masks` [1, N, h, w, classes], the first and the fourth of `keras_model`.

        Parameters
        ----------
        path : str or Path
            Must not exist.
        format : {"onnx", "savedmodel"}, optional
            See `mrcnn.export.check_export`.
        metadata : dict, optional
            What users have to know besides `config`, which is always written.

        Raises
        ------
        InputError
            See `mrcnn.export.export_model`.
        """
        self._require_inference()
        config = self.config
        shape = tuple(int(side) for side in config.IMAGE_SHAPE)
        active = np.ones(config.NUM_CLASSES)
        meta = compose_image_meta(0, shape, shape, (0, 0, *shape[:2]), 1, active)
        image = keras.Input(batch_shape=(1, *shape), name="image")
        given = [Constant(value[None])(image) for value in (meta, self.get_anchors(shape))]
        detections, _, _, masks, *_ = self.keras_model([image, *given])
        network = keras.Model(image, {"detections": detections, "masks": masks})
        export_model(network, path, format, {**(metadata or {}), "config": config.to_dict()})

    # Inspection

    def ancestor(self, tensor, name, checked=None):
        """Search backwards from a tensor for the output of a layer, or a tensor within "ROI".

        Layers of Keras 3 do not show what they compute inside. What Matterport's notebooks want of
        the proposal layer is computed again from its inputs: "ROI/pre_nms_anchors",
        "ROI/refined_anchors", "ROI/refined_anchors_clipped" and "ROI/rpn_non_max_suppression",
        the last also as ".../NonMaxSuppressionV2" and its kin. See `mrcnn.rpn.ProposalSteps`.

        Parameters
        ----------
        tensor : KerasTensor
        name : str
            As above, or of a layer, where the part after the last slash counts; TensorFlow's ":0"
            may follow.
        checked : list, optional
            Layers that need no search.

        Returns
        -------
        KerasTensor or None
            Fit for `run_graph`.
        """
        path = name.removesuffix(":0").strip("/").split("/")
        if path[-1].startswith("NonMaxSuppression"):
            path.pop()
        checked = [] if checked is None else checked
        waiting = [tensor]
        while waiting:
            candidate = waiting.pop()
            operation = candidate._keras_history.operation
            if operation.name == path[-1]:
                return candidate
            if isinstance(operation, ProposalLayer) and operation.name in path[:-1]:
                return ProposalSteps(operation)(operation.input).get(path[-1])
            if operation.name not in checked:
                checked.append(operation.name)
                for node in operation._inbound_nodes:
                    waiting += node.input_tensors
        return None

    def find_trainable_layer(self, layer):
        """The layer that holds the weights: what a wrapper wraps, else the layer itself."""
        while hasattr(layer, "layer"):
            layer = layer.layer
        return layer

    def get_trainable_layers(self):
        """All layers of the network that have weights."""
        layers = (self.find_trainable_layer(layer) for layer in self.keras_model.layers)
        return [layer for layer in layers if layer.weights]

    def run_graph(self, images, outputs, image_metas=None):
        """Run part of the network in inference mode and return what it computes on the way.

        Parameters
        ----------
        images : list of ndarray uint8 [H, W, C]
        outputs : list of (str, KerasTensor)
            Names, and outputs of layers such as `keras_model.get_layer("ROI").output`.
        image_metas : ndarray, optional
            If given, the images are molded already, [B, h, w, C].

        Returns
        -------
        OrderedDict
            Name -> ndarray.
        """
        if image_metas is None:
            images, image_metas, _ = self.mold_inputs(images)
        molded = np.asarray(images, np.float32)
        outputs = OrderedDict(outputs)
        part = keras.Model(self.keras_model.inputs, list(outputs.values()))
        anchors = self.get_anchors(molded.shape[1:])
        anchors = np.broadcast_to(anchors, (len(molded), *anchors.shape))
        values = backend.compiled_inference(part, self.config.JIT_COMPILE)(
            [molded, np.asarray(image_metas, np.float32), anchors]
        )
        results = OrderedDict(zip(outputs, values))
        for name, value in results.items():
            log(name, value)
        return results


def _unmold(detections, masks, original_shape, image_shape, window):
    """One image's detections as SoftInstances; see `MaskRCNN.unmold_detections`."""
    class_ids = detections[:, 4].astype(np.int32)
    padding = np.flatnonzero(class_ids == 0)
    count = padding[0] if len(padding) else len(detections)
    y1, x1, y2, x2 = norm_boxes(np.asarray(window), image_shape[:2])
    origin, extent = np.array([y1, x1, y1, x1]), np.array([y2 - y1, x2 - x1] * 2)
    boxes = denorm_boxes((detections[:count, :4] - origin) / extent, original_shape[:2])
    limits = np.array([*original_shape[:2]] * 2)
    boxes = np.clip(boxes, 0, limits).astype(np.int32)
    real = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    return SoftInstances(
        shape=tuple(original_shape[:2]),
        boxes=boxes[real],
        scores=detections[real, 5],
        class_ids=class_ids[real],
        masks=masks[real, :, :, class_ids[real]],
    )


class _EpochSeed(keras.callbacks.Callback):
    """Makes an epoch's random targets depend on the seed and its number only."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch, logs=None):
        generator = self.model.get_layer("proposal_targets").seed_generator
        generator.state.assign(np.array([self.seed, epoch], "uint32"))
