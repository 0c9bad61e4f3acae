"""Detection in a list of image files, with results on disk; stopped, it goes on where it was."""

import json
import logging
from pathlib import Path

from tqdm import tqdm

from mrcnn.errors import InputError
from mrcnn.files import atomic_path
from mrcnn_nuclei.detector import Detector
from mrcnn_nuclei.formats import WRITERS
from mrcnn_nuclei.image_files import read_image

LOGGER = logging.getLogger("mrcnn_nuclei")

MANIFEST = "detection.json"
"""File of the output folder that tells with what its results were made."""


def detect_files(paths, weights, output, writers, preset=None, settings=None):
    """Detect the nuclei of images and write the results.

    An image whose files are there, made by the same weights and settings, is left as it is, unless
    a format needs the whole set at once.

    Parameters
    ----------
    paths : list of str or Path
        Image files.
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
    images = _by_name(paths)
    detector = Detector(weights, preset, settings)
    per_image = [WRITERS[name] for name in writers if WRITERS[name].per_image]
    per_set = [WRITERS[name] for name in writers if not WRITERS[name].per_image]
    current = _is_current(output / MANIFEST, detector)
    done = set()
    if current and not per_set:
        done = {
            name
            for name in images
            if all(writer.path(output, name).exists() for writer in per_image)
        }
    if done:
        LOGGER.info("%d of %d images are done already", len(done), len(images))

    nuclei, predictions = 0, {}
    waiting = {name: path for name, path in images.items() if name not in done}
    with tqdm(total=len(waiting), unit="image", desc="Images", disable=len(waiting) < 2) as bar:
        for name, path in waiting.items():
            image = read_image(path)
            found = detector.detect(image, progress=len(waiting) < 2)
            if not current:
                # Only now: nothing is written, and nothing older is disowned, for a bad first image
                _write_manifest(output / MANIFEST, detector)
                current = True
            for writer in per_image:
                writer.write(writer.path(output, name), found, image)
            if per_set:
                predictions[Path(path).name] = found
            nuclei += len(found)
            bar.set_postfix(nuclei=nuclei, refresh=False)
            bar.update()
    for writer in per_set:
        writer.write(writer.path(output), predictions)
    return nuclei, len(done)


def _by_name(paths):
    images = {}
    for path in paths:
        name = Path(path).stem
        if name in images:
            raise InputError(
                f"{path}: has the same name as {images[name]}, so that one's results would replace "
                "the other's; detect them into different --output folders"
            )
        images[name] = path
    return images


def _description(detector):
    settings = {
        name: value
        for name, value in detector.config.to_dict().items()
        if name.startswith("DETECTION") or name == "IMAGE_MIN_SCALE"
    }
    return {
        "weights": detector.weights,
        "sha256": detector.digest,
        "settings": json.loads(json.dumps(settings, default=str)),
    }


def _is_current(path, detector):
    try:
        known = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    wanted = _description(detector)
    return all(known.get(key) == wanted[key] for key in ("sha256", "settings"))


def _write_manifest(path, detector):
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_description(detector), indent=1) + "\n")
