"""The `nucleus` command."""

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path

from tqdm import tqdm

from mrcnn import __version__
from mrcnn.config import PYRAMID_MULTIPLE
from mrcnn.errors import InputError
from mrcnn.files import DISK_FULL
from mrcnn_nuclei import datasets
from mrcnn_nuclei.config import MODELS, PRESETS, make_config, parse_settings
from mrcnn_nuclei.formats import WRITERS, parse_writers

LOGGER = logging.getLogger("mrcnn_nuclei")


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
        description="Find and outline cell nuclei in microscope images with Mask R-CNN or a U-Net.",
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
    _add_model(command, "network to train: mrcnn (default), or unet for small and irregular nuclei")
    command.add_argument(
        "--preset",
        choices=PRESETS,
        default="compact",
        help="paper: ResNet-101, needs a GPU; compact: for two CPU cores (default)",
    )
    command.add_argument(
        "--weights",
        metavar="W",
        help="start from: coco (default of paper), imagenet, none (default of compact), a file, or "
        "last: continue the newest run of the same model, preset and fold",
    )
    command.add_argument(
        "--logs", default="logs", metavar="DIR", help="where runs are kept (default: logs)"
    )
    command.add_argument(
        "--epochs", type=int, metavar="N", help="stretch or shorten the schedule to N epochs"
    )
    command.add_argument("--seed", type=_seed, default=0, metavar="N", help="of all random choices")
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
    _add_model(command, "of which --weights last is meant (default: mrcnn)")
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
        "tune",
        help="find the thresholds that suit a U-Net best",
        description="Find the thresholds with which a trained U-Net finds nuclei best, on "
        "annotated images that it was not trained on, and save them in its weights file.",
    )
    command.set_defaults(run=_tune, model="unet")
    _add_dataset(command, "subset to tune on (default: val)")
    command.add_argument(
        "--weights", required=True, metavar="W", help="a U-Net's file, or last: of the newest run"
    )
    command.add_argument(
        "--preset", choices=PRESETS, default="compact", help="of which --weights last is meant"
    )
    command.add_argument(
        "--logs", default="logs", metavar="DIR", help="where --weights last looks (default: logs)"
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
        "export",
        help="write a network for programs without Keras",
        description="Write a network, with its weights, for images of one size. What goes in and "
        "what comes out: see docs/export.md.",
    )
    command.set_defaults(run=_export)
    command.add_argument("--weights", required=True, metavar="W", help="a file")
    command.add_argument("--preset", choices=PRESETS, help="for weights files that do not tell")
    command.add_argument(
        "--output", required=True, metavar="PATH", help="file (onnx) or folder (savedmodel)"
    )
    command.add_argument(
        "--format", choices=("onnx", "savedmodel"), help="default: onnx if PATH ends in .onnx"
    )
    command.add_argument(
        "--size",
        type=_side,
        metavar="N",
        help="side of the images, a multiple of 64 (default: DETECTION_TILE)",
    )
    _add_settings(command)

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
    command.add_argument("--seed", type=_seed, default=0, metavar="N", help="of all random choices")
    return parser


def _seed(text):
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 0 to {2**32 - 1}")
    return int(text)


def _side(text):
    if not text.isdecimal() or not int(text) or int(text) % PYRAMID_MULTIPLE:
        raise argparse.ArgumentTypeError(f"{text} is no multiple of {PYRAMID_MULTIPLE}")
    return int(text)


def _add_dataset(command, subset_help, required=True):
    command.add_argument(
        "--dataset", required=required, metavar="DIR", help="folder of the images; see docs/data.md"
    )
    _add_selection(command, subset_help)


def _add_selection(command, subset_help):
    command.add_argument(
        "--format",
        choices=(*datasets.FORMATS, "synthetic"),
        help="layout of the folder (default: guess)",
    )
    command.add_argument("--subset", metavar="S", help=subset_help)
    command.add_argument(
        "--fold", type=int, metavar="K", help="hold out fold K (from 0) of the cross-validation"
    )


def _add_model(command, help):
    command.add_argument("--model", choices=MODELS, default="mrcnn", help=help)


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
        if error.errno in DISK_FULL:
            where = error.filename or "writing the results"
            return _fail(
                f"{where}: {error.strerror}; free some space or write elsewhere, then repeat"
            )
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


class _Messages(logging.Handler):
    """Prints each message once, above the progress bar if there is one."""

    def __init__(self):
        super().__init__()
        self.said = set()

    def emit(self, record):
        message = record.getMessage()
        if message not in self.said:
            self.said.add(message)
            tqdm.write(message, file=sys.stderr)


def _quieten():
    """Show our messages, and of the libraries' only what a user can act on."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("MPLBACKEND", "Agg")
    warnings.filterwarnings("ignore", category=UserWarning, module="keras")
    handler = _Messages()
    for name, level in (("mrcnn", logging.WARNING), ("mrcnn_nuclei", logging.INFO)):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level)
        logger.propagate = False


def _import_keras():
    """Import Keras and its backend, whose C++ start-up messages heed no setting, in silence."""
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import keras  # noqa: F401
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _run_name(options, preset):
    fold = "" if options.fold is None else f"fold{options.fold}-"
    return f"nucleus-{fold}{options.model}-{preset}"


def _load_dataset(root, options, subset, **kwargs):
    return datasets.NucleusDataset().load(
        root, format=options.format, subset=subset, fold=options.fold, **kwargs
    )


def _selected_subset(options):
    return "val" if options.subset is None and options.fold is not None else options.subset


def _train(options):
    from mrcnn_nuclei.preprocessing import clean_labels

    settings = parse_settings(options.settings, options.preset, options.model)
    name = _run_name(options, options.preset)
    config = make_config(options.preset, {"SEED": options.seed, **settings}, name, options.model)
    train_dataset = _load_dataset(
        options.dataset, options, options.subset or "train", preprocess=clean_labels
    )
    val_dataset = _load_dataset(options.dataset, options, "val")
    both = set(train_dataset.names) & set(val_dataset.names)
    if both:
        LOGGER.warning(
            "%d images, such as %s, are in both subsets: validation will flatter the network",
            len(both),
            min(both),
        )
    if options.weights not in (None, "coco", "imagenet", "none", "last"):
        _require_file(options.weights, "weights")

    _import_keras()
    from mrcnn_nuclei.training import find_weights, train

    weights = find_weights(options.weights, config, options.logs)
    _read_all(train_dataset, val_dataset)
    best = train(
        config,
        train_dataset,
        val_dataset,
        options.logs,
        weights=weights,
        epochs=options.epochs,
    )
    print(f"wrote {best.parent}; best checkpoint: {best}")


def _read_all(*loaded):
    """Read each image and its nuclei, so that a broken file shows before training, not in it."""
    readings = [(dataset, image_id) for dataset in loaded for image_id in dataset.image_ids]
    for dataset, image_id in tqdm(readings, desc="Reading", unit="image", delay=1):
        dataset.load_image(image_id)
        dataset.load_labels(image_id)


def _detect(options):
    writers = parse_writers(options.write)
    if (options.dataset is None) == (options.image is None):
        raise InputError("detect: give either --dataset DIR or --image FILE ...")
    # The weights' network is not known yet; the U-Net has all settings of the detector, and more.
    settings = parse_settings(options.settings, options.preset or "compact", "unet")
    for path in options.image or ():
        _require_file(path, "image")
    if options.dataset is not None:
        dataset = _load_dataset(
            options.dataset, options, _selected_subset(options), annotated=False
        )
    if options.weights != "last":
        _require_file(options.weights, "weights")

    _import_keras()
    from mrcnn_nuclei.detection import dataset_sources, detect_images, image_sources
    from mrcnn_nuclei.training import last_checkpoint

    sources = image_sources(options.image) if options.image else dataset_sources(dataset)
    weights = options.weights
    if weights == "last":
        name = _run_name(options, options.preset or "compact")
        weights = last_checkpoint(options.logs, name, options.model)
    nuclei, skipped = detect_images(
        sources, weights, options.output, writers, options.preset, settings
    )
    if skipped == len(sources):
        print(f"nothing to do: {', '.join(writers)} of all images are in {options.output}")
    else:
        print(
            f"{nuclei} nuclei in {len(sources) - skipped} images; wrote {', '.join(writers)} to "
            f"{options.output}"
        )


def _tune(options):
    settings = parse_settings(options.settings, options.preset, options.model)
    dataset = _load_dataset(options.dataset, options, options.subset or "val")
    if options.weights != "last":
        _require_file(options.weights, "weights")

    _import_keras()
    from mrcnn_nuclei.detector import Detector
    from mrcnn_nuclei.training import last_checkpoint

    weights = options.weights
    if weights == "last":
        name = _run_name(options, options.preset)
        weights = last_checkpoint(options.logs, name, options.model)
    found, before, after = Detector(weights, settings=settings).tune(dataset)
    print(", ".join(f"{name} = {value}" for name, value in found.items()))
    print(
        f"mean AJI of {len(dataset.image_ids)} images {before:.3f} -> {after:.3f}; "
        f"wrote the settings into {weights}"
    )


def _require_file(path, kind):
    if not Path(path).is_file():
        raise InputError(f"{path}: no such {kind} file; check the path")


def _evaluate(options):
    from mrcnn_nuclei.evaluation import REPORTS, evaluate_folder

    if options.json and Path(options.json).suffix.lower() not in REPORTS:
        raise InputError(f"--json {options.json}: end its name in one of {', '.join(REPORTS)}")
    dataset = _load_dataset(options.truth, options, _selected_subset(options))
    evaluation = evaluate_folder(options.predictions, dataset)
    print(evaluation.to_text())
    if options.json:
        evaluation.write(options.json)
        print(f"wrote {options.json}")


def _export(options):
    settings = parse_settings(options.settings, options.preset or "compact", "unet")
    if options.size:
        settings["DETECTION_TILE"] = options.size
    _require_file(options.weights, "weights")

    _import_keras()
    from mrcnn.export import check_export
    from mrcnn_nuclei.detector import Detector

    format = check_export(options.output, options.format)
    detector = Detector(options.weights, options.preset, settings)
    height, width = detector.config.IMAGE_SHAPE[:2]
    LOGGER.info("writing the network of %s as %s; takes a minute or two", options.weights, format)
    detector.export(options.output, format)
    print(f"wrote {options.output}, for images of {height} x {width} pixels")


def _demo(options):
    _import_keras()
    from mrcnn_nuclei.demo import run_demo

    run_demo(Path(options.output), options.seed)


if __name__ == "__main__":
    sys.exit(main())
