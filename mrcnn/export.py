"""Networks written for programs without Keras: ONNX and TensorFlow SavedModel."""

import contextlib
import importlib.util
import json
import os
import warnings
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

from mrcnn.backend import require_export
from mrcnn.errors import InputError
from mrcnn.files import DISK_FULL, atomic_folder

FORMATS = ("onnx", "savedmodel")

METADATA = "metadata"
"""Key of the metadata in an ONNX file; with `.json`, its file in a SavedModel's assets.extra."""


class Constant(layers.Layer):
    """The same float32 value for whatever input: an input of a network that export folds in.

    Parameters
    ----------
    value : ndarray
    """

    def __init__(self, value, **kwargs):
        super().__init__(**kwargs)
        self.value = np.asarray(value, np.float32)

    def call(self, inputs):
        return ops.convert_to_tensor(self.value)

    def compute_output_shape(self, input_shape):
        return self.value.shape


def check_export(path, format=None):
    """Fail before the work is done if a network cannot be written to a path.

    Parameters
    ----------
    path : str or Path
    format : {"onnx", "savedmodel"}, optional
        Default: ONNX if the name ends in `.onnx`, else SavedModel.

    Returns
    -------
    str
        The format.

    Raises
    ------
    InputError
        If there is something of that name, the format is unknown, the backend cannot write it, or
        a package for it is missing.
    """
    if format is None:
        format = "onnx" if Path(path).suffix.lower() == ".onnx" else "savedmodel"
    if format not in FORMATS:
        raise InputError(f"format {format}: unknown; choose {' or '.join(FORMATS)}")
    if os.path.lexists(path):
        raise InputError(f"{path}: exists already; remove it, or choose another name")
    require_export(format)
    if format == "onnx" and not importlib.util.find_spec("tf2onnx"):
        raise InputError("format onnx: needs tf2onnx; pip install 'mrcnn-nuclei[export]'")
    return format


def export_model(model, path, format=None, metadata=None):
    """Write a network with all its weights as a file, or folder, that runs elsewhere.

    Parameters
    ----------
    model : keras.Model
        Functional, with one input of a fixed shape, such as `keras.Input(batch_shape=(1, 256, 256,
        3), name="image")`, and a dict of outputs. Input and outputs keep their names.
    path : str or Path
        Appears complete or not at all.
    format : {"onnx", "savedmodel"}, optional
        See `check_export`.
    metadata : dict, optional
        What its user has to know. Written as JSON: into an ONNX file under the key "metadata",
        into a SavedModel as `assets.extra/metadata.json`.

    Raises
    ------
    InputError
        See `check_export`; or if the network has an operation that ONNX lacks.
    OSError
        If it cannot be written.
    """
    format, path = check_export(path, format), Path(path)
    write = {"onnx": _write_onnx, "savedmodel": _write_saved_model}[format]
    with (
        atomic_folder(path) as finished,
        _disk_full_as_os_error(path),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of the converters, on NumPy and each other
        write(model, finished, json.dumps(metadata or {}, default=_plain))


@contextlib.contextmanager
def _disk_full_as_os_error(path):
    """TensorFlow has exceptions of its own for a full disk, with the system's words in them."""
    try:
        yield
    except Exception as error:
        for number in DISK_FULL:
            if os.strerror(number) in str(error):
                raise OSError(number, os.strerror(number), str(path)) from error
        raise


def _write_onnx(model, path, metadata):
    import onnx

    _write(model, path, "onnx")
    # An operation that it does not know, tf2onnx writes as it is.
    try:
        onnx.checker.check_model(path)
    except onnx.checker.ValidationError as error:
        raise InputError(
            f"format onnx: lacks an operation of this network ({str(error).splitlines()[0]}); "
            "choose savedmodel"
        ) from None
    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, {METADATA: metadata})
    onnx.save(graph, path)


def _write_saved_model(model, path, metadata):
    _write(model, path, "tf_saved_model")
    extra = path / "assets.extra"
    extra.mkdir()
    (extra / f"{METADATA}.json").write_text(metadata, encoding="utf-8")


def _write(model, path, keras_format):
    image = model.input
    signature = [keras.InputSpec(shape=image.shape, dtype=image.dtype, name=image.name)]
    model.export(str(path), format=keras_format, verbose=False, input_signature=signature)


def _plain(value):
    """What JSON has no word for: arrays as lists, code by its name."""
    return value.tolist() if hasattr(value, "tolist") else getattr(value, "__name__", str(value))
