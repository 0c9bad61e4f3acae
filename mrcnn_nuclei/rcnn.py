"""Mask R-CNN on images of any size: by tiles, and by flips of these if wanted."""

from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from mrcnn.images import normalize_statistics
from mrcnn.model import MaskRCNN
from mrcnn_nuclei.box_fusion import fuse_boxes
from mrcnn_nuclei.tiling import merge_tiles, tile_grid

FLIPS = ((1, 1), (-1, 1), (1, -1), (-1, -1))
"""Steps through rows and columns: the image as it is, upside down, left to right, and both."""


class Prediction(NamedTuple):
    """What the network says of an image, before the thresholds.

    Attributes
    ----------
    shape : (int, int)
        (H, W) of the image.
    tiles : list of (y1, x1, y2, x2)
        In pixels.
    found : list of SoftInstances
        Of each tile.
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
        self.capped = 0
        found = [
            self._see(image[y1:y2, x1:x2], statistics)
            for y1, x1, y2, x2 in tqdm(tiles, "Detecting", unit="tile", disable=hidden)
        ]
        return Prediction(image.shape[:2], tiles, found)

    def _see(self, tile, statistics):
        """What there is in a tile, seen in its flips too if they are wanted."""
        config = self.config
        flips = FLIPS if config.TEST_TIME_AUGMENTATION else FLIPS[:1]
        confidence = config.DETECTION_MIN_CONFIDENCE
        config.DETECTION_MIN_CONFIDENCE = confidence / len(flips)  # a view's part in the mean
        try:
            flipped = [np.ascontiguousarray(tile[::rows, ::columns]) for rows, columns in flips]
            views = [self.detect_soft([view], [statistics])[0] for view in flipped]
        finally:
            config.DETECTION_MIN_CONFIDENCE = confidence
        self.capped += max(len(view.boxes) for view in views) >= config.DETECTION_MAX_INSTANCES
        if len(flips) == 1:
            return views[0]
        return fuse_boxes([flip(view, *steps) for view, steps in zip(views, flips)])

    def segment(self, prediction):
        """Decide which pixels are nuclei, by the configured thresholds.

        Parameters
        ----------
        prediction : Prediction

        Returns
        -------
        Instances
        """
        limits = self.config.DETECTION_MASK_THRESHOLD, self.config.DETECTION_MIN_CONFIDENCE
        detections = [soft.harden(*limits) for soft in prediction.found]
        return merge_tiles(prediction.tiles, detections, prediction.shape)


def flip(found, rows, columns):
    """Flip what was found in an image.

    Parameters
    ----------
    found : SoftInstances
    rows, columns : {1, -1}
        Steps: -1 turns the image upside down, or left to right.

    Returns
    -------
    SoftInstances
        In the same order.
    """
    boxes = found.boxes.copy()
    for axis, step in enumerate((rows, columns)):
        if step < 0:
            boxes[:, [axis, axis + 2]] = found.shape[axis] - boxes[:, [axis + 2, axis]]
    return found._replace(boxes=boxes, masks=found.masks[:, ::rows, ::columns])
