"""Run folders and the checkpoints in them: names, order, what is kept, how training continues."""

import datetime
import re
from pathlib import Path

import keras
import numpy as np

from mrcnn.weights import load_state, open_weights, save_weights

CHECKPOINT = re.compile(r"mask_rcnn_(?P<name>.+)_(?P<epoch>\d{4,})\.h5$")
TIMESTAMP = r"\d{8}T\d{4}(\d{2})?"
KEPT = 2
"""Number of latest checkpoints that stay, beside the one of lowest validation loss."""


def new_log_dir(model_dir, name, now=None):
    """A folder name for a run that starts now, such as `shapes20171029T2315`.

    Parameters
    ----------
    model_dir : str or Path
    name : str
        `Config.NAME`.
    now : datetime.datetime, optional

    Returns
    -------
    Path
        Of a folder that does not exist yet; seconds are added where the minute is taken.
    """
    now = now or datetime.datetime.now()
    folder = Path(model_dir) / f"{name.lower()}{now:%Y%m%dT%H%M}"
    while folder.exists():
        folder = Path(model_dir) / f"{name.lower()}{now:%Y%m%dT%H%M%S}"
        now += datetime.timedelta(seconds=1)
    return folder


def checkpoint_name(name):
    """The file name of a run's checkpoints, with a place for `epoch`: see `CHECKPOINT`."""
    return f"mask_rcnn_{name.lower()}_{{epoch:04d}}.h5"


def parse_checkpoint_path(path):
    """The run folder and the epoch of a checkpoint inside one, or None for any other file.

    Parameters
    ----------
    path : str or Path
        Such as `logs/shapes20171029T2315/mask_rcnn_shapes_0001.h5`.

    Returns
    -------
    (Path, int) or None
        The epoch counts from 1: the number of epochs that the weights have seen.
    """
    path = Path(path)
    match = CHECKPOINT.match(path.name)
    if match is None or re.search(TIMESTAMP + "$", path.parent.name) is None:
        return None
    return path.parent, int(match["epoch"])


def checkpoints_in(log_dir):
    """The checkpoints of a run, oldest first."""
    found = [path for path in Path(log_dir).glob("mask_rcnn_*.h5") if CHECKPOINT.match(path.name)]
    return sorted(found, key=lambda path: int(CHECKPOINT.match(path.name)["epoch"]))


def has_later_checkpoint(log_dir, epoch):
    """Whether a run has a checkpoint beyond an epoch: to go on from there is another run."""
    checkpoints = checkpoints_in(log_dir)
    return bool(checkpoints) and parse_checkpoint_path(checkpoints[-1])[1] > epoch


def find_last(model_dir, name):
    """The newest checkpoint of the newest run that has one.

    Parameters
    ----------
    model_dir : str or Path
    name : str
        `Config.NAME`.

    Returns
    -------
    Path

    Raises
    ------
    FileNotFoundError
        If no run of that name has a checkpoint.
    """
    pattern = re.compile(re.escape(name.lower()) + TIMESTAMP)
    folders = [path for path in Path(model_dir).glob("*") if pattern.fullmatch(path.name)]
    for folder in sorted(folders, key=lambda path: path.name, reverse=True):
        checkpoints = checkpoints_in(folder)
        if checkpoints:
            return checkpoints[-1]
    raise FileNotFoundError(f"{model_dir}: no checkpoint of a run named {name!r} in it")


def best_checkpoint(log_dir):
    """The checkpoint of lowest validation loss among those kept, the last where none has one."""
    checkpoints = checkpoints_in(log_dir)
    if not checkpoints:
        raise FileNotFoundError(f"{log_dir}: no checkpoint in it")
    losses = [_validation_loss(path) for path in checkpoints]
    if min(losses) == np.inf:
        return checkpoints[-1]
    return checkpoints[int(np.argmin(losses))]


def _validation_loss(path):
    with open_weights(path) as file:
        loss = float(file.attrs.get("val_loss", np.inf))
    return np.inf if np.isnan(loss) else loss  # of a training that diverged


class Checkpoint(keras.callbacks.Callback):
    """Save the weights and all that training needs to go on, after each epoch.

    Parameters
    ----------
    log_dir : Path
    name : str
        `Config.NAME`.
    attributes : dict
        Kept at the root of each file, see `mrcnn.weights.save_weights`.
    layers : str
        The pattern of the layers in training; the optimiser's state is of use only with the same.
    seed : int
        Of the run.
    """

    def __init__(self, log_dir, name, attributes, layers, seed):
        super().__init__()
        self.log_dir, self.layers, self.seed = Path(log_dir), layers, seed
        self.file_name = checkpoint_name(name)
        self.attributes = attributes

    def on_epoch_end(self, epoch, logs=None):
        optimizer = self.model.optimizer
        state = {
            "epoch": epoch + 1,
            "seed": self.seed,
            "layers": self.layers,
            "optimizer": [keras.ops.convert_to_numpy(v) for v in optimizer.variables],
        }
        attributes = dict(self.attributes)
        if logs and "val_loss" in logs:
            attributes["val_loss"] = float(logs["val_loss"])
        path = self.log_dir / self.file_name.format(epoch=epoch + 1)
        save_weights(self.model, path, attributes, state)
        checkpoints = checkpoints_in(self.log_dir)
        keep = {*checkpoints[-KEPT:], best_checkpoint(self.log_dir)}
        for path in set(checkpoints) - keep:
            path.unlink()


def restore_optimizer(model, path, layers):
    """Give a compiled model's optimiser the state it had when a checkpoint was written.

    Nothing happens where the file has no state, or that of other layers: they start afresh.

    Parameters
    ----------
    model : keras.Model
    path : str or Path
    layers : str
        See `Checkpoint`.

    Returns
    -------
    bool
        Whether the state was restored.
    """
    state = load_state(path)
    optimizer = model.optimizer
    if state is None or state["layers"] != layers:
        return False
    optimizer.build(model.trainable_variables)
    saved = state["optimizer"]
    if [tuple(v.shape) for v in optimizer.variables] != [tuple(array.shape) for array in saved]:
        return False
    for variable, array in zip(optimizer.variables, saved):
        variable.assign(array)
    return True
