"""Every image either gives its pixels or one line that says what is wrong."""

import io
import logging
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from mrcnn.errors import InputError
from mrcnn_nuclei import image_files
from mrcnn_nuclei.image_files import (
    find_images,
    read_image,
    read_label_map,
    read_mask,
)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    monkeypatch.setattr(image_files, "_said", set())


@pytest.fixture
def rgb():
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


def refused(path, *words, read=read_image):
    """Check that reading gives one line that names the file and says the words."""
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.webp", "a.TIF"])
def test_lossless_formats_give_the_pixels_written(tmp_path, rgb, name, caplog):
    options = {"lossless": True} if name.endswith("webp") else {}
    Image.fromarray(rgb).save(tmp_path / name, **options)
    image = read_image(tmp_path / name)
    assert image.dtype == np.uint8 and image.flags.c_contiguous
    np.testing.assert_array_equal(image, rgb)
    assert not caplog.records


def test_jpeg_is_close_to_the_pixels_written(tmp_path):
    y, x = np.mgrid[:64, :64]
    smooth = np.stack([y, x, np.full_like(x, 90)], axis=-1)
    Image.fromarray(smooth.astype(np.uint8)).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - smooth).max() < 12


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "lzw", "predictor": True},
        {"compression": "packbits"},
        {"compression": "zlib", "tile": (16, 16)},
        {"planarconfig": "separate"},
        {"byteorder": ">", "bigtiff": True},
        {"rowsperstrip": 3, "compression": "lzw"},
    ],
    ids=str,
)
def test_tiff_variants_give_the_pixels_written(tmp_path, rgb, options):
    path = tmp_path / "a.tif"
    pixels = np.moveaxis(rgb, -1, 0) if options.get("planarconfig") else rgb
    tifffile.imwrite(path, pixels, photometric="rgb", **options)
    np.testing.assert_array_equal(read_image(path), rgb)


def test_tiff_is_known_by_its_content_not_its_name(tmp_path, rgb):
    tifffile.imwrite(tmp_path / "a.tif", rgb, photometric="rgb")
    (tmp_path / "a.tif").rename(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), rgb)


# 16 bits: 12-bit data divide by 4095 / 255, full-range data by 257.
@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ([0, 2048, 4095], [0, 128, 255]),
        ([0, 257, 65535], [0, 1, 255]),
        ([0, 7, 255], [0, 7, 255]),
        ([0, 512, 1023], [0, 128, 255]),
    ],
)
@pytest.mark.parametrize("layout", ["grey.png", "rgb.png", "rgba.png", "grey.tif", "rgb.tif"])
def test_16_bits_are_scaled_by_the_depth_that_they_fill(tmp_path, caplog, layout, stored, expected):
    grey = np.array([stored], np.uint16)
    channels = {"grey": 1, "rgb": 3, "rgba": 4}[layout.split(".")[0]]
    pixels = np.repeat(grey[..., None], channels, axis=2)
    if channels == 4:
        pixels[..., 3] = 65535  # opacity must not count as brightness
    pixels = pixels[..., 0] if channels == 1 else pixels
    path = tmp_path / layout
    if path.suffix == ".tif":
        tifffile.imwrite(path, pixels)
    elif channels == 1:
        Image.fromarray(pixels).save(path)
    else:
        path.write_bytes(imagecodecs.png_encode(pixels))
    image = read_image(path)
    np.testing.assert_array_equal(image, np.repeat(np.array([expected])[..., None], 3, axis=2))
    assert "16-bit" in caplog.text and str(path) in caplog.text


def test_grey_is_repeated(tmp_path, caplog):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(grey).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", grey)
    tifffile.imwrite(tmp_path / "c.tif", 255 - grey, photometric="miniswhite")
    Image.fromarray(grey > 5).save(tmp_path / "d.png")
    expected = np.stack([grey] * 3, axis=-1)
    for name in ("a.png", "b.tif", "c.tif"):
        np.testing.assert_array_equal(read_image(tmp_path / name), expected)
    np.testing.assert_array_equal(read_image(tmp_path / "d.png"), 255 * (expected > 5))
    assert "grey" in caplog.text


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_transparency_is_dropped_and_said_once(tmp_path, rgb, caplog, name):
    rgba = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
    # A WebP without any transparent pixel is stored without alpha.
    for _ in range(3):
        np.testing.assert_array_equal(read_image(tmp_path / name), rgb)
    said = [record for record in caplog.records if record.name == "mrcnn_nuclei"]
    assert len(said) == (0 if name == "a.webp" else 1)
    if said:
        assert said[0].levelno >= logging.INFO and "transparency" in said[0].getMessage()


def test_colours_under_full_transparency_survive(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[..., :3] = (10, 20, 30)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == (10, 20, 30)).all()
    Image.fromarray(rgba[..., :2], "LA").save(tmp_path / "b.png")
    assert (read_image(tmp_path / "b.png") == 10).all()


def test_palette_is_looked_up(tmp_path, caplog):
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 128, 0, 0, 0, 7])
    for name in ("a.png", "a.tif"):
        image.save(tmp_path / name)
        found = read_image(tmp_path / name)
        assert found.tolist() == [[[255, 0, 0], [0, 128, 0]], [[0, 0, 7], [0, 128, 0]]]
    assert "palette" in caplog.text


def test_cmyk_by_hand(tmp_path, caplog):
    inks = np.array([[[0, 255, 255, 0], [100, 0, 255, 50], [0, 0, 0, 255]]], np.uint8)
    # red; (155 * 205, 255 * 205, 0) / 255; black
    expected = [[[255, 0, 0], [125, 205, 0], [0, 0, 0]]]
    tifffile.imwrite(tmp_path / "a.tif", inks, photometric="separated")
    assert read_image(tmp_path / "a.tif").tolist() == expected
    assert "CMYK" in caplog.text


def test_cmyk_jpeg_agrees_with_pillow(tmp_path):
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[...] = (30, 120, 60, 20)
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.jpg", quality=95)
    theirs = np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB")).astype(int)
    assert np.abs(read_image(tmp_path / "a.jpg") - theirs).max() <= 1


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.uint32])
def test_other_pixel_types_are_refused(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "a.tif", np.ones((4, 4), dtype))
    refused(tmp_path / "a.tif", np.dtype(dtype).name, "8-bit")


@pytest.mark.parametrize("pages", [np.zeros((5, 8, 9), np.uint8), np.zeros((2, 8, 9, 3), np.uint8)])
def test_stacks_are_refused(tmp_path, pages):
    for name, options in [("a.tif", {}), ("b.tif", {"imagej": True})]:
        tifffile.imwrite(tmp_path / name, pages, **options)
        refused(tmp_path / name, "stack")


def test_animations_are_refused(tmp_path, rgb):
    frames = [Image.fromarray(rgb), Image.fromarray(255 - rgb)]
    for name in ("a.webp", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        refused(tmp_path / name, "2 pictures")


def encode(rgb, kind):
    file = io.BytesIO()
    if kind == "tiff":
        tifffile.imwrite(file, rgb, photometric="rgb", compression="lzw", rowsperstrip=4)
    elif kind == "plain tiff":
        tifffile.imwrite(file, rgb, photometric="rgb")
    elif kind == "16-bit png":
        file.write(imagecodecs.png_encode(rgb.astype(np.uint16) * 257))
    else:
        Image.fromarray(rgb).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["tiff", "plain tiff", "png", "16-bit png", "jpeg", "webp"])
def test_a_file_cut_anywhere_is_refused(tmp_path, rgb, kind):
    data = encode(rgb[:12, :16], kind)
    path = tmp_path / "a.img"
    for length in {*range(0, len(data), 7), *range(len(data) - 24, len(data))}:
        path.write_bytes(data[:length])
        refused(path)
    path.write_bytes(data)
    read_image(path)


@pytest.mark.parametrize("lost", [1, 4, 12, 100, 3000, 5000, 100_000, 1_250_000, 2_499_900])
def test_a_real_tiff_cut_anywhere_is_refused(tmp_path, monuseg, lost):
    data = (monuseg / "train" / "TCGA-21-5784-01Z-00-DX1.tif").read_bytes()
    path = tmp_path / "cut.tif"
    path.write_bytes(data[: len(data) - lost])
    refused(path)


@pytest.mark.parametrize("lost", [1, 4, 5, 12, 20, 100, 5000])
def test_a_real_png_cut_anywhere_is_refused(tmp_path, monuseg, lost):
    data = (monuseg / "labels" / "TCGA-21-5784-01Z-00-DX1.png").read_bytes()
    path = tmp_path / "cut.png"
    path.write_bytes(data[: len(data) - lost])
    refused(path)
    refused(path, read=read_label_map)


def test_damage_inside_a_png_is_refused(tmp_path, rgb):
    data = bytearray(encode(rgb, "png"))
    for position in range(60, len(data) - 12, len(data) // 20):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        (tmp_path / "a.png").write_bytes(damaged)
        refused(tmp_path / "a.png", "corrupt")


def test_a_tiff_with_a_hole_is_refused(tmp_path, monuseg):
    data = bytearray((monuseg / "train" / "TCGA-21-5784-01Z-00-DX1.tif").read_bytes())
    data[1_000_000:1_050_000] = bytes(50_000)
    (tmp_path / "a.tif").write_bytes(data)
    refused(tmp_path / "a.tif", "corrupt")


def test_not_an_image(tmp_path):
    for name, content in [
        ("a.png", b"<html>not found</html>"),
        ("b.tif", b"II*\0junkjunkjunk"),
        ("c.tif", b"MM is how this text begins"),
        ("d.jpg", b"\xff\xd8\xff\xe0 and then nothing"),
    ]:
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name)
    (tmp_path / "empty.png").touch()
    refused(tmp_path / "empty.png", "empty")
    refused(tmp_path / "missing.png", "no such file")
    refused(tmp_path, "cannot be opened")


def test_formats_beyond_the_list_are_refused(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.gif")
    refused(tmp_path / "a.gif", "TIFF, PNG")


def test_decompression_bombs_are_refused_before_decoding(tmp_path):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(png)
    refused(tmp_path / "a.png", "limit")

    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((7, 9), np.uint8))
    for side, word in [(60_000, "limit"), (0, "")]:
        with tifffile.TiffFile(path, mode="r+") as tiff:
            for name in ("ImageWidth", "ImageLength"):
                tiff.pages[0].tags[name].overwrite(side)
        refused(path, word)


def test_images_of_a_folder_by_their_suffix(tmp_path):
    assert find_images(tmp_path) == find_images(tmp_path / "missing") == []
    for name in ("b.png", "a.TIF", "c.txt", "._b.png", "d.jpeg"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    assert [path.name for path in find_images(tmp_path)] == ["a.TIF", "b.png", "d.jpeg"]


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("a.png", np.uint8),
        ("a.png", np.uint16),
        ("a.tif", np.uint8),
        ("a.tif", np.uint16),
        ("a.tif", np.uint32),
        ("a.tif", np.int32),
        ("a.npy", np.int64),
    ],
)
def test_label_maps_keep_their_numbers(tmp_path, caplog, name, dtype):
    labels = np.array([[0, 1, 1], [7, 0, min(np.iinfo(dtype).max, 100_000)]], dtype)
    if name.endswith("npy"):
        np.save(tmp_path / name, labels)
    elif name.endswith("tif"):
        tifffile.imwrite(tmp_path / name, labels)
    else:
        Image.fromarray(labels).save(tmp_path / name)
    found = read_label_map(tmp_path / name)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, labels)
    assert not caplog.records


def test_label_maps_as_imagej_saves_them_above_16_bits(tmp_path, caplog):
    labels = np.array([[0, 1, 1], [70_000, 0, 2]], np.float32)
    tifffile.imwrite(tmp_path / "a.tif", labels, imagej=True)
    assert read_label_map(tmp_path / "a.tif").tolist() == [[0, 1, 1], [70_000, 0, 2]]
    assert not caplog.records


def test_the_indices_of_a_palette_image_are_labels(tmp_path):
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([0, 0, 0, 0, 128, 0, 0, 0, 7])
    image.save(tmp_path / "a.png")
    assert read_label_map(tmp_path / "a.png").tolist() == [[0, 1], [2, 1]]


def test_unusable_label_maps_are_refused(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "colour.png")
    refused(tmp_path / "colour.png", "40 x 50 x 3", "RGB", read=read_label_map)
    for name, number in (("fraction", 1.5), ("nothing", np.nan), ("infinity", np.inf)):
        np.save(tmp_path / f"{name}.npy", np.array([[0, 1, number]]))
        refused(tmp_path / f"{name}.npy", "float64", read=read_label_map)
    np.save(tmp_path / "negative.npy", np.array([[-1, 2]]))
    refused(tmp_path / "negative.npy", "-1", read=read_label_map)
    np.save(tmp_path / "stack.npy", np.ones((3, 3, 3), int))
    refused(tmp_path / "stack.npy", "3 x 3 x 3", read=read_label_map)
    np.save(tmp_path / "pickle.npy", np.array([{}], object), allow_pickle=True)
    refused(tmp_path / "pickle.npy", read=read_label_map)
    Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).save(tmp_path / "binary.png")
    refused(tmp_path / "binary.png", "black and white", read=read_label_map)
    refused(tmp_path / "missing.npy", "no such file", read=read_label_map)


def test_an_empty_label_map_is_a_picture_without_nuclei(tmp_path):
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "a.png")
    assert not read_label_map(tmp_path / "a.png").any()


def test_masks_ignore_transparency(tmp_path):
    mask = np.array([[0, 255], [1, 0]], np.uint8)
    rgba = np.dstack([mask, 0 * mask, 0 * mask, np.full_like(mask, 255)])
    Image.fromarray(mask).save(tmp_path / "grey.png")
    Image.fromarray(mask > 0).save(tmp_path / "bits.png")
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    for name in ("grey", "bits", "rgba"):
        np.testing.assert_array_equal(read_mask(tmp_path / f"{name}.png"), mask > 0)
