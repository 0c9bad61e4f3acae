"""Table of measurements, one row a nucleus, as CSV or Parquet."""

from pathlib import Path

import numpy as np
import pandas as pd
from skimage.color import rgb2hed
from skimage.measure import perimeter

from mrcnn.errors import InputError
from mrcnn.files import atomic_path
from mrcnn.instances import Instances
from mrcnn_nuclei.formats import bands, require

#: Columns, and how many microns a unit of theirs measures, as a power of those a pixel does.
_UNITS = {
    "area": ("area_um2", 2),
    "centroid_y": ("centroid_y_um", 1),
    "centroid_x": ("centroid_x_um", 1),
    "perimeter": ("perimeter_um", 1),
    "major_axis_length": ("major_axis_length_um", 1),
    "minor_axis_length": ("minor_axis_length_um", 1),
}

#: Side in pixels of the squares in which the stain is looked up: large enough to read a slide in
#: few pieces, small enough to hold one.
_CELL = 1024


def measure(instances, image=None, mpp=None, first=1):
    """Measure every nucleus of an image, or of a band of a slide, by its own mask.

    Parameters
    ----------
    instances : Instances
    image : uint8 array [H, W, 3], or what is sliced like it, optional
        RGB, for the stain.
    mpp : float, optional
        Microns per pixel.
    first : int
        Label of the first instance.

    Returns
    -------
    pandas.DataFrame
        One row for each instance that has a pixel: `label` (its value in the label map),
        `class_id`, `score`, `area` (pixels), `centroid_y` and `centroid_x` (row and column of pixel
        centres, from 0), `perimeter`, `eccentricity`, `major_axis_length`, `minor_axis_length`
        (pixels; all as scikit-image's `regionprops` defines them). With an image,
        `mean_haematoxylin`, the mean of that channel of `skimage.color.rgb2hed` (Ruifrok and
        Johnston 2001). With `mpp` also `area_um2`, `perimeter_um` and so on.

    Raises
    ------
    InputError
        If the image and the instances differ in size.
    """
    if image is not None and tuple(image.shape) != (*instances.shape, 3):
        raise InputError(
            f"image {list(image.shape)} and instances {list(instances.shape)} differ in size"
        )
    index = np.flatnonzero(instances.areas)
    instances = instances[index]
    columns = {
        "label": index + first,
        "class_id": instances.class_ids,
        "score": instances.scores.astype(float).round(6),
        **_shapes(instances),
    }
    if image is not None:
        columns["mean_haematoxylin"] = _haematoxylin(instances, image)
    if mpp is not None:
        for name, (metric, power) in _UNITS.items():
            columns[metric] = columns[name] * float(mpp) ** power
    return pd.DataFrame(columns)


def write(path, found, image=None, mpp=None):
    """Write the measurements of one image; see `measure`.

    Parameters
    ----------
    path : str or Path
        Parquet if it ends in ".parquet", else CSV.
    found : Instances, or an object with `bands()`
    image, mpp : optional
        See `measure`.
    """
    write_tables = _write_parquet if Path(path).suffix == ".parquet" else _write_csv
    with atomic_path(path) as temporary:
        write_tables(temporary, _tables(found, image, mpp))


def _tables(found, image, mpp):
    """An empty table, which tells the columns, and one for each band."""
    yield measure(Instances.empty(found.shape), image, mpp)
    count = 0
    for _, instances in bands(found):
        yield measure(instances, image, mpp, count + 1)
        count += len(instances)


def _write_csv(path, tables):
    with open(path, "w", encoding="utf-8", newline="") as file:
        for k, table in enumerate(tables):
            table.to_csv(file, index=False, header=k == 0, float_format="%.6g", lineterminator="\n")


def _write_parquet(path, tables):
    arrow, parquet = require("pyarrow"), require("pyarrow.parquet")
    writer = None
    try:
        for table in tables:
            table = arrow.Table.from_pandas(table, preserve_index=False)
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table)
    finally:
        if writer:
            writer.close()


def _shapes(instances):
    """Columns that the masks alone decide.

    As `regionprops`, which takes several times as long for one small region after the other.
    """
    count = len(instances)
    area = instances.areas
    centre, second, lengths = np.zeros((count, 2)), np.zeros((count, 3)), np.zeros(count)
    for k, (mask, corner) in enumerate(zip(instances.masks, instances.boxes[:, :2])):
        rows, cols = np.nonzero(mask)
        y, x = rows.mean(), cols.mean()
        rows, cols = rows - y, cols - x
        centre[k] = corner + (y, x)
        second[k] = rows @ rows, cols @ cols, rows @ cols
        lengths[k] = perimeter(mask)
    # The axes are those of the ellipse with the same second moments.
    yy, xx, yx = (second / area[:, None]).T
    middle, radius = (yy + xx) / 2, np.hypot((yy - xx) / 2, yx)
    largest, smallest = middle + radius, np.maximum(middle - radius, 0)
    ratio = np.divide(smallest, largest, out=np.ones(count), where=largest > 0)
    return {
        "area": area,
        "centroid_y": centre[:, 0],
        "centroid_x": centre[:, 1],
        "perimeter": lengths,
        "eccentricity": np.sqrt(1 - ratio),
        "major_axis_length": 4 * np.sqrt(largest),
        "minor_axis_length": 4 * np.sqrt(smallest),
    }


def _haematoxylin(instances, image):
    """The mean stain of each nucleus; the image is read square by square."""
    means = np.zeros(len(instances))
    cells = instances.boxes[:, :2] // _CELL
    _, cell = np.unique(cells, axis=0, return_inverse=True)
    order = np.argsort(cell, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(cell[order])) + 1):
        if not len(members):
            continue
        top, left = instances.boxes[members, :2].min(axis=0)
        bottom, right = instances.boxes[members, 2:].max(axis=0)
        stain = rgb2hed(image[top:bottom, left:right])[..., 0]
        for k in members:
            y1, x1, y2, x2 = instances.boxes[k] - (top, left, top, left)
            means[k] = stain[y1:y2, x1:x2][instances.masks[k]].mean()
    return means
