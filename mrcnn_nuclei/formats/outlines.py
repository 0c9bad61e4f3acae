"""Outlines of nuclei made into masks, and masks into the one ring that some formats want."""

import numpy as np
from skimage.draw import polygon

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn_nuclei.image_files import MAX_PIXELS


def fill(outlines, shape, centre, scores=None, class_ids=None):
    """Make masks of outlines.

    Parameters
    ----------
    outlines : sequence of sequences of float arrays [P, 2]
        The rings (x, y) of each nucleus, in pixels, closed or not. What an even number of them
        surrounds is not part of it. A ring of fewer than three points surrounds nothing.
    shape : tuple of int
        (H, W) of the image. What lies beyond its edge is cut off.
    centre : float
        Coordinate of the centre of the first pixel: 0.5 where outlines follow the edges of pixels,
        0 where whole numbers are pixels. A pixel counts if its centre lies inside or on the line
        (`skimage.draw.polygon`).
    scores, class_ids : sequence, optional
        Default 1.

    Returns
    -------
    Instances
        One for each outline, in their order; it may be without pixels.

    Raises
    ------
    InputError
        If a nucleus lies wholly outside the image, a coordinate or score is no number, or the masks
        or the boxes of all rings have more than MAX_PIXELS pixels together: a small file can name
        many large ones.
    """
    height, width = shape
    boxes, masks, in_masks, in_rings = [], [], 0, 0
    for k, rings in enumerate(outlines, start=1):
        rings = [np.asarray(ring, float)[:, :2] for ring in rings if len(ring) >= 3]
        if rings:
            check_points(np.concatenate(rings) - centre, height, width, k)
        in_rings += sum(_area(ring - centre, height, width) for ring in rings)
        check_total(in_rings)
        pixels = [polygon(ring[:, 1] - centre, ring[:, 0] - centre, shape) for ring in rings]
        pixels = [one for one in pixels if len(one[0])]
        if not pixels:
            boxes.append((0, 0, 0, 0))
            masks.append(np.zeros((0, 0), bool))
            continue
        rows, cols = (np.concatenate(both) for both in zip(*pixels))
        y1, x1, y2, x2 = rows.min(), cols.min(), rows.max() + 1, cols.max() + 1
        in_masks += (y2 - y1) * (x2 - x1)
        check_total(in_masks)
        mask = np.zeros((y2 - y1, x2 - x1), bool)
        for rows, cols in pixels:
            mask[rows - y1, cols - x1] ^= True
        boxes.append((y1, x1, y2, x2))
        masks.append(mask)
    scores = np.ones(len(masks)) if scores is None else np.asarray(scores, float)
    if not np.isfinite(scores).all():
        number = np.flatnonzero(~np.isfinite(scores))[0] + 1
        raise InputError(f"the score of nucleus {number} is no number")
    class_ids = np.ones(len(masks)) if class_ids is None else class_ids
    return Instances(shape, boxes, scores, class_ids, masks)


def join(rings):
    """Join the rings of a nucleus of several parts into one, for formats that know no parts.

    Parameters
    ----------
    rings : sequence of arrays [P, 2]
        Closed, along the edges of pixels, as `Instances.to_polygons` makes them.

    Returns
    -------
    array [Q, 2]
        A closed ring. From part to part it goes along edges of pixels, there and back, so that it
        surrounds the same pixels.
    """
    start = rings[0][0]
    pieces = [rings[0]]
    for ring in rings[1:]:
        corner = (start[0], ring[0][1])
        pieces += [[corner], ring, [corner], [start]]
    return np.concatenate(pieces)


def require_shape(path, shape):
    """Refuse outlines without the size of their image, which their file does not tell."""
    if shape is None:
        raise InputError(
            f"{path}: outlines do not tell the size of the image; give the folder of the images "
            "(--images)"
        )


def check_total(pixels):
    """Refuse masks of so many pixels together."""
    if pixels > MAX_PIXELS:
        raise InputError(
            f"its nuclei have more than {MAX_PIXELS:,} pixels together; export them in parts"
        )


def check_points(points, height, width, number):
    """Refuse the points [P, 2], (x, y), of a nucleus wholly outside its image, or no numbers."""
    if not np.isfinite(points).all():
        raise InputError(f"nucleus {number} has a coordinate that is no number")
    (x1, y1), (x2, y2) = points.min(axis=0), points.max(axis=0)
    if x2 < 0 or y2 < 0 or x1 > width or y1 > height:
        raise InputError(
            f"nucleus {number} lies outside its image of {width} x {height} pixels; pair "
            "each image with its own outlines"
        )


def _area(points, height, width):
    """Pixels in the box of the points [P, 2], (x, y), as far as it lies in the image."""
    first = np.clip(np.ceil(points.min(axis=0)), 0, (width, height))
    end = np.clip(np.floor(points.max(axis=0)) + 1, 0, (width, height))
    return int(np.prod(np.maximum(end - first, 0)))
