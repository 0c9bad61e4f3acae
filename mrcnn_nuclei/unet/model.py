"""The multi-task U-Net: one encoder, and a decoder each for foreground, borders and interiors."""

import functools

import keras
import numpy as np
from keras import layers

from mrcnn import backend
from mrcnn.backbone import build_backbone, normalization, set_batch_norm_momentum
from mrcnn.checkpoints import Monitor
from mrcnn.export import export_model
from mrcnn.images import mold_image, normalize_statistics
from mrcnn.losses import Loss
from mrcnn.network import Network
from mrcnn.precision import dtype_policy
from mrcnn.trainer import Trainer, stage_patterns
from mrcnn_nuclei.unet.batches import MapBatches
from mrcnn_nuclei.unet.decoder import build_decoder, conv_block
from mrcnn_nuclei.unet.losses import map_loss
from mrcnn_nuclei.unet.maps import predict_maps
from mrcnn_nuclei.unet.validation import ValidationAJI
from mrcnn_nuclei.unet.watershed import segment

MAP_NAMES = ("foreground", "border", "interior")
"""The channels of the maps, in order."""

LOSS_NAMES = tuple(f"{name}_loss" for name in MAP_NAMES)

STEM_CHANNELS = 16

LAYER_PATTERNS = stage_patterns(r"(decoder_.*)")
"""Names for the layers that a stage of training changes, as those of the Mask R-CNN."""


def build_unet(config, mode="inference"):
    """Build the U-Net of a configuration.

    The encoder is the detector's, layer for layer, so that the weights of either network start the
    other. The decoders see it at strides 32 to 2, and the image itself through one convolution,
    because nuclei are found that are a few pixels wide.

    Parameters
    ----------
    config : UNetConfig
    mode : {"training", "inference"}

    Returns
    -------
    Network
        Input `input_image` [B, H, W, C], height and width multiples of 32; output the maps
        [B, H, W, 3], float32 probabilities in the order of `MAP_NAMES`. In training also inputs
        `input_maps` [B, H, W, 3], what the maps should be, and `input_weights` [B, H, W], how much
        each pixel counts; then the outputs are the maps and the losses `LOSS_NAMES`.
    """
    with normalization(config.NORMALIZATION), dtype_policy(config.DTYPE_POLICY):
        network = _build(config, mode)
    set_batch_norm_momentum(network, config.BATCH_NORM_MOMENTUM)
    return network


def _build(config, mode):
    image = layers.Input((None, None, config.IMAGE_CHANNEL_COUNT), name="input_image")
    deepest, skips = _encode(image, config)
    maps = [
        build_decoder(deepest, skips, config.DECODER_CHANNELS, name, config.TRAIN_BN)
        for name in MAP_NAMES
    ]
    maps = layers.Concatenate(name="maps", dtype="float32")(maps)
    build = {"training": _training, "inference": _inference}[mode]
    return build(image, maps, config)


def _encode(image, config):
    """C5, and the features that the decoders join, at strides 16 to 1."""
    _, c2, c3, c4, c5 = build_backbone(image, config)
    # C1 of the large networks is already pooled.
    halved = keras.Model(image, c5).get_layer("bn_conv1").output
    halved = layers.Activation("relu", name="decoder_halved")(halved)
    stem = conv_block(image, STEM_CHANNELS, "decoder_stem", config.TRAIN_BN)
    return c5, [c4, c3, c2, halved, stem]


def _training(image, maps, config):
    targets = layers.Input((None, None, len(MAP_NAMES)), name="input_maps")
    weights = layers.Input((None, None), name="input_weights")
    loss = functools.partial(
        map_loss, focal_gamma=config.FOCAL_GAMMA, soft_iou_weight=config.SOFT_IOU_WEIGHT
    )
    values = [
        Loss(loss, name=name)([targets[..., i], maps[..., i], weights])
        for i, name in enumerate(LOSS_NAMES)
    ]
    inputs = [image, targets, weights]
    return Network(inputs, [maps, *values], config, loss_names=LOSS_NAMES, name="unet")


def _inference(image, maps, config):
    return Network([image], [maps], config, loss_names=LOSS_NAMES, name="unet")


class UNet(Trainer):
    """The U-Net with its weights, training and detection, the counterpart of `MaskRCNN`.

    Parameters
    ----------
    mode : {"training", "inference"}
    config : UNetConfig
    model_dir : str or Path
        Where training makes a folder for each run, with logs and checkpoints.
    """

    capped = 0  # maps have room for any number of nuclei
    kind = "unet"
    layer_patterns = LAYER_PATTERNS
    monitor = Monitor("val_aji", higher=True)

    def __init__(self, mode, config, model_dir):
        super().__init__(mode, config, model_dir)
        drawing = keras.Model(self.keras_model.inputs[:1], self.keras_model.outputs[:1])
        self._forward = backend.compiled_inference(drawing, config.JIT_COMPILE)

    def build(self, mode, config):
        """Build the Keras model; see `build_unet`."""
        return build_unet(config, mode)

    def _make_batches(self, dataset, steps, augmentation=None, no_augmentation_sources=None):
        """The batches of a data set that training sees."""
        return MapBatches(
            dataset,
            self.config,
            augmentation=augmentation,
            no_augmentation_sources=no_augmentation_sources,
            seed=self.seed,
            steps=steps,
        )

    def _callbacks(self, val_dataset):
        """Validation by AJI, which says more about nuclei than the loss does."""
        return [] if val_dataset is None else [ValidationAJI(self, val_dataset)]

    def predict(self, image, progress=False, statistics=None):
        """The probability maps of an image of any size.

        Parameters
        ----------
        image : ndarray uint8 [H, W, C]
        progress : bool
            Show a bar with an ETA, in tiles.
        statistics : (mean, std), optional
            See `mrcnn.images.normalize_statistics`. By default the image's own.

        Returns
        -------
        float32 array [H, W, 3]
        """
        config = self.config
        molded = mold_image(image, config, statistics or normalize_statistics(image, config))
        return predict_maps(
            lambda batch: self._forward([batch])[0],
            molded.astype(np.float32),
            config.DETECTION_TILE,
            config.DETECTION_OVERLAP,
            config.TEST_TIME_AUGMENTATION,
            progress,
        )

    def detect(self, image, progress=False, statistics=None):
        """Find the nuclei of an image of any size.

        Parameters
        ----------
        image, progress, statistics
            See `predict`.

        Returns
        -------
        Instances
        """
        return self.segment(self.predict(image, progress, statistics))

    def segment(self, maps):
        """Find the nuclei in maps, by the configured thresholds.

        Parameters
        ----------
        maps : float array [H, W, 3]

        Returns
        -------
        Instances
        """
        config = self.config
        return segment(
            maps,
            config.FOREGROUND_THRESHOLD,
            config.BORDER_THRESHOLD,
            config.INTERIOR_THRESHOLD,
            config.MIN_MARKER_AREA,
            config.MIN_NUCLEUS_AREA,
            config.MARKER_DEPTH,
            config.MARKER_SMOOTHING,
        )

    def export(self, path, format=None, metadata=None):
        """Write the network for programs that have neither Keras nor this package.

        Its input is one image of `config.IMAGE_SHAPE`, `image` float32 [1, H, W, C], normalised;
        its output is `maps` [1, H, W, 3]. The watershed is not part of it.

        Parameters
        ----------
        path, format, metadata
            See `mrcnn.model.MaskRCNN.export`.

        Raises
        ------
        InputError
            See `mrcnn.export.export_model`.
        """
        if self.mode != "inference":
            raise ValueError("a model in training mode is not exported: build it for inference")
        shape = (int(side) for side in self.config.IMAGE_SHAPE)
        image = keras.Input(batch_shape=(1, *shape), name="image")
        (maps,) = self.keras_model([image])
        network = keras.Model(image, {"maps": maps})
        export_model(network, path, format, {**(metadata or {}), "config": self.config.to_dict()})
