"""GeoJSON as QuPath writes and reads it (0.4 and later; drag the file onto the open image).

QuPath takes pixels of the full-resolution image, with the origin at the corner of the first pixel:
https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html
"""

import gzip
import io
import json
import uuid
import zlib
from pathlib import Path

import numpy as np

from mrcnn.errors import InputError
from mrcnn.files import atomic_path
from mrcnn_nuclei.formats import bands
from mrcnn_nuclei.formats.outlines import fill, require_shape

#: Makes the ids of this software's objects; any constant would do.
_NAMESPACE = uuid.UUID("8a1d7a0e-52a5-4c08-9c6e-3d1f5a7c2b94")

CLASS_NAMES = ("Background", "Nucleus")

#: What programs call the certainty of a nucleus: we, and StarDist in QuPath.
SCORES = ("score", "Detection probability")

#: Bytes that a file may unpack to; more is taken for a decompression bomb.
MAX_BYTES = 2**30


def write(path, found, image=None, mpp=None, class_names=CLASS_NAMES):
    """Write one detection object for each nucleus of an image.

    The same nuclei give the same file, ids included. Those without pixels are left out.

    Parameters
    ----------
    path : str or Path
        Compressed if it ends in ".gz".
    found : Instances, or an object with `bands()`
    image : ignored
    mpp : float, optional
        Microns per pixel, for areas in square microns.
    class_names : sequence of str
        Name of each class id.
    """
    with (
        atomic_path(path) as temporary,
        open(temporary, "wb") as binary,
        _text(binary, path) as file,
    ):
        # One object a line: a slide has a million.
        file.write('{"type": "FeatureCollection", "features": [')
        separator = "\n"
        for feature in _features(found, mpp, class_names):
            file.write(separator)
            file.write(json.dumps(feature))
            separator = ",\n"
        file.write("\n]}\n")


def read(path, shape=None):
    """Read nuclei from GeoJSON: ours, or an export of QuPath.

    Parameters
    ----------
    path : str or Path
        A FeatureCollection, a list of features or one feature; compressed if it ends in ".gz".
    shape : tuple of int
        (H, W) of the image, which the file does not tell.

    Returns
    -------
    Instances
        Polygons with their holes. Objects of a class that ends in "*" are left out: QuPath's for
        what is to be ignored. Where some objects are detections or cells, the others are left
        out too: they are regions of tissue. Of a cell it is the nucleus. Scores are the measurement
        "score" or "Detection probability", else 1; classes are those that `write` names, else 1.

    Raises
    ------
    InputError
        If `shape` is missing, or the file is no GeoJSON, has objects that are no polygons, or
        unpacks to more than MAX_BYTES.
    """
    require_shape(path, shape)
    content = _load(path)
    try:
        if isinstance(content, dict):
            content = content["features"] if "features" in content else [content]
        objects = [(feature, feature.get("properties") or {}) for feature in content]
        objects = [one for one in objects if not _class_name(one[1]).endswith("*")]
        nuclei = [one for one in objects if one[1].get("objectType") in ("detection", "cell")]
        nuclei = nuclei or objects
        rings = [_rings(feature) for feature, _ in nuclei]
        scores = [_score(properties) for _, properties in nuclei]
        class_ids = [_class_id(properties) for _, properties in nuclei]
        return fill(rings, shape, 0.5, scores, class_ids)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InputError(
            f"{path}: is no GeoJSON of polygons ({type(error).__name__}: {error}); export it again"
        ) from None


def _text(file, path):
    """A text file over one of bytes, compressed if `path` says so."""
    if Path(path).suffix == ".gz":
        # Neither name nor time in it: the same nuclei give the same file.
        file = gzip.GzipFile("", "wb", 6, file, mtime=0)
    return io.TextIOWrapper(file, encoding="utf-8", newline="\n")


def _features(found, mpp, class_names):
    index = 0
    for _, instances in bands(found):
        for rings, area, score, class_id in zip(
            instances.to_polygons(),
            instances.areas.tolist(),
            instances.scores.tolist(),
            instances.class_ids.tolist(),
        ):
            if rings:
                yield _feature(index, rings, area, score, class_id, mpp, class_names)
            index += 1


def _feature(index, rings, area, score, class_id, mpp, class_names):
    rings = [ring.astype(int).tolist() for ring in rings]
    if len(rings) == 1:
        geometry = {"type": "Polygon", "coordinates": rings}
    else:
        geometry = {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}
    name = class_names[class_id] if class_id < len(class_names) else f"Class {class_id}"
    measurements = {"score": round(score, 6), "area": area}
    if mpp is not None:
        measurements["area_um2"] = round(area * mpp**2, 6)
    return {
        "type": "Feature",
        # Two nuclei may have the same outline, but not the same id.
        "id": str(uuid.uuid5(_NAMESPACE, f"{index} {class_id} {rings}")),
        "geometry": geometry,
        "properties": {
            "objectType": "detection",
            "classification": {"name": name, "color": [0, 240, 255]},
            "measurements": measurements,
        },
    }


def _load(path):
    opener = gzip.open if Path(path).suffix.lower() == ".gz" else open
    try:
        with opener(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: is truncated or corrupt ({error}); export or copy it again"
        ) from None
    if len(data) > MAX_BYTES:
        raise InputError(
            f"{path}: holds more than {MAX_BYTES:,} bytes; export the objects in parts"
        )
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no readable JSON ({error}); export it again") from None


def _rings(feature):
    geometry = feature.get("nucleusGeometry") or feature["geometry"]
    kind, coordinates = geometry["type"], geometry.get("coordinates")
    if kind == "Polygon":
        return [_ring(ring) for ring in coordinates]
    if kind == "MultiPolygon":
        return [_ring(ring) for polygon in coordinates for ring in polygon]
    raise InputError(f"has an object of type {kind}; export nuclei as polygons")


def _ring(points):
    """The points [P, 2] of a ring, which may have further coordinates than x and y."""
    ring = np.array(points)
    if ring.ndim != 2 or ring.shape[1] < 2 or ring.dtype.kind not in "iuf":
        raise ValueError("a ring is no list of numbers [x, y]")
    return ring[:, :2]


def _score(properties):
    measurements = properties.get("measurements") or {}
    if isinstance(measurements, list):  # QuPath before 0.4
        measurements = {one["name"]: one["value"] for one in measurements}
    return next((float(measurements[name]) for name in SCORES if name in measurements), 1)


def _class_name(properties):
    return (properties.get("classification") or {}).get("name") or ""


def _class_id(properties):
    word, _, number = _class_name(properties).partition(" ")
    return int(number) if word == "Class" and number.isdecimal() and int(number) else 1
