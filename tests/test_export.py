"""What is exported gives, outside of Keras, the numbers that it gives inside."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import cv2
import keras
import numpy as np
import onnxruntime
import pytest
import tifffile
from helpers import fill_by_rule, make_config, tiny_config
from keras import layers, ops
from tiny import TinyNucleusConfig, write_tiny_weights

from mrcnn.config import Config
from mrcnn.errors import InputError
from mrcnn.export import check_export, export_model
from mrcnn.image_meta import compose_image_meta
from mrcnn.images import mold_image
from mrcnn.instances import Instances
from mrcnn.model import MaskRCNN
from mrcnn_nuclei.cli import main
from mrcnn_nuclei.config import PRESETS
from mrcnn_nuclei.datasets.synthetic import draw_tile
from mrcnn_nuclei.detector import Detector
from mrcnn_nuclei.image_files import read_label_map

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports from JAX run in processes of their own"
)

SERVE = """
import sys
sys.modules["keras"] = None
import numpy as np
import tensorflow as tf
network = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
found = network(image=tf.constant(np.load(sys.argv[2])))
assert "mrcnn" not in sys.modules
np.savez(sys.argv[3], **{name: value.numpy() for name, value in found.items()})
"""


def run_onnx(path, image):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": image})))


def run_saved_model(path, image, folder):
    """Outside of this process, where Keras is loaded."""
    np.save(folder / "image.npy", image)
    run_python(SERVE, path, folder / "image.npy", folder / "found.npz")
    with np.load(folder / "found.npz") as found:
        return dict(found)


def run_python(program, *arguments, **kwargs):
    command = [sys.executable, "-c", program, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)
    assert run.returncode == 0, run.stderr


def crop_of(monuseg, size):
    path = sorted(monuseg.rglob("*.tif"))[0]
    return np.ascontiguousarray(tifffile.imread(path)[200 : 200 + size, 300 : 300 + size, :3])


def whole_image_meta(shape, config):
    active = np.ones(config.NUM_CLASSES)
    return compose_image_meta(0, shape, shape, (0, 0, *shape[:2]), 1, active)[None]


def assert_detects_the_same(found, model, image, at_least=11):
    """What a network found elsewhere, and `detect_molded` of the model, on an image it fills."""
    shape, meta = image.shape[1:], whole_image_meta(image.shape[1:], model.config)
    detections, _, _, masks, *_ = model._run(image, meta)
    np.testing.assert_allclose(found["detections"], detections, rtol=0, atol=1e-4)
    np.testing.assert_allclose(found["masks"], masks, rtol=0, atol=1e-4)

    window = (0, 0, *shape[:2])
    boxes, class_ids, scores, masks = model.unmold_detections(
        found["detections"][0], found["masks"][0], shape, shape, window
    )
    expected = model.detect_molded(image, meta)[0]
    assert len(boxes) >= at_least
    assert np.array_equal(boxes, expected["rois"])
    assert np.array_equal(class_ids, expected["class_ids"])
    np.testing.assert_allclose(scores, expected["scores"], rtol=0, atol=1e-5)
    assert np.mean(masks != expected["masks"]) < 1e-4


# Any network


@pytest.fixture(scope="module")
def network():
    """A convolution with two answers."""
    keras.utils.set_random_seed(0)
    image = keras.Input(batch_shape=(1, 16, 32, 3), name="image")
    maps = layers.Conv2D(4, 3, padding="same", activation="sigmoid")(image)
    outputs = {"maps": maps, "mean": layers.GlobalAveragePooling2D()(maps)}
    return keras.Model(image, outputs)


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).normal(size=(1, 16, 32, 3)).astype(np.float32)


METADATA = {"class_names": ["BG", "nucleus"], "mean": np.array([1.5, 2.0]), "code": len}
METADATA_READ = {"class_names": ["BG", "nucleus"], "mean": [1.5, 2.0], "code": "len"}


def assert_same_numbers(found, network, noise):
    expected = network(noise)
    assert found.keys() == {"maps", "mean"}
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-6)


def test_any_network_as_onnx(network, noise, tmp_path):
    path = tmp_path / "new" / "network.onnx"
    export_model(network, path, metadata=METADATA)
    assert_same_numbers(run_onnx(path, noise), network, noise)
    session = onnxruntime.InferenceSession(path)
    assert [(each.name, each.shape) for each in session.get_inputs()] == [("image", [1, 16, 32, 3])]
    assert json.loads(session.get_modelmeta().custom_metadata_map["metadata"]) == METADATA_READ
    assert list(path.parent.iterdir()) == [path]


def test_any_network_as_saved_model(network, noise, tmp_path):
    path = tmp_path / "new" / "network"
    export_model(network, path, metadata=METADATA)
    assert_same_numbers(run_saved_model(path, noise, tmp_path), network, noise)
    assert json.loads((path / "assets.extra" / "metadata.json").read_text()) == METADATA_READ
    assert list(path.parent.iterdir()) == [path]


# What cannot be


def test_an_operation_that_onnx_lacks(tmp_path):
    """Keras compares floats by their bits in `argmax`, for the sake of negative zero."""
    image = keras.Input(batch_shape=(1, 4), name="image")
    network = keras.Model(image, {"best": ops.argmax(image, axis=-1)})
    with pytest.raises(InputError, match="format onnx: lacks .*Bitcast.*; choose savedmodel"):
        export_model(network, tmp_path / "network.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("backend", "format", "reason"),
    [
        ("jax", "onnx", "jax2onnx"),
        ("torch", "onnx", "loops of non-maximum suppression"),
        ("torch", "savedmodel", "loops of non-maximum suppression"),
    ],
)
def test_what_a_backend_cannot_write(monkeypatch, tmp_path, backend, format, reason):
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    with pytest.raises(
        InputError, match=f"format {format} on the {backend} .*{reason}.*tensorflow"
    ):
        check_export(tmp_path / "network", format)


def test_the_documented_table_is_what_is_refused(monkeypatch, tmp_path):
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (TensorFlow|JAX|PyTorch) \| (yes|no)\b.*\| (yes|no)\b", page, re.M)
    assert len(rows) == 3
    names = {"TensorFlow": "tensorflow", "JAX": "jax", "PyTorch": "torch"}
    for backend, *answers in rows:
        monkeypatch.setattr(keras.backend, "backend", lambda name=names[backend]: name)
        for format, answer in zip(("onnx", "savedmodel"), answers):
            try:
                check_export(tmp_path / "network", format)
            except InputError:
                assert answer == "no", (backend, format)
            else:
                assert answer == "yes", (backend, format)


def test_an_unknown_format(tmp_path):
    with pytest.raises(InputError, match="format pb: unknown; choose onnx or savedmodel"):
        check_export(tmp_path / "network", "pb")


def test_without_tf2onnx(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs tf2onnx; pip install 'mrcnn-nuclei\[export\]'"):
        check_export(tmp_path / "network.onnx")
    assert check_export(tmp_path / "network") == "savedmodel"


@pytest.mark.parametrize("name", ["network.onnx", "network"])
def test_a_limit_on_the_size_of_files(network, tmp_path, name):
    """The system ends the writing half-way, as a full disk does: whole or not at all."""
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            export_model(network, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert error.value.filename == str(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_training_networks_are_not_exported(tmp_path):
    model = MaskRCNN("training", tiny_config(), tmp_path)
    with pytest.raises(ValueError, match="training mode"):
        model.export(tmp_path / "network.onnx")


# The command


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with mock.patch.dict(PRESETS, tiny=TinyNucleusConfig):
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.h5")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--weights", "nowhere.h5"], "nowhere.h5: no such weights file"),
        (["--size", "250"], "argument --size: 250 is no multiple of 64"),
        (["--size", "0"], "argument --size: 0 is no multiple of 64"),
        (["--format", "pb"], "argument --format: invalid choice: 'pb'"),
        (["--output", "there.onnx"], "there.onnx: exists already; remove it"),
        (["--output", "there"], "there: exists already; remove it"),
        (["--weights", "there.onnx"], "there.onnx: not a readable .h5 file"),
        (["--preset", "compact"], "tiny.h5: .*another shape"),
        (["--set", "DETECTION_TILES=64"], "did you mean DETECTION_TILE"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, weights, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there.onnx").write_bytes(b"theirs")
    before = sorted(tmp_path.rglob("*"))
    command = ["export", "--weights", str(weights), "--output", "network.onnx"]
    assert main([*command, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert re.search(complaint, err)
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "there.onnx").read_bytes() == b"theirs"


@pytest.fixture(scope="module")
def onnx_file(weights, tmp_path_factory):
    """The tiny network for images of 128 x 128, written by the command."""
    path = tmp_path_factory.mktemp("onnx") / "nuclei.onnx"
    command = ["export", "--weights", str(weights), "--output", str(path), "--size", "128"]
    assert main(command) == 0
    return path


@pytest.fixture(scope="module")
def detector(weights):
    return Detector(weights, settings={"DETECTION_TILE": 128})


@pytest.mark.slow
def test_onnx_on_a_real_image(onnx_file, detector, monuseg):
    image = mold_image(crop_of(monuseg, 128), detector.config)[None]
    assert_detects_the_same(run_onnx(onnx_file, image), detector.model, image)


@pytest.mark.slow
def test_saved_model_on_a_real_image(weights, detector, monuseg, tmp_path, capsys):
    path = tmp_path / "nuclei"
    command = ["export", "--weights", str(weights), "--output", str(path), "--size", "128"]
    assert main(command) == 0
    assert capsys.readouterr().out == f"wrote {path}, for images of 128 x 128 pixels\n"
    image = mold_image(crop_of(monuseg, 128), detector.config)[None]
    assert_detects_the_same(run_saved_model(path, image, tmp_path), detector.model, image)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(128, 128), (100, 120)])
def test_the_documented_example(onnx_file, detector, tmp_path, shape):
    """It needs none of Keras, TensorFlow and this project, and draws the same nuclei."""
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    program = re.search(r"```python\n(import json\n.*?)```", page, re.S).group(1)
    image = draw_tile(128, np.random.default_rng(0))[0][: shape[0], : shape[1]]
    cv2.imwrite(str(tmp_path / "tile.png"), image[:, :, ::-1])
    (tmp_path / "nuclei.onnx").symlink_to(onnx_file)
    block = "import sys\nfor name in ('keras', 'tensorflow', 'mrcnn'): sys.modules[name] = None\n"
    run_python(block + program, cwd=tmp_path)

    labels = read_label_map(tmp_path / "labels.png")
    padded = np.zeros((128, 128, 3), np.uint8)
    padded[: shape[0], : shape[1]] = image
    molded = mold_image(padded, detector.config, window=(0, 0, *shape))[None]
    meta = whole_image_meta(padded.shape, detector.config)
    found = detector.model.detect_molded(molded, meta)[0]
    expected = Instances.from_dense(found["masks"], found["scores"]).to_label_map()
    expected = expected[: shape[0], : shape[1]]
    assert labels.shape == shape
    assert len(np.unique(expected)) > 10
    # At a mask's edge OpenCV and scikit-image interpolate differently.
    assert np.mean(labels != expected) < 0.01


@pytest.mark.slow
def test_the_documented_programs_with_keras(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    first, _, last = re.findall(r"```python\n(.*?)```", page, re.S)
    config = tiny_config()
    model = MaskRCNN("inference", config, ".")
    fill_by_rule(model.keras_model)
    model.keras_model.save_weights("mask_rcnn.h5")
    session = {"MaskRCNN": MaskRCNN, "config": config, "class_names": ["BG", "nucleus"]}
    exec(compile(first, "export.md", "exec"), session)
    session["model"].export("nuclei")

    import tensorflow as tf

    session |= {"tf": tf, "molded": np.zeros((1, *config.IMAGE_SHAPE), np.float32)}
    exec(compile(last, "export.md", "exec"), session)
    assert session["found"]["detections"].shape == (1, config.DETECTION_MAX_INSTANCES, 6)
    written = onnxruntime.InferenceSession("mask_rcnn.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(written["metadata"])["class_names"] == ["BG", "nucleus"]


EXPORT = """
import sys
from helpers import fill_by_rule, tiny_config
from mrcnn.model import MaskRCNN
model = MaskRCNN("inference", tiny_config(), ".")
fill_by_rule(model.keras_model)
model.export(sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("jax") is None, reason="needs JAX")
def test_saved_model_from_jax(tmp_path):
    model = MaskRCNN("inference", tiny_config(), tmp_path)
    fill_by_rule(model.keras_model)
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    run_python(EXPORT, tmp_path / "network", cwd=tmp_path, env=environment)
    image = np.random.default_rng(0).normal(size=(1, 64, 64, 3), scale=60).astype(np.float32)
    assert_detects_the_same(
        run_saved_model(tmp_path / "network", image, tmp_path), model, image, at_least=5
    )


@pytest.mark.slow
def test_resnet50_on_a_real_image(monuseg, tmp_path):
    """Matterport's network and normalisation, weights by the rule of the golden numbers."""
    config = make_config(
        Config,
        BACKBONE="resnet50",
        NUM_CLASSES=4,
        IMAGES_PER_GPU=1,
        IMAGE_MIN_DIM=128,
        IMAGE_MAX_DIM=128,
        DETECTION_MIN_CONFIDENCE=0,
    )
    model = MaskRCNN("inference", config, tmp_path)
    fill_by_rule(model.keras_model)
    path = tmp_path / "resnet50.onnx"
    model.export(path)
    image = mold_image(crop_of(monuseg, 128), config)[None].astype(np.float32)
    assert_detects_the_same(run_onnx(path, image), model, image)
