"""Result files, read back with programs that are not ours."""

import csv
import gzip
import json
import subprocess
import sys
import uuid
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import roifile
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyarrow import parquet
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from skimage import measure
from skimage.draw import polygon2mask

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn_nuclei.datasets.monuseg import read_annotation
from mrcnn_nuclei.formats import (
    WRITERS,
    coco,
    geojson,
    imagej,
    imagescope,
    label_tiff,
    measurements,
    parse_writers,
    rle,
)

#: Two overlapping squares, a part of two pieces, one pixel, and an instance without pixels.
DENSE = np.zeros((8, 10, 5), bool)
DENSE[1:5, 1:5, 0] = DENSE[3:7, 3:7, 1] = DENSE[0, 9, 3] = True
DENSE[7, 0:2, 2] = DENSE[7, 8:10, 2] = True
OVERLAPPING = Instances.from_dense(DENSE, scores=[0.5, 0.9, 0.8, 0.7, 0.6])

label_maps = hnp.arrays(
    np.int32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.sampled_from([0, 0, 1, 2, 3]),
)


def decode_submission(text, shape):
    """The Data Science Bowl's rule, word for word: pairs, from 1, down the columns."""
    flat = np.zeros(shape[0] * shape[1], bool)
    values = [int(value) for value in text.split()]
    for start, length in zip(values[0::2], values[1::2]):
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape(shape, order="F")


def test_label_tiff(tmp_path):
    path = tmp_path / "new" / "a.tif"
    label_tiff.write(path, OVERLAPPING)
    with tifffile.TiffFile(path) as tiff:
        (page,) = tiff.pages
        assert page.compression.name == "ADOBE_DEFLATE" and page.photometric.name == "MINISBLACK"
        labels = page.asarray()
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, OVERLAPPING.to_label_map())
    assert labels[3, 3] == 2 and labels[1, 1] == 1 and labels[0, 9] == 4
    np.testing.assert_array_equal(label_tiff.read(path).to_label_map(), labels)
    assert [file.name for file in path.parent.iterdir()] == ["a.tif"]


@pytest.mark.slow
def test_label_tiff_above_65535_instances(tmp_path):
    labels = np.arange(1, 65537).reshape(256, 256)
    label_tiff.write(tmp_path / "a.tif", Instances.from_label_map(labels))
    written = tifffile.imread(tmp_path / "a.tif")
    assert written.dtype == np.uint32
    np.testing.assert_array_equal(written, labels)
    label_tiff.write(tmp_path / "b.tif", Instances.from_label_map(labels)[:65535])
    assert tifffile.imread(tmp_path / "b.tif").dtype == np.uint16


def test_label_tiff_without_nuclei(tmp_path):
    label_tiff.write(tmp_path / "a.tif", Instances.empty((3, 4)))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), np.zeros((3, 4)))


def test_geojson_features(tmp_path):
    path = tmp_path / "a.geojson"
    geojson.write(path, OVERLAPPING)
    content = json.loads(path.read_text())
    assert content["type"] == "FeatureCollection"
    features = content["features"]
    assert [feature["geometry"]["type"] for feature in features] == [
        "Polygon",
        "Polygon",
        "MultiPolygon",
        "Polygon",
    ]
    ids = [feature["id"] for feature in features]
    assert len({uuid.UUID(one) for one in ids}) == 4
    for feature in features:
        assert feature["type"] == "Feature"
        assert feature["properties"]["objectType"] == "detection"
        assert feature["properties"]["classification"]["name"] == "Nucleus"
    assert [f["properties"]["measurements"] for f in features][2:] == [
        {"score": 0.8, "area": 4},
        {"score": 0.7, "area": 1},
    ]
    (pixel,) = features[3]["geometry"]["coordinates"]
    assert pixel[0] == pixel[-1] and sorted(pixel[:-1]) == [[9, 0], [9, 1], [10, 0], [10, 1]]
    before = path.read_bytes()
    geojson.write(path, OVERLAPPING)
    assert path.read_bytes() == before


@settings(max_examples=40, deadline=None)
@given(labels=label_maps)
def test_geojson_rings_rasterise_to_the_masks(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("geojson") / "a.geojson"
    instances = Instances.from_label_map(labels)
    geojson.write(path, instances)
    features = json.loads(path.read_text())["features"]
    assert len(features) == len(instances)
    for k, feature in enumerate(features):
        geometry = feature["geometry"]
        polygons = geometry["coordinates"]
        polygons = [polygons] if geometry["type"] == "Polygon" else polygons
        drawn = np.zeros(labels.shape, bool)
        for (ring,) in polygons:
            assert len(ring) >= 5 and ring[0] == ring[-1]
            drawn |= polygon2mask(labels.shape, np.array(ring)[:, ::-1] - 0.5)
        mask = instances.to_dense()[..., k]
        assert (drawn >= mask).all()
        # Holes are filled: whatever else is drawn lies strictly inside the outline.
        rows, cols = np.nonzero(drawn & ~mask)
        y1, x1, y2, x2 = instances.boxes[k]
        assert ((rows > y1) & (rows < y2 - 1) & (cols > x1) & (cols < x2 - 1)).all()


@pytest.mark.parametrize("suffix", ["geojson", "geojson.gz"])
def test_geojson_is_read_by_shapely(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    geojson.write(path, OVERLAPPING, mpp=0.5)
    data = path.read_bytes()
    text = gzip.decompress(data) if suffix == "geojson.gz" else data
    shapes = shapely.from_geojson(text.decode()).geoms
    assert [shape.area for shape in shapes] == [16, 16, 4, 1]
    assert all(shape.is_valid for shape in shapes)
    assert shapely.intersection(shapes[0], shapes[1]).area == 4
    assert shapes[0].bounds == (1, 1, 5, 5)
    measured = [one["properties"]["measurements"] for one in json.loads(text)["features"]]
    assert [one["area_um2"] for one in measured] == [4, 4, 1, 0.25]
    geojson.write(path, OVERLAPPING, mpp=0.5)
    assert path.read_bytes() == data


def test_imagej_regions_are_read_by_roifile(tmp_path):
    imagej.write(tmp_path / "a.zip", OVERLAPPING)
    regions = roifile.roiread(tmp_path / "a.zip")
    assert [region.name for region in regions] == ["00001", "00002", "00003", "00004"]
    assert {region.roitype for region in regions} == {roifile.ROI_TYPE.TRACED}
    assert regions[1].properties == {"class": 1, "score": 0.9}
    outlines = [shapely.Polygon(region.coordinates()) for region in regions]
    assert [outline.area for outline in outlines] == [16, 16, 4, 1]
    assert outlines[1].bounds == (3, 3, 7, 7)


def test_imagescope_regions(tmp_path):
    imagescope.write(tmp_path / "a.xml", OVERLAPPING, mpp=0.5)
    root = ElementTree.parse(tmp_path / "a.xml").getroot()
    assert root.get("MicronsPerPixel") == "0.5"
    regions = root.findall("Annotation/Regions/Region")
    assert [region.get("Id") for region in regions] == ["1", "2", "3", "4"]
    assert [region.get("AreaMicrons") for region in regions] == ["4", "4", "1", "0.25"]
    corners = [(float(v.get("X")), float(v.get("Y"))) for v in regions[3].iter("Vertex")]
    assert sorted(corners) == [(8.5, -0.5), (8.5, 0.5), (9.5, -0.5), (9.5, 0.5)]
    labels = read_annotation(tmp_path / "a.xml", (8, 10))
    # Later regions are painted over earlier ones; here that is the order of the scores.
    np.testing.assert_array_equal(labels, OVERLAPPING.to_label_map())


def test_geojson_without_nuclei(tmp_path):
    geojson.write(tmp_path / "a.geojson", Instances.empty((3, 4)))
    assert json.loads((tmp_path / "a.geojson").read_text())["features"] == []


def test_coco_is_read_by_pycocotools(tmp_path, capsys):
    path = tmp_path / "coco.json"
    coco.write(path, {"a.png": OVERLAPPING, "b.png": Instances.empty((3, 4))})
    read = COCO(str(path))
    assert [read.imgs[k]["file_name"] for k in (1, 2)] == ["a.png", "b.png"]
    assert (read.imgs[1]["height"], read.imgs[1]["width"]) == (8, 10)
    assert [category["name"] for category in read.loadCats([1])] == ["nucleus"]
    assert read.getAnnIds(imgIds=[2]) == []
    annotations = read.loadAnns(read.getAnnIds(imgIds=[1]))
    assert [one["id"] for one in annotations] == [1, 2, 3, 4, 5]
    for k, one in enumerate(annotations):
        np.testing.assert_array_equal(coco_mask.decode(read.annToRLE(one)), DENSE[..., k])
        assert one["area"] == DENSE[..., k].sum() and one["iscrowd"] == 0
    assert annotations[1]["bbox"] == [3, 3, 4, 4]
    again = Instances.from_coco(annotations, (8, 10))
    np.testing.assert_array_equal(again.to_dense(), DENSE)
    np.testing.assert_array_equal(again.scores, OVERLAPPING.scores)


def test_submission_by_hand(tmp_path):
    path = tmp_path / "submission.csv"
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 2]])
    one, none = Instances.from_label_map(labels), Instances.empty((2, 2))
    rle.write(path, [("x/one.png", one), ("b", none)])
    assert path.read_text() == "ImageId,EncodedPixels\none,1 2 4 1\none,9 1\nb,\n"


def test_submission_has_no_overlaps(tmp_path):
    path = tmp_path / "submission.csv"
    rle.write(path, {"a.png": OVERLAPPING})
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    decoded = [decode_submission(row["EncodedPixels"], (8, 10)) for row in rows]
    assert len(decoded) == 4 and {row["ImageId"] for row in rows} == {"a"}
    assert np.sum(decoded, axis=0).max() == 1
    np.testing.assert_array_equal(decoded[1], DENSE[..., 1])
    np.testing.assert_array_equal(decoded[0], DENSE[..., 0] & ~DENSE[..., 1])


@settings(max_examples=40, deadline=None)
@given(labels=label_maps)
def test_submission_decodes_to_the_label_map(tmp_path_factory, labels):
    path = tmp_path_factory.mktemp("rle") / "submission.csv"
    instances = Instances.from_label_map(labels)
    rle.write(path, {"a.png": instances})
    read = pd.read_csv(path, keep_default_na=False)
    decoded = np.zeros(labels.shape, int)
    for k, text in enumerate(read["EncodedPixels"], start=1):
        decoded[decode_submission(text, labels.shape)] = k
    np.testing.assert_array_equal(decoded, instances.to_label_map())


def test_measurements_by_hand(tmp_path):
    labels = np.zeros((20, 30), int)
    labels[2:6, 3:13], labels[10, 10] = 1, 2
    image = np.full((20, 30, 3), 255, np.uint8)
    image[2:6, 3:13] = 90, 60, 140
    measurements.write(tmp_path / "a.csv", Instances.from_label_map(labels, [0.25, 1]), image)
    table = pd.read_csv(tmp_path / "a.csv")
    assert table.columns.tolist() == [
        "label",
        "class_id",
        "score",
        "area",
        "centroid_y",
        "centroid_x",
        "perimeter",
        "eccentricity",
        "major_axis_length",
        "minor_axis_length",
        "mean_haematoxylin",
    ]
    first, second = table.to_dict("records")
    assert (first["label"], first["area"], first["score"]) == (1, 40, 0.25)
    assert (first["centroid_y"], first["centroid_x"]) == (3.5, 7.5)
    assert first["perimeter"] == 2 * (3 + 9)
    # The second moment of a row of n pixels is (n^2 - 1) / 12.
    assert first["major_axis_length"] == pytest.approx(4 * np.sqrt(99 / 12), rel=1e-5)
    assert first["minor_axis_length"] == pytest.approx(4 * np.sqrt(15 / 12), rel=1e-5)
    assert first["eccentricity"] == pytest.approx(np.sqrt(1 - 15 / 99), rel=1e-5)
    assert first["mean_haematoxylin"] > 0.05 and second["mean_haematoxylin"] == 0
    assert (second["area"], second["centroid_y"], second["centroid_x"]) == (1, 10, 10)


def test_measurements_are_those_of_the_label_map(tmp_path):
    """scikit-image's, of the whole image at once."""
    labels = measure.label(np.random.default_rng(0).random((60, 80)) > 0.6, connectivity=1)
    names = ["label", "area", "perimeter", "eccentricity"]
    axes = ["axis_major_length", "axis_minor_length"]
    expected = measure.regionprops_table(labels, properties=[*names, *axes, "centroid"])
    table = measurements.measure(Instances.from_label_map(labels))
    for ours, theirs in {
        **{name: name for name in names},
        "major_axis_length": "axis_major_length",
        "minor_axis_length": "axis_minor_length",
        "centroid_y": "centroid-0",
        "centroid_x": "centroid-1",
    }.items():
        np.testing.assert_allclose(table[ours], expected[theirs], atol=1e-6)


def test_measurements_in_microns(tmp_path):
    labels = np.zeros((20, 30), int)
    labels[2:6, 3:13] = 1
    found = Instances.from_label_map(labels)
    (row,) = measurements.measure(found, mpp=0.5).to_dict("records")
    assert (row["area"], row["area_um2"]) == (40, 10)
    assert (row["centroid_y_um"], row["centroid_x_um"]) == (1.75, 3.75)
    for name in ("perimeter", "major_axis_length", "minor_axis_length"):
        assert row[f"{name}_um"] == row[name] / 2


def test_parquet_is_read_by_pyarrow(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (8, 10, 3), np.uint8)
    for suffix in ("csv", "parquet"):
        measurements.write(tmp_path / f"a.{suffix}", OVERLAPPING, image, 0.25)
    table = parquet.read_table(tmp_path / "a.parquet")
    assert table.schema.field("label").type == "int64"
    assert table.schema.field("area_um2").type == "double"
    expected = pd.read_csv(tmp_path / "a.csv")
    assert table.column_names == expected.columns.tolist()
    for name in expected:
        np.testing.assert_allclose(table[name].to_numpy(), expected[name], rtol=1e-5)


def test_measurements_without_nuclei_or_image(tmp_path):
    measurements.write(tmp_path / "a.csv", Instances.empty((3, 4)))
    table = pd.read_csv(tmp_path / "a.csv")
    assert len(table) == 0 and "area" in table and "mean_haematoxylin" not in table
    assert measurements.measure(OVERLAPPING)["label"].tolist() == [1, 2, 3, 4]
    with pytest.raises(InputError, match="differ in size"):
        measurements.measure(OVERLAPPING, np.zeros((3, 3, 3), np.uint8))


def test_every_writer_is_reached_by_its_name(tmp_path):
    image = np.zeros((8, 10, 3), np.uint8)
    for name, writer in WRITERS.items():
        path = writer.path(tmp_path, "a.b")
        if writer.per_image:
            writer.write(path, OVERLAPPING, image, 0.25)
        else:
            writer.write(path, {"a.b.png": OVERLAPPING})
        assert path.stat().st_size > 0, name
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")}
    written = {path for path in written if ".zarr/" not in path}
    assert written == {
        "overlay/a.b.png",
        "labels/a.b.tif",
        "geojson/a.b.geojson",
        "geojson/a.b.geojson.gz",
        "imagej/a.b.zip",
        "xml/a.b.xml",
        "zarr/a.b.zarr",
        "measurements/a.b.csv",
        "measurements/a.b.parquet",
        "coco.json",
        "submission.csv",
    }


def test_names_of_writers():
    assert parse_writers("labels, overlay,labels") == ["labels", "overlay"]
    with pytest.raises(InputError, match="did you mean geojson"):
        parse_writers("overlay,geojsn")
    with pytest.raises(InputError, match="choose from overlay, labels"):
        parse_writers("xyzzy")
    with pytest.raises(InputError, match="no format given"):
        parse_writers(" ,")


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", fail)
    with pytest.raises(OSError, match="No space"):
        label_tiff.write(tmp_path / "a.tif", OVERLAPPING)
    monkeypatch.setattr(json, "dumps", fail)
    with pytest.raises(OSError, match="No space"):
        geojson.write(tmp_path / "a.geojson", OVERLAPPING)
    assert list(tmp_path.iterdir()) == []


def test_the_registry_loads_no_writer():
    code = "import sys, mrcnn_nuclei.formats; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"pandas", "skimage", "tifffile", "cv2", "keras", "tensorflow"} & set(modules)
