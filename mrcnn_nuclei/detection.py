"""Detection in a set of images, with results on disk."""

import logging
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mrcnn.errors import InputError
from mrcnn_nuclei.cluster import Cluster
from mrcnn_nuclei.detector import Detector
from mrcnn_nuclei.formats import WRITERS
from mrcnn_nuclei.joint import JointDetector, load_detector, settings_of
from mrcnn_nuclei.resolution import network_scale, rescale, scaled_shape
from mrcnn_nuclei.results import Job, Result, file_identity, write_results
from mrcnn_nuclei.slide_detection import detect_slide
from mrcnn_nuclei.slides import Picture, open_slide
from mrcnn_nuclei.slides.slide import Slide, resize_pixels
from mrcnn_nuclei.startup import import_keras

LOGGER = logging.getLogger("mrcnn_nuclei")

MANIFEST = "detection.json"
"""File of the output folder that tells from what each result was made."""

BLOCKS = "blocks"
"""Folder of the output folder with what was found in the blocks of each slide."""

WHOLE_PIXELS = 4096 * 4096
"""Images are seen whole if the network sees no more pixels of them; others are slides."""


class Source(NamedTuple):
    """An image to detect in: how its results are called, where it is, and how to open it.

    `load()` returns a Slide, or uint8 RGB [H, W, 3].
    """

    name: str
    path: str
    load: callable


def image_sources(paths):
    """The sources of image files and slides, named by the files.

    Parameters
    ----------
    paths : list of str or Path

    Returns
    -------
    list of Source
    """
    return [Source(Path(path).stem, str(path), partial(open_slide, path)) for path in paths]


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


def detect_images(
    sources,
    weights,
    output,
    writers,
    preset=None,
    settings=None,
    *,
    unet=None,
    mpp=None,
    region=None,
    workers=None,
    scheduler=None,
):
    """Detect the nuclei of images and write the results.

    An image whose results are there, made from the same file by the same weights and settings, is
    left as it is, unless a format needs the whole set at once. What was found in the blocks of a
    slide stays in the output folder: detected anew with the same weights and settings, be it for
    another format or region, it is taken from there.

    Parameters
    ----------
    sources : list of Source
    weights, preset, settings, unet
        See `mrcnn_nuclei.joint.load_detector`.
    output : str or Path
        Folder of the results.
    writers : list of str
        Names of `mrcnn_nuclei.formats.WRITERS`.
    mpp : float, optional
        Microns per pixel of the images, whatever their files tell.
    region : Region, optional
        Only nuclei whose centroid lies in it are wanted.
    workers, scheduler
        Who sees the blocks of slides, see `mrcnn_nuclei.cluster.Cluster`; by default this process.

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
    detector = load_detector(weights, preset, settings, unet)
    made_by = {"sha256": detector.digest, **settings_of(detector)}
    options = {"mpp": mpp, "region": region and region.identity}
    options = {name: value for name, value in options.items() if value is not None}
    with Cluster(workers, scheduler, prepare=import_keras) as cluster:
        looking = _Looking(
            detector,
            made_by,
            Path(output),
            [name for name in writers if not WRITERS[name].per_image],
            mpp,
            region,
            cluster if workers or scheduler else None,
        )
        jobs = [
            Job(
                source.name,
                Path(source.path).name,
                [*file_identity(source.path), *([options] if options else [])],
                partial(looking.at, source),
            )
            for source in sources
        ]
        notes = {"weights": detector.weights}
        if isinstance(detector, JointDetector):
            notes["unet"] = detector.unet.weights
        return write_results(jobs, output, writers, MANIFEST, made_by, notes)


class _Looking(NamedTuple):
    """How images are looked at: by what, and with which options of `detect_images`."""

    detector: Detector | JointDetector
    made_by: dict
    output: Path
    per_set: list
    mpp: float | None
    region: object
    cluster: Cluster | None

    def at(self, source, alone):
        """The Result of an image."""
        slide = source.load()
        if not isinstance(slide, Slide):
            slide = Picture(slide, source.path)
        mpp = slide.mpp if self.mpp is None else self.mpp
        scale = network_scale(mpp, self.detector.config.MPP)
        shape = scaled_shape(slide.shape[:2], scale)
        if shape[0] * shape[1] <= WHOLE_PIXELS:
            found, capped, image = self._whole(slide, shape, alone)
        else:
            found, capped, image = self._by_blocks(slide, source, scale)
        if capped:
            LOGGER.warning(
                "%s: %d of its tiles have DETECTION_MAX_INSTANCES = %d nuclei and may hold "
                "more; raise it with --set, or lower DETECTION_TILE",
                source.path,
                capped,
                self.detector.config.DETECTION_MAX_INSTANCES,
            )
        return Result(found, image, mpp)

    def _whole(self, slide, shape, alone):
        image = slide.pixels if isinstance(slide, Picture) else slide[:, :]
        found = self.detector.detect(resize_pixels(image, shape), alone)
        found = rescale(found, slide.shape[:2])
        return (
            self.region.select(found) if self.region else found,
            self.detector.capped,
            image,
        )

    def _by_blocks(self, slide, source, scale):
        if self.per_set:
            raise InputError(
                f"{source.path}: is a slide, and {' and '.join(self.per_set)} are for sets of "
                "images; choose another format, such as geojson, with --write"
            )
        found, capped = detect_slide(
            self.detector,
            slide,
            self.output / BLOCKS / source.name,
            [self.made_by, file_identity(source.path)],
            scale,
            self.region,
            self.cluster,
        )
        return found, capped, slide


def _check_names(sources):
    paths = {}
    for source in sources:
        if source.name in paths:
            raise InputError(
                f"{source.path}: has the same name as {paths[source.name]}, so that one's results "
                "would replace the other's; detect them into different --output folders"
            )
        paths[source.name] = source.path
