"""The `nucleus` command."""

import argparse
import errno
import logging
import os
import sys
import warnings
from pathlib import Path

from mrcnn import __version__
from mrcnn.errors import InputError
from mrcnn_nuclei.config import PRESETS, make_config, parse_settings
from mrcnn_nuclei.formats import WRITERS, parse_writers

LOGGER = logging.getLogger("mrcnn_nuclei")

FORMATS = ("monuseg", "dsb2018", "label_maps", "coco", "synthetic")


class _Parser(argparse.ArgumentParser):
    """Reports a wrong option in one line, like every other mistake."""

    def error(self, message):
        raise InputError(f"{message}; see {self.prog} --help")


def build_parser():
    """The parser of all commands.

    Returns
    -------
    argparse.ArgumentParser
    """
    parser = _Parser(
        prog="nucleus",
        description="Find and outline cell nuclei in microscope images with Mask R-CNN.",
    )
    parser.add_argument("--version", action="version", version=f"nucleus {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = commands.add_parser(
        "train",
        help="train a network on annotated images",
        description="Train a network on annotated images. Stopped by whatever cause, it goes on "
        "with --weights last.",
    )
    command.set_defaults(run=_train)
    _add_dataset(command, "subset to train on (default: train)")
    command.add_argument("--model", choices=["mrcnn"], default="mrcnn", help="network to train")
    command.add_argument(
        "--preset",
        choices=PRESETS,
        default="compact",
        help="paper: ResNet-101, needs a GPU; compact: for two CPU cores (default)",
    )
    command.add_argument(
        "--weights",
        default="none",
        metavar="W",
        help="start from: coco, imagenet, none (default), a file, or last: continue the newest "
        "run of the same model, preset and fold",
    )
    command.add_argument(
        "--logs", default="logs", metavar="DIR", help="where runs are kept (default: logs)"
    )
    command.add_argument(
        "--epochs", type=int, metavar="N", help="stretch or shorten the schedule to N epochs"
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of all random choices")
    _add_settings(command)

    command = commands.add_parser(
        "detect",
        help="outline the nuclei of images",
        description="Outline the nuclei of images. Repeated with the same weights and options, it "
        "does only the images that are not done yet.",
    )
    command.set_defaults(run=_detect)
    _add_dataset(command, "subset to detect in (default: val with --fold, else all)", False)
    command.add_argument("--image", nargs="+", metavar="FILE", help="images, in place of --dataset")
    command.add_argument(
        "--weights", required=True, metavar="W", help="a file, or last: of the newest run"
    )
    command.add_argument("--preset", choices=PRESETS, help="for weights files that do not tell")
    command.add_argument(
        "--logs", default="logs", metavar="DIR", help="where --weights last looks (default: logs)"
    )
    command.add_argument(
        "--output", default="results", metavar="DIR", help="folder to write to (default: results)"
    )
    command.add_argument(
        "--write",
        default="overlay,labels",
        metavar="KINDS",
        help=f"what to write, separated by commas: {', '.join(WRITERS)} (default: overlay,labels)",
    )
    _add_settings(command)

    command = commands.add_parser(
        "evaluate",
        help="score predictions against the truth",
        description="Score label maps, by whatever tool, against annotated images.",
    )
    command.set_defaults(run=_evaluate)
    command.add_argument(
        "--predictions", required=True, metavar="DIR", help="label maps named like the images"
    )
    command.add_argument("--truth", required=True, metavar="DIR", help="annotated images")
    _add_selection(command, "subset to score (default: val with --fold, else all)")
    command.add_argument(
        "--json", metavar="FILE", help="write the scores; .csv, .md and .txt are possible too"
    )

    command = commands.add_parser(
        "demo",
        help="all of it at toy size, on drawn tissue",
        description="Draw a small synthetic set, train on it for some minutes, detect, score and "
        "draw the result.",
    )
    command.set_defaults(run=_demo)
    command.add_argument(
        "--output", default="demo", metavar="DIR", help="folder to write to (default: demo)"
    )
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of all random choices")
    return parser


def _add_dataset(command, subset_help, required=True):
    command.add_argument(
        "--dataset", required=required, metavar="DIR", help="folder of the images; see docs/data.md"
    )
    _add_selection(command, subset_help)


def _add_selection(command, subset_help):
    command.add_argument("--format", choices=FORMATS, help="layout of the folder (default: guess)")
    command.add_argument("--subset", metavar="S", help=subset_help)
    command.add_argument(
        "--fold", type=int, metavar="K", help="hold out fold K (from 0) of the cross-validation"
    )


def _add_settings(command):
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help="change a setting of the preset; may be repeated",
    )


def main(arguments=None):
    """Run a command.

    Parameters
    ----------
    arguments : list of str, optional
        Default: those of the process.

    Returns
    -------
    int
        Exit status: 0, or 2 for a mistake in what the user gave, 130 if interrupted.
    """
    _quieten()
    try:
        options = build_parser().parse_args(arguments)
        options.run(options)
    except InputError as error:
        return _fail(error)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = error.filename or "the disk"
            return _fail(f"{where}: no space left; free some or write elsewhere, then start again")
        if error.filename is None:
            raise
        return _fail(f"{error.filename}: {error.strerror}; check the path and its permissions")
    except KeyboardInterrupt:
        print("\nnucleus: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    return 0


def _fail(message):
    print(f"nucleus: error: {' '.join(str(message).split())}", file=sys.stderr)
    return 2


def _quieten():
    """Show our messages, and of the libraries' only what a user can act on."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("MPLBACKEND", "Agg")
    warnings.filterwarnings("ignore", category=UserWarning, module="keras")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name in ("mrcnn", "mrcnn_nuclei"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False


def _run_name(options, preset):
    fold = "" if options.fold is None else f"fold{options.fold}-"
    return f"nucleus-{fold}mrcnn-{preset}"


def _load_dataset(root, options, subset, **kwargs):
    from mrcnn_nuclei.datasets import NucleusDataset

    return NucleusDataset().load(
        root, format=options.format, subset=subset, fold=options.fold, **kwargs
    )


def _selected_subset(options):
    return "val" if options.subset is None and options.fold is not None else options.subset


def _train(options):
    from mrcnn_nuclei.preprocessing import clean_labels

    settings = {"SEED": options.seed, **parse_settings(options.settings, options.preset)}
    config = make_config(options.preset, settings, _run_name(options, options.preset))
    train_dataset = _load_dataset(
        options.dataset, options, options.subset or "train", preprocess=clean_labels
    )
    val_dataset = _load_dataset(options.dataset, options, "val")

    from mrcnn_nuclei.detector import recipe
    from mrcnn_nuclei.training import train

    LOGGER.info(
        "%s: %d images to train on, %d to validate on",
        config.NAME,
        len(train_dataset.image_ids),
        len(val_dataset.image_ids),
    )
    best = train(
        config,
        train_dataset,
        val_dataset,
        options.logs,
        weights=options.weights,
        epochs=options.epochs,
        attributes=recipe("mrcnn", options.preset, settings),
    )
    print(f"wrote {best.parent}; best checkpoint by validation loss: {best}")


def _detect(options):
    writers = parse_writers(options.write)
    if (options.dataset is None) == (options.image is None):
        raise InputError("detect: give either --dataset DIR or --image FILE ...")
    if options.dataset is not None:
        dataset = _load_dataset(
            options.dataset, options, _selected_subset(options), annotated=False
        )
        paths = [info["path"] for info in dataset.image_info]
    else:
        paths = options.image
        _require_files(paths)
    weights = options.weights
    if weights == "last":
        weights = _last_checkpoint(options)
    settings = parse_settings(options.settings, options.preset or "compact")

    from mrcnn_nuclei.detection import detect_files

    nuclei, skipped = detect_files(
        paths, weights, options.output, writers, options.preset, settings
    )
    print(
        f"{nuclei} nuclei in {len(paths) - skipped} images; wrote {', '.join(writers)} to "
        f"{options.output}"
    )


def _require_files(paths):
    for path in paths:
        if not Path(path).is_file():
            raise InputError(f"{path}: no such image file")


def _last_checkpoint(options):
    from mrcnn.checkpoints import find_last

    name = _run_name(options, options.preset or "compact")
    try:
        return find_last(options.logs, name)
    except FileNotFoundError:
        raise InputError(
            f"--weights last: no checkpoint of {name} in {options.logs}; "
            "train first, or name its --logs folder, --preset and --fold"
        ) from None


def _evaluate(options):
    from mrcnn_nuclei.evaluation import evaluate_folder

    dataset = _load_dataset(options.truth, options, _selected_subset(options))
    evaluation = evaluate_folder(options.predictions, dataset)
    print(evaluation.to_text())
    if options.json:
        evaluation.write(options.json)
        print(f"wrote {options.json}")


def _demo(options):
    from mrcnn_nuclei.demo import run_demo

    run_demo(Path(options.output), options.seed)


if __name__ == "__main__":
    sys.exit(main())
