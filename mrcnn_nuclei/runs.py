"""One experiment in one folder: what it was made with, and which of its steps are done.

    FOLDER/
      config.json         what decides the results; beside it, under "notes", versions
      training.json       one file a finished step: its inputs and its result
      predictions.json
      metrics.json        as `nucleus evaluate --json` writes it
      logs/               checkpoints and losses, see `mrcnn_nuclei.training.train`
      predictions/        label maps, and `coco.json`, which keeps scores and overlaps

A step that was stopped begins again, training after its last finished epoch.
"""

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from mrcnn import __version__
from mrcnn.errors import InputError
from mrcnn.files import atomic_path, file_digest
from mrcnn_nuclei.evaluation import Evaluation, evaluate_folder

WRITTEN = ("labels", "coco")
"""Of `mrcnn_nuclei.formats.WRITERS`, what a run keeps of its predictions."""

REQUIRED = {
    "config": set(),
    "crossval": {"dataset", "format", "organs"},
    "training": {"weights"},
    "predictions": {"inputs"},
    "metrics": {"images"},
    "test": {"inputs"},
    "test_metrics": {"images"},
}
"""What the files of these steps must hold to be of use."""

CHECKOUT = Path(__file__).resolve().parent.parent

LIBRARIES = ("numpy", "keras", "tensorflow", "jax", "torch")


class Run:
    """The folder of one experiment; made if it is not there, begun anew if nothing is done in it.

    Parameters
    ----------
    folder : str or Path
    settings : dict
        JSON-able: all that decides the results.

    Attributes
    ----------
    folder : Path

    Raises
    ------
    InputError
        If the folder holds the work of a run of other settings.
    """

    def __init__(self, folder, settings):
        self.folder = Path(folder)
        settings = _as_json(settings)
        known = self.read("config")
        begun = self.folder.is_dir() and any(p.name != "config.json" for p in self.folder.iterdir())
        if known is None and begun:
            raise InputError(
                f"{self.folder / 'config.json'}: is missing or damaged, so that nobody knows what "
                "the folder was made with; give another --output, or delete the folder"
            )
        if not begun:
            self._write("config", {**settings, "notes": {"versions": versions()}})
            return
        changed = list(dict.fromkeys(_changes(known, settings)))
        if changed:
            raise InputError(
                f"{self.folder / 'config.json'}: this run was made with another "
                f"{', '.join(changed)}; give the same again, or another --output, or delete the "
                "folder"
            )

    def read(self, step):
        """See `read_step`."""
        return read_step(self.folder, step)

    def do(self, step, work, **inputs):
        """Do a step, unless it is done with the same inputs.

        Parameters
        ----------
        step : str
            Names the file.
        work : callable
            Does it, and returns a JSON-able dict.
        **inputs
            JSON-able: on what it depends beyond the run's settings. Where these have changed, the
            step is done again.

        Returns
        -------
        dict
            What `work` returned, now or then, and `inputs`.
        """
        inputs = _as_json(inputs)
        known = self.read(step)
        if known is not None and known.get("inputs") == inputs:
            return known
        (self.folder / f"{step}.json").unlink(missing_ok=True)
        self._write(step, {**work(), "inputs": inputs})
        return self.read(step)

    def train(self, config, train_dataset, val_dataset, weights=None, epochs=None):
        """Train a network, from the run's last checkpoint if there is one.

        Parameters
        ----------
        config, train_dataset, val_dataset, weights, epochs
            See `mrcnn_nuclei.training.train`.

        Returns
        -------
        Path
            The best checkpoint.

        Raises
        ------
        InputError
            If `weights` belong to another run of this name, outside of the folder.
        """

        def work():
            import keras

            from mrcnn_nuclei import training

            keras.utils.clear_session()  # the networks of earlier runs
            logs = self.folder / "logs"
            try:
                first = training.last_checkpoint(logs, config.NAME, config.MODEL)
            except InputError:
                first = weights
                if training.continues(first, config):
                    raise InputError(
                        f"{first}: is a checkpoint of a run that it would continue; copy it under "
                        "another name to start from it"
                    ) from None
            best = training.train(
                config, train_dataset, val_dataset, logs, weights=first, epochs=epochs
            )
            return {"weights": best.relative_to(self.folder).as_posix()}

        return self.folder / self.do("training", work)["weights"]

    def predict(self, weights, dataset, step="predictions", settings=None, unet=None):
        """Detect the nuclei of a data set, and keep them in the folder STEP.

        Parameters
        ----------
        weights : str or Path
        dataset : NucleusDataset
        step : str
        settings, unet
            See `mrcnn_nuclei.joint.load_detector`.

        Returns
        -------
        Path
            Folder with `labels/NAME.tif` and `coco.json`.
        """
        folder = self.folder / step

        def work():
            from mrcnn_nuclei.detection import dataset_sources, detect_images

            sources = dataset_sources(dataset)
            nuclei, _ = detect_images(
                sources, weights, folder, WRITTEN, settings=settings, unet=unet
            )
            return {"nuclei": nuclei}

        made_of = {"weights": file_digest(weights), "images": dataset.names}
        if unet is not None:
            made_of["unet"] = file_digest(unet)
        self.do(step, work, **made_of, settings=settings or {})
        return folder

    def score(self, dataset, step="metrics", predictions="predictions"):
        """Score predictions of the run against the truth.

        Parameters
        ----------
        dataset : NucleusDataset
        step : str
        predictions : str
            The step that made them.

        Returns
        -------
        Evaluation
        """

        def work():
            labels = self.folder / predictions / "labels"
            return json.loads(evaluate_folder(labels, dataset).to_json())

        inputs = self.read(predictions)["inputs"]
        return Evaluation(self.do(step, work, predictions=inputs)["images"])

    def _write(self, step, content):
        with atomic_path(self.folder / f"{step}.json") as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_step(folder, step):
    """What a finished step of a run, or "config", left in FOLDER/STEP.json.

    Returns
    -------
    dict, or list of dict of "ablation", or None
        None where the step is not finished, or what it left is damaged.
    """
    try:
        left = json.loads((Path(folder) / f"{step}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    if step in REQUIRED and not (isinstance(left, dict) and REQUIRED[step] <= set(left)):
        return None
    return left


def versions():
    """The versions of this package, of Python and of the libraries that compute, as a dict.

    Of a checkout, the commit too.
    """
    found = {"mrcnn_nuclei": __version__, "python": platform.python_version()}
    if (CHECKOUT / ".git").exists():
        found |= _commit()
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            pass
    return found


def _commit():
    describe = ["git", "-C", CHECKOUT, "describe", "--always", "--abbrev=12", "--dirty"]
    try:
        described = subprocess.run(describe, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"commit": described.stdout.strip()}


def _as_json(content):
    return json.loads(json.dumps(content))


def _changes(known, now):
    """Names of the settings, also nested ones, that both know and that differ."""
    for name in (name for name in now if name in known):
        if isinstance(known[name], dict) and isinstance(now[name], dict):
            yield from _changes(known[name], now[name])
        elif known[name] != now[name]:
            yield name
