"""Settings for nuclei: the paper's, and two presets for machines without a GPU."""

import ast
import difflib
import json

import numpy as np

from mrcnn.config import PYRAMID_MULTIPLE, Config, round_up
from mrcnn.errors import InputError

PLAUSIBLE_MPP = (0.02, 20.0)
"""Microns per pixel of microscopes; what lies beyond is the resolution of a printer."""


class NucleusConfig(Config):
    """The paper's system (Ren et al., "Mask-RCNN for Cell Instance Segmentation", MoNuSeg 2018).

    What the paper does not print follows the 2018 Data Science Bowl entry whose list of changes it
    repeats, raised where 600 x 600 crops of dense tissue need it.

    Attributes
    ----------
    SCHEDULE : list of (layers, until_epoch, factor)
        Stages of training: which layers, until which epoch in all, at which multiple of
        LEARNING_RATE.
    STEPS_PER_EPOCH, VALIDATION_STEPS : int or None
        None: as many batches as show each image once.
    CHECKPOINT : {"best", "last"}
        What comes of a training: the checkpoint of lowest validation loss, or with the U-Net of
        highest AJI; or the last.
    DETECTION_TILE : int
        Side in pixels of the tiles by which larger images are detected, a multiple of 64.
    DETECTION_OVERLAP : int
        Pixels that neighbouring tiles share: more than the diameter of a nucleus.
    MPP : float
        Microns per pixel of the training images. Images that tell another resolution are brought to
        this one.
    AUGMENTATION : dict
        Parameters of `mrcnn_nuclei.augmentation.Augmentation`.
    AUGMENTATION_GROWTH : int
        Over how many epochs the augmentation grows from none to its full strength; 0: full at once.
    INVERT_DARK : bool
        Invert images on a dark ground, such as fluorescence, on their way in: a network that knows
        stained tissue then sees dark nuclei there too.
    CLAHE : float
        Clip limit of the contrast enhancement that images go through on their way in, see
        `mrcnn_nuclei.contrast.enhance`; 0: none.
    TEST_TIME_AUGMENTATION : bool
        See an image's tiles turned over too. Mask R-CNN fuses what it finds in a tile and its three
        flips by `mrcnn_nuclei.box_fusion.fuse_boxes`; the U-Net averages its maps over the eight
        flips and quarter turns.
    MASK_NMS : {"none", "greedy", "soft"}
        Whether overlapping masks of an image suppress each other, see
        `mrcnn_nuclei.postprocessing.postprocess`. Those of the U-Net never overlap.
    MASK_DILATION : int
        Pixels by which the masks of the result grow, or shrink if negative, see
        `mrcnn_nuclei.postprocessing.dilate`.
    INITIAL_WEIGHTS : str
        What training starts from unless told otherwise, see `mrcnn_nuclei.training.train`.
    PRESET : str
        The preset that `make_config` started from.
    MODEL : str
        The network that these are the settings of: "mrcnn" or "unet".
    """

    NAME = "nucleus"
    MODEL = "mrcnn"
    PRESET = "paper"
    INITIAL_WEIGHTS = "coco"
    NUM_CLASSES = 2

    BACKBONE = "resnet101"
    IMAGES_PER_GPU = 5
    STEPS_PER_EPOCH = None
    VALIDATION_STEPS = None
    LEARNING_RATE = 0.001
    LEARNING_MOMENTUM = 0.9
    SCHEDULE = [("heads", 50, 1.0), ("4+", 150, 1.0), ("all", 300, 0.1)]
    CHECKPOINT = "best"

    IMAGE_RESIZE_MODE = "crop"
    IMAGE_MIN_DIM = 600
    IMAGE_MAX_DIM = 600
    IMAGE_MIN_SCALE = 0.0
    IMAGE_NORMALIZATION = "zscore"
    MPP = 0.25
    AUGMENTATION = {"rotate": True, "flip": True, "blur": 1.0}
    AUGMENTATION_GROWTH = 0
    INVERT_DARK = False
    CLAHE = 0.0

    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    RPN_NMS_THRESHOLD = 0.9
    RPN_TRAIN_ANCHORS_PER_IMAGE = 320
    PRE_NMS_LIMIT = 12000
    POST_NMS_ROIS_TRAINING = 2048
    POST_NMS_ROIS_INFERENCE = 4096
    TRAIN_ROIS_PER_IMAGE = 512
    MAX_GT_INSTANCES = 1024
    MINI_MASK_SHAPE = (56, 56)

    DETECTION_MAX_INSTANCES = 2048
    DETECTION_MIN_CONFIDENCE = 0.5
    DETECTION_ABOVE_BACKGROUND = False
    DETECTION_NMS_THRESHOLD = 0.3
    DETECTION_MASK_THRESHOLD = 0.35
    DETECTION_TILE = 640
    DETECTION_OVERLAP = 128
    TEST_TIME_AUGMENTATION = False
    MASK_NMS = "none"
    MASK_DILATION = 0


def _compact_resnet(*args, **kwargs):
    from mrcnn_nuclei.backbone import compact_resnet  # Keras is slow to import

    return compact_resnet(*args, **kwargs)


def _lite_backbone(*args, **kwargs):
    from mrcnn_nuclei.backbone import efficientnet_lite0

    return efficientnet_lite0(*args, **kwargs)


def _compact_shapes(image_shape):
    strides = CompactConfig.BACKBONE_STRIDES
    return np.array([[-(-side // stride) for side in image_shape[:2]] for stride in strides])


class CompactConfig(NucleusConfig):
    """What trains from random weights and detects on two CPU cores: 3.4 million parameters."""

    PRESET = "compact"
    INITIAL_WEIGHTS = "none"
    BACKBONE = staticmethod(_compact_resnet)
    COMPUTE_BACKBONE_SHAPE = staticmethod(_compact_shapes)
    TOP_DOWN_PYRAMID_SIZE = 96
    RPN_CHANNELS = 128
    FPN_CLASSIF_FC_LAYERS_SIZE = 256
    FPN_MASK_CHANNELS = 64
    TRAIN_BN = None
    BATCH_NORM_MOMENTUM = 0.97

    IMAGES_PER_GPU = 4
    STEPS_PER_EPOCH = 100
    VALIDATION_STEPS = 6
    OPTIMIZER = "adam"
    LEARNING_RATE = 0.001
    SCHEDULE = [("all", 15, 1.0), ("all", 20, 0.1)]
    AUGMENTATION = {"rotate": True, "flip": True, "blur": 1.0, "stain": 0.1, "scale": (0.8, 1.25)}

    IMAGE_MIN_DIM = 256
    IMAGE_MAX_DIM = 256
    RPN_ANCHOR_SCALES = (12, 24, 48, 96, 192)
    RPN_NMS_THRESHOLD = 0.8
    RPN_TRAIN_ANCHORS_PER_IMAGE = 256
    PRE_NMS_LIMIT = 3000
    POST_NMS_ROIS_TRAINING = 512
    TRAIN_ROIS_PER_IMAGE = 128
    MAX_GT_INSTANCES = 256
    MINI_MASK_SHAPE = (28, 28)

    DETECTION_MAX_INSTANCES = 768
    DETECTION_MIN_CONFIDENCE = 0.25
    DETECTION_TILE = 576
    DETECTION_OVERLAP = 96


POINTWISE = r"(?!res\d._branch2b).*"
"""All layers but the depthwise convolutions of EfficientNet-Lite0. These stay as they were in
ImageNet's weights: 6 % of them, whose gradient would take a third of a step on a CPU."""

STRONG_AUGMENTATION = {
    "rotate": True,
    "flip": True,
    "blur": 1.0,
    "stain": 0.2,
    "brightness": 0.1,
    "scale": (0.7, 1.4),
}


class LiteConfig(CompactConfig):
    """What trains from ImageNet's weights on two CPU cores: 5.0 million parameters."""

    PRESET = "lite"
    INITIAL_WEIGHTS = "imagenet"
    BACKBONE = staticmethod(_lite_backbone)
    IMAGES_PER_GPU = 2
    STEPS_PER_EPOCH = 200
    VALIDATION_STEPS = 12
    SCHEDULE = [(POINTWISE, 7, 1.0), (POINTWISE, 10, 0.3), (POINTWISE, 12, 0.05)]
    CHECKPOINT = "last"  # a few anchors far off may make the RPN's part of the validation loss
    AUGMENTATION = STRONG_AUGMENTATION


class _UNetSettings:
    """What the multi-task U-Net needs beyond a detector's settings.

    Attributes
    ----------
    DECODER_CHANNELS : sequence of int
        Of each decoder, at strides 16, 8, 4, 2 and 1. With fewer than five numbers the last stage's
        channels make the rest of the map's pixels.
    LOSS_WEIGHTS : dict
        Of each map.
    SOFT_IOU_WEIGHT, FOCAL_GAMMA : float
        See `mrcnn_nuclei.unet.losses.map_loss`.
    BOUNDARY_WEIGHT : float
        See `mrcnn_nuclei.unet.targets.boundary_weights`; 0 weighs all pixels alike.
    FOREGROUND_THRESHOLD, BORDER_THRESHOLD, INTERIOR_THRESHOLD : float
        See `mrcnn_nuclei.unet.watershed.segment`; of the last two None leaves a map out.
    MIN_MARKER_AREA, MIN_NUCLEUS_AREA : int
        In pixels.
    MARKER_DEPTH, MARKER_SMOOTHING : float
        How far peaks stand out from each other, as a probability, where a marker is divided, and
        pixels by which the maps are smoothed first.
    """

    MODEL = "unet"
    LOSS_WEIGHTS = {"foreground_loss": 1.0, "border_loss": 1.0, "interior_loss": 1.0}
    SOFT_IOU_WEIGHT = 1.0
    FOCAL_GAMMA = 0.0
    BOUNDARY_WEIGHT = 0.0
    FOREGROUND_THRESHOLD = 0.5
    BORDER_THRESHOLD = 0.5
    INTERIOR_THRESHOLD = 0.5
    MIN_MARKER_AREA = 4
    MARKER_DEPTH = 0.1
    MARKER_SMOOTHING = 2.5
    MIN_NUCLEUS_AREA = 40


class UNetConfig(_UNetSettings, NucleusConfig):
    """The paper's second network, on the encoder of its first."""

    TRAIN_BN = None  # the decoders have no statistics to freeze
    DECODER_CHANNELS = (256, 128, 64, 32, 16)
    OPTIMIZER = "adam"
    LEARNING_RATE = 0.0001


class CompactUNetConfig(_UNetSettings, CompactConfig):
    """A U-Net that trains from random weights on two CPU cores.

    Many steps of small crops at a high rate begin far faster than few of large ones, see
    benchmarks/RESULTS.md.
    """

    DECODER_CHANNELS = (96, 64, 48, 32)
    IMAGE_MIN_DIM = 128
    IMAGE_MAX_DIM = 128
    IMAGES_PER_GPU = 8
    STEPS_PER_EPOCH = 250
    VALIDATION_STEPS = 24
    LEARNING_RATE = 0.002
    SCHEDULE = [("all", 10, 1.0), ("all", 15, 0.3), ("all", 18, 0.05)]
    AUGMENTATION = STRONG_AUGMENTATION


class LiteUNetConfig(_UNetSettings, LiteConfig):
    """A U-Net that trains from ImageNet's weights on two CPU cores."""

    DECODER_CHANNELS = CompactUNetConfig.DECODER_CHANNELS
    IMAGES_PER_GPU = 4
    VALIDATION_STEPS = 6
    SCHEDULE = [(POINTWISE, 3, 1.0), (POINTWISE, 5, 0.3), (POINTWISE, 6, 0.05)]
    CHECKPOINT = "best"


DERIVED = {
    "MODEL": "--model",
    "NAME": "--model, --preset and --fold",
    "PRESET": "--preset",
    "BATCH_SIZE": "IMAGES_PER_GPU",
    "IMAGE_SHAPE": "IMAGE_MIN_DIM and IMAGE_MAX_DIM",
    "IMAGE_META_SIZE": "NUM_CLASSES",
}
"""Settings that cannot be set by themselves, and what they follow from."""

PRESETS = {"paper": NucleusConfig, "compact": CompactConfig, "lite": LiteConfig}
UNET_PRESETS = {"paper": UNetConfig, "compact": CompactUNetConfig, "lite": LiteUNetConfig}
MODELS = {"mrcnn": PRESETS, "unet": UNET_PRESETS}
"""Presets of each network."""


def make_config(preset, settings=None, name=None, model="mrcnn"):
    """A preset with some settings changed.

    Parameters
    ----------
    preset : {"paper", "compact", "lite"}
    settings : dict, optional
        Setting -> value, see `parse_settings`.
    name : str, optional
        `Config.NAME`, which names runs and checkpoints.
    model : {"mrcnn", "unet"}

    Returns
    -------
    NucleusConfig

    Raises
    ------
    InputError
        If the preset is unknown, or settings do not fit each other.
    """
    presets = MODELS[model]
    if preset not in presets:
        raise InputError(f"--preset {preset}: unknown; choose {' or '.join(presets)}")
    base = presets[preset]
    for setting, value in (settings or {}).items():
        _check_setting(setting, value, base, f"{setting} = {value!r}:")
    attributes = {**(settings or {}), "PRESET": preset}
    if name is not None:
        attributes["NAME"] = name
    config = type(base.__name__, (base,), attributes)()
    _check(config, base)
    return config


POSITIVE = (
    "GPU_COUNT",
    "IMAGES_PER_GPU",
    "NUM_CLASSES",
    "IMAGE_MIN_DIM",
    "MAX_GT_INSTANCES",
    "TRAIN_ROIS_PER_IMAGE",
    "POST_NMS_ROIS_TRAINING",
    "POST_NMS_ROIS_INFERENCE",
    "DETECTION_MAX_INSTANCES",
    "LEARNING_RATE",
    "MPP",
)
"""Settings that must be more than 0."""

NOT_NEGATIVE = ("AUGMENTATION_GROWTH", "BATCH_PROCESSES", "CLAHE")

UNET_NOT_NEGATIVE = (
    "SOFT_IOU_WEIGHT",
    "FOCAL_GAMMA",
    "BOUNDARY_WEIGHT",
    "MARKER_DEPTH",
    "MARKER_SMOOTHING",
)

OPTIONS = {
    "CHECKPOINT": ("best", "last"),
    "MASK_LOSS": ("bce", "dice"),
    "MASK_NMS": ("none", "greedy", "soft"),
    "NORMALIZATION": ("batch", "group", "layer"),
    "DTYPE_POLICY": ("float32", "mixed_bfloat16", "mixed_float16"),
}
"""Settings that are one of a few words."""


def _check(config, base):
    for name in POSITIVE:
        if getattr(config, name) <= 0:
            raise InputError(f"{name} = {getattr(config, name)}: must be more than 0")
    for name in NOT_NEGATIVE:
        if getattr(config, name) < 0:
            raise InputError(f"{name} = {getattr(config, name)}: must be at least 0")
    for name, options in OPTIONS.items():
        if getattr(config, name) not in options:
            raise InputError(f"{name} = {getattr(config, name)}: choose {' or '.join(options)}")
    scales, strides = config.RPN_ANCHOR_SCALES, config.BACKBONE_STRIDES
    if len(scales) != len(strides):
        raise InputError(
            f"RPN_ANCHOR_SCALES = {scales}: give {len(strides)} scales, one a level of the pyramid"
        )
    if not 0 <= config.DETECTION_OVERLAP < config.DETECTION_TILE:
        raise InputError(
            f"DETECTION_OVERLAP = {config.DETECTION_OVERLAP}: must be less than DETECTION_TILE = "
            f"{config.DETECTION_TILE}"
        )
    if not callable(config.BACKBONE) and config.BACKBONE not in ("resnet50", "resnet101"):
        raise InputError(f"BACKBONE = {config.BACKBONE}: choose resnet50 or resnet101")
    if _spares_depthwise(config) and config.BACKBONE is not LiteConfig.BACKBONE:
        raise InputError(
            f"BACKBONE = {config.BACKBONE}: the SCHEDULE of this preset spares layers of another "
            """one; give one of all layers too, such as SCHEDULE=[("all",12,1.0)]"""
        )
    if config.JIT_COMPILE not in (True, False, "auto"):
        raise InputError(f"JIT_COMPILE = {config.JIT_COMPILE}: choose True, False or 'auto'")
    weights, losses = config.LOSS_WEIGHTS, base.LOSS_WEIGHTS
    if not losses.keys() >= weights.keys() or min(weights.values(), default=0) < 0:
        raise InputError(f"LOSS_WEIGHTS = {weights}: give at least 0 for {', '.join(losses)}")
    if config.MODEL == "unet":
        _check_unet(config)


def _spares_depthwise(config):
    return any(stage[:1] == (POINTWISE,) for stage in map(tuple, config.SCHEDULE))


def require_start(config, weights):
    """Refuse to begin from random weights that a schedule would not train.

    Parameters
    ----------
    config : NucleusConfig
    weights : str or Path

    Raises
    ------
    InputError
    """
    if weights == "none" and _spares_depthwise(config):
        raise InputError(
            f"--weights none: the SCHEDULE of --preset {config.PRESET} leaves the depthwise "
            "convolutions as they are; give --weights imagenet, or one of all layers, such as "
            """--set 'SCHEDULE=[("all",12,1.0)]'"""
        )


def _check_unet(config):
    channels = config.DECODER_CHANNELS
    if not 1 <= len(channels) <= 5 or min(channels) < 1:
        raise InputError(f"DECODER_CHANNELS = {channels}: give 1 to 5 numbers, each more than 0")
    for name in UNET_NOT_NEGATIVE:
        if getattr(config, name) < 0:
            raise InputError(f"{name} = {getattr(config, name)}: must be at least 0")
    if config.MASK_NMS != "none":
        raise InputError(
            f"MASK_NMS = {config.MASK_NMS}: the masks of the U-Net do not overlap; leave it at none"
        )
    if config.IMAGE_MIN_SCALE > 1:
        raise InputError(
            f"IMAGE_MIN_SCALE = {config.IMAGE_MIN_SCALE}: the U-Net sees images as they are; "
            "leave it at 0"
        )


def json_settings(config):
    """The settings of a configuration that can be written down: not code, nor what follows.

    Parameters
    ----------
    config : NucleusConfig

    Returns
    -------
    dict
        JSON-able, fit for `make_config`.
    """
    settings = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in config.to_dict().items()
        if name.isupper() and name not in DERIVED and not callable(value)
    }
    return json.loads(json.dumps(settings))  # tuples as the lists that they will be read as


def inference_config(config, settings=None):
    """The same network for detection: one image at a time, of any size up to DETECTION_TILE.

    Proposals are thinned out a little more than in training (by an IoU of 0.7, as in Matterport's
    nucleus sample), and as many anchors an area are considered as there.

    Parameters
    ----------
    config : NucleusConfig
    settings : dict, optional
        What shall be otherwise.

    Returns
    -------
    NucleusConfig
    """
    tiles = (config.DETECTION_TILE / config.IMAGE_MIN_DIM) ** 2
    attributes = {
        "RPN_NMS_THRESHOLD": 0.7,
        "PRE_NMS_LIMIT": max(config.PRE_NMS_LIMIT, round(config.PRE_NMS_LIMIT * tiles)),
        "GPU_COUNT": 1,
        "IMAGES_PER_GPU": 1,
        "IMAGE_RESIZE_MODE": "pad64",
        "IMAGE_MIN_DIM": None,
        "IMAGE_MAX_DIM": round_up(config.DETECTION_TILE, PYRAMID_MULTIPLE),
    }
    attributes |= {k: v for k, v in vars(config).items() if k.isupper() and k not in DERIVED}
    attributes |= settings or {}
    return type(type(config).__name__, (type(config),), attributes)()


def parse_settings(assignments, preset, model="mrcnn"):
    """Read `NAME=VALUE` options.

    Parameters
    ----------
    assignments : list of str
        Values are Python literals, or text.
    preset, model : str

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If there is no such setting (the nearest name is offered), or its value is of another kind.
    """
    settings = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip()
        if not equals:
            raise InputError(f"--set {assignment}: write NAME=VALUE")
        if name in DERIVED:
            source = DERIVED[name]
            raise InputError(f"--set {assignment}: {name} follows from {source}; change that")
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            value = text
        _check_setting(name, value, MODELS[model][preset], f"--set {assignment}:")
        settings[name] = value
    return settings


OPTIONAL = (
    "STEPS_PER_EPOCH",
    "VALIDATION_STEPS",
    "TRAIN_BN",
    "BORDER_THRESHOLD",
    "INTERIOR_THRESHOLD",
)
"""Settings for which None has a meaning."""

KINDS = (
    (bool, bool, "True or False"),
    (int, int, "a whole number"),
    (float, (int, float), "a number"),
    (str, str, "text"),
    ((list, tuple, np.ndarray), (list, tuple, np.ndarray), "a list"),
    (dict, dict, "a dictionary"),
)
"""What a default is, what may replace it, and how to say so."""


def _check_setting(name, value, config_class, context):
    """Refuse a setting that the configuration does not have, or a value of another kind."""
    names = [known for known in dir(config_class) if known.isupper()]
    if name not in names:
        near = difflib.get_close_matches(name.upper(), names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "see mrcnn_nuclei.config for the names"
        raise InputError(f"{context} there is no setting {name} of {config_class.MODEL}; {hint}")
    if callable(value) or name == "JIT_COMPILE" or (value is None and name in OPTIONAL):
        return
    default = getattr(config_class, name)
    default = getattr(Config, name, None) if default is None else default
    for kind, accepted, wanted in KINDS:
        if isinstance(default, kind):
            if not isinstance(value, accepted):
                raise InputError(f"{context} {value!r} is not {wanted}, as {default!r} is")
            return
