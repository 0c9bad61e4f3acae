"""Both networks on one image: a Mask R-CNN tells nuclei apart, a U-Net where there are any.

Mask R-CNN separates nuclei better; the U-Net's foreground has the better outlines, and shows nuclei
for which there was no box. Mask-NMS, the paper's way to join predictions, cannot use that: it takes
the union of what overlaps.
"""

import numpy as np

from mrcnn.instances import Instances

CERTAIN = 0.5
"""Score from which a nucleus of the U-Net counts where the Mask R-CNN has none."""

RULED_OUT = 0.25
"""Pixels whose foreground is no more than that belong to no nucleus of the Mask R-CNN."""


def join(found, foreground, others, min_area=0):
    """Correct the nuclei of a Mask R-CNN by what a U-Net sees.

    Each keeps the pixels that the U-Net does not rule out, and what two claim goes to the better
    score. Nuclei of the U-Net's are added whose score is `CERTAIN` or more and of which less than
    half was claimed.

    Parameters
    ----------
    found : Instances
        The Mask R-CNN's.
    foreground : float array [H, W]
        The U-Net's map of that name.
    others : Instances
        The U-Net's.
    min_area : int
        Nuclei left with fewer pixels are dropped.

    Returns
    -------
    Instances
        Disjoint, of class 1; each has the score that it came with.
    """
    claimed, drawn = found.to_label_map(), others.to_label_map()
    labels = np.where(foreground > RULED_OUT, claimed, 0)
    areas = np.maximum(np.bincount(drawn.ravel(), minlength=len(others) + 1), 1)
    shared = np.bincount(drawn[claimed > 0], minlength=len(others) + 1) / areas
    added = np.concatenate([[False], others.scores >= CERTAIN]) & (shared < 0.5)
    labels = np.where((labels == 0) & added[drawn], len(found) + drawn, labels)
    scores = np.concatenate([found.scores, others.scores])
    areas = np.bincount(labels.ravel(), minlength=len(scores) + 1)[1:]
    kept = areas >= max(min_area, 1)
    labels[~np.concatenate([[True], kept])[labels]] = 0
    return Instances.from_label_map(labels, scores[kept])
