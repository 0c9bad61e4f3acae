"""The figures of the paper: true numbers, and files where they are looked for."""

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_preset, write_tiny_weights

from mrcnn.instances import Instances
from mrcnn_nuclei import figures
from mrcnn_nuclei.cli import main
from mrcnn_nuclei.config import inference_config, make_config
from mrcnn_nuclei.datasets import synthetic
from mrcnn_nuclei.networks import NETWORKS


@pytest.fixture(scope="module", params=["mrcnn", "unet"])
def detector(request):
    config = inference_config(make_config("compact", model=request.param))

    class Detector:
        model = NETWORKS[config.MODEL]("inference", config, ".")

    Detector.config = config
    return Detector


def test_every_weight_belongs_to_one_part(detector):
    counts = figures.count_weights(detector.model.keras_model)
    total = counts.pop("all")
    assert total == detector.model.keras_model.count_params() == sum(counts.values())
    unet = detector.config.MODEL == "unet"
    assert (counts["rpn"] == 0) == unet
    assert counts["foreground"] == counts["border"] == counts["interior"]
    if not unet:
        # 3 x 3 x 96 x 128 + 128, and two 1 x 1 with 2 and 4 numbers for each of three anchors.
        assert counts["rpn"] == 9 * 96 * 128 + 128 + 128 * 18 + 18


def test_the_model_names_its_sizes(detector, tmp_path):
    _, image, labels = synthetic.generate(1, 64)[0]
    path = tmp_path / "model.svg"
    with figures.plt.rc_context({"svg.fonttype": "none"}):
        figures.draw_model(detector, image, Instances.from_label_map(labels), path)
    text = path.read_text(encoding="utf-8")
    assert f"{labels.max()} nuclei" in text
    expected = ["144 x 144", "2.62 M weights", "decoder: border", "576 x 576"]
    if detector.config.MODEL == "mrcnn":
        expected = ["P2  144 x 144 x 96", "C5  18 x 18 x 512", "12, 24, 48, 96, 192", "up to 4,096"]
    for words in expected:
        assert words in text, words


@pytest.fixture
def tiny():
    with tiny_preset():
        yield


def test_command(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_tiny_weights(tmp_path / "tiny.h5")
    tiles = synthetic.generate(3, 96)
    synthetic.write_tiles("tissue", tiles)
    Image.fromarray(tiles[0][1]).save("new.png")
    command = ["figures", "--weights", "tiny.h5"]
    assert main([*command, "--dataset", "tissue", "--subset", "all", "--count", "2"]) == 0
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == [
        "figure1.png",
        "figure1.svg",
        "figure2.png",
    ]
    with Image.open("figures/figure2.png") as picture:
        assert np.allclose(picture.size, (4 * 3.6 * 150, (2 * 3.9 + 0.4) * 150), atol=2)
    assert main([*command, "--image", "new.png", "--output", "others"]) == 0
    assert (tmp_path / "others" / "figure3.png").is_file()
    assert not (tmp_path / "others" / "figure2.png").exists()
    capsys.readouterr()
    assert main([*command, "--image", "missing.png"]) == 2
    assert capsys.readouterr().err == (
        "nucleus: error: missing.png: no such image file; check the path\n"
    )
