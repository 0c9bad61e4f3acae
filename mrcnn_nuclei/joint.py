"""Both networks on one image: a Mask R-CNN tells nuclei apart, a U-Net where there are any.

Mask R-CNN separates nuclei better; the U-Net's foreground has the better outlines, and shows nuclei
for which there was no box. Mask-NMS, the paper's way to join predictions, cannot use that: it takes
the union of what overlaps.
"""

from typing import NamedTuple

import numpy as np

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn_nuclei.config import NucleusConfig, UNetConfig, json_settings
from mrcnn_nuclei.detector import Detector, Recipe
from mrcnn_nuclei.networks import read_recipe
from mrcnn_nuclei.shipped_weights import default_unet, find_shipped
from mrcnn_nuclei.unet.model import MAP_NAMES

CERTAIN = 0.5
"""Score from which a nucleus of the U-Net counts where the Mask R-CNN has none."""

RULED_OUT = 0.25
"""Pixels whose foreground is no more than that belong to no nucleus of the Mask R-CNN."""

UNET_ONLY = {name for name in dir(UNetConfig) if name.isupper()} - set(dir(NucleusConfig))
RCNN_ONLY = {"MASK_NMS", "IMAGE_MIN_SCALE"}
"""Settings that one of the networks has no use for."""

SEEN_ALIKE = ("MPP", "IMAGE_NORMALIZATION", "INVERT_DARK", "CLAHE")
"""Settings by which images are brought to a network."""


def join(found, foreground, others, min_area=0):
    """Correct the nuclei of a Mask R-CNN by what a U-Net sees.

    Each keeps the pixels that the U-Net does not rule out, and what two claim goes to the better
    score. Nuclei of the U-Net's are added whose score is `CERTAIN` or more and of which less than
    half is taken. What is cut may be left in several parts.

    Parameters
    ----------
    found : Instances
        The Mask R-CNN's.
    foreground : float array [H, W]
        The U-Net's map of that name.
    others : Instances
        The U-Net's.
    min_area : int
        Nuclei left with fewer pixels are dropped.

    Returns
    -------
    Instances
        Disjoint, of class 1; each has the score that it came with.
    """
    labels = np.where(foreground > RULED_OUT, found.to_label_map(), 0)
    kept = _keep(labels, len(found), min_area)
    drawn = others.to_label_map()
    areas = np.maximum(np.bincount(drawn.ravel(), minlength=len(others) + 1), 1)
    taken = np.bincount(drawn[labels > 0], minlength=len(others) + 1) / areas
    added = np.concatenate([[False], others.scores >= CERTAIN]) & (taken < 0.5)
    rest = np.where((labels == 0) & added[drawn], drawn, 0)
    kept = np.concatenate([kept, _keep(rest, len(others), min_area)])
    labels = np.where(rest > 0, len(found) + rest, labels)
    return Instances.from_label_map(labels, np.concatenate([found.scores, others.scores])[kept])


def _keep(labels, count, min_area):
    """Set the labels 1 to `count` of too few pixels to 0, in place; return which are left."""
    kept = np.bincount(labels.ravel(), minlength=count + 1) >= max(min_area, 1)
    labels[~kept[labels]] = 0
    return kept[1:]


class JointRecipe(NamedTuple):
    """What another process needs to make a `JointDetector`: see `mrcnn_nuclei.detector.Recipe`."""

    rcnn: Recipe
    unet: Recipe

    def load(self):
        """Make the detector; see `Recipe.load`."""
        return JointDetector(self.rcnn.load(), self.unet.load())


class JointDetector:
    """A Mask R-CNN that a U-Net corrects; detects as `Detector` does.

    Parameters
    ----------
    rcnn, unet : Detector

    Attributes
    ----------
    config, weights, capped
        The Mask R-CNN's, see `Detector`.
    digest : str
        Of both files.

    Raises
    ------
    InputError
        If the networks do not see images alike.
    """

    def __init__(self, rcnn, unet):
        self.rcnn, self.unet = rcnn, unet
        self.config, self.weights = rcnn.config, rcnn.weights
        self.digest = f"{rcnn.digest}+{unet.digest}"
        for name in SEEN_ALIKE:
            ours, theirs = getattr(rcnn.config, name), getattr(unet.config, name)
            if ours != theirs:
                raise InputError(
                    f"{unet.weights}: has {name} = {theirs}, but {rcnn.weights} {ours}, so that "
                    f"they would see other images; make them agree by --set {name}={ours}"
                )
        if rcnn.config.MASK_DILATION:
            raise InputError(
                f"MASK_DILATION = {rcnn.config.MASK_DILATION}: of two networks' nuclei it is not "
                "known where they end; give --unet none"
            )

    @property
    def capped(self):
        """In how many tiles of the last image DETECTION_MAX_INSTANCES was reached."""
        return self.rcnn.capped

    @property
    def recipe(self):
        """How other processes come by the same detector."""
        return JointRecipe(self.rcnn.recipe, self.unet.recipe)

    def detect(self, image, alone=False, statistics=None):
        """Detect the nuclei of an image; see `Detector.detect`."""
        found = self.rcnn.detect(image, alone, statistics)
        maps = self.unet.predict(image, alone, statistics)
        if maps is None:
            return found
        foreground = maps[..., MAP_NAMES.index("foreground")]
        others = self.unet.model.segment(maps)
        return join(found, foreground, others, self.unet.config.MIN_NUCLEUS_AREA)


def load_detector(weights=None, preset=None, settings=None, unet=None):
    """The detector of one network, or of a Mask R-CNN and a U-Net.

    Parameters
    ----------
    weights, preset, settings
        See `Detector`. Settings of both networks change both.
    unet : str or Path, optional
        Weights of the U-Net. "none": no such. Default: that of the project if `weights` are None.

    Returns
    -------
    Detector or JointDetector

    Raises
    ------
    InputError
        As `Detector`, or if the networks are not of these kinds.
    """
    unet = default_unet(weights, unet)
    if unet is None:
        return Detector(weights, preset, settings)
    for path, model, fault in (
        (find_shipped(weights), "mrcnn", "is a U-Net's; --unet corrects what a Mask R-CNN finds"),
        (find_shipped(unet), "unet", "is not a U-Net's; give --unet weights of one"),
    ):
        if (read_recipe(path) or {"model": "mrcnn"})["model"] != model:
            raise InputError(f"{path}: {fault}")
    return JointDetector(
        Detector(weights, preset, _without(settings, UNET_ONLY)),
        Detector(unet, settings=_without(settings, RCNN_ONLY)),
    )


def settings_of(detector):
    """All settings of a detector's network, or networks, as JSON-able dicts by a word for each."""
    if isinstance(detector, JointDetector):
        both = detector.rcnn.config, detector.unet.config
        return dict(zip(("settings", "unet_settings"), map(json_settings, both)))
    return {"settings": json_settings(detector.config)}


def _without(settings, names):
    return {name: value for name, value in (settings or {}).items() if name not in names}
