"""Detections before the mask threshold, which may then be chosen without the network."""

from typing import NamedTuple

import numpy as np

from mrcnn.instances import Instances
from mrcnn.masks import paste_mask


class SoftInstances(NamedTuple):
    """The objects of one image, with masks as probabilities.

    Attributes
    ----------
    shape : tuple of int
        (H, W) of the image in pixels.
    boxes : int32 array [N, 4]
        (y1, x1, y2, x2) in pixels, none of them empty.
    scores : float32 array [N]
        Falling.
    class_ids : int32 array [N]
    masks : float32 array [N, h, w]
        Probabilities on a grid that is stretched over the box.
    """

    shape: tuple
    boxes: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    masks: np.ndarray

    def harden(self, threshold, min_score=0.0):
        """Decide which pixels belong to the objects.

        Parameters
        ----------
        threshold : float
            Least probability of a mask's pixels.
        min_score : float
            Objects of a lower score are left out.

        Returns
        -------
        Instances
            In the same order; a mask may be without pixels.
        """
        kept = np.flatnonzero(self.scores >= min_score)
        return Instances(
            shape=self.shape,
            boxes=self.boxes[kept],
            scores=self.scores[kept],
            class_ids=self.class_ids[kept],
            masks=[paste_mask(self.masks[k], self.boxes[k], threshold) for k in kept],
        )
