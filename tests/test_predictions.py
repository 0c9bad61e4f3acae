"""Predictions by this and other tools: what was written is read back, or refused in one line."""

import collections
import datetime
import gzip
import json
import os
import pickle
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import roifile
import scipy.io
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy import ndimage

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn_nuclei.datasets.monuseg import read_annotation
from mrcnn_nuclei.ensemble import fuse_folders
from mrcnn_nuclei.evaluation import evaluate_folder
from mrcnn_nuclei.formats import (
    WRITERS,
    cellpose,
    geojson,
    hovernet,
    imagej,
    imagescope,
    label_tiff,
    ome_zarr,
    outlines,
    rle,
)
from mrcnn_nuclei.predictions import open_predictions

SHAPE = (40, 60)

#: Writers whose files are predictions, and of these, those that tell scores.
KINDS = ("labels", "geojson", "geojson.gz", "imagej", "xml", "zarr", "coco", "rle")
SCORED = ("geojson", "geojson.gz", "imagej", "coco")

OUTLINES = {
    "geojson": geojson,
    "geojson.gz": geojson,
    "zip": imagej,
    "xml": imagescope,
}

label_maps = hnp.arrays(
    np.int32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=14),
    elements=st.sampled_from([0, 0, 1, 2]),
)


def ellipses(shape=SHAPE, seed=0, count=12):
    """A label map of touching nuclei without holes."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    labels = np.zeros(shape, np.int32)
    for k in range(1, count + 1):
        (cy, cx), (a, b) = rng.integers(0, shape), rng.integers(2, 7, 2)
        inside = ((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 <= 1
        labels[inside & (labels == 0)] = k
    whole = np.zeros_like(labels)
    for k in range(1, count + 1):  # what others cut off is left out
        parts, _ = ndimage.label(labels == k)
        if parts.any():
            part = parts == np.bincount(parts.ravel())[1:].argmax() + 1
            whole[ndimage.binary_fill_holes(part) & ((labels == k) | (labels == 0))] = k
    return whole


FOUND = Instances.from_label_map(ellipses())
FOUND = Instances.from_label_map(
    FOUND.to_label_map(), np.linspace(0.125, 1, len(FOUND)).astype(np.float32)
)


def write(folder, kind, predictions):
    writer = WRITERS[kind]
    if writer.per_image:
        for name, found in predictions.items():
            writer.write(writer.path(folder, name), found)
    else:
        writer.write(writer.path(folder), {f"{n}.png": found for n, found in predictions.items()})
    return folder


def filled(mask):
    """Each part of a mask without its holes, which outlines do not tell."""
    parts, count = ndimage.label(mask)
    return np.any([ndimage.binary_fill_holes(parts == k) for k in range(1, count + 1)], axis=0)


class Dataset:
    """What `evaluate_folder` needs of a dataset."""

    def __init__(self, truths):
        self.names, self.truths = list(truths), list(truths.values())

    def load_labels(self, i):
        return self.truths[i], np.ones(self.truths[i].max(), int)


def refuses(words, call, *arguments):
    with pytest.raises(InputError, match=words) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# What this project writes


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_back(kind, tmp_path):
    folder = write(tmp_path, kind, {"a.b": FOUND, "c": Instances.empty(SHAPE)})
    for names in (None, ["a.b", "c"]):
        predictions = open_predictions(folder, names)
        assert sorted(predictions.names) == ["a.b", "c"]
        again = predictions.read("a.b", SHAPE)
        np.testing.assert_array_equal(again.to_label_map(), FOUND.to_label_map())
        np.testing.assert_array_equal(predictions.read_labels("a.b", SHAPE), FOUND.to_label_map())
        expected = FOUND.scores if kind in SCORED else np.ones(len(FOUND))
        np.testing.assert_allclose(again.scores, expected, rtol=1e-5)
        assert len(predictions.read("c", SHAPE)) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_scored_and_fused(kind, tmp_path):
    folder = write(tmp_path / "in", kind, {"a": FOUND})
    labels = FOUND.to_label_map()
    (row,) = evaluate_folder(folder, Dataset({"a": labels})).rows
    assert row["AJI"] == row["F1"] == 1 and row["nuclei_pred"] == len(FOUND)
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((*SHAPE, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    fuse_folders([folder, folder], tmp_path / "out", ["labels"], tmp_path / "images")
    fused = label_tiff.read(WRITERS["labels"].path(tmp_path / "out", "a"))
    np.testing.assert_array_equal(fused.to_label_map() > 0, labels > 0)
    assert len(fused) == len(FOUND)


@pytest.mark.parametrize("suffix", OUTLINES)
@settings(max_examples=40, deadline=None)
@given(labels=label_maps)
def test_outlines_of_any_masks(suffix, labels, tmp_path_factory):
    """Parts, holes, parts in holes, single pixels: all but the holes come back."""
    path = tmp_path_factory.mktemp("outlines") / f"a.{suffix}"
    found = Instances.from_label_map(labels)
    OUTLINES[suffix].write(path, found)
    again = OUTLINES[suffix].read(path, labels.shape)
    assert len(again) == len(found)
    for before, after in zip(found.to_dense().T, again.to_dense().T):
        np.testing.assert_array_equal(after, filled(before))


@settings(max_examples=40, deadline=None)
@given(labels=label_maps)
def test_submissions_and_label_maps_of_any_masks(labels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    found = Instances.from_label_map(labels)
    expected = found.to_label_map()
    rle.write(folder / "a.csv", {"a": found})
    again = rle.decode(rle.read(folder / "a.csv")["a"], labels.shape)
    np.testing.assert_array_equal(again.to_label_map(), expected)
    ome_zarr.write(folder / "a.zarr", found)
    np.testing.assert_array_equal(ome_zarr.read(folder / "a.zarr").to_label_map(), expected)


def test_classes_are_kept_by_those_that_have_them(tmp_path):
    classes = np.arange(len(FOUND)) % 3 + 1
    found = Instances(SHAPE, FOUND.boxes, FOUND.scores, classes, FOUND.masks)
    for suffix in ("geojson", "zip"):
        OUTLINES[suffix].write(tmp_path / f"a.{suffix}", found)
        again = OUTLINES[suffix].read(tmp_path / f"a.{suffix}", SHAPE)
        np.testing.assert_array_equal(again.class_ids, classes)
        assert set(open_predictions(tmp_path / f"a.{suffix}").read("a", SHAPE).class_ids) == {1}


def test_overlaps_are_kept_by_outlines(tmp_path):
    shifted = FOUND.translate(2, 3, SHAPE)
    both = Instances.concatenate([FOUND, shifted])
    for suffix, module in OUTLINES.items():
        module.write(tmp_path / f"a.{suffix}", both)
        again = module.read(tmp_path / f"a.{suffix}", SHAPE)
        assert again.areas.sum() == both.areas.sum()


def test_the_first_kind_counts(tmp_path):
    for kind in ("xml", "labels", "rle"):
        write(tmp_path, kind, {"a": FOUND if kind == "labels" else Instances.empty(SHAPE)})
    assert len(open_predictions(tmp_path).read("a", SHAPE)) == len(FOUND)
    write(tmp_path, "coco", {"a": FOUND[:1]})
    assert len(open_predictions(tmp_path).read("a", SHAPE)) == 1


def test_which_of_several_files_counts(tmp_path):
    imagej.write(tmp_path / "a_rois.zip", FOUND[:1])
    label_tiff.write(tmp_path / "a.tif", FOUND)
    for names in (None, ["a"]):
        assert len(open_predictions(tmp_path, names).read("a", SHAPE)) == 1
    imagescope.write(tmp_path / "a.xml", FOUND[:3])
    assert len(open_predictions(tmp_path).read("a", SHAPE)) == 3
    geojson.write(tmp_path / "a.geojson", FOUND[:2])
    assert len(open_predictions(tmp_path).read("a", SHAPE)) == 2
    label_tiff.write(tmp_path / "a_labels.tif", FOUND)
    for names in (None, ["a"]):
        assert len(open_predictions(tmp_path, names).read("a", SHAPE)) == len(FOUND)


# What other tools write


def test_stardist(tmp_path):
    """Regions with fractions of pixels, from the corner of the first, and a label TIFF."""
    labels = FOUND.to_label_map()
    square = np.array([[5, 4], [15, 4], [15, 12], [5, 12]]) + 0.5
    regions = [
        roifile.ImagejRoi.frompoints(square.astype(np.float32)),
        roifile.ImagejRoi.frompoints(np.array([[20, 4], [30, 4], [30, 12]])),
    ]
    for region in regions:
        region.roitype = roifile.ROI_TYPE.POLYGON
    roifile.roiwrite(tmp_path / "a_rois.zip", regions)
    tifffile.imwrite(tmp_path / "b.tif", labels.astype(np.int16), imagej=True)
    predictions = open_predictions(tmp_path)
    assert predictions.names == ["a", "b"]
    found = predictions.read("a", SHAPE)
    # Centres of pixels on the line count: columns 5 to 15, rows 4 to 12.
    assert found.boxes[0].tolist() == [4, 5, 13, 16] and found.areas[0] == 11 * 9
    assert (predictions.read_labels("b") == labels).all()


def test_imagej_regions_of_other_types(tmp_path):
    rectangle = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, top=2, left=3, bottom=6, right=10)
    oval = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.OVAL, top=10, left=10, bottom=30, right=40)
    ring = [0, 10, 10, 1, 20, 10, 1, 20, 20, 1, 10, 20, 4]
    hole = [0, 13, 13, 1, 17, 13, 1, 17, 17, 1, 13, 17, 4]
    composite = roifile.ImagejRoi(
        roitype=roifile.ROI_TYPE.RECT,
        top=10,
        left=10,
        bottom=20,
        right=20,
        multi_coordinates=np.array(ring + hole, np.float32),
        shape_roi_size=len(ring + hole),
    )
    roifile.roiwrite(tmp_path / "a.zip", [rectangle, oval, composite], name=["r", "o", "c"])
    found = imagej.read(tmp_path / "a.zip", SHAPE)
    assert found.boxes[0].tolist() == [2, 3, 6, 10] and found.areas[0] == 28
    assert found.areas[1] == pytest.approx(np.pi * 10 * 15, rel=0.03)
    assert found.areas[2] == 100 - 16
    roifile.roiwrite(tmp_path / "b.zip", [roifile.ImagejRoi(roitype=roifile.ROI_TYPE.LINE)])
    refuses("region of type LINE", imagej.read, tmp_path / "b.zip", SHAPE)


def test_cellpose(tmp_path):
    labels = FOUND.to_label_map().astype(np.uint16)
    content = {
        "outlines": labels.astype(np.uint32),
        "colors": np.zeros((3, 3), np.uint8),
        "masks": labels,
        "chan_choose": [0, 0],
        "filename": "a.png",
        "flows": [np.zeros((1, 2), np.float32), [], [np.ones(3)]],
        "ismanual": np.zeros(3, bool),
        "est_diam": np.float64(17.5),
        "diameter": None,
    }
    for name, masks in (
        ("a", labels),
        ("f", np.asfortranarray(labels)),
        ("w", labels.astype(">u4")),
    ):
        np.save(tmp_path / f"{name}_seg.npy", {**content, "masks": masks})
    Image.fromarray(labels).save(tmp_path / "b_cp_masks.png")
    tifffile.imwrite(tmp_path / "c_cp_masks.tif", labels)
    predictions = open_predictions(tmp_path)
    assert predictions.names == ["a", "b", "c", "f", "w"]
    for name in predictions.names:
        np.testing.assert_array_equal(predictions.read(name).to_label_map(), FOUND.to_label_map())


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_cellpose_files_run_no_code(tmp_path):
    labels, evil = FOUND.to_label_map(), Evil(tmp_path / "ran")
    np.save(tmp_path / "a_seg.npy", {"masks": evil})
    refuses("a_seg.npy: its masks are no array", cellpose.read, tmp_path / "a_seg.npy")
    np.save(tmp_path / "a_seg.npy", {"masks": labels, "flows": [evil]})
    np.testing.assert_array_equal(cellpose.read(tmp_path / "a_seg.npy").to_label_map(), labels)
    assert not (tmp_path / "ran").exists()
    refuses("no readable _seg.npy", cellpose.read, spoilt(tmp_path / "b_seg.npy", b"\x93NUMPY"))
    np.save(tmp_path / "c_seg.npy", {"masks": np.zeros((2, 3, 4), np.uint16)})
    refuses("c_seg.npy: a label map must be", cellpose.read, tmp_path / "c_seg.npy")
    np.save(tmp_path / "d_seg.npy", {"masks": np.zeros((3, 4))})
    refuses("d_seg.npy: has masks of type f8", cellpose.read, tmp_path / "d_seg.npy")
    with open(tmp_path / "e_seg.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|O", "fortran_order": False, "shape": ()}
        )
        pickle.dump(np.float64(1), file)
    refuses("no readable _seg.npy", cellpose.read, tmp_path / "e_seg.npy")
    refuses("no such file", cellpose.read, tmp_path / "gone_seg.npy")


def test_cellpose_files_may_hold_other_objects(tmp_path):
    """Of all ways in which objects are pickled: called, made, filled and told their state."""
    labels = FOUND.to_label_map()
    content = {
        "filename": Path("a.png"),
        "when": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        "order": collections.OrderedDict(a=1),
        "queue": collections.deque([1, 2]),
        "counts": collections.Counter("abba"),
        "set": {1, 2},
        "table": pd.DataFrame({"a": [1, 2]}),
        "predictions": Dataset({"a": labels}),
        "method": FOUND.to_label_map,
        "random": np.random.default_rng(0),
        "masks": labels,
    }
    np.save(tmp_path / "a_seg.npy", content)
    np.testing.assert_array_equal(cellpose.read(tmp_path / "a_seg.npy").to_label_map(), labels)


def contours(labels):
    for k in range(1, labels.max() + 1):
        (contour,), _ = cv2.findContours(
            (labels == k).astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE
        )
        yield contour[:, 0].tolist()


def test_hovernet(tmp_path):
    labels = FOUND.to_label_map()
    count = labels.max()
    types = np.arange(count) % 4
    for folder in ("mat", "json"):
        (tmp_path / folder).mkdir()
    content = {"inst_map": labels, "inst_uid": np.arange(1, count + 1)[:, None]}
    scipy.io.savemat(tmp_path / "mat/a.mat", {**content, "inst_type": types[:, None]})
    scipy.io.savemat(tmp_path / "mat/b.mat", {"inst_map": labels.astype(float)})
    nuclei = {
        str(k + 1): {"contour": contour, "type": int(types[k]), "type_prob": 0.5}
        for k, contour in enumerate(contours(labels))
    }
    for name, text in (("a", {"mag": None, "nuc": nuclei}), ("b", {"mag": 40, "nuc": {}})):
        (tmp_path / f"json/{name}.json").write_text(json.dumps(text))
    (tmp_path / "json/folds.json").write_text("{}")

    found = hovernet.read(tmp_path / "mat/a.mat")
    np.testing.assert_array_equal(found.to_label_map(), labels)
    np.testing.assert_array_equal(found.class_ids, np.maximum(types, 1))
    assert len(hovernet.read(tmp_path / "mat/b.mat")) == count
    found = hovernet.read(tmp_path / "json/a.json", SHAPE)
    np.testing.assert_array_equal(found.to_label_map(), labels)
    np.testing.assert_array_equal(found.class_ids, np.maximum(types, 1))
    assert open_predictions(tmp_path).names == ["a", "b"]
    assert open_predictions(tmp_path).files("a") == [tmp_path / "mat/a.mat"]
    predictions = open_predictions(tmp_path / "json")
    assert predictions.names == ["a", "b"]
    assert len(predictions.read("b", SHAPE)) == 0
    assert len(open_predictions(tmp_path / "json/a.json").read("a", SHAPE)) == count


def test_hovernet_arrays_that_do_not_fit(tmp_path):
    labels = np.zeros(SHAPE, int)
    labels[2:5, 2:5], labels[9:12, 9:12] = 1, 2
    for words, content in [
        ("a.mat: has 2 inst_uid and 1 inst_type", {"inst_uid": [1, 2], "inst_type": [3]}),
        ("a.mat: its inst_type is a MATLAB cell", {"inst_type": np.array([[1, 2]], object)}),
        ("a.mat: its inst_map is a MATLAB struct", {"inst_map": {"labels": labels}}),
    ]:
        scipy.io.savemat(tmp_path / "a.mat", {"inst_map": labels, **content})
        refuses(words, hovernet.read, tmp_path / "a.mat")


def test_hovernet_at_the_edge(tmp_path):
    nuclei = {"1": {"contour": [[-2, 3], [4, 3], [4, 6], [-2, 6]]}, "2": {"contour": [[59, 39]]}}
    (tmp_path / "a.json").write_text(json.dumps({"nuc": nuclei}))
    found = hovernet.read(tmp_path / "a.json", SHAPE)
    assert found.boxes.tolist() == [[3, 0, 7, 5], [39, 59, 40, 60]]
    assert found.areas.tolist() == [20, 1]


def geometry(kind, coordinates):
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}}


def feature(ring, **properties):
    return {**geometry("Polygon", [[*ring, ring[0]]]), "properties": properties}


SQUARE = [[2, 2], [8, 2], [8, 8], [2, 8]]


def test_qupath(tmp_path):
    """A list or a collection, regions of tissue left out, nuclei of cells, holes, old scores."""
    cell = feature([[1, 1], [20, 1], [20, 20], [1, 20]], objectType="cell")
    cell["nucleusGeometry"] = feature(SQUARE)["geometry"]
    holed = feature(
        SQUARE,
        objectType="detection",
        measurements=[
            {"name": "Area", "value": 9},
            {"name": "Detection probability", "value": 0.5},
        ],
    )
    holed["geometry"]["coordinates"].append([[4, 4], [6, 4], [6, 6], [4, 6], [4, 4]])
    region = feature([[0, 0], [60, 0], [60, 40], [0, 40]], objectType="annotation")
    contents = {
        "list": [region, cell, holed],
        "collection": {"type": "FeatureCollection", "features": [region, cell, holed]},
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.geojson").write_text(json.dumps(content))
        found = geojson.read(tmp_path / f"{name}.geojson", SHAPE)
        assert found.areas.tolist() == [36, 32] and found.scores.tolist() == [1, 0.5]
    (tmp_path / "a.geojson").write_text(json.dumps(feature(SQUARE, objectType="annotation")))
    assert geojson.read(tmp_path / "a.geojson", SHAPE).areas.tolist() == [36]
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}}
    (tmp_path / "b.geojson").write_text(json.dumps(point))
    refuses("b.geojson: has an object of type Point", geojson.read, tmp_path / "b.geojson", SHAPE)


def test_imagescope(tmp_path, monuseg):
    """Real outlines, which overlap and cross the edge, as the data set's reader paints them."""
    path = monuseg / "train" / "TCGA-21-5784-01Z-00-DX1.xml"
    truth = read_annotation(path, (1000, 1000))
    found = imagescope.read(path, (1000, 1000))
    painted = np.zeros_like(truth)
    for k, (y1, x1, y2, x2) in enumerate(found.boxes, start=1):
        painted[y1:y2, x1:x2][found.masks[k - 1]] = k
    np.testing.assert_array_equal(painted, truth)
    once = Instances.from_label_map(truth)
    imagescope.write(tmp_path / "a.xml", once, mpp=0.25)
    expected = once.to_label_map()
    written = read_annotation(tmp_path / "a.xml", (1000, 1000))
    solid = [(filled(mask) == mask).all() for mask in once.masks]
    assert np.mean(solid) > 0.9
    hidden = np.isin(expected, np.flatnonzero(~np.array(solid)) + 1)  # nuclei with holes
    np.testing.assert_array_equal(
        written[~hidden & (expected > 0)], expected[~hidden & (expected > 0)]
    )


@pytest.mark.parametrize("version", [2, 3])
def test_ome_zarr_of_others(version, tmp_path):
    """Labels of an image, of OME-NGFF 0.4 and 0.5, with axes that have one plane."""
    labels = FOUND.to_label_map()
    root = zarr.create_group(tmp_path / "a.ome.zarr", zarr_format=version)

    def attributes(content):
        return content if version == 2 else {"ome": {"version": "0.5", **content}}

    def add(names):
        group = root.require_group("labels")
        group.attrs.update(attributes({"labels": names}))
        child = group.require_group(names[-1])
        child.attrs.update(attributes({"multiscales": [{"datasets": [{"path": "s0"}]}]}))
        child.create_array("s0", data=labels[None, None])

    add(["cells"])
    predictions = open_predictions(tmp_path)
    assert predictions.names == ["a"]
    np.testing.assert_array_equal(predictions.read_labels("a"), labels)
    assert open_predictions(tmp_path / "a.ome.zarr").names == ["a"]
    add(["cells", "nuclei"])
    refuses("has 2 label images", ome_zarr.read, tmp_path / "a.ome.zarr")
    predictions = open_predictions(tmp_path / "a.ome.zarr/labels/nuclei")
    assert predictions.names == ["a"]
    np.testing.assert_array_equal(predictions.read_labels("a"), labels)


# What cannot be used


def spoilt(path, data):
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["geojson", "imagej", "xml", "rle"])
def test_outlines_want_the_size_of_the_image(kind, tmp_path):
    folder = write(tmp_path / "in", kind, {"a": FOUND})
    words = r"in.*: outlines do not tell the size of the image; give .*\(--images\)"
    refuses(words, fuse_folders, [folder], tmp_path / "out")
    assert not (tmp_path / "out" / "labels").exists()


@pytest.mark.parametrize("kind", ["geojson", "imagej", "xml"])
def test_nuclei_outside_the_image_are_of_another(kind, tmp_path):
    write(tmp_path, kind, {"a": FOUND.translate(50, 80, (100, 150))})
    refuses(
        "nucleus 1 lies outside its image of 60 x 40", open_predictions(tmp_path).read, "a", SHAPE
    )


@pytest.mark.parametrize("keep", [0, 1, 20, 0.5, -30])
@pytest.mark.parametrize("suffix", ["geojson", "geojson.gz", "zip", "xml", "mat", "tif"])
def test_truncated_files(suffix, keep, tmp_path):
    path = tmp_path / f"a.{suffix}"
    if suffix == "mat":
        scipy.io.savemat(path, {"inst_map": FOUND.to_label_map()})
        module = hovernet
    else:
        module = {**OUTLINES, "tif": label_tiff}[suffix]
        module.write(path, FOUND)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    message = refuses("", module.read, path, SHAPE)
    assert message.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.geojson", b"[[]]", "no GeoJSON of polygons"),
        ("a.geojson", b'{"features": 3}', "no GeoJSON of polygons"),
        ("a.geojson", b"[" * 10**5, "no readable JSON"),
        ("a.geojson", json.dumps(feature([[0, 0], [1e400, 1], [3, 3]])).encode(), "no number"),
        ("a.geojson", json.dumps(feature([["x", 0], [1, 1], [3, 3]])).encode(), "no GeoJSON"),
        ("a.geojson", json.dumps(feature([0, 1, 2])).encode(), "no GeoJSON"),
        ("a.geojson", json.dumps(feature([[0], [1], [2]])).encode(), "no GeoJSON"),
        ("a.geojson", json.dumps(feature(["x", "y", "z"])).encode(), "no GeoJSON"),
        ("a.geojson", json.dumps(feature([["1", "1"]] * 3)).encode(), "no list of numbers"),
        ("a.geojson", json.dumps(geometry("Polygon", [])).encode(), None),
        ("a.geojson", json.dumps(geometry("Polygon", [[]])).encode(), "no list of numbers"),
        ("a.geojson", json.dumps(geometry("Polygon", SQUARE)).encode(), "no list of numbers"),
        ("a.geojson", json.dumps(geometry("Polygon", [[SQUARE]])).encode(), "no list of numbers"),
        ("a.geojson", json.dumps(geometry("Polygon", "xyz")).encode(), "no list of numbers"),
        ("a.geojson", json.dumps(geometry("MultiPolygon", [SQUARE])).encode(), "no list of"),
        ("a.geojson", json.dumps(geometry("Polygon", None)).encode(), "no GeoJSON"),
        ("a.geojson", b'{"type": "Feature"}', "no GeoJSON"),
        ("a.geojson", b'{"geometry": {"type": "Polygon"}}', "no GeoJSON"),
        ("a.geojson.gz", b"{}", "truncated or corrupt"),
        ("a.zip", b"PK\x05\x06" + bytes(18), None),
        ("a.xml", b'<!DOCTYPE a [<!ENTITY b "c">]><Annotations/>', "document type"),
        ("a.xml", b"<Annotations/>", "has no Annotation"),
        ("a.mat", b"MATLAB 5.0", "no readable result of HoVer-Net"),
        ("a.json", b'{"nuc": {"1": {}}}', "no readable result of HoVer-Net"),
        ("a.json", b'{"nuc": {"1": {"contour": [[900, 900]]}}}', "nucleus 1 lies outside"),
        ("a.json", b'{"nuc": {"1": {"contour": [[0, 0], [1000000, 1000000]]}}}', "pixels together"),
    ],
)
def test_broken_files(name, data, words, tmp_path):
    spoilt(tmp_path / name, data)
    predictions = open_predictions(tmp_path)
    if words is None:  # a zip of nothing and a polygon of no rings are images without nuclei
        assert predictions.read("a", SHAPE).areas.sum() == 0
    else:
        message = refuses(words, predictions.read, "a", SHAPE)
        assert message.startswith(f"{tmp_path / name}: ")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("x,y\n1,2\n", "no table ImageId,EncodedPixels"),
        ("ImageId,EncodedPixels\na\n", "no table ImageId,EncodedPixels"),
        ("ImageId,EncodedPixels\na,1 2 3\n", "nucleus 1 is no list of pairs"),
        ("ImageId,EncodedPixels\na,1 b\n", "nucleus 1 is no list of pairs"),
        ("ImageId,EncodedPixels\na,1 2\na,2399 3\n", "nucleus 2 leaves its image of 2400"),
        ("ImageId,EncodedPixels\na,0 3\n", "nucleus 1 leaves its image"),
        ("ImageId,EncodedPixels\na,5 3 6 1\n", "has some of them twice"),
    ],
)
def test_broken_submissions(rows, words, tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text(rows)
    message = refuses(words, lambda: open_predictions(path).read("a", SHAPE))
    assert message.startswith(f"{path}: ")


def test_bombs_are_not_unpacked(tmp_path, monkeypatch):
    for module in (geojson, imagej):
        monkeypatch.setattr(module, "MAX_BYTES", 1000)
    with gzip.open(tmp_path / "a.geojson.gz", "wb") as file:
        file.write(b"[" + b" " * 2000 + b"]")
    refuses("holds more than 1,000 bytes", geojson.read, tmp_path / "a.geojson.gz", SHAPE)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.roi", bytes(2000))
    refuses("holds more than 1,000 bytes", imagej.read, tmp_path / "a.zip", SHAPE)
    monkeypatch.setattr(hovernet, "MAX_PIXELS", 1000)
    scipy.io.savemat(tmp_path / "a.mat", {"inst_map": np.zeros(SHAPE)})
    refuses("holds more than 1,000 pixels", hovernet.read, tmp_path / "a.mat")
    content = {"inst_map": np.ones((2, 2)), "inst_uid": [1], "inst_type": np.zeros(2000)}
    scipy.io.savemat(tmp_path / "b.mat", content)
    refuses("holds more than 1,000 pixels", hovernet.read, tmp_path / "b.mat")
    monkeypatch.setattr(outlines, "MAX_PIXELS", 1000)
    square = feature([[0, 0], [30, 0], [30, 30], [0, 30]])  # 900 pixels
    path = spoilt(tmp_path / "c.geojson", json.dumps([square]).encode())
    assert geojson.read(path, SHAPE).areas.tolist() == [900]
    path = spoilt(tmp_path / "c.geojson", json.dumps([square] * 2).encode())
    refuses("more than 1,000 pixels together", geojson.read, path, SHAPE)
    contour = {"contour": [[0, 0], [29, 0], [29, 29], [0, 29]]}
    path = spoilt(tmp_path / "c.json", json.dumps({"nuc": {"1": contour, "2": contour}}).encode())
    refuses("more than 1,000 pixels together", hovernet.read, path, SHAPE)
    monkeypatch.setattr(ome_zarr, "MAX_PIXELS", 1000)
    ome_zarr.write(tmp_path / "a.zarr", FOUND)
    refuses("more than the limit of 1,000", ome_zarr.read, tmp_path / "a.zarr")


@pytest.mark.parametrize(
    "rings",
    [
        [[SQUARE]] * 30,  # 36 pixels each, on the same place
        [[[[x, x], [x + 2, x], [x, x + 2]]] for x in (0, 36)],  # 38 x 38 pixels between them
    ],
)
def test_nuclei_of_many_or_distant_parts_are_bounded(rings, tmp_path, monkeypatch):
    path = spoilt(tmp_path / "a.geojson", json.dumps(geometry("MultiPolygon", rings)).encode())
    monkeypatch.setattr(outlines, "MAX_PIXELS", 1500)
    assert len(geojson.read(path, SHAPE)) == 1
    monkeypatch.setattr(outlines, "MAX_PIXELS", 1000)
    refuses("a.geojson: its nuclei have more than 1,000 pixels together", geojson.read, path, SHAPE)


def test_broken_ome_zarr(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    refuses("no readable OME-Zarr", ome_zarr.read, tmp_path / "a.zarr")
    ome_zarr.write(tmp_path / "b.zarr", FOUND)
    next((tmp_path / "b.zarr/0").rglob("0")).joinpath("0").write_bytes(b"not zlib")
    refuses("no readable OME-Zarr", ome_zarr.read, tmp_path / "b.zarr")


@pytest.mark.parametrize("field", ["compressor", "filters"])
def test_zarr_folders_run_no_code(field, tmp_path):
    """Chunks that are unpickled would create a file."""
    created = tmp_path / "created"

    class Evil:
        def __reduce__(self):
            return Path.touch, (created,)

    ome_zarr.write(tmp_path / "a.zarr", FOUND)
    metadata = tmp_path / "a.zarr/0/.zarray"
    pickled = {"id": "pickle", "protocol": 5}
    known = {**json.loads(metadata.read_text()), "filters": None, "compressor": None}
    next((tmp_path / "a.zarr/0").rglob("0")).joinpath("0").write_bytes(pickle.dumps(Evil()))
    for dtype in ("|O", "<u2"):
        codec = [pickled] if field == "filters" else pickled
        metadata.write_text(json.dumps({**known, field: codec, "dtype": dtype}))
        refuses("", ome_zarr.read, tmp_path / "a.zarr")
    assert not created.exists()


def test_labels_are_whole_numbers(tmp_path):
    ome_zarr.write(tmp_path / "a.zarr", FOUND)
    metadata = tmp_path / "a.zarr/0/.zarray"
    metadata.write_text(metadata.read_text().replace('"<u2"', '"<f2"'))
    refuses("its labels are float16; export them as integers", ome_zarr.read, tmp_path / "a.zarr")


@pytest.mark.parametrize("score", ["NaN", "Infinity"])
def test_scores_are_numbers(score, tmp_path):
    square = feature([[0, 0], [3, 0], [3, 3]], measurements={"score": float(score)})
    path = spoilt(tmp_path / "a.geojson", json.dumps([square]).encode())
    refuses("the score of nucleus 1 is no number", geojson.read, path, SHAPE)


def test_the_longest_ending_is_no_part_of_the_name(tmp_path):
    imagej.write(tmp_path / "x_cp_masks.zip", FOUND)
    assert open_predictions(tmp_path).names == ["x"]


def test_files_of_no_kind(tmp_path):
    path = spoilt(tmp_path / "a.txt", b"")
    refuses("a.txt: is of no kind", open_predictions, path)
    refuses("gone: no such file or folder", open_predictions, tmp_path / "gone")
    refuses("no predictions in it", open_predictions, tmp_path)


@pytest.mark.parametrize(("module", "name"), [(imagej, "zip"), (ome_zarr, "zarr")])
def test_missing_packages_are_named(module, name, tmp_path, monkeypatch):
    package = {"zip": "roifile", "zarr": "zarr"}[name]
    monkeypatch.setitem(sys.modules, package, None)
    words = rf"{package}; pip install 'mrcnn-nuclei\[formats\]'"
    refuses(words, module.write, tmp_path / f"a.{name}", FOUND)
    assert list(tmp_path.iterdir()) == []
