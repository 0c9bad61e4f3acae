"""Cellpose's `NAME_seg.npy`: a dictionary whose "masks" are the label map.

The file is a pickle, and unpickling can run any code. It is read by an unpickler that knows plain
values and NumPy's arrays, and builds the latter itself; whatever else the file names is neither
imported nor called, but stood in for by an object that does nothing. See
https://cellpose.readthedocs.io/en/latest/outputs.html
"""

import math
import pickle

import numpy as np
from numpy.lib import format as npy

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn_nuclei.image_files import MAX_PIXELS

_READ_HEADER = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read(path, shape=None):
    """Read the nuclei of a `_seg.npy` file.

    Parameters
    ----------
    path : str or Path
    shape : ignored
        The file tells it.

    Returns
    -------
    Instances
        In ascending order of their labels.

    Raises
    ------
    InputError
        If it is no such file, or its masks are no array of whole numbers or of more than one plane.
    """
    try:
        with open(path, "rb") as file:
            _READ_HEADER[npy.read_magic(file)](file)
            (content,) = _Unpickler(file).load().values
        masks = content["masks"]
        if not isinstance(masks, _Array):
            raise InputError("its masks are no array; save them as PNG or TIFF")
        return Instances.from_label_map(masks.to_numpy())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # broken pickles raise all kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: is no readable _seg.npy of Cellpose ({reason}); save its masks as PNG or TIFF"
        ) from None


class _Array:
    """What a pickle tells of an array."""

    def __init__(self, *_):
        pass

    def __setstate__(self, state):
        _, self.shape, self.dtype, self.fortran, self.values = state

    def to_numpy(self):
        """The array, if it is one of whole numbers."""
        if math.prod(self.shape) > MAX_PIXELS:
            raise InputError(f"holds more than {MAX_PIXELS:,} pixels; cut it into smaller images")
        if self.dtype.name[0] not in "iu":
            raise InputError(f"has masks of type {self.dtype.name}; save them as integers")
        dtype = np.dtype(self.dtype.byte_order + self.dtype.name)
        order = "F" if self.fortran else "C"
        return np.frombuffer(self.values, dtype).reshape(self.shape, order=order)


class _DType:
    """What a pickle tells of the type of an array."""

    byte_order = "|"

    def __init__(self, name, *_):
        self.name = name

    def __setstate__(self, state):
        self.byte_order = state[1]


class _Anything:
    """Some other class, function or object: called or filled, it does nothing."""

    def __init__(self, *_, **__):
        pass

    def __call__(self, *_, **__):
        return self

    __setstate__ = __setitem__ = append = extend = add = __call__


class _Unpickler(pickle.Unpickler):
    _STAND_INS = {"_reconstruct": _Array, "ndarray": _Array, "dtype": _DType}

    def find_class(self, module, name):
        known = self._STAND_INS if module.split(".")[0] == "numpy" else {}
        return known.get(name, _Anything)
