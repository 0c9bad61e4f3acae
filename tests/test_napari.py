"""napari: nuclei as layers, the plugin, and, where it is installed, the viewer itself."""

import os
import re
import shutil
import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn_nuclei import cli
from mrcnn_nuclei.formats import WRITERS
from mrcnn_nuclei.napari import layers, viewer, widget

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = ROOT / "mrcnn_nuclei" / "napari" / "napari.yaml"

needs_napari = pytest.mark.skipif(
    find_spec("napari") is None, reason="needs napari: pip install 'mrcnn-nuclei[napari]'"
)

SHAPE = (30, 40)


def nuclei():
    """Two squares of 4 and of 9 pixels, the second the less certain."""
    masks = [np.ones((2, 2)), np.ones((3, 3))]
    return Instances(SHAPE, [(1, 2, 3, 4), (10, 20, 13, 23)], [0.9, 0.5], [1, 1], masks)


def image_layer(pixels, rgb=True, multiscale=False, **attributes):
    """What is used of napari's image layer."""
    place = {"scale": np.array([0.25, 0.25]), "translate": np.array([5.0, 7.0])}
    return types.SimpleNamespace(
        data=pixels, rgb=rgb, multiscale=multiscale, name="tissue", **{**place, **attributes}
    )


@pytest.fixture
def files(tmp_path):
    """An image, and its nuclei as `nucleus detect` writes them."""
    Image.new("RGB", SHAPE[::-1], (200, 100, 150)).save(tmp_path / "a.png")
    for name in ("labels", "csv", "geojson", "zarr"):
        writer = WRITERS[name]
        writer.write(writer.path(tmp_path / "results", "a"), nuclei(), None)
    return tmp_path


# Layers


def test_labels_and_their_features():
    labels, attributes, kind = layers.labels_layer(nuclei(), "found", opacity=0.5)
    assert (kind, attributes["name"], attributes["opacity"]) == ("labels", "found", 0.5)
    assert labels.dtype == np.int32 and labels.shape == SHAPE
    features = attributes["features"]
    assert features["index"].tolist() == [1, 2] and features["area"].tolist() == [4, 9]
    assert features["score"] == pytest.approx([0.9, 0.5])
    for label, area in zip(features["index"], features["area"]):
        assert np.count_nonzero(labels == label) == area


def test_pixels_of_layers():
    rgb = np.random.default_rng(0).integers(0, 256, (*SHAPE, 4), np.uint8)
    np.testing.assert_array_equal(layers.rgb_pixels(image_layer(rgb)), rgb[..., :3])
    pyramid = [rgb[..., :3], rgb[::2, ::2, :3]]
    found = layers.rgb_pixels(image_layer(pyramid, multiscale=True))
    np.testing.assert_array_equal(found, rgb[..., :3])
    grey = layers.rgb_pixels(image_layer(rgb[..., 0], rgb=False))
    assert grey.shape == (*SHAPE, 3) and (grey == rgb[..., :1]).all()


@pytest.mark.parametrize(
    ("pixels", "rgb", "words"),
    [
        (np.zeros((5, *SHAPE), np.uint8), False, "tissue: is a stack of 3 dimensions"),
        (np.zeros((*SHAPE, 3)), True, "tissue: pixels are float64; convert them to 8 bits"),
    ],
)
def test_other_layers_are_refused_in_one_line(pixels, rgb, words):
    with pytest.raises(InputError, match=words):
        layers.rgb_pixels(image_layer(pixels, rgb))


@pytest.mark.parametrize("given", ["results", "results/labels/a.tif", "results/geojson/a.geojson"])
def test_nuclei_are_read_of_a_folder_or_a_file(files, given):
    found = layers.read_nuclei(files / given, files / "a.png", SHAPE)
    np.testing.assert_array_equal(found.to_label_map() > 0, nuclei().to_label_map() > 0)
    assert sorted(found.scores) == pytest.approx([0.5, 0.9])


@pytest.mark.parametrize("given", ["labels/a.tif", "zarr/a.zarr", "b.zarr/labels/nuclei"])
def test_of_one_file_the_name_does_not_matter(files, given):
    shutil.copytree(files / "results/zarr/a.zarr", files / "results/b.zarr/labels/nuclei")
    found = layers.read_nuclei(files / "results" / given, files / "c.png", SHAPE)
    assert len(found) == 2


def test_of_a_folder_the_name_matters(files):
    with pytest.raises(InputError, match="tells nothing of an image b; name the file that does"):
        layers.read_nuclei(files / "results", files / "b.png", SHAPE)


def test_nuclei_of_another_image_are_refused(files):
    with pytest.raises(InputError, match="30 x 40 and 60 x 40 pixels"):
        layers.read_nuclei(files / "results", files / "a.png", (60, 40))


# Detection


def test_a_layer_is_detected_by_the_command(monkeypatch):
    commands = []

    def run(command, **kwargs):
        commands.append([str(part) for part in command[3:]])
        options = dict(zip(commands[-1][1::2], commands[-1][2::2]))
        assert Image.open(options["--image"]).size == SHAPE[::-1]
        for name in options["--write"].split(","):
            writer = WRITERS[name]
            writer.write(writer.path(options["--output"], "image"), nuclei(), None)
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    layer = image_layer(np.zeros((*SHAPE, 3), np.uint8))
    labels, attributes, _ = widget.detect_layer(layer, "w.h5", "A=1  B=2")
    assert attributes["name"] == "nuclei of tissue"
    assert attributes["scale"].tolist() == [0.25, 0.25]
    assert attributes["translate"].tolist() == [5, 7]
    assert attributes["features"]["score"] == pytest.approx([0.9, 0.5])
    np.testing.assert_array_equal(labels, nuclei().to_label_map())
    assert commands[0][-4:] == ["--set", "A=1", "--set", "B=2"]
    cli.build_parser().parse_args(commands[0])
    widget.detect_layer(layer)
    assert "--weights" in commands[0] and "--weights" not in commands[1]


def test_what_the_command_complains_of_is_one_line():
    layer = image_layer(np.zeros((*SHAPE, 3), np.uint8))
    with pytest.raises(InputError, match=r"^nowhere.h5: no such weights file; check the path$"):
        widget.detect_layer(layer, "nowhere.h5")


# The plugin


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # npe2 has old calls of pydantic
def test_the_manifest_is_valid_and_installed(distribution):
    from npe2 import PluginManifest

    manifest = PluginManifest.from_file(MANIFEST)
    assert manifest.name == distribution["name"]
    (entry,) = distribution["entry_points"]["napari.manifest"]
    assert entry == f"{manifest.name} = mrcnn_nuclei.napari:napari.yaml"
    assert MANIFEST.name in distribution["package_data"]["mrcnn_nuclei.napari"]
    (command,) = manifest.contributions.commands
    assert [w.command for w in manifest.contributions.widgets] == [command.id]
    manifest.validate_imports()
    assert command.python_name == "mrcnn_nuclei.napari.widget:make_widget"


def test_other_files_of_the_packages_are_installed(distribution):
    for package, names in distribution["package_data"].items():
        folder = ROOT.joinpath(*package.split("."))
        there = {path.name for path in folder.iterdir() if path.suffix not in (".py", "")}
        assert there == set(names), package


# nucleus view


def test_without_napari_one_line_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "napari", None)
    assert cli.main(["view", "a.png", "results"]) == 2
    err = capsys.readouterr().err
    assert "pip install 'mrcnn-nuclei[napari]'" in err and err.count("\n") == 1


class Viewer:
    """Notes what is added to it."""

    def __init__(self, **kwargs):
        self.layers = []

    def add_image(self, data, name, rgb):
        self.layers.append(types.SimpleNamespace(data=data, name=name))
        return self.layers[-1]

    def add_labels(self, data, name, features, opacity=None):
        self.layers.append(types.SimpleNamespace(data=data, name=name, features=features))
        return self.layers[-1]


def test_view_adds_image_prediction_and_truth(files):
    shown = Viewer()
    results = files / "results"
    viewer.add_layers(shown, files / "a.png", results, results / "geojson" / "a.geojson")
    image, prediction, truth = shown.layers
    assert [layer.name for layer in shown.layers] == ["a", "prediction", "truth"]
    assert image.data.shape == (*SHAPE, 3)
    np.testing.assert_array_equal(prediction.data, nuclei().to_label_map())
    assert prediction.features["score"] == pytest.approx([0.9, 0.5])
    assert truth.contour == 2 and not hasattr(prediction, "contour")


@needs_napari
def test_the_viewer_of_napari_takes_the_layers(files):
    from napari.components import ViewerModel

    model = ViewerModel()
    results = files / "results"
    viewer.add_layers(model, files / "a.png", results, results)
    assert [layer.name for layer in model.layers] == ["a", "prediction", "truth"]
    prediction = model.layers["prediction"]
    assert prediction.features["score"].tolist() == pytest.approx([0.9, 0.5])
    status = prediction.get_status((11, 21))["value"]
    assert re.search(r"2.*score: 0.5", str(status))


WINDOW = """
import time
import napari, numpy as np
from napari.utils.notifications import notification_manager
from mrcnn_nuclei.napari import widget
from qtpy.QtWidgets import QApplication

def wait(until):
    end = time.monotonic() + 60
    while not until() and time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.02)
    assert until()

def detected(layer, weights, settings):
    if settings:
        return really(layer, weights, settings)
    return np.ones((30, 40), int), {"name": "nuclei"}, "labels"

really, widget.detect_layer = widget.detect_layer, detected
viewer = napari.Viewer(show=True)
layer = viewer.add_image(np.zeros((30, 40, 3), np.uint8), rgb=True, name="tissue")
made = widget.make_widget()
viewer.window.add_dock_widget(made)
made.image.value, made.weights.value = layer, "nowhere.h5"
made()
wait(lambda: "nuclei" in viewer.layers)
made.settings.value = "DETECTION_OVERLAP=64"
made()
wait(lambda: notification_manager.records)
print([record.message for record in notification_manager.records])
viewer.close()
"""


@pytest.mark.skipif(not os.environ.get("DISPLAY"), reason="needs a screen: xvfb-run make test")
@needs_napari
def test_the_widget_adds_labels_and_tells_mistakes_in_one_line():
    run = subprocess.run(
        [sys.executable, "-c", WINDOW], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    expected = "nowhere.h5: no such weights file; check the path']"
    assert run.stdout.strip().splitlines()[-1].endswith(expected)
