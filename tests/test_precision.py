"""Mixed precision: what is computed in 16 bits, and what is not."""

import keras
import numpy as np
import pytest
from backends import eagerly
from helpers import tiny_config
from shapes import ShapesDataset

from mrcnn.data import DataGenerator
from mrcnn.errors import InputError
from mrcnn.model import MaskRCNN
from mrcnn.precision import dtype_policy

POLICIES = ("mixed_bfloat16", "mixed_float16")


def test_the_policy_of_before_comes_back():
    with pytest.raises(ZeroDivisionError), dtype_policy("mixed_bfloat16"):
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
        raise ZeroDivisionError
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.backend
@pytest.mark.parametrize("policy", POLICIES)
def test_features_are_short_and_results_are_not(tmp_path, policy):
    model = MaskRCNN("inference", tiny_config(DTYPE_POLICY=policy), tmp_path)
    network = model.keras_model
    assert network.get_layer("mrcnn_mask_conv1").compute_dtype == policy.removeprefix("mixed_")
    assert {weight.dtype for weight in network.weights} == {"float32"}
    assert {output.dtype for output in network.outputs} == {"float32"}
    exact = MaskRCNN("inference", tiny_config(), tmp_path)
    exact.keras_model.set_weights(network.get_weights())
    image = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    molded, metas, _ = model.mold_inputs([image])
    with eagerly():
        found, expected = (each._run(molded, metas) for each in (model, exact))
    objectness = np.abs(found[5] - expected[5])
    assert 0 < objectness.mean() < 0.02


def test_float16_on_several_devices_is_refused(tmp_path):
    model = MaskRCNN("training", tiny_config(DTYPE_POLICY="mixed_float16"), tmp_path)
    model.config.GPU_COUNT = 2
    with pytest.raises(InputError, match="mixed_bfloat16"):
        model.compile(1e-3, 0.9)


@pytest.mark.backend
@pytest.mark.parametrize("policy", POLICIES)
def test_learns(tmp_path, policy):
    keras.utils.set_random_seed(0)  # from some weights the first dozen steps go up first
    config = tiny_config(DTYPE_POLICY=policy)
    model = MaskRCNN("training", config, tmp_path)
    model.compile(1e-3, 0.9)
    inputs, _ = DataGenerator(ShapesDataset(2, 64), config, seed=0)[0]
    batch = dict(zip([tensor.name for tensor in model.keras_model.inputs], inputs))
    # The first steps in float16 find the factor by which the loss has to be scaled.
    losses = [model.keras_model.train_on_batch(batch, return_dict=True) for _ in range(12)]
    assert all(np.isfinite(list(each.values())).all() for each in losses)
    assert losses[-1]["loss"] < losses[0]["loss"]
