"""Regions of interest: which part of a slide is looked at."""

import json
from pathlib import Path

import numpy as np

from mrcnn.errors import InputError
from mrcnn_nuclei.slides import require


class Region:
    """A part of an image, in pixels of full resolution.

    Parameters
    ----------
    geometry : shapely geometry
        Of (x, y), as in GeoJSON.
    """

    def __init__(self, geometry):
        self._shapely = require("shapely")
        self._shapely.prepare(geometry)
        self.geometry = geometry

    @property
    def identity(self):
        """Text that tells it from other regions."""
        return self.geometry.wkt

    def meets(self, window):
        """Whether a window (y1, x1, y2, x2) and the region have an area in common."""
        y1, x1, y2, x2 = window
        part = self._shapely.intersection(self.geometry, self._shapely.box(x1, y1, x2, y2))
        return part.area > 0

    def select(self, instances):
        """The instances whose centroid lies inside.

        Parameters
        ----------
        instances : Instances
            Of the whole image.

        Returns
        -------
        Instances
        """
        centroids = [
            np.mean(np.nonzero(mask), axis=1) + (y1 + 0.5, x1 + 0.5)
            for mask, (y1, x1) in zip(instances.masks, instances.boxes[:, :2].tolist())
        ]
        y, x = np.reshape(centroids, (-1, 2)).T
        return instances[self._shapely.contains_xy(self.geometry, x, y)]


def parse_region(words):
    """Read the value of `--region`.

    Parameters
    ----------
    words : list of str
        X Y W H, the left upper corner and the size in pixels of full resolution; or the name of a
        GeoJSON file, whose polygons together are the region. QuPath's export is one.

    Returns
    -------
    Region

    Raises
    ------
    InputError
        If it is neither, or has no area.
    """
    shapely = require("shapely")
    if len(words) == 1:
        return Region(_read_polygons(Path(words[0]), shapely))
    try:
        x, y, width, height = (int(word) for word in words)
    except ValueError:
        raise InputError(
            f"--region {' '.join(words)}: give X Y W H, whole numbers of pixels, or a GeoJSON file"
        ) from None
    if width < 1 or height < 1:
        raise InputError(f"--region {' '.join(words)}: width and height must be more than 0")
    return Region(shapely.box(x, y, x + width, y + height))


def _read_polygons(path, shapely):
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path of --region") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is no readable GeoJSON ({error}); export it again") from None
    try:
        if isinstance(content, dict):
            content = content.get("features", [content])
        shapes = [shapely.geometry.shape(one.get("geometry", one)) for one in content]
        areas = [shapely.make_valid(one) for one in shapes if one.area > 0]
        region = shapely.union_all(areas)
    except Exception as error:  # the file may hold anything
        raise InputError(
            f"{path}: is no GeoJSON of polygons ({type(error).__name__}: {error}); export it again"
        ) from None
    if not region.area:
        raise InputError(f"{path}: holds no polygon; export the annotations that make the region")
    return region
