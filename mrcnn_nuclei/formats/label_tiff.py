"""Label map as TIFF: 0 is background, k + 1 is instance k. For Fiji, napari, scikit-image."""

import numpy as np
import tifffile

from mrcnn.files import atomic_path
from mrcnn.instances import Instances
from mrcnn_nuclei.image_files import read_label_map


def write(path, instances, image=None):
    """Write the label map of one image.

    Parameters
    ----------
    path : str or Path
    instances : Instances
        Painted by `to_label_map`: the best score wins a contested pixel.
    image : ignored

    Notes
    -----
    16 bits a pixel, 32 above 65,535 instances; compressed with zlib.
    """
    dtype = np.uint16 if len(instances) <= np.iinfo(np.uint16).max else np.uint32
    labels = instances.to_label_map().astype(dtype)
    with atomic_path(path) as temporary:
        tifffile.imwrite(temporary, labels, photometric="minisblack", compression="zlib")


def read(path):
    """Read a label map as Instances.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Instances
        In ascending order of their labels.

    Raises
    ------
    InputError
        If the file is not a label map.
    """
    return Instances.from_label_map(read_label_map(path))
