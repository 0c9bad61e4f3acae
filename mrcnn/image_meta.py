"""The vector that tells the network where an image came from and what happened to it."""

import numpy as np

FIELDS = {
    "image_id": slice(0, 1),
    "original_image_shape": slice(1, 4),
    "image_shape": slice(4, 7),
    "window": slice(7, 11),
    "scale": slice(11, 12),
    "active_class_ids": slice(12, None),
}
"""Where each field lies in the vector; `image_id` and `scale` are single numbers."""

SCALARS = ("image_id", "scale")


def compose_image_meta(
    image_id, original_image_shape, image_shape, window, scale, active_class_ids
):
    """Pack what is known about an image into one vector.

    Parameters
    ----------
    image_id : int
    original_image_shape : sequence of 3 int
        (H, W, C) before resizing or padding.
    image_shape : sequence of 3 int
        (H, W, C) as the network sees it.
    window : sequence of 4 int
        (y1, x1, y2, x2) in pixels: the part of the image that is not padding.
    scale : float
        Factor from the original image to the resized one.
    active_class_ids : sequence of int
        One 0 or 1 a class: whether the image's source annotates it.

    Returns
    -------
    ndarray [12 + number of classes]
    """
    return np.concatenate(
        [[image_id], original_image_shape, image_shape, window, [scale], active_class_ids]
    )


def parse_image_meta(meta):
    """Unpack a batch of meta vectors.

    Parameters
    ----------
    meta : ndarray [B, 12 + number of classes]

    Returns
    -------
    dict
        `image_id` [B], `original_image_shape` [B, 3], `image_shape` [B, 3], `window` [B, 4] and
        `active_class_ids` [B, number of classes] as int32, `scale` [B] as float32.
    """
    return {
        name: values.astype(np.float32 if name == "scale" else np.int32)
        for name, values in parse_image_meta_graph(np.asarray(meta)).items()
    }


def parse_image_meta_graph(meta):
    """Unpack a batch of meta vectors inside a graph; works on arrays of any library.

    Parameters
    ----------
    meta : tensor [B, 12 + number of classes]

    Returns
    -------
    dict
        As `parse_image_meta`, but of tensors in the type of `meta`.
    """
    return {
        name: meta[:, where.start] if name in SCALARS else meta[:, where]
        for name, where in FIELDS.items()
    }
