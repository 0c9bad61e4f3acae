"""What Keras leaves to the backend; no other module may ask which one runs."""

import contextlib

import keras
import numpy as np

from mrcnn.errors import InputError


def compiled_inference(model, jit_compile="auto"):
    """Compile a model's forward pass, once for each size of its inputs.

    `keras.Model.predict` lets TensorFlow relax sizes that it has seen change to unknown ones,
    which the layers after the proposals cannot use.

    Parameters
    ----------
    model : keras.Model
    jit_compile : bool or "auto"
        Whether by XLA. "auto": JAX does, TensorFlow makes a graph. PyTorch runs as it is.

    Returns
    -------
    callable
        (list of arrays) -> list of ndarrays, in the order of the model's inputs and outputs.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        forward = tf.function(
            lambda inputs: model(inputs, training=False), jit_compile=jit_compile is True
        )
        return lambda arrays: [output.numpy() for output in _flat(forward(_tensors(arrays)))]
    if backend == "jax":
        import jax

        def forward(trainable, non_trainable, inputs):
            return model.stateless_call(trainable, non_trainable, inputs, training=False)[0]

        if jit_compile:
            forward = jax.jit(forward)

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


@contextlib.contextmanager
def without_compiling():
    """Run what `compiled_inference` gave operation by operation, on TensorFlow, in a `with` block.

    A pass takes twice as long, or three times, but none of the seconds that compiling takes first.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def _tensors(arrays):
    return [keras.ops.convert_to_tensor(array) for array in arrays]


def _flat(outputs):
    """A model's outputs as a list; Keras returns a single one as it is."""
    return outputs if isinstance(outputs, (list, tuple)) else [outputs]


def top_k(values, count):
    """The largest values of the last axis; of equal ones the first, as TensorFlow does it.

    PyTorch's own takes equal ones in any order, and scores near 1 are equal in float32. JAX's own
    is an operation that TensorFlow cannot read from a SavedModel.

    Parameters
    ----------
    values : tensor [..., N]
    count : int

    Returns
    -------
    values : tensor [..., count]
        Falling.
    indices : int32 tensor [..., count]
    """
    if keras.backend.backend() == "tensorflow":
        return keras.ops.top_k(values, count)
    order = keras.ops.argsort(-values, axis=-1)[..., :count]
    return keras.ops.take_along_axis(values, order, axis=-1), keras.ops.cast(order, "int32")


CANNOT_EXPORT = {
    ("jax", "onnx"): "Keras writes it from JAX only by jax2onnx, which this project does not use",
    ("torch", "onnx"): "its recorder cannot follow the loops of non-maximum suppression",
    ("torch", "savedmodel"): "its recorder cannot follow the loops of non-maximum suppression",
}
"""Why a backend cannot write a format, see `mrcnn.export`."""


def require_export(format):
    """Fail if the running backend cannot write a format.

    Parameters
    ----------
    format : {"onnx", "savedmodel"}

    Raises
    ------
    InputError
    """
    backend = keras.backend.backend()
    reason = CANNOT_EXPORT.get((backend, format))
    if reason:
        raise InputError(
            f"format {format} on the {backend} backend: {reason}; set "
            "KERAS_BACKEND=tensorflow, which reads the same weights"
        )


def normalize_batch(x, scale, offset, epsilon):
    """Batch normalisation by the statistics of the batch, with a gradient through them.

    TensorFlow has one operation for it; Keras puts it together from several, which read and write
    the features as often: a training step of the U-Net takes a quarter longer. That operation reads
    bfloat16 and sums in float32; all else is computed in float32, since sums overflow float16.

    Parameters
    ----------
    x : tensor [..., C]
    scale, offset : float32 tensor [C]
    epsilon : float

    Returns
    -------
    normalized : tensor [..., C]
        Of the type that it was computed in.
    mean, variance : tensor [C]
        Of the batch; the variance is the biased one, as in Keras.
    """
    fused = keras.backend.backend() == "tensorflow" and len(x.shape) == 4
    if not (fused and keras.backend.standardize_dtype(x.dtype) == "bfloat16"):
        x = keras.ops.cast(x, "float32")
    if fused:
        import tensorflow as tf

        normalized, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            x, scale, offset, epsilon=epsilon, is_training=True
        )
        count = tf.cast(tf.size(x) // tf.shape(x)[-1], variance.dtype)
        return normalized, mean, variance * ((count - 1) / count)
    mean, variance = keras.ops.moments(x, axes=tuple(range(len(x.shape) - 1)))
    normalized = keras.ops.batch_normalization(
        x, mean, variance, axis=-1, offset=offset, scale=scale, epsilon=epsilon
    )
    return normalized, mean, variance


def normalize_by(x, mean, variance, scale, offset, epsilon):
    """Batch normalisation by given statistics, in one operation where the backend has one.

    Parameters
    ----------
    x : tensor [B, H, W, C] or [B, N, H, W, C]
    mean, variance, scale, offset : tensor [C]
    epsilon : float
        At least 1.001e-5; TensorFlow raises a smaller one to that.

    Returns
    -------
    tensor
        Of the shape of `x`.
    """
    if keras.backend.backend() == "tensorflow" and len(x.shape) in (4, 5):
        import tensorflow as tf

        shape = tf.shape(x)
        images = tf.reshape(x, tf.concat([[-1], shape[-3:]], 0)) if len(x.shape) == 5 else x
        normalized, _, _ = tf.compat.v1.nn.fused_batch_norm(
            images, scale, offset, mean, variance, epsilon, is_training=False
        )
        return tf.reshape(normalized, shape) if len(x.shape) == 5 else normalized
    return keras.ops.batch_normalization(
        x, mean, variance, axis=-1, offset=offset, scale=scale, epsilon=epsilon
    )


def convolve_sampled(x, kernel):
    """A convolution of stride 1 whose gradient is computed only where one arrives.

    The losses of the RPN see a few hundred sampled anchors an image; elsewhere the gradient of
    its convolution's output is zero. On TensorFlow the products that make the gradients of `x` and
    `kernel` skip these places; the result is the same. For what compiles, see
    `has_dynamic_shapes`, and on other backends it is `keras.ops.conv`.

    Parameters
    ----------
    x : tensor [B, H, W, C]
    kernel : tensor [K, K, C, D]
        K is odd.

    Returns
    -------
    tensor [B, H, W, D]
    """
    if keras.backend.backend() != "tensorflow":
        return keras.ops.conv(x, kernel, padding="same")
    import tensorflow as tf

    size, channels, filters = kernel.shape[0], kernel.shape[2], kernel.shape[3]
    border = size // 2
    window = tf.constant([[0, i, j] for i in range(size) for j in range(size)], "int64")

    @tf.custom_gradient
    def convolve(x, kernel):
        def gradients(upstream):
            places = tf.where(tf.reduce_any(upstream != 0, axis=-1))
            upstream = tf.gather_nd(upstream, places)
            places = places[:, None] + window
            padded = tf.pad(x, [[0, 0], [border, border], [border, border], [0, 0]])
            patches = tf.reshape(tf.gather_nd(padded, places), [-1, size * size * channels])
            of_kernel = tf.matmul(patches, upstream, transpose_a=True)
            of_patches = tf.matmul(
                upstream, tf.reshape(kernel, [size * size * channels, filters]), transpose_b=True
            )
            of_padded = tf.scatter_nd(
                places,
                tf.reshape(of_patches, [-1, size * size, channels]),
                tf.shape(padded, out_type="int64"),
            )
            inside = of_padded[:, border : -border or None, border : -border or None]
            return inside, tf.reshape(of_kernel, kernel.shape)

        return tf.nn.conv2d(x, kernel, strides=1, padding="SAME"), gradients

    return convolve(tf.convert_to_tensor(x), tf.convert_to_tensor(kernel))


def first_rows(x, count):
    """The first rows of the second axis, as many as a tensor says; see `has_dynamic_shapes`.

    Parameters
    ----------
    x : tensor [B, N, ...]
    count : int32 scalar tensor

    Returns
    -------
    tensor [B, min(count, N), ...]
    """
    return x[:, : int(count)] if keras.backend.backend() == "torch" else x[:, :count]


def has_dynamic_shapes(jit_compile):
    """Whether the size of a tensor may depend on values that are known only when a network runs.

    Parameters
    ----------
    jit_compile : bool or "auto"
        See `compiled_inference`.

    Returns
    -------
    bool
        No compiler can do it: not JAX, nor what "auto" is for TensorFlow on a GPU.
    """
    backend = keras.backend.backend()
    if backend == "jax" or jit_compile is True:
        return False
    if backend == "tensorflow" and jit_compile == "auto":
        import tensorflow as tf

        return not tf.config.list_physical_devices("GPU")
    return True


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


OUT_OF_MEMORY = (
    "ResourceExhausted",  # TensorFlow's type
    "RESOURCE_EXHAUSTED",  # JAX
    "out of memory",  # CUDA, and PyTorch on a GPU
    "can't allocate memory",  # PyTorch on the CPU
)
"""In an error's type or message: the backends raise different types, some for other faults too."""


def is_out_of_memory(error):
    """Whether an exception says that a device or the machine has no memory left.

    Parameters
    ----------
    error : Exception

    Returns
    -------
    bool
    """
    text = f"{type(error).__name__}: {error}"
    return isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY)


def make_deterministic(seed):
    """Seed every random stream and, on TensorFlow, choose kernels that repeat bit for bit."""
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
