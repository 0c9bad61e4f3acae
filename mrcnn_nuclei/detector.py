"""Nuclei of an image of any size, by a trained network."""

import hashlib

import numpy as np

from mrcnn import backend
from mrcnn.errors import InputError
from mrcnn.images import normalize_statistics
from mrcnn.weights import write_attribute
from mrcnn_nuclei.config import inference_config, make_config
from mrcnn_nuclei.networks import NETWORKS, RECIPE, read_recipe
from mrcnn_nuclei.tiling import detect_tiled
from mrcnn_nuclei.unet.tuning import tune

CLASS_NAMES = ("BG", "nucleus")


class Detector:
    """Detects nuclei with the weights of a file.

    Parameters
    ----------
    weights : str or Path
    preset : str, optional
        Needed for files that this package did not write; else what the file says. These are taken
        for Mask R-CNN's.
    settings : dict, optional
        Further changes, such as DETECTION_MIN_CONFIDENCE.

    Attributes
    ----------
    config : NucleusConfig
    weights : str
    digest : str
        SHA-256 of the file.
    capped : int
        In how many tiles of the last image DETECTION_MAX_INSTANCES was reached.

    Raises
    ------
    InputError
        If the file is not readable, does not say its preset, or has another architecture.
    """

    def __init__(self, weights, preset=None, settings=None):
        known = read_recipe(weights) or {"model": "mrcnn", "preset": preset, "settings": {}}
        if known["preset"] is None:
            raise InputError(
                f"{weights}: does not say which network it belongs to; give --preset paper or "
                "compact"
            )
        self._changes = settings = settings or {}
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
        with open(weights, "rb") as file:
            self.digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.capped = 0
        self._model = NETWORKS[config.MODEL]("inference", self.config, ".")
        self._model.load_weights(weights)

    def detect(self, image, progress=False):
        """Detect the nuclei of an image; one larger than DETECTION_TILE is seen by tiles.

        Parameters
        ----------
        image : ndarray uint8 [H, W, 3]
            RGB.
        progress : bool
            Show a bar with an ETA, in tiles.

        Returns
        -------
        Instances
            Each has a pixel at least.

        Raises
        ------
        InputError
            If a tile does not fit into memory.
        """
        image = np.ascontiguousarray(image)
        find = {"mrcnn": self._detect_tiles, "unet": self._model.detect}[self.config.MODEL]
        try:
            found = find(image, progress)
        except Exception as error:
            if not backend.is_out_of_memory(error):
                raise
            raise InputError(
                f"out of memory with DETECTION_TILE = {self.config.DETECTION_TILE}: lower it, or "
                "else POST_NMS_ROIS_INFERENCE of Mask R-CNN, with --set"
            ) from error
        return found[found.areas > 0]

    def tune(self, dataset):
        """Find the U-Net's best thresholds and save them in the weights file.

        Parameters
        ----------
        dataset : NucleusDataset
            See `mrcnn_nuclei.unet.tuning.tune`.

        Returns
        -------
        settings, before, after
            See there.

        Raises
        ------
        InputError
            If the network is another.
        """
        if self.config.MODEL != "unet":
            raise InputError(
                f"{self.weights}: weights of {self.config.MODEL}, which has no watershed to tune; "
                "give those of a U-Net"
            )
        found, before, after = tune(self._model, dataset)
        known = read_recipe(self.weights)
        # The thresholds suit maps made with the other changes only.
        known["settings"] |= {**self._changes, **found}
        write_attribute(self.weights, RECIPE, known)
        return found, before, after

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
        self._model.export(path, format, {"class_names": CLASS_NAMES})

    def _detect_tiles(self, image, progress):
        """Detect tile by tile, then merge, while the U-Net blends its maps and then detects."""
        statistics = normalize_statistics(image, self.config)
        limit = self.config.DETECTION_MAX_INSTANCES
        self.capped = 0

        def detect(crops):
            found = self._model.detect_instances(crops, [statistics] * len(crops))
            self.capped += sum(len(instances) >= limit for instances in found)
            return found

        tile, overlap = self.config.DETECTION_TILE, self.config.DETECTION_OVERLAP
        if max(image.shape[:2]) <= tile:
            return detect([image])[0]
        return detect_tiled(detect, image, tile, overlap, progress=progress)
