"""Non-maximum suppression, against TensorFlow's own and a greedy loop that one can read."""

from unittest import mock

import numpy as np
import pytest
from backends import compiled
from helpers import golden_arrays, to_numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras import ops

from mrcnn import nms
from mrcnn.nms import BLOCK, non_max_suppression

pytestmark = pytest.mark.backend


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def greedy(boxes, scores, count, threshold, classes=None, eligible=None):
    """Indices of the boxes that a plain loop keeps, best first."""
    y1, x1 = np.minimum(boxes[:, :2], boxes[:, 2:]).astype(np.float64).T
    y2, x2 = np.maximum(boxes[:, :2], boxes[:, 2:]).astype(np.float64).T
    areas = (y2 - y1) * (x2 - x1)
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if len(kept) == count or (eligible is not None and not eligible[i]):
            continue
        rivals = [j for j in kept if classes is None or classes[j] == classes[i]]
        height = np.minimum(y2[rivals], y2[i]) - np.maximum(y1[rivals], y1[i])
        width = np.minimum(x2[rivals], x2[i]) - np.maximum(x1[rivals], x1[i])
        shared = np.maximum(height, 0) * np.maximum(width, 0)
        union = areas[rivals] + areas[i] - shared
        if not (shared > threshold * union).any():
            kept.append(int(i))
    return kept


suppress = compiled(non_max_suppression, static_argnames="count")


def run(boxes, scores, count, threshold, **options):
    """What the tensor version keeps of each image of a batch."""
    options = {key: ops.convert_to_tensor(value) for key, value in options.items()}
    boxes, scores = ops.convert_to_tensor(boxes), ops.convert_to_tensor(scores)
    indices, valid = to_numpy(suppress(boxes, scores, count, threshold, **options))
    assert indices.shape == valid.shape == (len(boxes), count)
    assert indices.dtype == np.int32
    assert (indices[~valid] == 0).all()
    assert (np.diff(valid.astype(int)) <= 0).all(), "a gap among the kept"
    return [row[found].tolist() for row, found in zip(indices, valid)]


def random_boxes(rng, count, size=0.1):
    corner = rng.uniform(0, 1, (count, 2))
    return np.hstack([corner, corner + rng.uniform(0.2, 1, (count, 2)) * size]).astype(np.float32)


@pytest.mark.parametrize(("threshold", "key"), [(0.5, "nms_05"), (0.49, "nms_049")])
def test_golden(threshold, key):
    # A tie, an IoU of exactly 0.5, a flipped box, two equal boxes without area.
    golden = golden_arrays("layers")
    kept = run(golden["nms_boxes"][None], golden["nms_scores"][None], 10, threshold)
    assert kept == [golden[key].tolist()]


def grid(shape, high):
    """Few distinct values, so that ties and IoUs of exactly the threshold abound."""
    return arrays(np.int32, shape, elements=st.integers(0, high))


@settings(deadline=None, max_examples=15)
@given(
    corners=grid((4, 14, 4), 6),
    scores=grid((4, 14), 5),
    classes=grid((4, 14), 1),
    eligible=arrays(bool, (4, 14)),
    count=st.sampled_from([3, 14]),
    threshold=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
)
def test_equals_the_greedy_loop(corners, scores, classes, eligible, count, threshold):
    boxes, scores = corners.astype(np.float32) / 8, scores.astype(np.float32) / 8
    for options in ({}, {"classes": classes, "eligible": eligible}):
        with mock.patch.object(nms, "BLOCK", 4):  # so that a few boxes make several blocks
            kept = run(boxes, scores, count, threshold, **options)
        for i in range(len(boxes)):
            own = {key: value[i] for key, value in options.items()}
            assert kept[i] == greedy(boxes[i], scores[i], count, threshold, **own)


def test_several_blocks(rng):
    boxes, scores = random_boxes(rng, 1300), rng.uniform(size=1300).astype(np.float32)
    assert len(boxes) > 2 * BLOCK
    expected = greedy(boxes, scores, 1300, 0.3)
    assert 100 < len(expected) < 1300
    # The count is reached in the first block, in the last, and not at all.
    for count in (40, len(expected) - 1, 1300):
        assert run(boxes[None], scores[None], count, 0.3) == [expected[:count]]


def test_a_chain_across_blocks_is_settled_from_the_top():
    # Each box overlaps its neighbours only: the best stays, the next goes, the third stays, ...
    start = np.arange(BLOCK + 101, dtype=np.float32)
    boxes = np.stack([start, 0 * start, start + 2, 0 * start + 1], axis=1)
    kept = run(boxes[None], -start[None], len(boxes), 0.3)
    assert kept == [list(range(0, len(boxes), 2))]


def test_images_of_a_batch_are_independent(rng):
    boxes = np.stack([random_boxes(rng, 600), random_boxes(rng, 600, size=0.01)])
    scores = rng.uniform(size=(2, 600)).astype(np.float32)
    kept = run(boxes, scores, 590, 0.2)
    assert kept == [greedy(*image, 590, 0.2) for image in zip(boxes, scores)]
    assert len(kept[0]) < len(kept[1])


def test_nobody_eligible(rng):
    scores, nobody = np.ones((1, 20), np.float32), np.zeros((1, 20), bool)
    assert run(random_boxes(rng, 20)[None], scores, 5, 0.5, eligible=nobody) == [[]]
