"""A detector is built from its file alone, and copes with whatever image it is given."""

import hashlib

import keras
import numpy as np
import pytest
from tiny import TinyNucleusConfig, tiny_preset, write_tiny_weights

from mrcnn.errors import InputError
from mrcnn.model import MaskRCNN
from mrcnn.weights import save_weights, write_attribute
from mrcnn_nuclei.config import make_config
from mrcnn_nuclei.datasets import NucleusDataset
from mrcnn_nuclei.datasets.synthetic import draw_tile
from mrcnn_nuclei.detector import Detector
from mrcnn_nuclei.networks import recipe
from mrcnn_nuclei.tiling import tile_grid


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with tiny_preset():
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.h5")


@pytest.fixture(scope="module")
def detector(weights):
    return Detector(weights)


@pytest.fixture(scope="module")
def image():
    return draw_tile(256, np.random.default_rng(0))[0]


def test_recipe_by_hand():
    told = recipe(make_config("paper", {"SEED": 3}))["nuclei"]
    assert (told["model"], told["preset"]) == ("mrcnn", "paper")
    settings = told["settings"]
    assert settings["SEED"] == 3
    assert settings["RPN_ANCHOR_SCALES"] == [8, 16, 32, 64, 128]  # as JSON has it
    assert settings["BACKBONE"] == "resnet101"
    assert not {"NAME", "PRESET", "BATCH_SIZE", "IMAGE_SHAPE"} & set(settings)
    assert "BACKBONE" not in recipe(make_config("compact"))["nuclei"]["settings"]


def test_file_tells_preset_and_settings(tmp_path):
    path = write_tiny_weights(
        tmp_path / "w.h5", {"TOP_DOWN_PYRAMID_SIZE": 16, "DETECTION_TILE": 192}
    )
    detector = Detector(path, settings={"DETECTION_MIN_CONFIDENCE": 0.25})
    config = detector.config
    assert isinstance(config, TinyNucleusConfig)
    assert (config.TOP_DOWN_PYRAMID_SIZE, config.DETECTION_TILE) == (16, 192)
    assert config.DETECTION_MIN_CONFIDENCE == 0.25
    assert detector.weights == str(path)
    assert detector.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_settings_given_win_over_those_of_the_file(tmp_path):
    path = write_tiny_weights(tmp_path / "w.h5", {"DETECTION_TILE": 192})
    assert Detector(path, settings={"DETECTION_TILE": 64}).config.DETECTION_TILE == 64


def test_file_of_another_program_needs_a_preset(tmp_path):
    model = MaskRCNN("inference", make_config("tiny"), tmp_path)
    save_weights(model.keras_model, tmp_path / "theirs.h5")
    with pytest.raises(InputError, match="theirs.h5: .*give --preset paper or compact or lite"):
        Detector(tmp_path / "theirs.h5")
    assert Detector(tmp_path / "theirs.h5", "tiny").config.DETECTION_TILE == 128


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ([1], "of a network that this version does not know"),
        ({"model": "x", "preset": "tiny", "settings": {}}, "this version does not know"),
        ({"model": "mrcnn", "preset": "tiny"}, "this version does not know"),
        (
            {"model": "mrcnn", "preset": "tiny", "settings": {"DETECTION_TILE": "a"}},
            "DETECTION_TILE = 'a': 'a' is not a whole number",
        ),
        (
            {"model": "mrcnn", "preset": "tiny", "settings": {"DETECTION_TYLE": 1}},
            "there is no setting DETECTION_TYLE",
        ),
    ],
)
def test_what_a_file_tells_is_not_trusted(weights, tmp_path, told, words):
    path = tmp_path / "told.h5"
    path.write_bytes(weights.read_bytes())
    write_attribute(path, "nuclei", told)
    with pytest.raises(InputError) as error:
        Detector(path)
    assert str(error.value).startswith(str(path)) and words in str(error.value)


def test_files_that_do_not_fit(weights, tmp_path):
    with pytest.raises(InputError, match="missing.h5: no such weights file"):
        Detector(tmp_path / "missing.h5")
    (tmp_path / "cut.h5").write_bytes(weights.read_bytes()[:9000])
    with pytest.raises(InputError, match="cut.h5: not a readable .h5 file"):
        Detector(tmp_path / "cut.h5")
    with pytest.raises(InputError, match="tiny.h5: .* another shape .* same architecture"):
        Detector(weights, settings={"TOP_DOWN_PYRAMID_SIZE": 16})


def test_the_same_file_gives_the_same_nuclei(weights, detector, image):
    first, second = (Detector(weights).detect(image[:128, :128]) for _ in range(2))
    again = detector.detect(image[:128, :128])
    for found in (second, again):
        assert np.array_equal(first.boxes, found.boxes)
        assert np.array_equal(first.scores, found.scores)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="only TensorFlow can")
def test_a_single_tile_alone_is_not_compiled(detector, monkeypatch):
    import tensorflow as tf

    def predict(image, progress, statistics):
        seen.append(tf.config.functions_run_eagerly())
        raise InputError("that was all")

    seen, tile, rng = [], detector.config.DETECTION_TILE, np.random.default_rng(0)
    monkeypatch.setattr(detector.model, "predict", predict)
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(False)
    try:
        for width, alone in ((tile, True), (tile, False), (tile + 1, True)):
            with pytest.raises(InputError):
                detector.detect(rng.integers(256, size=(50, width, 3), dtype=np.uint8), alone)
            assert not tf.config.functions_run_eagerly()
    finally:
        tf.config.run_functions_eagerly(before)
    assert seen == [True, False, False]


@pytest.mark.parametrize("shape", [(1, 1), (7, 90), (128, 128), (100, 128)])
def test_images_up_to_a_tile(detector, image, shape):
    found = detector.detect(image[: shape[0], : shape[1]])
    assert found.shape == shape
    assert len(found) <= detector.config.DETECTION_MAX_INSTANCES
    assert (found.boxes[:, :2] >= 0).all() and (found.boxes[:, 2:] <= shape).all()
    assert (np.diff(found.scores) <= 0).all()
    for box, mask in zip(found.boxes, found.masks):
        assert mask.shape == (box[2] - box[0], box[3] - box[1])


def test_larger_images_go_by_tiles(detector, image, monkeypatch):
    """Every tile is seen once, normalised by the statistics of the whole image."""
    seen = []
    detect_soft = detector.model.detect_soft

    def spy(crops, statistics):
        seen.append((crops[0].copy(), statistics[0]))
        return detect_soft(crops, statistics)

    monkeypatch.setattr(detector.model, "detect_soft", spy)
    picture = image[:200, :256]
    found = detector.detect(picture)
    assert found.shape == (200, 256)
    tiles = tile_grid((200, 256), 128, 32)
    assert len(seen) == len(tiles) == 2 * 3
    mean, std = picture.reshape(-1, 3).mean(axis=0), picture.reshape(-1, 3).std(axis=0)
    for (crop, statistics), (y1, x1, y2, x2) in zip(seen, tiles):
        assert np.array_equal(crop, picture[y1:y2, x1:x2])
        np.testing.assert_allclose(statistics, (mean, std), rtol=1e-5)


def test_an_even_image(detector):
    """No contrast at all: the deviation has a floor, and nothing becomes infinite."""
    found = detector.detect(np.full((100, 100, 3), 255, np.uint8))
    assert np.isfinite(found.scores).all()


def test_one_pixel_of_a_nucleus(detector):
    image = np.full((100, 100, 3), 230, np.uint8)
    image[99, 0] = (80, 40, 120)
    assert np.isfinite(detector.detect(image).scores).all()


def test_an_image_too_large_for_memory(detector, image, monkeypatch):
    full = RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 5 bytes.")

    def fail(crops, statistics):
        raise full

    monkeypatch.setattr(detector.model, "detect_soft", fail)
    with pytest.raises(InputError) as caught:
        detector.detect(image)
    assert str(caught.value).startswith(
        "out of memory with DETECTION_TILE = 128: lower it, or else"
    )
    assert "\n" not in str(caught.value) and caught.value.__cause__ is full


def test_the_densest_image_whole_and_by_tiles(weights, monuseg, caplog):
    """1,862 nuclei. A network that sees more than its limit says so; tiles find more."""
    dataset = NucleusDataset().load(monuseg, format="monuseg")
    image = dataset.load_image(dataset.names.index("TCGA-HE-7130-01Z-00-DX1"))
    settings = {
        "PRE_NMS_LIMIT": 1000,
        "POST_NMS_ROIS_INFERENCE": 600,
        "DETECTION_MAX_INSTANCES": 300,
        "RPN_NMS_THRESHOLD": 0.9,
        "DETECTION_NMS_THRESHOLD": 0.9,
    }
    whole = Detector(weights, settings={**settings, "DETECTION_TILE": 1024}).detect(image)
    assert len(whole) == 300
    assert "DETECTION_MAX_INSTANCES = 300" in caplog.text
    tiled = Detector(weights, settings={**settings, "DETECTION_TILE": 640}).detect(image)
    assert len(tiled) > 300
    assert whole.shape == tiled.shape == (1000, 1000)
