"""Weights in Matterport's `.h5` layout, in and out, and the state of an interrupted training.

A file holds a group a layer; its attribute `weight_names` lists the data sets in it, in order. Only
names, arrays and text are read: nothing in a file is ever executed.
"""

import contextlib
import io
import json
import re
from dataclasses import dataclass, field

import h5py
import keras
import numpy as np

from mrcnn.errors import InputError
from mrcnn.files import atomic_path

STATE_GROUP = "training_state"


@dataclass
class LoadReport:
    """What `load_weights` did, as lists of weight names such as `conv1/kernel`.

    Attributes
    ----------
    loaded : list of str
    missing : list of str
        In the model, but not in the file.
    mismatched : list of str
        In both, with different shapes; the model keeps its own.
    unused : list of str
        In the file, but not in the model, or excluded.
    """

    loaded: list = field(default_factory=list)
    missing: list = field(default_factory=list)
    mismatched: list = field(default_factory=list)
    unused: list = field(default_factory=list)

    def __str__(self):
        return (
            f"{len(self.loaded)} weights loaded, {len(self.missing)} not in the file, "
            f"{len(self.mismatched)} of another shape, {len(self.unused)} in the file only"
        )


def weighted_layers(model):
    """The layers of a model that have weights, in order, those of nested models included.

    Parameters
    ----------
    model : keras.Model

    Returns
    -------
    list of keras.layers.Layer
    """
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found += weighted_layers(layer)
        elif layer.weights:
            found.append(layer)
    return found


def save_weights(model, path, attributes=None, state=None):
    """Write a model's weights so that Matterport's package can load them too.

    Parameters
    ----------
    model : keras.Model
    path : str or Path
        Appears complete or not at all.
    attributes : dict, optional
        JSON-able values, kept at the root of the file.
    state : dict, optional
        Arrays and JSON-able values from which training continues, see `load_state`.

    Raises
    ------
    OSError
        If the file cannot be written, with `errno` and `filename` set.
    """
    content = io.BytesIO()  # because HDF5 ends the process when the disk is full
    with h5py.File(content, "w") as file:
        groups = [layer for layer in model.layers if layer.weights]
        file.attrs["layer_names"] = _names(layer.name for layer in groups)
        file.attrs["backend"] = np.bytes_("tensorflow")
        file.attrs["keras_version"] = np.bytes_(keras.__version__)
        for key, value in (attributes or {}).items():
            file.attrs[key] = json.dumps(value)
        for layer in groups:
            group = file.create_group(layer.name)
            parts = weighted_layers(layer) if isinstance(layer, keras.Model) else [layer]
            weights = {f"{part.name}/{w.name}:0": w for part in parts for w in part.weights}
            group.attrs["weight_names"] = _names(weights)
            for name, weight in weights.items():
                group.create_dataset(name, data=keras.ops.convert_to_numpy(weight))
        if state is not None:
            _write_state(file.create_group(STATE_GROUP), state)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def _names(names):
    return np.array([name.encode() for name in names], dtype="S")


def load_weights(model, path, exclude=()):
    """Read weights by layer and weight name into a model.

    Parameters
    ----------
    model : keras.Model
    path : str or Path
        Written by `save_weights`, by Matterport's package, or by Keras 1 or 2.
    exclude : collection of str
        Layers to leave as they are.

    Returns
    -------
    LoadReport

    Raises
    ------
    InputError
        If the file is missing, unreadable or no `.h5` of weights, or nothing in it fits.
    """
    report = LoadReport()
    layers = {layer.name: layer for layer in weighted_layers(model) if layer.name not in exclude}
    seen = set()
    with open_weights(path) as file:
        for layer_name, arrays in _layers_in(file, set(layers)):
            layer = layers.get(layer_name)
            if layer is None:
                report.unused += [f"{layer_name}/{name}" for name in arrays]
                continue
            targets = {weight.name: weight for weight in layer.weights}
            if not set(arrays) <= set(targets) and len(arrays) == len(targets):
                arrays = dict(zip(targets, arrays.values()))  # Keras 1 named its weights otherwise
            for name, array in arrays.items():
                full = f"{layer_name}/{name}"
                seen.add(full)
                if name not in targets:
                    report.unused.append(full)
                elif tuple(array.shape) != tuple(targets[name].shape):
                    report.mismatched.append(full)
                else:
                    targets[name].assign(np.asarray(array, dtype="float32"))
                    report.loaded.append(full)
    names = [f"{layer.name}/{w.name}" for layer in layers.values() for w in layer.weights]
    report.missing = [name for name in names if name not in seen]
    if not report.loaded:
        raise InputError(
            f"{path}: no weight in it fits this network ({report}): "
            "give weights of the same architecture"
        )
    return report


@contextlib.contextmanager
def open_weights(path):
    """Read from an `.h5` file in a `with` block, or say in one line why that cannot be done."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"{path}: no such weights file") from None
    except InputError:
        raise
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path}: not a readable .h5 file ({reason}): it may be cut off; fetch or save it again"
        ) from None


def _layers_in(file, known):
    """Yield (layer name, {weight name: data set}); nested models are taken apart."""
    root = file["model_weights"] if "model_weights" in file else file
    for group_name in _text(root, "layer_names"):
        group = root[group_name]
        parts = {}
        for path in _text(group, "weight_names"):
            *folders, name = path.split("/")
            owner = folders[-1] if folders else group_name
            # Keras appends _1 where a name was taken in its session.
            plain = re.sub(r"_\d+$", "", owner)
            if owner not in known and plain in known:
                owner = plain
            nested = group_name not in known and owner in known
            name = name.rpartition(":")[0] or name
            parts.setdefault(owner if nested else group_name, {})[name] = group[path]
        yield from parts.items()


def _text(group, attribute):
    """A list of names; Keras splits lists too long for one attribute into numbered ones."""
    if attribute in group.attrs:
        values = group.attrs[attribute]
    else:
        values, part = [], 0
        while f"{attribute}{part}" in group.attrs:
            values += list(group.attrs[f"{attribute}{part}"])
            part += 1
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def read_attribute(path, name):
    """A value that `save_weights` kept at the root of a file, or None."""
    with open_weights(path) as file:
        value = file.attrs.get(name)
    return None if value is None else json.loads(value)


def load_state(path, arrays=True):
    """The `state` that `save_weights` was given, or None where the file has none.

    Parameters
    ----------
    path : str or Path
    arrays : bool
        Whether to read the arrays too, which may be many.

    Returns
    -------
    dict or None
    """
    with open_weights(path) as file:
        if STATE_GROUP not in file:
            return None
        group = file[STATE_GROUP]
        state = {name: json.loads(value) for name, value in group.attrs.items()}
        for name in group if arrays else ():
            state[name] = [group[name][key][()] for key in sorted(group[name])]
        return state


def _write_state(group, state):
    for name, value in state.items():
        if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
            arrays = group.create_group(name)
            for i, array in enumerate(value):
                arrays.create_dataset(f"{i:06}", data=array)
        else:
            group.attrs[name] = json.dumps(value)
