"""Weights in Matterport's `.h5` layout, in and out, and the state of an interrupted training.

A file holds a group a layer; its attribute `weight_names` lists the data sets in it, in order. Only
names, arrays and text are read: nothing in a file is ever executed, no link is followed, and no
array is read before its shape is known to fit.
"""

import contextlib
import io
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import keras
import numpy as np

from mrcnn.errors import InputError
from mrcnn.files import atomic_path

STATE_GROUP = "training_state"


@dataclass
class LoadReport:
    """What `load_weights` did, as lists of weight names such as `conv1/kernel`.

    As text it is one line that counts layers, and names those that were not loaded.

    Attributes
    ----------
    loaded : list of str
    mismatched : list of str
        In both, with different shapes; the model keeps its own.
    excluded : list of str
        In the file, but asked to be left alone.
    missing : list of str
        In the model, but not in the file.
    unused : list of str
        In the file, but not in the model.
    """

    loaded: list = field(default_factory=list)
    mismatched: list = field(default_factory=list)
    excluded: list = field(default_factory=list)
    missing: list = field(default_factory=list)
    unused: list = field(default_factory=list)

    def __str__(self):
        partly = {*_layers_of(self.mismatched), *_layers_of(self.missing)}
        whole = [layer for layer in _layers_of(self.loaded) if layer not in partly]
        parts = [f"{len(whole)} {'layer' if len(whole) == 1 else 'layers'} loaded"]
        for weights, what in (
            (self.mismatched, "of another shape"),
            (self.excluded, "excluded"),
            (self.missing, "not in the file"),
            (self.unused, "in the file only"),
        ):
            if layers := _layers_of(weights):
                parts.append(f"{len(layers)} {what} ({_first_few(layers)})")
        return ", ".join(parts)


def _layers_of(weights):
    return list(dict.fromkeys(weight.rpartition("/")[0] for weight in weights))


def _first_few(names, count=4):
    # A file may call a layer anything, line breaks included.
    text = ", ".join(repr(name)[1:-1] for name in names[:count])
    return text if len(names) <= count else f"{text} and {len(names) - count} more"


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

    The layout is that of Keras 2: a group for each layer that has weights, in the model's order,
    listed in the attribute `layer_names` of the root; in each the weights in the layer's order,
    listed in its attribute `weight_names` as `conv1/kernel:0`; a nested model (`rpn_model`) is one
    group. Keras 2 matches both lists by position, or the layers by name. It skips the empty groups
    that it wrote for layers without weights, so that there are none here.

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
    groups = {}
    for layer in model.layers:
        parts = weighted_layers(layer) if isinstance(layer, keras.Model) else [layer]
        weights = {f"{part.name}/{w.name}:0": w for part in parts for w in part.weights}
        if weights:
            groups[layer.name] = weights
    save_arrays(path, groups, attributes, state)


def save_arrays(path, groups, attributes=None, state=None):
    """Write weights that are in no model; see `save_weights`.

    Parameters
    ----------
    path : str or Path
    groups : dict
        {layer: {weight: array or variable}}, with weight names such as `conv1/kernel:0`.
    attributes, state : dict, optional
    """
    content = io.BytesIO()  # because HDF5 ends the process when the disk is full
    with h5py.File(content, "w") as file:
        file.attrs["layer_names"] = _names(groups)
        file.attrs["backend"] = np.bytes_("tensorflow")
        file.attrs["keras_version"] = np.bytes_(keras.__version__)
        for key, value in (attributes or {}).items():
            file.attrs[key] = json.dumps(value)
        for layer_name, weights in groups.items():
            group = file.create_group(layer_name)
            group.attrs["weight_names"] = _names(weights)
            for name, weight in weights.items():
                group.create_dataset(name, data=keras.ops.convert_to_numpy(weight))
        if state is not None:
            _write_state(file.create_group(STATE_GROUP), state)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def read_arrays(path):
    """Read all weights of a file into no model; the counterpart of `save_arrays`.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    dict
        {layer: {weight: array}}

    Raises
    ------
    InputError
        If the file is missing, unreadable or not written by `save_weights`.
    """
    with open_weights(path) as file:
        if not len(_text(file, "layer_names")):
            raise ValueError("it lists no layers")
        groups = {layer: _follow(file, layer) for layer in _text(file, "layer_names")}
        return {
            layer: {name: _whole(group, name) for name in _text(group, "weight_names")}
            for layer, group in groups.items()
        }


def average_weights(paths, output, attributes=None, dtype="float32"):
    """Write the mean of the weights of several files, statistics of batch norm included.

    Checkpoints from the end of a training scatter around the same place, and so do their scores;
    the mean lies nearer to it (Izmailov et al. 2018).

    Parameters
    ----------
    paths : sequence of str or Path
    output : str or Path
    attributes : dict, optional
        See `save_weights`.
    dtype : str
        That the mean is kept in. "float16" halves the file; `load_weights` reads either. An array
        with a value too large for it, such as a variance, stays in float32.

    Raises
    ------
    InputError
        If a file is not readable, or its weights are not those of the first.
    """
    first, *others = paths
    total = read_arrays(first)
    shapes = _shapes(total)
    total = {layer: {n: x.astype(np.float64) for n, x in w.items()} for layer, w in total.items()}
    for path in others:
        groups = read_arrays(path)
        if _shapes(groups) != shapes:
            raise InputError(f"{path}: is of another network than {first}: give files of one run")
        for layer, weights in groups.items():
            for name, array in weights.items():
                total[layer][name] += array
    means = {
        layer: {name: _rounded(array / len(paths), dtype) for name, array in weights.items()}
        for layer, weights in total.items()
    }
    save_arrays(output, means, attributes)


def _rounded(array, dtype):
    fits = np.abs(array).max(initial=0) <= np.finfo(dtype).max
    return array.astype(dtype if fits else np.float32)


def _shapes(groups):
    return {(layer, name): x.shape for layer, w in groups.items() for name, x in w.items()}


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
        Layers to leave as they are; a nested model stands for all of its layers.

    Returns
    -------
    LoadReport

    Raises
    ------
    InputError
        If the file is missing, unreadable or no `.h5` of weights, or nothing in it fits.
    """
    report = LoadReport()
    layers = {layer.name: layer for layer in weighted_layers(model)}
    nested = [x for x in model.layers if isinstance(x, keras.Model) and x.name in exclude]
    excluded = {*exclude, *(layer.name for part in nested for layer in weighted_layers(part))}
    seen = set()
    with open_weights(path) as file:
        for layer_name, arrays in _layers_in(file, set(layers)):
            layer = layers.get(layer_name)
            if layer is None or layer_name in excluded:
                rest = report.unused if layer is None else report.excluded
                rest += [f"{layer_name}/{name}" for name in arrays]
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
    wanted = [layer for layer in layers.values() if layer.name not in excluded]
    names = [f"{layer.name}/{weight.name}" for layer in wanted for weight in layer.weights]
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
    except (KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{path}: not a readable .h5 file of weights ({reason}): fetch or save it again"
        ) from None


def _layers_in(file, known):
    """Yield (layer name, {weight name: data set}); nested models are taken apart."""
    whole_model = file.get("model_weights", getlink=True) is not None
    root = _follow(file, "model_weights") if whole_model else file
    for group_name in _text(root, "layer_names"):
        group = _follow(root, group_name)
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
            parts.setdefault(owner if nested else group_name, {})[name] = _dataset(group, path)
        yield from parts.items()


def _follow(group, path):
    """What lies at a path in the file itself: a link could name any other file."""
    item = group
    for name in path.split("/"):
        link = item.get(name, getlink=True) if isinstance(item, h5py.Group) else None
        if link is None:
            raise ValueError(f"it lists {path!r} but does not hold it")
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{path!r} in it is a link")
        item = item[name]
    return item


def _dataset(group, path):
    """A data set of numbers in the file itself, of which nothing is read yet."""
    data = _follow(group, path)
    if not isinstance(data, h5py.Dataset) or data.dtype.kind not in "biuf":
        raise ValueError(f"{path!r} in it is no array of numbers")
    if data.is_virtual or data.external:
        raise ValueError(f"{path!r} in it is kept in another file")
    # Each chunk is unpacked in memory as a whole.
    if data.chunks and math.prod(data.chunks) > data.size:
        raise ValueError(f"{path!r} in it is stored in chunks larger than itself")
    return data


def _text(group, attribute):
    """A list of names; Keras splits lists too long for one attribute into numbered ones."""
    if attribute in group.attrs:
        values = group.attrs[attribute]
    else:
        values, part = [], 0
        while f"{attribute}{part}" in group.attrs:
            values += list(group.attrs[f"{attribute}{part}"])
            part += 1
    return [x.decode() if isinstance(x, bytes) else str(x) for x in np.ravel(values)]


def read_attribute(path, name):
    """A value that `save_weights` kept at the root of a file, or None."""
    with open_weights(path) as file:
        return _json(file.attrs, name) if name in file.attrs else None


def _json(attributes, name):
    try:
        return json.loads(attributes[name])
    except (TypeError, ValueError):
        raise ValueError(f"its attribute {name!r} is not JSON") from None


def write_attribute(path, name, value):
    """Change a value that `save_weights` kept at the root of a file.

    Parameters
    ----------
    path : str or Path
        Is replaced whole or not at all.
    name : str
    value : JSON-able
    """
    content = io.BytesIO(Path(path).read_bytes())
    with h5py.File(content, "r+") as file:
        file.attrs[name] = json.dumps(value)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())


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
        if file.get(STATE_GROUP, getlink=True) is None:
            return None
        group = _follow(file, STATE_GROUP)
        state = {name: _json(group.attrs, name) for name in group.attrs}
        for name in group if arrays else ():
            part = _follow(group, name)
            state[name] = [_whole(part, key) for key in sorted(part)]
        return state


def _whole(group, name):
    """An array that this module has written."""
    data = _dataset(group, name)
    # Their shapes are not known beforehand, but they are written as they are, not compressed.
    if data.id.get_storage_size() < data.nbytes:
        raise ValueError(f"{name!r} in it claims to be larger than it is")
    return data[()]


def _write_state(group, state):
    for name, value in state.items():
        if isinstance(value, list) and value and isinstance(value[0], np.ndarray):
            arrays = group.create_group(name)
            for i, array in enumerate(value):
                arrays.create_dataset(f"{i:06}", data=array)
        else:
            group.attrs[name] = json.dumps(value)
