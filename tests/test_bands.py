"""Writers of slides: band by band they write what they write of the whole, and hold no more."""

import weakref

import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader

from mrcnn.instances import Instances
from mrcnn_nuclei.formats import WRITERS, bands, label_tiff, measurements, ome_zarr
from mrcnn_nuclei.formats.raster import label_strips

PER_IMAGE = [kind for kind in WRITERS if WRITERS[kind].per_image and kind != "overlay"]

label_maps = hnp.arrays(
    np.int32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=16),
    elements=st.sampled_from([0, 0, 1, 2, 3, 4, 5]),
)


class Slide:
    """Nuclei from top to bottom, in bands of a few; notes how many bands are alive at once."""

    def __init__(self, instances, size=2):
        self.instances = instances[np.argsort(instances.boxes[:, 0], kind="stable")]
        self.shape, self.size = instances.shape, size
        self.alive, self.most = weakref.WeakSet(), 0

    def __len__(self):
        return len(self.instances)

    def bands(self):
        for k in range(0, len(self), self.size):
            band = self.instances[k : k + self.size]
            self.alive.add(band)
            self.most = max(self.most, len(self.alive))
            yield int(self.instances.boxes[k, 0]), band


def overlapping(labels, spread, seed):
    """Instances of a label map, their boxes grown: they overlap, and scores repeat."""
    found = Instances.from_label_map(labels)
    rng = np.random.default_rng(seed)
    parts = [found.translate(dy, dx, labels.shape) for dy, dx in rng.integers(0, spread, (2, 2))]
    found = Instances.concatenate(parts)
    scores = rng.choice([0.25, 0.5, 0.75], len(found))
    return Instances(found.shape, found.boxes, scores, found.class_ids, found.masks)


def scattered(shape, count, seed=0):
    rng = np.random.default_rng(seed)
    corners = np.stack([rng.integers(0, side - 12, count) for side in shape], axis=1)
    sizes = rng.integers(3, 12, (count, 2))
    masks = [np.ones(size, bool) for size in sizes]
    return Instances(
        shape, np.hstack([corners, corners + sizes]), rng.random(count), [1] * count, masks
    )


def test_an_image_is_one_band():
    found = scattered((40, 50), 5)
    assert list(bands(found)) == [(0, found)]
    assert [len(band) for _, band in bands(Slide(found))] == [2, 2, 1]


@settings(max_examples=60, deadline=None)
@given(labels=label_maps, height=st.integers(1, 20), size=st.integers(1, 4), seed=st.integers(0, 9))
def test_strips_are_the_label_map(labels, height, size, seed):
    slide = Slide(overlapping(labels, 4, seed), size)
    strips = list(label_strips(slide, height))
    assert all(len(strip) == height for strip in strips[:-1])
    np.testing.assert_array_equal(np.concatenate(strips), slide.instances.to_label_map())


def content(path):
    """What is in a file or folder, whatever the kind: bytes where they do not depend on time."""
    if path.suffix == ".tif":
        return tifffile.imread(path).tolist()
    if path.suffix == ".parquet":
        return pd.read_parquet(path).to_dict("list")
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
        return {file.relative_to(path): file.read_bytes() for file in files}
    return path.read_bytes()


@pytest.mark.parametrize("mpp", [None, 0.25])
@pytest.mark.parametrize("kind", PER_IMAGE)
def test_bands_make_the_file_that_the_whole_makes(kind, mpp, tmp_path):
    slide = Slide(scattered((90, 70), 21))
    image = np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8)
    for name, found in (("whole", slide.instances), ("bands", slide)):
        path = WRITERS[kind].path(tmp_path / name, "a")
        WRITERS[kind].write(path, found, image, mpp)
    whole, parts = (content(WRITERS[kind].path(tmp_path / n, "a")) for n in ("whole", "bands"))
    assert whole and whole == parts
    # The band that is written, and the next one while it is made.
    assert slide.most <= 2


@pytest.mark.parametrize("kind", PER_IMAGE)
def test_slides_without_nuclei(kind, tmp_path):
    path = WRITERS[kind].path(tmp_path, "a")
    WRITERS[kind].write(path, Slide(Instances.empty((30, 20))))
    assert content(path)


@pytest.fixture
def large(monkeypatch):
    """Label maps count as large from 100 x 100 pixels up."""
    monkeypatch.setattr(label_tiff, "LARGE", 100 * 100)


@pytest.mark.parametrize("shape", [(1300, 700), (512, 1024), (101, 100)])
def test_large_label_maps_are_tiled_ome_tiff(shape, large, tmp_path):
    slide = Slide(scattered(shape, 300), 50)
    label_tiff.write(tmp_path / "a.tif", slide, mpp=0.2527)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert tiff.is_ome and tiff.is_bigtiff and tiff.series[0].axes == "YX"
        (page,) = tiff.pages
        assert page.tile == (512, 512) and page.compression.name == "ADOBE_DEFLATE"
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
        assert (pixels["SizeY"], pixels["SizeX"]) == shape and pixels["Type"] == "uint16"
        assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeY"]) == (0.2527, 0.2527)
        assert pixels["PhysicalSizeXUnit"] == pixels["PhysicalSizeYUnit"] == "µm"
        np.testing.assert_array_equal(page.asarray(), slide.instances.to_label_map())
    again = label_tiff.read(tmp_path / "a.tif")
    np.testing.assert_array_equal(again.to_label_map() > 0, slide.instances.to_label_map() > 0)


def test_small_label_maps_are_plain_tiff(large, tmp_path):
    label_tiff.write(tmp_path / "a.tif", scattered((100, 100), 5), mpp=0.25)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        assert not tiff.is_ome and not tiff.is_bigtiff and not tiff.pages[0].is_tiled


@pytest.mark.filterwarnings("ignore")  # of ome-zarr, on the versions it would like better
def test_ome_zarr_is_read_by_its_own_reader(tmp_path):
    slide = Slide(scattered((1300, 700), 300), 50)
    ome_zarr.write(tmp_path / "a.zarr", slide, mpp=0.5)
    (node,) = Reader(parse_url(tmp_path / "a.zarr"))()
    assert {type(spec).__name__ for spec in node.specs} == {"Label", "Multiscales"}
    labels = slide.instances.to_label_map()
    assert len(node.data) == 3
    for level, array in enumerate(node.data):
        np.testing.assert_array_equal(np.asarray(array), labels[:: 2**level, :: 2**level])
        (scale,) = node.metadata["coordinateTransformations"][level]
        assert scale == {"type": "scale", "scale": [0.5 * 2**level] * 2}
    assert [axis["unit"] for axis in node.metadata["axes"]] == ["micrometer"] * 2


def test_ome_zarr_replaces_what_is_there(tmp_path):
    for count in (9, 3):
        ome_zarr.write(tmp_path / "a.zarr", scattered((60, 60), count))
    assert zarr.open_group(tmp_path / "a.zarr", mode="r")["0"][:].max() <= 3
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


class Sliced:
    """A slide's pixels: can be cut, and no more."""

    def __init__(self, image):
        self.image, self.shape, self.most = image, image.shape, 0

    def __getitem__(self, window):
        piece = self.image[window]
        self.most = max(self.most, piece.size)
        return piece


def test_the_stain_is_read_in_pieces(monkeypatch):
    monkeypatch.setattr(measurements, "_CELL", 64)
    found = scattered((300, 400), 200)
    image = np.random.default_rng(1).integers(0, 255, (300, 400, 3), np.uint8)
    pixels = Sliced(image)
    table = measurements.measure(found, pixels)
    assert 0 < pixels.most <= (64 + 12) ** 2 * 3
    monkeypatch.undo()
    pd.testing.assert_frame_equal(table, measurements.measure(found, image))
