"""Data sets: numbering against Matterport's numbers, reading of files."""

import json
import warnings

import numpy as np
import pytest
import skimage.io
import tifffile
from helpers import golden_arrays
from PIL import Image

from mrcnn import utils
from mrcnn.errors import InputError

PICTURE = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)


@pytest.fixture
def combined():
    """The classes and images of the golden file."""
    dataset = utils.Dataset()
    dataset.add_class("syn", 1, "one")
    dataset.add_class("syn", 2, "two")
    dataset.add_class("other", 1, "three")
    for i in range(3):
        dataset.add_image("syn", i, None)
    dataset.prepare()
    return dataset


def dataset_of(path):
    dataset = utils.Dataset()
    dataset.add_image("files", "picture", path, stain="H&E")
    dataset.prepare()
    return dataset


def test_golden_numbering(combined):
    numbers = golden_arrays("load_image_gt")
    assert combined.class_names == numbers["dataset_class_names"].tolist()
    expected = json.loads(str(numbers["dataset_class_from_source_map"]))
    assert combined.class_from_source_map == expected
    expected = json.loads(str(numbers["dataset_source_class_ids"]))
    assert combined.source_class_ids == expected


def test_attributes(combined):
    assert combined.num_classes == 4
    assert combined.num_images == 3
    assert combined.class_ids.tolist() == [0, 1, 2, 3]
    assert combined.image_ids.tolist() == [0, 1, 2]
    assert combined.image_from_source_map == {"syn.0": 0, "syn.1": 1, "syn.2": 2}
    assert combined.sources == ["", "syn", "other"]
    assert combined.map_source_class_id("other.1") == 3
    assert combined.get_source_class_id(3, "other") == 1
    assert combined.image_reference(0) == ""
    with pytest.raises(ValueError, match="other"):
        combined.get_source_class_id(3, "syn")


def test_a_class_is_added_once_and_synonyms_are_cut():
    dataset = utils.Dataset()
    dataset.add_class("coco", 5, "airplane,aeroplane")
    dataset.add_class("coco", 5, "something else")
    dataset.prepare()
    assert dataset.class_names == ["BG", "airplane"]
    with pytest.raises(InputError, match="dot"):
        dataset.add_class("my.set", 1, "cell")


def test_image_info_keeps_what_it_was_given():
    dataset = dataset_of("slide.png")
    assert dataset.image_info == [
        {"id": "picture", "source": "files", "path": "slide.png", "stain": "H&E"}
    ]
    assert dataset.source_image_link(0) == "slide.png"


def test_the_default_mask_is_empty(combined):
    masks, class_ids = combined.load_mask(0)
    assert masks.shape == (0, 0, 0)
    assert class_ids.shape == (0,)
    assert class_ids.dtype == np.int32
    assert not hasattr(combined, "load_labels")


GREY = PICTURE[..., 0]
ALPHA = np.full((9, 7, 1), 128, np.uint8)


@pytest.mark.parametrize(
    "suffix, pixels, expected",
    [
        (".png", PICTURE, PICTURE),
        (".tif", PICTURE, PICTURE),
        (".bmp", PICTURE, PICTURE),
        (".png", GREY, np.stack([GREY] * 3, axis=-1)),
        (".tif", GREY, np.stack([GREY] * 3, axis=-1)),
        (".png", np.concatenate([PICTURE, ALPHA], axis=-1), PICTURE),
        (".png", np.concatenate([GREY[..., None], ALPHA], axis=-1), np.stack([GREY] * 3, axis=-1)),
        (".tif", GREY > 99, np.stack([(GREY > 99) * np.uint8(255)] * 3, axis=-1)),
    ],
)
def test_images_become_rgb(tmp_path, suffix, pixels, expected):
    path = tmp_path / ("picture" + suffix)
    if pixels.dtype == bool:
        tifffile.imwrite(path, pixels, photometric="minisblack")
    else:
        skimage.io.imsave(path, pixels, check_contrast=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = dataset_of(path).load_image(0)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, expected)


def test_palettes_are_resolved(tmp_path):
    path = tmp_path / "palette.png"
    picture = Image.fromarray(PICTURE).quantize(16)
    picture.save(path)
    np.testing.assert_array_equal(dataset_of(path).load_image(0), picture.convert("RGB"))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_reduced_with_a_warning(tmp_path, suffix):
    path = tmp_path / ("deep" + suffix)
    deep = GREY.astype(np.uint16) * 257  # 0 to 65535
    skimage.io.imsave(path, deep, check_contrast=False)
    with pytest.warns(UserWarning, match="uint16 reduced"):
        image = dataset_of(path).load_image(0)
    np.testing.assert_array_equal(image, np.stack([GREY] * 3, axis=-1))


def test_fractions_are_spread_over_eight_bits(tmp_path):
    fraction = PICTURE.astype(np.float32) / 255
    tifffile.imwrite(tmp_path / "fraction.tif", fraction, photometric="rgb")
    with pytest.warns(UserWarning, match="float32 reduced"):
        image = dataset_of(tmp_path / "fraction.tif").load_image(0)
    np.testing.assert_array_equal(image, PICTURE)


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_is_converted_with_a_warning(tmp_path, suffix):
    path = tmp_path / ("press" + suffix)
    Image.new("CMYK", (20, 10), (0, 255, 255, 0)).save(path)  # magenta and yellow make red
    with pytest.warns(UserWarning, match="CMYK"):
        image = dataset_of(path).load_image(0)
    assert image.shape == (10, 20, 3)
    np.testing.assert_allclose(image[5, 10], [255, 0, 0], atol=3)


@pytest.mark.parametrize(
    "pixels", [np.zeros((5, 9, 7, 3), np.uint8), np.zeros((9, 7), np.int32), np.full((9, 7), 99.0)]
)
def test_what_is_no_picture_is_refused(tmp_path, pixels):
    path = tmp_path / "volume.tif"
    tifffile.imwrite(path, pixels)
    with pytest.raises(InputError, match="volume.tif"):
        dataset_of(path).load_image(0)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg"])
def test_broken_files_are_named_in_one_line(tmp_path, suffix):
    whole, path = tmp_path / ("whole" + suffix), tmp_path / ("broken" + suffix)
    big = np.random.default_rng(1).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    skimage.io.imsave(whole, big, check_contrast=False)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    for file in (path, tmp_path / ("missing" + suffix)):
        with pytest.raises(InputError) as error:
            dataset_of(file).load_image(0)
        assert str(file) in str(error.value)
        assert "\n" not in str(error.value)


def test_helpers_load_without_keras():
    import subprocess
    import sys

    code = "import sys; from mrcnn import utils; sys.exit('keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_box_refinement_of_tensors_is_that_of_arrays():
    boxes = np.array([[0, 0, 10, 20], [5, 6, 9, 7]], np.float32)
    targets = np.array([[1, 2, 9, 30], [5, 5, 10, 8]], np.float32)
    np.testing.assert_allclose(
        np.asarray(utils.box_refinement_graph(boxes, targets)),
        utils.box_refinement(boxes, targets),
        atol=1e-6,
    )


def test_a_batch_is_sliced_and_stacked():
    batch = np.arange(12.0).reshape(3, 4)
    doubled = utils.batch_slice(batch, lambda row: row * 2, 3)
    np.testing.assert_array_equal(np.asarray(doubled), batch * 2)
    sums, differences = utils.batch_slice(
        [batch, batch[::-1]], lambda a, b: (a + b, a - b), 3, names=["sums", "differences"]
    )
    np.testing.assert_array_equal(np.asarray(sums), batch + batch[::-1])
    np.testing.assert_array_equal(np.asarray(differences), batch - batch[::-1])
