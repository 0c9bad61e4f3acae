"""The weights that come with the project, in its folder `weights`; see the README there."""

import os
from pathlib import Path

from mrcnn.errors import InputError

FILES = {"he": "nuclei_he.h5", "free": "nuclei_free.h5"}
"""By the word that stands for them: for H&E at 40x, and without what MoNuSeg's licence asks."""

LICENCES = {"he": "CC BY-NC-SA 4.0, no commercial use", "free": "MIT"}
"""Of each file."""

DEFAULT = "he"

FOLDER = Path(__file__).resolve().parent.parent / "weights"
"""Of a checkout. An installed copy of the package has none; NUCLEI_WEIGHTS may name one."""


def find_shipped(weights=None):
    """The file that a word for weights means.

    Parameters
    ----------
    weights : str or Path, optional
        A key of `FILES`, None for the default, or a file.

    Returns
    -------
    str or Path
        A file is returned as it is.

    Raises
    ------
    InputError
        If the project's file is not there.
    """
    weights = weights or DEFAULT
    if weights not in FILES:
        return weights
    path = Path(os.environ.get("NUCLEI_WEIGHTS") or FOLDER) / FILES[weights]
    if not path.is_file():
        raise InputError(
            f"{path}: no such weights file; clone the project, which has it, name its folder "
            "weights in NUCLEI_WEIGHTS, or give --weights FILE"
        )
    return path
