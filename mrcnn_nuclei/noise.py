"""Predictions imitated: a ground truth with the mistakes that networks make."""

import numpy as np

from mrcnn.instances import Instances
from mrcnn.overlaps import meeting_boxes


def noisy_copy(truth, rng, *, dropped=0.2, spurious=0.2, jitter=1.0, merged=0.03):
    """Imitate the prediction of a network.

    Parameters
    ----------
    truth : Instances
    rng : numpy.random.Generator
    dropped : float
        Fraction of the nuclei that are missing.
    spurious : float
        Number of false nuclei, as a fraction of the true ones: their shapes at other places.
    jitter : float
        Standard deviation, in pixels, by which each nucleus is moved in each direction.
    merged : float
        Number of pairs of neighbours that are one instance, as a fraction of the nuclei.

    Returns
    -------
    Instances
        With scores between 0.5 and 1 that tell nothing. They may overlap.
    """
    kept = truth[rng.random(len(truth)) >= dropped]
    kept = _move(kept, np.round(rng.normal(0, jitter, (len(kept), 2))))
    false = truth[rng.integers(len(truth), size=round(spurious * len(truth)))]
    room = np.array(truth.shape) - (false.boxes[:, 2:] - false.boxes[:, :2])
    false = _move(false, rng.integers(0, room + 1) - false.boxes[:, :2])
    copy = Instances.concatenate([_merge(kept, round(merged * len(kept)), rng), false])
    scores = rng.uniform(0.5, 1, len(copy))
    return Instances(copy.shape, copy.boxes, scores, copy.class_ids, copy.masks)


def _move(instances, offsets):
    """Each instance moved by its (dy, dx); those that leave the image are cut off."""
    together = [
        instances[(offsets == offset).all(axis=1)].translate(*offset, instances.shape)
        for offset in np.unique(offsets.astype(int), axis=0)
    ]
    return Instances.concatenate([Instances.empty(instances.shape), *together])


def _merge(instances, count, rng):
    """Make one of each of so many pairs of neighbours, those that are two pixels apart or less."""
    rows, cols = meeting_boxes(instances.boxes + np.array([-2, -2, 2, 2]), instances.boxes)
    pairs = np.stack([rows, cols], axis=1)[rows < cols]
    used, merged = set(), []
    for pair in rng.permutation(pairs).tolist():
        if len(merged) < count and used.isdisjoint(pair):
            used.update(pair)
            merged.append(_union(instances[pair]))
    rest = instances[[k for k in range(len(instances)) if k not in used]]
    return Instances.concatenate([rest, *merged])


def _union(instances):
    y1, x1 = instances.boxes[:, :2].min(axis=0)
    y2, x2 = instances.boxes[:, 2:].max(axis=0)
    moved = instances.translate(-y1, -x1, (y2 - y1, x2 - x1))
    mask = moved.to_label_map() > 0
    return Instances(instances.shape, [(y1, x1, y2, x2)], [1], instances.class_ids[:1], [mask])
