"""The mask head on ROIs: which of them are drawn, and that the others make no difference."""

import keras
import numpy as np
import pytest
from helpers import tiny_config, to_numpy
from shapes import ShapesDataset

from mrcnn import backend
from mrcnn.data import DataGenerator
from mrcnn.heads import MaskConv2D, PositiveROIs
from mrcnn.losses import LOSS_NAMES
from mrcnn.model import MaskRCNN

ROIS = np.random.default_rng(0).random((2, 5, 4)).astype(np.float32)

pytestmark = [
    pytest.mark.backend,
    pytest.mark.skipif(not backend.has_dynamic_shapes("auto"), reason="sizes are fixed with JAX"),
]


@pytest.mark.parametrize(
    ("class_ids", "kept"),
    [
        ([[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]], 1),
        ([[1, 0, 0, 0, 0], [1, 2, 1, 0, 0]], 4),
        ([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0]], 5),
    ],
)
def test_positive_rois_and_one_more(class_ids, kept):
    positive = to_numpy(PositiveROIs()([ROIS, np.array(class_ids, np.float32)]))
    np.testing.assert_array_equal(positive, ROIS[:, :kept])
    features = positive.reshape(2, kept, 2, 2, 1)
    layer = MaskConv2D(1, 1, count=5, kernel_initializer="ones")
    restored = to_numpy(layer(features))
    np.testing.assert_allclose(restored[:, :kept], features)
    np.testing.assert_allclose(restored[:, kept:], np.repeat(features[:, -1:], 5 - kept, axis=1))
    assert layer.compute_output_shape((None, None, 2, 2, 1)) == (None, 5, 2, 2, 1)


def test_a_copy_of_the_layer_has_its_count():
    assert MaskConv2D.from_config(MaskConv2D(1, 1, count=5).get_config()).count == 5


@pytest.fixture
def both(tmp_path, monkeypatch):
    """A network as it is, and one of the same weights that draws all masks."""

    def build(mode, config):
        keras.utils.set_random_seed(0)
        fast = MaskRCNN(mode, config, tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(backend, "has_dynamic_shapes", lambda jit_compile: False)
            slow = MaskRCNN(mode, config, tmp_path)
        slow.keras_model.set_weights(fast.keras_model.get_weights())
        names = [layer.name for layer in slow.keras_model.layers]
        assert "positive_rois" not in names
        return fast, slow

    return build


@pytest.mark.parametrize(
    ("limit", "confidence", "all_found"), [(40, 0, False), (40, 1.1, False), (2, 0, True)]
)
def test_masks_are_the_same_as_when_all_are_drawn(both, limit, confidence, all_found):
    config = tiny_config(  # 30 proposals
        IMAGES_PER_GPU=2, DETECTION_MAX_INSTANCES=limit, DETECTION_MIN_CONFIDENCE=confidence
    )
    fast, slow = both("inference", config)
    images = list(np.random.default_rng(1).integers(0, 255, (2, 64, 64, 3), np.uint8))
    molded, metas, _ = fast.mold_inputs(images)
    found, expected = (model._run(molded, metas) for model in (fast, slow))
    counts = (found[0][..., 4] > 0).sum(axis=1)
    assert (counts == limit).all() == all_found
    assert counts.any() == (confidence < 1)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_losses_are_the_same_as_when_all_are_drawn(both):
    config = tiny_config(IMAGES_PER_GPU=2)
    inputs, _ = DataGenerator(ShapesDataset(2), config, seed=0)[0]
    found = []
    for model in both("training", config):
        keras.utils.set_random_seed(0)
        model.keras_model.get_layer("proposal_targets").seed_generator.state.assign([0, 0])
        outputs = model.keras_model(inputs, training=True)
        found.append([float(to_numpy(value)[0, 0]) for value in outputs[-len(LOSS_NAMES) :]])
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_other_kinds_of_normalisation_do_not_mix_rois(tmp_path):
    def trims(**settings):
        model = MaskRCNN("training", tiny_config(**settings), tmp_path)
        return "positive_rois" in [layer.name for layer in model.keras_model.layers]

    assert trims()
    assert not trims(TRAIN_BN=None)
    assert trims(TRAIN_BN=None, NORMALIZATION="group")
    assert not trims(JIT_COMPILE=True)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX always compiles")
def test_what_is_compiled_for_a_gpu_has_fixed_sizes(monkeypatch):
    assert backend.has_dynamic_shapes("auto")
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda kind: [kind])
    assert not backend.has_dynamic_shapes("auto")
    assert backend.has_dynamic_shapes(False)
