"""The `nucleus` command: its options, and how it reports mistakes."""

import argparse
import logging
import os
import sys
import warnings

from tqdm import tqdm

from mrcnn import __version__
from mrcnn.config import PYRAMID_MULTIPLE
from mrcnn.errors import InputError
from mrcnn.files import DISK_FULL
from mrcnn_nuclei import commands, datasets
from mrcnn_nuclei.config import MODELS, PLAUSIBLE_MPP, PRESETS
from mrcnn_nuclei.formats import WRITERS
from mrcnn_nuclei.mask_nms import FUSIONS, IOU_THRESHOLD, METHODS
from mrcnn_nuclei.switches import ABLATIONS


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
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = subparsers.add_parser(
        "train",
        help="train a network on annotated images",
        description="Train a network on annotated images. Stopped by whatever cause, it goes on "
        "with --weights last.",
    )
    command.set_defaults(run=commands.train)
    _add_dataset(command, "subset to train on, or all (default: train)")
    command.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="DIR",
        help="further annotated images, all of which are trained on; may be repeated",
    )
    _add_model(command, "network to train: mrcnn (default), or unet for small and irregular nuclei")
    _add_training(
        command,
        ", he or he_mrcnn (the project's that do), or last: continue the newest run of the same "
        "model, preset and fold",
    )
    command.add_argument(
        "--logs", default="logs", metavar="DIR", help="where runs are kept (default: logs)"
    )
    _add_settings(command)

    command = subparsers.add_parser(
        "detect",
        help="outline the nuclei of images",
        description="Outline the nuclei of images and slides of any size. Repeated with the same "
        "weights and options, it does only what is not done yet (coco and rle hold all images: "
        "they start over). See docs/slides.md.",
    )
    command.set_defaults(run=commands.detect)
    _add_dataset(command, "subset to detect in (default: val with --fold, else all)", False)
    command.add_argument(
        "--image", nargs="+", metavar="FILE", help="images or slides, in place of --dataset"
    )
    _add_trained(
        command,
        "; he_mrcnn, he or free: those of the project (default: he_mrcnn, a Mask R-CNN for H&E at "
        "40x; he: a U-Net for it, faster; both not for commercial use)",
    )
    command.add_argument(
        "--unet",
        metavar="W",
        help="weights of a U-Net by whose foreground the nuclei of a Mask R-CNN are corrected, or "
        "none (default: he without --weights, else none)",
    )
    command.add_argument(
        "--output", default="results", metavar="DIR", help="folder to write to (default: results)"
    )
    _add_writers(command, "overlay,labels")
    command.add_argument(
        "--mpp",
        type=_microns,
        metavar="M",
        help="microns per pixel of the images (default: what their files tell)",
    )
    command.add_argument(
        "--region",
        nargs="+",
        metavar="R",
        help="X Y W H in pixels of full resolution, or a GeoJSON file: only nuclei in this "
        "rectangle, or in its polygons",
    )
    command.add_argument(
        "--workers",
        type=_count,
        metavar="N",
        help="processes of one thread each that share the blocks of a slide (default: this one)",
    )
    command.add_argument(
        "--scheduler", metavar="ADDRESS", help="of a Dask cluster that shares them instead"
    )
    _add_settings(command)

    command = subparsers.add_parser(
        "tune",
        help="find the thresholds that suit a network best",
        description="Find the thresholds with which a trained network finds nuclei best, on "
        "annotated images that it was not trained on, and save them in its weights file.",
    )
    command.set_defaults(run=commands.tune)
    _add_dataset(command, "subset to tune on (default: val)")
    _add_trained(command)
    _add_settings(command)

    command = subparsers.add_parser(
        "evaluate",
        help="score predictions against the truth",
        description="Score predictions, by whatever tool, against annotated images; see "
        "docs/formats.md.",
    )
    command.set_defaults(run=commands.evaluate)
    command.add_argument(
        "--predictions",
        required=True,
        metavar="DIR",
        help="folder of files named like the images, or one file of them all",
    )
    command.add_argument("--truth", required=True, metavar="DIR", help="annotated images")
    _add_selection(command, "subset to score (default: val with --fold, else all)")
    command.add_argument(
        "--json", metavar="FILE", help="write the scores; .csv, .md and .txt are possible too"
    )
    command.add_argument(
        "--by-shape", action="store_true", help="also count the nuclei found by size and shape"
    )

    command = subparsers.add_parser(
        "crossval",
        help="train and try the networks of every fold",
        description="Train each fold's networks on the other folds, predict and score its images, "
        "and fuse what may be fused. Stopped by whatever cause, it goes on when repeated. See "
        "docs/crossval.md.",
    )
    command.set_defaults(run=commands.crossval)
    _add_annotated(command)
    command.add_argument(
        "--output", required=True, metavar="DIR", help="gets a folder for each network and fold"
    )
    choice = command.add_mutually_exclusive_group()
    choice.add_argument(
        "--folds", metavar="FILE", help="JSON (default: folds.json of the data set, else made)"
    )
    choice.add_argument(
        "--n-folds", type=int, metavar="N", help="make N folds by organ and patient (default: 5)"
    )
    command.add_argument(
        "--model",
        choices=(*MODELS, "both"),
        default="both",
        help="networks to train (default: both)",
    )
    _add_training(command, ", or unet: the U-Net of the same fold")
    command.add_argument(
        "--fold",
        type=int,
        nargs="+",
        metavar="K",
        help="only these folds; others may be trained by other processes into the same --output",
    )
    command.add_argument(
        "--test", metavar="DIR", help="further images to predict, on which no fold is trained"
    )
    command.add_argument(
        "--flips",
        action="store_true",
        help="also detect with TEST_TIME_AUGMENTATION, tabulated beside the rest",
    )
    command.add_argument(
        "--nested",
        action="store_true",
        help="also train networks without fold 0 and one more fold each, whose fusion can be "
        "scored on fold 0",
    )
    _add_settings(command)

    command = subparsers.add_parser(
        "ensemble",
        help="fuse the predictions of several networks",
        description="Fuse the predictions of several networks for the same images by Mask-NMS; "
        "see docs/mask_nms.md. Repeated with the same options, it does only the images that are "
        "not done yet (coco and rle hold all: they start over).",
    )
    command.set_defaults(run=commands.ensemble)
    command.add_argument(
        "predictions",
        nargs="+",
        metavar="DIR",
        help="predictions of one network: a folder that detect wrote, one of files named like the "
        "images, or one file of them all; see docs/formats.md",
    )
    command.add_argument("--output", required=True, metavar="DIR", help="folder to write to")
    command.add_argument(
        "--iou-threshold",
        type=float,
        default=IOU_THRESHOLD,
        metavar="T",
        help=f"IoU above which two instances show the same nucleus (default: {IOU_THRESHOLD})",
    )
    command.add_argument(
        "--min-votes",
        type=int,
        metavar="N",
        help="predictions that must show a nucleus (default: half of them, rounded up)",
    )
    command.add_argument(
        "--fuse",
        choices=FUSIONS,
        default=FUSIONS[0],
        help="keep a pixel of any instance (default), or of at least half of them",
    )
    command.add_argument(
        "--method",
        choices=METHODS,
        default=METHODS[0],
        help="what overlaps a nucleus is removed (default), or its score is lowered",
    )
    _add_writers(command, "labels")
    command.add_argument(
        "--images", metavar="DIR", help="folder of the images, which overlays and outlines need"
    )

    command = subparsers.add_parser(
        "table",
        help="tabulate a cross-validation",
        description="Print the scores of a cross-validation, and write them as Markdown, CSV, "
        "JSON and a picture.",
    )
    command.set_defaults(run=commands.table)
    command.add_argument("runs", metavar="DIR", help="output of nucleus crossval")
    command.add_argument(
        "--output", metavar="DIR", help="folder to write to (default: that of the runs)"
    )
    command.add_argument(
        "--add",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a row for predictions of all held-out images by another tool; may be repeated",
    )
    command.add_argument(
        "--dataset", metavar="DIR", help="where the images of the runs are now, for --add"
    )

    command = subparsers.add_parser(
        "report",
        help="show what runs have reached, as one page for a browser",
        description="Write one HTML page that needs no other file: the table, scores of each "
        "image, curves of training, and each image with what was found, missed and invented. See "
        "docs/report.md.",
    )
    command.set_defaults(run=commands.report)
    command.add_argument(
        "run_folder",
        metavar="RUN",
        help="output of nucleus crossval or ablate, a run in it, or a run that train wrote",
    )
    command.add_argument(
        "--output", metavar="FILE", help="where to write it (default: report.html in RUN)"
    )
    command.add_argument(
        "--dataset",
        metavar="DIR",
        help="where the annotated images are (default: where crossval saw them)",
    )
    _add_format(command)

    command = subparsers.add_parser(
        "figures",
        help="draw the figures of the paper",
        description="Draw the figures of the paper for any weights and images: the model (figure "
        "1), what it finds in annotated images (2) and in others (3). Without images, in drawn "
        "tissue. See docs/report.md.",
    )
    command.set_defaults(run=commands.figures)
    _add_dataset(command, "subset to show (default: val)", required=False)
    command.add_argument(
        "--image", nargs="+", default=[], metavar="FILE", help="images for figure 3"
    )
    _add_trained(command, "; he_mrcnn, he or free: those of the project (default: he_mrcnn)")
    command.add_argument(
        "--count", type=_count, default=3, metavar="N", help="images of a figure (default: 3)"
    )
    command.add_argument(
        "--output", default="figures", metavar="DIR", help="folder to write to (default: figures)"
    )
    _add_settings(command)

    command = subparsers.add_parser(
        "view",
        help="look at an image and its nuclei in napari",
        description="Open an image in napari, with the nuclei found in it as labels and their "
        "scores as features. Needs pip install 'mrcnn-nuclei[napari]'.",
    )
    command.set_defaults(run=commands.view)
    command.add_argument("image", metavar="IMAGE", help="an image file")
    command.add_argument(
        "prediction",
        metavar="PREDICTION",
        help="a file of its nuclei in any format that docs/formats.md lists, or a folder of such",
    )
    command.add_argument("--truth", metavar="FILE", help="likewise, the annotated nuclei")

    command = subparsers.add_parser(
        "ablate",
        help="try changes to a network, one by one",
        description="Train a baseline and ablations of it, each in its own folder, and tabulate "
        "what they change on the held-out images. Stopped by whatever cause, it goes on when "
        "repeated. See docs/ablations.md.",
    )
    command.set_defaults(run=commands.ablate, subset=None)
    _add_annotated(command)
    _add_fold(command)
    command.add_argument(
        "--output", required=True, metavar="DIR", help="gets a folder for each ablation"
    )
    command.add_argument(
        "--only",
        metavar="NAMES",
        help="ablations, separated by commas (default: all that apply): " + ", ".join(ABLATIONS),
    )
    _add_model(command, "network to train (default: mrcnn)")
    _add_training(command)
    _add_settings(command)

    command = subparsers.add_parser(
        "average",
        help="average the weights of several checkpoints",
        description="Write the mean of the weights of several checkpoints of one network, such as "
        "the last ones of its run, which scatter around it.",
    )
    command.set_defaults(run=commands.average)
    command.add_argument(
        "--weights",
        nargs="+",
        required=True,
        metavar="FILE",
        help="checkpoints: two or more, or with --half one",
    )
    command.add_argument("--output", required=True, metavar="FILE", help="where to write the mean")
    command.add_argument(
        "--half", action="store_true", help="keep 16 bits of each weight: half the file"
    )
    _add_settings(command, "change a setting that the file tells, such as a threshold")

    command = subparsers.add_parser(
        "export",
        help="write a network for programs without Keras",
        description="Write a network, with its weights, for images of one size. What goes in and "
        "what comes out: see docs/export.md.",
    )
    command.set_defaults(run=commands.export)
    command.add_argument(
        "--weights", required=True, metavar="W", help="a file; he_mrcnn, he or free: the project's"
    )
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

    command = subparsers.add_parser(
        "demo",
        help="all of it at toy size, on drawn tissue",
        description="Draw a small synthetic set, outline its nuclei with the project's weights, "
        "then train on it for some minutes, detect, score and draw the result.",
    )
    command.set_defaults(run=commands.demo)
    command.add_argument(
        "--output", default="demo", metavar="DIR", help="folder to write to (default: demo)"
    )
    command.add_argument("--seed", type=_seed, default=0, metavar="N", help="of all random choices")
    return parser


def _seed(text):
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 0 to {2**32 - 1}")
    return int(text)


def _microns(text):
    try:
        microns = float(text)
    except ValueError:
        microns = 0
    if not PLAUSIBLE_MPP[0] <= microns <= PLAUSIBLE_MPP[1]:
        raise argparse.ArgumentTypeError(
            f"{text} is no number of microns from {PLAUSIBLE_MPP[0]} to {PLAUSIBLE_MPP[1]}"
        )
    return microns


def _count(text):
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is no whole number from 1 up")
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


def _add_annotated(command):
    command.add_argument(
        "--dataset", required=True, metavar="DIR", help="annotated images; see docs/data.md"
    )
    _add_format(command)


def _add_format(command):
    command.add_argument(
        "--format",
        choices=(*datasets.FORMATS, "synthetic"),
        help="layout of the folder (default: guess)",
    )


def _add_selection(command, subset_help):
    _add_format(command)
    command.add_argument("--subset", metavar="S", help=subset_help)
    _add_fold(command)


def _add_fold(command):
    command.add_argument(
        "--fold", type=int, metavar="K", help="hold out fold K (from 0) of the cross-validation"
    )


def _add_model(command, help):
    command.add_argument("--model", choices=MODELS, default="mrcnn", help=help)


def _add_trained(command, shipped=""):
    command.add_argument(
        "--weights",
        required=not shipped,
        metavar="W",
        help="a file, or last: of the newest run" + shipped,
    )
    command.add_argument("--preset", choices=PRESETS, help="for weights files that do not tell")
    _add_model(command, "of which --weights last is meant (default: mrcnn)")
    command.add_argument(
        "--logs", default="logs", metavar="DIR", help="where --weights last looks (default: logs)"
    )


def _add_training(command, more_weights=""):
    command.add_argument(
        "--preset",
        choices=PRESETS,
        help="paper: ResNet-101, needs a GPU; compact: for two CPU cores; lite: for these too, "
        "from ImageNet's weights (default: that of the project's weights, if these are --weights, "
        "else compact)",
    )
    command.add_argument(
        "--weights",
        metavar="W",
        help="start from: coco (default of paper), imagenet (default of lite), free (the "
        "project's, that know no MoNuSeg), none (default of compact), a file" + more_weights,
    )
    command.add_argument(
        "--epochs", type=int, metavar="N", help="stretch or shorten the schedule to N epochs"
    )
    command.add_argument("--seed", type=_seed, default=0, metavar="N", help="of all random choices")


def _add_writers(command, default):
    command.add_argument(
        "--write",
        default=default,
        metavar="KINDS",
        help=f"what to write, separated by commas: {', '.join(WRITERS)} (default: {default}); see "
        "docs/formats.md",
    )


def _add_settings(command, help="change a setting of the preset"):
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="settings",
        help=f"{help}; may be repeated",
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


if __name__ == "__main__":
    sys.exit(main())
