"""Staged training: weights to start from, the schedule, progress, and how a run continues."""

import logging
from pathlib import Path

import keras
from tqdm import tqdm

from mrcnn.checkpoints import CHECKPOINT, best_checkpoint, find_last, parse_checkpoint_path
from mrcnn.errors import InputError
from mrcnn.model import MaskRCNN
from mrcnn.utils import COCO_MODEL_URL, download_trained_weights
from mrcnn_nuclei.augmentation import Augmentation

LOGGER = logging.getLogger("mrcnn_nuclei")

CLASS_LAYERS = ["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"]
"""Layers whose shape depends on the number of classes."""


def train(config, train_dataset, val_dataset, logs, weights="none", epochs=None, attributes=None):
    """Train Mask R-CNN by the stages of `config.SCHEDULE`.

    Parameters
    ----------
    config : NucleusConfig
    train_dataset, val_dataset : NucleusDataset
    logs : str or Path
        Where each run gets its folder.
    weights : str or Path
        "coco", "imagenet", "last" (continue the newest run of `config.NAME`), "none" (random), or
        a file; a checkpoint of a run of `config.NAME` continues that run.
    epochs : int, optional
        Stretch or shorten the schedule to so many epochs in all.
    attributes : dict, optional
        Kept in each checkpoint, see `mrcnn.weights.save_weights`.

    Returns
    -------
    Path
        The checkpoint of lowest validation loss.

    Raises
    ------
    InputError
        If the weights cannot be had or do not fit.
    """
    keras.utils.set_random_seed(config.SEED)
    schedule = scale_schedule(config.SCHEDULE, epochs)
    config.STEPS_PER_EPOCH = config.STEPS_PER_EPOCH or _batches(train_dataset, config)
    config.VALIDATION_STEPS = config.VALIDATION_STEPS or _batches(val_dataset, config)
    model = MaskRCNN("training", config, logs)
    model.attributes = attributes or {}
    load_initial_weights(model, weights)
    done, total = model.epoch, schedule[-1][1]
    if done >= total:
        LOGGER.warning("nothing to train: %d of %d epochs are done already", done, total)
    augmentation = Augmentation(config.IMAGE_MIN_DIM, **config.AUGMENTATION)
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
                    custom_callbacks=[progress],
                    verbose=0,
                )
    return best_checkpoint(model.log_dir)


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
        Stages that would last no epoch are left out.
    """
    if epochs is None:
        return list(schedule)
    if epochs < 1:
        raise InputError(f"--epochs {epochs}: give at least 1")
    total = schedule[-1][1]
    scaled, before = [], 0
    for layers, until_epoch, factor in schedule:
        until_epoch = round(until_epoch * epochs / total)
        if until_epoch > before:
            scaled.append((layers, until_epoch, factor))
            before = until_epoch
    return scaled


def _batches(dataset, config):
    return max(1, -(-len(dataset.image_ids) // config.BATCH_SIZE))


def load_initial_weights(model, weights):
    """Load what `--weights` names into a model that is to be trained.

    Parameters
    ----------
    model : MaskRCNN
    weights : str or Path
        See `train`.
    """
    if weights == "none":
        return
    if weights == "last":
        try:
            path = find_last(model.model_dir, model.config.NAME)
        except FileNotFoundError:
            raise InputError(
                f"--weights last: no checkpoint of {model.config.NAME} in {model.model_dir}; "
                "start a run with other weights first, or name its --logs folder"
            ) from None
        model.load_weights(path)
        LOGGER.info("continuing %s after epoch %d", path, model.epoch)
        return
    if weights == "coco":
        path = Path.home() / ".keras" / "models" / COCO_MODEL_URL.rpartition("/")[2]
        if not path.exists():
            download_trained_weights(path)
        report = model.load_weights(path, by_name=True, exclude=CLASS_LAYERS)
    elif weights == "imagenet":
        report = model.load_weights(model.get_imagenet_weights(), by_name=True)
    else:
        report = model.load_weights(weights, by_name=True)
        if not _is_run_of(weights, model.config.NAME):
            model.discard_training_state()
    LOGGER.info("%s: %s", weights, report)


def _is_run_of(path, name):
    if parse_checkpoint_path(path) is None:
        return False
    return CHECKPOINT.match(Path(path).name)["name"] == name.lower()


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
        parts = [
            f"{name.removesuffix('_loss')} {value:.3f}/{losses['val_' + name]:.3f}"
            if "val_" + name in losses
            else f"{name.removesuffix('_loss')} {value:.3f}"
            for name, value in losses.items()
            if not name.startswith("val_")
        ]
        self.bar.write(line + "  (" + ", ".join(parts) + ")")
