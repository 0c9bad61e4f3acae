"""Matterport's name for training on several GPUs, kept for those who import it."""

import warnings


def ParallelModel(keras_model, gpu_count):
    """Return the model as it is: `Config.GPU_COUNT` alone selects the number of devices now.

    Parameters
    ----------
    keras_model : keras.Model
    gpu_count : int

    Returns
    -------
    keras.Model
    """
    warnings.warn(
        f"ParallelModel does nothing any more: set Config.GPU_COUNT = {gpu_count} instead",
        stacklevel=2,
    )
    return keras_model
