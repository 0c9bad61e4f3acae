"""Table of measurements, one row a nucleus, as CSV."""

import numpy as np
import pandas as pd
from skimage.color import rgb2hed
from skimage.measure import regionprops_table

from mrcnn.errors import InputError
from mrcnn.files import atomic_path

#: scikit-image's names, and ours where they differ.
_PROPERTIES = {
    "label": "label",
    "area": "area",
    "centroid-0": "centroid_y",
    "centroid-1": "centroid_x",
    "perimeter": "perimeter",
    "eccentricity": "eccentricity",
    "axis_major_length": "major_axis_length",
    "axis_minor_length": "minor_axis_length",
}


def measure(instances, image=None):
    """Measure every nucleus of an image.

    Parameters
    ----------
    instances : Instances
    image : uint8 array [H, W, 3], optional
        RGB, for the stain.

    Returns
    -------
    pandas.DataFrame
        One row for each instance that owns a pixel of `to_label_map()`: `label` (its value there),
        `class_id`, `score`, `area` (pixels), `centroid_y` and `centroid_x` (row and column of pixel
        centres, from 0), `perimeter`, `major_axis_length`, `minor_axis_length` (pixels),
        `eccentricity`, and with an image `mean_haematoxylin`, the mean of that channel of
        `skimage.color.rgb2hed` (Ruifrok and Johnston 2001).

    Raises
    ------
    InputError
        If the image and the instances differ in size.
    """
    labels = instances.to_label_map()
    wanted = list(dict.fromkeys(name.split("-")[0] for name in _PROPERTIES))
    table = pd.DataFrame(regionprops_table(labels, properties=wanted)).rename(columns=_PROPERTIES)
    index = table["label"].to_numpy(int) - 1
    table.insert(1, "class_id", instances.class_ids[index])
    table.insert(2, "score", instances.scores[index].astype(float).round(6))
    if image is not None:
        if image.shape != (*instances.shape, 3):
            raise InputError(
                f"image {list(image.shape)} and instances {list(instances.shape)} differ in size"
            )
        haematoxylin = rgb2hed(image)[..., 0]
        sums = np.bincount(labels.ravel(), haematoxylin.ravel(), minlength=len(instances) + 1)
        table["mean_haematoxylin"] = sums[table["label"].to_numpy(int)] / table["area"]
    return table


def write(path, instances, image=None):
    """Write the measurements of one image; see `measure`."""
    table = measure(instances, image)
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6g")
