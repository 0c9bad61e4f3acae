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
from mrcnn_nuclei.config import PRESETS, inference_config, make_config
from mrcnn_nuclei.contrast import Prepared, is_blank, prepare
from mrcnn_nuclei.networks import NETWORKS, RECIPE, read_recipe
from mrcnn_nuclei.postprocessing import postprocess
from mrcnn_nuclei.shipped_weights import find_shipped
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
    """

    weights: str
    digest: str
    preset: str | None
    settings: str

    def load(self):
        """Make the detector.

        Raises
        ------
        InputError
            As `Detector`, or if the weights are not the same.
        """
        detector = Detector(self.weights, self.preset, json.loads(self.settings))
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
        `mrcnn_nuclei.shipped_weights`. Default: "he_mrcnn".
    preset : str, optional
        Needed for files that this package did not write; else what the file says. These are taken
        for Mask R-CNN's.
    settings : dict, optional
        Further changes, such as DETECTION_MIN_CONFIDENCE.

    Attributes
    ----------
    config : NucleusConfig
    model : mrcnn_nuclei.rcnn.NucleusRCNN or mrcnn_nuclei.unet.model.UNet
        The network, for what it computes on the way.
    weights : str
        The file.
    digest : str
        SHA-256 of the file.
    capped : int
        In how many tiles of the last image DETECTION_MAX_INSTANCES was reached.

    Raises
    ------
    InputError
        If the file is not readable, does not say its preset, or has another architecture.
    """

    def __init__(self, weights=None, preset=None, settings=None):
        weights = find_shipped(weights)
        known = read_recipe(weights) or {"model": "mrcnn", "preset": preset, "settings": {}}
        self._recipe = known
        if known["preset"] is None:
            raise InputError(
                f"{weights}: does not say which network it belongs to; give --preset "
                f"{' or '.join(PRESETS)}"
            )
        self._preset = preset
        self._changes = settings = dict(settings or {})
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
        self.digest = file_digest(weights)
        self.capped = 0
        self.model = NETWORKS[config.MODEL]("inference", self.config, ".")
        self.model.load_weights(weights)

    @property
    def recipe(self):
        """How other processes come by the same detector; see `Recipe`."""
        return Recipe(
            str(Path(self.weights).resolve()), self.digest, self._preset, json.dumps(self._changes)
        )

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
        prediction = self.predict(image, alone, statistics)
        if prediction is None:
            return Instances.empty(image.shape[:2])
        found = self.model.segment(prediction)
        return postprocess(found[found.areas > 0], self.config)

    def predict(self, image, alone=False, statistics=None):
        """What the network says of an image before the thresholds.

        Parameters
        ----------
        image, alone, statistics
            See `detect`.

        Returns
        -------
        prediction
            What `model.segment` takes; None where the image is blank.

        Raises
        ------
        InputError
            See `detect`.
        """
        self.capped = 0
        image = np.ascontiguousarray(image)
        if is_blank(image):
            return None
        image = prepare(image, self.config)
        config = self.config
        single = max(image.shape[:2]) <= config.DETECTION_TILE and not config.TEST_TIME_AUGMENTATION
        running = backend.without_compiling if alone and single else contextlib.nullcontext
        try:
            with running():
                prediction = self.model.predict(image, alone, statistics)
        except Exception as error:
            if not backend.is_out_of_memory(error):
                raise
            raise InputError(
                f"out of memory with DETECTION_TILE = {self.config.DETECTION_TILE}: lower it, or "
                "else POST_NMS_ROIS_INFERENCE of Mask R-CNN, with --set"
            ) from error
        self.capped = self.model.capped
        return prediction

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
