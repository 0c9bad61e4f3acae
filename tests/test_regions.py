"""Regions of interest, against hand-drawn polygons."""

import json

import numpy as np
import pytest

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn_nuclei.regions import parse_region

SQUARE = [[10, 20], [50, 20], [50, 60], [10, 60], [10, 20]]
HOLE = [[20, 30], [40, 30], [40, 50], [20, 50], [20, 30]]
FAR = [[100, 100], [120, 100], [120, 110], [100, 100]]


def polygon(*rings):
    return {"type": "Polygon", "coordinates": list(rings)}


def feature(geometry):
    return {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation"}}


CONTENTS = {
    "geometry": polygon(SQUARE, HOLE),
    "feature": feature(polygon(SQUARE, HOLE)),
    "list": [feature(polygon(SQUARE, HOLE)), feature(polygon(FAR))],
    "collection": {
        "type": "FeatureCollection",
        "features": [feature({"type": "Point", "coordinates": [1, 1]})]
        + [feature(polygon(SQUARE, HOLE)), feature(polygon(FAR))],
    },
    "multipolygon": {"type": "MultiPolygon", "coordinates": [[SQUARE, HOLE], [FAR]]},
}


@pytest.mark.parametrize("name", CONTENTS)
def test_what_programs_export(name, tmp_path):
    path = tmp_path / "region.geojson"
    path.write_text(json.dumps(CONTENTS[name]))
    region = parse_region([str(path)])
    assert region.meets((0, 0, 21, 11))
    assert not region.meets((0, 0, 20, 100))  # they touch
    assert not region.meets((35, 25, 45, 35))  # in the hole
    assert region.meets((100, 100, 200, 200)) == (name not in ("geometry", "feature"))


def test_centroids_decide():
    boxes = [(19, 9, 23, 13), (17, 30, 22, 33), (30, 30, 34, 34), (58, 40, 63, 43)]
    masks = [np.ones((y2 - y1, x2 - x1), bool) for y1, x1, y2, x2 in boxes]
    nuclei = Instances((200, 200), boxes, np.ones(4), np.ones(4), masks)
    region = parse_region(["10", "20", "40", "40"])
    # Centres are (21, 11), (19.5, 31.5), (32, 32) and (60.5, 41.5) for y and x.
    assert region.select(nuclei).boxes.tolist() == [list(boxes[0]), list(boxes[2])]
    assert len(region.select(nuclei[:0])) == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no readable GeoJSON"),
        ("[3]", "no GeoJSON of polygons"),
        ('{"type": "Polygon", "coordinates": 5}', "no GeoJSON of polygons"),
        (json.dumps(feature({"type": "Point", "coordinates": [1, 1]})), "holds no polygon"),
        ("[]", "holds no polygon"),
    ],
)
def test_files_that_are_no_region(content, words, tmp_path):
    path = tmp_path / "region.geojson"
    path.write_text(content)
    with pytest.raises(InputError, match=words) as error:
        parse_region([str(path)])
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
