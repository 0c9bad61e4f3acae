"""What tests ask of the backend that runs: without compilation, with it, gradients."""

import contextlib
import warnings

import keras
from helpers import to_numpy

BACKEND = keras.backend.backend()


@contextlib.contextmanager
def eagerly():
    """Keep TensorFlow from compiling, which takes longer than the few steps of a test."""
    if BACKEND != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Even though the .tf.config.experimental_run")
            yield
    finally:
        tf.config.run_functions_eagerly(False)


def compiled(function, **options):
    """A function of tensors, compiled by JAX, which otherwise compiles each loop in it anew.

    `options` are those of `jax.jit`.
    """
    if BACKEND != "jax":
        return function
    import jax

    return jax.jit(function, **options)


def outputs_of(model, inputs, training=False):
    """The outputs of a model as a list of ndarrays."""
    if BACKEND != "jax":
        return to_numpy(list(model(inputs, training=training)))
    import jax

    @jax.jit
    def forward(trainable, others, inputs):
        return model.stateless_call(trainable, others, inputs, training=training)[0]

    values = ([v.value for v in group] for group in _variables(model))
    return to_numpy(list(forward(*values, inputs)))


def _variables(model):
    return model.trainable_variables, model.non_trainable_variables


def gradients(loss, variables, inputs):
    """The gradients of what `loss(inputs)` returns by Keras variables, as ndarrays.

    They are 0 where the loss does not depend on a variable.
    """
    variables = list(variables)
    values = [variable.value for variable in variables]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            total = loss(inputs)
        zero = tf.UnconnectedGradients.ZERO
        return to_numpy(tape.gradient(total, values, unconnected_gradients=zero))
    if BACKEND == "jax":
        import jax

        def of_values(values, inputs):
            with keras.StatelessScope(state_mapping=list(zip(variables, values))):
                return loss(inputs)

        return to_numpy(jax.jit(jax.grad(of_values))(values, inputs))
    import torch

    found = torch.autograd.grad(loss(inputs), values, allow_unused=True)
    found = [torch.zeros_like(v) if g is None else g for g, v in zip(found, values)]
    return to_numpy(found)
