"""Training targets of the heads, against the port of Matterport's and by hand."""

import numpy as np
import pytest
from backends import compiled
from helpers import assert_close, golden_arrays, tiny_config, to_numpy, unpack
from keras import ops

from mrcnn.targets import (
    DetectionTargetLayer,
    detection_targets,
    detection_targets_graph,
    positive_limit,
)

pytestmark = pytest.mark.backend

OBJECT = [0.25, 0.25, 0.75, 0.75]
ELSEWHERE = [0.0, 0.0, 0.1, 0.1]


def targets(rois, class_ids, boxes, masks=None, draws=None, **settings):
    """The targets of one image with up to 4 objects: ROIs, class ids, deltas, masks."""
    config = tiny_config(**{"TRAIN_ROIS_PER_IMAGE": 8, "ROI_POSITIVE_RATIO": 0.5, **settings})
    rois = np.array(rois, np.float32).reshape(-1, 4)
    ids, padded = np.zeros(4, np.int32), np.zeros((4, 4), np.float32)
    ids[: len(class_ids)] = class_ids
    padded[: len(boxes)] = np.array(boxes).reshape(-1, 4)
    if masks is None:
        masks = np.ones((28, 28, 4), bool)
    if draws is None:
        draws = np.linspace(0.9, 0.1, max(len(rois), 8))
    inputs = (rois, ids, padded, masks, np.asarray(draws, np.float32))
    inputs = [ops.convert_to_tensor(x[None]) for x in inputs]
    sample = compiled(lambda *truth, draws: detection_targets(*truth, config, draws))
    found = to_numpy(list(sample(*inputs[:4], draws=inputs[4])))
    assert [x.shape[1:] for x in found] == [(8, 4), (8,), (8, 4), (8, 28, 28)]
    assert all(np.isfinite(x).all() for x in found)
    return [x[0] for x in found]


def as_sets(rois, class_ids, deltas, masks):
    """Each image's rows with what belongs to them, in an order of their own."""
    rows = np.concatenate(
        [rois, deltas, class_ids[..., None], masks.reshape(*rois.shape[:2], -1)], 2
    )
    return np.stack([image[np.lexsort(image[:, 3::-1].T)] for image in rows])


def test_golden_targets():
    golden = golden_arrays("layers")
    config = tiny_config(TRAIN_ROIS_PER_IMAGE=40, ROI_POSITIVE_RATIO=0.25)
    layer = DetectionTargetLayer(config)
    inputs = [golden[f"tg_{name}"] for name in ("props", "class_ids", "boxes")]
    found = to_numpy(list(layer([*inputs, unpack(golden, "tg_masks")])))
    expected = [golden[f"tg_out_{name}"] for name in ("rois", "class_ids", "deltas")]
    expected.append(unpack(golden, "tg_out_masks"))
    assert found[1].dtype == np.int32
    # The port shuffles the rows.
    np.testing.assert_array_equal((found[1] > 0).sum(1), (expected[1] > 0).sum(1))
    found, expected = as_sets(*found), as_sets(*expected)
    assert_close(found[..., :8], expected[..., :8], 1e-5)
    np.testing.assert_array_equal(found[..., 8:], expected[..., 8:])


def test_positives_come_first_then_negatives_then_zeros():
    rois = [ELSEWHERE, OBJECT, [0] * 4, [0.25, 0.25, 0.75, 0.7], [0.8, 0.8, 0.9, 0.9]]
    found, class_ids, deltas, masks = targets(rois, [2], [OBJECT])
    assert class_ids.tolist() == [2, 2, 0, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(found[:2], [OBJECT, rois[3]])
    np.testing.assert_allclose(found[2:4], [ELSEWHERE, rois[4]])
    assert (found[4:] == 0).all()
    assert (masks[:2] == 1).all() and (masks[2:] == 0).all()
    # From a width of 0.45 to one of 0.5: half the difference to the right; over 0.1 and 0.2.
    np.testing.assert_allclose(deltas[0], 0, atol=1e-6)
    expected = [0, 0.025 / 0.45 / 0.1, 0, np.log(0.5 / 0.45) / 0.2]
    np.testing.assert_allclose(deltas[1], expected, atol=1e-5)
    assert (deltas[2:] == 0).all()


def test_an_iou_of_half_is_positive():
    found, class_ids, _, _ = targets([[0, 0, 0.5, 1], [0, 0, 0.4375, 1]], [1], [[0, 0, 1, 1]])
    assert class_ids.tolist() == [1] + [0] * 7
    np.testing.assert_allclose(found[1], [0, 0, 0.4375, 1])


def test_the_highest_draws_are_taken():
    # 12 positives and 12 negatives for 4 places each.
    rng = np.random.default_rng(5)
    positives = np.array(OBJECT) + rng.uniform(-0.01, 0.01, (12, 4))
    negatives = np.array(ELSEWHERE) + rng.uniform(0, 0.1, (12, 4))
    draws = rng.permutation(24) / 24
    found, class_ids, _, _ = targets([*positives, *negatives], [1], [OBJECT], draws=draws)
    assert class_ids.tolist() == [1] * 4 + [0] * 4
    for rows, candidates, ranks in (
        (found[:4], positives, draws[:12]),
        (found[4:], negatives, draws[12:]),
    ):
        best = candidates[np.argsort(-ranks)[:4]]
        np.testing.assert_allclose(rows, best, rtol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "positives", "negatives"),
    # At most int(12 * ratio) positives; int(positives / ratio) - positives negatives.
    [(0.33, 1, 2), (0.33, 3, 6), (0.33, 9, 6), (0.25, 2, 6), (0.5, 9, 6), (1.0, 9, 0)],
)
def test_the_share_of_positives(ratio, positives, negatives):
    config = tiny_config(ROI_POSITIVE_RATIO=ratio)  # 12 ROIs an image
    rois = np.array([OBJECT] * positives + [ELSEWHERE] * 12, np.float32)[None]
    layer = DetectionTargetLayer(config)
    masks = np.ones((1, 28, 28, 1), bool)
    ids, boxes = np.array([[1]]), np.array([[OBJECT]])
    found, class_ids, _, _ = to_numpy(list(layer([rois, ids, boxes, masks])))
    taken = min(positives, positive_limit(config))
    assert (class_ids > 0).sum() == taken
    assert (found[0].any(axis=-1)).sum() - taken == negatives


def test_a_crowd_is_neither_object_nor_background():
    crowd = [0, 0, 0.2, 0.2]
    rois = [OBJECT, ELSEWHERE, crowd, [0.8, 0.8, 1, 1]]
    found, class_ids, _, _ = targets(rois, [1, -1], [OBJECT, crowd])
    assert class_ids.tolist() == [1] + [0] * 7
    np.testing.assert_allclose(found[1], rois[3])
    assert (found[2:] == 0).all()


@pytest.mark.parametrize(
    ("rois", "class_ids", "boxes"),
    [
        pytest.param([[0] * 4] * 6, [1], [OBJECT], id="no proposal"),
        pytest.param([ELSEWHERE], [1], [OBJECT], id="no proposal that fits"),
        pytest.param([OBJECT], [1], [[0.3, 0.3, 0.3, 0.6]], id="an object without area"),
    ],
)
def test_without_positives_nothing_is_learnt(rois, class_ids, boxes):
    # The negatives are a share of the positives, so there are none of them either.
    for values in targets(rois, class_ids, boxes):
        assert (values == 0).all()


def test_mini_masks_are_cropped_relative_to_their_object():
    masks = np.zeros((28, 28, 4), bool)
    masks[:14, :, 1] = True  # the upper half of the second object
    upper, lower = [0.25, 0.25, 0.5, 0.75], [0.5, 0.25, 0.75, 0.75]
    boxes = [[0.8, 0.8, 0.9, 0.9], OBJECT]
    _, class_ids, _, found = targets([upper, OBJECT, lower], [1, 2], boxes, masks)
    assert class_ids[:3].tolist() == [2, 2, 2]
    assert found[0, :27].all()
    np.testing.assert_array_equal(found[1], masks[:, :, 1])
    assert not found[2, 1:].any()


def test_an_image_without_objects_is_all_background():
    rois, *others = targets([OBJECT, ELSEWHERE], [], [])
    assert_close(rois[:2], [OBJECT, ELSEWHERE])  # in the order of their draws
    assert not rois[2:].any() and not any(values.any() for values in others)
    rois, *others = targets([OBJECT, ELSEWHERE], [-1], [OBJECT])
    assert_close(rois[:1], [ELSEWHERE])  # what lies on a crowd is neither
    assert not rois[1:].any() and not any(values.any() for values in others)


def test_masks_of_the_whole_image():
    masks = np.zeros((64, 64, 4), bool)
    masks[16:48, 16:32, 0] = True
    roi = np.array([[16, 16, 47, 47]]) / 63
    _, _, _, found = targets(roi, [1], roi, masks, USE_MINI_MASK=False)
    # 28 samples over the pixels 16 to 47; those nearer to pixel 31 than to 32 are inside.
    inside = np.linspace(16, 47, 28) < 31.5
    np.testing.assert_array_equal(found[0], np.tile(inside, (28, 1)))


def test_one_image_alone():
    config = tiny_config()
    rois = np.array([OBJECT, ELSEWHERE], np.float32)
    inputs = (rois, np.array([1]), np.array([OBJECT]), np.ones((28, 28, 1), bool))
    found = detection_targets_graph(*map(ops.convert_to_tensor, inputs), config)
    rois, class_ids, deltas, masks = to_numpy(list(found))
    assert rois.shape == deltas.shape == (12, 4)
    assert class_ids.tolist() == [1] + [0] * 11
    np.testing.assert_allclose(rois[:2], [OBJECT, ELSEWHERE])
    assert masks.shape == (12, 28, 28)
