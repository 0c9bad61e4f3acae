"""Matching and average precision against Matterport's numbers and by hand."""

import numpy as np
import pytest
from helpers import golden_arrays

from mrcnn import utils


@pytest.fixture(scope="module")
def numbers():
    return golden_arrays("utils_matching")


def unpack(packed, shape):
    return np.unpackbits(packed)[: np.prod(shape)].reshape(shape).astype(bool)


@pytest.fixture(scope="module")
def truth(numbers):
    masks = unpack(numbers["gt_masks"], numbers["gt_shape"])
    return numbers["gt_boxes"], numbers["gt_class_ids"], masks


@pytest.fixture(scope="module")
def prediction(numbers):
    masks = unpack(numbers["pred_masks"], numbers["pred_shape"])
    return (*(numbers["pred_" + key] for key in ("boxes", "class_ids", "scores")), masks)


def test_every_golden_number(numbers, truth, prediction):
    padded_masks = np.concatenate([truth[2], np.zeros((90, 100, 2), bool)], axis=-1)
    padded = (numbers["gt_boxes_padded"], numbers["gt_class_ids_padded"], padded_masks)
    m05 = utils.compute_matches(*padded, *prediction, 0.5, 0.0)
    m03 = utils.compute_matches(*padded, *prediction, 0.3, 0.1)
    ap50 = utils.compute_ap(*truth, *prediction, 0.5)
    ap75 = utils.compute_ap(*truth, *prediction, 0.75)
    results = {
        **{f"m05_{k}": v for k, v in zip(("gt_match", "pred_match", "overlaps"), m05)},
        **{f"m03_{k}": v for k, v in zip(("gt_match", "pred_match", "overlaps"), m03)},
        "ap50": ap50[0],
        "ap50_precisions": ap50[1],
        "ap50_recalls": ap50[2],
        "ap50_overlaps": ap50[3],
        "ap75": ap75[0],
        "ap75_precisions": ap75[1],
        "ap75_recalls": ap75[2],
        "ap_range": utils.compute_ap_range(*truth, *prediction, verbose=0),
        "ap_range_03_06": utils.compute_ap_range(
            *truth, *prediction, iou_thresholds=[0.3, 0.6], verbose=0
        ),
    }
    inputs = {key for key in numbers if key.startswith(("gt_", "pred_"))}
    assert set(results) == set(numbers) - inputs
    for key, result in results.items():
        np.testing.assert_allclose(result, numbers[key], rtol=1e-6, atol=1e-7, err_msg=key)


def scene(spans):
    """Masks of one row of pixels, given as (start, end): boxes and masks."""
    masks = np.zeros((1, 40, len(spans)), bool)
    for i, (start, end) in enumerate(spans):
        masks[0, start:end, i] = True
    return utils.extract_bboxes(masks), masks


def ones(count):
    return np.ones(count, np.int32)


def test_matching_by_hand():
    truth_boxes, truth_masks = scene([(0, 10), (20, 30)])
    boxes, masks = scene([(0, 8), (1, 10), (20, 30)])
    gt_match, pred_match, overlaps = utils.compute_matches(
        truth_boxes,
        ones(2),
        truth_masks,
        boxes,
        np.array([1, 1, 2]),
        np.array([0.5, 0.9, 0.7]),
        masks,
    )
    # Best first: (1, 10), then (20, 30) of the wrong class, then (0, 8) which comes too late.
    assert pred_match.tolist() == [0, -1, -1]
    assert gt_match.tolist() == [0, -1]
    np.testing.assert_allclose(overlaps, [[0.9, 0], [0, 1], [0.8, 0]], rtol=1e-6)


def test_average_precision_by_hand():
    truth_boxes, truth_masks = scene([(0, 10), (20, 30)])
    boxes, masks = scene([(0, 10), (12, 18), (20, 30)])
    truth = (truth_boxes, ones(2), truth_masks)
    prediction = (boxes, ones(3), np.array([0.9, 0.8, 0.7]), masks)
    value, precisions, recalls, _ = utils.compute_ap(*truth, *prediction)
    assert value == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)  # hit, miss, hit
    np.testing.assert_allclose(precisions, [1, 1, 2 / 3, 2 / 3, 0])
    np.testing.assert_allclose(recalls, [0, 0.5, 0.5, 1, 1])


def test_nothing_against_nothing_is_perfect_and_against_something_worthless():
    none = (np.zeros((0, 4), np.int32), ones(0), np.zeros((1, 40, 0), bool))
    boxes, masks = scene([(0, 10)])
    some = (boxes, ones(1), masks)
    score = np.array([0.9])
    empty = (none[0], none[1], np.zeros(0), none[2])
    assert utils.compute_ap(*none, *empty)[0] == 1
    assert utils.compute_ap(*some, *empty)[0] == 0
    assert utils.compute_ap(*none, boxes, ones(1), score, masks)[0] == 0
    gt_match, pred_match, overlaps = utils.compute_matches(*some, *empty)
    assert gt_match.tolist() == [-1]
    assert len(pred_match) == 0
    assert overlaps.shape == (0, 1)


def test_the_range_is_printed_on_request(truth, prediction, capsys):
    mean = utils.compute_ap_range(*truth, *prediction, iou_thresholds=[0.5, 0.75])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "AP @0.50:\t 0.562"
    assert lines[-1] == f"AP @0.50-0.75:\t {mean:.3f}"
