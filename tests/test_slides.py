"""Slides are read as they were written, window by window, or refused in one line."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from mrcnn.errors import InputError
from mrcnn.opencv import cv2
from mrcnn_nuclei import image_files, slides
from mrcnn_nuclei.datasets.synthetic import draw_tile
from mrcnn_nuclei.slides import Picture, open_slide, slide, tiff, zarr_levels

OME = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"}
CENTIMETRE = {"resolution": (40000, 40000), "resolutionunit": "CENTIMETER"}
INCH = {"resolution": (101600, 101600), "resolutionunit": "INCH"}


@pytest.fixture(scope="module")
def image():
    """1150 x 900, no multiple of a tile."""
    tile = draw_tile(600, np.random.default_rng(0))[0]
    return np.ascontiguousarray(np.tile(tile, (2, 2, 1))[:1150, :900])


def write_pyramid(path, image, ome=False, **options):
    """A TIFF file with levels reduced twice and four times, in tiles of 256 x 256."""
    common = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib"}
    with tifffile.TiffWriter(path, ome=ome) as file:
        file.write(image, subifds=2, **common, **options)
        for factor in (2, 4):
            shape = [side // factor for side in image.shape[:2]]
            file.write(slide.resize_pixels(image, shape), subfiletype=1, **common)
    return path


def write_aperio(path, image, mpp=0.252):
    """What Aperio's scanners write, as far as OpenSlide looks: a thumbnail after the first page."""
    common = {"photometric": "rgb", "metadata": None}
    told = f"Aperio Image Library v1\n{image.shape[1]}x{image.shape[0]}|AppMag = 40|MPP = {mpp}"
    with tifffile.TiffWriter(path) as file:
        file.write(image, tile=(256, 256), compression="jpeg", description=told, **common)
        file.write(image[::8, ::8], description="Aperio thumbnail", **common)
        small = np.ascontiguousarray(image[::4, ::4])
        file.write(small, tile=(256, 256), compression="jpeg", description="Aperio", **common)
    return path


def write_zarr(path, image, version="0.5", unit="micrometer", first="0"):
    """OME-Zarr with the axes c, y, x and two levels."""
    metadata = {
        "axes": [
            {"name": "c", "type": "channel"},
            {"name": "y", "type": "space", "unit": unit},
            {"name": "x", "type": "space", "unit": unit},
        ],
        "datasets": [],
    }
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    for level in range(2):
        part = np.moveaxis(image[:: 2**level, :: 2**level], -1, 0)
        array = group.create_array(f"{level}", shape=part.shape, chunks=(3, 200, 200), dtype="u1")
        array[:] = part
        scale = {"type": "scale", "scale": [1, 0.25 * 2**level, 0.25 * 2**level]}
        entry = {"path": f"{level}", "coordinateTransformations": [scale]}
        metadata["datasets"].append(entry)
    known = {"multiscales": [metadata]}
    group.attrs.update({"ome": {"version": "0.5", **known}} if version == "0.5" else known)
    return path


def write_bioformats2raw(path, image):
    """OME-Zarr as the first of several images of a group."""
    zarr.open_group(path, mode="w").attrs["ome"] = {"bioformats2raw.layout": 3}
    write_zarr(path / "0", image)
    return path


def write_planes(path, image):
    """OME-TIFF with a page for each colour."""
    axes = {"axes": "CYX", "PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm"}
    planes = np.moveaxis(image, -1, 0)
    tifffile.imwrite(path, planes, photometric="minisblack", metadata=axes)
    return path


def write_png(path, image):
    Image.fromarray(image).save(path)
    return path


KINDS = {
    "pyramid.tif": (write_pyramid, {}, None, 3),
    "centimetre.tif": (write_pyramid, CENTIMETRE, 0.25, 3),
    "inch.tif": (write_pyramid, INCH, 0.25, 3),
    "dots.tif": (write_pyramid, {"resolution": (300, 300), "resolutionunit": "INCH"}, None, 3),
    "image.ome.tif": (write_pyramid, {"ome": True, "metadata": OME}, 0.5, 3),
    "planes.ome.tif": (write_planes, {}, 0.25, 1),
    "new.ome.zarr": (write_zarr, {}, 0.25, 2),
    "old.ome.zarr": (write_zarr, {"version": "0.4"}, 0.25, 2),
    "unit.ome.zarr": (write_zarr, {"unit": "parsec"}, None, 2),
    "raw.ome.zarr": (write_bioformats2raw, {}, 0.25, 2),
    "image.png": (write_png, {}, None, 1),
}


@pytest.mark.parametrize("name", KINDS)
def test_windows_are_what_was_written(name, image, tmp_path):
    write, options, mpp, levels = KINDS[name]
    read = open_slide(write(tmp_path / name, image, **options))
    assert (read.shape, read.mpp, len(read.levels)) == (image.shape, mpp, levels)
    for y1, x1, y2, x2 in [(0, 0, 1150, 900), (255, 100, 600, 513), (1149, 899, 1150, 900)]:
        np.testing.assert_array_equal(read[y1:y2, x1:x2], image[y1:y2, x1:x2])
        np.testing.assert_array_equal(read.read((y1, x1, y2, x2)), image[y1:y2, x1:x2])
    assert read[:, 5:5].shape == (1150, 0, 3)
    np.testing.assert_array_equal(read[-10:, :], image[-10:])


# The level reduced four times has 287 rows for 1150: it is scaled a little.
@pytest.mark.parametrize(("name", "limit"), [("pyramid.tif", 3), ("planes.ome.tif", 0.5)])
def test_coarser_windows_come_from_the_best_level(name, limit, image, tmp_path):
    read = open_slide(KINDS[name][0](tmp_path / name, image))
    small = read.read((200, 100, 1000, 700), (200, 150)).astype(int)
    expected = cv2.resize(image[200:1000, 100:700], (150, 200), interpolation=cv2.INTER_AREA)
    assert np.abs(small - expected).mean() < limit
    larger = read.read((200, 100, 300, 200), (150, 150)).astype(int)
    expected = cv2.resize(image[200:300, 100:200], (150, 150), interpolation=cv2.INTER_CUBIC)
    assert np.abs(larger - expected).mean() < 2  # their cubics differ


def test_a_thumbnail_is_made_piece_by_piece(image, monkeypatch):
    monkeypatch.setattr(slide, "PIECE", 200)
    read = Picture(image)
    sizes = []
    read._read_level = lambda level, window: (
        sizes.append(window) or Picture._read_level(read, level, window)
    )
    small = read.thumbnail((115, 90)).astype(int)
    assert len(sizes) > 10
    assert max(max(y2 - y1, x2 - x1) for y1, x1, y2, x2 in sizes) <= 201
    expected = cv2.resize(image, (90, 115), interpolation=cv2.INTER_AREA)
    assert np.abs(small - expected).mean() < 0.5


def test_aperio_by_openslide(image, tmp_path):
    pytest.importorskip("openslide")
    read = open_slide(write_aperio(tmp_path / "scan.svs", image))
    assert type(read).__name__ == "OpenSlideFile"
    assert (read.shape, read.mpp) == (image.shape, 0.252)
    assert len(read.levels) == 2
    part = read[300:700, 200:800].astype(int)
    assert np.abs(part - image[300:700, 200:800]).mean() < 4  # JPEG
    assert np.abs(read.thumbnail((58, 45)).astype(int).mean() - image.mean()) < 2


def test_real_images_tell_no_resolution_and_are_read_as_ever(monuseg):
    path = sorted((monuseg / "train").glob("*.tif"))[0]
    read = open_slide(path)
    assert isinstance(read, Picture) and read.mpp is None
    np.testing.assert_array_equal(read.pixels, image_files.read_image(path))


def test_a_plain_image_tells_its_resolution(image, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", **CENTIMETRE)
    read = open_slide(tmp_path / "a.tif")
    assert isinstance(read, Picture) and read.mpp == 0.25


def refused(path):
    with pytest.raises(InputError) as error:
        open_slide(path)[:, :]
    message = str(error.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


def test_bombs_are_refused(image, tmp_path, monkeypatch):
    one_piece = tmp_path / "piece.tif"
    tifffile.imwrite(one_piece, image, photometric="rgb", rowsperstrip=1150)
    for module in (tiff, zarr_levels, image_files):
        monkeypatch.setattr(module, "MAX_PIXELS", 1000 * 1000)
    assert "1,035,000 pixels, more than the limit of 1,000,000" in refused(one_piece)
    rows = tmp_path / "rows.tif"
    tifffile.imwrite(rows, image, photometric="rgb", rowsperstrip=10)
    np.testing.assert_array_equal(open_slide(rows)[:, :], image)  # strip by strip
    pages = tmp_path / "pages.tif"
    with tifffile.TiffWriter(pages) as file:
        file.write(image, photometric="rgb", tile=(256, 256), metadata=None)
        file.write(np.ascontiguousarray(image[::8, ::8]), photometric="rgb", metadata=None)
    np.testing.assert_array_equal(open_slide(pages)[:, :], image)  # no pyramid: tile by tile
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500 * 1000)
    assert "more than the limit" in refused(write_png(tmp_path / "bomb.png", image))


@pytest.mark.parametrize("name", ["pyramid.tif", "image.ome.tif", "scan.svs", "planes.ome.tif"])
@pytest.mark.parametrize("part", [0.3, 0.9, 0.999])
def test_truncated_files(name, part, image, tmp_path):
    path = tmp_path / name
    if name == "scan.svs":
        write_aperio(path, image)
    else:
        KINDS[name][0](path, image, **KINDS[name][1])
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    assert "is truncated or corrupt" in refused(path)


def test_a_corrupt_tile(image, tmp_path):
    path = write_pyramid(tmp_path / "a.tif", image)
    with tifffile.TiffFile(path) as file:
        at, size = file.pages[0].dataoffsets[7], file.pages[0].databytecounts[7]
    data = bytearray(path.read_bytes())
    data[at : at + size] = bytes(size)
    path.write_bytes(data)
    assert "is truncated or corrupt" in refused(path)
    assert open_slide(path)[:256, :256].any()  # another tile


def test_stacks_and_other_pixels(image, tmp_path):
    path = tmp_path / "stack.ome.tif"
    tifffile.imwrite(path, np.stack([image[..., 0]] * 3), metadata={"axes": "ZYX"})
    assert "is a stack" in refused(path)
    path = tmp_path / "channels.ome.tif"
    tifffile.imwrite(path, np.stack([image[..., 0]] * 5), metadata={"axes": "CYX"})
    assert "no RGB image" in refused(path)
    path = write_planes(tmp_path / "deep.ome.tif", image.astype(np.uint16) * 100)
    assert "pixels are uint16" in refused(path)


def test_folders_that_are_no_image(tmp_path):
    assert "without an OME-Zarr image" in refused(tmp_path)
    zarr.open_group(tmp_path / "a.zarr", mode="w")
    assert "without multiscales" in refused(tmp_path / "a.zarr")
    group = zarr.open_group(tmp_path / "b.zarr", mode="w")
    group.attrs["ome"] = {"multiscales": [{"datasets": [{"path": "0"}], "axes": []}]}
    assert "is truncated or corrupt" in refused(tmp_path / "b.zarr")


@pytest.mark.parametrize("dtype", ["|O", "|u1"])
@pytest.mark.parametrize("field", ["compressor", "filters"])
def test_zarr_folders_run_no_code(field, dtype, image, tmp_path):
    """Chunks that are unpickled would create a file."""
    created = tmp_path / "created"

    class Evil:
        def __reduce__(self):
            return Path.touch, (created,)

    path = write_zarr(tmp_path / "a.zarr", image, version="0.4")
    (tmp_path / "a.zarr/0/0.0.0").write_bytes(pickle.dumps(Evil()))
    metadata = tmp_path / "a.zarr/0/.zarray"
    codec = {"id": "pickle", "protocol": 5}
    known = {**json.loads(metadata.read_text()), "filters": None, "compressor": None}
    known.update({"dtype": dtype, field: [codec] if field == "filters" else codec})
    metadata.write_text(json.dumps(known))
    refused(path)
    assert not created.exists()


def test_a_missing_file(tmp_path):
    for name in ("a.svs", "a.tif", "a.png"):
        assert "no such file" in refused(tmp_path / name)


def test_a_missing_package_is_named(image, tmp_path, monkeypatch):
    def missing(package):
        raise ImportError(package)

    path = write_pyramid(tmp_path / "a.tif", image)
    monkeypatch.setattr(slides.importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"pip install 'mrcnn-nuclei\[slides\]'"):
        slides.require("zarr")
    monkeypatch.undo()
    assert open_slide(path).shape == image.shape
