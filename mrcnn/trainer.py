"""What every network of this package needs around it: weights, run folders, stages, training."""

import logging
import re
from pathlib import Path

import keras

from mrcnn import backend
from mrcnn.batches import FixedBatches, close, stream
from mrcnn.checkpoints import (
    VAL_LOSS,
    Checkpoint,
    checkpoint_name,
    find_last,
    has_later_checkpoint,
    new_log_dir,
    parse_checkpoint_path,
    restore_optimizer,
)
from mrcnn.errors import InputError
from mrcnn.weights import load_state, load_weights

LOGGER = logging.getLogger("mrcnn")


def stage_patterns(heads):
    """Names for the layers that a stage of training changes, those of Matterport.

    Parameters
    ----------
    heads : str
        Regular expression of what is not the backbone.

    Returns
    -------
    dict
        "heads", "3+" (these and the backbone from stage 3 on), "4+", "5+" and "all".
    """
    patterns = {"heads": heads}
    for first in (3, 4, 5):
        stages = [f"(res{stage}.*)|(bn{stage}.*)" for stage in range(first, 6)]
        patterns[f"{first}+"] = "|".join([*stages, heads])
    return patterns | {"all": ".*"}


class Trainer:
    """A network with its weights and its run folder; subclasses say which network, on what batches.

    Parameters
    ----------
    mode : {"training", "inference"}
    config : Config
    model_dir : str or Path
        Where training makes a folder for each run, with logs and checkpoints.

    Attributes
    ----------
    keras_model : keras.Model
    epoch : int
        Number of epochs that the weights have been trained for.
    log_dir : str
    seed : int
        `config.SEED`, or that of the run that is continued.
    attributes : dict
        Kept at the root of each checkpoint, see `mrcnn.weights.save_weights`.
    kind : str
        With which the names of checkpoints begin.
    layer_patterns : dict
        Names for the layers that a stage of training changes -> regular expressions.
    monitor : Monitor
        By which the best checkpoint is known.
    """

    kind = "mask_rcnn"
    layer_patterns = {"all": ".*"}
    monitor = VAL_LOSS

    def __init__(self, mode, config, model_dir):
        if mode not in ("training", "inference"):
            raise ValueError(f"mode is {mode!r}: give 'training' or 'inference'")
        self.mode = mode
        self.config = config
        self.model_dir = model_dir
        self.attributes = {}
        self.seed = config.SEED
        self._resumed_from = None
        self._trained_layers = None
        self._scope = backend.replica_scope(config.GPU_COUNT if mode == "training" else 1)
        self.set_log_dir()
        with self._scope():
            self.keras_model = self.build(mode, config)

    # What subclasses define

    def build(self, mode, config):
        """Build the Keras model; in training its last outputs are its losses."""
        raise NotImplementedError

    def _make_batches(self, dataset, steps, augmentation=None, no_augmentation_sources=None):
        """The batches of a data set that training sees, a `mrcnn.data.Batches`."""
        raise NotImplementedError

    def _callbacks(self, val_dataset):
        """Callbacks of the network's own, called before the checkpoint is written."""
        return []

    # Weights and run folders

    def find_last(self):
        """The last checkpoint of the last run with `config.NAME`, as str.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        return str(find_last(self.model_dir, self.config.NAME, self.kind))

    def load_weights(self, filepath, by_name=False, exclude=None):
        """Load weights from an `.h5` file in Matterport's layout.

        Parameters
        ----------
        filepath : str or Path
            A checkpoint of a run also sets `epoch` and `log_dir`, so that training continues it.
        by_name : bool
            Whether the file may lack layers of this network, which then keep their weights.
        exclude : list of str, optional
            Layers to leave as they are; implies `by_name`.

        Returns
        -------
        mrcnn.weights.LoadReport

        Raises
        ------
        InputError
            If the file is not readable, a weight has another shape, or nothing fits.
        """
        report = load_weights(self.keras_model, filepath, exclude or ())
        if report.mismatched:
            raise InputError(
                f"{filepath}: {len(report.mismatched)} weights have another shape than in this "
                f"network, first {report.mismatched[0]}: give weights of the same architecture, "
                "or exclude these layers"
            )
        if report.missing and not (by_name or exclude):
            raise InputError(
                f"{filepath}: {len(report.missing)} weights of this network are not in it, first "
                f"{report.missing[0]}: give weights of the same architecture, or load by_name"
            )
        LOGGER.info("%s: %s", filepath, report)
        self._resumed_from = filepath if parse_checkpoint_path(filepath, self.kind) else None
        if self._resumed_from:
            self.seed = (load_state(filepath, arrays=False) or {}).get("seed", self.seed)
        self.set_log_dir(filepath)
        return report

    def set_log_dir(self, model_path=None):
        """Choose the run's folder: that of its last checkpoint, to continue it, else a new one.

        Parameters
        ----------
        model_path : str or Path, optional
        """
        run = parse_checkpoint_path(model_path, self.kind) if model_path else None
        log_dir, self.epoch = run or (None, 0)
        if run is None or has_later_checkpoint(*run, self.kind):
            log_dir = new_log_dir(self.model_dir, str(self.config.NAME))
        self.log_dir = str(log_dir)
        self.checkpoint_path = str(log_dir / checkpoint_name(str(self.config.NAME), self.kind))

    # Training

    def _prepare(self, layers, learning_rate):
        """Make the optimiser ready; where the layers stay the same it goes on, only its rate not.

        Compiling again would cost the time of tracing the step, and the optimiser's moments.
        """
        if layers != self._trained_layers:
            self.set_trainable(layers, verbose=0)
            self.compile(learning_rate, self.config.LEARNING_MOMENTUM)
            self._trained_layers = layers
        if self._resumed_from:
            restore_optimizer(self.keras_model, self._resumed_from, layers)
            self._resumed_from = None
        self.keras_model.optimizer.learning_rate = learning_rate

    def _make_log_dir(self):
        """Make the run's folder; a name that a run of the same minute has taken is given up."""
        while True:
            try:
                Path(self.log_dir).mkdir(parents=True, exist_ok=self.epoch > 0)
                return
            except FileExistsError:
                self.set_log_dir()

    def compile(self, learning_rate, momentum):
        """Attach the optimiser: `config.OPTIMIZER`, gradients clipped to a global norm.

        Parameters
        ----------
        learning_rate : float
        momentum : float
            Of SGD.

        Raises
        ------
        InputError
            If the optimiser, or the precision with so many devices, is none that there is.
        """
        if self.config.DTYPE_POLICY == "mixed_float16" and self.config.GPU_COUNT > 1:
            raise InputError(
                "DTYPE_POLICY = mixed_float16 with several devices: Keras scales the loss by what "
                "it sees on the first; choose mixed_bfloat16"
            )
        self._trained_layers = None
        with self._scope():
            optimizer = _make_optimizer(self.config, learning_rate, momentum)
            backend.clip_across_replicas(optimizer)
            self.keras_model.compile(optimizer=optimizer, jit_compile=self.config.JIT_COMPILE)
            # TensorFlow traces a step twice if the first time makes variables.
            self.keras_model.optimizer.build(self.keras_model.trainable_variables)

    def set_trainable(self, layer_regex, keras_model=None, indent=0, verbose=1):
        """Make exactly the layers whose name matches trainable.

        Parameters
        ----------
        layer_regex : str
            Must match the whole name.
        keras_model : keras.Model, optional
            Default: the network, nested models included.
        indent, verbose : int
            How to print the names; `verbose` 0 prints nothing.
        """
        self._trained_layers = None
        for layer in (keras_model or self.keras_model).layers:
            if isinstance(layer, keras.Model):
                layer.trainable = True
                self.set_trainable(layer_regex, layer, indent + 4, verbose)
            elif layer.weights:
                layer.trainable = bool(re.fullmatch(layer_regex, layer.name))
                if layer.trainable and verbose:
                    print(f"{'':{indent}}{layer.name:20} ({type(layer).__name__})")

    def train(
        self,
        train_dataset,
        val_dataset,
        learning_rate,
        epochs,
        layers,
        augmentation=None,
        custom_callbacks=None,
        no_augmentation_sources=None,
        val_augmentation=None,
        verbose=1,
    ):
        """Train until `epochs` epochs have been seen in all, those before this call included.

        Writes into `log_dir`: a checkpoint an epoch (the last two and the best are kept),
        `history.csv` with the losses, and events for TensorBoard.

        Parameters
        ----------
        train_dataset : Dataset
        val_dataset : Dataset or None
            Its losses are reported after each epoch, over the same batches each time.
        learning_rate : float
        epochs : int
            Absolute: a further call with the same number trains nothing.
        layers : str
            A name of `layer_patterns`, or a regular expression for names of layers.
        augmentation : imgaug augmenter or callable, optional
            See `mrcnn.data.load_image_gt`.
        custom_callbacks : list of keras.callbacks.Callback, optional
        no_augmentation_sources : list of str, optional
            Sources of the data set whose images are not augmented.
        val_augmentation : imgaug augmenter or callable, optional
            The same for the images of `val_dataset`, where they need a crop of another kind.
        verbose : int
            As that of `keras.Model.fit`.

        Returns
        -------
        keras.callbacks.History or None
            None if there was nothing to train.

        Raises
        ------
        InputError
            If an image or its annotation cannot be used, or a batch does not fit into memory.
        """
        if self.mode != "training":
            raise ValueError("a model in inference mode does not train: build it for training")
        if epochs <= self.epoch:
            LOGGER.warning(
                "nothing to train: %d epochs are asked for in all, and %d are done",
                epochs,
                self.epoch,
            )
            return None
        config = self.config
        layers = self.layer_patterns.get(layers, layers)
        batches = self._make_batches(
            train_dataset, config.STEPS_PER_EPOCH, augmentation, no_augmentation_sources
        )
        names = [tensor.name for tensor in self.keras_model.inputs]
        self._prepare(layers, learning_rate)
        self._make_log_dir()
        errors = []
        training = stream(
            batches,
            names,
            first_epoch=self.epoch,
            processes=config.BATCH_PROCESSES,
            errors=errors,
        )
        validation = {}
        if val_dataset is not None and config.VALIDATION_STEPS:
            batches = self._make_batches(val_dataset, config.VALIDATION_STEPS, val_augmentation)
            validation = {"validation_data": FixedBatches(batches, names, errors=errors)}
        callbacks = [
            *self._callbacks(val_dataset),
            Checkpoint(
                self.log_dir,
                str(config.NAME),
                self.attributes,
                layers,
                self.seed,
                kind=self.kind,
                monitor=self.monitor,
            ),
            keras.callbacks.CSVLogger(str(Path(self.log_dir) / "history.csv"), append=True),
            keras.callbacks.TensorBoard(log_dir=self.log_dir, write_graph=False),
            *(custom_callbacks or []),
        ]
        try:
            with self._scope():
                history = self.keras_model.fit(
                    training,
                    initial_epoch=self.epoch,
                    epochs=epochs,
                    steps_per_epoch=config.STEPS_PER_EPOCH,
                    callbacks=callbacks,
                    shuffle=False,
                    verbose=verbose,
                    **validation,
                )
        except Exception as error:
            if errors:
                raise errors[0] from None
            if backend.is_out_of_memory(error):
                height, width = config.IMAGE_SHAPE[:2]
                raise InputError(
                    f"out of memory on batches of {config.BATCH_SIZE} images of {height} x {width} "
                    "pixels: lower IMAGES_PER_GPU, or else the size of the images (IMAGE_MIN_DIM "
                    "and IMAGE_MAX_DIM)"
                ) from error
            raise
        finally:
            close(training)
        self.epoch = epochs
        return history


def _make_optimizer(config, learning_rate, momentum):
    clip = config.GRADIENT_CLIP_NORM
    if config.OPTIMIZER == "sgd":
        return keras.optimizers.SGD(learning_rate, momentum=momentum, global_clipnorm=clip)
    if config.OPTIMIZER == "adam":
        return keras.optimizers.Adam(learning_rate, global_clipnorm=clip)
    raise InputError(f"OPTIMIZER is {config.OPTIMIZER!r}: set it to 'sgd' or 'adam'")
