"""Settings for nuclei: the paper's, and a compact preset for machines without a GPU."""

import ast
import difflib

import numpy as np

from mrcnn.config import Config
from mrcnn.errors import InputError


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
    DETECTION_TILE : int
        Side in pixels of the tiles by which larger images are detected, a multiple of 64.
    DETECTION_OVERLAP : int
        Pixels that neighbouring tiles share: more than the diameter of a nucleus.
    AUGMENTATION : dict
        Parameters of `mrcnn_nuclei.augmentation.Augmentation`.
    """

    NAME = "nucleus"
    NUM_CLASSES = 2

    BACKBONE = "resnet101"
    IMAGES_PER_GPU = 5
    STEPS_PER_EPOCH = None
    VALIDATION_STEPS = None
    LEARNING_RATE = 0.001
    LEARNING_MOMENTUM = 0.9
    SCHEDULE = [("heads", 50, 1.0), ("4+", 150, 1.0), ("all", 300, 0.1)]

    IMAGE_RESIZE_MODE = "crop"
    IMAGE_MIN_DIM = 600
    IMAGE_MAX_DIM = 600
    IMAGE_NORMALIZATION = "zscore"
    AUGMENTATION = {"rotate": True, "flip": True, "blur": 1.0}

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
    DETECTION_NMS_THRESHOLD = 0.3
    DETECTION_MASK_THRESHOLD = 0.35
    DETECTION_TILE = 640
    DETECTION_OVERLAP = 128


def _compact_resnet(*args, **kwargs):
    from mrcnn_nuclei.backbone import compact_resnet  # Keras is slow to import

    return compact_resnet(*args, **kwargs)


def _compact_shapes(image_shape):
    strides = CompactConfig.BACKBONE_STRIDES
    return np.array([[-(-side // stride) for side in image_shape[:2]] for stride in strides])


class CompactConfig(NucleusConfig):
    """What trains from random weights and detects on two CPU cores: 4 million parameters."""

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
    SCHEDULE = [("all", 30, 1.0), ("all", 40, 0.1)]
    AUGMENTATION = {"rotate": True, "flip": True, "blur": 1.0, "stain": 0.1, "scale": (0.8, 1.25)}

    IMAGE_MIN_DIM = 256
    IMAGE_MAX_DIM = 256
    RPN_ANCHOR_SCALES = (12, 24, 48, 96, 192)
    RPN_NMS_THRESHOLD = 0.8
    RPN_TRAIN_ANCHORS_PER_IMAGE = 256
    PRE_NMS_LIMIT = 3000
    POST_NMS_ROIS_TRAINING = 512
    POST_NMS_ROIS_INFERENCE = 1536
    TRAIN_ROIS_PER_IMAGE = 128
    MAX_GT_INSTANCES = 256
    MINI_MASK_SHAPE = (28, 28)

    DETECTION_MAX_INSTANCES = 768
    DETECTION_TILE = 576
    DETECTION_OVERLAP = 96


PRESETS = {"paper": NucleusConfig, "compact": CompactConfig}


def make_config(preset, settings=None, name=None):
    """A preset with some settings changed.

    Parameters
    ----------
    preset : {"paper", "compact"}
    settings : dict, optional
        Setting -> value, see `parse_settings`.
    name : str, optional
        `Config.NAME`, which names runs and checkpoints.

    Returns
    -------
    NucleusConfig

    Raises
    ------
    InputError
        If the preset is unknown.
    """
    if preset not in PRESETS:
        raise InputError(f"--preset {preset}: unknown; choose {' or '.join(PRESETS)}")
    attributes = dict(settings or {})
    if name is not None:
        attributes["NAME"] = name
    base = PRESETS[preset]
    return type(base.__name__, (base,), attributes)()


def inference_config(config):
    """The same network for detection: one image at a time, of any size up to DETECTION_TILE.

    Parameters
    ----------
    config : NucleusConfig

    Returns
    -------
    NucleusConfig
    """
    attributes = {
        "GPU_COUNT": 1,
        "IMAGES_PER_GPU": 1,
        "IMAGE_RESIZE_MODE": "pad64",
        "IMAGE_MIN_DIM": None,
        "IMAGE_MAX_DIM": config.DETECTION_TILE,
    }
    instance_settings = {k: v for k, v in vars(config).items() if k.isupper()}
    computed = ("BATCH_SIZE", "IMAGE_SHAPE", "IMAGE_META_SIZE")
    attributes |= {k: v for k, v in instance_settings.items() if k not in computed}
    return type(type(config).__name__, (type(config),), attributes)()


def parse_settings(assignments, preset):
    """Read `NAME=VALUE` options.

    Parameters
    ----------
    assignments : list of str
        Values are Python literals, or text.
    preset : str

    Returns
    -------
    dict

    Raises
    ------
    InputError
        If there is no such setting (the nearest name is offered), or its value is of another kind.
    """
    defaults = make_config(preset).to_dict()
    settings = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        name = name.strip()
        if not equals:
            raise InputError(f"--set {assignment}: write NAME=VALUE")
        if name not in defaults:
            near = difflib.get_close_matches(name.upper(), defaults, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "see mrcnn_nuclei.config for the names"
            raise InputError(f"--set {assignment}: there is no setting {name}; {hint}")
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            value = text
        _check_kind(assignment, defaults[name], value)
        settings[name] = value
    return settings


def _check_kind(assignment, default, value):
    numbers = (bool, int, float)
    sequences = (list, tuple, np.ndarray)
    for kinds, wanted in ((numbers, "a number"), (sequences, "a list"), ((dict,), "a dictionary")):
        if isinstance(default, kinds) and not isinstance(value, kinds) and value is not None:
            raise InputError(f"--set {assignment}: {value!r} is not {wanted}, as {default!r} is")
