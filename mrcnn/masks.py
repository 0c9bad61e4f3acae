"""Instance masks: bounding boxes, overlaps, and mini-masks stored relative to their box.

Matterport's functions take dense stacks, bool [H, W, N]. What works on one mask cropped to its box
(`minimize_crop`, `paste_mask`) costs as much as the instances, not as the image times their number.
"""

from functools import lru_cache

import numpy as np
import scipy.ndimage

from mrcnn.interpolation import linear_taps


def extract_bboxes(mask):
    """Bounding boxes of dense masks.

    Parameters
    ----------
    mask : ndarray [H, W, N]
        Nonzero inside an instance.

    Returns
    -------
    ndarray int32 [N, 4]
        (y1, x1, y2, x2), end exclusive; zeros for an empty mask.
    """
    if mask.size == 0:
        return np.zeros((mask.shape[-1], 4), np.int32)
    (y1, y2), (x1, x2) = _extent(mask.any(axis=1)), _extent(mask.any(axis=0))
    return np.stack([y1, x1, y2, x2], axis=1).astype(np.int32)


def compute_overlaps_masks(masks1, masks2):
    """Intersection over union of every mask of one stack with every mask of another.

    Only masks whose boxes meet are compared, and only on what their boxes share.

    Parameters
    ----------
    masks1 : ndarray [H, W, N]
    masks2 : ndarray [H, W, M]
        A pixel belongs to an instance where the value exceeds 0.5.

    Returns
    -------
    ndarray float32 [N, M]
        0 where both masks are empty.
    """
    boxes1, crops1 = _crop(masks1)
    boxes2, crops2 = _crop(masks2)
    intersections = np.zeros((len(crops1), len(crops2)), np.float32)
    starts = np.maximum(boxes1[:, None, :2], boxes2[:, :2])
    ends = np.minimum(boxes1[:, None, 2:], boxes2[:, 2:])
    for i, j in np.argwhere((starts < ends).all(axis=-1)):
        shared1 = _part(crops1[i], starts[i, j] - boxes1[i, :2], ends[i, j] - boxes1[i, :2])
        shared2 = _part(crops2[j], starts[i, j] - boxes2[j, :2], ends[i, j] - boxes2[j, :2])
        intersections[i, j] = np.count_nonzero(shared1 & shared2)

    areas1, areas2 = (
        np.array([np.count_nonzero(crop) for crop in crops], np.float32)
        for crops in (crops1, crops2)
    )
    unions = areas1[:, None] + areas2 - intersections
    return np.divide(intersections, unions, out=intersections, where=unions > 0)


def resize_mask(mask, scale, padding, crop=None):
    """Do to masks what `mrcnn.images.resize_image` did to their image.

    Parameters
    ----------
    mask : ndarray [H, W, N] or [H, W]
        Dense masks or a label map; pixels are copied, never mixed.
    scale : float
    padding : sequence of (int, int)
        [(top, bottom), (left, right), (0, 0)].
    crop : (int, int, int, int), optional
        (y, x, height, width) in the resized mask.

    Returns
    -------
    ndarray [h, w, N] or [h, w]
        A view of `mask` where that is all it takes.
    """
    part = np.s_[:, :]
    if crop is not None:
        y, x, height, width = crop
        part = np.s_[y : y + height, x : x + width]
    if scale == 1:
        mask = mask[part]
    else:
        rows, columns = (_nearest(side, scale)[cut] for side, cut in zip(mask.shape, part))
        mask = mask[np.ix_(rows, columns)]
    return np.pad(mask, padding[: mask.ndim]) if np.any(padding) else mask


def minimize_mask(bbox, mask, mini_shape):
    """Store each mask relative to its box, at a small fixed size.

    Parameters
    ----------
    bbox : ndarray int [N, 4]
    mask : ndarray [H, W, N]
        Nonzero inside an instance.
    mini_shape : (int, int)

    Returns
    -------
    ndarray bool [h, w, N]

    Raises
    ------
    ValueError
        If a box has no area.
    """
    minis = np.zeros((*mini_shape, mask.shape[-1]), bool)
    for i, (y1, x1, y2, x2) in enumerate(bbox[: mask.shape[-1], :4]):
        minis[:, :, i] = minimize_crop(mask[y1:y2, x1:x2, i], mini_shape)
    return minis


def minimize_crop(crop, mini_shape):
    """Mini-mask of one mask that is already cropped to its box.

    Parameters
    ----------
    crop : ndarray [h, w]
        Nonzero inside the instance.
    mini_shape : (int, int)

    Returns
    -------
    ndarray bool `mini_shape`

    Raises
    ------
    ValueError
        If the crop has no pixel.
    """
    if crop.size == 0:
        raise ValueError("a box without area has no mini-mask")
    return _resize(crop.astype(bool).astype(np.float64), mini_shape) > 0.5


def expand_mask(bbox, mini_mask, image_shape):
    """Paint mini-masks back into frames of the image's size; undoes `minimize_mask`.

    Parameters
    ----------
    bbox : ndarray int [N, 4]
    mini_mask : ndarray [h, w, N]
    image_shape : sequence of int
        (height, width, ...).

    Returns
    -------
    ndarray bool [H, W, N]
        Smoothed by the way there and back.
    """
    masks = np.zeros((*image_shape[:2], mini_mask.shape[-1]), bool)
    for i, (y1, x1, y2, x2) in enumerate(bbox[: mini_mask.shape[-1], :4]):
        mini = mini_mask[:, :, i].astype(np.float64)
        masks[y1:y2, x1:x2, i] = _resize(mini, (y2 - y1, x2 - x1)) > 0.5
    return masks


def mold_mask(mask, config):
    """Masks of whole images to what the mask head is to predict for their boxes.

    Parameters
    ----------
    mask : ndarray [H, W, N]
        Nonzero inside an instance; none of them empty.
    config : Config
        `MASK_SHAPE`.

    Returns
    -------
    ndarray bool [h, w, N]
    """
    return minimize_mask(extract_bboxes(mask), mask, config.MASK_SHAPE)


def unmold_mask(mask, bbox, image_shape, threshold=0.5):
    """One mask of the network to a mask of the whole image.

    Parameters
    ----------
    mask : ndarray float [h, w]
        Probabilities.
    bbox : sequence of int
        (y1, x1, y2, x2) within the image.
    image_shape : sequence of int
        (height, width, ...).
    threshold : float
        See `paste_mask`.

    Returns
    -------
    ndarray bool [H, W]
    """
    y1, x1, y2, x2 = bbox
    full = np.zeros(image_shape[:2], bool)
    full[y1:y2, x1:x2] = paste_mask(mask, bbox, threshold)
    return full


def paste_mask(mask, box, threshold):
    """One mask of the network at the size of its box.

    Parameters
    ----------
    mask : ndarray float [h, w]
        Probabilities.
    box : sequence of int
        (y1, x1, y2, x2).
    threshold : float
        Pixels of at least this probability belong to the instance.

    Returns
    -------
    ndarray bool [y2 - y1, x2 - x1]
    """
    y1, x1, y2, x2 = box
    return _resize(mask, (y2 - y1, x2 - x1)) >= threshold


def _extent(occupied):
    """First and one past the last True of each column of [L, N]; 0 and 0 where there is none."""
    first = occupied.argmax(axis=0)
    end = len(occupied) - occupied[::-1].argmax(axis=0)
    return first, np.where(occupied.any(axis=0), end, 0)


def _crop(masks):
    """Boxes of dense masks and the masks, bool, cropped to them."""
    if masks.dtype != bool:
        masks = masks > 0.5
    boxes = extract_bboxes(masks)
    return boxes, [masks[y1:y2, x1:x2, i].copy() for i, (y1, x1, y2, x2) in enumerate(boxes)]


def _part(crop, start, end):
    return crop[start[0] : end[0], start[1] : end[1]]


def _nearest(length, scale):
    """The source index of each pixel along one axis that is zoomed without interpolation."""
    # "nearest" matters where rounding error carries the last coordinate past the last pixel.
    return scipy.ndimage.zoom(np.arange(length), scale, order=0, mode="nearest")


def _resize(mask, shape):
    """`mrcnn.images.resize` of one mask: the same numbers, ten times as fast for small masks."""
    rows, columns = _interpolation(mask.shape[0], shape[0]), _interpolation(mask.shape[1], shape[1])
    resized = rows @ mask @ columns.T
    return np.clip(resized, mask.min(), mask.max()).astype(mask.dtype)


@lru_cache(maxsize=512)
def _interpolation(length, new_length):
    """Matrix [new_length, length] of linear interpolation along one axis, 0 beyond its ends."""
    weights = np.zeros((new_length, length + 2))
    for index, weight in linear_taps(length, new_length):
        weights[np.arange(new_length), index] = weight
    return weights[:, 1:-1]
