"""The ways of new users, from an empty folder: what they have, the commands, what they look for.

A fourth one, old scripts for Matterport's package with weights of theirs, is `test_clients.py`.
"""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image
from pycocotools.coco import COCO
from test_slides import write_aperio

from mrcnn.instances import Instances
from mrcnn_nuclei.cli import main
from mrcnn_nuclei.datasets import synthetic

SMALL = ["STEPS_PER_EPOCH=2", "VALIDATION_STEPS=1", "IMAGE_MIN_DIM=64", "IMAGE_MAX_DIM=64"]
TOY = ["--epochs", "1", "--model", "unet", "--weights", "free"]
TOY += [word for assignment in SMALL for word in ("--set", assignment)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    assert main(list(words)) == 0


def scores(path):
    return json.loads(path.read_text())["mean"]


@pytest.mark.slow
def test_own_png_and_label_maps_of_imagej(folder):
    """ImageJ keeps labels in 32 bits, and MorphoLibJ names them NAME-lbl."""
    (folder / "tissue" / "images").mkdir(parents=True)
    (folder / "tissue" / "labels").mkdir()
    for number, (_, image, labels) in enumerate(synthetic.generate(3, 160, seed=7)):
        Image.fromarray(image).save(f"tissue/images/slide {number}.png")
        path = f"tissue/labels/slide {number}-lbl.tif"
        tifffile.imwrite(path, labels.astype(np.float32), imagej=True)
    run("train", "--dataset", "tissue", *TOY)
    last = ["--model", "unet", "--weights", "last"]
    run("detect", "--dataset", "tissue", "--subset", "val", *last, "--write", "labels,overlay")
    held_out = [path.stem for path in (folder / "results" / "overlay").iterdir()]
    assert len(held_out) == 1
    with Image.open(folder / "results" / "overlay" / f"{held_out[0]}.png") as overlay:
        assert overlay.size == (160, 160)
    truth = ["--truth", "tissue", "--subset", "val"]
    run("evaluate", "--predictions", "results", *truth, "--json", "scores.json")
    assert scores(folder / "scores.json")["AJI"] > 0.5  # the weights know such tissue


@pytest.mark.slow
def test_a_coco_export(folder):
    """As annotation tools write it: several categories, polygons."""
    (folder / "export").mkdir()
    images, annotations = [], []
    for number, (_, image, labels) in enumerate(synthetic.generate(3, 160, seed=7)):
        name = f"{number}.jpg"
        Image.fromarray(image).save(folder / "export" / name, quality=95)
        images.append({"id": number, "file_name": name, "width": 160, "height": 160})
        nuclei = Instances.from_label_map(labels)
        for rings, (y1, x1, y2, x2), area in zip(
            nuclei.to_polygons(), nuclei.boxes.tolist(), nuclei.areas.tolist()
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1 + len(annotations) % 2,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": area,
                    "iscrowd": 0,
                    "segmentation": [ring.ravel().tolist() for ring in rings],
                }
            )
    categories = [{"id": 1, "name": "Tumour nucleus"}, {"id": 2, "name": "Lymphocyte"}]
    export = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "export" / "_annotations.coco.json").write_text(json.dumps(export))

    run("train", "--dataset", "export", *TOY)
    run("detect", "--dataset", "export", "--model", "unet", "--weights", "last", "--write", "coco")
    found = COCO(str(folder / "results" / "coco.json"))
    assert sorted(image["file_name"] for image in found.imgs.values()) == [
        "0.jpg",
        "1.jpg",
        "2.jpg",
    ]
    run("evaluate", "--predictions", "results", "--truth", "export", "--json", "scores.json")
    assert scores(folder / "scores.json")["AJI"] > 0.5


def test_a_slide_to_qupath(folder):
    """Without training; then again in a region that was drawn in QuPath."""
    tissue, _ = synthetic.draw_tile(320, np.random.default_rng(5))
    slide = np.full((1000, 1200, 3), 243, np.uint8)
    slide[300:620, 500:820] = tissue
    write_aperio(folder / "case 12.svs", slide)
    run("detect", "--image", "case 12.svs", "--write", "geojson")
    written = json.loads((folder / "results" / "geojson" / "case 12.geojson").read_text())
    assert written["type"] == "FeatureCollection" and len(written["features"]) > 20
    for feature in written["features"]:
        assert feature["properties"]["objectType"] == "detection"
        polygons = feature["geometry"]["coordinates"]
        if feature["geometry"]["type"] == "Polygon":
            polygons = [polygons]
        for ring in (ring for polygon in polygons for ring in polygon):
            assert ring[0] == ring[-1]
            x, y = np.transpose(ring)  # in pixels of the slide, where the tissue is
            assert 495 <= x.min() <= x.max() <= 825 and 295 <= y.min() <= y.max() <= 625

    corners = [[500, 300], [660, 300], [660, 460], [500, 460], [500, 300]]
    region = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [corners]},
        "properties": {"objectType": "annotation"},
    }
    (folder / "region.geojson").write_text(json.dumps(region))
    inside = ["--region", "region.geojson", "--output", "inside"]
    run("detect", "--image", "case 12.svs", "--write", "geojson", *inside)
    within = json.loads((folder / "inside" / "geojson" / "case 12.geojson").read_text())
    assert 0 < len(within["features"]) < len(written["features"])
    outlines = [feature["geometry"] for feature in written["features"]]
    assert all(feature["geometry"] in outlines for feature in within["features"])
