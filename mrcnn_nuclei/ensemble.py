"""Mask-NMS over folders of predictions, with results on disk."""

from functools import partial
from pathlib import Path

from mrcnn.errors import InputError
from mrcnn_nuclei.formats import WRITERS
from mrcnn_nuclei.image_files import find_images, read_image
from mrcnn_nuclei.mask_nms import IOU_THRESHOLD, check_options, mask_nms
from mrcnn_nuclei.predictions import open_predictions
from mrcnn_nuclei.results import Job, Result, file_identity, write_results

MANIFEST = "ensemble.json"
"""File of the output folder that tells of what each result was made."""


def fuse_folders(
    folders,
    output,
    writers=("labels",),
    images=None,
    *,
    iou_threshold=IOU_THRESHOLD,
    min_votes=None,
    fuse="union",
    method="greedy",
):
    """Fuse the predictions of several networks for the same images and write the results.

    An image whose results are there, made of the same files with the same options, is left as it
    is, unless a format needs the whole set at once.

    Parameters
    ----------
    folders : list of str or Path
        The predictions of one network each, or COCO files of them; see
        `mrcnn_nuclei.predictions.open_predictions`.
    output : str or Path
        Folder of the results.
    writers : list of str
        Names of `mrcnn_nuclei.formats.WRITERS`. "overlay" needs `images`.
    images : str or Path, optional
        Folder of the images themselves, right in it or in its subfolder `images`. Outlines, which
        do not tell the size of their image, need it too.
    iou_threshold, min_votes, fuse, method
        See `mrcnn_nuclei.mask_nms.mask_nms`.

    Returns
    -------
    nuclei : int
        In the results of this call.
    images : int
        Number of images that were not done already.

    Raises
    ------
    InputError
        If an option is wrong, predictions cannot be read, differ in size or are there for some
        folders only, or an image is needed and not there.
    """
    min_votes = check_options(len(folders), iou_threshold, min_votes, fuse, method)
    options = {
        "iou_threshold": iou_threshold,
        "min_votes": min_votes,
        "fuse": fuse,
        "method": method,
    }
    if "overlay" in writers and images is None:
        raise InputError("an overlay needs the images to draw on; give their folder (--images)")
    _check_output(output, folders)
    predictions = [open_predictions(folder) for folder in folders]
    names = _common_names(predictions)
    pictures = {} if images is None else _find_pictures(images, names)

    def make(name, progress):
        image = read_image(pictures[name]) if pictures else None
        return Result(_fuse_image(name, predictions, image, options), image)

    jobs = [
        Job(
            name,
            pictures[name].name if pictures else predictions[0].file_name(name),
            [file_identity(path) for given in predictions for path in given.files(name)],
            partial(make, name),
        )
        for name in names
    ]
    return write_results(jobs, output, writers, MANIFEST, options)


def _fuse_image(name, predictions, image, options):
    shape = None if image is None else image.shape[:2]
    instances = [given.read(name, shape) for given in predictions]
    sizes = dict.fromkeys(f"{given.shape[0]} x {given.shape[1]}" for given in instances)
    if len(sizes) > 1:
        raise InputError(
            f"{name}: its predictions differ in size ({', '.join(sizes)} pixels); give predictions "
            "of the same image"
        )
    try:
        return mask_nms(instances, **options)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _common_names(predictions):
    """The names of the images, which all predictions must have."""
    names = sorted(set().union(*(given.names for given in predictions)))
    for given in predictions:
        missing = sorted(set(names) - set(given.names))
        if missing:
            other = next(other for other in predictions if missing[0] in other.names)
            raise InputError(
                f"{given.path}: {len(missing)} of {len(names)} images have no prediction, such as "
                f"{missing[0]}, which {other.path} has; give folders of the same images"
            )
    return names


def _find_pictures(folder, names):
    """The image file of each name."""
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder of the images")
    within = folder / "images" if (folder / "images").is_dir() else folder
    pictures = {path.stem.removesuffix(".ome"): path for path in find_images(within)}
    missing = [name for name in names if name not in pictures]
    if missing:
        raise InputError(
            f"{within}: {len(missing)} of {len(names)} images are not in it, such as {missing[0]}; "
            "give the folder of the images that were predicted"
        )
    return pictures


def _check_output(output, folders):
    """Refuse to write over what is to be read."""
    written = {Path(output).resolve()}
    written |= {writer.path(output, "any").parent.resolve() for writer in WRITERS.values()}
    for folder in folders:
        folder = Path(folder)
        if (folder.parent if folder.is_file() else folder).resolve() in written:
            raise InputError(
                f"--output {output}: the predictions of {folder} are there; write elsewhere"
            )
