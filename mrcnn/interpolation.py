"""Linear interpolation along one axis, with pixels as areas: edges meet edges."""

import numpy as np


def linear_taps(length, new_length, start=0, count=None):
    """Where pixels of an axis of another length come from, by linear interpolation.

    Parameters
    ----------
    length, new_length : int
        Of the axis, before and after.
    start, count : int
        Which pixels of the new axis; default: all.

    Returns
    -------
    (index, weight), (index, weight)
        The two source pixels of each, counted from 1: 0 and `length` + 1 lie beyond the ends.
    """
    count = new_length - start if count is None else count
    centres = (np.arange(start, start + count) + 0.5) * (length / max(new_length, 1)) - 0.5
    below = np.floor(centres).astype(int)
    fraction = centres - below
    return (below + 1, 1.0 - fraction), (below + 2, fraction)
