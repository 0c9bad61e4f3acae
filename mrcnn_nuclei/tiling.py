"""Detection in images larger than the network's crop: cut into tiles, detect, merge.

Neighbouring tiles overlap. A nucleus smaller than the overlap lies whole in at least one of them,
and `merge_tiles` keeps that version. `merge_rows` does the same row by row, for images whose nuclei
are too many to be in memory at once.
"""

from typing import NamedTuple

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn.overlaps import mask_intersections

# A detection this close to where its tile ends may be cut there: networks often stop a pixel short.
EDGE_PIXELS = 2


def tile_grid(shape, tile, overlap):
    """Cover an image with overlapping tiles of one size.

    Parameters
    ----------
    shape : (int, int)
        (H, W) of the image in pixels.
    tile : int or (int, int)
        Size, or height and width, of a tile.
    overlap : int
        Pixels that neighbouring tiles share at least. The last tile of a row or column is moved
        inwards until it fits, so it shares more.

    Returns
    -------
    list of (y1, x1, y2, x2)
        End exclusive, row by row. Along a side where the image is smaller than the tile there is
        one tile, as large as the image.

    Raises
    ------
    InputError
        If `overlap` is negative or as large as the tile.
    """
    height, width = (int(size) for size in np.broadcast_to(tile, 2))
    if not 0 <= overlap < min(height, width):
        raise InputError(
            f"overlap {overlap} does not fit tiles of {height} x {width}: give 0 to "
            f"{min(height, width) - 1} pixels"
        )
    rows = _spans(shape[0], height, overlap)
    cols = _spans(shape[1], width, overlap)
    return [(y1, x1, y2, x2) for y1, y2 in rows for x1, x2 in cols]


def merge_tiles(tiles, detections, shape, overlap_threshold=0.5):
    """Put the detections of overlapping tiles together, each nucleus once and none cut.

    A detection at the edge of its tile, unless the image ends there, is a part of a nucleus. It is
    dropped where another tile sees the place clear of its own edges, since the nucleus is whole
    there. Of what remains, two detections from different tiles are one nucleus if they share more
    than `overlap_threshold` of the smaller one; the one that is whole is kept, else the higher
    score, else the larger. Parts of a nucleus too large for every tile are joined if they agree
    where both tiles look. Detections of the same tile may overlap and never suppress each other.

    Parameters
    ----------
    tiles : sequence of (y1, x1, y2, x2)
        In pixels of the image, end exclusive, as `tile_grid` makes them.
    detections : sequence of Instances
        What was found in each tile, in pixels of the tile.
    shape : (int, int)
        (H, W) of the image.
    overlap_threshold : float
        Pixels in common over the pixels of the smaller detection. For two parts of a nucleus also
        their IoU within the window that both tiles cover.

    Returns
    -------
    Instances
        In pixels of the image, in the order of the tiles. A nucleus joined from parts has the score
        and class of its best part.

    Raises
    ------
    InputError
        If the detections do not fit the tiles.
    """
    ((_, merged),) = merge_rows([tiles], [detections], shape, overlap_threshold)
    return merged


def merge_rows(rows, detections, shape, overlap_threshold=0.5):
    """Put the detections of rows of tiles together as `merge_tiles` does, some rows at a time.

    What reaches into the next row is settled when that comes, so that little more than one row of
    detections is in memory. The result is that of `merge_tiles` in another order.

    Parameters
    ----------
    rows : sequence of sequences of (y1, x1, y2, x2)
        The tiles of each row, from top to bottom. Tiles of rows that do not follow each other must
        not overlap.
    detections : iterable of sequences of Instances
        What was found in the tiles of each row, in pixels of the tile.
    shape, overlap_threshold
        See `merge_tiles`.

    Yields
    ------
    top : int
        None of these nuclei, or of later ones, has a pixel above this row of pixels.
    found : Instances
        The nuclei that are settled, in pixels of the image.

    Raises
    ------
    InputError
        If the detections do not fit the tiles.
    """
    rows = [np.asarray(tiles, int).reshape(-1, 4) for tiles in rows]
    none = np.zeros((0, 4), int)
    windows = none  # of the tiles that the waiting detections come from
    waiting = _Placed(Instances.empty(shape), np.zeros(0, int), np.zeros(0, bool))
    for above, tiles, below, found in zip([none, *rows], rows, [*rows[1:], none], detections):
        row = _place(tiles, found, shape, [*above, *below])
        placed = _Placed(
            Instances.concatenate([waiting.instances, row.instances]),
            np.concatenate([waiting.tile, row.tile + len(windows)]),
            np.concatenate([waiting.cut, row.cut]),
        )
        windows = np.concatenate([windows, tiles])
        same = _same_nucleus(placed, windows, overlap_threshold)
        # What reaches into the next row, if only through others, may be seen there too.
        below_starts = below[:, 0].min(initial=shape[0])
        _, group = connected_components(same, directed=False)
        unsettled = np.isin(group, group[placed.instances.boxes[:, 2] > below_starts])
        done = np.flatnonzero(~unsettled)
        merged = _merge(placed.instances[done], placed.cut[done], same[done][:, done])
        used, tile = np.unique(placed.tile[unsettled], return_inverse=True)
        waiting = _Placed(placed.instances[unsettled], tile, placed.cut[unsettled])
        windows = windows[used]
        lines = [[below_starts], waiting.instances.boxes[:, 0], merged.boxes[:, 0]]
        yield int(np.concatenate(lines).min()), merged


class _Placed(NamedTuple):
    """Detections in pixels of the image, the number of each one's tile, and whether that cut it."""

    instances: Instances
    tile: np.ndarray
    cut: np.ndarray


def _place(tiles, detections, shape, around):
    """The detections of a row of tiles, without parts of what is whole in this row or `around`."""
    if len(tiles) != len(detections):
        raise InputError(f"{len(tiles)} tiles need as many detections, not {len(detections)}")
    placed = [Instances.empty(shape)]
    for (y1, x1, y2, x2), found in zip(tiles.tolist(), detections):
        if found.shape != (y2 - y1, x2 - x1):
            raise InputError(
                f"detections in a {found.shape} crop do not fit a {(y2 - y1, x2 - x1)} tile"
            )
        placed.append(found.translate(y1, x1, shape))
    tile = np.repeat(np.arange(len(tiles)), [len(found) for found in placed[1:]])
    placed = Instances.concatenate(placed)

    windows = np.array([*tiles, *around], int).reshape(-1, 4)
    clear = _clear_regions(windows, shape)
    cut = ~_inside(placed.boxes, clear[tile])
    members = _members(tile, len(windows))
    kept = ~(cut & _clear_elsewhere(placed.boxes, members, clear, _neighbours(windows)))
    return _Placed(placed[kept], tile[kept], cut[kept])


def _merge(placed, cut, same):
    """Of each nucleus the best version, or its parts joined."""
    kept = _best_versions(placed, np.flatnonzero(~cut), same)
    parts = np.flatnonzero(cut & ~(same @ kept))
    joined = []
    for group in _connected(same[parts][:, parts]):
        if len(group) == 1:
            kept[parts[group]] = True
        else:
            joined.append(_join(placed[parts[group]]))
    return Instances.concatenate([placed[kept], *joined])


def _members(tile, count):
    """The detections of each tile."""
    by_tile = np.argsort(tile, kind="stable")
    return np.split(by_tile, np.searchsorted(tile[by_tile], np.arange(1, count)))


def _spans(size, tile, overlap):
    """(start, end) of the tiles along one side."""
    if size <= tile:
        return [(0, int(size))]
    count = -(-(size - overlap) // (tile - overlap))
    starts = [min(k * (tile - overlap), size - tile) for k in range(count)]
    return [(int(start), int(start + tile)) for start in starts]


def _clear_regions(tiles, shape):
    """The part of each tile [T, 4] in which a box is not at an inner edge."""
    height, width = shape
    margin = np.array([EDGE_PIXELS, EDGE_PIXELS, -EDGE_PIXELS, -EDGE_PIXELS])
    at_image_edge = tiles == np.array([0, 0, height, width])
    return np.where(at_image_edge, tiles, tiles + margin)


def _inside(boxes, region):
    return ((boxes[:, :2] >= region[..., :2]) & (boxes[:, 2:] <= region[..., 2:])).all(axis=1)


def _neighbours(tiles):
    """Each two tiles that meet, as (a, b, window): their numbers and what both cover."""
    found = []
    for a in range(len(tiles)):
        top_left = np.maximum(tiles[a, :2], tiles[a + 1 :, :2])
        bottom_right = np.minimum(tiles[a, 2:], tiles[a + 1 :, 2:])
        for k in np.flatnonzero((top_left < bottom_right).all(axis=1)):
            found.append((a, a + 1 + int(k), (*top_left[k].tolist(), *bottom_right[k].tolist())))
    return found


def _clear_elsewhere(boxes, members, clear, neighbours):
    """Which boxes lie in another tile clear of its inner edges."""
    result = np.zeros(len(boxes), bool)
    for a, b, _ in neighbours:
        for own, other in ((a, b), (b, a)):
            result[members[own]] |= _inside(boxes[members[own]], clear[other])
    return result


def _same_nucleus(found, windows, threshold):
    """Symmetric bool matrix [N, N], sparse: which detections of different tiles are one nucleus."""
    placed, tile, cut = found
    areas = placed.areas
    members = _members(tile, len(windows))
    pairs = [np.zeros((2, 0), int)]
    for a, b, window in _neighbours(windows):
        in_a = members[a][_meets(placed.boxes[members[a]], window)]
        in_b = members[b][_meets(placed.boxes[members[b]], window)]
        rows, cols, shared = mask_intersections(placed[in_a], placed[in_b])
        rows, cols = in_a[rows], in_b[cols]
        same = shared > threshold * np.minimum(areas[rows], areas[cols])
        both_cut = np.flatnonzero(cut[rows] & cut[cols])
        seen = [_areas_within(placed[k[both_cut]], window) for k in (rows, cols)]
        same[both_cut] |= shared[both_cut] > threshold * (sum(seen) - shared[both_cut])
        pairs.append(np.stack([rows[same], cols[same]]))
    rows, cols = np.concatenate(pairs, axis=1)
    size = (len(placed), len(placed))
    matrix = sparse.coo_array((np.ones(len(rows), bool), (rows, cols)), shape=size).tocsr()
    return matrix + matrix.T


def _meets(boxes, window):
    y1, x1, y2, x2 = window
    return (boxes[:, 0] < y2) & (boxes[:, 2] > y1) & (boxes[:, 1] < x2) & (boxes[:, 3] > x1)


def _areas_within(instances, window):
    """Pixels of each mask inside a window in which each has some."""
    y1, x1, y2, x2 = window
    return instances.translate(-y1, -x1, (y2 - y1, x2 - x1)).areas


def _best_versions(placed, candidates, same):
    """Greedily keep candidates by score, then area, none the same nucleus as a kept one."""
    kept = np.zeros(len(placed), bool)
    best_first = np.lexsort((-placed.areas[candidates], -placed.scores[candidates]))
    for k in candidates[best_first]:
        versions = same.indices[same.indptr[k] : same.indptr[k + 1]]
        kept[k] = not kept[versions].any()
    return kept


def _connected(graph):
    """Index arrays of the connected components of a symmetric graph, in order of their first."""
    if graph.shape[0] == 0:
        return []
    count, component = connected_components(graph, directed=False)
    by_component = np.argsort(component, kind="stable")
    return np.split(by_component, np.cumsum(np.bincount(component, minlength=count))[:-1])


def _join(parts):
    """One instance that covers all `parts`, with the score and class of the best."""
    y1, x1 = parts.boxes[:, :2].min(axis=0)
    y2, x2 = parts.boxes[:, 2:].max(axis=0)
    mask = np.zeros((y2 - y1, x2 - x1), bool)
    for (top, left, bottom, right), part in zip(parts.boxes, parts.masks):
        mask[top - y1 : bottom - y1, left - x1 : right - x1] |= part
    best = int(parts.scores.argmax())
    return Instances(
        parts.shape,
        [(y1, x1, y2, x2)],
        parts.scores[[best]],
        parts.class_ids[[best]],
        [mask],
    )
