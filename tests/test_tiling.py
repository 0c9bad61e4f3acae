"""Tiles cover the image, and merging their detections gives back each nucleus once and whole."""

import numpy as np
import pytest
from discs import same_masks, touching_discs
from hypothesis import given, settings
from hypothesis import strategies as st
from timing import shortest

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn.overlaps import mask_iou
from mrcnn_nuclei.tiling import merge_rows, merge_tiles, tile_grid


def found_in_tiles(labels, tiles):
    """What a faultless network sees in each tile: the nuclei, cut where the tile ends."""
    return [Instances.from_label_map(labels[y1:y2, x1:x2]) for y1, x1, y2, x2 in tiles]


def jittered(instances, rng):
    """Each mask moved by up to a pixel, within the crop."""
    moved = []
    for k in range(len(instances)):
        dy, dx = rng.integers(-1, 2, 2)
        moved.append(instances[k].translate(dy, dx, instances.shape))
    found = Instances.concatenate([Instances.empty(instances.shape), *moved])
    scores = rng.uniform(0.5, 1, len(found))
    return Instances(found.shape, found.boxes, scores, found.class_ids, found.masks)


@pytest.fixture(scope="module")
def tissue():
    return touching_discs(np.random.default_rng(0), (1500, 1500), 2000, (4, 25))


def square(y1, x1, y2, x2, shape, score=1.0):
    return Instances(shape, [(y1, x1, y2, x2)], [score], [1], [np.ones((y2 - y1, x2 - x1), bool)])


def test_grid_by_hand():
    # 25 is covered by [0, 10), [8, 18) and a last tile moved from 16 to 15.
    assert tile_grid((25, 10), 10, 2) == [(0, 0, 10, 10), (8, 0, 18, 10), (15, 0, 25, 10)]
    assert tile_grid((6, 5), 10, 2) == [(0, 0, 6, 5)]
    assert tile_grid((6, 12), (10, 8), 4) == [(0, 0, 6, 8), (0, 4, 6, 12)]


@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.data(),
)
@settings(max_examples=100, deadline=None)
def test_grid_covers_with_the_overlap_asked_for(height, width, tile, data):
    overlap = data.draw(st.integers(0, min(tile) - 1))
    tiles = np.array(tile_grid((height, width), tile, overlap))
    covered = np.zeros((height, width), int)
    for y1, x1, y2, x2 in tiles:
        assert (y2 - y1, x2 - x1) == (min(tile[0], height), min(tile[1], width))
        covered[y1:y2, x1:x2] += 1
    assert covered.min() >= 1
    for start, end in ((0, 2), (1, 3)):
        spans = np.unique(tiles[:, [start, end]], axis=0)
        assert (spans[:-1, 1] - spans[1:, 0] >= overlap).all()


@pytest.mark.parametrize("overlap", [-1, 10, 11])
def test_impossible_overlap_is_refused(overlap):
    with pytest.raises(InputError, match="overlap"):
        tile_grid((50, 50), 10, overlap)


@pytest.mark.parametrize(("tile", "overlap"), [(256, 64), (400, 56), (1500, 0), (2000, 100)])
def test_every_nucleus_comes_back_whole_and_once(tissue, tile, overlap):
    truth = Instances.from_label_map(tissue)
    tiles = tile_grid(tissue.shape, tile, overlap)
    parts = found_in_tiles(tissue, tiles)
    seconds, merged = shortest(merge_tiles, tiles, parts, tissue.shape, limit=5)
    assert seconds < 5
    assert len(merged) == 2000
    assert same_masks(merged, truth)


def test_jittered_masks_are_counted_once_and_seams_lose_nothing(tissue):
    rng = np.random.default_rng(1)
    truth = Instances.from_label_map(tissue)
    tiles = tile_grid(tissue.shape, 256, 64)
    detections = [jittered(found, rng) for found in found_in_tiles(tissue, tiles)]
    merged = merge_tiles(tiles, detections, tissue.shape)
    assert len(merged) == 2000

    rows, _, iou = mask_iou(truth, merged)
    found = np.isin(np.arange(len(truth)), rows[iou > 0.5])
    # At a seam: seen by more than one tile, as a whole or in part.
    seen = np.zeros(len(truth), int)
    for y1, x1, y2, x2 in tiles:
        boxes = truth.boxes
        seen += (boxes[:, :2] < (y2, x2)).all(axis=1) & (boxes[:, 2:] > (y1, x1)).all(axis=1)
    assert 500 < (seen > 1).sum() < 1900
    assert found[seen > 1].mean() >= found[seen == 1].mean() - 0.005
    assert found.mean() > 0.99


@given(st.integers(0, 2**32 - 1), st.integers(40, 80))
@settings(max_examples=25, deadline=None)
def test_any_grid_gives_back_what_is_smaller_than_the_overlap(seed, tile):
    labels = touching_discs(np.random.default_rng(seed), (130, 110), 30, (4, 9))
    tiles = tile_grid(labels.shape, tile, 20)
    merged = merge_tiles(tiles, found_in_tiles(labels, tiles), labels.shape)
    assert same_masks(merged, Instances.from_label_map(labels))


def test_nucleus_larger_than_the_overlap_is_joined():
    labels = np.zeros((60, 100), np.int32)
    labels[20:40, 30:75] = 1  # 45 wide, across the 10 columns that both tiles see
    labels[40:50, 50:56] = 2
    tiles = [(0, 0, 60, 55), (0, 45, 60, 100)]
    merged = merge_tiles(tiles, found_in_tiles(labels, tiles), labels.shape)
    assert same_masks(merged, Instances.from_label_map(labels))


def test_best_of_two_whole_versions_is_kept():
    tiles = [(0, 0, 40, 40), (0, 20, 40, 60)]
    left = square(10, 24, 20, 36, (40, 40), score=0.6)
    right = square(10, 5, 20, 16, (40, 40), score=0.9)  # columns 25 to 36 of the image
    merged = merge_tiles(tiles, [left, right], (40, 60))
    assert merged.boxes.tolist() == [[10, 25, 20, 36]]
    assert merged.scores.tolist() == pytest.approx([0.9])


def test_whole_version_beats_a_better_score_at_the_edge():
    tiles = [(0, 0, 40, 40), (0, 20, 40, 60)]
    whole = square(10, 15, 20, 30, (40, 40), score=0.5)
    part = square(10, 0, 20, 10, (40, 40), score=0.99)
    assert merge_tiles(tiles, [whole, part], (40, 60)).boxes.tolist() == [[10, 15, 20, 30]]


def test_detections_of_one_tile_do_not_suppress_each_other():
    tiles = [(0, 0, 40, 40), (0, 20, 40, 60)]
    twice = Instances.concatenate([square(10, 5, 20, 15, (40, 40))] * 2)
    merged = merge_tiles(tiles, [twice, Instances.empty((40, 40))], (40, 60))
    assert len(merged) == 2


def test_detections_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="do not fit"):
        merge_tiles([(0, 0, 40, 40)], [Instances.empty((30, 40))], (40, 40))
    with pytest.raises(InputError, match="1 tiles"):
        merge_tiles([(0, 0, 40, 40)], [], (40, 40))


def test_nothing_found():
    tiles = tile_grid((100, 100), 60, 20)
    merged = merge_tiles(tiles, [Instances.empty((60, 60))] * len(tiles), (100, 100))
    assert len(merged) == 0
    assert merged.shape == (100, 100)


def in_rows(tiles):
    """The tiles of a grid row by row, and the numbers of those of each row."""
    starts = sorted({tile[0] for tile in tiles})
    numbers = [[k for k, tile in enumerate(tiles) if tile[0] == start] for start in starts]
    return [[tiles[k] for k in row] for row in numbers], numbers


@given(st.integers(0, 2**32 - 1), st.integers(44, 80), st.booleans())
@settings(max_examples=25, deadline=None)
def test_rows_of_tiles_merge_to_what_all_of_them_merge_to(seed, tile, larger):
    rng = np.random.default_rng(seed)
    radii = (10, 40) if larger else (4, 9)  # the larger ones reach over several rows
    labels = touching_discs(rng, (230, 150), 12 if larger else 50, radii)
    tiles = tile_grid(labels.shape, tile, 20)
    rows, numbers = in_rows(tiles)
    if any(a[-1][2] > c[0][0] for a, c in zip(rows, rows[2:])):
        return  # the last row was moved inwards as far as the last but two
    detections = [jittered(found, rng) for found in found_in_tiles(labels, tiles)]
    detections = [found[rng.random(len(found)) > 0.1] for found in detections]

    by_row = ([detections[k] for k in row] for row in numbers)
    bands = list(merge_rows(rows, by_row, labels.shape))
    tops = [top for top, _ in bands]
    assert len(bands) == len(rows) and tops == sorted(tops)
    for k, (top, _) in enumerate(bands):
        assert all(found.boxes[:, 0].min(initial=top) >= top for _, found in bands[k:])
    merged = Instances.concatenate([found for _, found in bands])
    expected = merge_tiles(tiles, detections, labels.shape)
    assert described(merged) == described(expected)


def described(instances):
    return sorted(
        (*box, score, mask.tobytes())
        for box, score, mask in zip(
            instances.boxes.tolist(), instances.scores.tolist(), instances.masks
        )
    )


def test_rows_are_given_out_as_soon_as_they_are_settled():
    labels = touching_discs(np.random.default_rng(2), (400, 120), 90, (4, 9))
    tiles = tile_grid(labels.shape, 100, 20)
    rows, numbers = in_rows(tiles)
    asked = []

    def found():
        for k, row in enumerate(numbers):
            asked.append(k)
            yield found_in_tiles(labels, [tiles[n] for n in row])

    for k, (_, band) in enumerate(merge_rows(rows, found(), labels.shape)):
        assert asked[-1] == k and len(band)
