"""Drawn images without a nucleus: empty glass, dark fields and tissue between the nuclei.

Each image is normalised by its own mean and spread, which makes the noise of an empty one as strong
as the stain of a full one. A network that has never seen such noise takes it for nuclei.
"""

import numpy as np

from mrcnn.opencv import cv2
from mrcnn_nuclei.datasets.synthetic import draw_tile, write_tiles

KINDS = ("glass", "dark", "tissue")


def draw_blank(size, rng, kind):
    """Draw an image without nuclei, as a camera and JPEG leave it.

    Parameters
    ----------
    size : int
        Height and width in pixels.
    rng : numpy.random.Generator
    kind : {"glass", "dark", "tissue"}
        Bright as a slide beside the tissue, black as a fluorescent field without cells, or stained
        tissue.

    Returns
    -------
    ndarray
        uint8 [size, size, 3], RGB.

    Raises
    ------
    ValueError
        If there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: choose one of {', '.join(KINDS)}")
    if kind == "tissue":
        return draw_tile(size, rng, nuclei=0)[0]
    level = rng.uniform(215, 252) if kind == "glass" else rng.uniform(1, 30)
    tint = rng.normal(0, 3, 3) if kind == "glass" else np.zeros(3)
    y, x = np.linspace(-1, 1, size)[:, None], np.linspace(-1, 1, size)
    shading = rng.normal(0, 3) * y + rng.normal(0, 3) * x + rng.normal(0, 2) * (y * y + x * x)
    noise = rng.normal(0, rng.uniform(0.2, 4), (size, size, 3 if kind == "glass" else 1))
    if rng.random() < 0.5:
        noise = cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.5, 2)).reshape(size, size, -1)
    image = np.uint8(np.clip(np.rint(level + tint + shading[..., None] + noise), 0, 255))
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(50, 100))]
    return cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)


def generate(count=12, size=256, seed=0):
    """Draw images of all kinds in turn.

    Parameters
    ----------
    count : int
        Number of images. Image i is the same whatever the count.
    size : int
        Height and width of each image in pixels.
    seed : int

    Returns
    -------
    list of (str, ndarray, ndarray)
        Name, image uint8 [size, size, 3] and label map int32 [size, size], all 0, of each image.
    """
    empty = np.zeros((size, size), np.int32)
    return [
        (
            f"blank_{index:03d}",
            draw_blank(size, np.random.default_rng([seed, index]), KINDS[index % len(KINDS)]),
            empty,
        )
        for index in range(count)
    ]


def write(root, count=12, size=256, seed=0):
    """Draw images into the folders `images` and `labels` of `root`; see `generate`.

    Returns
    -------
    list of Path
        The images.
    """
    return write_tiles(root, generate(count, size, seed))
