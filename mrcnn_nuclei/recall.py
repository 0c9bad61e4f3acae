"""Which nuclei are found: recall by their size and shape."""

import numpy as np
from skimage.measure import regionprops_table

from mrcnn_nuclei.metrics import find_matched

GROUPS = {
    "all": lambda radius, eccentricity: radius > 0,
    "radius < 6": lambda radius, eccentricity: radius < 6,
    "radius 6-12": lambda radius, eccentricity: (radius >= 6) & (radius <= 12),
    "radius > 12": lambda radius, eccentricity: radius > 12,
    "eccentricity > 0.9": lambda radius, eccentricity: eccentricity > 0.9,
}
"""Groups of nuclei, of which the last shares some with the others. The paper added its U-Net for
nuclei of a radius under 6 pixels, and for irregular and strip-like ones."""


class Recall:
    """Counts the true nuclei of several images, and those of them that are found, by `GROUPS`.

    A nucleus is found if it is matched above an IoU of 0.5, see docs/metrics.md. Its radius is that
    of the disk of its area, in pixels; its eccentricity that of the ellipse of its second moments:
    0 is a disk, and at 0.9 one axis is 2.3 times as long as the other.

    Attributes
    ----------
    counts : dict
        Name of `GROUPS` -> (found, true).
    """

    def __init__(self):
        self.counts = dict.fromkeys(GROUPS, (0, 0))

    def add(self, truth, overlaps):
        """Count the nuclei of one image.

        Parameters
        ----------
        truth : int array [H, W]
            A label map.
        overlaps : mrcnn_nuclei.metrics.Overlaps
            Of `truth` and a prediction.
        """
        is_found, _ = find_matched(overlaps)
        shapes = regionprops_table(truth, properties=("area", "eccentricity"))
        radius = np.sqrt(shapes["area"] / np.pi)
        for name, belongs in GROUPS.items():
            members = belongs(radius, shapes["eccentricity"])
            found, true = self.counts[name]
            self.counts[name] = (
                found + np.count_nonzero(is_found & members),
                true + np.count_nonzero(members),
            )
