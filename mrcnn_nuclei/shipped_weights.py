"""The weights that come with the project, in its folder `weights`; see the README there."""

import os
from pathlib import Path

from mrcnn.errors import InputError
from mrcnn.files import file_digest

FILES = {
    "he_mrcnn": "nuclei_he_mrcnn.h5",
    "he": "nuclei_he.h5",
    "free": "nuclei_free.h5",
}
"""By the word that stands for them: the Mask R-CNN and the U-Net for H&E at 40x, and a U-Net
without what MoNuSeg's licence asks."""

NONCOMMERCIAL = "CC BY-NC-SA 4.0, no commercial use"

LICENCES = {"he_mrcnn": NONCOMMERCIAL, "he": NONCOMMERCIAL, "free": "MIT"}
"""Of each file."""

PRESET_OF = {"he_mrcnn": "lite", "he": "lite", "free": "compact"}
"""What each was trained by."""

DEFAULT, DEFAULT_UNET = "he_mrcnn", "he"
"""What detects unless told otherwise: the first, corrected by the second."""

MONUSEG = {
    f"TCGA-{barcode}"
    for barcode in """
    18-5592-01Z-00-DX1 21-5784-01Z-00-DX1 21-5786-01Z-00-DX1 38-6178-01Z-00-DX1
    49-4488-01Z-00-DX1 50-5931-01Z-00-DX1 A7-A13E-01Z-00-DX1 A7-A13F-01Z-00-DX1
    AR-A1AK-01Z-00-DX1 AR-A1AS-01Z-00-DX1 AY-A8YK-01A-01-TS1 B0-5698-01Z-00-DX1
    B0-5710-01Z-00-DX1 B0-5711-01Z-00-DX1 CH-5767-01Z-00-DX1 DK-A2I6-01A-01-TS1
    E2-A14V-01Z-00-DX1 E2-A1B5-01Z-00-DX1 G2-A2EK-01A-02-TSB G9-6336-01Z-00-DX1
    G9-6348-01Z-00-DX1 G9-6356-01Z-00-DX1 G9-6362-01Z-00-DX1 G9-6363-01Z-00-DX1
    HE-7128-01Z-00-DX1 HE-7129-01Z-00-DX1 HE-7130-01Z-00-DX1 KB-A93J-01A-01-TS1
    NH-A8F7-01A-01-TS1 RD-A8N9-01A-01-TS1
    """.split()
}
"""The training images of MoNuSeg, from which all but "free" learned."""

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
    path = _path(weights)
    if not path.is_file():
        raise InputError(
            f"{path}: no such weights file; clone the project, which has it, name its folder "
            "weights in NUCLEI_WEIGHTS, or give --weights FILE"
        )
    return path


def default_unet(weights, unet):
    """Which U-Net corrects what is detected with these weights.

    Parameters
    ----------
    weights : str or Path or None
        None for those of the project.
    unet : str or Path or None
        What was asked for; "none" is no U-Net.

    Returns
    -------
    str or Path or None
    """
    if unet is None:
        return DEFAULT_UNET if weights is None else None
    return None if unet == "none" else unet


def saw(weights, names):
    """Which of these images weights of the project learned from.

    Parameters
    ----------
    weights : str or Path or None
        A key of `FILES`, or a file, which may be a copy under another name. What was trained on
        from these is not recognised.
    names : iterable of str
        Of images, without suffix.

    Returns
    -------
    list of str
    """
    both = sorted(MONUSEG & set(names))
    if weights is None or weights == "free" or not both:
        return []
    return both if weights in FILES or _is_copy(weights) else []


def _is_copy(weights):
    """Whether a file is one of those that learned from MoNuSeg, whatever its name."""
    path = Path(weights)
    theirs = [_path(word) for word in FILES if word != "free"]
    digests = {file_digest(file) for file in theirs if file.is_file()}
    return path.is_file() and file_digest(path) in digests


def _path(word):
    return Path(os.environ.get("NUCLEI_WEIGHTS") or FOLDER) / FILES[word]
