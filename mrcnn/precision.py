"""Precision of the computation: mixed for the features, float32 for boxes, scores and losses."""

import contextlib

import keras


class Float32Layer(keras.layers.Layer):
    """A layer that computes in float32 whatever the policy.

    The 8 significant bits of bfloat16 are too few for coordinates, and sums overflow float16.
    """

    def __init__(self, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})


@contextlib.contextmanager
def dtype_policy(name):
    """Have layers made in a `with` block follow a policy.

    Parameters
    ----------
    name : str
        "float32", "mixed_bfloat16" or "mixed_float16"; weights are float32 with each.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
