"""Readers against the real files and against small ones made by hand; folds; NucleusDataset."""

import gzip
import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn_nuclei.datasets import FORMATS, NucleusDataset, detect_format, nucleus, reader
from mrcnn_nuclei.datasets.folds import make_folds, read_folds, write_folds
from mrcnn_nuclei.datasets.monuseg import read_annotation
from mrcnn_nuclei.formats import imagej
from mrcnn_nuclei.image_files import read_label_map

RING = [(2, 1), (5, 1), (5, 4), (2, 4)]  # (x, y): columns 2 to 5, rows 1 to 4, outline included


def write_image(path, height=10, width=12, value=200):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((height, width, 3), value, np.uint8)
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="rgb")
    else:
        Image.fromarray(pixels).save(path)


def write_labels(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(labels, np.uint16)).save(path)


def write_xml(path, regions, before=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    body = "".join(
        f'<Region Id="{10 + k}"><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in region)
        + "</Vertices></Region>"
        for k, region in enumerate(regions)
    )
    path.write_text(
        f"{before}<Annotations><Annotation Id='1'><Regions>{body}</Regions></Annotation>"
        "</Annotations>"
    )


def two_nuclei(height=10, width=12):
    labels = np.zeros((height, width), int)
    labels[1:4, 1:4] = 7
    labels[5:9, 4:11] = 3
    return labels


def refused(action, *words):
    """Check that an action gives one line that contains the words."""
    with pytest.raises(InputError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message
    return message


# MoNuSeg


def test_monuseg_xml_equals_the_label_maps_pixel_for_pixel(monuseg):
    sources = json.loads((monuseg / "sources.json").read_text())
    names = [name for name, source in sources.items() if source == "xml"]
    assert len(names) == 13
    for name in names:
        labels = read_annotation(monuseg / "train" / f"{name}.xml", (1000, 1000))
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(
            labels, read_label_map(monuseg / "labels" / f"{name}.png"), err_msg=name
        )


def test_monuseg_has_the_nuclei_of_its_table(monuseg):
    # Counts from the label maps: the XML agrees with them, see above.
    samples = reader("monuseg").find(monuseg)
    counts = {
        sample.name: len(np.unique(read_label_map(monuseg / "labels" / f"{sample.name}.png"))) - 1
        for sample in samples
    }
    assert len(samples) == 30 and sum(counts.values()) == 16958
    assert counts["TCGA-HE-7130-01Z-00-DX1"] == 1862
    assert sum(sample.annotation.suffix == ".xml" for sample in samples) == 13
    organs = json.loads((monuseg / "organs.json").read_text())
    assert {sample.name: sample.organ for sample in samples} == organs
    assert samples[0].group == "TCGA-18-5592"


def test_monuseg_folds_are_those_of_its_file(monuseg):
    folds = json.loads((monuseg / "folds.json").read_text())
    for k in range(5):
        val = NucleusDataset().load(monuseg, subset="val", fold=k)
        train = NucleusDataset().load(monuseg, format="monuseg", subset="train", fold=k)
        assert val.names == sorted(folds[f"fold{k}"])
        assert len(train.names) == 24 and not set(train.names) & set(val.names)
    assert NucleusDataset().load(monuseg, subset="val").names == sorted(folds["fold0"])
    assert len(NucleusDataset().load(monuseg, fold=2).names) == 30
    refused(lambda: NucleusDataset().load(monuseg, subset="val", fold=5), monuseg, "0 to 4")


def test_the_densest_image_loads(monuseg):
    data = NucleusDataset().load(monuseg, subset="val", fold=1)
    image_id = data.names.index("TCGA-HE-7130-01Z-00-DX1")
    labels, class_ids = data.load_labels(image_id)
    assert data.load_image(image_id).shape == (1000, 1000, 3)
    assert labels.shape == (1000, 1000) and labels.dtype == class_ids.dtype == np.int32
    assert np.array_equal(np.unique(labels), np.arange(1863)) and (class_ids == 1).all()
    assert data.image_info[image_id]["organ"] == "Kidney"
    assert data.image_reference(image_id).endswith("TCGA-HE-7130-01Z-00-DX1.tif")


def test_annotation_by_hand(tmp_path):
    path = tmp_path / "a.xml"
    write_xml(
        path,
        [
            RING,
            [(0, 0), (1, 1)],  # two vertices: no area, but a position in the file
            [(4, 3), (7, 3), (7, 6), (4, 6), (4, 3)],  # overwrites a corner of the first; closed
            [(9.5, -2.9), (14, -2.9), (14, 1.5), (9.5, 1.5)],  # clipped at the upper right corner
        ],
    )
    expected = np.zeros((10, 12), int)
    expected[1:5, 2:6] = 1
    expected[3:7, 4:8] = 3
    expected[0:2, 10:12] = 4
    np.testing.assert_array_equal(read_annotation(path, (10, 12, 3)), expected)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("<Annotations><Annotation>", "not well-formed"),
        ("", "not well-formed"),
        (b"\xff\xfe\x00garbage", "not well-formed"),
        (
            '<!DOCTYPE a [<!ENTITY e SYSTEM "file:///etc/passwd">]><Annotations>&e;</Annotations>',
            "entities",
        ),
        ('<!DOCTYPE a [<!ENTITY e "ha">]><Annotations>&e;</Annotations>', "entities"),
        ('<!DOCTYPE a SYSTEM "http://example.org/a.dtd"><Annotations/>', "document type"),
        ("<kml/>", "no Annotation"),
        ("<Annotations><Annotation/></Annotations>", "no regions"),
        (
            "<Annotations><Annotation><Region><Vertex X='1' Y='one'/></Region></Annotation>"
            "</Annotations>",
            "numeric",
        ),
        (
            "<Annotations><Annotation><Region><Vertex X='1'/></Region></Annotation></Annotations>",
            "numeric",
        ),
        (
            "<Annotations><Annotation><Region><Vertex X='1' Y='nan'/></Region></Annotation>"
            "</Annotations>",
            "no number",
        ),
    ],
)
def test_unusable_xml_is_refused(tmp_path, content, word):
    path = tmp_path / "a.xml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(lambda: read_annotation(path, (10, 10)), path, word)


def test_xml_of_a_larger_image_is_refused(tmp_path):
    write_xml(tmp_path / "a.xml", [RING, [(700, 700), (710, 700), (710, 710)]])
    refused(lambda: read_annotation(tmp_path / "a.xml", (10, 12)), tmp_path / "a.xml", "12 x 10")
    refused(lambda: read_annotation(tmp_path / "no.xml", (10, 12)), tmp_path / "no.xml")


def test_monuseg_prefers_xml_in_a_flat_folder_too(tmp_path):
    write_image(tmp_path / "a.tif")
    write_xml(tmp_path / "a.xml", [RING])
    write_labels(tmp_path / "labels" / "a.png", two_nuclei())
    write_image(tmp_path / "b.tif")
    write_labels(tmp_path / "labels" / "b.png", two_nuclei())
    data = NucleusDataset().load(tmp_path, format="monuseg")
    assert data.names == ["a", "b"]
    assert [len(data.load_labels(k)[1]) for k in range(2)] == [1, 2]
    assert detect_format(tmp_path) == "monuseg"


# DSB2018


@pytest.mark.parametrize(
    ("folder", "images", "nuclei"),
    [("dsb2018_histology", 107, 4550), ("dsb2018_fluo_sample", 40, 2513)],
)
def test_dsb2018_is_complete(shared, folder, images, nuclei):
    root = shared / "data" / folder
    facts = json.loads((shared / "data" / f"{folder}.json").read_text())
    data = NucleusDataset().load(root)
    assert data.names == sorted(facts) and len(data.names) == images
    assert {
        name: len(info["sample"].annotation) for name, info in zip(data.names, data.image_info)
    } == {name: fact["nuclei"] for name, fact in facts.items()}
    assert sum(fact["nuclei"] for fact in facts.values()) == nuclei
    for image_id in range(0, images, 9):
        fact = facts[data.names[image_id]]
        labels, class_ids = data.load_labels(image_id)
        assert len(class_ids) == fact["nuclei"] == labels.max()
        assert data.load_image(image_id).shape == (fact["height"], fact["width"], 3)
        np.testing.assert_allclose(
            data.load_image(image_id).mean((0, 1)), fact["mean_rgb"], atol=0.051
        )


def write_dsb(folder, masks, size=(10, 12)):
    write_image(folder / "images" / f"{folder.name}.png", *size)
    (folder / "masks").mkdir()
    for name, mask in masks.items():
        Image.fromarray(np.uint8(255 * mask)).save(folder / "masks" / name)


def test_dsb2018_paints_masks_in_the_order_of_their_names(tmp_path):
    first, second = np.zeros((2, 10, 12), bool)
    first[1:5, 1:5] = second[4:8, 4:8] = True
    write_dsb(tmp_path / "stage1_train" / "id", {"b.png": second, "a.png": first})
    write_image(tmp_path / "stage1_test" / "other" / "images" / "other.png")
    assert detect_format(tmp_path) == "dsb2018"
    labels, class_ids = NucleusDataset().load(tmp_path).load_labels(0)
    assert labels[4, 4] == 2 and labels[3, 3] == 1 and class_ids.tolist() == [1, 1]
    assert NucleusDataset().load(tmp_path, subset="stage1_train").names == ["id"]

    test = NucleusDataset().load(tmp_path, subset="stage1_test", annotated=False)
    assert test.load_image(0).shape == (10, 12, 3)
    path = tmp_path / "stage1_test" / "other" / "images" / "other.png"
    refused(lambda: test.load_labels(0), path, "no annotation")
    refused(lambda: NucleusDataset().load(tmp_path, subset="stage1_test"), path, "no annotation")


def test_dsb2018_mask_of_another_size_is_refused(tmp_path):
    write_dsb(tmp_path / "id", {"a.png": np.ones((10, 11), bool)})
    data = NucleusDataset().load(tmp_path)
    refused(lambda: data.load_labels(0), "a.png", "id.png", "11 x 10", "12 x 10")


# Pairs


@pytest.mark.parametrize(
    ("image", "labels"),
    [
        ("images/a.png", "labels/a.png"),
        ("images/a.tif", "masks/a.png"),
        ("images/a.png", "masks/a_mask.png"),
        ("a.png", "a_label.png"),
        ("a.tif", "a_labels.png"),
        ("a.png", "a_masks.png"),
        ("a.png", "labels/a.png"),
        ("train/images/a.png", "train/labels/a.png"),
        ("test/images/a.png", "test/labels/a.png"),
    ],
)
def test_label_map_layouts(tmp_path, image, labels):
    write_image(tmp_path / image)
    write_labels(tmp_path / labels, two_nuclei())
    subset = "test" if image.startswith("test") else None
    assert detect_format(tmp_path, subset) == "label_maps"
    data = NucleusDataset().load(tmp_path, subset=subset)
    assert data.names == ["a"]
    found, class_ids = data.load_labels(0)
    assert found[2, 2] == 2 and found[6, 6] == 1 and class_ids.tolist() == [1, 1]
    masks, mask_class_ids = data.load_mask(0)
    assert masks.shape == (10, 12, 2) and masks.dtype == bool
    np.testing.assert_array_equal(masks[..., 1], two_nuclei() == 7)
    np.testing.assert_array_equal(mask_class_ids, class_ids)


def test_label_map_of_another_size_is_refused(tmp_path):
    write_image(tmp_path / "images" / "a.png")
    write_labels(tmp_path / "labels" / "a.png", two_nuclei(20, 20))
    data = NucleusDataset().load(tmp_path)
    refused(lambda: data.load_labels(0), "labels/a.png", "images/a.png", "20 x 20", "12 x 10")


@pytest.mark.parametrize("ending", ["-lbl", "-labels", "-labelled"])
def test_endings_of_fiji_and_qupath(tmp_path, ending):
    write_image(tmp_path / "images" / "a 1.png")
    write_labels(tmp_path / "labels" / f"a 1{ending}.png", two_nuclei())
    assert len(NucleusDataset().load(tmp_path).load_labels(0)[1]) == 2


def test_label_maps_of_other_names_are_missed(tmp_path):
    write_image(tmp_path / "images" / "a.png")
    write_labels(tmp_path / "labels" / "nuclei of a.png", two_nuclei())
    refused(
        lambda: NucleusDataset().load(tmp_path), tmp_path / "images" / "a.png", "like its image"
    )


def test_images_without_label_maps(tmp_path):
    write_image(tmp_path / "images" / "a.png")
    write_image(tmp_path / "images" / "b.png")
    write_labels(tmp_path / "labels" / "a.png", two_nuclei())
    refused(lambda: NucleusDataset().load(tmp_path), "b.png", "1 of 2")
    assert NucleusDataset().load(tmp_path, annotated=False).names == ["a", "b"]
    plain = tmp_path / "images"
    refused(lambda: NucleusDataset().load(plain), plain, *FORMATS)
    assert NucleusDataset().load(plain, annotated=False).names == ["a", "b"]


QUPATH = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[list(xy) for xy in ring]]},
            "properties": {"objectType": "annotation", **properties},
        }
        for ring, properties in [
            ([(1, 1), (4, 1), (4, 3), (1, 3), (1, 1)], {}),
            ([(3, 2), (7, 2), (7, 6), (3, 6), (3, 2)], {"classification": {"name": "Tumor"}}),
            ([(0, 0), (12, 0), (12, 10), (0, 10), (0, 0)], {"classification": {"name": "Ignore*"}}),
        ]
    ],
}
"""Two nuclei that share the pixel (2, 3), and a region that is none."""


@pytest.mark.parametrize(
    "place", ["annotations/a.geojson", "labels/a.png.geojson", "annotations/A.GeoJSON.gz", "zip"]
)
def test_outlines_of_qupath_and_fiji(tmp_path, place):
    write_image(tmp_path / "images" / "a.png")
    expected = np.zeros((10, 12), np.int32)
    expected[2:6, 3:7] = 2
    expected[1:3, 1:4] = 1
    if place == "zip":
        place = "masks/a.zip"
        nuclei = Instances.from_dense(np.stack([expected == 1, expected == 2], axis=-1))
        (tmp_path / "masks").mkdir()
        imagej.write(tmp_path / place, nuclei)
    else:
        data = json.dumps(QUPATH).encode()
        path = tmp_path / place
        path.parent.mkdir()
        path.write_bytes(gzip.compress(data) if place.endswith(".gz") else data)
    assert detect_format(tmp_path) == "outlines"
    data = NucleusDataset().load(tmp_path)
    labels, class_ids = data.load_labels(0)
    np.testing.assert_array_equal(labels, expected)
    assert class_ids.tolist() == [1, 1]


def test_labels_of_cellpose_beside_their_images(tmp_path):
    write_image(tmp_path / "a.png")
    np.save(tmp_path / "a_seg.npy", {"masks": two_nuclei().astype(np.uint16)})
    assert detect_format(tmp_path) == "outlines"
    labels, class_ids = NucleusDataset().load(tmp_path).load_labels(0)
    np.testing.assert_array_equal(labels > 0, two_nuclei() > 0)
    assert len(class_ids) == 2


def test_outlines_beside_their_images(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png")
    (tmp_path / "a.geojson").write_text(json.dumps(QUPATH))
    refused(lambda: NucleusDataset().load(tmp_path), "b.png", "1 of 2")
    (tmp_path / "b.geojson").write_text("{}")
    data = NucleusDataset().load(tmp_path)
    refused(lambda: data.load_labels(1), "b.geojson")


def test_an_image_without_nuclei(tmp_path):
    write_image(tmp_path / "a.png")
    write_labels(tmp_path / "a_label.png", np.zeros((10, 12)))
    data = NucleusDataset().load(tmp_path)
    labels, class_ids = data.load_labels(0)
    assert not labels.any() and class_ids.shape == (0,) and class_ids.dtype == np.int32
    assert data.load_mask(0)[0].shape == (10, 12, 0)


# COCO


def rle(mask):
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def write_coco(path, annotations, size=(10, 12), file_name="a.png"):
    write_image(path.parent / "images" / file_name)
    image = {"id": 5, "file_name": file_name, "height": size[0], "width": size[1]}
    content = {"images": [image], "categories": [{"id": 1, "name": "nucleus"}]}
    if annotations is not None:
        content["annotations"] = [
            {"id": k, "image_id": 5, "category_id": 1, "iscrowd": 0, **annotation}
            for k, annotation in enumerate(annotations)
        ]
    path.write_text(json.dumps(content))


def test_coco_polygons_run_lengths_and_crowds(tmp_path):
    crowd, nucleus_mask = np.zeros((2, 10, 12), bool)
    crowd[5:, 6:] = True
    nucleus_mask[6:8, 8:10] = True
    write_coco(
        tmp_path / "nuclei.json",
        [
            {"segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]]},
            {"segmentation": {"size": [10, 12], "counts": [3, 2, 115]}},
            {"segmentation": rle(nucleus_mask)},
            {"segmentation": rle(crowd), "iscrowd": 1},
        ],
    )
    assert detect_format(tmp_path) == detect_format(tmp_path / "nuclei.json") == "coco"
    data = NucleusDataset().load(tmp_path / "nuclei.json")
    labels, class_ids = data.load_labels(0)
    assert class_ids.tolist() == [1, 1, 1, -1]
    expected = np.zeros((10, 12), int)
    expected[1:4, 2:6] = 1
    expected[3:5, 0] = 2
    expected[crowd] = 4
    expected[nucleus_mask] = 3
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize("images", ["images/default", "images", "."])
def test_coco_as_cvat_packs_it(tmp_path, images):
    polygon = {"segmentation": [[2, 1, 6, 1, 6, 4]]}
    write_coco(tmp_path / "annotations" / "instances_default.json", [polygon])
    shutil.rmtree(tmp_path / "annotations" / "images")
    write_image(tmp_path / images / "a.png")
    data = NucleusDataset().load(tmp_path)
    assert data.image_reference(0) == str(tmp_path / images / "a.png")
    assert len(data.load_labels(0)[1]) == 1


def test_coco_says_what_is_ignored_and_what_is_one(tmp_path, caplog):
    square = [[2, 1, 6, 1, 6, 4]]
    write_image(tmp_path / "a.png")
    write_coco(
        tmp_path / "nuclei.json",
        [
            {"segmentation": square, "iscrowd": 1, "category_id": 1},
            {"segmentation": square, "iscrowd": 0, "category_id": 2},
        ],
    )
    for _ in range(2):
        NucleusDataset().load(tmp_path)
    crowds, categories = caplog.messages  # once a file
    assert "nuclei.json: 1 of 2 annotations have iscrowd 1 and are ignored" in crowds
    assert "nuclei.json: all 2 categories count as nuclei" in categories


def test_coco_preprocessing_keeps_out_of_crowds(tmp_path):
    crowd = np.zeros((10, 12), bool)
    crowd[5:, 6:] = True
    write_coco(
        tmp_path / "a.json",
        [
            {"segmentation": rle(crowd), "iscrowd": 1},
            {"segmentation": [[2, 1, 6, 1, 6, 4, 2, 4]]},
        ],
    )

    def shift_right(labels):
        assert labels.min() == 0
        return np.roll(labels, 1, axis=1)

    labels, class_ids = NucleusDataset().load(tmp_path, preprocess=shift_right).load_labels(0)
    assert class_ids.tolist() == [1, -1]
    assert (labels[1:4, 3:7] == 1).all() and (labels == 1).sum() == 12
    np.testing.assert_array_equal(labels == 2, crowd)


def test_unusable_coco_is_refused(tmp_path):
    path = tmp_path / "a.json"
    write_coco(path, [{"segmentation": [[2, 1, 6, 1, 6, 4]]}], size=(10, 99))
    data = NucleusDataset().load(tmp_path)
    refused(lambda: data.load_labels(0), path, "a.png", "99 x 10", "12 x 10")
    write_coco(path, [{"segmentation": {"size": [4, 4], "counts": [16]}}])
    refused(lambda: NucleusDataset().load(tmp_path).load_labels(0), path, "a.png")
    write_coco(path, [{}])
    refused(lambda: NucleusDataset().load(tmp_path).load_labels(0), path, "a.png")
    write_coco(path, [{"image_id": 6}])
    refused(lambda: NucleusDataset().load(tmp_path), path, "not a COCO")
    write_coco(path, None)
    refused(lambda: NucleusDataset().load(tmp_path), "a.png", "no annotation")
    path.write_text('{"images": [{"id": 1, "file_name": "gone.png"}], "annotations": []}')
    refused(lambda: NucleusDataset().load(tmp_path), path, "gone.png")
    path.write_text("{")
    refused(lambda: NucleusDataset().load(tmp_path), path, "JSON")
    (tmp_path / "b.json").write_text("{}")
    refused(lambda: NucleusDataset().load(tmp_path, format="coco"), tmp_path, "2 JSON files")


# Any format


def test_roots_that_cannot_be_used(tmp_path):
    missing = tmp_path / "missing"
    for format in (None, *FORMATS):
        refused(lambda format=format: NucleusDataset().load(missing, format=format), missing)
        refused(lambda format=format: NucleusDataset().load(tmp_path, format=format), tmp_path)
    refused(lambda: NucleusDataset().load(tmp_path), "no images in it")
    refused(lambda: NucleusDataset().load(tmp_path, format="voc"), "voc", "monuseg")
    write_image(tmp_path / "a.png")
    refused(lambda: NucleusDataset().load(tmp_path, format="label_maps", subset="test"), "'test'")


def test_damaged_files_are_named(tmp_path):
    write_image(tmp_path / "images" / "a.png")
    write_labels(tmp_path / "labels" / "a.png", two_nuclei())
    for folder in ("labels", "images"):
        path = tmp_path / folder / "a.png"
        path.write_bytes(path.read_bytes()[:-7])
        data = NucleusDataset().load(tmp_path)
        refused(lambda data=data: data.load_labels(0), path, "truncated")


def write_pairs(root, names):
    for name in names:
        write_image(root / "images" / f"{name}.png")
        write_labels(root / "labels" / f"{name}.png", two_nuclei())


def test_subfolders_are_the_subsets_where_both_exist(tmp_path):
    write_pairs(tmp_path / "train", "abc")
    write_pairs(tmp_path / "val", "de")
    assert NucleusDataset().load(tmp_path, subset="train").names == list("abc")
    assert NucleusDataset().load(tmp_path, subset="val").names == list("de")
    assert NucleusDataset().load(tmp_path).names == list("abcde")
    assert NucleusDataset().load(tmp_path, subset="all").names == list("abcde")
    assert NucleusDataset().load(tmp_path, subset="all", fold=0).names == list("abcde")
    val = NucleusDataset().load(tmp_path, subset="val", fold=0).names
    train = NucleusDataset().load(tmp_path, subset="train", fold=0).names
    assert sorted(val + train) == list("abcde") and len(val) == 1
    refused(lambda: NucleusDataset().load(tmp_path, subset="test", fold=0), "'test'")
    write_pairs(tmp_path / "val", "a")
    refused(lambda: NucleusDataset().load(tmp_path), "two images are called a")


def test_the_names_of_roboflow(tmp_path):
    for subset, names in (("train", "ab"), ("valid", "c"), ("test", "d")):
        write_pairs(tmp_path / subset, names)
    for subset, names in (("train", "ab"), ("val", "c"), ("valid", "c"), ("test", "d")):
        assert NucleusDataset().load(tmp_path, subset=subset).names == list(names)
    assert NucleusDataset().load(tmp_path).names == list("abc")


@pytest.mark.parametrize("count", [2, 3, 5, 11])
def test_a_split_without_folds_is_fold_0(tmp_path, count):
    names = [f"image{k:02d}" for k in range(count)]
    write_pairs(tmp_path, names)
    val = NucleusDataset().load(tmp_path, subset="val").names
    train = NucleusDataset().load(tmp_path, subset="train").names
    assert sorted(val + train) == names and val and train
    if count >= 5:
        assert val == NucleusDataset().load(tmp_path, subset="val", fold=0).names
    else:
        refused(lambda: NucleusDataset().load(tmp_path, subset="val", fold=0), "5 folds")


def test_one_image_cannot_be_split(tmp_path):
    write_pairs(tmp_path, ["a"])
    refused(lambda: NucleusDataset().load(tmp_path, subset="train"), tmp_path, "no image")


def test_a_folds_file_must_know_every_image(tmp_path):
    write_pairs(tmp_path, "abc")
    write_folds(tmp_path / "folds.json", [["a"], ["b"]])
    refused(lambda: NucleusDataset().load(tmp_path, subset="val", fold=0), "folds.json", "image c")


def test_preprocessing_is_for_training_labels_only(tmp_path):
    write_pairs(tmp_path, "ab")

    def keep_one(labels):
        return np.where(labels == 7, labels, 0)

    train = NucleusDataset().load(tmp_path, subset="train", preprocess=keep_one)
    val = NucleusDataset().load(tmp_path, subset="val", preprocess=keep_one)
    assert len(train.load_labels(0)[1]) == 1 and len(val.load_labels(0)[1]) == 2


def test_what_is_loaded_may_be_written_to(tmp_path):
    write_pairs(tmp_path, "a")
    data = NucleusDataset().load(tmp_path)
    data.load_image(0)[:] = 0
    data.load_labels(0)[0][:] = 0
    data.load_labels(0)[1][:] = 5
    assert (data.load_image(0) == 200).all()
    assert data.load_labels(0)[0].max() == 2 and data.load_labels(0)[1].tolist() == [1, 1]


def test_files_are_read_once_while_they_fit_in_memory(tmp_path, monkeypatch):
    write_pairs(tmp_path, "abc")
    read = []
    original = nucleus.read_image
    monkeypatch.setattr(nucleus, "read_image", lambda path: read.append(path) or original(path))
    data = NucleusDataset().load(tmp_path)
    for _ in range(3):
        for image_id in data.image_ids:
            data.load_labels(image_id)
            data.load_image(image_id)
    assert len(read) == 3
    monkeypatch.setattr(nucleus, "CACHE_BYTES", 2 * 10 * 12 * 3)
    data = NucleusDataset().load(tmp_path)
    for image_id in (0, 1, 0, 2, 0, 1):  # two images fit; 1 was used longest ago when 2 comes
        data.load_image(image_id)
    assert len(read) == 3 + 4
    assert data._cache._size == data._cache.capacity


def test_a_dataset_travels_to_another_process(tmp_path):
    write_pairs(tmp_path, "a")
    data = NucleusDataset().load(tmp_path)
    data.load_image(0)
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(data)).load_image(0), data.load_image(0)
    )


def test_matterport_names_are_kept(tmp_path):
    write_pairs(tmp_path, "ab")
    data = NucleusDataset().load(tmp_path)
    assert data.class_names == ["BG", "nucleus"] and data.num_classes == 2
    assert data.map_source_class_id("nucleus.1") == 1
    assert data.source_image_link(1) == str(tmp_path / "images" / "b.png")
    assert data.image_info[1]["id"] == "b" and data.image_info[1]["source"] == "nucleus"


def test_synthetic_needs_no_files():
    train = NucleusDataset().load(None, format="synthetic", subset="train")
    val = NucleusDataset().load("0", format="synthetic", subset="val")
    assert train.names and val.names and not set(train.names) & set(val.names)
    labels, class_ids = val.load_labels(0)
    assert val.load_image(0).shape == (*labels.shape, 3)
    assert labels.max() == len(class_ids) > 10
    refused(lambda: NucleusDataset().load("here", format="synthetic"), "here", "seed")


def test_reading_labels_needs_no_network_library():
    program = (
        "import sys, mrcnn_nuclei.datasets.nucleus, mrcnn_nuclei.datasets.coco\n"
        "print([name for name in ('keras', 'tensorflow', 'matplotlib') if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


# Folds


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_folds_divide_the_images_evenly(data):
    count = data.draw(st.integers(1, 40))
    n_folds = data.draw(st.integers(1, min(count, 7)))
    strata = data.draw(st.lists(st.sampled_from("ABC"), min_size=count, max_size=count))
    names = [f"n{k}" for k in range(count)]
    folds = make_folds(names, strata=strata, n_folds=n_folds)
    assert sorted(sum(folds, [])) == sorted(names)
    for chosen in [set(names)] + [
        {name for name, s in zip(names, strata) if s == stratum} for stratum in "ABC"
    ]:
        sizes = [len(chosen & set(fold)) for fold in folds]
        assert max(sizes) - min(sizes) <= 1
    order = data.draw(st.permutations(range(count)))
    assert folds == make_folds(
        [names[k] for k in order], strata=[strata[k] for k in order], n_folds=n_folds
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([None, *"abcdefgh"]), min_size=5, max_size=40), st.integers(0, 3))
def test_folds_keep_patients_together(groups, seed):
    names = [f"n{k}" for k in range(len(groups))]
    distinct = len(set(groups) - {None}) + groups.count(None)
    n_folds = min(4, distinct)
    folds = make_folds(names, groups=groups, n_folds=n_folds, seed=seed)
    assert sorted(sum(folds, [])) == sorted(names) and all(folds)
    fold_of = {name: k for k, fold in enumerate(folds) for name in fold}
    for group in set(groups) - {None}:
        assert len({fold_of[name] for name, g in zip(names, groups) if g == group}) == 1
    refused(lambda: make_folds(names, groups=groups, n_folds=distinct + 1), distinct, distinct + 1)


def test_the_seed_decides_the_folds():
    names = [f"n{k}" for k in range(30)]
    assert make_folds(names, seed=1) == make_folds(names, seed=1) != make_folds(names, seed=2)


def test_folds_file(tmp_path):
    path = tmp_path / "new" / "folds.json"
    folds = [[f"n{k}", f"m{k}"] for k in range(12)]  # fold10 comes after fold9, not after fold1
    write_folds(path, folds)
    assert read_folds(path) == folds
    for content in (
        "{",
        "[]",
        "{}",
        '{"fold1": []}',
        '{"fold0": 3}',
        '{"fold0": [3]}',
        '{"fold0": []}',
    ):
        path.write_text(content)
        refused(lambda: read_folds(path), path)
    path.write_text('{"fold0": ["a"], "fold1": ["a"]}')
    refused(lambda: read_folds(path), path, "more than once")
    refused(lambda: read_folds(tmp_path / "gone.json"), tmp_path / "gone.json")
