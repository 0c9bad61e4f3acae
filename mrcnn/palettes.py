"""Colours that tell instances from their ground and from each other, for any colour vision."""

import numpy as np

from mrcnn.errors import InputError
from mrcnn.images import is_dark
from mrcnn.overlaps import meeting_boxes

PALETTES = {
    "light": ((255, 255, 0), (0, 240, 255), (240, 130, 0), (255, 255, 230), (0, 110, 40)),
    "dark": ((255, 255, 40), (80, 230, 255), (120, 120, 255), (230, 255, 230), (120, 160, 0)),
    "okabe-ito": (
        *((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66)),
        *((0, 114, 178), (213, 94, 0), (204, 121, 167)),
    ),
}
"""RGB levels from 0 to 255. "light" stands out from stained tissue, whose ground is light, "dark"
from fluorescence; "okabe-ito" (Okabe and Ito 2008, without black) is what many journals ask for."""

AUTO = "auto"
"""In place of a palette's name: "dark" or "light", as the image's ground is."""

NEIGHBOURHOOD = 6
"""Instances closer than this many pixels get different colours."""


def find_palette(name, image):
    """The colours of a palette.

    Parameters
    ----------
    name : str
        A key of PALETTES, or "auto".
    image : uint8 array [H, W, 3]
        What is drawn on.

    Returns
    -------
    uint8 array [K, 3]

    Raises
    ------
    InputError
        If there is no such palette.
    """
    if name == AUTO:
        name = "dark" if is_dark(image) else "light"
    if name not in PALETTES:
        raise InputError(f"palette {name!r}: unknown; choose {AUTO}, {', '.join(PALETTES)}")
    return np.array(PALETTES[name], np.uint8)


def neighbour_indices(boxes, count):
    """Choose a colour for each instance, so that neighbours differ as far as possible.

    Parameters
    ----------
    boxes : int array [N, 4]
        (y1, x1, y2, x2) in pixels.
    count : int
        Colours there are.

    Returns
    -------
    int array [N]
        From 0. Each takes the colour that its neighbours so far use the least, and of these the one
        used the least so far.
    """
    boxes = np.asarray(boxes).reshape(-1, 4)
    grown = boxes + np.array([-1, -1, 1, 1]) * NEIGHBOURHOOD
    rows, cols = meeting_boxes(grown, boxes)
    earlier = cols < rows
    rows, cols = rows[earlier], cols[earlier]
    starts = np.searchsorted(rows, np.arange(len(boxes) + 1))
    indices = np.zeros(len(boxes), int)
    used = np.zeros(count, int)
    for k in range(len(boxes)):
        neighbours = indices[cols[starts[k] : starts[k + 1]]]
        near = np.bincount(neighbours, minlength=count)
        indices[k] = np.lexsort((used, near))[0]
        used[indices[k]] += 1
    return indices
