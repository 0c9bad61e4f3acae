"""Random changes of training images, made on the label map and never on one mask per nucleus.

The paper's are random crops, rotations, flips and Gaussian blur, and they are on by default. The
others are switches for the ablation.
"""

import math

import numpy as np
from skimage.color import hed_from_rgb, rgb_from_hed

from mrcnn.errors import InputError
from mrcnn.opencv import cv2

# Optical density of the 256 grey levels; one level is added so that black has a finite one.
DENSITY = np.float32(-np.log((np.arange(256) + 1) / 256))


class Augmentation:
    """Cut a randomly placed, turned and flipped crop out of an image, and change its look.

    Crop, turn, flip and scale are one affine map, so that each pixel is interpolated once and only
    the crop is computed. Crops stay within the image: where a turned or shrunken crop would not
    fit, it is taken at the nearest quarter turn (half turn, unless square) and not shrunken. An
    image smaller than the crop lies somewhere in it, surrounded by its own mean colour, which
    z-score normalisation maps to 0. Labels keep their numbers, and nuclei cut by the edge of the
    crop keep what lies inside.

    Parameters
    ----------
    crop_size : int or (int, int)
        Height and width of the result in pixels.
    rotate : bool or float
        Turn by any angle; a fraction: by up to that part of a full turn.
    flip : bool or float
        Flip horizontally and vertically, each with probability one half; a fraction: of that.
    scale : (float, float)
        Range of the magnification.
    blur : float
        Largest standard deviation of the Gaussian blur in pixels. Half of the crops stay sharp.
    noise : float
        Largest standard deviation of the Gaussian noise in grey levels.
    stain : float
        The amounts of haematoxylin, eosin and residual stain change by up to this fraction each
        (Tellez et al., "Whole-slide mitosis detection in H&E breast histology using PHH3 as a
        reference to train distilled stain-invariant convolutional networks", 2018).
    brightness : float
        Grey levels are multiplied by up to 1 plus or minus this.
    growth : int
        Number of epochs in which all this but the crop grows from nothing to full strength.

    Raises
    ------
    InputError
        If the crop size or the scale is not positive.
    """

    crops = True  # tells the data pipeline to hand over the whole image

    def __init__(
        self,
        crop_size,
        rotate=True,
        flip=True,
        scale=(1.0, 1.0),
        blur=1.0,
        noise=0.0,
        stain=0.0,
        brightness=0.0,
        growth=0,
    ):
        self.crop_size = tuple(int(side) for side in np.broadcast_to(crop_size, 2))
        if min(self.crop_size) < 1:
            raise InputError(f"crop size {crop_size}: give at least 1 pixel")
        if not 0 < scale[0] <= scale[1]:
            raise InputError(f"augmentation scale {scale}: give (least, most), both above 0")
        self.rotate = rotate
        self.flip = flip
        self.scale = scale
        self.blur = blur
        self.noise = noise
        self.stain = stain
        self.brightness = brightness
        self.growth = growth

    def at_epoch(self, epoch):
        """The augmentation of an epoch: at `epoch / growth` of its strength, at most all of it.

        Every range narrows in proportion, the magnification's to its geometric middle.

        Parameters
        ----------
        epoch : int
            Counted from 0.

        Returns
        -------
        Augmentation
        """
        if epoch >= self.growth:
            return self
        strength = epoch / self.growth
        middle = math.sqrt(self.scale[0] * self.scale[1])
        return Augmentation(
            self.crop_size,
            rotate=strength * self.rotate,
            flip=strength * self.flip,
            scale=tuple(middle * (end / middle) ** strength for end in self.scale),
            blur=strength * self.blur,
            noise=strength * self.noise,
            stain=strength * self.stain,
            brightness=strength * self.brightness,
        )

    def __call__(self, image, labels, rng):
        """Return a random crop.

        Parameters
        ----------
        image : ndarray
            uint8 [H, W, 3], RGB.
        labels : ndarray
            int32 [H, W].
        rng : numpy.random.Generator
            The only source of chance: the same state gives the same crop.

        Returns
        -------
        image : ndarray
            uint8 [h, w, 3] with (h, w) the crop size.
        labels : ndarray
            int32 [h, w]; its labels are some of those given.
        """
        image, labels = self._cut(image, labels, rng)
        return self._recolour(image, rng), labels

    def _cut(self, image, labels, rng):
        angle = rng.uniform(0, 2 * math.pi * self.rotate) if self.rotate else 0.0
        scale = rng.uniform(*self.scale)
        mirror = np.where(rng.random(2) < 0.5 * self.flip, -1, 1) if self.flip else np.ones(2)
        linear = _linear_map(angle, scale, mirror)
        extent = _extent(linear, self.crop_size)
        if np.any(extent > labels.shape):
            height, width = self.crop_size
            step = math.pi / 2 if height == width else math.pi
            linear = _linear_map(round(angle / step) * step, max(scale, 1.0), mirror)
            extent = _extent(linear, self.crop_size)
        room = labels.shape - extent
        corner = rng.integers(np.minimum(room, 0), np.maximum(room, 0) + 1)

        # The middle of the crop falls on the middle of its extent in the image. (x, y) from here.
        middle = (corner + (extent - 1) / 2)[::-1]
        height, width = self.crop_size
        offset = middle - linear @ [(width - 1) / 2, (height - 1) / 2]
        affine = np.column_stack([linear, offset])
        fill = cv2.mean(image)[:3] if np.any(room < 0) else (0, 0, 0)
        size, inverse = (width, height), cv2.WARP_INVERSE_MAP
        return (
            cv2.warpAffine(image, affine, size, flags=cv2.INTER_LINEAR | inverse, borderValue=fill),
            cv2.warpAffine(labels, affine, size, flags=cv2.INTER_NEAREST | inverse),
        )

    def _recolour(self, image, rng):
        if self.stain:
            image = _change_stain(image, 1 + rng.uniform(-self.stain, self.stain, 3))
        if self.brightness:
            factor = 1 + rng.uniform(-self.brightness, self.brightness)
            image = cv2.convertScaleAbs(image, alpha=factor)
        if self.blur and rng.random() < 0.5:
            image = cv2.GaussianBlur(image, (0, 0), max(0.01, rng.uniform(0, self.blur)))
        if self.noise:
            noise = rng.standard_normal(image.shape, np.float32) * rng.uniform(0, self.noise)
            image = cv2.add(image, noise, dtype=cv2.CV_8U)
        return image


def _linear_map(angle, scale, mirror):
    """Return the matrix [2, 2] from (x, y) in the crop to (x, y) in the image."""
    # Rounded, so that quarter turns are exact and copy pixels.
    cosine, sine = round(math.cos(angle), 12), round(math.sin(angle), 12)
    return np.array([[cosine, -sine], [sine, cosine]]) * mirror / scale


def _extent(linear, crop_size):
    """Return height and width, in whole pixels of the image, of the box around a crop."""
    height, width = crop_size
    across = np.abs(linear) @ [width - 1, height - 1]
    return np.ceil(across[::-1] - 1e-6).astype(int) + 1


def _change_stain(image, factors):
    """Multiply the optical density of each stain (Ruifrok and Johnston, 2001) by a factor."""
    change = hed_from_rgb @ np.diag(factors) @ rgb_from_hed
    density = cv2.transform(cv2.LUT(image, DENSITY), np.float32(change.T))
    return cv2.convertScaleAbs(np.maximum(256 * cv2.exp(-density) - 1, 0))
