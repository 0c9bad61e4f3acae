"""Instances in files of their own, compact and quick to read: what a slide's blocks are kept in."""

import io

import numpy as np

from mrcnn.instances import Instances


def pack(instances):
    """Instances as bytes: masks a bit a pixel, compressed.

    Parameters
    ----------
    instances : Instances

    Returns
    -------
    bytes
        The content of a NumPy .npz file.
    """
    pixels = [mask.ravel() for mask in instances.masks]
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        shape=np.array(instances.shape),
        boxes=instances.boxes,
        scores=instances.scores,
        class_ids=instances.class_ids,
        masks=np.packbits(np.concatenate(pixels) if pixels else np.zeros(0, bool)),
    )
    return stream.getvalue()


def read(path):
    """Read a file of the bytes that `pack` made.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Instances

    Raises
    ------
    OSError, ValueError, KeyError, zipfile.BadZipFile
        If it is not readable.
    """
    with np.load(path, allow_pickle=False) as arrays:
        boxes, packed = arrays["boxes"], arrays["masks"]
        sizes = (boxes[:, 2:] - boxes[:, :2]).astype(np.int64)
        ends = np.cumsum(sizes.prod(axis=1))
        pixels = np.unpackbits(packed, count=int(ends[-1]) if len(ends) else 0).astype(bool)
        masks = [
            pixels[end - height * width : end].reshape(height, width)
            for end, (height, width) in zip(ends.tolist(), sizes.tolist())
        ]
        shape = tuple(arrays["shape"].tolist())
        return Instances(shape, boxes, arrays["scores"], arrays["class_ids"], masks)
