"""A preset that builds and trains in seconds, for the tests of training, detection and commands."""

import contextlib
from unittest import mock

import keras
import numpy as np
from backends import eagerly
from helpers import tiny_backbone
from PIL import Image

from mrcnn.model import MaskRCNN
from mrcnn.weights import save_weights
from mrcnn_nuclei.config import (
    PRESETS,
    UNET_PRESETS,
    CompactConfig,
    CompactUNetConfig,
    inference_config,
    make_config,
)
from mrcnn_nuclei.datasets.synthetic import draw_tile
from mrcnn_nuclei.networks import recipe
from mrcnn_nuclei.unet.model import UNet


class TinyNucleusConfig(CompactConfig):
    """64 x 64 crops, eight channels; random weights detect something everywhere."""

    PRESET = "tiny"
    BACKBONE = staticmethod(tiny_backbone)
    TOP_DOWN_PYRAMID_SIZE = 8
    RPN_CHANNELS = 8
    FPN_CLASSIF_FC_LAYERS_SIZE = 8
    FPN_MASK_CHANNELS = 8

    IMAGES_PER_GPU = 1
    STEPS_PER_EPOCH = 1
    VALIDATION_STEPS = 1
    SCHEDULE = [("heads", 1, 1.0), ("all", 2, 0.1)]

    IMAGE_MIN_DIM = 64
    IMAGE_MAX_DIM = 64
    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    RPN_TRAIN_ANCHORS_PER_IMAGE = 32
    PRE_NMS_LIMIT = 100
    POST_NMS_ROIS_TRAINING = 50
    POST_NMS_ROIS_INFERENCE = 50
    TRAIN_ROIS_PER_IMAGE = 16
    MAX_GT_INSTANCES = 32
    DETECTION_MAX_INSTANCES = 40
    DETECTION_MIN_CONFIDENCE = 0.0
    DETECTION_ABOVE_BACKGROUND = True  # else random weights would find every proposal
    DETECTION_TILE = 128
    DETECTION_OVERLAP = 32


class TinyUNetConfig(CompactUNetConfig):
    """The same crops for a U-Net of eight channels; random weights see nuclei nowhere."""

    PRESET = "tiny"
    BACKBONE = staticmethod(tiny_backbone)
    DECODER_CHANNELS = (8, 8, 8, 8, 8)

    IMAGES_PER_GPU = 2
    STEPS_PER_EPOCH = 1
    VALIDATION_STEPS = 1
    SCHEDULE = [("heads", 1, 1.0), ("all", 2, 0.1)]

    IMAGE_MIN_DIM = 64
    IMAGE_MAX_DIM = 64
    DETECTION_TILE = 128
    DETECTION_OVERLAP = 32


@contextlib.contextmanager
def tiny_preset():
    """Offer the preset "tiny", and run networks without the half minute that tracing takes."""
    with (
        mock.patch.dict(PRESETS, tiny=TinyNucleusConfig),
        mock.patch.dict(UNET_PRESETS, tiny=TinyUNetConfig),
        eagerly(),
    ):
        yield


def write_pairs(root, count=3, size=96):
    """Draw tissue into a folder of images and label maps, and return the folder."""
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    for k in range(count):
        image, labels = draw_tile(size, np.random.default_rng(k))
        Image.fromarray(image).save(root / "images" / f"tile{k}.png")
        Image.fromarray(labels.astype(np.uint16)).save(root / "labels" / f"tile{k}.png")
    return root


def write_tiny_weights(path, settings=None):
    """Write the random weights of a tiny network, as training would, and return the path."""
    keras.utils.set_random_seed(0)
    config = make_config("tiny", settings, name="tiny")
    model = MaskRCNN("inference", inference_config(config), path.parent)
    save_weights(model.keras_model, path, recipe(config))
    return path


def write_tiny_unet(path, settings=None):
    """Write the random weights of a tiny U-Net, and return the path."""
    keras.utils.set_random_seed(0)
    config = make_config("tiny", settings, name="tiny", model="unet")
    network = UNet("inference", inference_config(config), path.parent)
    save_weights(network.keras_model, path, recipe(config))
    return path
