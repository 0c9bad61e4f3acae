"""Cross-validation: each network trained once a fold, and tried on images that it never saw.

OUTPUT/
  folds.json          the folds
  crossval.json       where the images are, and the organ of each
  fold0-mrcnn/        a run each, see `mrcnn_nuclei.runs`
  fold0-unet/
  fold0-mrcnn-flips/  what that network finds in the images and their flips
  fold0-both/         the networks of a fold, fused by Mask-NMS
  fold0-joint/        the networks of a fold, the one corrected by the other
  fold0-joint-flips/  the same in the images and their flips
  nested1-mrcnn/      trained without folds 0 and 1, tried on fold 0
  nested-mrcnn/       the nested ones fused
  test-mrcnn/         those of all folds fused, tried on a test folder
"""

import json
import logging
from pathlib import Path
from typing import NamedTuple

from mrcnn.errors import InputError
from mrcnn.files import atomic_path, file_digest
from mrcnn_nuclei.config import MODELS, json_settings, make_config
from mrcnn_nuclei.datasets import NucleusDataset
from mrcnn_nuclei.datasets.folds import read_folds, write_folds
from mrcnn_nuclei.ensemble import fuse_folders
from mrcnn_nuclei.mask_nms import FUSIONS, IOU_THRESHOLD, METHODS, default_votes
from mrcnn_nuclei.preprocessing import clean_labels
from mrcnn_nuclei.runs import WRITTEN, Run, read_step
from mrcnn_nuclei.shipped_weights import find_shipped

LOGGER = logging.getLogger("mrcnn_nuclei")


class Steps(NamedTuple):
    """The two steps of a run that predict images and score the predictions."""

    predictions: str
    metrics: str


HELD_OUT = Steps("predictions", "metrics")
TEST = Steps("test", "test_metrics")

FLIPPED = {"TEST_TIME_AUGMENTATION": True}
FLIPS = "flips"
"""Settings at detection, and the word for them in the names of folders."""

JOINT = "joint"
"""The word for a Mask R-CNN that is corrected by a U-Net, see `mrcnn_nuclei.joint`."""


class Part(NamedTuple):
    """Names of the images that a network is trained on, validated on meanwhile, and tried on."""

    name: str
    training: list
    validation: list
    held_out: list


class Ensemble(NamedTuple):
    """Runs to fuse, by the names of their folders, and what they predict: images new to them."""

    name: str
    members: list
    steps: Steps


def make_parts(folds, nested=False):
    """What each network of a cross-validation is trained and tried on.

    Parameters
    ----------
    folds : list of list of str
    nested : bool
        Add, for each fold but the first, a part that leaves out the first as well and is tried on
        it, so that these can be fused and scored there.

    Returns
    -------
    list of Part

    Raises
    ------
    InputError
        If there are too few folds.
    """
    if len(folds) < 2 + nested:
        raise InputError(f"{len(folds)} folds are too few; give {2 + nested} at least")

    def without(*left_out):
        return sum((fold for k, fold in enumerate(folds) if k not in left_out), [])

    parts = [Part(f"fold{k}", without(k), fold, fold) for k, fold in enumerate(folds)]
    if nested:
        parts += [
            Part(f"nested{k}", without(0, k), folds[k], folds[0]) for k in range(1, len(folds))
        ]
    return parts


def make_networks(parts, models, preset="compact", settings=None):
    """The configurations of the networks to train.

    Parameters
    ----------
    parts : list of Part
    models : sequence of {"mrcnn", "unet"}
    preset, settings
        See `mrcnn_nuclei.config.make_config`.

    Returns
    -------
    list of (Part, NucleusConfig)
        Named as `nucleus train --fold K` names them, such as nucleus-fold0-mrcnn-compact.
    """
    return [
        (part, make_config(preset, settings, f"nucleus-{part.name}-{model}-{preset}", model))
        for part in parts
        for model in models
    ]


def make_ensembles(n_folds):
    """The ensembles that can be scored on images which none of their networks was trained on.

    Parameters
    ----------
    n_folds : int

    Returns
    -------
    list of Ensemble
        Both networks of a fold, on its images; the nested ones, on fold 0; those of all folds, on
        the test folder.
    """
    folds, inner = range(n_folds), range(1, n_folds)
    return [
        *(Ensemble(f"fold{k}-both", [f"fold{k}-{m}" for m in MODELS], HELD_OUT) for k in folds),
        *(Ensemble(f"nested-{m}", [f"nested{k}-{m}" for k in inner], HELD_OUT) for m in MODELS),
        *(Ensemble(f"test-{m}", [f"fold{k}-{m}" for k in folds], TEST) for m in MODELS),
    ]


def cross_validate(
    output, root, folds, networks, weights=None, epochs=None, format=None, test=None, flips=False
):
    """Train, predict and score every run, then fuse and score the ensembles that are complete.

    What is done already, by this call or an earlier one, is not done again. Several processes may
    share an output if each has parts of its own, and none makes an ensemble of all.

    Parameters
    ----------
    output : str or Path
    root, format
        The data set, see `NucleusDataset.load`.
    folds : list of list of str
    networks : list of (Part, NucleusConfig)
    weights, epochs
        See `mrcnn_nuclei.training.train`. With `weights` "unet" each network starts from the U-Net
        of its part, which the output holds: the encoder is the same, and saw the same images.
    test : str or Path, optional
        Folder of further images, scored if all of them are annotated.
    flips : bool
        Also detect the held-out images with TEST_TIME_AUGMENTATION, in runs beside those without.

    Raises
    ------
    InputError
        If the output holds runs of other folds or settings, an image of a fold is missing, a test
        image is in one, or there is no U-Net to start from.
    """
    output = Path(output)

    def load(names, preprocess=None):
        return NucleusDataset().load(root, format, names=names, preprocess=preprocess)

    dataset = load(sum(folds, []))
    new_images = None if test is None else _load_test(test, format, dataset)
    _check_patients(folds, [dataset, new_images])
    _keep_folds(output / "folds.json", folds)
    _keep_notes(output / "crossval.json", root, format, test, [dataset, new_images])
    starts = [_start(output, part, weights) for part, _ in networks]
    runs = [
        Run(output / f"{part.name}-{config.MODEL}", _settings(part, config, weights, start, epochs))
        for (part, config), start in zip(networks, starts)
    ]
    for k, (run, start, (part, config)) in enumerate(zip(runs, starts, networks), start=1):
        LOGGER.info("%s: run %d of %d", run.folder, k, len(runs))
        training, validation = load(part.training, clean_labels), load(part.validation)
        checkpoint = run.train(config, training, validation, start, epochs)
        for steps, images in ((HELD_OUT, load(part.held_out)), (TEST, new_images)):
            if images is not None:
                run.predict(checkpoint, images, steps.predictions)
                _score(run, steps, images)
        if flips and part.validation == part.held_out:  # the nested ones are there to be fused
            _flip(run, checkpoint, part, load(part.held_out))
    concerned = {part.name for part, _ in networks}
    for k, fold in enumerate(folds):
        if f"fold{k}" in concerned:
            _join(output, f"fold{k}", fold, load, flips)
    for ensemble in make_ensembles(len(folds)):
        if not any(name.rpartition("-")[0] in concerned for name in ensemble.members):
            continue  # another process may be at it
        members = [output / name for name in ensemble.members]
        tried = [read_step(member, ensemble.steps.predictions) for member in members]
        if all(tried) and (ensemble.steps is HELD_OUT or new_images is not None):
            images = new_images if ensemble.steps is TEST else load(tried[0]["inputs"]["images"])
            _fuse(output / ensemble.name, members, tried, ensemble.steps, images)


def _start(output, part, weights):
    """What the training of a part begins with."""
    if weights != "unet":
        return weights
    folder = output / f"{part.name}-unet"
    trained = read_step(folder, "training")
    if trained is None:
        raise InputError(
            f"--weights unet: {folder}: no trained U-Net; give --model unet first, with the same "
            "--output"
        )
    return folder / trained["weights"]


def _flip(run, checkpoint, part, images):
    """Try a trained network with its settings at detection changed."""
    settings = {"members": [run.folder.name], "trained_on": part.training, "settings": FLIPPED}
    flipped = Run(run.folder.with_name(f"{run.folder.name}-{FLIPS}"), settings)
    flipped.predict(checkpoint, images, HELD_OUT.predictions, FLIPPED)
    _score(flipped, HELD_OUT, images)


def _join(output, part, held_out, load, flips):
    """Try the Mask R-CNN of a part, corrected by its U-Net, where both are trained."""
    members = [output / f"{part}-{model}" for model in ("mrcnn", "unet")]
    trained = [read_step(member, "training") for member in members]
    if not all(trained):
        return
    weights, unet = (member / step["weights"] for member, step in zip(members, trained))
    gone = [path for path in (weights, unet) if not path.is_file()]
    if gone:
        LOGGER.warning("%s-%s: left out, since %s is gone", output / part, JOINT, gone[0])
        return
    trained_on = sorted(set().union(*(read_step(m, "config")["trained_on"] for m in members)))
    images = load(held_out)
    for name, changes in ((JOINT, {}), (f"{JOINT}-{FLIPS}", FLIPPED)):
        if changes and not flips:
            continue
        settings = {"members": [member.name for member in members], "trained_on": trained_on}
        run = Run(output / f"{part}-{name}", {**settings, "settings": changes})
        run.predict(weights, images, HELD_OUT.predictions, changes, unet)
        _score(run, HELD_OUT, images)


def _score(run, steps, images):
    """Score predictions, where the truth is known."""
    if all(sample.annotation is not None for sample in _samples([images])):
        run.score(images, steps.metrics, steps.predictions)


def _fuse(folder, members, tried, steps, images):
    """Fuse and score what several runs predict for the same images."""
    LOGGER.info("%s: fused from %s", folder, ", ".join(member.name for member in members))
    trained_on = [read_step(member, "config")["trained_on"] for member in members]
    fusion = {
        "iou_threshold": IOU_THRESHOLD,
        "min_votes": default_votes(len(members)),
        "fuse": FUSIONS[0],
        "method": METHODS[0],
    }
    settings = {
        "members": [member.name for member in members],
        "trained_on": sorted(set().union(*trained_on)),
        **fusion,
    }

    def work():
        folders = [member / steps.predictions for member in members]
        nuclei, _ = fuse_folders(folders, folder / steps.predictions, WRITTEN, **fusion)
        return {"nuclei": nuclei}

    run = Run(folder, settings)
    run.do(steps.predictions, work, members=[step["inputs"] for step in tried])
    _score(run, steps, images)


def read_notes(output):
    """Where the images of a cross-validation are, and their organs; see `cross_validate`.

    Returns
    -------
    dict
        `dataset`, `format`, `organs` and, where there is one, `test`.

    Raises
    ------
    InputError
        If there is no cross-validation.
    """
    notes = read_step(output, "crossval")
    if notes is None:
        raise InputError(f"{output}: no cross-validation in it; give the --output of one")
    return notes


def load_held_out(output, root=None):
    """The images of all folds.

    Parameters
    ----------
    output : str or Path
        Of `cross_validate`.
    root : str or Path, optional
        Where the data set is now.

    Returns
    -------
    NucleusDataset

    Raises
    ------
    InputError
        If there is no cross-validation, or an image is missing.
    """
    notes, folds = read_notes(output), read_folds(Path(output) / "folds.json")
    return NucleusDataset().load(root or notes["dataset"], notes["format"], names=sum(folds, []))


def _settings(part, config, weights, start, epochs):
    file = Path(find_shipped(start or config.INITIAL_WEIGHTS))
    return {
        "part": part.name,
        "model": config.MODEL,
        "preset": config.PRESET,
        "weights": weights or config.INITIAL_WEIGHTS,
        "weights_sha256": file_digest(file) if file.is_file() else None,
        "epochs": epochs,
        "trained_on": part.training,
        "validated_on": part.validation,
        "settings": json_settings(config),
    }


def _load_test(test, format, dataset):
    images = NucleusDataset().load(test, format, annotated=False)
    both = set(images.names) & set(dataset.names)
    if both:
        raise InputError(
            f"--test {test}: {min(both)} is an image of --dataset too, which networks are trained "
            "on; leave it out of either"
        )
    return images


def _check_patients(folds, datasets):
    """Warn of patients whose images a network is both trained and tried on."""
    fold_of = {name: k for k, fold in enumerate(folds) for name in fold}
    folds_of = {}
    for sample in _samples(datasets):
        folds_of.setdefault(sample.group, set()).add(fold_of.get(sample.name, "test"))
    folds_of.pop(None, None)
    divided = [patient for patient, found in folds_of.items() if len(found) > 1]
    if divided:
        LOGGER.warning(
            "images of %d patients, such as %s, are in several folds or in one and in --test: "
            "scores will flatter the networks",
            len(divided),
            divided[0],
        )


def _samples(datasets):
    return [info["sample"] for images in datasets if images for info in images.image_info]


def _keep_folds(path, folds):
    if path.exists() and read_folds(path) != folds:
        raise InputError(
            f"{path}: the runs beside it have other folds; give the same, or another --output"
        )
    write_folds(path, folds)


def _keep_notes(path, root, format, test, datasets):
    """Note what the table wants to know of the images."""
    known = read_step(path.parent, path.stem) or {"organs": {}}
    organs = {sample.name: sample.organ for sample in _samples(datasets)}
    now = {"dataset": _absolute(root, format), "format": format}
    if test is not None:
        now["test"] = _absolute(test, format)
        if known.get("test", now["test"]) != now["test"]:
            raise InputError(
                f"--test {test}: the runs in {path.parent} were tried on {known['test']}; give "
                "that, or another --output"
            )
    with atomic_path(path) as temporary:
        content = {**known, **now, "organs": {**known["organs"], **organs}}
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _absolute(root, format):
    return str(root) if format == "synthetic" else str(Path(root).resolve())
