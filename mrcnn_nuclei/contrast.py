"""The contrast of images on their way in: whether there is any, which way round, and CLAHE."""

import numpy as np

from mrcnn.images import is_dark
from mrcnn.opencv import cv2

TILE = 128
"""Side in pixels, about, of the tiles whose histograms are equalised."""

BLANK = 12
"""Grey levels. Noise of empty glass and of dark fields spans up to 8, the faintest fluorescence of
the Data Science Bowl 2018 27."""


def is_blank(image):
    """Whether nothing stands out in an image, such as empty glass or a dark field.

    The networks cannot tell: normalised by its own deviation, noise is as strong as stain.

    Parameters
    ----------
    image : ndarray uint8 [H, W, 3]

    Returns
    -------
    bool
        Whether each colour spans less than BLANK, once smoothed over a small nucleus and without
        what changes over 32 pixels, the light.
    """
    height, width = image.shape[:2]
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 3)
    shape = (max(1, width // 32), max(1, height // 32))
    light = cv2.resize(image, shape, interpolation=cv2.INTER_AREA).astype(np.float32)
    smooth -= cv2.resize(light, (width, height), interpolation=cv2.INTER_LINEAR)
    return bool(np.ptp(smooth, axis=(0, 1)).max() < BLANK)


def prepare(image, config):
    """What a network is shown of an image, before normalisation.

    Parameters
    ----------
    image : ndarray uint8 [H, W, 3]
        RGB, as a whole.
    config : NucleusConfig
        `INVERT_DARK` and `CLAHE`.

    Returns
    -------
    ndarray uint8 [H, W, 3]
    """
    if config.INVERT_DARK and is_dark(image):
        image = 255 - image
    return enhance(image, config.CLAHE)


def enhance(image, clip_limit):
    """Equalise the lightness of an image, tile by tile.

    Parameters
    ----------
    image : ndarray uint8 [H, W, 3]
        RGB, as a whole: of a crop the tiles would be others.
    clip_limit : float
        How steep the mapping of grey levels may become, as a multiple of the mean bin of a tile's
        histogram (OpenCV's `clipLimit`). 0 returns the image as it is.

    Returns
    -------
    ndarray uint8 [H, W, 3]
        Changed in the L channel of Lab alone.
    """
    if not clip_limit:
        return image
    height, width = image.shape[:2]
    grid = (max(1, round(width / TILE)), max(1, round(height / TILE)))
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clip_limit, grid).apply(lab[..., 0])
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


class Prepared:
    """A data set whose images are as a network is shown them; all else is the data set's own.

    Parameters
    ----------
    dataset : Dataset
    config : NucleusConfig
        See `prepare`.
    """

    def __init__(self, dataset, config):
        self._dataset = dataset
        self._config = config

    def __getattr__(self, name):
        if name.startswith("_"):  # asked for while a copy has no data set yet
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def load_image(self, image_id):
        """Read an image and prepare it.

        Parameters
        ----------
        image_id : int

        Returns
        -------
        ndarray uint8 [H, W, 3]
        """
        return prepare(self._dataset.load_image(image_id), self._config)
