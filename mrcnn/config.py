"""Settings of the network, its training and its detections."""

import copy
import sys
import types

import numpy as np

PYRAMID_MULTIPLE = 64
"""The FPN halves an image six times; sides that are no multiple of it do not add up again."""


class Config:
    """Base class of all settings: subclass it and override what differs.

    Names and defaults are Matterport's, except those grouped under "Extensions", which leave the
    behaviour as it was until they are set.

    Attributes
    ----------
    BATCH_SIZE : int
        `IMAGES_PER_GPU * GPU_COUNT`.
    IMAGE_SHAPE : ndarray
        (height, width, channels) of what the network is fed in training.
    IMAGE_META_SIZE : int
        Length of an image's meta vector, see `mrcnn.image_meta`.
    """

    NAME = None
    GPU_COUNT = 1
    IMAGES_PER_GPU = 2
    STEPS_PER_EPOCH = 1000
    VALIDATION_STEPS = 50

    # Backbone and pyramid. BACKBONE is "resnet50", "resnet101" or a callable
    # (input_image, stage5=..., train_bn=...) -> [C1, ..., C5]; a callable comes with
    # COMPUTE_BACKBONE_SHAPE(image_shape) -> [levels, 2].
    BACKBONE = "resnet101"
    COMPUTE_BACKBONE_SHAPE = None
    BACKBONE_STRIDES = [4, 8, 16, 32, 64]
    FPN_CLASSIF_FC_LAYERS_SIZE = 1024
    TOP_DOWN_PYRAMID_SIZE = 256

    NUM_CLASSES = 1  # including the background

    # Anchors and proposals. One scale (the side of a square anchor, in pixels) a pyramid level;
    # a ratio is width / height.
    RPN_ANCHOR_SCALES = (32, 64, 128, 256, 512)
    RPN_ANCHOR_RATIOS = [0.5, 1, 2]
    RPN_ANCHOR_STRIDE = 1
    RPN_NMS_THRESHOLD = 0.7
    RPN_TRAIN_ANCHORS_PER_IMAGE = 256
    PRE_NMS_LIMIT = 6000
    POST_NMS_ROIS_TRAINING = 2000
    POST_NMS_ROIS_INFERENCE = 1000

    # Ground-truth masks are stored at this size, relative to their box.
    USE_MINI_MASK = True
    MINI_MASK_SHAPE = (56, 56)

    # How images become the network's input, see `mrcnn.utils.resize_image`.
    IMAGE_RESIZE_MODE = "square"
    IMAGE_MIN_DIM = 800
    IMAGE_MAX_DIM = 1024
    IMAGE_MIN_SCALE = 0
    IMAGE_CHANNEL_COUNT = 3
    MEAN_PIXEL = np.array([123.7, 116.8, 103.9])  # RGB

    # Heads. 512 ROIs an image are the paper's; few positive proposals make a smaller number better.
    TRAIN_ROIS_PER_IMAGE = 200
    ROI_POSITIVE_RATIO = 0.33
    POOL_SIZE = 7
    MASK_POOL_SIZE = 14
    MASK_SHAPE = [28, 28]
    MAX_GT_INSTANCES = 100
    RPN_BBOX_STD_DEV = np.array([0.1, 0.1, 0.2, 0.2])
    BBOX_STD_DEV = np.array([0.1, 0.1, 0.2, 0.2])

    DETECTION_MAX_INSTANCES = 100
    DETECTION_MIN_CONFIDENCE = 0.7
    DETECTION_ABOVE_BACKGROUND = True  # False: the confidence alone decides
    DETECTION_NMS_THRESHOLD = 0.3

    # Optimisation.
    LEARNING_RATE = 0.001
    LEARNING_MOMENTUM = 0.9
    WEIGHT_DECAY = 0.0001
    LOSS_WEIGHTS = {
        "rpn_class_loss": 1.0,
        "rpn_bbox_loss": 1.0,
        "mrcnn_class_loss": 1.0,
        "mrcnn_bbox_loss": 1.0,
        "mrcnn_mask_loss": 1.0,
    }
    USE_RPN_ROIS = True
    TRAIN_BN = False  # None: train as usual; False: frozen; True: batch statistics at all times
    GRADIENT_CLIP_NORM = 5.0

    # Extensions.
    IMAGE_NORMALIZATION = "mean_pixel"  # or "zscore": zero mean, unit variance of each image
    DETECTION_MASK_THRESHOLD = 0.5
    RPN_CHANNELS = 512
    FPN_MASK_CHANNELS = 256
    BATCH_NORM_MOMENTUM = 0.99
    NORMALIZATION = "batch"  # or "group", "layer": see `mrcnn.backbone.normalize`
    MASK_LOSS = "bce"  # or "dice": see `mrcnn.losses`
    OPTIMIZER = "sgd"  # or "adam"
    JIT_COMPILE = "auto"  # True, False: whether XLA compiles the network, see docs/backends.md
    DTYPE_POLICY = "float32"  # or "mixed_bfloat16", "mixed_float16": see docs/performance.md
    BATCH_PROCESSES = 0  # that make batches; 0: threads, see docs/performance.md
    SEED = 0

    def __init__(self):
        self.BATCH_SIZE = self.IMAGES_PER_GPU * self.GPU_COUNT
        side = self.IMAGE_MIN_DIM if self.IMAGE_RESIZE_MODE == "crop" else self.IMAGE_MAX_DIM
        if self.IMAGE_RESIZE_MODE == "crop":
            side = round_up(side, PYRAMID_MULTIPLE)
        self.IMAGE_SHAPE = np.array([side, side, self.IMAGE_CHANNEL_COUNT])
        self.IMAGE_META_SIZE = 1 + 3 + 3 + 4 + 1 + self.NUM_CLASSES

    def to_dict(self):
        """Return all settings by name, sorted; methods are left out."""
        return {
            name: getattr(self, name)
            for name in sorted(dir(self))
            if not name.startswith("_") and name not in ("to_dict", "display")
        }

    def display(self):
        """Print all settings, one a line."""
        print("\nConfigurations:")
        for name, value in self.to_dict().items():
            print(f"{name:30} {value}")
        print()

    def __reduce__(self):
        """Travel to other processes as a class that they can import, and what differs from it."""
        own = []
        for known in type(self).__mro__:
            if _is_importable(known):
                break
            own += [
                name
                for name, value in vars(known).items()
                if not name.startswith("__") and not isinstance(value, OF_A_CLASS)
            ]
        return _restore, (known, {name: getattr(self, name) for name in own} | vars(self))

    def __copy__(self):
        return _restore(type(self), vars(self))

    def __deepcopy__(self, memo):
        return _restore(type(self), copy.deepcopy(vars(self), memo))


OF_A_CLASS = (types.FunctionType, classmethod, property)
"""What is no setting: methods and the like."""


def _is_importable(cls):
    """Whether another process finds a class by its name; what a notebook defines, it does not."""
    module = sys.modules.get(cls.__module__)
    return hasattr(module, "__file__") and getattr(module, cls.__qualname__, None) is cls


def _restore(base, settings):
    """A configuration of a class, with some settings changed; see `Config.__reduce__`."""
    config = base.__new__(base)
    vars(config).update(settings)
    return config


def round_up(value, multiple):
    """The smallest multiple of `multiple` that is not less than `value`."""
    return -(-value // multiple) * multiple
