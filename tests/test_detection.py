"""From proposals to detections, against the port of Matterport's."""

import numpy as np
import pytest
from helpers import assert_close, golden_arrays, tiny_config, to_numpy
from keras import ops

from mrcnn.detection import DetectionLayer, refine_detections_graph
from mrcnn.image_meta import compose_image_meta

pytestmark = pytest.mark.backend

GOLDEN = golden_arrays("layers")
SETTINGS = {
    "dt_out": {"DETECTION_MAX_INSTANCES": 12, "DETECTION_MIN_CONFIDENCE": 0.4},
    "dt_out_minconf0_max40": {"DETECTION_MAX_INSTANCES": 40, "DETECTION_MIN_CONFIDENCE": 0},
}


def detect(rois, probabilities, deltas=None, window=(0, 0, 64, 64), **settings):
    """The detections in one image of 64 x 64, padding dropped."""
    rois, probabilities = np.array(rois, np.float32), np.array(probabilities, np.float32)
    if deltas is None:
        deltas = np.zeros((*probabilities.shape, 4), np.float32)
    shape = (64, 64, 3)
    meta = compose_image_meta(0, shape, shape, window, 1.0, [1, 1, 1]).astype(np.float32)
    layer = DetectionLayer(tiny_config(**settings))
    detections = to_numpy(layer([rois[None], probabilities[None], deltas[None], meta[None]]))[0]
    found = detections[:, 4] > 0
    assert (detections[~found] == 0).all()
    return detections[found]


@pytest.mark.parametrize("key", SETTINGS)
def test_golden_detections(key):
    # The window lies within the image; the last rois of the second image are padding.
    inputs = [GOLDEN[name] for name in ("dt_rois", "dt_probs", "dt_deltas", "ra_meta")]
    detections = to_numpy(DetectionLayer(tiny_config(**SETTINGS[key]))(inputs))
    assert_close(detections[..., :4], GOLDEN[key][..., :4], 1e-6)
    np.testing.assert_array_equal(detections[..., 4:], GOLDEN[key][..., 4:])


@pytest.mark.parametrize("image", [0, 1])
def test_one_image_alone(image):
    config = tiny_config(**SETTINGS["dt_out"])
    rois, probabilities, deltas = (
        ops.convert_to_tensor(GOLDEN[name][image]) for name in ("dt_rois", "dt_probs", "dt_deltas")
    )
    window = (np.array([28, 0, 228, 256]) - [0, 0, 1, 1]) / 255  # as in `ra_meta`
    window = ops.convert_to_tensor(window.astype(np.float32))
    detections = refine_detections_graph(rois, probabilities, deltas, window, config)
    assert_close(detections, GOLDEN["dt_out"][image], 1e-6)


def test_a_score_at_the_threshold_is_enough():
    rois = [[0, 0, 0.2, 0.2], [0.5, 0.5, 0.7, 0.7], [0, 0.5, 0.2, 0.7]]
    probabilities = [[0.5, 0.5, 0], [0.25, 0.75, 0], [0, 0.25, 0.75]]
    found = detect(rois, probabilities, DETECTION_MIN_CONFIDENCE=0.75)
    np.testing.assert_array_equal(found[:, 4:], [[1, 0.75], [2, 0.75]])


def test_what_is_likelier_background_counts_if_wanted():
    rois = [[0, 0, 0.2, 0.2], [0.5, 0.5, 0.7, 0.7], [0, 0.5, 0.2, 0.7]]
    probabilities = [[0.6, 0.3, 0.1], [0.25, 0.0, 0.75], [0.8, 0.1, 0.1]]
    confident = {"DETECTION_MIN_CONFIDENCE": 0.25}
    found = detect(rois, probabilities, **confident)
    np.testing.assert_array_equal(found[:, 4:], [[2, 0.75]])
    found = detect(rois, probabilities, DETECTION_ABOVE_BACKGROUND=False, **confident)
    np.testing.assert_allclose(found[:, 4:], [[2, 0.75], [1, 0.3]], rtol=1e-6)
    np.testing.assert_allclose(found[1, :4], rois[0], atol=1e-6)


def test_classes_do_not_suppress_each_other():
    roi = [0.1, 0.1, 0.6, 0.6]
    probabilities = [[0.1, 0.8, 0.1], [0.1, 0.2, 0.7], [0.3, 0.6, 0.1], [0.9, 0.1, 0]]
    found = detect([roi] * 4, probabilities)
    np.testing.assert_allclose(found[:, 4:], [[1, 0.8], [2, 0.7]], rtol=1e-6)


def test_boxes_are_moved_by_their_class_and_clipped_to_the_window():
    deltas = np.zeros((1, 3, 4), np.float32)
    deltas[0, 2] = [5, 0, 0, np.log(2) / 0.2]  # down by half a height, twice as wide
    # The last pixel of the window is 31, whose centre is at 31 / 63.
    found = detect([[0.2, 0.4, 0.4, 0.6]], [[0, 0.1, 0.9]], deltas, window=(0, 0, 64, 32))
    np.testing.assert_allclose(found[0, :4], [0.3, 0.3, 0.5, 31 / 63], atol=1e-6)


def test_nothing_but_background():
    assert len(detect([[0, 0, 1, 1]] * 3, [[1, 0, 0]] * 3)) == 0


def test_the_best_remain_where_there_are_too_many():
    rois = [[i / 40, 0, i / 40 + 0.02, 0.02] for i in range(15)]
    scores = np.random.default_rng(3).permutation(15) / 30 + 0.5
    probabilities = np.stack([1 - scores, scores, 0 * scores], axis=1)
    found = detect(rois, probabilities)
    np.testing.assert_allclose(found[:, 5], np.sort(scores)[::-1][:10], rtol=1e-6)
