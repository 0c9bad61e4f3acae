"""What new users do in their first hour, from an empty folder, by the commands of the README."""

import json
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from skimage import measure
from tiny import tiny_preset

from mrcnn_nuclei.cli import main
from mrcnn_nuclei.datasets.synthetic import draw_tile

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent

# Of TensorFlow, on running networks without tracing.
pytestmark = pytest.mark.filterwarnings("ignore:Even though the .tf.config.experimental_run")


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """An empty folder, in which the commands run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nucleus(empty, capsys):
    """Run a command as typed, and return what it prints; it must succeed."""

    def run(line):
        assert main(line.split()) == 0
        return "".join(capsys.readouterr())

    with tiny_preset():
        yield run


def run_process(*command):
    """Run a program as its users do, and return what it prints; it must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg"}
    command = [sys.executable, *map(str, command)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


def scores_in(path):
    """The AJI of each image in the JSON file of `nucleus evaluate`."""
    return {image["image"]: image["AJI"] for image in json.loads(Path(path).read_text())["images"]}


# Own images, and label maps from Fiji


def test_pngs_and_label_maps_of_imagej(nucleus):
    """MorphoLibJ's names; of 8, 16 and 32 bits, as ImageJ chooses."""
    for folder in ("mine/images", "mine/labels", "new"):
        Path(folder).mkdir(parents=True)
    for k, dtype in enumerate((np.uint8, np.uint16, np.float32)):
        image, labels = draw_tile(96, np.random.default_rng(k))
        Image.fromarray(image).save(f"mine/images/case {k}.png")
        tifffile.imwrite(f"mine/labels/case {k}-lbl.tif", labels.astype(dtype), imagej=True)
        Image.fromarray(image).save(f"new/case {k}.png")

    nucleus("evaluate --predictions mine/labels --truth mine --json truth.json")
    assert scores_in("truth.json") == {"case 0": 1, "case 1": 1, "case 2": 1}

    said = nucleus("train --dataset mine --preset tiny --epochs 1")
    best = Path(re.search(r"best checkpoint: (.*\.h5)$", said, re.MULTILINE).group(1))
    assert best.is_file()

    said = nucleus(
        "detect --dataset new --weights last --preset tiny --write overlay,labels,geojson,csv"
    )
    assert re.search(r"\d+ nuclei in 3 images; wrote .* to results", said)
    for kind in ("overlay/{}.png", "labels/{}.tif", "geojson/{}.geojson", "measurements/{}.csv"):
        assert all(Path("results", kind.format(f"case {k}")).is_file() for k in range(3))

    said = nucleus("evaluate --predictions results/labels --truth mine --json scores.json")
    assert "mean" in said
    assert all(0 <= score < 1 for score in scores_in("scores.json").values())


# A COCO export


def coco_annotation(mask, as_polygon):
    """A nucleus as a polygon through its edge pixels' borders, or in plain run lengths."""
    if as_polygon:
        (ring, *_) = measure.find_contours(np.pad(mask, 1), 0.5)
        return [(ring[:, ::-1] - 0.5).ravel().tolist()]
    columns = mask.ravel(order="F")
    edges = [0, *(np.flatnonzero(np.diff(columns)) + 1), columns.size]
    counts = [0] * bool(columns[0]) + np.diff(edges).tolist()
    return {"counts": counts, "size": list(mask.shape)}


def write_export(images, annotations, names):
    """Write the images and the JSON file of an export with two categories, in turn."""
    Path(images).mkdir(parents=True)
    Path(annotations).parent.mkdir(parents=True, exist_ok=True)
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 3, "name": "Tumour cell"}, {"id": 7, "name": "Lymphocyte"}],
    }
    truth = {}
    for image_id, name in enumerate(names):
        image, labels = draw_tile(96, np.random.default_rng(image_id))
        Image.fromarray(image).save(f"{images}/{name}.png")
        content["images"].append(
            {"id": image_id, "file_name": f"{name}.png", "height": 96, "width": 96}
        )
        for label in range(1, labels.max() + 1):
            mask = labels == label
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": 3 if label % 2 else 7,
                    "segmentation": coco_annotation(mask, as_polygon=label % 3),
                    "area": int(mask.sum()),
                    "bbox": coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask))).tolist(),
                    "iscrowd": 0,
                }
            )
        truth[name] = labels
    Path(annotations).write_text(json.dumps(content))
    return truth


def test_a_coco_export(nucleus):
    """Of CVAT: polygons, and run lengths where the brush was used."""
    export = "export/annotations/instances_default.json"
    truth = write_export("export/images/default", export, ["a", "b", "c"])
    Path("exact").mkdir()
    for name, labels in truth.items():
        tifffile.imwrite(f"exact/{name}.tif", labels.astype(np.uint16))

    said = nucleus("evaluate --predictions exact --truth export --json exact.json")
    assert all(score > 0.9 for score in scores_in("exact.json").values())  # corners are cut
    assert f"{export}: all 2 categories count as nuclei" in said

    nucleus("train --dataset export --preset tiny --epochs 1")
    nucleus("detect --dataset export --weights last --preset tiny --write coco --output found")
    found = COCO("found/coco.json")
    assert [image["file_name"] for image in found.loadImgs(found.getImgIds())] == [
        "a.png",
        "b.png",
        "c.png",
    ]
    assert found.loadCats(found.getCatIds())[0]["name"] == "nucleus"
    assert found.anns and all(0 <= x["score"] <= 1 for x in found.anns.values())

    nucleus("evaluate --predictions found --truth export --json scores.json")
    assert scores_in("scores.json").keys() == truth.keys()
    nucleus(f"evaluate --predictions {export} --truth export --json same.json")
    assert scores_in("same.json") == {"a": 1, "b": 1, "c": 1}


def test_roboflow_has_chosen_the_images_to_validate_on(nucleus):
    for subset, names in (("train", "abc"), ("valid", "de"), ("test", "f")):
        write_export(f"all/{subset}", f"all/{subset}/_annotations.coco.json", names)
    said = nucleus("train --dataset all --preset tiny --epochs 1")
    assert "3 images to train on, 2 to validate on" in said


# A script and weights for Matterport's package


def write_keras_2_weights(path):
    """Write random weights of 81 classes in the layout of Matterport's COCO file."""
    told = json.loads((TESTS / "golden" / "h5_inventory_resnet50_81.json").read_text())
    rng = np.random.default_rng(0)

    def array(name, shape):
        if name.endswith(("gamma:0", "moving_variance:0")):
            return np.full(shape, 0.1 if "branch2c/gamma" in name else 1.0)
        if len(shape) == 1:
            return np.zeros(shape)
        gain = 0.001 if name.startswith(("conv1", "fpn", "rpn")) else 1
        return rng.normal(0, (gain / np.prod(shape[:-1])) ** 0.5, shape)

    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in told["root_attrs"]["layer_names"]]
        for group in told["empty_groups"]:
            file.create_group(group).attrs["weight_names"] = []
        for group, details in told["groups_with_weights"].items():
            names = [name.encode() for name in details["attrs"]["weight_names"]]
            file.create_group(group).attrs["weight_names"] = names
        for name, (shape, dtype) in told["datasets"].items():
            file[name] = array(name, shape).astype(dtype)


@pytest.mark.slow
def test_a_script_and_weights_of_matterports(empty):
    write_keras_2_weights("mask_rcnn_coco.h5")
    Path("images").mkdir()
    for k in range(3):
        image, labels = draw_tile(128, np.random.default_rng(k))
        Image.fromarray(image).save(f"images/field{k}.png")
        Path(f"masks/field{k}").mkdir(parents=True)
        for label in range(1, labels.max() + 1):
            mask = Image.fromarray(((labels == label) * 255).astype(np.uint8))
            mask.save(f"masks/field{k}/{label:03}.png")

    said = run_process(TESTS / "clients" / "cells.py", "mask_rcnn_coco.h5")
    assert 0 <= float(re.search(r"^mAP: (\S+)$", said, re.MULTILINE).group(1)) <= 1
    assert int(re.search(r"^cells: (\d+)$", said, re.MULTILINE).group(1)) <= 100
    assert Image.open("cells.png").size > (100, 100)

    (trained,) = Path("logs").glob("cell*/mask_rcnn_cell_0001.h5")
    with h5py.File("mask_rcnn_coco.h5") as before, h5py.File(trained) as after:
        name = "res2a_branch2a/res2a_branch2a/kernel:0"  # not of the heads: as it was
        np.testing.assert_array_equal(before[name], after[name])
        name = "fpn_c5p5/fpn_c5p5/kernel:0"
        assert not np.array_equal(before[name], after[name])
        assert after["mrcnn_mask/mrcnn_mask/kernel:0"].shape[-1] == 2  # excluded: of two classes


# A slide, to QuPath

SIDE = 4352
CORNER, TISSUE = 1024, 512


def write_svs(path):
    """Write a slide as Aperio's scanners do, glass with a field of tissue, and return its truth."""
    field, labels = draw_tile(TISSUE, np.random.default_rng(0))
    slide = np.full((SIDE, SIDE, 3), 244, np.uint8)
    slide[CORNER : CORNER + TISSUE, CORNER : CORNER + TISSUE] = field
    with tifffile.TiffWriter(path) as writer:
        for step in (1, 4, 16):
            level = np.ascontiguousarray(slide[::step, ::step])
            size = f"{level.shape[1]}x{level.shape[0]}"
            writer.write(
                level,
                photometric="rgb",
                tile=(256, 256),
                compression="jpeg",
                compressionargs={"level": 95},
                description=f"Aperio Image Library v12.0.15\r\n{SIDE}x{SIDE} [0,0 {SIDE}x{SIDE}] "
                f"(256x256) -> {size} JPEG/RGB Q=95|AppMag = 40|MPP = 0.2500",
                metadata=None,
            )
    return labels


def read_detections(path):
    """The polygons of a GeoJSON file by id, after all that QuPath asks of one."""
    from shapely.geometry import shape

    content = json.loads(Path(path).read_text())
    assert content["type"] == "FeatureCollection"
    found = {}
    for feature in content["features"]:
        assert feature["type"] == "Feature"
        assert str(uuid.UUID(feature["id"])) == feature["id"]
        assert feature["properties"]["objectType"] == "detection"
        assert feature["properties"]["classification"]["name"] == "Nucleus"
        geometry = feature["geometry"]
        polygons = geometry["coordinates"]
        polygons = [polygons] if geometry["type"] == "Polygon" else polygons
        for ring in (ring for polygon in polygons for ring in polygon):
            assert len(ring) >= 4 and ring[0] == ring[-1]
            assert np.min(ring) >= 0 and np.max(ring) <= SIDE
        found[feature["id"]] = shape(geometry)
    assert len(found) == len(content["features"])
    return found


def write_region(path, corners):
    """Write an annotation as QuPath exports it."""
    ring = [list(map(float, corner)) for corner in (*corners, corners[0])]
    annotation = {
        "type": "Feature",
        "id": "7d2c1f6e-64a3-4f0a-9d4c-3a0b6c1f7a51",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "objectType": "annotation",
            "name": "Tumour",
            "classification": {"name": "Tumor", "color": [200, 0, 0]},
            "isLocked": False,
        },
    }
    Path(path).write_text(json.dumps({"type": "FeatureCollection", "features": [annotation]}))


@pytest.mark.slow
def test_a_slide_to_qupath(empty):
    from shapely.geometry import Point, Polygon, box

    labels = write_svs("slide.svs")
    program = ROOT / "samples" / "nucleus.py"
    command = (program, "detect", "--image", "slide.svs", "--write", "geojson")
    said = run_process(*command)
    found = read_detections("results/geojson/slide.geojson")
    assert f"{len(found)} nuclei in 1 image; wrote geojson to results" in said

    field = box(CORNER, CORNER, CORNER + TISSUE, CORNER + TISSUE)
    assert all(field.buffer(16).contains(polygon.centroid) for polygon in found.values())
    middles = [
        Point(CORNER + x + 0.5, CORNER + y + 0.5)
        for y, x in (region.centroid for region in measure.regionprops(labels))
    ]
    hit = [any(polygon.contains(middle) for polygon in found.values()) for middle in middles]
    assert np.mean(hit) > 0.5

    corners = [(CORNER + x, CORNER + y) for x, y in ((50, 60), (400, 40), (300, 420))]
    write_region("tumour.geojson", corners)
    run_process(*command, "--region", "tumour.geojson", "--output", "tumour")
    inside = read_detections("tumour/geojson/slide.geojson")
    assert 0 < len(inside) < len(found)
    assert all(Polygon(corners).buffer(2).contains(x.centroid) for x in inside.values())
