"""The demonstration, at a size that takes seconds, and as users run it."""

import json

import pytest
from PIL import Image
from tiny import tiny_preset, write_tiny_unet, write_tiny_weights

from mrcnn_nuclei import demo
from mrcnn_nuclei.cli import main
from mrcnn_nuclei.shipped_weights import DEFAULT, DEFAULT_UNET, FILES

TINY = {
    "STEPS_PER_EPOCH": 1,
    "VALIDATION_STEPS": 1,
    "SCHEDULE": [("all", 1, 1.0)],
    "IMAGES_PER_GPU": 1,
    "IMAGE_MIN_DIM": 64,
    "IMAGE_MAX_DIM": 64,
    "TRAIN_ROIS_PER_IMAGE": 16,
    "POST_NMS_ROIS_TRAINING": 50,
    "POST_NMS_ROIS_INFERENCE": 50,
    "DETECTION_MAX_INSTANCES": 40,
}


def test_everything_is_written(monkeypatch, tmp_path, capsys):
    for name, value in (("TRAINING_TILES", 2), ("TRAINING_SIZE", 96)):
        monkeypatch.setattr(demo, name, value)
    for name, value in (("HELD_OUT_TILES", 2), ("HELD_OUT_SIZE", 96)):
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setenv("NUCLEI_WEIGHTS", str(tmp_path))
    with tiny_preset():
        write_tiny_weights(tmp_path / FILES[DEFAULT])
        write_tiny_unet(tmp_path / FILES[DEFAULT_UNET])
        evaluations = demo.run_demo(tmp_path, settings=TINY)
    assert list(evaluations) == ["mrcnn", "unet"]
    for model, evaluation in evaluations.items():
        assert [row["image"] for row in evaluation.rows] == ["synthetic_000", "synthetic_001"]
        table = tmp_path / f"table-{model}.json"
        assert json.loads(table.read_text())["mean"] == evaluation.mean
        assert "| synthetic_001 |" in table.with_suffix(".md").read_text()
        for kind in ("overlay", "labels", "geojson", "measurements"):
            assert len(list((tmp_path / "results" / model / kind).iterdir())) == 2
    with Image.open(tmp_path / "demo.png") as picture:
        assert picture.width == 3 * 2 * 96  # a tile and two comparisons, at twice the size
    with Image.open(tmp_path / "first.png") as picture:
        assert picture.width == 2 * 2 * 96
    out = capsys.readouterr().out
    assert f"wrote {tmp_path}" in out
    assert out.index(f"look at {tmp_path / 'first.png'}") < out.index("training Mask R-CNN")


def test_without_shipped_weights(monkeypatch, tmp_path, capsys):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setenv("NUCLEI_WEIGHTS", str(tmp_path / "nowhere"))
    monkeypatch.setattr("mrcnn_nuclei.training.train", stop)
    for name in ("TRAINING_TILES", "HELD_OUT_TILES"):
        monkeypatch.setattr(demo, name, 1)
    with pytest.raises(KeyboardInterrupt):
        demo.run_demo(tmp_path)
    out = capsys.readouterr().out
    assert "left out: " in out and out.index("no such weights file") < out.index("3/6  training")


@pytest.mark.slow
def test_the_demonstration_finds_its_nuclei(tmp_path):
    assert main(["demo", "--output", str(tmp_path / "demo")]) == 0
    assert (tmp_path / "demo" / "first.png").exists()
    for model in demo.NETWORKS:
        table = json.loads((tmp_path / "demo" / f"table-{model}.json").read_text())
        assert table["mean"]["AJI"] >= 0.4, model
