"""The published weights that training starts from: fetched once, checked, kept in Keras's cache.

COCO weights are Matterport's release file: all of Mask R-CNN with ResNet-101 and 81 classes. Nobody
publishes a digest of it. A download must have the size that the server announces, and any file the
layers of `COCO_SHAPES`, each with an array of that shape; no value is checked. Its SHA-256 is
printed, for who wants to compare it.

ImageNet weights are those of the ResNets of `keras.applications`, whose files Keras checks by their
MD5. They are written again with Matterport's names and, so that features stay the same, in its
conventions:

- Batch normalisation divides by sqrt(variance + epsilon), with an epsilon of 1.001e-5 there and
  1e-3 here: gamma makes up for it.
- Images are BGR there and RGB here: the input channels of the first convolution are reversed. Both
  subtract ImageNet's mean colour, here rounded to one decimal (`MEAN_PIXEL`).

One difference no weights can mend. Both networks pool 3 x 3 after the first convolution. A map with
an odd number of rows and columns both pad by one on each side; an even one, which every image has
whose sides are multiples of 64, Matterport pads at the bottom and right only. Its features are then
those that `keras.applications` has of the image moved up and left by two pixels, borders apart.
"""

import contextlib
import functools
import os
import re
from pathlib import Path

import h5py
import numpy as np

from mrcnn.download import download, download_failed, file_name, print_digest
from mrcnn.errors import InputError

COCO_MODEL_URL = "https://github.com/matterport/Mask_RCNN/releases/download/v2.0/mask_rcnn_coco.h5"
COCO_SHAPES = {
    "conv1": (7, 7, 3, 64),
    "res4w_branch2c": (1, 1, 256, 1024),  # in ResNet-101 only
    "res5c_branch2c": (1, 1, 512, 2048),
    "fpn_c5p5": (1, 1, 2048, 256),
    "rpn_model": (3, 3, 256, 512),
    "mrcnn_class_logits": (1024, 81),
    "mrcnn_bbox_fc": (1024, 4 * 81),
    "mrcnn_mask": (1, 1, 256, 81),
}
"""Layers that the file is known by, with the shape of a kernel in each."""

IMAGENET_URL = (
    "https://storage.googleapis.com/tensorflow/keras-applications/resnet/"
    "{}_weights_tf_dim_ordering_tf_kernels_notop.h5"
)
IMAGENET_MODELS = {"resnet50": "ResNet50", "resnet101": "ResNet101"}
"""What `keras.applications` calls each `Config.BACKBONE`."""
IMAGENET_SHAPES = {
    "conv1": (7, 7, 3, 64),
    "bn_conv1": (64,),
    "res5c_branch2c": (1, 1, 512, 2048),
    "bn5c_branch2c": (2048,),
}
KERAS_FAILURES = ("URL fetch failure", "Incomplete or corrupted file")
"""How the messages of `keras.utils.get_file` begin; it raises a bare Exception or a ValueError."""

EPSILON = 1e-3
"""Of Matterport's batch normalisation: the default of Keras."""


def cache_folder():
    """Where downloads are kept, as Keras does: `models` in `KERAS_HOME`, by default `~/.keras`.

    Returns
    -------
    Path
    """
    return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "models"


def coco_weights():
    """Matterport's COCO weights, downloaded unless they are in the cache.

    The SHA-256 is printed after a download, and when a process first takes the file from the cache.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If they cannot be had, or the file in the cache is damaged; the message says what to do.
    """
    path = cache_folder() / file_name(COCO_MODEL_URL)
    if path.exists():
        _require_layers(path, COCO_SHAPES)
        _print_digest_once(path)
    else:
        with _cache_problems():
            download_coco(path)
    return path


def download_coco(path, verbose=1):
    """Download Matterport's COCO weights, about 250 MB; see `mrcnn.download.download`.

    Parameters
    ----------
    path : str or Path
    verbose : int
    """
    download(COCO_MODEL_URL, path, lambda part: _flaw(part, COCO_SHAPES), verbose)


def imagenet_weights(backbone):
    """ImageNet weights of a ResNet in Matterport's layout, downloaded unless they are in the cache.

    Parameters
    ----------
    backbone : str
        "resnet50" or "resnet101".

    Returns
    -------
    Path
        Of a file with the layers of the backbone only: load it `by_name`.

    Raises
    ------
    InputError
        If there are none for the backbone, they cannot be had, or the file in the cache is damaged.
    """
    if backbone not in IMAGENET_MODELS:
        raise InputError(
            f"BACKBONE = {backbone!r}: there are ImageNet weights for "
            f"{' and '.join(IMAGENET_MODELS)} only; start from other weights, or from none"
        )
    path = cache_folder() / f"mrcnn_{backbone}_imagenet.h5"
    if path.exists():
        _require_layers(path, IMAGENET_SHAPES)
    else:
        with _cache_problems():
            _convert_imagenet(backbone, path)
    return path


def _convert_imagenet(backbone, path):
    url = IMAGENET_URL.format(backbone)
    source = cache_folder() / file_name(url)
    if not source.exists():
        download(url, source, lambda part: _flaw(part, {}))
    from keras import applications  # here, because Keras takes seconds to import

    from mrcnn.weights import save_arrays

    build = getattr(applications, IMAGENET_MODELS[backbone])
    try:
        model = build(include_top=False, weights="imagenet")
    except Exception as error:
        if not (isinstance(error, ConnectionError) or str(error).startswith(KERAS_FAILURES)):
            raise
        raise download_failed(url, source, error) from error
    save_arrays(path, convert_resnet(model))


def convert_resnet(model):
    """The weights of a ResNet of `keras.applications` in Matterport's names and conventions.

    Parameters
    ----------
    model : keras.Model
        `ResNet50` or `ResNet101` without its top.

    Returns
    -------
    dict
        {layer: {weight: float32 ndarray}}, for `mrcnn.weights.save_arrays`.
    """
    layers = {}
    for layer in model.layers:
        if layer.weights:
            arrays = dict(zip([weight.name for weight in layer.weights], layer.get_weights()))
            if "gamma" in arrays:
                variance = arrays["moving_variance"].astype("float64")
                scale = np.sqrt((variance + EPSILON) / (variance + layer.epsilon))
                arrays["gamma"] = (arrays["gamma"] * scale).astype("float32")
            name = _matterport_name(layer.name)
            if name == "conv1":
                arrays["kernel"] = arrays["kernel"][:, :, ::-1]
            layers[name] = {f"{name}/{weight}:0": array for weight, array in arrays.items()}
    return layers


def _matterport_name(name):
    """Such as res4b_branch2c for conv4_block2_3_conv, and bn4a_branch1 for conv4_block1_0_bn."""
    if name in ("conv1_conv", "conv1_bn"):
        return {"conv1_conv": "conv1", "conv1_bn": "bn_conv1"}[name]
    stage, block, step, kind = re.fullmatch(r"conv(\d)_block(\d+)_(\d)_(conv|bn)", name).groups()
    letter = chr(ord("a") + int(block) - 1)
    branch = ("1", "2a", "2b", "2c")[int(step)]
    return f"{'res' if kind == 'conv' else 'bn'}{stage}{letter}_branch{branch}"


def _flaw(path, shapes):
    """What is wrong with an `.h5` file that should have layers with such an array each, or None."""
    try:
        with h5py.File(path, "r") as file:
            for layer, shape in shapes.items():
                if not isinstance(file.get(layer), h5py.Group):
                    return f"no layer {layer} in it"
                if shape not in _shapes_in(file[layer]):
                    return f"no array of shape {list(shape)} in its layer {layer}"
    except OSError as error:
        return f"no readable .h5 file: {str(error).splitlines()[0]}"
    return None


def _shapes_in(group):
    """Of all arrays, whatever version of Keras named them."""
    shapes = []
    group.visititems(lambda _, item: shapes.append(getattr(item, "shape", None)))
    return shapes


_print_digest_once = functools.cache(print_digest)


def _require_layers(path, shapes):
    flaw = _flaw(path, shapes)
    if flaw:
        raise InputError(f"{path}: {flaw}; delete this file, so that it is made anew")


@contextlib.contextmanager
def _cache_problems():
    """Of a cache folder that cannot be written to, say how to have another."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{error.filename}: {error.strerror}; set the environment variable KERAS_HOME to a "
            "folder with room that can be written to"
        ) from error
