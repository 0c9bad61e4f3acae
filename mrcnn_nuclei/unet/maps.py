"""Probability maps of an image of any size: tiles, blended where they overlap."""

import numpy as np
from tqdm import tqdm

from mrcnn.config import round_up
from mrcnn_nuclei.tiling import tile_grid

STRIDE = 32
"""The network halves an image five times; sides are padded to a multiple of this."""


def predict_maps(predict, image, tile, overlap, augment=False, progress=False):
    """Predict the maps of an image, tile by tile.

    Where tiles overlap, each counts the more the farther a pixel is from the tile's own edge, so
    that no seam shows.

    Parameters
    ----------
    predict : callable
        float32 [B, h, w, C] -> float32 [B, h, w, M], for sides that are multiples of `STRIDE`.
    image : float32 array [H, W, C]
        Normalised.
    tile : int
        Side of the tiles in pixels, a multiple of `STRIDE`.
    overlap : int
        Pixels that neighbouring tiles share.
    augment : bool
        Average over the eight flips and quarter turns of each tile.
    progress : bool
        Show a bar that counts tiles and estimates the time left.

    Returns
    -------
    float32 array [H, W, M]
    """
    tiles = tile_grid(image.shape[:2], tile, overlap)
    maps, weight = 0.0, np.zeros((*image.shape[:2], 1), np.float32)
    hidden = not progress or len(tiles) == 1
    for y1, x1, y2, x2 in tqdm(tiles, "Detecting", unit="tile", disable=hidden):
        found = _predict_tile(predict, image[y1:y2, x1:x2], augment)
        if len(tiles) == 1:
            return found
        if np.isscalar(maps):
            maps = np.zeros((*image.shape[:2], found.shape[-1]), np.float32)
        window = _window(y2 - y1, x2 - x1, overlap)
        maps[y1:y2, x1:x2] += window * found
        weight[y1:y2, x1:x2] += window
    return maps / weight


def _predict_tile(predict, image, augment):
    height, width = image.shape[:2]
    rows, columns = (round_up(side, STRIDE) - side for side in (height, width))
    image = np.pad(image, [(0, rows), (0, columns), (0, 0)], mode="reflect")
    if not augment:
        return predict(image[np.newaxis])[0][:height, :width]
    total = 0.0
    for flip in (False, True):
        for quarters in range(4):
            turned = np.rot90(image[:, ::-1] if flip else image, quarters)
            found = np.rot90(predict(np.ascontiguousarray(turned)[np.newaxis])[0], -quarters)
            total = total + (found[:, ::-1] if flip else found)
    return (total / 8)[:height, :width]


def _window(height, width, overlap):
    """Weights of a tile's pixels, [height, width, 1]: rising over the overlap, then flat."""
    rise = [np.minimum(np.arange(side), np.arange(side)[::-1]) + 1.0 for side in (height, width)]
    rows, columns = (np.minimum(side / (overlap + 1), 1) for side in rise)
    return np.outer(rows, columns)[..., np.newaxis].astype(np.float32)
