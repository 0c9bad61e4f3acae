"""The command: what it writes, and that a mistake is one line, status 2, nothing half written."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from tiny import tiny_preset, write_pairs, write_tiny_weights

from mrcnn.weights import read_arrays, save_arrays
from mrcnn_nuclei import blocks, cli, detection, image_files
from mrcnn_nuclei.cli import main
from mrcnn_nuclei.datasets import synthetic
from mrcnn_nuclei.datasets.synthetic import draw_tile
from mrcnn_nuclei.image_files import read_label_map
from mrcnn_nuclei.networks import RECIPE, read_recipe
from mrcnn_nuclei.shipped_weights import FILES, MONUSEG

ROOT = Path(__file__).resolve().parent.parent

# Of TensorFlow, on running networks without tracing.
pytestmark = pytest.mark.filterwarnings("ignore:Even though the .tf.config.experimental_run")


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with tiny_preset():
        yield


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    """A process warns once of each file; tests share theirs."""
    monkeypatch.setattr(image_files, "_said", set())


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.h5")


@pytest.fixture
def fails(capsys, tmp_path):
    """Run a command that must fail, and return its one line."""

    def run(*arguments):
        before = files_under(tmp_path)
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert (status, out) == (2, "")
        assert err.startswith("nucleus: error: ") and err.endswith("\n")
        assert err.count("\n") == 1 and "\r" not in err
        assert files_under(tmp_path) == before
        return err

    return run


def files_under(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def tissue(size=96):
    return draw_tile(size, np.random.default_rng(0))[0]


def write_monuseg(root, xml, size=64):
    """Two images; the outlines of the first are `xml`."""
    root.mkdir(parents=True)
    square = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ((2, 2), (9, 2), (9, 9), (2, 9)))
    good = f"<Annotations><Annotation><Regions><Region Id='1'><Vertices>{square}</Vertices>"
    good += "</Region></Regions></Annotation></Annotations>"
    for name, text in (("a", xml(good)), ("b", good)):
        tifffile.imwrite(root / f"{name}.tif", tissue(size), photometric="rgb")
        (root / f"{name}.xml").write_text(text)
    return root


def train_arguments(dataset, tmp_path):
    return ["train", "--dataset", dataset, "--preset", "tiny", "--logs", tmp_path / "logs"]


# The command line itself


def test_help_is_quick_and_loads_no_network():
    code = (
        "import sys, time\n"
        "from mrcnn_nuclei.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "slow = {'keras', 'tensorflow', 'matplotlib', 'pandas', 'skimage'} & set(sys.modules)\n"
        "assert not slow, slow\n"
        "assert time.process_time() < 1, time.process_time()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    for command in ("train", "detect", "evaluate", "demo"):
        assert f"\n    {command}" in result.stdout


@pytest.mark.parametrize("command", ["train", "detect", "evaluate", "demo"])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert "default" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("nucleus 0.")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "COMMAND"),
        (["tarin"], "'tarin'"),
        (["train"], "--dataset"),
        (["train", "--dataset", "d", "--fast"], "--fast"),
        (["train", "--dataset", "d", "--epochs", "many"], "--epochs"),
        (["train", "--dataset", "d", "--seed", "-1"], "--seed"),
        (["train", "--dataset", "d", "--preset", "huge"], "'huge'"),
        (["train", "--dataset", "d", "--format", "zip"], "'zip'"),
        (["tune", "--dataset", "d"], "--weights"),
        (["detect", "--weights", "w.h5"], "either --dataset DIR or --image FILE"),
        (["detect", "--weights", "w", "--dataset", "d", "--image", "i"], "either --dataset DIR"),
        (["detect", "--weights", "w", "--image", "i", "--write", "overlai"], "mean overlay?"),
        (["detect", "--weights", "w", "--image", "i", "--mpp", "nan"], "no number of microns"),
        (["detect", "--weights", "w", "--image", "i", "--workers", "0"], "from 1 up"),
        (["evaluate", "--truth", "t"], "--predictions"),
    ],
)
def test_wrong_options(fails, arguments, words):
    assert words in fails(*arguments)


@pytest.mark.parametrize("command", ["train", "detect"])
def test_unknown_settings_offer_the_nearest_name(fails, tmp_path, command):
    data = write_pairs(tmp_path / "data")
    more = ["--weights", "w.h5"] if command == "detect" else []
    line = fails(command, "--dataset", data, *more, "--set", "DETECTION_MIN_CONFIDENSE=0.9")
    assert "there is no setting DETECTION_MIN_CONFIDENSE" in line
    assert "did you mean DETECTION_MIN_CONFIDENCE?" in line


# Data


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--dataset", "{}"],
        ["detect", "--weights", "w.h5", "--dataset", "{}"],
        ["evaluate", "--predictions", ".", "--truth", "{}"],
    ],
)
def test_no_such_folder_and_no_images_in_it(fails, tmp_path, command):
    def run(folder):
        return fails(*(word.format(folder) for word in command))

    assert f"{tmp_path / 'nowhere'}: no such folder" in run(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("nothing here")
    line = run(tmp_path / "empty")
    assert str(tmp_path / "empty") in line
    assert "no images" in line or "format" in line


def test_no_such_predictions_or_images(fails, tmp_path, weights):
    truth = write_pairs(tmp_path / "truth")
    line = fails("evaluate", "--predictions", tmp_path / "nowhere", "--truth", truth)
    assert f"{tmp_path / 'nowhere'}: no such file or folder" in line
    (tmp_path / "empty").mkdir()
    line = fails("evaluate", "--predictions", tmp_path / "empty", "--truth", truth)
    assert "3 of 3 images have no prediction" in line
    line = fails("detect", "--weights", weights, "--image", tmp_path / "gone.png")
    assert f"{tmp_path / 'gone.png'}: no such image file" in line


def test_folds_that_do_not_exist(fails, tmp_path):
    data = write_pairs(tmp_path / "data", count=5)
    line = fails(*train_arguments(data, tmp_path), "--fold", 7)
    assert "there is no fold 7; choose 0 to 4" in line


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda xml: xml[: len(xml) // 2], "not well-formed"),
        (lambda xml: xml.replace("</Region>", ""), "not well-formed"),
        (
            lambda xml: (
                '<!DOCTYPE a [<!ENTITY secret SYSTEM "file:///etc/passwd">]>'
                + xml.replace("<Regions>", "<Regions>&secret;")
            ),
            "entities",
        ),
        (lambda xml: xml.replace('X="2"', 'X="two"'), "X or Y"),
    ],
)
def test_broken_outlines(fails, tmp_path, spoil, words):
    """Found before training starts, so that no run folder is left."""
    data = write_monuseg(tmp_path / "data", spoil)
    for arguments in (
        train_arguments(data, tmp_path),
        ["evaluate", "--predictions", tmp_path, "--truth", data],
    ):
        if arguments[0] == "evaluate":
            for name in "ab":
                tifffile.imwrite(tmp_path / f"{name}.tif", np.ones((64, 64), np.uint16))
        line = fails(*arguments)
        assert str(data / "a.xml") in line and words in line


def test_annotation_of_another_size(fails, tmp_path):
    data = write_pairs(tmp_path / "data")
    wrong = data / "labels" / "tile1.png"
    Image.fromarray(np.ones((96, 90), np.uint16)).save(wrong)
    predictions = shutil.copytree(data / "labels", tmp_path / "predictions")
    for arguments in (
        train_arguments(data, tmp_path),
        ["evaluate", "--predictions", predictions, "--truth", data],
    ):
        line = fails(*arguments)
        assert f"{wrong}: has 90 x 96 pixels" in line and "96 x 96" in line


def test_prediction_of_another_size(fails, tmp_path):
    data = write_pairs(tmp_path / "data")
    predictions = shutil.copytree(data / "labels", tmp_path / "predictions")
    Image.fromarray(np.ones((90, 96), np.uint16)).save(predictions / "tile2.png")
    line = fails("evaluate", "--predictions", predictions, "--truth", data)
    assert "tile2" in line and "90" in line and "96" in line


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
@pytest.mark.parametrize("keep", [0, 30, 0.5, -20])
def test_truncated_images(fails, tmp_path, weights, suffix, keep):
    path = tmp_path / f"cut.{suffix}"
    if suffix == "tif":
        tifffile.imwrite(path, tissue(), photometric="rgb", rowsperstrip=8)
    else:
        Image.fromarray(tissue()).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    line = fails("detect", "--weights", weights, "--image", path, "--output", tmp_path / "out")
    assert str(path) in line and "again" in line


def test_a_broken_image_stops_training_before_it_starts(fails, tmp_path):
    data = write_pairs(tmp_path / "data")
    path = data / "images" / "tile2.png"
    path.write_bytes(path.read_bytes()[:1000])
    assert f"{path}: is truncated" in fails(*train_arguments(data, tmp_path))


def test_what_is_done_before_a_broken_image_stays_whole(capsys, tmp_path, weights):
    Image.fromarray(tissue()).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:1000])
    arguments = ["detect", "--weights", str(weights), "--output", str(tmp_path / "out")]
    arguments += ["--image", str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith(f"nucleus: error: {tmp_path / 'b.png'}: is truncated")
    written = {str(path.relative_to(tmp_path / "out")) for path in files_under(tmp_path / "out")}
    assert written == {"detection.json", "labels", "labels/a.tif", "overlay", "overlay/a.png"}
    assert read_label_map(tmp_path / "out" / "labels" / "a.tif").shape == (96, 96)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("16bit.png", "16-bit pixels that fit 12 bits are scaled to 8 bits"),
        ("16bit.tif", "16-bit pixels that fit 12 bits are scaled to 8 bits"),
        ("grey.png", "grey is repeated"),
        ("rgba.png", "transparency is dropped"),
        ("cmyk.tif", "CMYK is converted to RGB"),
        ("cmyk.jpg", "CMYK is converted to RGB"),
    ],
)
def test_converted_images_are_said_so(capsys, tmp_path, weights, name, words):
    path, image = tmp_path / name, Image.fromarray(tissue())
    twelve_bits = np.asarray(image).astype(np.uint16) * 16
    if name == "16bit.png":
        Image.fromarray(twelve_bits[..., 0]).save(path)
    elif name == "16bit.tif":
        tifffile.imwrite(path, twelve_bits, photometric="rgb")
    else:
        mode = {"grey": "L", "rgba": "RGBA", "cmyk": "CMYK"}[path.stem]
        image.convert(mode).save(path)
    arguments = ["detect", "--weights", weights, "--image", path, "--output", tmp_path / "out"]
    assert main([str(argument) for argument in arguments]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if words in line]
    assert len(said) == 1 and said[0].startswith(f"{path}: ")
    assert (tmp_path / "out" / "labels" / f"{path.stem}.tif").exists()


def test_pixels_that_cannot_be_converted(fails, tmp_path, weights):
    path = tmp_path / "float.tif"
    tifffile.imwrite(path, np.zeros((64, 64, 3), np.float32), photometric="rgb")
    line = fails("detect", "--weights", weights, "--image", path, "--output", tmp_path / "out")
    assert f"{path}: pixels are float32" in line


# Weights


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(tissue()).save(path)
    return path


def test_weights_that_cannot_be_used(fails, tmp_path, weights, picture):
    def detect(path, *more):
        output = ["--output", tmp_path / "out"]
        return fails("detect", "--weights", path, "--image", picture, *output, *more)

    missing, cut, text = (tmp_path / name for name in ("missing.h5", "cut.h5", "text.h5"))
    cut.write_bytes(weights.read_bytes()[:5000])
    text.write_text("<html>404 not found</html>")
    assert f"{missing}: no such weights file" in detect(missing)
    assert f"{cut}: not a readable .h5 file" in detect(cut)
    assert f"{text}: not a readable .h5 file" in detect(text)
    line = detect(weights, "--set", "FPN_MASK_CHANNELS=16")
    assert str(weights) in line and "same architecture" in line
    logs = ["--logs", tmp_path / "logs", "--preset", "tiny"]
    line = detect("last", *logs)
    assert f"--weights last: no checkpoint of nucleus-mrcnn-tiny in {tmp_path}" in line
    (tmp_path / "logs" / "nucleus-unet-tiny20261122T1146").mkdir(parents=True)
    assert "logs, which has runs of nucleus-unet-tiny; train first" in detect("last", *logs)


def test_training_from_weights_that_cannot_be_used(fails, tmp_path):
    data = write_pairs(tmp_path / "data")
    for weights, words in (("missing.h5", "no such weights file"), ("last", "no checkpoint of")):
        arguments = [*train_arguments(data, tmp_path), "--weights", weights]
        assert words in fails(*arguments)


# What it writes


@pytest.fixture
def scored(tmp_path):
    """Three true nuclei of 16 pixels and three predicted ones, two of which are exact."""
    truth, prediction = np.zeros((2, 32, 32), np.uint16)
    for label, (y, x) in enumerate([(2, 2), (2, 10), (20, 20)], start=1):
        truth[y : y + 4, x : x + 4] = label
    for label, (y, x) in enumerate([(2, 2), (2, 10), (10, 2)], start=5):
        prediction[y : y + 4, x : x + 4] = label
    for folder in ("truth/images", "truth/labels", "predictions"):
        (tmp_path / folder).mkdir(parents=True)
    Image.fromarray(tissue(32)).save(tmp_path / "truth/images/one.png")
    Image.fromarray(truth).save(tmp_path / "truth/labels/one.png")
    tifffile.imwrite(tmp_path / "predictions/one_labels.tif", prediction)
    predictions, truth = str(tmp_path / "predictions"), str(tmp_path / "truth")
    return ["evaluate", "--predictions", predictions, "--truth", truth]


def test_evaluate_by_hand(scored, capsys, tmp_path):
    assert main([*scored, "--json", str(tmp_path / "scores.json")]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[-1] == f"wrote {tmp_path / 'scores.json'}"
    row = json.loads((tmp_path / "scores.json").read_text())["images"][0]
    assert (row["image"], row["nuclei_true"], row["nuclei_pred"]) == ("one", 3, 3)
    # TP = 2, FP = 1, FN = 1 at every threshold; 32 pixels in common, 64 in the union.
    expected = {"mAP": 2 / 4, "mask_iou": 2 / 3, "AJI": 32 / 64, "AJI_plus": 32 / 64}
    expected |= {"PQ": 2 / 3, "DQ": 2 / 3, "SQ": 1, "F1": 2 / 3, "Dice": 64 / 96}
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert "0.6667" in out


def test_scores_appear_whole_or_not_at_all(scored, capsys, tmp_path, monkeypatch):
    path = tmp_path / "scores.json"
    path.write_text("those of before")

    def write_half(self, text, **kwargs):
        with open(self, "w") as file:
            file.write(text[: len(text) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", write_half)
    assert main([*scored, "--json", str(path)]) == 2
    monkeypatch.undo()
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "No space left on device" in err
    assert path.read_text() == "those of before"
    assert not list(tmp_path.glob(".part*"))


def test_scores_in_no_known_format(scored, capsys, tmp_path):
    assert main([*scored, "--json", str(tmp_path / "scores.xlsx")]) == 2
    assert "scores.xlsx: end its name in one of .json" in capsys.readouterr().err


def test_detect_writes_every_format(capsys, tmp_path, weights, picture):
    kinds = "overlay,labels,geojson,coco,rle,csv"
    arguments = ["detect", "--weights", weights, "--image", picture, "--output", tmp_path / "out"]
    arguments = [str(argument) for argument in [*arguments, "--write", kinds]]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.endswith(f" to {tmp_path / 'out'}\n")
    count = int(out.split()[0])
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")}
    assert files == {
        "detection.json",
        "overlay/picture.png",
        "labels/picture.tif",
        "geojson/picture.geojson",
        "coco.json",
        "submission.csv",
        "measurements/picture.csv",
    }
    coco = json.loads((tmp_path / "out" / "coco.json").read_text())
    annotations = coco["annotations"] if isinstance(coco, dict) else coco
    assert len(annotations) == count > 0


def test_a_slide_is_detected_by_blocks(capsys, tmp_path, weights, monkeypatch):
    """The same nuclei in whatever format; blocks are kept, so that another costs no detection."""
    monkeypatch.setattr(detection, "WHOLE_PIXELS", 300 * 300)
    monkeypatch.setattr(blocks, "SIDE", 250)
    path = tmp_path / "slide.tif"
    image = np.full((420, 380, 3), 240, np.uint8)
    image[:200, :200] = tissue(200)
    tifffile.imwrite(
        path, image, photometric="rgb", resolution=(40000, 40000), resolutionunit="CENTIMETER"
    )
    arguments = ["detect", "--weights", weights, "--image", path, "--output", tmp_path / "out"]
    arguments = [str(argument) for argument in arguments]
    assert main([*arguments, "--write", "labels,overlay,csv"]) == 0
    out, err = capsys.readouterr()
    count = int(out.split()[0])
    assert count > 0 and "in 1 image" in out
    assert "4 of 6 blocks have something to look at, 0 are done already" in err
    labels = tifffile.imread(tmp_path / "out" / "labels" / "slide.tif")
    assert labels.shape == (420, 380) and labels.max() <= count
    table = (tmp_path / "out" / "measurements" / "slide.csv").read_text()
    assert "um" in table.splitlines()[0] and len(table.splitlines()) > count / 2

    kept = files_under(tmp_path / "out" / "blocks")
    assert main([*arguments, "--write", "geojson"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{count} nuclei")
    known = files_under(tmp_path / "out" / "blocks")
    blocks_kept = {path for path in kept if path.parent.name == "slide" and path.suffix}
    assert all(known[path] == kept[path] for path in blocks_kept) and len(blocks_kept) > 1

    assert main([*arguments, "--write", "geojson", "--region", "0", "0", "90", "120"]) == 0
    assert 0 < int(capsys.readouterr().out.split()[0]) < count
    with open(tmp_path / "out" / "geojson" / "slide.geojson") as file:
        for feature in json.load(file)["features"]:
            x, y = np.mean(feature["geometry"]["coordinates"][0][:-1], axis=0)
            assert x < 100 and y < 130


def test_a_slide_has_no_place_in_a_file_of_a_set(fails, tmp_path, weights, monkeypatch):
    monkeypatch.setattr(detection, "WHOLE_PIXELS", 100)
    Image.fromarray(tissue()).save(tmp_path / "slide.png")
    arguments = ["detect", "--weights", weights, "--image", tmp_path / "slide.png"]
    line = fails(*arguments, "--output", tmp_path / "out", "--write", "coco,labels")
    assert "slide.png: is a slide, and coco" in line


def test_an_image_of_another_resolution_is_brought_to_the_networks(tmp_path, weights):
    """Enlarged by two it is what the network sees; back, masks have half the sides."""
    Image.fromarray(tissue(96)).save(tmp_path / "a.png")
    arguments = ["detect", "--weights", weights, "--image", tmp_path / "a.png", "--write", "labels"]
    for mpp, name in ((0.25, "same"), (0.26, "near"), (0.5, "half")):
        more = ["--output", tmp_path / name, "--mpp", mpp]
        assert main([str(argument) for argument in [*arguments, *more]]) == 0
    same, near, half = (
        tifffile.imread(tmp_path / name / "labels" / "a.tif") for name in ("same", "near", "half")
    )
    np.testing.assert_array_equal(same, near)
    assert half.shape == same.shape and not np.array_equal(half, same)


@pytest.mark.parametrize(
    ("region", "words"),
    [
        (["1", "2", "3"], "give X Y W H"),
        (["1", "2", "3", "x"], "give X Y W H"),
        (["1", "2", "3", "0"], "width and height"),
        (["gone.geojson"], "no such file"),
    ],
)
def test_regions_that_are_none(fails, weights, picture, region, words):
    assert words in fails("detect", "--weights", weights, "--image", picture, "--region", *region)


def test_detect_does_what_is_not_done_yet(capsys, tmp_path, weights):
    write_pairs(tmp_path / "data", count=2, size=64)
    arguments = ["detect", "--weights", weights, "--output", tmp_path / "out", "--dataset"]
    arguments = [str(argument) for argument in [*arguments, tmp_path / "data"]]
    assert main(arguments) == 0
    assert " nuclei in 2 images; wrote overlay, labels to " in capsys.readouterr().out
    before = files_under(tmp_path / "out")
    (tmp_path / "out" / "labels" / "tile1.tif").unlink()
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert " nuclei in 1 image" in out and "1 of 2 images are done already" in err
    after = files_under(tmp_path / "out")
    assert after.keys() == before.keys()
    assert {path.stem for path in after if path.suffix and after[path] != before[path]} == {
        "tile1",
        "detection",
    }
    assert main([*arguments, "--set", "DETECTION_MIN_CONFIDENCE=0.99"]) == 0
    assert " in 2 images" in capsys.readouterr().out


def test_results_of_other_weights_or_images_are_not_taken_for_done(capsys, tmp_path, weights):
    pictures = write_pairs(tmp_path / "data", count=2, size=64) / "images"
    other = write_tiny_weights(tmp_path / "other.h5", {"DETECTION_MAX_INSTANCES": 5})

    def detect(used, *names):
        images = [str(pictures / f"{name}.png") for name in names]
        output = str(tmp_path / "out")
        assert main(["detect", "--weights", str(used), "--output", output, "--image", *images]) == 0
        return capsys.readouterr().out

    assert " in 2 images" in detect(weights, "tile0", "tile1")
    assert " in 1 image" in detect(other, "tile0")
    assert " in 1 image" in detect(other, "tile0", "tile1")  # tile1 is still the first weights'
    assert "nothing to do" in detect(other, "tile0", "tile1")
    shutil.copy(pictures / "tile0.png", pictures / "tile1.png")
    assert " in 1 image" in detect(other, "tile0", "tile1")


def test_average_writes_the_mean(capsys, tmp_path, weights, picture):
    files = [tmp_path / name for name in ("a.h5", "b.h5", "c.h5")]
    for factor, path in zip((1.0, 2.0, 6.0), files):
        groups = read_arrays(weights)
        groups["conv1"]["conv1/kernel:0"] *= factor
        save_arrays(path, groups, {RECIPE: read_recipe(weights)})
    mean = tmp_path / "mean.h5"
    assert main(["average", "--weights", *map(str, files), "--output", str(mean)]) == 0
    assert f"wrote {mean}, the mean of 3 files" in capsys.readouterr().out
    before, after = read_arrays(weights), read_arrays(mean)
    np.testing.assert_allclose(
        after["conv1"]["conv1/kernel:0"], 3 * before["conv1"]["conv1/kernel:0"], rtol=1e-6
    )
    np.testing.assert_array_equal(
        after["fpn_p2"]["fpn_p2/bias:0"], before["fpn_p2"]["fpn_p2/bias:0"]
    )
    found = ["--weights", str(mean), "--output", str(tmp_path / "found")]
    assert main(["detect", "--image", str(picture), *found]) == 0


def test_average_in_half_precision(capsys, tmp_path, weights, picture):
    half, large = tmp_path / "half.h5", tmp_path / "large.h5"
    groups = read_arrays(weights)
    groups["bn_conv1"]["bn_conv1/moving_variance:0"][0] = 1e6  # float16 ends at 65,504
    save_arrays(large, groups, {RECIPE: read_recipe(weights)})
    weights = large
    arguments = ["average", "--half", "--weights", str(weights), "--output", str(half)]
    assert main([*arguments, "--set", "DETECTION_MASK_THRESHOLD=0.3"]) == 0
    assert f"wrote {half}, in half precision" in capsys.readouterr().out
    settings = read_recipe(weights)["settings"] | {"DETECTION_MASK_THRESHOLD": 0.3}
    assert read_recipe(half)["settings"] == settings
    before, after = read_arrays(weights), read_arrays(half)
    for layer, arrays in before.items():
        for name, array in arrays.items():
            large = (layer, name) == ("bn_conv1", "bn_conv1/moving_variance:0")
            assert after[layer][name].dtype == (np.float32 if large else np.float16)
            np.testing.assert_allclose(after[layer][name], array, rtol=1e-3, atol=1e-7)
    found = ["--weights", str(half), "--output", str(tmp_path / "found")]
    assert main(["detect", "--image", str(picture), *found]) == 0


def test_average_refuses_what_does_not_fit(fails, tmp_path, weights):
    other, mean = tmp_path / "other.h5", tmp_path / "mean.h5"
    groups = read_arrays(weights)
    del groups["conv1"]
    save_arrays(other, groups)
    empty = tmp_path / "empty.h5"
    save_arrays(empty, {})
    for options, message in (
        (["--weights", weights, "--output", mean], "two files or more"),
        (["--weights", weights, other, "--output", mean], "other.h5: is of another network"),
        (["--weights", weights, tmp_path / "none.h5", "--output", mean], "none.h5"),
        (["--weights", empty, empty, "--output", mean], "empty.h5: not a readable .h5"),
        (["--weights", weights, weights, "--output", other], "exists already"),
    ):
        assert message in fails("average", *options)
        assert not mean.exists()


def test_detect_continues_to_work_on_the_newest_run(capsys, tmp_path, weights, picture):
    for stamp, name in (
        ("20250101T0000", "nucleus-mrcnn-tiny"),
        ("20260101T0000", "nucleus-mrcnn-tiny"),
        ("20270101T0000", "nucleus-mrcnn-other"),
    ):
        folder = tmp_path / "logs" / f"{name}{stamp}"
        folder.mkdir(parents=True)
        shutil.copy(weights, folder / f"mask_rcnn_{name}_0003.h5")
    arguments = ["detect", "--weights", "last", "--preset", "tiny", "--logs", tmp_path / "logs"]
    arguments += ["--image", picture, "--output", tmp_path / "out"]
    assert main([str(argument) for argument in arguments]) == 0
    used = json.loads((tmp_path / "out" / "detection.json").read_text())["weights"]
    assert Path(used).parent.name == "nucleus-mrcnn-tiny20260101T0000"


def test_messages_are_said_once(capsys):
    cli._quieten()
    for _ in range(3):
        logging.getLogger("mrcnn").warning("a limit of %d is reached", 5)
    logging.getLogger("mrcnn").warning("a limit of %d is reached", 6)
    assert capsys.readouterr().err.splitlines() == [
        "a limit of 5 is reached",
        "a limit of 6 is reached",
    ]


def test_train_detect_evaluate(capsys, tmp_path):
    """One after the other, as a user would; then training again, which continues."""
    data = write_pairs(tmp_path / "data", count=6, size=64)
    arguments = [str(a) for a in [*train_arguments(data, tmp_path), "--fold", 1, "--epochs", 1]]
    assert main([*arguments, "--set", "LEARNING_RATE=0.01"]) == 0
    out, err = capsys.readouterr()
    assert "images to train on" in err and "epoch 1/1" in out + err
    [run] = (tmp_path / "logs").iterdir()
    assert run.name.startswith("nucleus-fold1-mrcnn-tiny2")
    [checkpoint] = run.glob("*.h5")
    assert f"wrote {run}" in out.splitlines()[-1] and str(checkpoint) in out.splitlines()[-1]

    detect = ["detect", "--dataset", data, "--fold", 1, "--weights", checkpoint]
    detect += ["--output", tmp_path / "out", "--write", "labels"]
    assert main([str(argument) for argument in detect]) == 0
    held_out = sorted(path.stem for path in (tmp_path / "out" / "labels").iterdir())
    assert 0 < len(held_out) < 6

    scores = tmp_path / "scores.json"
    evaluate = ["evaluate", "--predictions", tmp_path / "out" / "labels", "--truth", data]
    evaluate += ["--fold", 1, "--json", scores]
    assert main([str(argument) for argument in evaluate]) == 0
    assert [row["image"] for row in json.loads(scores.read_text())["images"]] == held_out

    capsys.readouterr()
    assert main([*arguments, "--weights", "last"]) == 0
    assert "1 of 1 epochs are done already" in capsys.readouterr().err
    assert list((tmp_path / "logs").iterdir()) == [run]


def test_training_on_further_folders(capsys, monkeypatch, tmp_path):
    data = write_pairs(tmp_path / "data", count=6, size=64)
    further = synthetic.write(tmp_path / "further", count=2, size=64)
    seen = {}

    def note(config, train_dataset, val_dataset, logs, **kwargs):
        seen.update(train=train_dataset.names, val=val_dataset.names)
        return tmp_path / "weights.h5"

    monkeypatch.setattr("mrcnn_nuclei.training.train", note)
    arguments = train_arguments(data, tmp_path)
    also = ["--also", tmp_path / "further"]
    main([str(a) for a in [*arguments, "--fold", 1, *also]])
    assert seen["train"][-2:] == [path.stem for path in further] and len(seen["train"]) == 7
    assert not set(seen["val"]) & set(seen["train"])

    main([str(a) for a in [*arguments, "--subset", "all", *also]])
    assert len(seen["train"]) == 8
    assert "are in both subsets" in capsys.readouterr().err

    main([str(a) for a in [*arguments, "--fold", 1, "--also", data]])
    assert "two images are called tile" in capsys.readouterr().err


def test_weights_that_have_seen_what_is_held_out(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("NUCLEI_WEIGHTS", str(tmp_path))
    for name in FILES.values():
        (tmp_path / name).touch()
    monkeypatch.setattr("mrcnn_nuclei.training.train", lambda *args, **kwargs: tmp_path / "w.h5")
    monuseg = write_monuseg(tmp_path / "monuseg", lambda good: good)
    for name in sorted(MONUSEG)[:5]:
        for kind in (".tif", ".xml"):
            shutil.copy(monuseg / f"a{kind}", monuseg / f"{name}{kind}")
    for path in [*monuseg.glob("a.*"), *monuseg.glob("b.*")]:
        path.unlink()
    other = write_pairs(tmp_path / "other", count=5, size=64)
    for data, word, warned in (
        (monuseg, "he", 1),
        (monuseg, "he_mrcnn", 1),
        (monuseg, "free", 0),
        (other, "he", 0),
    ):
        arguments = ["train", "--dataset", data, "--fold", 0, "--weights", word]
        assert main([str(a) for a in arguments]) == 0
        assert capsys.readouterr().err.count("validation will flatter the network") == warned


@pytest.mark.parametrize("empty", [["val"], ["train", "val"]])
def test_one_image_to_train_on_and_none_with_nuclei_to_validate_on(capsys, tmp_path, empty):
    for name in ("train", "val"):
        write_pairs(tmp_path / "data" / name, count=1, size=64)
    for name in empty:
        blank = Image.fromarray(np.zeros((64, 64), np.uint16))
        blank.save(tmp_path / "data" / name / "labels" / "tile0.png")
    assert main([str(argument) for argument in train_arguments(tmp_path / "data", tmp_path)]) == 0
    [history] = (tmp_path / "logs").glob("*/history.csv")
    rows = np.genfromtxt(history, delimiter=",", names=True)
    assert all(np.isfinite(rows[name]).all() for name in rows.dtype.names)
    assert (rows["val_mrcnn_mask_loss"] == 0).all() and (rows["val_mrcnn_class_loss"] > 0).all()
    if "train" not in empty:
        assert (rows["rpn_bbox_loss"] > 0).any()


# Other ends


def test_interrupted(monkeypatch, capsys, tmp_path, weights, picture):
    def interrupt(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("mrcnn_nuclei.detection.detect_images", interrupt)
    assert main(["detect", "--weights", str(weights), "--image", str(picture)]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_faults_of_the_program_keep_their_traceback(monkeypatch, weights, picture):
    def fault(*args, **settings):
        raise ZeroDivisionError

    monkeypatch.setattr("mrcnn_nuclei.detection.detect_images", fault)
    with pytest.raises(ZeroDivisionError):
        main(["detect", "--weights", str(weights), "--image", str(picture)])


def test_a_file_in_the_place_of_the_output_folder(fails, tmp_path, weights, picture):
    (tmp_path / "out").write_text("in the way")
    line = fails("detect", "--weights", weights, "--image", picture, "--output", tmp_path / "out")
    assert str(tmp_path / "out") in line


def test_full_disk_while_detecting(monkeypatch, capsys, tmp_path, weights, picture):
    def write_half(path, *args, **kwargs):
        Path(path).write_bytes(b"II*\0")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", write_half)
    arguments = ["detect", "--weights", weights, "--image", picture, "--output", tmp_path / "out"]
    arguments = [str(argument) for argument in [*arguments, "--write", "labels"]]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert "No space left on device" in err.splitlines()[-1] and "Traceback" not in err
    assert not list((tmp_path / "out" / "labels").iterdir())
    monkeypatch.undo()
    with tiny_preset():
        assert main(arguments) == 0
    assert [path.name for path in (tmp_path / "out" / "labels").iterdir()] == ["picture.tif"]


# As processes


def run_process(*command, **kwargs):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for name in ("TF_CPP_MIN_LOG_LEVEL", "MPLBACKEND"):
        environment.pop(name, None)
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        **kwargs,
    )


def test_sample_script_exits_with_2_and_one_line(tmp_path):
    script = ROOT / "samples" / "nucleus.py"
    result = run_process(sys.executable, script, "train", "--dataset", "nowhere", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "nucleus: error: nowhere: no such folder; check the path\n"
    assert not list(tmp_path.iterdir())


def test_tensorflow_starts_in_silence(tmp_path, picture):
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    command = [sys.executable, "-m", "mrcnn_nuclei.cli", "detect", "--weights", "cut.h5"]
    result = run_process(*command, "--image", picture, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("nucleus: error: cut.h5: not a readable .h5 file")
    assert result.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"cut.h5", "picture.png"}


def test_a_limit_on_the_size_of_files(scored, tmp_path):
    """The system ends the writing of the scores half-way, as a full disk does."""
    limited = (
        "import resource, signal, sys\n"
        "from mrcnn_nuclei.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "limits = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))\n"
        "status = main(sys.argv[1:])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, limits)\n"
        "sys.exit(status)\n"
    )
    command = [sys.executable, "-B", "-c", limited, *scored, "--json", tmp_path / "scores.json"]
    result = run_process(*command)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("nucleus: error: ") and result.stderr.count("\n") == 1
    assert "File too large" in result.stderr
    assert not list(tmp_path.glob("*scores*"))


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare, of util-linux")
def test_a_disk_that_is_full(scored, tmp_path):
    """A file system of one page, where the machine lets a user have one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    setup = f"mount -t tmpfs -o size=4k none {disk} && head -c 4096 /dev/zero > {disk}/filler && "
    inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if run_process(*inside, setup + "true").returncode:
        pytest.skip("this machine does not let a user mount a file system")
    command = setup + 'ls -A disk; "$@"; status=$?; ls -A disk; exit $status'
    program = [sys.executable, "-B", "-m", "mrcnn_nuclei.cli", *scored]
    program += ["--json", disk / "scores.json"]
    result = run_process(*inside, command, "sh", *program, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("nucleus: error: ") and result.stderr.count("\n") == 1
    assert "No space left on device" in result.stderr
    assert result.stdout.startswith("filler\n") and result.stdout.endswith("\nfiller\n")
