"""Detection in a set of images, with results on disk."""

import logging
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mrcnn.errors import InputError
from mrcnn_nuclei.config import json_settings
from mrcnn_nuclei.detector import Detector
from mrcnn_nuclei.image_files import read_image
from mrcnn_nuclei.results import Job, Result, file_identity, write_results

LOGGER = logging.getLogger("mrcnn_nuclei")

MANIFEST = "detection.json"
"""File of the output folder that tells from what each result was made."""


class Source(NamedTuple):
    """An image to detect in: how its results are called, where it is, and how to get its pixels."""

    name: str
    path: str
    load: callable


def image_sources(paths):
    """The sources of image files, named by the files.

    Parameters
    ----------
    paths : list of str or Path

    Returns
    -------
    list of Source
    """
    return [Source(Path(path).stem, str(path), partial(read_image, path)) for path in paths]


def dataset_sources(dataset):
    """The sources of a data set, named as it names its images.

    Parameters
    ----------
    dataset : NucleusDataset

    Returns
    -------
    list of Source
    """
    return [
        Source(name, dataset.image_reference(i), partial(dataset.load_image, i))
        for i, name in enumerate(dataset.names)
    ]


def detect_images(sources, weights, output, writers, preset=None, settings=None):
    """Detect the nuclei of images and write the results.

    An image whose results are there, made from the same file by the same weights and settings, is
    left as it is, unless a format needs the whole set at once.

    Parameters
    ----------
    sources : list of Source
    weights, preset, settings
        See `mrcnn_nuclei.detector.Detector`.
    output : str or Path
        Folder of the results.
    writers : list of str
        Names of `mrcnn_nuclei.formats.WRITERS`.

    Returns
    -------
    nuclei : int
        Found in this call.
    images : int
        Number of images that were not done already.

    Raises
    ------
    InputError
        If an image or the weights cannot be read, or two images share a name.
    """
    _check_names(sources)
    detector = Detector(weights, preset, settings)
    jobs = [
        Job(
            source.name,
            Path(source.path).name,
            file_identity(source.path),
            partial(_detect, detector, source),
        )
        for source in sources
    ]
    made_by = {"sha256": detector.digest, "settings": json_settings(detector.config)}
    notes = {"weights": detector.weights}
    return write_results(jobs, output, writers, MANIFEST, made_by, notes)


def _detect(detector, source, progress):
    """The Result of an image."""
    image = source.load()
    found = detector.detect(image, progress=progress)
    if detector.capped:
        LOGGER.warning(
            "%s: %d of its tiles have DETECTION_MAX_INSTANCES = %d nuclei and may hold "
            "more; raise it with --set, or lower DETECTION_TILE",
            source.path,
            detector.capped,
            detector.config.DETECTION_MAX_INSTANCES,
        )
    return Result(found, image)


def _check_names(sources):
    paths = {}
    for source in sources:
        if source.name in paths:
            raise InputError(
                f"{source.path}: has the same name as {paths[source.name]}, so that one's results "
                "would replace the other's; detect them into different --output folders"
            )
        paths[source.name] = source.path
