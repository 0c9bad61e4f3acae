"""The ablations: what the paper tried without gain, or had no time for, one change each."""

from typing import Any, NamedTuple

from mrcnn.errors import InputError
from mrcnn_nuclei.config import MODELS, POINTWISE

AT_DETECTION = {"TEST_TIME_AUGMENTATION", "MASK_NMS", "MASK_DILATION"}
"""Settings that training does not see."""


class Ablation(NamedTuple):
    """One change to a baseline.

    Attributes
    ----------
    title : str
    settings : dict or callable
        Setting -> value, or a function of the baseline's NucleusConfig that returns it.
    models : sequence of str
        The networks on which it acts.
    """

    title: str
    settings: Any
    models: tuple = tuple(MODELS)

    def changes(self, config):
        """The settings that are another than a baseline's, as a dict."""
        settings = self.settings(config) if callable(self.settings) else self.settings
        return {name: value for name, value in settings.items() if getattr(config, name) != value}


def _resnet(name, config):
    """COCO's weights are of ResNet-101 only; another one starts from ImageNet's."""
    weights = config.INITIAL_WEIGHTS
    if name != "resnet101" and weights == "coco":
        weights = "imagenet"
    return {"BACKBONE": name, "INITIAL_WEIGHTS": weights, **_unfrozen(config)}


def _unfrozen(config):
    """Of a schedule that spares layers which ImageNet's weights are good for, one of all."""
    if all(layers != POINTWISE for layers, *_ in config.SCHEDULE):
        return {}
    return {"SCHEDULE": [("all", *rest) for _, *rest in config.SCHEDULE]}


SEARCH = "search"

ABLATIONS = {
    "dice": Ablation("Dice loss of the masks", {"MASK_LOSS": "dice"}, ("mrcnn",)),
    "noise": Ablation(
        "Gaussian noise up to 10 grey levels",
        lambda config: {"AUGMENTATION": {**config.AUGMENTATION, "noise": 10.0}},
    ),
    "growth": Ablation(
        "augmentation that grows over half of the training",
        lambda config: {"AUGMENTATION_GROWTH": max(1, config.SCHEDULE[-1][1] // 2)},
    ),
    "clahe": Ablation("CLAHE, clip limit 2", {"CLAHE": 2.0}),
    "scratch": Ablation(
        "no pre-trained weights",
        lambda config: {"INITIAL_WEIGHTS": "none", **_unfrozen(config)},
    ),
    "group-norm": Ablation("group normalisation", {"NORMALIZATION": "group"}),
    "layer-norm": Ablation("layer normalisation", {"NORMALIZATION": "layer"}),
    "resnet50": Ablation("ResNet-50", lambda config: _resnet("resnet50", config)),
    "resnet101": Ablation("ResNet-101", lambda config: _resnet("resnet101", config)),
    "flips": Ablation("flips at test time", {"TEST_TIME_AUGMENTATION": True}),
    "nms": Ablation("NMS of the masks", {"MASK_NMS": "greedy"}, ("mrcnn",)),
    "soft-nms": Ablation("soft-NMS of the masks", {"MASK_NMS": "soft"}, ("mrcnn",)),
    "dilation": Ablation("masks dilated by a pixel", {"MASK_DILATION": 1}),
    "erosion": Ablation("masks eroded by a pixel", {"MASK_DILATION": -1}),
    SEARCH: Ablation("thresholds found on the other half of the images", {}),
}
"""By the names that `nucleus ablate --only` takes. SEARCH changes what it finds."""


def choose(config, names=None):
    """The ablations that can be run on a baseline.

    Parameters
    ----------
    config : NucleusConfig
        The baseline's.
    names : sequence of str, optional
        Default: all that act on its network and change something.

    Returns
    -------
    list of str
        In the order of ABLATIONS.

    Raises
    ------
    InputError
        If one is unknown, acts on the other network only, or changes nothing.
    """
    reasons = {name: _reason_against(name, config) for name in ABLATIONS}
    for name in names or ():
        if name not in ABLATIONS:
            raise InputError(f"--only {name}: unknown; choose of {', '.join(ABLATIONS)}")
        if reasons[name]:
            raise InputError(f"--only {name}: {reasons[name]}; leave it out")
    wanted = ABLATIONS if names is None else names
    return [name for name in ABLATIONS if name in wanted and not reasons[name]]


def _reason_against(name, config):
    ablation = ABLATIONS[name]
    if config.MODEL not in ablation.models:
        return f"acts on {' and '.join(ablation.models)} only"
    if name != SEARCH and not ablation.changes(config):
        return "the baseline is so already"
    return None
