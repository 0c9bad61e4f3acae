"""The U-Net as users meet it: maps of any size, training that goes on, detection, thresholds."""

import csv
from unittest import mock

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TinyUNetConfig, tiny_preset, write_pairs

from mrcnn.checkpoints import checkpoints_in
from mrcnn.errors import InputError
from mrcnn.images import mold_image, normalize_statistics
from mrcnn.instances import Instances
from mrcnn.weights import load_state, read_attribute
from mrcnn_nuclei import tuning
from mrcnn_nuclei.augmentation import Augmentation
from mrcnn_nuclei.cli import main
from mrcnn_nuclei.config import inference_config, make_config, parse_settings
from mrcnn_nuclei.datasets import NucleusDataset
from mrcnn_nuclei.datasets.synthetic import draw_tile
from mrcnn_nuclei.detector import Detector
from mrcnn_nuclei.training import train
from mrcnn_nuclei.unet.batches import MapBatches
from mrcnn_nuclei.unet.maps import STRIDE, predict_maps
from mrcnn_nuclei.unet.model import UNet
from mrcnn_nuclei.unet.targets import boundary_weights, make_targets
from mrcnn_nuclei.unet.validation import SIZE, ValidationAJI
from mrcnn_nuclei.unet.watershed import segment


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with tiny_preset():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("tissue")
    write_pairs(root / "train", 3)
    write_pairs(root / "val", 2)
    return root


@pytest.fixture(scope="module")
def train_set(folder):
    return NucleusDataset().load(folder, subset="train")


@pytest.fixture(scope="module")
def val_set(folder):
    return NucleusDataset().load(folder, subset="val")


def unet_config(name="unet", **settings):
    return make_config("tiny", settings, name, model="unet")


# Maps of an image of any size


def double(batch):
    """A network whose answer for a pixel depends on that pixel only."""
    assert batch.shape[1] % STRIDE == batch.shape[2] % STRIDE == 0
    return 2 * batch


@given(
    shape=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    tile=st.sampled_from([32, 64]),
    overlap=st.integers(0, 31),
    augment=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_tiles_turns_and_padding_leave_no_trace(shape, tile, overlap, augment):
    image = np.random.default_rng(0).standard_normal((*shape, 3)).astype(np.float32)
    maps = predict_maps(double, image, tile, overlap, augment)
    assert maps.dtype == np.float32
    np.testing.assert_allclose(maps, 2 * image, rtol=1e-5, atol=1e-6)


def test_tiles_are_blended_where_they_overlap():
    """Of two tiles that say 0 and 1, the one counts more that ends farther away."""
    answers = iter([0.0, 1.0])
    maps = predict_maps(
        lambda batch: np.full_like(batch, next(answers)), np.zeros((64, 96, 1), np.float32), 64, 32
    )
    row = maps[32, :, 0]
    assert (row[:32] == 0).all() and (row[64:] == 1).all()
    assert (np.diff(row[31:65]) > 0).all()
    assert row[47] + row[48] == pytest.approx(1)


def test_turns_are_turned_back():
    """A network that answers with a gradient from left to right, whatever it sees."""
    ramp = np.tile(np.linspace(0, 1, 32, dtype=np.float32), (32, 1))[None, ..., None]
    maps = predict_maps(lambda _: ramp, np.zeros((32, 32, 1), np.float32), 32, 0, augment=True)
    np.testing.assert_allclose(maps, 0.5, atol=1e-6)


def test_a_padded_image_is_reflected():
    seen = []
    image = np.arange(30, dtype=np.float32).reshape(1, 30, 1)
    predict_maps(lambda batch: seen.append(batch) or batch, np.repeat(image, 32, 0), 32, 0)
    np.testing.assert_array_equal(seen[0][0, 0, -3:, 0], [29, 28, 27])


# Batches


def test_batches_are_crops_with_their_maps(train_set):
    crop = Augmentation(64)
    batches = MapBatches(
        train_set, unet_config(BOUNDARY_WEIGHT=2.0), augmentation=crop, batch_size=1, seed=3
    )
    (images, maps, weights), outputs = batches[0]
    image_id, rng = batches._order[0], np.random.default_rng([3, 0, 0])  # seed, epoch, index
    image, (labels, _) = train_set.load_image(image_id), train_set.load_labels(image_id)
    expected, labels = crop(image, labels, rng)
    expected = (expected - image.mean((0, 1))) / image.std((0, 1))
    np.testing.assert_allclose(images[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(maps[0], make_targets(labels))
    np.testing.assert_allclose(weights[0], boundary_weights(labels, 2.0), rtol=1e-6)
    assert outputs == []
    plain = MapBatches(train_set, unet_config(), augmentation=crop, batch_size=1, seed=3)
    assert (plain[0][0][2] == 1).all()


class Crowded:
    """Two squares on a strip, of which the second is a crowd."""

    image_ids = np.array([0])
    image_info = [{"id": "strip", "source": "test"}]
    labels = np.zeros((64, 64), np.int32)
    labels[10:30, 10:30], labels[10:30, 30:50] = 1, 2

    def load_image(self, image_id):
        return np.dstack([np.uint8(self.labels > 0) * 100] * 3)

    def load_labels(self, image_id):
        return self.labels, np.array([1, -1], np.int32)


def test_a_crowd_is_neither_nucleus_nor_background():
    (_, maps, weights), _ = MapBatches(Crowded(), unet_config(BOUNDARY_WEIGHT=3.0), batch_size=1)[0]
    np.testing.assert_array_equal(maps[0], make_targets(Crowded.labels == 1))
    np.testing.assert_array_equal(weights[0], Crowded.labels != 2)


def test_masks_become_a_label_map():
    """`load_mask` in place of `load_labels`, as Matterport's data sets have it."""
    masks = np.zeros((64, 64, 2), bool)
    masks[10:30, 10:30, 0] = masks[20:50, 20:50, 1] = True

    class Masked:
        image_ids, image_info = Crowded.image_ids, Crowded.image_info

        def load_image(self, image_id):
            return np.dstack([np.uint8(masks.sum(axis=-1))] * 3)

        def load_mask(self, image_id):
            return masks, np.array([1, 1], np.int32)

    (_, maps, weights), _ = MapBatches(Masked(), unet_config(), batch_size=1)[0]
    expected = np.where(masks[..., 0], 1, 2 * masks[..., 1])  # the first wins
    np.testing.assert_array_equal(maps[0], make_targets(expected))
    assert (weights == 1).all()


# A run


@pytest.fixture(scope="module")
def run(tmp_path_factory, train_set, val_set):
    """The best checkpoint of a run of two stages, one epoch each."""
    return train(unet_config(), train_set, val_set, tmp_path_factory.mktemp("logs"))


def test_a_run_leaves_checkpoints_losses_and_aji(run):
    assert run.name in ("unet_unet_0001.h5", "unet_unet_0002.h5")
    with open(run.parent / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    maps = ("foreground", "border", "interior")
    for row in rows:
        assert 0 <= float(row["val_aji"]) <= 1
        parts = sum(float(row[f"{name}_loss"]) for name in maps)
        assert parts < float(row["loss"]) < parts + 0.1  # and the weight decay
        assert sum(float(row[f"val_{name}_loss"]) for name in maps) < float(row["val_loss"])
    scores = {int(row["epoch"]) + 1: float(row["val_aji"]) for row in rows}
    assert run.name == f"unet_unet_{max(scores, key=scores.get):04d}.h5"
    assert load_state(run.parent / "unet_unet_0001.h5")["layers"] == r"(decoder_.*)"
    assert read_attribute(run, "nuclei")["model"] == "unet"


def test_a_run_continues(run, train_set, val_set):
    last = run.parent / "unet_unet_0002.h5"
    config = unet_config(SCHEDULE=[("heads", 1, 1.0), ("all", 3, 0.1)])
    train(config, train_set, val_set, run.parent.parent, weights="last")
    assert (run.parent / "unet_unet_0003.h5").exists() and last.exists()
    with open(run.parent / "history.csv") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1", "2"]


@pytest.mark.backend
def test_a_continued_run_ends_where_an_uninterrupted_one_does(train_set, val_set, tmp_path):
    def network():
        return UNet("training", unet_config(), tmp_path)

    data = (train_set, val_set, 0.001)
    uninterrupted, continued = network(), network()
    uninterrupted.train(*data, 2, "all", augmentation=Augmentation(64), verbose=0)
    first, last = checkpoints_in(uninterrupted.log_dir, "unet")
    continued.load_weights(first)
    assert continued.epoch == 1 and len(load_state(first)["optimizer"]) > 20
    continued.train(*data, 2, "all", augmentation=Augmentation(64), verbose=0)
    before = network()
    before.load_weights(first, by_name=True)
    expected, changed = uninterrupted.keras_model.get_weights(), before.keras_model.get_weights()
    for value, wanted in zip(continued.keras_model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-6)
    assert max(abs(a - b).max() for a, b in zip(changed, expected)) > 1e-4

    detector = UNet("inference", inference_config(unet_config()), tmp_path)
    report = detector.load_weights(last)
    assert not report.missing and not report.mismatched
    image = draw_tile(96, np.random.default_rng(0))[0]
    maps = detector.predict(image)
    assert 0 <= maps.min() < maps.max() <= 1
    np.testing.assert_allclose(maps, uninterrupted.predict(image), rtol=0, atol=1e-5)


# Detection


def test_detector_is_built_from_the_file(run):
    detector = Detector(run, settings={"FOREGROUND_THRESHOLD": 0.0, "MIN_NUCLEUS_AREA": 5})
    assert isinstance(detector.config, TinyUNetConfig)
    image = draw_tile(150, np.random.default_rng(0))[0]
    found = detector.detect(image)
    maps = detector.model.predict(image)
    assert maps.shape == (150, 150, 3) and 0 <= maps.min() <= maps.max() <= 1
    expected = segment(maps, 0.0, min_area=5)
    np.testing.assert_array_equal(found.to_label_map(), expected.to_label_map())
    assert len(found) and found.shape == (150, 150)  # all that is above 0


def test_settings_of_the_other_network_are_refused(run):
    with pytest.raises(InputError, match="no setting FOREGROUND_TRESHOLD of unet; did you mean F"):
        Detector(run, settings={"FOREGROUND_TRESHOLD": 0.5})
    with pytest.raises(InputError, match="there is no setting FOREGROUND_THRESHOLD of mrcnn"):
        parse_settings(["FOREGROUND_THRESHOLD=0.5"], "compact")
    assert parse_settings(["BORDER_THRESHOLD=None"], "compact", "unet") == {
        "BORDER_THRESHOLD": None
    }


# Validation


class Painted:
    """A data set of one image larger than what is looked at, dark but for the middle."""

    image_ids = np.array([0])
    image_info = [{"id": "slide", "source": "test"}]

    def load_image(self, image_id):
        image = np.zeros((SIZE + 100, SIZE + 100, 3), np.uint8)
        image[50:-50, 50:-50] = 200
        return image

    def load_labels(self, image_id):
        labels = np.zeros((SIZE + 100, SIZE + 100), np.int32)
        labels[100:120, 100:120], labels[200:240, 200:240] = 1, 2
        return labels, np.array([1, -1], np.int32)


def test_validation_sees_what_detection_does():
    """Pixels as the whole image makes them, and nothing of what is inside a crowd."""

    class Network:
        config = unet_config()

        def detect(self, image, statistics):
            np.testing.assert_allclose(statistics[0], 200 * (SIZE / (SIZE + 100)) ** 2)
            assert image.shape == (SIZE, SIZE, 3)
            labels = np.zeros((SIZE, SIZE), np.int32)
            labels[50:70, 50:70], labels[150:170, 160:190] = 1, 2
            return Instances.from_label_map(labels)

    logs = {}
    ValidationAJI(Network(), Painted()).on_epoch_end(0, logs)
    assert logs == {"val_aji": 1}


def test_statistics_may_be_given(run):
    network = Detector(run).model
    image = draw_tile(96, np.random.default_rng(0))[0]
    own, dark = network.predict(image), network.predict(image // 2)
    given = normalize_statistics(image, network.config)
    np.testing.assert_array_equal(network.predict(image, statistics=given), own)
    assert not np.array_equal(network.predict(image // 2, statistics=given), dark)


# Thresholds


def test_tuning_finds_thresholds_that_suit_the_maps(val_set):
    """A network whose maps are right, but paler than they should be."""

    class Pale:
        config = unet_config()

        def predict(self, image):
            labels = next(
                val_set.load_labels(i)[0]
                for i in val_set.image_ids
                if np.array_equal(val_set.load_image(i), image)
            )
            return 0.44 * make_targets(labels)

        def segment(self, maps):
            config = self.config
            return segment(
                maps,
                config.FOREGROUND_THRESHOLD,
                config.BORDER_THRESHOLD,
                config.INTERIOR_THRESHOLD,
                config.MIN_MARKER_AREA,
                config.MIN_NUCLEUS_AREA,
            )

    found, before, after = tuning.tune(Pale(), val_set, progress=False)
    assert before == 0
    assert after > 0.9
    assert found["FOREGROUND_THRESHOLD"] < 0.44
    assert found == {name: getattr(Pale.config, name) for name in tuning.CHOICES["unet"]}


def test_tuning_leaves_crowds_out():
    """Of a network that draws the nucleus alone, and of one that draws the crowd as well."""

    class Drawn:
        config = unet_config()

        def __init__(self, labels):
            self.labels = labels

        def predict(self, image):
            return make_targets(self.labels)

        def segment(self, maps):
            return segment(maps)

    labels = Crowded.labels
    for drawn in (labels, np.where(labels == 1, 1, 0)):
        _, before, _ = tuning.tune(Drawn(drawn), Crowded(), progress=False)
        assert before == 1


# Export


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="ONNX is written from it")
def test_onnx_draws_the_same_maps(run, tmp_path):
    from test_export import run_onnx

    path = tmp_path / "unet.onnx"
    assert main(["export", "--weights", str(run), "--output", str(path), "--size", "64"]) == 0
    image = draw_tile(64, np.random.default_rng(0))[0]
    network = Detector(run).model
    molded = mold_image(image, network.config)[np.newaxis].astype(np.float32)
    found = run_onnx(path, molded)
    assert list(found) == ["maps"] and found["maps"].shape == (1, 64, 64, 3)
    expected = network.predict(image)
    assert expected.std() > 0.01
    np.testing.assert_allclose(found["maps"][0], expected, rtol=0, atol=1e-4)


def test_training_networks_are_not_exported(tmp_path):
    with pytest.raises(ValueError, match="training mode"):
        UNet("training", unet_config(), tmp_path).export(tmp_path / "unet.onnx")


# The command


def test_train_tune_detect(capsys, folder, tmp_path):
    logs, output = tmp_path / "logs", tmp_path / "results"
    common = ["--dataset", folder, "--logs", logs, "--preset", "tiny"]

    def run(command, *arguments):
        status = main([command, *map(str, [*common, *arguments])])
        out, err = capsys.readouterr()
        assert status == 0, err
        return out

    assert "wrote" in run("train", "--model", "unet")

    def tune(*arguments):
        """What is found for random weights is what they came with."""
        settings, before, after = tuning.tune(*arguments)
        return settings | {"FOREGROUND_THRESHOLD": 0.35}, before, after

    with mock.patch("mrcnn_nuclei.detector.tune", tune):
        assert "mean AJI of 2 images" in run("tune", "--model", "unet", "--weights", "last")
    (checkpoint,) = logs.glob("nucleus-unet-tiny*/unet_*_0002.h5")
    tuned = read_attribute(checkpoint, "nuclei")["settings"]
    assert tuned["FOREGROUND_THRESHOLD"] == 0.35
    run("detect", "--model", "unet", "--subset", "val", "--weights", "last", "--output", output)
    assert {path.name for path in (output / "labels").iterdir()} == {"tile0.tif", "tile1.tif"}
    config = Detector(checkpoint).config
    assert {name: getattr(config, name) for name in tuning.CHOICES["unet"]} == {
        name: tuned[name] for name in tuning.CHOICES["unet"]
    }
