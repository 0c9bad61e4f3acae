"""Nuclei of an image of any size, by a trained network."""

import contextlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mrcnn import backend
from mrcnn.errors import InputError
from mrcnn.files import file_digest
from mrcnn.instances import Instances
from mrcnn.weights import write_attribute
from mrcnn_nuclei.config import NucleusConfig, UNetConfig, inference_config, make_config
from mrcnn_nuclei.contrast import Prepared, is_blank, prepare
from mrcnn_nuclei.joint import join
from mrcnn_nuclei.networks import NETWORKS, RECIPE, read_recipe
from mrcnn_nuclei.postprocessing import postprocess
from mrcnn_nuclei.shipped_weights import DEFAULT_UNET, find_shipped
from mrcnn_nuclei.tuning import tune

CLASS_NAMES = ("BG", "nucleus")


class Recipe(NamedTuple):
    """What another process needs to make a detector.

    Attributes
    ----------
    weights, preset
        See `Detector`; the file lies at the same place for all processes.
    digest : str
        SHA-256 of the weights.
    settings : str
        JSON of a dictionary.
    unet : str or None
        See `Detector`.
    """

    weights: str
    digest: str
    preset: str | None
    settings: str
    unet: str | None

    def load(self):
        """Make the detector.

        Raises
        ------
        InputError
            As `Detector`, or if the weights are not the same.
        """
        detector = Detector(self.weights, self.preset, json.loads(self.settings), self.unet)
        if detector.digest != self.digest:
            raise InputError(
                f"{self.weights}: a worker sees another file there than this process; give a path "
                "that is the same for both"
            )
        return detector


class Detector:
    """Detects nuclei with the weights of a file.

    Parameters
    ----------
    weights : str or Path, optional
        A file, or a word for weights that come with the project, see
        `mrcnn_nuclei.shipped_weights`. Default: "he_mrcnn" with `unet` "he".
    preset : str, optional
        Needed for files that this package did not write; else what the file says. These are taken
        for Mask R-CNN's.
    settings : dict, optional
        Further changes, such as DETECTION_MIN_CONFIDENCE.
    unet : str or Path, optional
        Weights of a U-Net that sees each image too, and by which `mrcnn_nuclei.joint.join` corrects
        what a Mask R-CNN finds; "none": no such. Settings of both networks change both.

    Attributes
    ----------
    config : NucleusConfig
    unet : Detector or None
    model : mrcnn_nuclei.rcnn.NucleusRCNN or mrcnn_nuclei.unet.model.UNet
        The network, for what it computes on the way.
    weights : str
        The file.
    digest : str
        SHA-256 of the file, and of the U-Net's if there is one.
    capped : int
        In how many tiles of the last image DETECTION_MAX_INSTANCES was reached.

    Raises
    ------
    InputError
        If the file is not readable, does not say its preset, or has another architecture.
    """

    def __init__(self, weights=None, preset=None, settings=None, unet=None):
        if weights is None and unet is None:
            unet = DEFAULT_UNET
        weights = find_shipped(weights)
        known = read_recipe(weights) or {"model": "mrcnn", "preset": preset, "settings": {}}
        self._recipe = known
        if known["preset"] is None:
            raise InputError(
                f"{weights}: does not say which network it belongs to; give --preset paper or "
                "compact"
            )
        self.unet = None
        if unet not in (None, "none"):
            self.unet = _load_unet(unet, settings, weights, known["model"])
        self._preset = preset
        self._changes = settings = dict(settings or {})
        if self.unet:
            settings = {k: v for k, v in settings.items() if k not in UNET_ONLY}
        try:
            config = make_config(
                preset or known["preset"], {**known["settings"], **settings}, model=known["model"]
            )
        except InputError as error:
            raise InputError(
                f"{weights}, with the settings in it and those given: {error}"
            ) from None
        self.config = inference_config(config, settings)
        self.weights = str(weights)
        self.digest = file_digest(weights) + (f"+{self.unet.digest}" if self.unet else "")
        self.capped = 0
        self.model = NETWORKS[config.MODEL]("inference", self.config, ".")
        self.model.load_weights(weights)

    @property
    def recipe(self):
        """How other processes come by the same detector; see `Recipe`."""
        weights, unet = (
            None if each is None else str(Path(each.weights).resolve())
            for each in (self, self.unet)
        )
        return Recipe(weights, self.digest, self._preset, json.dumps(self._changes), unet)

    def detect(self, image, alone=False, statistics=None):
        """Detect the nuclei of an image; one larger than DETECTION_TILE is seen by tiles.

        Parameters
        ----------
        image : ndarray uint8 [H, W, 3]
            RGB.
        alone : bool
            No other image follows: show a bar with an ETA, in tiles, and for a single tile spare
            the seconds that compiling takes. Scores then differ from those compiled by rounding.
        statistics : (mean, std), optional
            See `mrcnn.images.normalize_statistics`. By default the image's own.

        Returns
        -------
        Instances
            Each has a pixel at least. None where the image is blank, see
            `mrcnn_nuclei.contrast.is_blank`.

        Raises
        ------
        InputError
            If a tile does not fit into memory.
        """
        image = np.ascontiguousarray(image)
        if is_blank(image):
            self.capped = 0
            return Instances.empty(image.shape[:2])
        prediction = self._predict(image, alone, statistics)
        self.capped = self.model.capped
        found = self.model.segment(prediction)
        found = postprocess(found[found.areas > 0], self.config)
        if self.unet is None:
            return found
        maps = self.unet._predict(image, alone, statistics)
        others = self.unet.model.segment(maps)
        return join(found, maps[..., 0], others, self.unet.config.MIN_NUCLEUS_AREA)

    def _predict(self, image, alone, statistics):
        """What the network says of an image before the thresholds."""
        config = self.config
        image = prepare(image, config)
        single = max(image.shape[:2]) <= config.DETECTION_TILE and not config.TEST_TIME_AUGMENTATION
        running = backend.without_compiling if alone and single else contextlib.nullcontext
        try:
            with running():
                return self.model.predict(image, alone, statistics)
        except Exception as error:
            if not backend.is_out_of_memory(error):
                raise
            raise InputError(
                f"out of memory with DETECTION_TILE = {config.DETECTION_TILE}: lower it, or "
                "else POST_NMS_ROIS_INFERENCE of Mask R-CNN, with --set"
            ) from error

    def tune(self, dataset, image_ids=None):
        """Find the best thresholds and detect with them from now on.

        Parameters
        ----------
        dataset, image_ids
            See `mrcnn_nuclei.tuning.tune`.

        Returns
        -------
        settings, before, after
            See there.
        """
        found, before, after = tune(self.model, Prepared(dataset, self.config), image_ids)
        self._changes |= found  # they suit what is predicted with the other changes only
        return found, before, after

    def save_settings(self):
        """Save the settings given, and the thresholds found, in the weights file."""
        self._recipe["settings"] |= self._changes
        write_attribute(self.weights, RECIPE, self._recipe)

    def export(self, path, format=None):
        """Write the network for other programs; its images are DETECTION_TILE pixels wide and high.

        Parameters
        ----------
        path : str or Path
        format : {"onnx", "savedmodel"}, optional

        Raises
        ------
        InputError
            See `mrcnn.model.MaskRCNN.export`.
        """
        self.model.export(path, format, {"class_names": CLASS_NAMES})


UNET_ONLY = {name for name in dir(UNetConfig) if name.isupper()} - set(dir(NucleusConfig))
"""Settings that a Mask R-CNN does not have."""


def _load_unet(unet, settings, weights, model):
    """The Detector of a U-Net that is to correct what a network of a kind finds."""
    if model != "mrcnn":
        raise InputError(f"{weights}: is a U-Net's; --unet corrects what a Mask R-CNN finds")
    loaded = Detector(unet, settings=settings)
    if loaded.config.MODEL != "unet":
        raise InputError(f"{unet}: is not a U-Net's; give --unet weights of one")
    return loaded
