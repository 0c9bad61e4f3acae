"""What several test modules share: a network that builds in no time, and golden numbers."""

import importlib.util
import json
import math
from collections import UserDict
from pathlib import Path

import keras
import numpy as np
from keras import layers

from mrcnn.backbone import BatchNorm
from mrcnn.config import Config
from mrcnn.weights import weighted_layers

GOLDEN = Path(__file__).resolve().parent / "golden"
TAKEN = set()
"""The entries of golden files that tests have asked for, such as `layers.npz/car_out_1x1`."""


def tiny_backbone(input_image, stage5=True, train_bn=None):
    """One convolution of eight channels a stage, named as those of the large networks."""
    maps, x = [], input_image
    for stage in range(1, 6 if stage5 else 5):
        name = "conv1" if stage == 1 else f"res{stage}a_branch2a"
        x = layers.Conv2D(8, 3, strides=2, padding="same", name=name)(x)
        x = BatchNorm(train_bn, name=name.replace("res", "bn").replace("conv1", "bn_conv1"))(x)
        x = layers.Activation("relu")(x)
        maps.append(x)
    return maps if stage5 else [*maps, None]


def tiny_backbone_shapes(image_shape):
    """The maps that anchors lie on: P2 to P6."""
    return np.array(
        [[math.ceil(side / stride) for side in image_shape[:2]] for stride in (4, 8, 16, 32, 64)]
    )


class TinyConfig(Config):
    """64 x 64 pixels, three classes, one image a batch, 1,023 anchors, 32,000 weights."""

    NAME = "tiny"
    NUM_CLASSES = 3
    IMAGES_PER_GPU = 1
    STEPS_PER_EPOCH = 2
    VALIDATION_STEPS = 1
    BACKBONE = staticmethod(tiny_backbone)
    COMPUTE_BACKBONE_SHAPE = staticmethod(tiny_backbone_shapes)
    TOP_DOWN_PYRAMID_SIZE = 16
    FPN_CLASSIF_FC_LAYERS_SIZE = 16
    RPN_CHANNELS = 16
    FPN_MASK_CHANNELS = 8
    IMAGE_MIN_DIM = 64
    IMAGE_MAX_DIM = 64
    MINI_MASK_SHAPE = (28, 28)
    RPN_ANCHOR_SCALES = (8, 16, 24, 32, 48)
    RPN_TRAIN_ANCHORS_PER_IMAGE = 32
    PRE_NMS_LIMIT = 200
    POST_NMS_ROIS_TRAINING = 40
    POST_NMS_ROIS_INFERENCE = 30
    TRAIN_ROIS_PER_IMAGE = 12
    MAX_GT_INSTANCES = 8
    DETECTION_MAX_INSTANCES = 10
    DETECTION_MIN_CONFIDENCE = 0


def make_config(base=Config, **overrides):
    """An instance of a Config class with some settings changed."""
    return type("TestConfig", (base,), overrides)()


def tiny_config(**overrides):
    """An instance of TinyConfig with some settings changed."""
    return make_config(TinyConfig, **overrides)


def _load_weight_rule():
    spec = importlib.util.spec_from_file_location("weight_rule", GOLDEN / "weight_rule.py")
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)
    return rule.make_weight


weight_by_rule = _load_weight_rule()
"""The array of (layer name, weight name, shape) that the golden numbers were computed with."""


def fill_by_rule(model):
    """Give a network the weights that the golden numbers were computed with."""
    for layer in weighted_layers(model):
        for weight in layer.weights:
            weight.assign(weight_by_rule(layer.name, weight.name, tuple(weight.shape)))


class Golden(UserDict):
    """Entries of a golden file, by name; each that is asked for is noted in TAKEN.

    Who compares or iterates over all values asks for every one.
    """

    def __init__(self, place, entries):
        self.place = place
        super().__init__({name: _nested(f"{place}/{name}", x) for name, x in entries.items()})

    def __getitem__(self, name):
        value = super().__getitem__(name)
        TAKEN.add(f"{self.place}/{name}")
        return value


def _nested(place, value):
    if isinstance(value, dict):
        return Golden(place, value)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [Golden(f"{place}/*", row) for row in value]
    return value


def golden_arrays(name):
    """The arrays of a golden .npz file."""
    with np.load(GOLDEN / f"{name}.npz") as file:
        return Golden(f"{name}.npz", dict(file))


def golden_json(name):
    """What a golden .json file tells."""
    return Golden(f"{name}.json", json.loads((GOLDEN / f"{name}.json").read_text()))


def golden_entries():
    """The names of all entries, as TAKEN has them."""

    def leaves(place, value):
        if isinstance(value, Golden):
            return [x for name, part in value.data.items() for x in leaves(f"{place}/{name}", part)]
        if isinstance(value, list) and value and isinstance(value[0], Golden):
            return [x for row in value for x in leaves(f"{place}/*", row)]
        return [place]

    found = []
    for path in sorted(GOLDEN.glob("*.npz")):
        found += leaves(path.name, golden_arrays(path.stem))
    for path in sorted(GOLDEN.glob("*.json")):
        found += leaves(path.name, golden_json(path.stem))
    return list(dict.fromkeys(found))


def unpack(arrays, name):
    """A bool array that a golden file holds as packed bits, beside its shape."""
    packed = arrays[f"{name}_packed" if f"{name}_packed" in arrays else name]
    shape = arrays[f"{name}_shape"]
    return np.unpackbits(packed)[: np.prod(shape)].reshape(shape).astype(bool)


def to_numpy(tensors):
    """A tensor, or a sequence of them, as ndarrays."""
    if isinstance(tensors, (list, tuple)):
        return [keras.ops.convert_to_numpy(tensor) for tensor in tensors]
    return keras.ops.convert_to_numpy(tensors)


def assert_close(actual, expected, tolerance=1e-5):
    """Fail if tensors differ by more than a fraction of the expected one's largest value."""
    actual, expected = to_numpy(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    largest = np.abs(expected).max() if expected.size else 0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * largest)
