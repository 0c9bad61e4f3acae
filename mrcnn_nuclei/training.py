"""Staged training: weights to start from, the schedule, progress, and how a run continues."""

import logging
import re
from pathlib import Path

import keras
from tqdm import tqdm

from mrcnn.checkpoints import (
    CHECKPOINT,
    TIMESTAMP,
    best_checkpoint,
    checkpoints_in,
    find_last,
    has_later_checkpoint,
    parse_checkpoint_path,
)
from mrcnn.errors import InputError
from mrcnn.pretrained import coco_weights, imagenet_weights
from mrcnn.weights import load_weights
from mrcnn_nuclei.augmentation import Augmentation
from mrcnn_nuclei.config import LiteConfig, json_settings, require_start
from mrcnn_nuclei.contrast import Prepared
from mrcnn_nuclei.imagenet import lite_weights
from mrcnn_nuclei.networks import NETWORKS, read_recipe, recipe
from mrcnn_nuclei.shipped_weights import find_shipped
from mrcnn_nuclei.tuning import CHOICES

LOGGER = logging.getLogger("mrcnn_nuclei")

CLASS_LAYERS = ["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"]
"""Layers whose shape depends on the number of classes."""

BACKBONE_LAYER = re.compile(r"(conv1|bn_conv1|(res|bn)\d)")


def train(config, train_dataset, val_dataset, logs, weights=None, epochs=None):
    """Train the network of a configuration by the stages of its SCHEDULE.

    Parameters
    ----------
    config : NucleusConfig
    train_dataset, val_dataset : NucleusDataset
    logs : str or Path
        Where each run gets its folder.
    weights : str or Path, optional
        "coco", "imagenet", "he_mrcnn", "he" or "free" (those that come with the project), "last"
        (continue the newest run of `config.NAME`), "none" (random), or a file; a checkpoint of a
        run of `config.NAME` continues that run. Default: `config.INITIAL_WEIGHTS`.
    epochs : int, optional
        Stretch or shorten the schedule to so many epochs in all.

    Returns
    -------
    Path
        The checkpoint that `config.CHECKPOINT` names. `weights` if they are an earlier checkpoint
        of their run and nothing is left to train.

    Raises
    ------
    InputError
        If the weights cannot be had or do not fit.
    """
    weights = find_weights(weights, config, logs)
    require_start(config, weights)
    keras.utils.set_random_seed(config.SEED)
    schedule = scale_schedule(config.SCHEDULE, epochs)
    augmentation, plain = _augmentations(config)
    train_dataset, val_dataset = (
        Prepared(dataset, config) for dataset in (train_dataset, val_dataset)
    )
    attributes = recipe(config)
    config.STEPS_PER_EPOCH = config.STEPS_PER_EPOCH or _batches(train_dataset, config)
    config.VALIDATION_STEPS = config.VALIDATION_STEPS or _batches(val_dataset, config)
    model = NETWORKS[config.MODEL]("training", config, logs)
    model.attributes = attributes
    load_initial_weights(model, weights)
    LOGGER.info(
        "%s: %d images to train on, %d to validate on",
        config.NAME,
        len(train_dataset.image_ids),
        len(val_dataset.image_ids),
    )
    done, total = model.epoch, schedule[-1][1]
    if done >= total:
        LOGGER.warning("nothing to train: %d of %d epochs are done already", done, total)
        # A checkpoint before the last of its run would have begun a run of its own.
        begun = Path(model.log_dir).exists()
        return _result(config, model) if begun else Path(weights)
    with ProgressBar(total, config.STEPS_PER_EPOCH, done) as progress:
        for layers, until_epoch, factor in schedule:
            if until_epoch > model.epoch:
                model.train(
                    train_dataset,
                    val_dataset,
                    learning_rate=config.LEARNING_RATE * factor,
                    epochs=until_epoch,
                    layers=layers,
                    augmentation=augmentation,
                    val_augmentation=plain,
                    custom_callbacks=[progress],
                    verbose=0,
                )
    return _result(config, model)


def _result(config, model):
    if config.CHECKPOINT == "last":
        return checkpoints_in(model.log_dir, model.kind)[-1]
    return best_checkpoint(model.log_dir, model.kind)


def scale_schedule(schedule, epochs=None):
    """Stretch a schedule to another number of epochs, in proportion.

    Parameters
    ----------
    schedule : list of (layers, until_epoch, factor)
    epochs : int, optional
        In all.

    Returns
    -------
    list of (layers, until_epoch, factor)
        Each stage lasts an epoch at least; if there are fewer epochs than stages, those that are
        too short are left out.

    Raises
    ------
    InputError
        If the schedule is no such list, or there is no epoch.
    """
    if not schedule or not all(isinstance(s, list | tuple) and len(s) == 3 for s in schedule):
        raise InputError(f"SCHEDULE = {schedule}: give [(layers, until_epoch, factor), ...]")
    if epochs is None:
        return list(schedule)
    if epochs < 1:
        raise InputError(f"--epochs {epochs}: give at least 1")
    total = schedule[-1][1]
    scaled, before = [], 0
    for later, (layers, until_epoch, factor) in zip(reversed(range(len(schedule))), schedule):
        until_epoch = round(until_epoch * epochs / total)
        if epochs >= len(schedule):
            until_epoch = min(max(until_epoch, before + 1), epochs - later)
        if until_epoch > before:
            scaled.append((layers, until_epoch, factor))
            before = until_epoch
    return scaled


def _augmentations(config):
    """How images are cut for training and, at the same magnification, for validation."""
    size, magnification = config.IMAGE_MIN_DIM, max(1.0, config.IMAGE_MIN_SCALE or 1.0)
    try:
        low, high = config.AUGMENTATION.get("scale", (1.0, 1.0))
        scale = (magnification * low, magnification * high)
        augmentation = Augmentation(
            size, **{**config.AUGMENTATION, "scale": scale}, growth=config.AUGMENTATION_GROWTH
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"AUGMENTATION = {config.AUGMENTATION}: {error}; correct it") from None
    scale = (magnification, magnification)
    return augmentation, Augmentation(size, rotate=False, flip=False, blur=0.0, scale=scale)


def _batches(dataset, config):
    return max(1, -(-len(dataset.image_ids) // config.BATCH_SIZE))


def find_weights(weights, config, logs):
    """The file that `--weights` means, downloaded if need be.

    Parameters
    ----------
    weights : str or Path or None
        See `train`.
    config : NucleusConfig
    logs : str or Path

    Returns
    -------
    str or Path
        A file, or "none"; given either, this function returns it as it is.

    Raises
    ------
    InputError
        If there is no such file, or it cannot be downloaded.
    """
    weights = weights or config.INITIAL_WEIGHTS
    if weights == "last":
        return last_checkpoint(logs, config.NAME, config.MODEL)
    if weights == "imagenet" and config.BACKBONE is LiteConfig.BACKBONE:
        return lite_weights()
    if weights in ("coco", "imagenet") and callable(config.BACKBONE):
        raise InputError(
            f"--weights {weights}: fits ResNets only, so give --preset paper, or other weights"
        )
    if weights == "coco":
        return coco_weights()
    if weights == "imagenet":
        return imagenet_weights(config.BACKBONE)
    return find_shipped(weights)


def load_initial_weights(model, weights):
    """Load weights into a model that is to be trained.

    Parameters
    ----------
    model : Trainer
    weights : str or Path
        As `find_weights` returns it.
    """
    if weights == "none":
        return
    if continues(weights, model.config):
        _continue_run(model, weights)
        return
    report = load_weights(model.keras_model, weights)
    _require_architecture(report, weights)
    LOGGER.info("%s: %s", weights, report)


def last_checkpoint(logs, name, model="mrcnn"):
    """The newest checkpoint of the newest run of a name.

    Parameters
    ----------
    logs : str or Path
    name : str
        `Config.NAME`.
    model : {"mrcnn", "unet"}

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If there is none.
    """
    try:
        return find_last(logs, name, NETWORKS[model].kind)
    except FileNotFoundError:
        runs = [re.fullmatch(f"(.+?){TIMESTAMP}", path.name) for path in Path(logs).glob("*")]
        others = ", ".join(sorted({run[1] for run in runs if run} - {name}))
        raise InputError(
            f"--weights last: no checkpoint of {name} in {logs}"
            f"{f', which has runs of {others}' if others else ''}; train first, or name its --logs "
            "folder, --model, --preset and --fold"
        ) from None


def _continue_run(model, path):
    known = (read_recipe(path) or {}).get("settings", {})
    now = json_settings(model.config)
    model.load_weights(path)
    changed = [name for name in now if name in known and now[name] != known[name]]
    # Kept, filled in by the run, or found by `nucleus tune`, which training has no use for.
    ignored = ("SEED", "STEPS_PER_EPOCH", "VALIDATION_STEPS", *CHOICES[model.config.MODEL])
    changed = [name for name in changed if name not in ignored]
    if changed:
        LOGGER.warning("%s: continued with another %s than before", path, ", ".join(changed))
    if has_later_checkpoint(*parse_checkpoint_path(path, model.kind), model.kind):
        LOGGER.warning("%s: not the last of its run, so a new run goes on from it", path)
    LOGGER.info("continuing %s after epoch %d", path, model.epoch)


def _require_architecture(report, path):
    """Refuse weights that leave part of the backbone as it was; classes may be others."""
    other = [name for name in report.mismatched if name.split("/")[0] not in CLASS_LAYERS]
    other += [name for name in report.missing if BACKBONE_LAYER.match(name)]
    if other:
        told = read_recipe(path)
        theirs = f"; these are of --preset {told['preset']}" if told else ""
        raise InputError(
            f"{path}: weights of another architecture ({len(other)} do not fit, first {other[0]}): "
            f"give such of the same --preset and settings{theirs}"
        )


def continues(weights, config):
    """Whether training from these weights continues their run, which is one of `config.NAME`.

    Parameters
    ----------
    weights : str or Path or None
    config : NucleusConfig

    Returns
    -------
    bool
    """
    if weights is None or parse_checkpoint_path(weights, NETWORKS[config.MODEL].kind) is None:
        return False
    return CHECKPOINT.match(Path(weights).name)["name"] == config.NAME.lower()


class ProgressBar(keras.callbacks.Callback):
    """One bar with an ETA over all epochs and stages, and a line of losses for each epoch.

    Parameters
    ----------
    epochs : int
        In all.
    steps : int
        An epoch.
    done : int
        Epochs that a continued run has behind it.
    """

    def __init__(self, epochs, steps, done):
        super().__init__()
        self.epochs = epochs
        self.bar = tqdm(
            total=epochs * steps, initial=done * steps, unit="step", desc="Training", smoothing=0.02
        )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.bar.close()

    def on_train_batch_end(self, batch, logs=None):
        self.bar.set_postfix(loss=f"{float(logs['loss']):.3f}", refresh=False)
        self.bar.update()

    def on_epoch_end(self, epoch, logs=None):
        losses = {name: value for name, value in logs.items() if name.endswith("loss")}
        total, val_total = losses.pop("loss"), losses.pop("val_loss", None)
        line = f"epoch {epoch + 1}/{self.epochs}  loss {total:.3f}"
        if val_total is not None:
            line += f"  validation {val_total:.3f}"
        if "val_aji" in logs:
            line += f"  AJI {logs['val_aji']:.3f}"
        parts = [
            f"{name.removesuffix('_loss')} {value:.3f}/{losses['val_' + name]:.3f}"
            if "val_" + name in losses
            else f"{name.removesuffix('_loss')} {value:.3f}"
            for name, value in losses.items()
            if not name.startswith("val_")
        ]
        self.bar.write(line + "  (" + ", ".join(parts) + ")")
