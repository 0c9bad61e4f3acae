"""`MaskRCNN`: build the network, train it, detect with it. Also Matterport's import path."""

import logging
import re
from collections import OrderedDict
from pathlib import Path

import keras
import numpy as np

from mrcnn import backend
from mrcnn.anchors import compute_backbone_shapes, pyramid_anchors
from mrcnn.backbone import BatchNorm, conv_block, identity_block, resnet_graph
from mrcnn.batches import close, stream
from mrcnn.box_ops import (
    apply_box_deltas_graph,
    clip_boxes_graph,
    denorm_boxes_graph,
    norm_boxes_graph,
    overlaps_graph,
)
from mrcnn.boxes import denorm_boxes, norm_boxes
from mrcnn.checkpoints import (
    Checkpoint,
    checkpoint_name,
    find_last,
    has_later_checkpoint,
    new_log_dir,
    parse_checkpoint_path,
    restore_optimizer,
)
from mrcnn.data import DataGenerator, data_generator, load_image_gt
from mrcnn.detection import DetectionLayer, refine_detections_graph
from mrcnn.errors import InputError
from mrcnn.heads import build_fpn_mask_graph, fpn_classifier_graph
from mrcnn.image_meta import compose_image_meta, parse_image_meta, parse_image_meta_graph
from mrcnn.images import mold_image, normalize_statistics, resize_image, unmold_image
from mrcnn.instances import Instances
from mrcnn.losses import (
    mrcnn_bbox_loss_graph,
    mrcnn_class_loss_graph,
    mrcnn_mask_loss_graph,
    rpn_bbox_loss_graph,
    rpn_class_loss_graph,
    smooth_l1_loss,
)
from mrcnn.masks import paste_mask
from mrcnn.network import build_network
from mrcnn.random_rois import build_detection_targets, generate_random_rois
from mrcnn.roi_align import PyramidROIAlign, log2_graph
from mrcnn.rpn import ProposalLayer, build_rpn_model, rpn_graph
from mrcnn.rpn_targets import build_rpn_targets
from mrcnn.targets import DetectionTargetLayer, detection_targets_graph
from mrcnn.tensors import batch_pack_graph, trim_zeros_graph
from mrcnn.weights import load_state, load_weights

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

HEADS = r"(mrcnn\_.*)|(rpn\_.*)|(fpn\_.*)"
LAYER_PATTERNS = {
    "heads": HEADS,
    "3+": r"(res3.*)|(bn3.*)|(res4.*)|(bn4.*)|(res5.*)|(bn5.*)|" + HEADS,
    "4+": r"(res4.*)|(bn4.*)|(res5.*)|(bn5.*)|" + HEADS,
    "5+": r"(res5.*)|(bn5.*)|" + HEADS,
    "all": ".*",
}
"""Names for the layers that a stage of training changes."""

IMAGENET_URL = (
    "https://github.com/fchollet/deep-learning-models/releases/download/v0.2/"
    "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
IMAGENET_MD5 = "a268eb855778b3df3c7506639542a6af"


def log(text, array=None):
    """Print a line, with shape, range and type of an array if one is given."""
    if array is None:
        print(text)
        return
    array = np.asarray(array)
    extent = f"min: {array.min():10.5}  max: {array.max():10.5}" if array.size else "empty"
    print(f"{text:25}  shape: {array.shape!s:20}  {extent}  {array.dtype}")


class MaskRCNN:
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

    def __init__(self, mode, config, model_dir):
        if mode not in ("training", "inference"):
            raise ValueError(f"mode is {mode!r}: give 'training' or 'inference'")
        self.mode = mode
        self.config = config
        self.model_dir = model_dir
        self.attributes = {}
        self.anchors = None
        self._anchors = {}
        self.seed = config.SEED
        self._resumed_from = None
        self._trained_layers = None
        self._forward = None
        self._scope = backend.replica_scope(config.GPU_COUNT if mode == "training" else 1)
        self.set_log_dir()
        self.keras_model = self.build(mode, config)

    def build(self, mode, config):
        """Build the Keras model; see `mrcnn.network.build_network`."""
        height, width = config.IMAGE_SHAPE[:2]
        if height % 64 or width % 64:
            raise InputError(
                f"image size {height} x {width} is no multiple of 64, as the feature pyramid "
                "needs: choose IMAGE_MIN_DIM and IMAGE_MAX_DIM such as 256, 320, 384, 448 or 512"
            )
        with self._scope():
            return build_network(mode, config)

    # Weights and run folders

    def find_last(self):
        """The last checkpoint of the last run with `config.NAME`, as str.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        return str(find_last(self.model_dir, self.config.NAME))

    def load_weights(self, filepath, by_name=False, exclude=None):
        """Load weights from an `.h5` file in Matterport's layout.

        Parameters
        ----------
        filepath : str or Path
            A checkpoint of a run also sets `epoch` and `log_dir`, so that training continues it.
        by_name : bool
            Whether the file may lack layers of this network, which then keep their weights.
        exclude : list of str, optional
            Layers to leave as they are; implies `by_name`.

        Returns
        -------
        mrcnn.weights.LoadReport

        Raises
        ------
        InputError
            If the file is not readable, a weight has another shape, or nothing fits.
        """
        report = load_weights(self.keras_model, filepath, exclude or ())
        if report.mismatched:
            raise InputError(
                f"{filepath}: {len(report.mismatched)} weights have another shape than in this "
                f"network, first {report.mismatched[0]}: give weights of the same architecture, "
                "or exclude these layers"
            )
        if report.missing and not (by_name or exclude):
            raise InputError(
                f"{filepath}: {len(report.missing)} weights of this network are not in it, first "
                f"{report.missing[0]}: give weights of the same architecture, or load by_name"
            )
        LOGGER.info("%s: %s", filepath, report)
        self._resumed_from = filepath if parse_checkpoint_path(filepath) else None
        if self._resumed_from:
            self.seed = (load_state(filepath, arrays=False) or {}).get("seed", self.seed)
        self.set_log_dir(filepath)
        return report

    def get_imagenet_weights(self):
        """Download the ImageNet weights of ResNet-50, once, and return their path.

        Raises
        ------
        InputError
            If they cannot be fetched.
        """
        name = IMAGENET_URL.rpartition("/")[2]
        try:
            return keras.utils.get_file(
                name, IMAGENET_URL, cache_subdir="models", file_hash=IMAGENET_MD5
            )
        except Exception as error:
            raise InputError(
                f"{IMAGENET_URL} could not be fetched ({error}): download it elsewhere and put it "
                f"into {Path.home() / '.keras' / 'models'}"
            ) from None

    def set_log_dir(self, model_path=None):
        """Choose the run's folder: that of its last checkpoint, to continue it, else a new one.

        Parameters
        ----------
        model_path : str or Path, optional
        """
        run = parse_checkpoint_path(model_path) if model_path else None
        log_dir, self.epoch = run or (None, 0)
        if run is None or has_later_checkpoint(*run):
            log_dir = new_log_dir(self.model_dir, str(self.config.NAME))
        self.log_dir = str(log_dir)
        self.checkpoint_path = str(log_dir / checkpoint_name(str(self.config.NAME)))

    # Training

    def _prepare(self, layers, learning_rate):
        """Make the optimiser ready; where the layers stay the same it goes on, only its rate not.

        Compiling again would cost the time of tracing the step, and the optimiser's moments.
        """
        if layers != self._trained_layers:
            self.set_trainable(layers, verbose=0)
            self.compile(learning_rate, self.config.LEARNING_MOMENTUM)
            self._trained_layers = layers
        if self._resumed_from:
            restore_optimizer(self.keras_model, self._resumed_from, layers)
            self._resumed_from = None
        self.keras_model.optimizer.learning_rate = learning_rate

    def _make_log_dir(self):
        """Make the run's folder; a name that a run of the same minute has taken is given up."""
        while True:
            try:
                Path(self.log_dir).mkdir(parents=True, exist_ok=self.epoch > 0)
                return
            except FileExistsError:
                self.set_log_dir()

    def compile(self, learning_rate, momentum):
        """Attach the optimiser: `config.OPTIMIZER`, gradients clipped to a global norm.

        Parameters
        ----------
        learning_rate : float
        momentum : float
            Of SGD.
        """
        self._trained_layers = None
        with self._scope():
            optimizer = _make_optimizer(self.config, learning_rate, momentum)
            backend.clip_across_replicas(optimizer)
            self.keras_model.compile(optimizer=optimizer)
            # TensorFlow traces a step twice if the first time makes variables.
            optimizer.build(self.keras_model.trainable_variables)

    def set_trainable(self, layer_regex, keras_model=None, indent=0, verbose=1):
        """Make exactly the layers whose name matches trainable.

        Parameters
        ----------
        layer_regex : str
            Must match the whole name.
        keras_model : keras.Model, optional
            Default: the network, nested models included.
        indent, verbose : int
            How to print the names; `verbose` 0 prints nothing.
        """
        self._trained_layers = None
        for layer in (keras_model or self.keras_model).layers:
            if isinstance(layer, keras.Model):
                layer.trainable = True
                self.set_trainable(layer_regex, layer, indent + 4, verbose)
            elif layer.weights:
                layer.trainable = bool(re.fullmatch(layer_regex, layer.name))
                if layer.trainable and verbose:
                    print(f"{'':{indent}}{layer.name:20} ({type(layer).__name__})")

    def train(
        self,
        train_dataset,
        val_dataset,
        learning_rate,
        epochs,
        layers,
        augmentation=None,
        custom_callbacks=None,
        no_augmentation_sources=None,
        val_augmentation=None,
        verbose=1,
    ):
        """Train until `epochs` epochs have been seen in all, those before this call included.

        Writes into `log_dir`: a checkpoint an epoch (the last two and the best are kept),
        `history.csv` with the losses, and events for TensorBoard.

        Parameters
        ----------
        train_dataset : Dataset
        val_dataset : Dataset or None
            Its losses are reported after each epoch, over the same batches each time.
        learning_rate : float
        epochs : int
            Absolute: a further call with the same number trains nothing.
        layers : str
            "heads", "3+", "4+", "5+", "all", or a regular expression for names of layers.
        augmentation : imgaug augmenter or callable, optional
            See `mrcnn.data.load_image_gt`.
        custom_callbacks : list of keras.callbacks.Callback, optional
        no_augmentation_sources : list of str, optional
            Sources of the data set whose images are not augmented.
        val_augmentation : imgaug augmenter or callable, optional
            The same for the images of `val_dataset`, where they need a crop of another kind.
        verbose : int
            As that of `keras.Model.fit`.

        Returns
        -------
        keras.callbacks.History or None
            None if there was nothing to train.

        Raises
        ------
        InputError
            If an image or its annotation cannot be used.
        """
        if self.mode != "training":
            raise ValueError("a model in inference mode does not train: build it for training")
        if epochs <= self.epoch:
            LOGGER.warning(
                "nothing to train: %d epochs are asked for in all, and %d are done",
                epochs,
                self.epoch,
            )
            return None
        config = self.config
        layers = LAYER_PATTERNS.get(layers, layers)
        seed = self.seed
        common = {
            "shuffle": True,
            "random_rois": 0 if config.USE_RPN_ROIS else config.POST_NMS_ROIS_TRAINING,
            "seed": seed,
        }
        training = DataGenerator(
            train_dataset,
            config,
            augmentation=augmentation,
            steps=config.STEPS_PER_EPOCH,
            no_augmentation_sources=no_augmentation_sources,
            **common,
        )
        names = [tensor.name for tensor in self.keras_model.inputs]
        self._prepare(layers, learning_rate)
        self._make_log_dir()
        errors = []
        streams = [stream(training, names, first_epoch=self.epoch, errors=errors)]
        validation = {}
        if val_dataset is not None and config.VALIDATION_STEPS:
            batches = DataGenerator(
                val_dataset,
                config,
                augmentation=val_augmentation,
                steps=config.VALIDATION_STEPS,
                **common,
            )
            streams.append(stream(batches, names, repeat=True, errors=errors))
            validation = {
                "validation_data": streams[1],
                "validation_steps": config.VALIDATION_STEPS,
            }
        callbacks = [
            _EpochSeed(seed),
            Checkpoint(self.log_dir, str(config.NAME), self.attributes, layers, seed),
            keras.callbacks.CSVLogger(str(Path(self.log_dir) / "history.csv"), append=True),
            keras.callbacks.TensorBoard(log_dir=self.log_dir, write_graph=False),
            *(custom_callbacks or []),
        ]
        try:
            with self._scope():
                history = self.keras_model.fit(
                    streams[0],
                    initial_epoch=self.epoch,
                    epochs=epochs,
                    steps_per_epoch=config.STEPS_PER_EPOCH,
                    callbacks=callbacks,
                    shuffle=False,
                    verbose=verbose,
                    **validation,
                )
        except Exception:
            if errors:
                raise errors[0] from None
            raise
        finally:
            for batches in streams:
                close(batches)
        self.epoch = epochs
        return history

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
        found = self._unmold(detections, mrcnn_mask, original_image_shape, image_shape, window)
        return found.boxes, found.class_ids, found.scores, found.to_dense()

    def _unmold(self, detections, masks, original_shape, image_shape, window):
        class_ids = detections[:, 4].astype(np.int32)
        padding = np.flatnonzero(class_ids == 0)
        count = padding[0] if len(padding) else len(detections)
        y1, x1, y2, x2 = norm_boxes(np.asarray(window), image_shape[:2])
        origin, extent = np.array([y1, x1, y1, x1]), np.array([y2 - y1, x2 - x1] * 2)
        boxes = denorm_boxes((detections[:count, :4] - origin) / extent, original_shape[:2])
        limits = np.array([*original_shape[:2]] * 2)
        boxes = np.clip(boxes, 0, limits).astype(np.int32)
        real = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
        threshold = self.config.DETECTION_MASK_THRESHOLD
        return Instances(
            shape=tuple(original_shape[:2]),
            boxes=boxes[real],
            scores=detections[real, 5],
            class_ids=class_ids[real],
            masks=[paste_mask(masks[i, :, :, class_ids[i]], boxes[i], threshold) for i in real],
        )

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
            self._unmold(detections[i], masks[i], image.shape, molded_images.shape[1:], windows[i])
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

    def _require_batch(self, images):
        if self.mode != "inference":
            raise ValueError("a model in training mode does not detect: build it for inference")
        if len(images) != self.config.BATCH_SIZE:
            raise ValueError(
                f"{len(images)} images given, BATCH_SIZE is {self.config.BATCH_SIZE}: "
                "give as many, or set IMAGES_PER_GPU"
            )

    def _run(self, molded_images, image_metas):
        anchors = self.get_anchors(molded_images.shape[1:])
        anchors = np.broadcast_to(anchors, (len(molded_images), *anchors.shape))
        if self._forward is None:
            self._forward = backend.compiled_inference(self.keras_model)
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

    # Inspection

    def ancestor(self, tensor, name, checked=None):
        """Search backwards from a tensor for the output of a layer.

        Parameters
        ----------
        tensor : KerasTensor
        name : str
            Of the layer; the part after the last slash counts.
        checked : list, optional
            Layers that need no search.

        Returns
        -------
        KerasTensor or None
        """
        wanted = name.rstrip("/").rpartition("/")[2]
        checked = [] if checked is None else checked
        waiting = [tensor]
        while waiting:
            candidate = waiting.pop()
            operation = candidate._keras_history.operation
            if operation.name == wanted:
                return candidate
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
        values = backend.compiled_inference(part)(
            [molded, np.asarray(image_metas, np.float32), anchors]
        )
        results = OrderedDict(zip(outputs, values))
        for name, value in results.items():
            log(name, value)
        return results


class _EpochSeed(keras.callbacks.Callback):
    """Makes an epoch's random targets depend on the seed and its number only."""

    def __init__(self, seed):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch, logs=None):
        generator = self.model.get_layer("proposal_targets").seed_generator
        generator.state.assign(np.array([self.seed, epoch], "uint32"))


def _make_optimizer(config, learning_rate, momentum):
    clip = config.GRADIENT_CLIP_NORM
    if config.OPTIMIZER == "sgd":
        return keras.optimizers.SGD(learning_rate, momentum=momentum, global_clipnorm=clip)
    if config.OPTIMIZER == "adam":
        return keras.optimizers.Adam(learning_rate, global_clipnorm=clip)
    raise InputError(f"OPTIMIZER is {config.OPTIMIZER!r}: set it to 'sgd' or 'adam'")
