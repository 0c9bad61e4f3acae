"""Label maps painted strip by strip: of a slide, no more than one strip is ever in memory."""

import numpy as np

from mrcnn.instances import Instances
from mrcnn_nuclei.formats import bands


def label_dtype(found):
    """The smallest of uint16 and uint32 that holds the number of each nucleus."""
    return np.uint16 if len(found) <= np.iinfo(np.uint16).max else np.uint32


def label_strips(found, height):
    """Paint the label map of an image from top to bottom.

    Parameters
    ----------
    found : Instances, or an object with `bands()`
        See `mrcnn_nuclei.formats.bands`.
    height : int
        Rows of a strip; the last may have fewer.

    Yields
    ------
    uint16 or uint32 array [height, W]
        Label k + 1 where nucleus k is. Below each other they are the label map that
        `Instances.to_label_map` paints: the best score wins a contested pixel, and among equal
        scores the lower number.
    """
    rows, width = found.shape
    dtype, top, count = label_dtype(found), 0, 0
    waiting, labels = Instances.empty(found.shape), np.zeros(0, np.int64)

    def strips(until):
        """Those that end at or above a row."""
        nonlocal top
        while top < rows and min(top + height, rows) <= until:
            bottom = min(top + height, rows)
            strip = np.zeros((bottom - top, width), dtype)
            crossing = (waiting.boxes[:, 0] < bottom) & (waiting.boxes[:, 2] > top)
            _paint(strip, top, waiting[crossing], labels[crossing])
            top = bottom
            yield strip

    for band_top, band in bands(found):
        yield from strips(band_top)
        # Only what reaches below the strips that are done can be needed again.
        left = waiting.boxes[:, 2] > top
        waiting = Instances.concatenate([waiting[left], band])
        labels = np.concatenate([labels[left], np.arange(count + 1, count + len(band) + 1)])
        count += len(band)
    yield from strips(rows)


def _paint(strip, top, instances, labels):
    """Paint instances of the whole image into its rows from `top`."""
    bottom = top + len(strip)
    for k in np.lexsort((-labels, instances.scores)):  # the best score last
        y1, x1, y2, x2 = instances.boxes[k]
        first, last = max(y1, top), min(y2, bottom)
        mask = instances.masks[k][first - y1 : last - y1]
        strip[first - top : last - top, x1:x2][mask] = labels[k]
