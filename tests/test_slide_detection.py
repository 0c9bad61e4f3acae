"""Slides, with a faultless detector: each nucleus once, none cut, whatever happens on the way."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
from discs import same_masks, touching_discs
from fakes import FakeDetector, Recipe, coloured

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn.overlaps import mask_iou
from mrcnn_nuclei import blocks
from mrcnn_nuclei.blocks import block_grid
from mrcnn_nuclei.cluster import Cluster
from mrcnn_nuclei.formats import bands
from mrcnn_nuclei.regions import parse_region
from mrcnn_nuclei.slide_detection import detect_slide
from mrcnn_nuclei.slides import Picture, open_slide
from mrcnn_nuclei.tiling import merge_tiles

SHAPE = (1100, 900)
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def labels():
    return touching_discs(np.random.default_rng(0), SHAPE, 1200, (4, 15))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks of 3 x 3 tiles."""
    monkeypatch.setattr(blocks, "SIDE", 330)


def whole(found):
    """All nuclei of a slide, after a look at what its bands promise."""
    parts = list(bands(found))
    tops = [top for top, _ in parts]
    assert tops == sorted(tops)
    for k, top in enumerate(tops):
        assert all(band.boxes[:, 0].min() >= top for _, band in parts[k:])
    merged = Instances.concatenate([Instances.empty(found.shape), *(band for _, band in parts)])
    assert len(found) == len(merged)
    return merged


def detect(slide, folder, detector=None, made_by="these weights", **options):
    slide = Picture(coloured(slide)) if isinstance(slide, np.ndarray) else slide
    detector = detector or FakeDetector()
    found, _ = detect_slide(detector, slide, folder, made_by, progress=False, **options)
    return whole(found)


def at_seams(truth, windows):
    """Which nuclei more than one of the windows shows, in part at least."""
    seen = np.zeros(len(truth), int)
    for y1, x1, y2, x2 in windows:
        first, last = truth.boxes[:, :2], truth.boxes[:, 2:]
        seen += (first < (y2, x2)).all(axis=1) & (last > (y1, x1)).all(axis=1)
    return seen > 1


def test_every_nucleus_comes_once_and_whole(labels, tmp_path):
    detector = FakeDetector()
    found = detect(labels, tmp_path, detector)
    truth = Instances.from_label_map(labels)
    grid = block_grid(SHAPE, detector.config, 1)
    assert at_seams(truth, [block.core for block in grid]).sum() > 80
    assert detector.calls == len(grid) == 16
    assert same_masks(found, truth)
    assert detector.capped == 0


class Unsure(FakeDetector):
    """Moves each mask by up to a pixel, misses some, and is more certain of some than of others."""

    def detect(self, image, alone=False, statistics=None):
        found = super().detect(image, alone, statistics)
        rng = np.random.default_rng(self.calls)
        found = found[rng.random(len(found)) > 0.05]
        moved = [
            found[k].translate(*rng.integers(-1, 2, 2), found.shape) for k in range(len(found))
        ]
        found = Instances.concatenate([Instances.empty(found.shape), *moved])
        scores = rng.uniform(0.5, 1, len(found))
        return Instances(found.shape, found.boxes, scores, found.class_ids, found.masks)


def test_recall_at_seams_is_that_inside(labels, tmp_path):
    found = detect(labels, tmp_path, Unsure())
    truth = Instances.from_label_map(labels)
    windows = [block.window for block in block_grid(SHAPE, FakeDetector().config, 1)]
    seam = at_seams(truth, windows)
    rows, cols, iou = mask_iou(truth, found)
    hit = iou > 0.3
    assert (np.bincount(rows[hit]) <= 1).all()  # none twice
    recalled = np.isin(np.arange(len(truth)), rows[hit])
    assert 200 < seam.sum() < 1000
    assert recalled[~seam].mean() > 0.9
    assert recalled[seam].mean() >= recalled[~seam].mean() - 0.02
    assert len(found) == len(np.unique(cols[hit]))  # and no parts besides


def test_a_slide_in_rows_is_what_all_blocks_merge_to(labels, tmp_path):
    found = detect(labels, tmp_path, Unsure())
    grid = block_grid(SHAPE, FakeDetector().config, 1)
    unsure, image = Unsure(), coloured(labels)
    seen = [unsure.detect(Picture(image).read(block.window)) for block in grid]
    merged = merge_tiles([block.window for block in grid], seen, SHAPE)
    assert same_masks(found, merged)
    assert sorted(found.scores) == sorted(merged.scores)


@pytest.mark.parametrize("shape", [(64, 64), (330, 900), (331, 2000), (5000, 335)])
@pytest.mark.parametrize("scale", [0.4, 1, 2.3])
def test_blocks_cover_a_slide_and_only_neighbours_meet(shape, scale):
    config = FakeDetector().config
    grid = block_grid(shape, config, scale)
    covered = np.zeros(shape, int)
    for block in grid:
        y1, x1, y2, x2 = block.core
        covered[y1:y2, x1:x2] += 1
        assert max(block.size) * scale <= 320  # three tiles of 128 that overlap by 32
    assert (covered == 1).all()
    last = grid[-1]
    assert len(grid) == (last.row + 1) * (last.column + 1)
    for one, start, end in (("row", 0, 2), ("column", 1, 3)):
        spans = {getattr(block, one): (block.window[start], block.window[end]) for block in grid}
        for k in range(1, len(spans)):
            assert spans[k - 1][1] - spans[k][0] >= config.DETECTION_OVERLAP / scale
            assert k < 2 or spans[k - 2][1] <= spans[k][0]


def test_glass_costs_nothing(tmp_path):
    detector = FakeDetector()
    glass = np.random.default_rng(0).normal(238, 3, (*SHAPE, 3)).clip(0, 255).astype(np.uint8)
    assert len(detect(Picture(glass), tmp_path, detector)) == 0
    assert detector.calls == 0

    labels = np.zeros(SHAPE, np.int32)
    labels[390:430, 320:360] = 1
    glass[labels > 0] = coloured(labels)[labels > 0]
    found = detect(Picture(glass), tmp_path / "other", detector)
    assert detector.calls == 1
    assert same_masks(found, Instances.from_label_map(labels))


def test_blocks_are_normalised_by_the_tissue_of_the_slide(labels, tmp_path):
    detector = FakeDetector()
    labels = labels.copy()
    labels[:, 450:] = 0
    image = coloured(labels)
    detect(Picture(image), tmp_path, detector)
    assert len({str(given) for given in detector.statistics}) == 1
    mean, deviation = detector.statistics[0]
    tissue = image[:, :440].reshape(-1, 3)
    np.testing.assert_allclose(mean, tissue.mean(axis=0), atol=6)
    np.testing.assert_allclose(deviation, tissue.std(axis=0), atol=4)
    assert abs(image.mean() - tissue.mean()) > 15  # glass would tell


def test_finished_blocks_are_not_seen_again(labels, tmp_path):
    first, second = FakeDetector(), FakeDetector()
    expected = detect(labels, tmp_path, first)
    for name in ("0001_0002.npz", "0003_0000.npz"):
        (tmp_path / name).unlink()
    found = detect(labels, tmp_path, second)
    assert (first.calls, second.calls) == (16, 2)
    assert same_masks(found, expected)


@pytest.mark.parametrize("options", [{"made_by": "other weights"}, {"scale": 0.5}])
def test_blocks_made_of_something_else_are_made_anew(labels, tmp_path, options):
    detect(labels, tmp_path)
    detector = FakeDetector(Recipe(colours=False))
    detect(labels, tmp_path, detector, **options)
    assert detector.calls == len(block_grid(SHAPE, detector.config, options.get("scale", 1)))
    assert len(list(tmp_path.glob("*_*.npz"))) == detector.calls


def test_a_block_that_cannot_be_read_is_named(labels, tmp_path):
    detect(labels, tmp_path)
    path = tmp_path / "0001_0001.npz"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=f"{path}: cannot be read"):
        detect(labels, tmp_path)


def test_a_region_gives_what_lies_in_it_of_the_whole(labels, tmp_path):
    complete = detect(labels, tmp_path / "complete")
    detector = FakeDetector()
    region = parse_region(["100", "300", "250", "170"])
    found = detect(labels, tmp_path / "part", detector, region=region)
    assert detector.calls == 2
    assert 40 < len(found) < 200
    assert same_masks(found, region.select(complete))
    # Another region takes what is there, and sees the rest.
    wider = parse_region(["100", "300", "450", "170"])
    assert same_masks(
        detect(labels, tmp_path / "part", detector, region=wider), wider.select(complete)
    )
    assert detector.calls == 3


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.7, 2.0])
def test_nuclei_come_back_from_another_resolution(scale, tmp_path):
    """Isolated discs: where colours mix, touching ones are one to this detector."""
    labels = np.zeros((700, 800), np.int32)
    y, x = np.mgrid[:50, :50]
    for k, (row, column) in enumerate(np.ndindex(14, 16)):
        disc = np.hypot(y - 25.3, x - 24.6) < 8 + k % 13
        labels[50 * row :, 50 * column :][:50, :50][disc] = k + 1
    detector = FakeDetector(Recipe(colours=False, overlap=64))
    found = detect(labels, tmp_path, detector, scale=scale)
    truth = Instances.from_label_map(labels)
    rows, _, iou = mask_iou(truth, found)
    assert len(found) == len(truth) == len(rows)
    assert iou.mean() > 0.93 and iou.min() > 0.8
    assert max(max(shape[:2]) for shape in detector.shapes) <= 384


# Processes


@pytest.fixture
def slide_file(labels, tmp_path):
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as file:
        options = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib"}
        file.write(coloured(labels), subifds=1, **options)
        file.write(np.ascontiguousarray(coloured(labels)[::8, ::8]), subfiletype=1, **options)
    return path


@pytest.fixture
def tests_importable(monkeypatch):
    path = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))


PROGRAM = """
import sys
from fakes import FakeDetector, Recipe
from mrcnn_nuclei import blocks
from mrcnn_nuclei.slide_detection import detect_slide
from mrcnn_nuclei.slides import open_slide
blocks.SIDE = 330
detector = FakeDetector(Recipe(seconds=float(sys.argv[3])))
found, _ = detect_slide(detector, open_slide(sys.argv[1]), sys.argv[2], "these weights")
print(detector.calls, len(found))
"""


def test_a_killed_detection_goes_on(labels, slide_file, tmp_path, tests_importable):
    command = [sys.executable, "-c", PROGRAM, slide_file, tmp_path / "blocks"]
    process = subprocess.Popen([*command, "0.3"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "blocks").glob("*_*.npz"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(list((tmp_path / "blocks").glob("*_*.npz")))
    assert 3 <= kept < 16
    detector = FakeDetector()
    found = detect(open_slide(slide_file), tmp_path / "blocks", detector)
    assert detector.calls == 16 - kept
    assert same_masks(found, Instances.from_label_map(labels))


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed(labels, slide_file, tmp_path, tests_importable):
    fatal = tmp_path / "fatal"
    fatal.touch()
    detector = FakeDetector(Recipe(seconds=0.2, fatal=str(fatal)))
    with Cluster(workers=2) as cluster:
        found = detect(open_slide(slide_file), tmp_path / "blocks", detector, cluster=cluster)
    assert not fatal.exists() and detector.calls == 0
    assert same_masks(found, Instances.from_label_map(labels))


@pytest.mark.slow
def test_a_cluster_that_runs_already(labels, slide_file, tmp_path, tests_importable):
    distributed = pytest.importorskip("distributed")
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": "CRITICAL"}
    with distributed.LocalCluster(n_workers=2, **options) as running:
        address = running.scheduler_address
        with Cluster(scheduler=address) as cluster:
            slide = open_slide(slide_file)
            found = detect(slide, tmp_path / "blocks", cluster=cluster)
            assert same_masks(found, Instances.from_label_map(labels))
            slide_file.write_bytes(slide_file.read_bytes()[:5000])
            running.scale(0)  # the workers have the old file open
            while running.scheduler.workers:  # else they would be kept
                time.sleep(0.05)
            running.scale(2)
            with pytest.raises(InputError, match="is truncated or corrupt"):
                detect(slide, tmp_path / "others", cluster=cluster)


def test_a_scheduler_that_is_not_there(monkeypatch):
    monkeypatch.setattr("mrcnn_nuclei.cluster.TIMEOUT", 0.5)
    with Cluster(scheduler="tcp://127.0.0.1:9") as cluster:
        with pytest.raises(InputError, match="tcp://127.0.0.1:9: cannot be reached"):
            list(cluster.map(partial(print), [1]))
