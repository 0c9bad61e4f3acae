"""From the three maps of the U-Net to nuclei."""

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn.opencv import cv2
from mrcnn_nuclei.preprocessing import fill_holes

EPSILON = 1e-6
"""By which differences of float32 probabilities may be off."""

CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
"""A pixel and its four neighbours."""


def segment(
    probabilities,
    foreground_threshold=0.5,
    border_threshold=0.5,
    interior_threshold=0.5,
    min_marker_area=4,
    min_area=40,
    marker_depth=0.1,
    marker_smoothing=2.5,
):
    """Find the nuclei in probability maps by a watershed that starts from their interiors.

    The foreground says where nuclei are. Each connected part of its interior that is not border is
    the marker of a nucleus, or of several where interior minus border has several peaks; markers
    grow until they meet or reach the end of the foreground. What has no marker, such as a nucleus
    too small to have an interior, stays an object of its own. Pixels are connected through their
    edges.

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
    marker_depth : float
        A marker with peaks that stand out from each other by more is divided; 0 divides none.
        Peaks are those of interior minus border, each as far as it is not left out.
    marker_smoothing : float
        Standard deviation in pixels of the Gaussian that smooths these first.

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

    # The terrain is highest inside of nuclei, and lowest where two of them meet.
    mask = foreground > foreground_threshold
    seeds, terrain, certainty = mask, np.zeros_like(foreground), foreground
    if border_threshold is not None:
        seeds = seeds & (border <= border_threshold)
        terrain = terrain - border
    if interior_threshold is not None:
        seeds = seeds & (interior > interior_threshold)
        terrain = terrain + interior
        certainty = interior

    markers, _ = ndimage.label(seeds)
    _drop_small(markers, min_marker_area)
    if marker_depth:
        smooth = terrain
        if marker_smoothing:
            smooth = cv2.GaussianBlur(terrain, (0, 0), marker_smoothing)
        markers = _domes(smooth, markers > 0, marker_depth)
    labels = watershed(-terrain, _add_unmarked(markers, mask), mask=mask)
    _drop_small(labels, min_area)
    labels = fill_holes(labels)
    return Instances.from_label_map(labels, _means(labels, certainty))


def _domes(terrain, region, height):
    """Label the domes of a region, whose tops stand out by that height from all around them.

    Every connected part of the region has one at least, around its highest pixel. Domes are what
    reconstruction by dilation of the terrain, lowered by their height, takes off it (Vincent,
    "Morphological grayscale reconstruction in image analysis", 1993). They are small, so that
    OpenCV makes them faster than scikit-image does.
    """
    lowest = terrain.min() - 2 * height
    terrain = np.where(region, terrain, lowest).astype(np.float32)
    ground = np.where(region, terrain - np.float32(height), lowest).astype(np.float32)
    while True:
        risen = np.minimum(cv2.dilate(ground, CROSS), terrain)
        if np.array_equal(risen, ground):
            break
        ground = risen
    above = terrain - ground
    domes, count = ndimage.label(region & (above > EPSILON))
    high = np.zeros(count + 1, bool)
    high[domes[above >= height - EPSILON]] = True
    high[0] = False
    return np.where(high[domes], domes, 0)


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
