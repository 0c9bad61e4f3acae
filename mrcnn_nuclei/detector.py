"""Nuclei of an image of any size, by a trained network."""

import hashlib

import numpy as np

from mrcnn.errors import InputError
from mrcnn.images import normalize_statistics
from mrcnn.model import MaskRCNN
from mrcnn.weights import read_attribute
from mrcnn_nuclei.config import inference_config, json_settings, make_config
from mrcnn_nuclei.tiling import detect_tiled

RECIPE = "nuclei"
"""The attribute of a checkpoint that says how to build its network."""


def recipe(model, config):
    """What a checkpoint has to tell, so that `Detector` can be built from the file alone.

    Parameters
    ----------
    model : str
        "mrcnn".
    config : NucleusConfig
        Its preset is noted, from which comes what cannot be written down, such as a backbone's
        code, and all settings that can.

    Returns
    -------
    dict
    """
    return {RECIPE: {"model": model, "preset": config.PRESET, "settings": json_settings(config)}}


class Detector:
    """Detects nuclei with the weights of a file.

    Parameters
    ----------
    weights : str or Path
    preset : str, optional
        Needed for files that this package did not write; else what the file says.
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
        known = read_attribute(weights, RECIPE) or {"preset": preset, "settings": {}}
        if preset is None and known["preset"] is None:
            raise InputError(
                f"{weights}: does not say which network it belongs to; give --preset paper or "
                "compact"
            )
        settings = settings or {}
        config = make_config(preset or known["preset"], {**known["settings"], **settings})
        self.config = inference_config(config, settings)
        self.weights = str(weights)
        with open(weights, "rb") as file:
            self.digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.capped = 0
        self._model = MaskRCNN("inference", self.config, ".")
        self._model.load_weights(weights)

    def detect(self, image, progress=False):
        """Detect the nuclei of an image; one larger than DETECTION_TILE is cut into tiles.

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
        """
        statistics = normalize_statistics(image, self.config)
        limit = self.config.DETECTION_MAX_INSTANCES
        self.capped = 0

        def detect(crops):
            found = self._model.detect_instances(crops, [statistics] * len(crops))
            self.capped += sum(len(instances) >= limit for instances in found)
            return found

        tile, overlap = self.config.DETECTION_TILE, self.config.DETECTION_OVERLAP
        if max(image.shape[:2]) <= tile:
            found = detect([np.ascontiguousarray(image)])[0]
        else:
            found = detect_tiled(detect, image, tile, overlap, progress=progress)
        return found[found.areas > 0]
