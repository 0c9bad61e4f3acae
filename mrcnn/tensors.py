"""Matterport's helpers for zero-padded tensors; the network itself uses masks and counts."""

from keras import ops


def trim_zeros_graph(boxes, name="trim_zeros"):
    """Drop rows of zeros; the number that remains depends on the data, so it runs eagerly.

    Parameters
    ----------
    boxes : tensor [N, 4]
    name : str
        Not used; Matterport's signature has it.

    Returns
    -------
    boxes : tensor [M, 4]
    non_zeros : bool tensor [N]
    """
    non_zeros = ops.sum(ops.abs(boxes), axis=1) > 0
    kept = ops.nonzero(non_zeros)[0]
    return ops.take(boxes, kept, axis=0), non_zeros


def batch_pack_graph(x, counts, num_rows):
    """Join the first rows of each batch item.

    Parameters
    ----------
    x : tensor [B, N, ...]
    counts : sequence of int [B]
        How many rows of each item to take.
    num_rows : int
        B.

    Returns
    -------
    tensor [sum(counts), ...]
    """
    return ops.concatenate([x[i, : int(counts[i])] for i in range(num_rows)], axis=0)
