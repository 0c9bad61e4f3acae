"""From the three maps of the U-Net to nuclei."""

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn_nuclei.preprocessing import fill_holes


def segment(
    probabilities,
    foreground_threshold=0.5,
    border_threshold=0.5,
    interior_threshold=0.5,
    min_marker_area=4,
    min_area=20,
):
    """Find the nuclei in probability maps by a watershed that starts from their interiors.

    The foreground says where nuclei are. Each connected part of its interior that is not border is
    the marker of a nucleus; markers grow until they meet or reach the end of the foreground. What
    has no marker, such as a nucleus too small to have an interior, stays an object of its own.
    Pixels are connected through their edges.

    Parameters
    ----------
    probabilities : float array [H, W, 3]
        Foreground, border, interior, as `unet.targets.make_targets` defines them.
    foreground_threshold : float
        Pixels above it belong to nuclei; no other pixel does, but for holes.
    border_threshold : float or None
        Pixels above it belong to no marker. None leaves the border map out.
    interior_threshold : float or None
        Pixels of the foreground above it belong to markers. None leaves the interior map out, so
        that the whole foreground does; without the border too, its connected parts are the nuclei.
    min_marker_area : int
        Smaller markers are dropped, in pixels.
    min_area : int
        Smaller nuclei are dropped, in pixels before their holes are filled.

    Returns
    -------
    Instances
        Disjoint, of class 1, each without holes but for other nuclei in them. The score is the mean
        interior probability of the nucleus's pixels, of foreground if the interior is left out.

    Raises
    ------
    InputError
        If `probabilities` is not [H, W, 3].
    """
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 3 or probabilities.shape[2] != 3:
        raise InputError(
            "probability maps must be [H, W, 3] (foreground, border, interior), "
            f"not {list(probabilities.shape)}"
        )
    foreground, border, interior = np.moveaxis(probabilities.astype(np.float32), 2, 0)

    # The elevation is highest where two nuclei meet, border without interior, and lowest inside.
    mask = foreground > foreground_threshold
    seeds, elevation, certainty = mask, np.zeros_like(foreground), foreground
    if border_threshold is not None:
        seeds = seeds & (border <= border_threshold)
        elevation = elevation + border
    if interior_threshold is not None:
        seeds = seeds & (interior > interior_threshold)
        elevation = elevation - interior
        certainty = interior

    markers, _ = ndimage.label(seeds)
    _drop_small(markers, min_marker_area)
    labels = watershed(elevation, _add_unmarked(markers, mask), mask=mask)
    _drop_small(labels, min_area)
    labels = fill_holes(labels)
    return Instances.from_label_map(labels, _means(labels, certainty))


def _drop_small(labels, least_area):
    """Set the labels of fewer pixels to 0, in place."""
    small = np.bincount(labels.ravel()) < least_area
    labels[small[labels]] = 0


def _add_unmarked(markers, mask):
    """Return the markers and, with labels beyond theirs, the parts of the mask without one."""
    parts, _ = ndimage.label(mask)
    marked = np.zeros(parts.max(initial=0) + 1, bool)
    marked[parts[markers > 0]] = True
    unmarked = mask & ~marked[parts]
    return np.where(unmarked, markers.max(initial=0) + parts, markers)


def _means(labels, values):
    """Return the mean value over each label's pixels, in ascending order of the labels."""
    areas = np.bincount(labels.ravel())
    sums = np.bincount(labels.ravel(), weights=values.ravel())
    present = np.flatnonzero(areas[1:]) + 1
    return sums[present] / areas[present]
