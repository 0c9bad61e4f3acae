"""Detection in a set of images, with results on disk; stopped, it goes on where it was."""

import json
import logging
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from mrcnn.errors import InputError
from mrcnn.files import atomic_path
from mrcnn_nuclei.config import json_settings
from mrcnn_nuclei.detector import Detector
from mrcnn_nuclei.formats import WRITERS
from mrcnn_nuclei.image_files import read_image

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
    skipped : int
        Number of images that were done already.

    Raises
    ------
    InputError
        If an image or the weights cannot be read, or two images share a name.
    """
    output = Path(output)
    _check_names(sources)
    detector = Detector(weights, preset, settings)
    per_image = [WRITERS[name] for name in writers if WRITERS[name].per_image]
    per_set = [WRITERS[name] for name in writers if not WRITERS[name].per_image]
    manifest = _Manifest(output / MANIFEST, detector)
    waiting = [
        source
        for source in sources
        if per_set
        or not manifest.has(source)
        or not all(writer.path(output, source.name).exists() for writer in per_image)
    ]
    skipped = len(sources) - len(waiting)
    if skipped:
        LOGGER.info("%d of %d images are done already", skipped, len(sources))

    nuclei, predictions = 0, {}
    with tqdm(total=len(waiting), unit="image", desc="Images", disable=len(waiting) < 2) as bar:
        for source in waiting:
            image = source.load()
            found = detector.detect(image, progress=len(waiting) < 2)
            if detector.capped:
                LOGGER.warning(
                    "%s: %d of its tiles have DETECTION_MAX_INSTANCES = %d nuclei and may hold "
                    "more; raise it with --set, or lower DETECTION_TILE",
                    source.path,
                    detector.capped,
                    detector.config.DETECTION_MAX_INSTANCES,
                )
            manifest.remove(source)
            for writer in per_image:
                writer.write(writer.path(output, source.name), found, image)
            manifest.add(source)
            if per_set:
                predictions[Path(source.path).name] = found
            nuclei += len(found)
            bar.set_postfix(nuclei=nuclei, refresh=False)
            bar.update()
    for writer in per_set:
        writer.write(writer.path(output), predictions)
    return nuclei, skipped


def _check_names(sources):
    paths = {}
    for source in sources:
        if source.name in paths:
            raise InputError(
                f"{source.path}: has the same name as {paths[source.name]}, so that one's results "
                "would replace the other's; detect them into different --output folders"
            )
        paths[source.name] = source.path


class _Manifest:
    """What the results in a folder were made from; those of other weights or settings are void."""

    def __init__(self, path, detector):
        self.path = path
        self.made_by = {
            "weights": detector.weights,
            "sha256": detector.digest,
            "settings": json_settings(detector.config),
        }
        self.images = {}
        try:
            known = json.loads(path.read_text())
            if all(known[key] == self.made_by[key] for key in ("sha256", "settings")):
                self.images = known["images"]
        except (OSError, ValueError, KeyError):
            pass  # no results yet, or none that can be trusted

    def has(self, source):
        return self.images.get(source.name) == _identity(source.path)

    def remove(self, source):
        if self.images.pop(source.name, None):
            self._write()

    def add(self, source):
        self.images[source.name] = _identity(source.path)
        self._write()

    def _write(self):
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps({**self.made_by, "images": self.images}, indent=1))


def _identity(path):
    """Path, size and time of a file, which change with its content; of drawn images the name."""
    try:
        status = Path(path).stat()
    except OSError:
        return [str(path)]
    return [str(path), status.st_size, status.st_mtime_ns]
