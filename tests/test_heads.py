"""The heads on ROIs: which of them are drawn, and that the others make no difference."""

import numpy as np
import pytest
from helpers import tiny_config, to_numpy

from mrcnn import backend
from mrcnn.heads import AllROIs, RealROIs
from mrcnn.model import MaskRCNN

ROIS = np.random.default_rng(0).random((2, 5, 4)).astype(np.float32)


@pytest.mark.skipif(not backend.has_dynamic_shapes("auto"), reason="sizes are fixed with JAX")
@pytest.mark.backend
@pytest.mark.parametrize(
    ("class_ids", "kept"),
    [
        ([[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]], 1),
        ([[1, 0, 0, 0, 0], [1, 2, 1, 0, 0]], 4),
        ([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], 5),
    ],
)
def test_real_rois_and_one_more(class_ids, kept):
    real = to_numpy(RealROIs()([ROIS, np.array(class_ids, np.float32)]))
    np.testing.assert_array_equal(real, ROIS[:, :kept])
    restored = to_numpy(AllROIs(5)(real))
    np.testing.assert_array_equal(restored[:, :kept], real)
    np.testing.assert_array_equal(restored[:, kept:], np.repeat(real[:, -1:], 5 - kept, axis=1))


@pytest.mark.skipif(not backend.has_dynamic_shapes("auto"), reason="sizes are fixed with JAX")
@pytest.mark.backend
def test_masks_are_the_same_as_when_all_are_drawn(tmp_path, monkeypatch):
    image = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    config = tiny_config(DETECTION_MAX_INSTANCES=28)
    fast = MaskRCNN("inference", config, tmp_path)
    monkeypatch.setattr(backend, "has_dynamic_shapes", lambda jit_compile: False)
    slow = MaskRCNN("inference", config, tmp_path)
    slow.keras_model.set_weights(fast.keras_model.get_weights())
    molded, metas, _ = fast.mold_inputs([image])
    found, expected = (model._run(molded, metas) for model in (fast, slow))
    assert 0 < (found[0][0, :, 4] > 0).sum() < 27
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
