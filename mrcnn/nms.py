"""Exact greedy non-maximum suppression with static shapes."""

import numpy as np
from keras import ops

from mrcnn.box_ops import intersection_and_union

BLOCK = 512


def non_max_suppression(boxes, scores, count, threshold, classes=None, eligible=None):
    """Indices of the boxes that greedy non-maximum suppression keeps, best first.

    Gives the boxes `tf.image.non_max_suppression` gives, index for index: a box is suppressed only
    if its IoU with a better one exceeds the threshold, the lower index wins a tie, a box without
    area suppresses nothing. Boxes are visited in blocks of falling score. What earlier blocks left
    standing removes boxes of the block; within it, "keep whom no kept, better box suppresses" is
    repeated until nothing changes, which is the greedy solution.

    Parameters
    ----------
    boxes : float32 tensor [B, N, 4]
        In any order of their corners; N is static.
    scores : float32 tensor [B, N]
    count : int
        The most boxes to keep.
    threshold : float
    classes : int tensor [B, N], optional
        Boxes of different classes do not suppress each other.
    eligible : bool tensor [B, N], optional
        Which boxes take part.

    Returns
    -------
    indices : int32 tensor [B, count]
        0 where `valid` is False.
    valid : bool tensor [B, count]
    """
    batch, total = ops.shape(boxes)[0], boxes.shape[1]
    blocks = -(-total // BLOCK)
    if classes is None:
        classes = ops.zeros_like(scores)
    if eligible is None:
        eligible = ops.ones_like(scores, dtype="bool")
    # A fifth column holds the class, so that boxes and classes are sorted and cut as one.
    rows = ops.concatenate([_ordered_corners(boxes), ops.cast(classes, "float32")[..., None]], -1)
    order = ops.cast(ops.argsort(-ops.stop_gradient(scores), axis=-1), "int32")
    rows = ops.take_along_axis(ops.stop_gradient(rows), order[..., None], axis=1)
    eligible = ops.take_along_axis(eligible, order, axis=1)
    padding = blocks * BLOCK - total
    rows = ops.pad(rows, [[0, 0], [0, padding], [0, 0]])
    eligible = ops.pad(eligible, [[0, 0], [0, padding]])
    better = ops.convert_to_tensor(np.tri(BLOCK, k=-1, dtype=bool))
    # Row `count` takes what is written past the end.
    first_row = ops.arange(batch, dtype="int32")[:, None] * (count + 1)

    def keep_in_block(block, found, kept, positions):
        start = block * BLOCK
        candidates = ops.slice(rows, (0, start, 0), (batch, BLOCK, 5))
        alive = ops.slice(eligible, (0, start), (batch, BLOCK))
        beaten = ops.any(_suppresses(candidates, kept[:, :count], threshold), axis=-1)
        alive = ops.logical_and(alive, ops.logical_not(beaten))
        conflicts = ops.logical_and(_suppresses(candidates, candidates, threshold), better)
        keep = _greedy(ops.cast(conflicts, "float32"), alive)
        rank = found[:, None] + ops.cumsum(keep, axis=1) - 1
        written = ops.logical_and(keep > 0, rank < count)
        target = ops.reshape(ops.where(written, rank, count) + first_row, (-1, 1))
        index = ops.broadcast_to(start + ops.arange(BLOCK, dtype="int32")[None], (batch, BLOCK))
        kept = _scatter_rows(kept, target, ops.where(written[..., None], candidates, 0.0))
        positions = _scatter_rows(positions[..., None], target, index[..., None])[..., 0]
        found = ops.minimum(found + ops.sum(keep, axis=1), count)
        return block + 1, found, kept, positions

    def unfinished(block, found, kept, positions):
        return ops.logical_and(block < blocks, ops.any(found < count))

    _, found, _, positions = ops.while_loop(
        unfinished,
        keep_in_block,
        (
            ops.convert_to_tensor(0, dtype="int32"),
            ops.zeros((batch,), dtype="int32"),
            ops.zeros((batch, count + 1, 5)),
            ops.zeros((batch, count + 1), dtype="int32"),
        ),
    )
    valid = ops.arange(count, dtype="int32")[None] < found[:, None]
    positions = ops.minimum(positions[:, :count], total - 1)
    indices = ops.take_along_axis(order, positions, axis=1)
    return ops.where(valid, indices, 0), valid


def _greedy(conflicts, alive):
    """The fixed point of "alive, and in no conflict with a better box that is kept", as int32."""

    def keep_again(keep, changed):
        conflicting = ops.matmul(conflicts, keep[..., None])[..., 0] > 0.5
        again = ops.cast(ops.logical_and(alive, ops.logical_not(conflicting)), "float32")
        return again, ops.any(ops.not_equal(again, keep))

    start = (ops.cast(alive, "float32"), ops.convert_to_tensor(True))
    keep, _ = ops.while_loop(lambda keep, changed: changed, keep_again, start)
    return ops.cast(keep, "int32")


def _suppresses(rows, others, threshold):
    """Whether the IoU of two boxes of one class exceeds the threshold, bool [B, n, m]."""
    # A product in place of the quotient: boxes without area need no special case.
    intersection, union = intersection_and_union(rows, others)
    same_class = ops.equal(rows[..., :, None, 4], others[..., None, :, 4])
    return ops.logical_and(intersection > threshold * union, same_class)


def _scatter_rows(table, rows, values):
    width = table.shape[-1]
    flat = ops.scatter_update(
        ops.reshape(table, (-1, width)), rows, ops.reshape(values, (-1, width))
    )
    return ops.reshape(flat, ops.shape(table))


def _ordered_corners(boxes):
    y1, x1, y2, x2 = (boxes[..., i] for i in range(4))
    return ops.stack(
        [ops.minimum(y1, y2), ops.minimum(x1, x2), ops.maximum(y1, y2), ops.maximum(x1, x2)],
        axis=-1,
    )
