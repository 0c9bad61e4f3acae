"""What Keras leaves to the backend; no other module may ask which one runs."""

import contextlib

import keras
import numpy as np

from mrcnn.errors import InputError


def compiled_inference(model):
    """Compile a model's forward pass, once for each size of its inputs.

    `keras.Model.predict` lets TensorFlow relax sizes that it has seen change to unknown ones,
    which the layers after the proposals cannot use.

    Parameters
    ----------
    model : keras.Model

    Returns
    -------
    callable
        (list of arrays) -> list of ndarrays, in the order of the model's inputs and outputs.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        forward = tf.function(lambda inputs: model(inputs, training=False))
        return lambda arrays: [output.numpy() for output in _flat(forward(_tensors(arrays)))]
    if backend == "jax":
        import jax

        @jax.jit
        def forward(trainable, non_trainable, inputs):
            return model.stateless_call(trainable, non_trainable, inputs, training=False)[0]

        def run(arrays):
            trainable = [variable.value for variable in model.trainable_variables]
            non_trainable = [variable.value for variable in model.non_trainable_variables]
            outputs = forward(trainable, non_trainable, _tensors(arrays))
            return [np.asarray(output) for output in _flat(outputs)]

        return run
    import torch

    def run(arrays):
        with torch.no_grad():
            outputs = model(_tensors(arrays), training=False)
            return [output.cpu().numpy() for output in _flat(outputs)]

    return run


def _tensors(arrays):
    return [keras.ops.convert_to_tensor(array) for array in arrays]


def _flat(outputs):
    """A model's outputs as a list; Keras returns a single one as it is."""
    return outputs if isinstance(outputs, (list, tuple)) else [outputs]


def replica_scope(count):
    """Prepare to train on several devices, each of which takes its share of a batch.

    Parameters
    ----------
    count : int
        Number of devices; 1 needs no preparation.

    Returns
    -------
    callable
        () -> context manager, in which the model is built, compiled and fitted.

    Raises
    ------
    InputError
        If the backend cannot do it or has fewer devices.
    """
    if count == 1:
        return contextlib.nullcontext
    backend = keras.backend.backend()
    if backend == "torch":
        raise InputError(
            f"GPU_COUNT = {count}: training on several devices is not available on the torch "
            "backend; set GPU_COUNT = 1, or KERAS_BACKEND to tensorflow or jax"
        )
    if backend == "tensorflow":
        import tensorflow as tf

        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        devices = [device.name for device in tf.config.list_logical_devices(kind)]
        _require_devices(count, devices)
        return tf.distribute.MirroredStrategy(devices[:count]).scope
    devices = keras.distribution.list_devices()
    _require_devices(count, devices)
    return lambda: _jax_data_parallel(devices[:count])


@contextlib.contextmanager
def _jax_data_parallel(devices):
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def _require_devices(count, devices):
    if len(devices) < count:
        raise InputError(
            f"GPU_COUNT = {count}, but this machine offers {len(devices)} device(s): lower it"
        )


def scale_loss(loss):
    """Divide a replica's loss so that the gradients summed over all replicas are their mean."""
    if keras.backend.backend() != "tensorflow":
        return loss
    import tensorflow as tf

    return loss / tf.distribute.get_strategy().num_replicas_in_sync


def clip_across_replicas(optimizer):
    """Have an optimiser clip the norm of the whole batch's gradient, not that of each replica's.

    TensorFlow adds up what the replicas have clipped. So each gets the mean gradient to clip, to
    the norm divided by their number, which makes the sum the clipped gradient.
    """
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if replicas == 1 or not optimizer.global_clipnorm:
        return
    apply = optimizer.apply

    def apply_mean(gradients, trainable_variables=None):
        context = tf.distribute.get_replica_context()
        mean = context.all_reduce(tf.distribute.ReduceOp.MEAN, gradients)
        return apply(mean, trainable_variables)

    optimizer.global_clipnorm /= replicas
    optimizer.apply = apply_mean


def make_deterministic(seed):
    """Seed every random stream and, on TensorFlow, choose kernels that repeat bit for bit."""
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
