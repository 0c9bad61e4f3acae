"""The networks that are trained and detect, and what their weights files tell of them."""

from mrcnn.errors import InputError
from mrcnn.weights import read_attribute
from mrcnn_nuclei.config import MODELS, json_settings
from mrcnn_nuclei.rcnn import NucleusRCNN
from mrcnn_nuclei.unet.model import UNet

NETWORKS = {"mrcnn": NucleusRCNN, "unet": UNet}
"""By `NucleusConfig.MODEL`."""

RECIPE = "nuclei"
"""The attribute of a checkpoint that says how to build its network."""


def recipe(config):
    """What a checkpoint has to tell, so that its network can be built from the file alone.

    Parameters
    ----------
    config : NucleusConfig
        Its preset is noted, from which comes what cannot be written down, such as a backbone's
        code, and all settings that can.

    Returns
    -------
    dict
        {RECIPE: {"model": ..., "preset": ..., "settings": {...}}}
    """
    settings = json_settings(config)
    return {RECIPE: {"model": config.MODEL, "preset": config.PRESET, "settings": settings}}


def read_recipe(path):
    """What a weights file tells of its network.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    dict or None
        `model`, `preset` and `settings`; None where the file is another program's.

    Raises
    ------
    InputError
        If the file is not readable, or tells of a network that is unknown.
    """
    told = read_attribute(path, RECIPE)
    if told is None:
        return None
    try:
        model, preset, settings = told["model"], told["preset"], dict(told["settings"])
        if preset in MODELS[model]:
            return {"model": model, "preset": preset, "settings": settings}
    except (KeyError, TypeError, ValueError):
        pass
    raise InputError(
        f"{path}: is of a network that this version does not know; give weights of its own, or "
        "install the version that wrote them"
    )
