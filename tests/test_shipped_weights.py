"""The weights that come with the project: found by a word, described truly, and of use."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from tiny import tiny_preset, write_tiny_unet, write_tiny_weights

from mrcnn.errors import InputError
from mrcnn.files import file_digest
from mrcnn_nuclei.cli import main
from mrcnn_nuclei.datasets import blank, synthetic
from mrcnn_nuclei.detector import Detector
from mrcnn_nuclei.image_files import read_label_map
from mrcnn_nuclei.joint import load_detector
from mrcnn_nuclei.shipped_weights import FILES, FOLDER, MONUSEG, PRESET_OF, find_shipped, saw

README = Path(__file__).parent.parent / "weights" / "README.md"


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A folder in the place of the project's own, in which nothing lies yet."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setenv("NUCLEI_WEIGHTS", str(folder))
    return folder


@pytest.fixture
def picture(tmp_path):
    (path,) = synthetic.write(tmp_path / "picture", count=1, size=96)
    return path


def sections():
    """The text of each model card, by the name of its file."""
    parts = re.split(r"^## `(.+)`$", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


# Where they are looked for


def test_words_and_files(folder, tmp_path):
    for word, name in FILES.items():
        with pytest.raises(InputError, match=rf"{name}: no such weights file; clone the project"):
            find_shipped(word)
        (folder / name).touch()
        assert find_shipped(word) == folder / name
    assert find_shipped() == find_shipped(None) == folder / "nuclei_he_mrcnn.h5"
    for other in ("mine.h5", tmp_path / "mine.h5", "none", "last"):
        assert find_shipped(other) is other


def test_they_lie_in_the_checkout(monkeypatch):
    monkeypatch.delenv("NUCLEI_WEIGHTS", raising=False)
    assert README.parent == FOLDER
    assert find_shipped() == FOLDER / "nuclei_he_mrcnn.h5"


def test_git_keeps_them_and_packages_leave_them_out():
    ignored = subprocess.run(
        ["git", "check-ignore", *FILES.values()], cwd=FOLDER, capture_output=True, check=False
    )
    assert ignored.returncode in (1, 128)  # none is, or this is no checkout
    assert not (FOLDER / "__init__.py").exists()
    assert "weights" not in (FOLDER.parent / "setup.py").read_text(encoding="utf-8")


# What the commands make of them


def test_detect_without_weights(folder, picture, tmp_path, capsys):
    output = ["--output", str(tmp_path / "out"), "--write", "labels"]
    assert main(["detect", "--image", str(picture), *output]) == 2
    path, unet = folder / "nuclei_he_mrcnn.h5", folder / "nuclei_he.h5"
    told = [f"weights: {each} (CC BY-NC-SA 4.0, no commercial use)" for each in (path, unet)]
    with tiny_preset():
        shutil.move(write_tiny_unet(tmp_path / "tiny.h5"), unet)
        assert main(["detect", "--image", str(picture), *output]) == 2
        assert f"{path.name}: no such weights file" in capsys.readouterr().err
        shutil.move(write_tiny_weights(tmp_path / "tiny.h5"), path)
        assert main(["detect", "--image", str(picture), *output]) == 0
        err = capsys.readouterr().err
        assert [err.count(line) for line in told] == [1, 1]
        assert list((tmp_path / "out" / "labels").iterdir())

        # Weights that are named detect alone, unless a U-Net is named too.
        for options, uses in [
            (["--weights", "he_mrcnn"], [1, 0]),
            (["--weights", "he"], [0, 1]),
            (["--unet", "none"], [1, 0]),
            (["--weights", "he_mrcnn", "--unet", "he"], [1, 1]),
        ]:
            assert main(["detect", "--image", str(picture), *output, *options]) == 0
            err = capsys.readouterr().err
            assert [err.count(line) for line in told] == uses, options
        joint, alone = load_detector(), load_detector("he_mrcnn")
        assert joint.weights == alone.weights == Detector().weights == str(path)
        assert joint.unet.weights == str(unet) and isinstance(alone, Detector)
        assert isinstance(load_detector(unet="none"), Detector)
    assert main(["detect", "--image", str(picture), *output, "--unet", "gone.h5"]) == 2
    assert "gone.h5: no such weights file" in capsys.readouterr().err


@pytest.mark.parametrize("word", FILES)
def test_training_starts_from_them(folder, word, monkeypatch, tmp_path):
    (folder / FILES[word]).touch()
    started, presets = [], []

    def note(config, *args, weights, **kwargs):
        started.append(weights)
        presets.append(config.PRESET)
        return tmp_path / "weights.h5"

    monkeypatch.setattr("mrcnn_nuclei.training.train", note)
    synthetic.write(tmp_path / "data", count=2, size=32)
    assert main(["train", "--dataset", str(tmp_path / "data"), "--weights", word]) == 0
    assert started == [folder / FILES[word]]
    assert presets == [PRESET_OF[word]]  # that they fit, though none was given


@pytest.mark.parametrize("command", ["crossval", "ablate"])
def test_no_image_is_held_out_from_all(folder, command, tmp_path, capsys):
    for name in ("nuclei_he_mrcnn.h5", "nuclei_he.h5", "copy.h5"):
        (folder / name).write_text("as it came")
    (folder / "another.h5").write_text("trained elsewhere")
    data = tmp_path / "data"
    synthetic.write(data, count=5, size=32)
    arguments = [command, "--dataset", str(data), "--output", str(tmp_path / "out")]
    for k, name in enumerate(sorted(MONUSEG)[:5]):
        for kind in ("images", "labels"):
            (data / kind / f"synthetic_{k:03}.png").rename(data / kind / f"{name}.png")
    for start in (
        ["--weights", "he_mrcnn"],
        ["--weights", "he"],
        ["--weights", str(folder / "nuclei_he.h5")],
        ["--weights", str(folder / "copy.h5")],
        ["--set", "INITIAL_WEIGHTS=he"],
    ):
        assert main([*arguments, *start]) == 2
        error = capsys.readouterr().err
        assert "learned from all images of MoNuSeg, such as TCGA-" in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_of_other_images_any_may_be_held_out():
    assert saw("he", ["a", "TCGA-18-5592-01Z-00-DX1", "TCGA-00-0000-01Z-00-DX1"]) == [
        "TCGA-18-5592-01Z-00-DX1"
    ]
    for weights in ("free", "none", None, "of_mine.h5"):
        assert saw(weights, ["TCGA-18-5592-01Z-00-DX1"]) == []


def test_exporting_takes_their_words(folder, tmp_path, capsys):
    arguments = ["export", "--output", str(tmp_path / "nuclei.onnx"), "--weights"]
    assert main([*arguments, "free"]) == 2
    assert f"{folder / 'nuclei_free.h5'}: no such weights file; clone" in capsys.readouterr().err
    assert main([*arguments, "fre"]) == 2
    assert "fre: no such weights file; check the path" in capsys.readouterr().err


def test_thresholds_are_not_written_into_them(folder, tmp_path, capsys):
    (folder / "nuclei_he.h5").touch()
    synthetic.write(tmp_path / "data", count=2, size=32)
    assert main(["tune", "--dataset", str(tmp_path / "data"), "--weights", "he"]) == 2
    assert "--weights he: thresholds are saved in the file" in capsys.readouterr().err


# The files themselves


@pytest.mark.parametrize("name", FILES.values())
def test_model_cards_are_true(name):
    path, card = FOLDER / name, sections()[name]
    assert file_digest(path) in card
    assert path.stat().st_size < 16e6
    with h5py.File(path) as file:
        kinds = set()
        file.visititems(lambda _, x: kinds.add(x.dtype) if isinstance(x, h5py.Dataset) else None)
    assert np.dtype("float16") in kinds and kinds <= {np.dtype("float16"), np.dtype("float32")}
    for word in ("Data", "Licence", "Command", "Scores", "Limits"):
        assert f"**{word}" in card


def test_the_licences_are_there():
    text = (FOLDER / "LICENSE").read_text(encoding="utf-8")
    assert "Attribution-NonCommercial-ShareAlike 4.0 International Public License" in text
    assert "Kumar" in text and "nuclei_free.h5" in text


def detect(folder, *options):
    """In a process of its own, as users run it; return the label maps in order of their names."""
    command = [sys.executable, "-m", "mrcnn_nuclei.cli", "detect", "--write", "labels"]
    command += ["--dataset", folder, "--output", folder / "found", *options]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    return [read_label_map(path) for path in sorted((folder / "found" / "labels").iterdir())]


@pytest.mark.slow
@pytest.mark.parametrize("word", FILES)
def test_no_nuclei_on_blank_glass_nor_in_the_dark(word, tmp_path):
    blank.write(tmp_path, count=12, size=512, seed=100)
    for path in (tmp_path / "images").iterdir():
        if int(path.stem[-3:]) % len(blank.KINDS) == blank.KINDS.index("tissue"):
            path.unlink()
            (tmp_path / "labels" / path.name).unlink()
    found = detect(tmp_path, "--weights", word)
    assert len(found) == 8
    assert not any(labels.any() for labels in found)


@pytest.mark.slow
@pytest.mark.parametrize("word", FILES)
def test_nuclei_in_drawn_tissue(word, tmp_path):
    synthetic.write(tmp_path, count=4, seed=100)
    for k, found in enumerate(detect(tmp_path, "--weights", word)):
        truth = read_label_map(tmp_path / "labels" / f"synthetic_{k:03d}.png") > 0
        dice = 2 * (truth & (found > 0)).sum() / (truth.sum() + (found > 0).sum())
        assert dice > 0.6, k
