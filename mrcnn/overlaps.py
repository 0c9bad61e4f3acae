"""Which boxes and masks of instances overlap, and by how much, without comparing all with all."""

from typing import NamedTuple

import numpy as np

from mrcnn.errors import InputError


def meeting_boxes(a, b):
    """Find the pairs of boxes that have a pixel in common, without comparing all with all.

    Parameters
    ----------
    a, b : integer arrays [N, 4], [M, 4]
        (y1, x1, y2, x2), end exclusive.

    Returns
    -------
    rows, cols : int64 arrays [K]
        Indices into `a` and `b`, in ascending order of (row, col).

    Notes
    -----
    Boxes are compared where they lie in the same cell of a grid. Its cells have the root mean
    square of the boxes' sides: then N boxes lie in at most 9 N cells, however they differ in size.
    """
    if len(a) == 0 or len(b) == 0:
        return np.zeros((2, 0), np.int64)
    boxes = np.concatenate([a, b]).astype(np.int64)
    sides = boxes[:, 2:] - boxes[:, :2]
    cell = np.maximum(np.ceil(np.sqrt((sides**2).mean(axis=0))), 1).astype(np.int64)
    owners_a, cells_a = _cells_of(boxes[: len(a)], cell)
    owners_b, cells_b = _cells_of(boxes[len(a) :], cell)
    by_cell = np.argsort(cells_b, kind="stable")
    owners_b, cells_b = owners_b[by_cell], cells_b[by_cell]
    first = np.searchsorted(cells_b, cells_a, side="left")
    counts = np.searchsorted(cells_b, cells_a, side="right") - first

    found = []
    for block in _blocks(counts):
        entry, within = _enumerate(counts[block])
        rows = owners_a[block][entry]
        cols = owners_b[first[block][entry] + within]
        y1, x1 = (np.maximum(boxes[rows, k], boxes[len(a) + cols, k]) for k in (0, 1))
        y2, x2 = (np.minimum(boxes[rows, k], boxes[len(a) + cols, k]) for k in (2, 3))
        # Of several cells that a pair shares, it counts in that of the corner they have in common.
        here = _cell_number(y1 // cell[0], x1 // cell[1]) == cells_a[block][entry]
        meet = (y1 < y2) & (x1 < x2) & here
        found.append(rows[meet] * len(b) + cols[meet])
    return np.divmod(np.sort(np.concatenate(found)), len(b))


def mask_intersections(a, b):
    """Count the pixels that instances of `a` and `b` share.

    Only boxes that meet are compared, on the crop that they have in common.

    Parameters
    ----------
    a, b : Instances
        Of the same image; may be the same object.

    Returns
    -------
    rows, cols : int64 arrays [K]
        Indices into `a` and `b` of each pair that shares a pixel, in ascending order of (row, col).
    intersections : int64 array [K]
        Pixels in common, at least 1.
    """
    if a.shape != b.shape:
        raise InputError(f"instances of a {a.shape} and a {b.shape} image cannot be compared")
    rows, cols = meeting_boxes(a.boxes, b.boxes)
    words_a = _Words.of(a)
    words_b = words_a if b is a else _Words.of(b)
    top, left = (np.maximum(words_a.boxes[rows, k], words_b.boxes[cols, k]) for k in (0, 1))
    bottom, right = (np.minimum(words_a.boxes[rows, k], words_b.boxes[cols, k]) for k in (2, 3))
    width = right - left
    counts = (bottom - top) * width

    intersections = np.zeros(len(rows), np.int64)
    for block in _blocks(counts):
        pair, within = _enumerate(counts[block])
        pair += block.start
        down, along = np.divmod(within, width[pair])
        place = top[pair] + down, left[pair] + along
        shared = words_a.at(rows[pair], *place) & words_b.at(cols[pair], *place)
        intersections[block] = np.bincount(pair - block.start, np.bitwise_count(shared))
    meet = intersections > 0
    return rows[meet], cols[meet], intersections[meet]


def mask_iou(a, b):
    """Intersection over union of every pair of overlapping masks of `a` and `b`.

    Parameters
    ----------
    a, b : Instances
        Of the same image; may be the same object.

    Returns
    -------
    rows, cols : int64 arrays [K]
        Indices into `a` and `b`, in ascending order of (row, col). A pair not listed has IoU 0.
    iou : float64 array [K]
        In (0, 1].
    """
    rows, cols, intersections = mask_intersections(a, b)
    unions = a.areas[rows] + b.areas[cols] - intersections
    return rows, cols, intersections / unions


class _Words(NamedTuple):
    """Masks as 64-bit words, whose limits are the same columns of the image for all of them.

    `values` holds the words of all masks, row by row; those of mask k begin at `starts[k]`, and
    `boxes[k]` is its (y1, x1, y2, x2) with x counted in words.
    """

    values: np.ndarray
    starts: np.ndarray
    boxes: np.ndarray

    @classmethod
    def of(cls, instances):
        boxes = instances.boxes.astype(np.int64)
        margins = boxes[:, 1] % 64
        boxes[:, 1::2] //= 64
        boxes[:, 3] += instances.boxes[:, 3] % 64 > 0
        values = [np.zeros(0, np.uint64)]
        for mask, margin, width in zip(
            instances.masks, margins.tolist(), (boxes[:, 3] - boxes[:, 1]).tolist()
        ):
            padded = np.zeros((len(mask), 64 * width), bool)
            padded[:, margin : margin + mask.shape[1]] = mask
            values.append(np.packbits(padded).view(np.uint64))
        ends = np.cumsum([len(words) for words in values])
        return cls(np.concatenate(values), ends[:-1], boxes)

    def at(self, k, y, x):
        """The words in row y and column x of masks k, all arrays of one length."""
        y1, x1, _, x2 = self.boxes[k].T
        return self.values[self.starts[k] + (y - y1) * (x2 - x1) + x - x1]


def _cells_of(boxes, cell):
    """The cells of a grid that boxes reach into, as (index of the box, number of the cell)."""
    first = boxes[:, :2] // cell
    spans = (boxes[:, 2:] - 1) // cell - first + 1
    owners, within = _enumerate(spans[:, 0] * spans[:, 1])
    down, along = np.divmod(within, spans[owners, 1])
    return owners, _cell_number(first[owners, 0] + down, first[owners, 1] + along)


def _cell_number(row, column):
    return (row << 32) + column


def _enumerate(counts):
    """For counts [2, 0, 3]: whose turn it is, [0, 0, 2, 2, 2], and which, [0, 1, 0, 1, 2]."""
    ends = np.cumsum(counts)
    whose = np.repeat(np.arange(len(counts)), counts)
    return whose, np.arange(len(whose)) - np.repeat(ends - counts, counts)


def _blocks(counts, most=1 << 18):
    """Slices of counts, each of about `most` in all, so that what they count fits in memory."""
    edges = np.flatnonzero(np.diff(np.cumsum(counts) // most)) + 1
    edges = [0, *edges.tolist(), len(counts)]
    return [slice(*pair) for pair in zip(edges, edges[1:])]
