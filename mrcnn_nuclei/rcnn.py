"""Mask R-CNN on images of any size: by tiles, and by flips of these if wanted."""

from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from mrcnn.images import normalize_statistics
from mrcnn.instances import Instances
from mrcnn.model import MaskRCNN
from mrcnn_nuclei.mask_nms import mask_nms
from mrcnn_nuclei.tiling import merge_tiles, tile_grid

FLIPS = ((1, 1), (-1, 1), (1, -1))
"""Steps through rows and columns: the image as it is, upside down, left to right."""


class Prediction(NamedTuple):
    """What the network says of an image, before any threshold.

    Attributes
    ----------
    shape : (int, int)
        (H, W) of the image.
    tiles : list of (y1, x1, y2, x2)
        In pixels.
    found : list of lists of SoftInstances
        Of each tile, and each of its flips.
    """

    shape: tuple
    tiles: list
    found: list


class NucleusRCNN(MaskRCNN):
    """`mrcnn.model.MaskRCNN` for an image of any size, the counterpart of `UNet`.

    Attributes
    ----------
    capped : int
        In how many tiles of the last image DETECTION_MAX_INSTANCES was reached.
    """

    capped = 0

    def predict(self, image, progress=False, statistics=None):
        """What the network says of an image, tile by tile.

        Parameters
        ----------
        image : ndarray uint8 [H, W, C]
        progress : bool
            Show a bar with an ETA, in tiles.
        statistics : (mean, std), optional
            See `mrcnn.images.normalize_statistics`. By default the image's own.

        Returns
        -------
        Prediction
        """
        config = self.config
        statistics = statistics or normalize_statistics(image, config)
        tiles = tile_grid(image.shape[:2], config.DETECTION_TILE, config.DETECTION_OVERLAP)
        hidden = not progress or len(tiles) == 1
        found = [
            self._see(image[y1:y2, x1:x2], statistics)
            for y1, x1, y2, x2 in tqdm(tiles, "Detecting", unit="tile", disable=hidden)
        ]
        limit = config.DETECTION_MAX_INSTANCES
        self.capped = sum(max(len(soft.boxes) for soft in views) >= limit for views in found)
        return Prediction(image.shape[:2], tiles, found)

    def _see(self, tile, statistics):
        """What there is in a tile, and in its flips if they are wanted."""
        flips = FLIPS if self.config.TEST_TIME_AUGMENTATION else FLIPS[:1]
        views = [np.ascontiguousarray(tile[::rows, ::columns]) for rows, columns in flips]
        return [self.detect_soft([view], [statistics])[0] for view in views]

    def segment(self, prediction):
        """Decide which pixels are nuclei, by the configured thresholds.

        Flips of a tile are fused by Mask-NMS before tiles are merged.

        Parameters
        ----------
        prediction : Prediction

        Returns
        -------
        Instances
        """
        config = self.config
        limits = config.DETECTION_MASK_THRESHOLD, config.DETECTION_MIN_CONFIDENCE
        detections = []
        for views in prediction.found:
            hard = [flip(soft.harden(*limits), *steps) for soft, steps in zip(views, FLIPS)]
            detections.append(hard[0] if len(hard) == 1 else mask_nms(hard))
        return merge_tiles(prediction.tiles, detections, prediction.shape)


def flip(instances, rows, columns):
    """Flip the instances of an image.

    Parameters
    ----------
    instances : Instances
    rows, columns : {1, -1}
        Steps: -1 turns the image upside down, or left to right.

    Returns
    -------
    Instances
        In the same order.
    """
    boxes = instances.boxes.copy()
    for axis, step in enumerate((rows, columns)):
        if step < 0:
            boxes[:, [axis, axis + 2]] = instances.shape[axis] - boxes[:, [axis + 2, axis]]
    masks = [mask[::rows, ::columns] for mask in instances.masks]
    return Instances(instances.shape, boxes, instances.scores, instances.class_ids, masks)
