"""Published weights: download, cache, and Keras's ResNets in Matterport's conventions."""

import contextlib
import hashlib
import http.server
import re
import shutil
import threading
import time
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from helpers import assert_close, golden_json, to_numpy
from keras.src.applications import resnet as keras_resnet
from keras.src.backend import config as keras_config
from tiny import write_pairs

from mrcnn import pretrained, utils
from mrcnn.backbone import STAGE4_BLOCKS, resnet_graph
from mrcnn.config import Config
from mrcnn.download import download
from mrcnn.errors import InputError
from mrcnn.model import MaskRCNN
from mrcnn.pretrained import coco_weights, convert_resnet, imagenet_weights
from mrcnn.weights import load_weights, save_arrays
from mrcnn_nuclei import cli, commands

CONTENT = bytes(range(256)) * 4000  # about a megabyte
NOWHERE = "http://127.0.0.1:9/"
IMAGENET_MEAN = np.array([123.68, 116.779, 103.939], "float32")  # RGB, as Keras subtracts it


class Server:
    """A web server of one file.

    Attributes
    ----------
    content : bytes
    length : int or None
        What to give as the size, if not that of the content.
    breaks : list of int
        After how many bytes to break off, one an answer.
    ranges : bool
        Whether a part can be asked for.
    version : str or None
        Its ETag.
    skip : int
        How many bytes too late a part begins.
    extent : str or None
        What to give as Content-Range, if not the truth.
    pause : float
        Seconds before the last byte.
    changes : dict
        What to set after the first answer.
    asked : list of (path, range or None)
    """

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}/"
        self.content, self.length, self.breaks, self.ranges = CONTENT, None, [], True
        self.version, self.skip, self.extent = '"one"', 0, None
        self.pause, self.changes = 0, {}
        self.asked = []

    def answer(self, handler):
        wanted = handler.headers.get("Range")
        self.asked.append((handler.path, wanted))
        same = handler.headers.get("If-Range") == self.version
        partly = wanted and self.ranges and same
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) + self.skip if partly else 0
        size = len(self.content) if self.length is None else self.length
        if start > len(self.content):
            handler.send_error(416)
            return
        handler.send_response(206 if partly else 200)
        handler.send_header("Content-Length", str(size - start) if size != "?" else size)
        if self.version:
            handler.send_header("ETag", self.version)
        if partly and self.extent is None:
            handler.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        elif partly:
            handler.send_header("Content-Range", self.extent)
        handler.end_headers()
        end = self.breaks.pop(0) if self.breaks else None
        handler.wfile.write(self.content[start:end][:-1])
        time.sleep(self.pause)
        handler.wfile.write(self.content[start:end][-1:])
        vars(self).update(self.changes)


@pytest.fixture
def server():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            served.answer(self)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        served = Server(web.server_port)
        thread = threading.Thread(target=web.serve_forever, args=(0.01,))
        thread.start()
        yield served
        web.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """A cache folder of the test's own, and no server that could be reached."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(keras_config, "_KERAS_DIR", str(tmp_path))
    monkeypatch.setattr(pretrained, "COCO_MODEL_URL", NOWHERE + "mask_rcnn_coco.h5")
    monkeypatch.setattr(pretrained, "IMAGENET_URL", NOWHERE + "{}_notop.h5")
    monkeypatch.setattr(keras_resnet, "BASE_WEIGHTS_PATH", NOWHERE)
    return tmp_path / "models"


@contextlib.contextmanager
def refused(*parts):
    """Expect an InputError of one line with these parts."""
    with pytest.raises(InputError) as caught:
        yield
    line = str(caught.value)
    assert "\n" not in line
    for part in parts:
        assert str(part) in line


def files(folder):
    return sorted(path.name for path in folder.iterdir())


# Downloads


def test_a_download_shows_progress_and_digest(server, tmp_path, capsys):
    path = tmp_path / "new" / "file.bin"
    server.pause = 0.3
    download(server.url + "file.bin", path)
    assert path.read_bytes() == CONTENT
    output = capsys.readouterr()
    assert output.out == f"{path}: SHA-256 {hashlib.sha256(CONTENT).hexdigest()}\n"
    # Then time taken and to go, and the rate.
    assert re.search(r"file.bin: 100%.* 0.98M/0.98M \[\d\d:\d\d<\d\d:\d\d, .*B/s\]", output.err)


def test_a_quiet_download(server, tmp_path, capsys):
    download(server.url, tmp_path / "file.bin", verbose=0)
    assert capsys.readouterr() == ("", "")


def test_a_broken_transfer_goes_on_where_it_stopped(server, tmp_path):
    server.breaks = [300_000, 700_000]
    download(server.url, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, "bytes=300000-", "bytes=700000-"]


def test_a_server_without_ranges_begins_again(server, tmp_path):
    server.breaks, server.ranges = [700_000], False
    download(server.url, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        ({"skip": 100}, 3),
        ({"extent": "nonsense"}, 3),
        ({"version": '"two"', "content": CONTENT[::-1]}, 2),
        ({"version": '"two"', "content": b""}, 2),
        ({"content": CONTENT[:1000]}, 3),  # 416
    ],
    ids=["late", "garbled", "replaced", "emptied", "shrunk"],
)
def test_parts_that_do_not_fit(server, tmp_path, changes, asked):
    """The whole file is fetched anew."""
    server.breaks, server.changes = [700_000], changes
    path = tmp_path / "file.bin"
    download(server.url, path)
    assert path.read_bytes() == server.content
    assert len(server.asked) == asked


def test_without_a_version_no_part_is_asked_for(server, tmp_path):
    server.breaks, server.version = [700_000], None
    download(server.url, tmp_path / "file.bin")
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.asked] == [None, None]


def test_a_size_that_is_no_number(server, tmp_path):
    server.length = "?"
    with refused(server.url, "the server gives the size '?'"):
        download(server.url, tmp_path / "file.bin")
    assert files(tmp_path) == []


@pytest.mark.parametrize("ranges", [True, False])
def test_a_transfer_that_gets_no_farther_is_given_up(server, tmp_path, ranges):
    """The server announces more than it has."""
    server.length, server.ranges = len(CONTENT) + 10, ranges
    path = tmp_path / "file.bin"
    with refused(server.url, f"broke off after {len(CONTENT)} of {len(CONTENT) + 10} bytes", path):
        download(server.url, path)
    assert files(tmp_path) == []
    assert len(server.asked) == 2


def test_no_connection_and_no_such_file(tmp_path, capsys):
    path = tmp_path / "file.bin"
    with refused(NOWHERE, "Connection refused", "fetch it by other means and save it as", path):
        download(NOWHERE, path)
    missing = (tmp_path / "absent").as_uri()
    with refused(missing, "No such file", path):
        download(missing, path)
    assert files(tmp_path) == []
    assert capsys.readouterr() == ("", "")


def test_a_failed_download_keeps_what_was_there(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with refused(path):
        download(NOWHERE, path)
    assert path.read_bytes() == b"old"


# COCO


def h5_of(shapes):
    """An `.h5` file of layers with one weight each, as bytes."""
    folder = pretrained.cache_folder()
    path = folder / "made.h5"
    save_arrays(path, {x: {f"{x}/kernel:0": np.ones(shapes[x], "int8")} for x in shapes})
    content = path.read_bytes()
    path.unlink()
    return content


@pytest.fixture
def coco(server, monkeypatch):
    """A server of a file that is known as Matterport's by its layers."""
    monkeypatch.setattr(pretrained, "COCO_MODEL_URL", server.url + "mask_rcnn_coco.h5")
    server.content = h5_of(pretrained.COCO_SHAPES)
    return server


def test_the_shapes_that_coco_weights_are_known_by():
    arrays = golden_json("h5_inventory_resnet101_81")["datasets"]
    found = {(name.split("/")[0], tuple(shape)) for name, (shape, _) in arrays.items()}
    assert set(pretrained.COCO_SHAPES.items()) <= found
    assert "res4w_branch2c" not in golden_json("h5_inventory_resnet50_81")["groups_with_weights"]


def test_coco_weights_are_fetched_once(coco, cache, capsys):
    path = coco_weights()
    assert path == cache / "mask_rcnn_coco.h5"
    assert path.read_bytes() == coco.content
    assert hashlib.sha256(coco.content).hexdigest() in capsys.readouterr().out
    assert coco_weights() == path
    assert len(coco.asked) == 1
    assert files(cache) == ["mask_rcnn_coco.h5"]


def test_coco_weights_put_there_by_hand(cache, capsys):
    content = h5_of(pretrained.COCO_SHAPES)
    path = cache / "mask_rcnn_coco.h5"
    with refused(NOWHERE + "mask_rcnn_coco.h5", "save it as", path):
        coco_weights()
    path.write_bytes(content)
    for told in (f"{path}: SHA-256 {hashlib.sha256(content).hexdigest()}\n", ""):
        assert coco_weights() == path
        assert capsys.readouterr().out == told


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda whole: b"<!DOCTYPE html><title>Sign in</title>" * 99, "no readable .h5 file"),
        (lambda whole: whole[:-5000], "no readable .h5 file"),
        (lambda whole: h5_of({"conv1": (7, 7, 3, 64)}), "no layer res4w_branch2c"),
        (
            lambda whole: h5_of({**pretrained.COCO_SHAPES, "mrcnn_mask": (1, 1, 256, 2)}),
            "no array of shape [1, 1, 256, 81] in its layer mrcnn_mask",
        ),
    ],
    ids=["page", "cut", "other", "nuclei"],
)
def test_something_else_than_coco_weights(coco, cache, content, reason):
    """Neither let into the cache nor taken from there."""
    coco.content = content(coco.content)
    with refused(coco.url, reason, "save it as", cache / "mask_rcnn_coco.h5"):
        coco_weights()
    assert files(cache) == []
    (cache / "mask_rcnn_coco.h5").write_bytes(coco.content)
    with refused(cache / "mask_rcnn_coco.h5", reason, "delete this file"):
        coco_weights()
    assert len(coco.asked) == 1


@pytest.mark.parametrize("fetch", [coco_weights, lambda: imagenet_weights("resnet50")])
def test_a_cache_folder_that_cannot_be_written_to(cache, fetch):
    cache.write_text("a file in the folder's place")
    with refused(cache, "set the environment variable KERAS_HOME"):
        fetch()


def test_the_cache_is_that_of_keras(monkeypatch):
    monkeypatch.delenv("KERAS_HOME")
    assert pretrained.cache_folder() == Path.home() / ".keras" / "models"


def test_matterports_name_of_the_download(coco, tmp_path):
    path = tmp_path / "weights" / "coco.h5"
    utils.download_trained_weights(str(path), verbose=0)
    assert path.read_bytes() == coco.content


# ImageNet


def keras_model(backbone):
    """A ResNet of `keras.applications`: random weights, and statistics of widely varying size."""
    rng = np.random.default_rng(7)
    build = getattr(keras.applications, pretrained.IMAGENET_MODELS[backbone])
    model = build(include_top=False, weights=None)
    for layer in model.layers:
        for weight in layer.weights:
            if weight.name == "kernel":
                values = rng.normal(0, np.sqrt(2 / np.prod(weight.shape[:-1])), weight.shape)
            elif weight.name == "moving_variance":
                values = variance = 10.0 ** rng.uniform(-4, 1, weight.shape)
            else:
                values = rng.uniform(-0.2, 0.2, weight.shape)
            weight.assign(values)
        if "_bn" in layer.name:  # so that activations stay in bounds
            layer.gamma.assign(rng.uniform(0.3, 0.9, variance.shape) * np.sqrt(variance))
    return model


def keras_input(images):
    """RGB images as Keras's ResNets expect them."""
    return keras.applications.resnet.preprocess_input(images.copy())


def keras_features(model, images):
    """C2 to C5 of RGB images."""
    last = {}
    for layer in model.layers:
        stage = re.fullmatch(r"conv(\d)_block\d+_out", layer.name)
        if stage:
            last[stage[1]] = layer.output
    return to_numpy(keras.Model(model.input, list(last.values()))(keras_input(images)))


def our_model(backbone):
    inputs = keras.Input((None, None, 3))
    return keras.Model(inputs, resnet_graph(inputs, backbone, stage5=True, train_bn=False))


def our_features(model, images):
    return to_numpy(model(images - IMAGENET_MEAN))[1:]


def random_images(size):
    return np.random.default_rng(3).uniform(0, 255, (2, size, size, 3)).astype("float32")


def differences(ours, theirs):
    """The largest difference at each level as a fraction of the largest value."""
    return [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(ours, theirs, strict=True)]


@pytest.fixture(scope="module")
def resnet50():
    return keras_model("resnet50")


@pytest.fixture(scope="module")
def our_resnet50():
    return our_model("resnet50")


def load_arrays(model, arrays, folder):
    save_arrays(folder / "converted.h5", arrays)
    return load_weights(model, folder / "converted.h5")


@pytest.mark.parametrize(
    "backbone", ["resnet50", pytest.param("resnet101", marks=pytest.mark.slow)]
)
def test_converted_features_are_those_of_keras(backbone, request, tmp_path):
    """65 pixels make 33 rows after the first convolution, which both networks pool alike."""
    if backbone == "resnet50":
        theirs, ours = (request.getfixturevalue(name) for name in ("resnet50", "our_resnet50"))
    else:
        theirs, ours = keras_model(backbone), our_model(backbone)
    report = load_arrays(ours, convert_resnet(theirs), tmp_path)
    assert not (report.missing or report.unused or report.mismatched)
    assert len(report.loaded) == 6 * (1 + 3 * (3 + 4 + STAGE4_BLOCKS[backbone] + 3) + 4)
    images = random_images(65)
    expected = keras_features(theirs, images)
    assert [level.shape[1] for level in expected] == [17, 9, 5, 3]
    for level, wanted in zip(our_features(ours, images), expected, strict=True):
        assert wanted.std() > 0.1 * np.abs(wanted).mean()  # it shows something of the image
        assert_close(level, wanted, 1e-5)


def test_conversion_is_needed(resnet50, our_resnet50, tmp_path):
    """Names alone would not do: epsilon and the order of channels matter."""
    images = random_images(65)
    expected = keras_features(resnet50, images)

    arrays = convert_resnet(resnet50)
    for layer in resnet50.layers:
        if layer.name.endswith("_bn"):
            name = pretrained._matterport_name(layer.name)
            arrays[name][f"{name}/gamma:0"] = layer.get_weights()[0]
    load_arrays(our_resnet50, arrays, tmp_path)
    assert min(differences(our_features(our_resnet50, images), expected)) > 0.05

    arrays = convert_resnet(resnet50)
    arrays["conv1"]["conv1/kernel:0"] = resnet50.get_layer("conv1_conv").get_weights()[0]
    load_arrays(our_resnet50, arrays, tmp_path)
    assert min(differences(our_features(our_resnet50, images), expected)) > 0.05


def test_on_even_maps_pooling_lies_two_pixels_farther(resnet50, our_resnet50, tmp_path):
    load_arrays(our_resnet50, convert_resnet(resnet50), tmp_path)
    pool = keras.Model(resnet50.input, resnet50.get_layer("pool1_pool").output)
    images = random_images(64)
    here, there, moved = (
        to_numpy(level)[:, 2:-2, 2:-2]  # without padding
        for level in (
            our_resnet50(images - IMAGENET_MEAN)[0],
            pool(keras_input(images)),
            pool(keras_input(images[:, 2:, 2:])),
        )
    )
    assert here.shape == there.shape == moved.shape
    assert_close(here, moved)
    assert differences([here], [there])[0] > 0.1


def test_names_of_the_deepest_stage():
    """Matterport's letters go up to w in stage 4 of ResNet-101."""
    assert pretrained._matterport_name("conv4_block23_3_conv") == "res4w_branch2c"
    assert pretrained._matterport_name("conv4_block1_0_bn") == "bn4a_branch1"


@pytest.fixture(scope="module")
def keras_file(resnet50, tmp_path_factory):
    """The weights of `resnet50` in the layout of Keras's file."""
    path = tmp_path_factory.mktemp("keras") / "resnet50_notop.h5"
    save_arrays(
        path,
        {
            layer.name: {f"{layer.name}/{weight.name}:0": weight for weight in layer.weights}
            for layer in resnet50.layers
            if layer.weights
        },
    )
    return path


@pytest.fixture
def published(keras_file, monkeypatch):
    """That file as the one whose MD5 Keras knows."""
    digest = hashlib.md5(keras_file.read_bytes()).hexdigest()
    monkeypatch.setitem(keras_resnet.WEIGHTS_HASHES, "resnet50", ("", digest))
    hand_name = "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    monkeypatch.setattr(pretrained, "IMAGENET_URL", NOWHERE + hand_name.replace("resnet50", "{}"))
    return keras_file


def inference_model(backbone):
    """A MaskRCNN for its methods only."""
    model = object.__new__(MaskRCNN)
    model.config = Config()
    model.config.BACKBONE = backbone
    return model


def test_imagenet_weights_from_the_web(published, server, cache, monkeypatch, capsys, resnet50):
    url = pretrained.IMAGENET_URL.replace(NOWHERE, server.url)
    monkeypatch.setattr(pretrained, "IMAGENET_URL", url)
    server.content = published.read_bytes()
    path = inference_model("resnet50").get_imagenet_weights()
    assert path == str(cache / "mrcnn_resnet50_imagenet.h5")
    output = capsys.readouterr()
    assert hashlib.sha256(server.content).hexdigest() in output.out
    assert "resnet50_weights" in output.err and "100%" in output.err
    assert len(server.asked) == 1

    with h5py.File(path) as file:
        for layer, weights in convert_resnet(resnet50).items():
            for name, array in weights.items():
                np.testing.assert_array_equal(file[layer][name], array)

    # Now neither web nor Keras's file is needed.
    (cache / url.rpartition("/")[2].format("resnet50")).unlink()
    assert imagenet_weights("resnet50") == Path(path)
    assert len(server.asked) == 1
    Path(path).write_bytes(published.read_bytes()[:10_000])
    with refused(path, "no readable .h5 file", "delete this file"):
        imagenet_weights("resnet50")


def test_imagenet_weights_put_there_by_hand(published, cache):
    source = cache / "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    with refused(NOWHERE, "Connection refused", "save it as", source):
        imagenet_weights("resnet50")
    shutil.copy(published, source)
    with h5py.File(imagenet_weights("resnet50")) as file:
        assert file["res4f_branch2c/res4f_branch2c/kernel:0"].shape == (1, 1, 256, 1024)


def test_a_file_of_another_checksum_is_not_taken_for_imagenet_weights(published, cache):
    source = cache / "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    source.parent.mkdir()
    shutil.copy(published, source)
    with h5py.File(source, "r+") as file:
        file["conv1_conv/conv1_conv/kernel:0"][0] = 0
    with refused(NOWHERE, "could not be downloaded", "save it as", source):
        imagenet_weights("resnet50")
    assert not (cache / "mrcnn_resnet50_imagenet.h5").exists()


@pytest.mark.parametrize("error", [MemoryError("no room"), TypeError("a mistake")])
def test_other_failures_are_no_failed_download(published, cache, monkeypatch, error):
    def build(**settings):
        raise error

    source = cache / "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    source.parent.mkdir()
    shutil.copy(published, source)
    monkeypatch.setattr(keras.applications, "ResNet50", build)
    with pytest.raises(type(error), match=str(error)):
        imagenet_weights("resnet50")


def test_where_keras_has_its_weights(monkeypatch):
    monkeypatch.undo()
    name = "resnet101_weights_tf_dim_ordering_tf_kernels_notop.h5"
    expected = keras_resnet.BASE_WEIGHTS_PATH + name
    assert pretrained.IMAGENET_URL.format("resnet101") == expected


def small_backbone(*args, **kwargs):
    """Stands for a backbone of the user's own."""


@pytest.mark.parametrize("backbone", [small_backbone, "resnet152"])
def test_backbones_without_imagenet_weights(backbone):
    with refused("BACKBONE", "resnet50 and resnet101 only"):
        inference_model(backbone).get_imagenet_weights()


# The command


@pytest.mark.parametrize("options", [[], ["--weights", "coco"], ["--weights", "imagenet"]])
def test_training_offline_stops_before_anything_else(options, tmp_path, monkeypatch, capsys):
    """Without --weights the paper's preset wants those of COCO."""
    data = write_pairs(tmp_path / "data")
    monkeypatch.setattr(commands, "_read_all", lambda *loaded: pytest.fail("reads images first"))
    arguments = ["train", "--preset", "paper", "--dataset", str(data), *options]
    assert cli.main([*arguments, "--logs", str(tmp_path / "logs")]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    name = "resnet101_notop.h5" if "imagenet" in options else "mask_rcnn_coco.h5"
    assert error.startswith(f"nucleus: error: {NOWHERE}{name} could not be downloaded")
    assert error.endswith(f"save it as {tmp_path / 'models' / name}")
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("weights", ["coco", "imagenet"])
def test_the_compact_preset_has_no_published_weights(weights, tmp_path, capsys):
    data = write_pairs(tmp_path / "data")
    arguments = ["train", "--dataset", str(data), "--weights", weights]
    assert cli.main([*arguments, "--logs", str(tmp_path / "logs")]) == 2
    assert "fits ResNets only, so give --preset paper" in capsys.readouterr().err
