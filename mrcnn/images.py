"""Images on their way into the network: resizing, padding, cropping and normalisation."""

import random

import numpy as np
import skimage.transform

from mrcnn.config import PYRAMID_MULTIPLE, round_up
from mrcnn.errors import InputError
from mrcnn.interpolation import linear_taps
from mrcnn.opencv import cv2

LEAST_DEVIATION = 1.0
"""Grey levels; the z-score of an empty field is then its noise as it is, not blown up."""


def resize(
    image,
    output_shape,
    order=1,
    mode="constant",
    cval=0,
    clip=True,
    preserve_range=False,
    anti_aliasing=False,
    anti_aliasing_sigma=None,
):
    """`skimage.transform.resize` with the defaults that Matterport's models were trained with.

    Parameters
    ----------
    image : ndarray [H, W] or [H, W, C]
        A bool image is interpolated as zeros and ones.
    output_shape : sequence of int
        (height, width).
    order, mode, cval, clip, preserve_range, anti_aliasing, anti_aliasing_sigma
        See scikit-image.

    Returns
    -------
    ndarray
        Floating point unless `order` is 0.
    """
    if image.dtype == bool and order > 0:
        image = image.astype(np.float64)
    return skimage.transform.resize(
        image,
        output_shape,
        order=order,
        mode=mode,
        cval=cval,
        clip=clip,
        preserve_range=preserve_range,
        anti_aliasing=anti_aliasing,
        anti_aliasing_sigma=anti_aliasing_sigma,
    )


def resize_image(image, min_dim=None, max_dim=None, min_scale=None, mode="square", rng=None):
    """Resize an image without distorting it and pad or crop it to a size the network accepts.

    Parameters
    ----------
    image : ndarray [H, W, C]
    min_dim : int, optional
        Enlarge until the shorter side is this long. In mode "crop", also the crop's side.
    max_dim : int, optional
        In mode "square", the side of the result; a longer image is reduced to it.
    min_scale : float, optional
        Enlarge at least by this factor, even if `min_dim` does not require it.
    mode : str
        "none": neither resize nor pad. "square": pad on all sides to `max_dim` x `max_dim`.
        "pad64": pad on all sides to multiples of 64, which the pyramid needs.
        "crop": cut `min_dim` x `min_dim` at a random place, then pad at the bottom and the right
        to multiples of 64.
    rng : numpy.random.Generator, optional
        Where the crop's position comes from. None takes it from Python's global `random`: the row
        first, then the column.

    Returns
    -------
    image : ndarray [h, w, C]
        In the dtype of the input.
    window : tuple of int
        (y1, x1, y2, x2) of the part of the result that is not padding.
    scale : float
        The factor by which the image was resized.
    padding : list of tuple
        [(top, bottom), (left, right), (0, 0)] in pixels.
    crop : tuple of int or None
        (y, x, height, width) of the crop in the resized image.

    Raises
    ------
    InputError
        If the mode is unknown or lacks the size it needs.
    """
    padding = [(0, 0), (0, 0), (0, 0)]
    if mode == "none":
        return image, (0, 0, *image.shape[:2]), 1, padding, None
    if mode not in ("square", "pad64", "crop"):
        raise InputError(
            f"resize mode {mode!r} is unknown: use 'none', 'square', 'pad64' or 'crop'"
        )
    if mode == "square" and not max_dim or mode == "crop" and not min_dim:
        name = "max_dim" if mode == "square" else "min_dim"
        raise InputError(f"resize mode {mode!r} needs a size: set {name}")

    dtype = image.dtype
    scale = _scale(image.shape, min_dim, max_dim if mode == "square" else None, min_scale)
    height, width = (round(side * scale) for side in image.shape[:2])
    if scale != 1 and mode != "crop":
        image = resize(image, (height, width), preserve_range=True)

    crop = None
    if mode == "square":
        full = (max_dim, max_dim)
    elif mode == "pad64":
        full = (round_up(height, PYRAMID_MULTIPLE), round_up(width, PYRAMID_MULTIPLE))
    else:
        full = 2 * (round_up(min_dim, PYRAMID_MULTIPLE),)
        y, x = _random(height - min_dim, rng), _random(width - min_dim, rng)
        enlarged = (height, width)
        height, width = min(height, min_dim), min(width, min_dim)
        crop = (y, x, height, width)
        if scale == 1:
            image = image[y : y + height, x : x + width]
        else:
            image = _enlarge_part(image, enlarged, crop)

    top, left = (0, 0) if crop else ((full[0] - height) // 2, (full[1] - width) // 2)
    padding[:2] = (top, full[0] - height - top), (left, full[1] - width - left)
    window = (top, left, top + height, left + width)
    return np.pad(image, padding).astype(dtype, copy=False), window, scale, padding, crop


def normalize_statistics(image, config):
    """What `mold_image` subtracts from an image and divides it by.

    Parameters
    ----------
    image : ndarray [..., H, W, C]
        The whole image, before crop and padding.
    config : Config
        `IMAGE_NORMALIZATION` "zscore": mean and standard deviation of each channel, the latter at
        least 1 grey level. "mean_pixel": `MEAN_PIXEL` and 1, whatever the image.

    Returns
    -------
    mean, std : ndarray float64 [..., C]

    Raises
    ------
    InputError
        If `IMAGE_NORMALIZATION` is neither of them.
    """
    if not _is_zscore(config):
        return np.asarray(config.MEAN_PIXEL, float), np.ones(len(config.MEAN_PIXEL))
    if image.ndim > 3:
        return tuple(map(np.stack, zip(*(normalize_statistics(one, config) for one in image))))
    if image.dtype != np.uint8:
        image = image.astype(np.float64)
    mean, std = (values.ravel() for values in cv2.meanStdDev(image))  # 200 times NumPy's speed
    return mean, np.maximum(std, LEAST_DEVIATION)


def mold_image(images, config, statistics=None, window=None):
    """Normalise RGB images for the network.

    Parameters
    ----------
    images : ndarray [..., H, W, C]
        Grey levels 0 to 255. With "zscore" each image of a batch is normalised by itself.
    config : Config
        See `normalize_statistics`.
    statistics : (mean, std), optional
        For "zscore": from `normalize_statistics`, of the image before crop and padding. By default
        those of `images` within the window.
    window : tuple of int, optional
        For "zscore": (y1, x1, y2, x2) of what is not padding; the rest becomes 0.

    Returns
    -------
    ndarray [..., H, W, C]
        float32 for "zscore"; for "mean_pixel" whatever subtracting `MEAN_PIXEL` from float32 gives,
        which is float64, with the padding normalised like the image, as Matterport does it.

    Raises
    ------
    InputError
        If `IMAGE_NORMALIZATION` is unknown.
    """
    if not _is_zscore(config):
        return images.astype(np.float32) - config.MEAN_PIXEL
    y1, x1, y2, x2 = window if window is not None else (0, 0, *images.shape[-3:-1])
    inside = (..., slice(y1, y2), slice(x1, x2), slice(None))
    pixels = images[inside]
    mean, std = _per_channel(statistics or normalize_statistics(pixels, config))
    # Rows of pixels, not pixels of three channels: NumPy's inner loop is then a long one.
    *rows, width, channels = pixels.shape
    normalized = pixels.reshape(*rows, width * channels) - _along_row(mean, width)
    normalized /= _along_row(std, width)
    molded = np.zeros(images.shape, np.float32)
    molded[inside] = normalized.reshape(pixels.shape)
    return molded


def unmold_image(normalized_images, config, statistics=None):
    """Turn normalised images back into pictures.

    Parameters
    ----------
    normalized_images : ndarray [..., H, W, C]
    config : Config
        See `normalize_statistics`.
    statistics : (mean, std), optional
        For "zscore": what `mold_image` was given. Without them the grey levels are lost; the
        picture then has mean 128 and deviation 64, good enough to look at.

    Returns
    -------
    ndarray uint8 [..., H, W, C]
    """
    if not _is_zscore(config):
        return (normalized_images + config.MEAN_PIXEL).astype(np.uint8)
    mean, std = _per_channel(statistics or ([128.0], [64.0]))
    return np.clip(np.around(normalized_images * std + mean), 0, 255).astype(np.uint8)


DARK = 80
"""Grey level of the brightest colour below which the ground of an image is dark. Medians are up to
44 in fluorescence of the Data Science Bowl 2018, and at least 111 in the tissue of MoNuSeg."""


def is_dark(image):
    """Whether what an image shows is bright on a dark ground, as in fluorescence.

    Parameters
    ----------
    image : ndarray uint8 [H, W, 3]

    Returns
    -------
    bool
        Whether half of its pixels are darker than DARK in all colours.
    """
    return bool(np.median(image.max(axis=2)) < DARK)


def _scale(shape, min_dim, max_dim, min_scale):
    """The factor that satisfies `min_dim` and `min_scale`; `max_dim` has the last word."""
    shorter, longer = sorted(shape[:2])
    scale = max(1, min_dim / shorter) if min_dim else 1
    if min_scale:
        scale = max(scale, min_scale)
    if max_dim and round(longer * scale) > max_dim:
        scale = max_dim / longer
    return scale


def _enlarge_part(image, shape, part):
    """The part (y, x, height, width) of what `resize` makes of an image, bit for bit.

    The whole would be a hundred times the work where a small crop is cut out of it.
    """
    y, x, height, width = part
    # One pixel of the zeros that lie beyond the image is all that an enlarged one sees of them.
    padded = np.pad(image, [(1, 1), (1, 1)] + [(0, 0)] * (image.ndim - 2))
    rows = linear_taps(image.shape[0], shape[0], y, height)
    columns = linear_taps(image.shape[1], shape[1], x, width)
    enlarged = 0.0
    for row, row_weight in rows:
        row_weight = row_weight.reshape(-1, *[1] * (image.ndim - 1))
        for column, column_weight in columns:
            column_weight = column_weight.reshape(-1, *[1] * (image.ndim - 2))
            enlarged = enlarged + padded[np.ix_(row, column)] * row_weight * column_weight
    return np.clip(enlarged, image.min(), image.max())


def _random(limit, rng):
    """A whole number from 0 to `limit`, both included; 0 if there is no choice."""
    limit = max(limit, 0)
    return random.randint(0, limit) if rng is None else int(rng.integers(limit, endpoint=True))


def _is_zscore(config):
    if config.IMAGE_NORMALIZATION not in ("mean_pixel", "zscore"):
        raise InputError(
            f"IMAGE_NORMALIZATION {config.IMAGE_NORMALIZATION!r} is unknown: "
            "use 'mean_pixel' or 'zscore'"
        )
    return config.IMAGE_NORMALIZATION == "zscore"


def _along_row(values, width):
    """Values [..., 1, 1, C], as `_per_channel` makes them, for each pixel of a row of pixels."""
    return np.tile(values, width)[..., 0, :]


def _per_channel(statistics):
    """Statistics [..., C] shaped to broadcast against images [..., H, W, C]."""
    return (np.asarray(values, np.float32)[..., None, None, :] for values in statistics)
