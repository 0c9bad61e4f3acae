"""imgaug augmenters on images with label maps or dense masks."""

import importlib

import numpy as np

from mrcnn.errors import InputError

MASK_SAFE = frozenset(
    "Sequential SomeOf OneOf Sometimes Fliplr Flipud CropAndPad Affine PiecewiseAffine".split()
)
"""Augmenters that move pixels without inventing values, so that a 0/1 mask may pass them."""

MASK_CHANNELS = 31
"""imgaug doubts that an array of 32 or more channels is one image, and OpenCV takes at most 512."""

SEED_LIMIT = 2**31


def load_imgaug():
    """Import imgaug, which needs names that NumPy 2 removed and gets them back here.

    Returns
    -------
    module
        `imgaug`; its last release, 0.4.0, reads `numpy.sctypes` and `numpy.complex`.

    Raises
    ------
    InputError
        If imgaug is not installed.
    """
    removed = {
        "complex": complex,
        "sctypes": {
            "int": [np.int8, np.int16, np.int32, np.int64],
            "uint": [np.uint8, np.uint16, np.uint32, np.uint64],
            "float": [np.float16, np.float32, np.float64],
            "complex": [np.complex64, np.complex128],
            "others": [bool, object, bytes, str, np.void],
        },
    }
    for name, value in removed.items():
        vars(np).setdefault(name, value)
    try:
        importlib.import_module("imgaug.augmenters")
        return importlib.import_module("imgaug")
    except ModuleNotFoundError as error:
        raise InputError(
            f"imgaug cannot be imported ({error}): install it with `pip install imgaug`"
        ) from error


def is_imgaug(augmentation):
    """Whether `augmentation` is an imgaug augmenter; needs no import of imgaug."""
    return hasattr(augmentation, "to_deterministic")


def wrap_imgaug(augmenter):
    """Turn an imgaug augmenter into a callable that augments an image and its label map.

    Labels follow whatever moves pixels, by nearest neighbour, and ignore the rest (blur, colour).

    Parameters
    ----------
    augmenter : imgaug.augmenters.Augmenter
        May move pixels but must keep the size of the image.

    Returns
    -------
    callable
        `augment(image, labels, rng) -> (image, labels)` with image [H, W, C] uint8, labels [H, W]
        int32 and `rng` a numpy.random.Generator, or None to draw from imgaug's own state.
    """

    def augment(image, labels, rng):
        maps = load_imgaug().augmentables.segmaps.SegmentationMapsOnImage
        fixed = _freeze(augmenter, rng)
        augmented = fixed.augment_image(image)
        segments = fixed.augment_segmentation_maps(maps(labels[..., np.newaxis], labels.shape))
        _check_size(augmenter, image, augmented)
        return augmented, segments.get_arr()[..., 0].astype(labels.dtype)

    return augment


def augment_dense(augmenter, image, masks, rng=None):
    """Augment an image and its dense masks alike, as Matterport does.

    Parameters
    ----------
    augmenter : imgaug.augmenters.Augmenter
        Parts of it that are not in `MASK_SAFE` are applied to the image alone.
    image : ndarray [H, W, C] uint8
    masks : ndarray [H, W, N] bool
    rng : numpy.random.Generator, optional
        None draws from imgaug's own state.

    Returns
    -------
    image : ndarray [H, W, C] uint8
    masks : ndarray [H, W, N] bool

    Raises
    ------
    InputError
        If the augmenter changes the size of the image.
    """
    hooks = load_imgaug().HooksImages(
        activator=lambda images, part, parents, default: type(part).__name__ in MASK_SAFE
    )
    fixed = _freeze(augmenter, rng)
    augmented = fixed.augment_image(image)
    _check_size(augmenter, image, augmented)
    result = np.empty_like(masks, dtype=bool)
    for first in range(0, masks.shape[-1], MASK_CHANNELS):
        part = np.ascontiguousarray(masks[..., first : first + MASK_CHANNELS], dtype=np.uint8)
        result[..., first : first + MASK_CHANNELS] = fixed.augment_image(part, hooks=hooks)
    return augmented, result


def _freeze(augmenter, rng):
    """A copy of the augmenter that does the same to everything that it is given."""
    fixed = augmenter.to_deterministic()
    if rng is not None:
        fixed.seed_(int(rng.integers(SEED_LIMIT)), deterministic_too=True)
    return fixed


def _check_size(augmenter, before, after):
    if before.shape != after.shape:
        raise InputError(
            f"augmenter {augmenter.name} changes an image of shape {before.shape} to "
            f"{after.shape}: use augmenters that keep the size (keep_size=True)"
        )
