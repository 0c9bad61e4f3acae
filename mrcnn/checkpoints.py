"""Run folders and the checkpoints in them: names, order, what is kept, how training continues."""

import datetime
import re
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from mrcnn.weights import load_state, open_weights, save_weights

CHECKPOINT = re.compile(r"(?P<kind>mask_rcnn|unet)_(?P<name>.+)_(?P<epoch>\d{4,})\.h5$")
TIMESTAMP = r"\d{8}T\d{4}(\d{2})?"
KEPT = 2
"""Number of latest checkpoints that stay, beside the best."""


class Monitor(NamedTuple):
    """The entry of Keras's logs by which checkpoints are compared, and whether more is better."""

    name: str
    higher: bool = False


VAL_LOSS = Monitor("val_loss")


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


def checkpoint_name(name, kind="mask_rcnn"):
    """The file name of a run's checkpoints, with a place for `epoch`: see `CHECKPOINT`."""
    return f"{kind}_{name.lower()}_{{epoch:04d}}.h5"


def parse_checkpoint_path(path, kind="mask_rcnn"):
    """The run folder and the epoch of a checkpoint inside one, or None for any other file.

    Parameters
    ----------
    path : str or Path
        Such as `logs/shapes20171029T2315/mask_rcnn_shapes_0001.h5`.
    kind : str
        See `checkpoint_name`; those of another network are other files.

    Returns
    -------
    (Path, int) or None
        The epoch counts from 1: the number of epochs that the weights have seen.
    """
    path = Path(path)
    match = _match(path, kind)
    if match is None or re.search(TIMESTAMP + "$", path.parent.name) is None:
        return None
    return path.parent, int(match["epoch"])


def _match(path, kind):
    match = CHECKPOINT.match(path.name)
    return match if match and match["kind"] == kind else None


def checkpoints_in(log_dir, kind="mask_rcnn"):
    """The checkpoints of a run, oldest first."""
    found = [path for path in Path(log_dir).glob(f"{kind}_*.h5") if _match(path, kind)]
    return sorted(found, key=lambda path: int(_match(path, kind)["epoch"]))


def has_later_checkpoint(log_dir, epoch, kind="mask_rcnn"):
    """Whether a run has a checkpoint beyond an epoch: to go on from there is another run."""
    checkpoints = checkpoints_in(log_dir, kind)
    return bool(checkpoints) and int(_match(checkpoints[-1], kind)["epoch"]) > epoch


def find_last(model_dir, name, kind="mask_rcnn"):
    """The newest checkpoint of the newest run that has one.

    Parameters
    ----------
    model_dir : str or Path
    name : str
        `Config.NAME`.
    kind : str
        See `checkpoint_name`.

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
        checkpoints = checkpoints_in(folder, kind)
        if checkpoints:
            return checkpoints[-1]
    raise FileNotFoundError(f"{model_dir}: no checkpoint of a run named {name!r} in it")


def best_checkpoint(log_dir, kind="mask_rcnn"):
    """The checkpoint with the best value of its run's monitor, the last where none has one."""
    checkpoints = checkpoints_in(log_dir, kind)
    if not checkpoints:
        raise FileNotFoundError(f"{log_dir}: no checkpoint in it")
    scores = [_score(path) for path in checkpoints]
    if max(scores) == -np.inf:
        return checkpoints[-1]
    return checkpoints[int(np.argmax(scores))]


def _score(path):
    with open_weights(path) as file:
        loss = float(file.attrs.get("val_loss", np.inf))  # all that version 0.1 noted
        score = float(file.attrs.get("score", -loss))
    return -np.inf if np.isnan(score) else score  # of a training that diverged


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
    kind : str
        See `checkpoint_name`.
    monitor : Monitor
    """

    def __init__(self, log_dir, name, attributes, layers, seed, kind="mask_rcnn", monitor=VAL_LOSS):
        super().__init__()
        self.log_dir, self.layers, self.seed = Path(log_dir), layers, seed
        self.kind = kind
        self.file_name = checkpoint_name(name, kind)
        self.attributes = attributes
        self.monitor = monitor

    def on_epoch_end(self, epoch, logs=None):
        optimizer = self.model.optimizer
        state = {
            "epoch": epoch + 1,
            "seed": self.seed,
            "layers": self.layers,
            "optimizer": [keras.ops.convert_to_numpy(v) for v in optimizer.variables],
        }
        attributes = dict(self.attributes)
        if logs and self.monitor.name in logs:
            value = float(logs[self.monitor.name])
            attributes |= {
                self.monitor.name: value,
                "score": value if self.monitor.higher else -value,
            }
        path = self.log_dir / self.file_name.format(epoch=epoch + 1)
        save_weights(self.model, path, attributes, state)
        checkpoints = checkpoints_in(self.log_dir, self.kind)
        keep = {*checkpoints[-KEPT:], best_checkpoint(self.log_dir, self.kind)}
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
    if state is None or state.get("layers") != layers:
        return False
    optimizer.build(model.trainable_variables)
    saved = state.get("optimizer", [])
    if [tuple(v.shape) for v in optimizer.variables] != [tuple(array.shape) for array in saved]:
        return False
    for variable, array in zip(optimizer.variables, saved):
        variable.assign(array)
    return True
