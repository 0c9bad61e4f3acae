"""The presets hold the paper's numbers, and `--set` changes them or says why not."""

import copy
import math
import pickle

import keras
import numpy as np
import pytest

from mrcnn.config import Config
from mrcnn.errors import InputError
from mrcnn.model import LAYER_PATTERNS, MaskRCNN
from mrcnn_nuclei.config import (
    POINTWISE,
    inference_config,
    make_config,
    parse_settings,
    require_start,
)


@pytest.fixture(scope="module")
def compact():
    return MaskRCNN("training", make_config("compact"), "logs")


def refused(assignment, *words, preset="compact"):
    with pytest.raises(InputError) as caught:
        parse_settings([assignment], preset)
    message = str(caught.value)
    assert message.startswith(f"--set {assignment}: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_paper_preset_has_the_published_values():
    # Ren et al.; where they print no value, that of the entry they follow, raised for dense tissue.
    expected = {
        "BACKBONE": "resnet101",
        "SCHEDULE": [("heads", 50, 1.0), ("4+", 150, 1.0), ("all", 300, 0.1)],
        "LEARNING_RATE": 0.001,
        "OPTIMIZER": "sgd",
        "LEARNING_MOMENTUM": 0.9,
        "BATCH_SIZE": 5,
        "IMAGE_RESIZE_MODE": "crop",
        "IMAGE_MIN_DIM": 600,
        "IMAGE_NORMALIZATION": "zscore",
        "RPN_ANCHOR_SCALES": (8, 16, 32, 64, 128),
        "RPN_TRAIN_ANCHORS_PER_IMAGE": 320,
        "PRE_NMS_LIMIT": 12000,
        "POST_NMS_ROIS_TRAINING": 2048,
        "POST_NMS_ROIS_INFERENCE": 4096,
        "TRAIN_ROIS_PER_IMAGE": 512,
        "MAX_GT_INSTANCES": 1024,
        "DETECTION_MAX_INSTANCES": 2048,
        "DETECTION_MASK_THRESHOLD": 0.35,
        "NUM_CLASSES": 2,
    }
    settings = make_config("paper").to_dict()
    assert {name: settings[name] for name in expected} == expected
    assert settings["IMAGE_SHAPE"].tolist() == [640, 640, 3]
    augmentation = settings["AUGMENTATION"]
    assert augmentation["rotate"] and augmentation["flip"] and augmentation["blur"] > 0
    # What the paper tried without gain, and Matterport's own defaults, stay as they were.
    assert augmentation.keys() == {"rotate", "flip", "blur"}
    assert Config.IMAGE_NORMALIZATION == "mean_pixel"
    assert Config.DETECTION_MASK_THRESHOLD == 0.5


def test_an_epoch_shows_each_image_once_unless_told_otherwise():
    assert make_config("paper").STEPS_PER_EPOCH is None
    assert make_config("paper", {"STEPS_PER_EPOCH": 7}).STEPS_PER_EPOCH == 7


def test_compact_has_at_most_eight_million_parameters(compact):
    assert 1e6 < compact.keras_model.count_params() <= 8e6


def test_stages_mean_the_same_layers_in_compact(compact):
    def trained(layers):
        compact.set_trainable(LAYER_PATTERNS[layers], verbose=0)
        return {layer.name for layer in compact.get_trainable_layers() if layer.trainable}

    everything, upper, heads = trained("all"), trained("4+"), trained("heads")
    stages = {name[3] for name in everything if name.startswith("res")}
    assert stages == set("2345")
    backbone_above_3 = {name for name in upper - heads if name.startswith(("res", "bn"))}
    assert backbone_above_3 == upper - heads
    assert {name.removeprefix("res").removeprefix("bn")[0] for name in upper - heads} == set("45")
    left_out = {name for name in everything - upper}
    assert {name.removeprefix("res").removeprefix("bn")[0] for name in left_out} == set("23c_")
    assert {"conv1", "bn_conv1"} <= left_out


def test_compact_anchors_fit_its_feature_maps(compact):
    # Three anchors a place on each of P2 to P6, and as many scores from the network.
    anchors = compact.get_anchors((256, 256))
    assert len(anchors) == 3 * sum((256 // stride) ** 2 for stride in (4, 8, 16, 32, 64))
    part = keras.Model(
        compact.keras_model.inputs[:1], compact.keras_model.get_layer("rpn_class").output
    )
    assert part([np.zeros((1, 256, 256, 3), np.float32)]).shape == (1, len(anchors), 2)


@pytest.mark.parametrize("preset", ["paper", "compact", "lite"])
def test_presets_can_be_built(preset):
    config = make_config(preset)
    assert config.IMAGE_SHAPE[0] == math.ceil(config.IMAGE_MIN_DIM / 64) * 64
    assert config.DETECTION_TILE % 64 == 0
    assert config.DETECTION_OVERLAP < config.DETECTION_TILE
    layers, epochs, factors = zip(*config.SCHEDULE)
    assert set(layers) <= {*LAYER_PATTERNS, POINTWISE}
    assert sorted(set(epochs)) == list(epochs)
    assert all(0 < factor <= 1 for factor in factors)


def test_settings_and_name_do_not_touch_the_preset():
    config = make_config("compact", {"LEARNING_RATE": 0.5}, name="mine")
    assert (config.LEARNING_RATE, config.NAME) == (0.5, "mine")
    assert make_config("compact").LEARNING_RATE == 0.001
    assert make_config("compact").NAME == "nucleus"


@pytest.mark.parametrize("model", ["mrcnn", "unet"])
def test_a_configuration_travels_to_another_process(model):
    config = inference_config(make_config("compact", {"SEED": 7, "CLAHE": 0.5}, "mine", model))
    config.DETECTION_MASK_THRESHOLD = 0.4
    there = pickle.loads(pickle.dumps(config))
    expected, found = config.to_dict(), there.to_dict()
    assert expected.pop("IMAGE_SHAPE").tolist() == found.pop("IMAGE_SHAPE").tolist()
    assert str(found) == str(expected)
    assert (there.SEED, there.NAME, there.DETECTION_MASK_THRESHOLD) == (7, "mine", 0.4)


def test_a_class_of_a_function_travels_and_is_copied():
    class Local(Config):
        STEPS_PER_EPOCH = 7
        BACKBONE = staticmethod(math.sqrt)

        def helper(self):
            return self.STEPS_PER_EPOCH

        @property
        def twice(self):
            return 2 * self.helper()

    there = pickle.loads(pickle.dumps(Local()))
    assert (type(there), there.STEPS_PER_EPOCH, there.BACKBONE) == (Config, 7, math.sqrt)
    for same in (copy.copy(Local()), copy.deepcopy(Local())):
        assert type(same) is Local and same.twice == 14


def test_lite_spares_layers_of_its_own_weights_only():
    with pytest.raises(InputError, match=r"BACKBONE = resnet50: .* such as SCHEDULE=\[\("):
        make_config("lite", {"BACKBONE": "resnet50"})
    whole = {"SCHEDULE": [("all", 12, 1.0)]}
    assert make_config("lite", {"BACKBONE": "resnet50", **whole}).BACKBONE == "resnet50"
    with pytest.raises(InputError, match="--weights none: the SCHEDULE of --preset lite leaves"):
        require_start(make_config("lite"), "none")
    require_start(make_config("lite"), "imagenet.h5")
    require_start(make_config("lite", whole), "none")
    require_start(make_config("compact"), "none")


def test_unknown_preset():
    with pytest.raises(
        InputError, match=r"^--preset huge: unknown; choose paper or compact or lite$"
    ):
        make_config("huge")


def test_values_are_literals_or_text():
    assignments = [
        "LEARNING_RATE=1e-4",
        "WEIGHT_DECAY=0",
        "IMAGES_PER_GPU = 3",
        "RPN_ANCHOR_SCALES=(4, 8, 16, 32, 64)",
        "OPTIMIZER=sgd",
        "IMAGE_NORMALIZATION='mean_pixel'",
        "TRAIN_BN=None",
        "STEPS_PER_EPOCH=None",
        "AUGMENTATION={'blur': 0}",
        "IMAGE_MIN_SCALE=1.5",
    ]
    assert parse_settings(assignments, "compact") == {
        "LEARNING_RATE": 1e-4,
        "WEIGHT_DECAY": 0,
        "IMAGES_PER_GPU": 3,
        "RPN_ANCHOR_SCALES": (4, 8, 16, 32, 64),
        "OPTIMIZER": "sgd",
        "IMAGE_NORMALIZATION": "mean_pixel",
        "TRAIN_BN": None,
        "STEPS_PER_EPOCH": None,
        "AUGMENTATION": {"blur": 0},
        "IMAGE_MIN_SCALE": 1.5,
    }
    assert parse_settings([], "paper") == {}
    assert parse_settings(["SEED=1", "SEED=2"], "paper") == {"SEED": 2}


def test_unknown_names_offer_the_nearest():
    refused("LEARNIN_RATE=1", "there is no setting LEARNIN_RATE", "did you mean LEARNING_RATE?")
    refused("learning_rate=1", "did you mean LEARNING_RATE?")
    refused("DETECTION_MASK_TRESHOLD=1", "did you mean DETECTION_MASK_THRESHOLD?")
    refused("QQQQ=1", "there is no setting QQQQ")
    refused("display=1", "there is no setting display")


def test_an_assignment_needs_an_equals_sign():
    refused("LEARNING_RATE", "NAME=VALUE")


def test_values_of_another_kind():
    refused("LEARNING_RATE=fast", "'fast' is not a number", "0.001")
    refused("IMAGES_PER_GPU=2.5", "2.5 is not a whole number")
    refused("STEPS_PER_EPOCH=many", "'many' is not a whole number", preset="paper")
    refused("RPN_ANCHOR_SCALES=8", "8 is not a list")
    refused("AUGMENTATION=[1]", "[1] is not a dictionary")
    refused("OPTIMIZER=1", "1 is not text")
    refused("USE_MINI_MASK=yes", "'yes' is not True or False")


def test_what_follows_from_other_settings_cannot_be_set():
    refused("BATCH_SIZE=2", "IMAGES_PER_GPU")
    refused("IMAGE_SHAPE=[64, 64, 3]", "IMAGE_MIN_DIM")
    refused("NAME=mine", "--preset and --fold")


@pytest.mark.parametrize("preset", ["paper", "compact"])
def test_inference_config_takes_one_whole_image(preset):
    settings = {"TOP_DOWN_PYRAMID_SIZE": 32, "DETECTION_TILE": 320, "GPU_COUNT": 2}
    config = inference_config(make_config(preset, settings, name="mine"))
    assert config.BATCH_SIZE == 1
    assert (config.IMAGE_RESIZE_MODE, config.IMAGE_MIN_DIM, config.IMAGE_MAX_DIM) == (
        "pad64",
        None,
        320,
    )
    assert config.IMAGE_SHAPE.tolist() == [320, 320, 3]
    changed = {"GPU_COUNT", "IMAGES_PER_GPU", "BATCH_SIZE"}
    changed |= {"IMAGE_RESIZE_MODE", "IMAGE_MIN_DIM", "IMAGE_MAX_DIM", "IMAGE_SHAPE"}
    changed |= {"RPN_NMS_THRESHOLD", "PRE_NMS_LIMIT"}
    before = make_config(preset, settings, name="mine").to_dict()
    for name, value in config.to_dict().items():
        assert name in changed or np.array_equal(value, before[name]), name


def test_inference_considers_as_many_anchors_an_area_as_training():
    config = inference_config(make_config("compact", {"DETECTION_TILE": 512}))
    assert config.PRE_NMS_LIMIT == 4 * 3000  # the tile has four times the area of the crop
    assert config.RPN_NMS_THRESHOLD == 0.7
    given = {"PRE_NMS_LIMIT": 50, "RPN_NMS_THRESHOLD": 0.6}
    config = inference_config(make_config("compact", given), given)
    assert (config.PRE_NMS_LIMIT, config.RPN_NMS_THRESHOLD) == (50, 0.6)


def test_settings_that_do_not_fit_each_other():
    for settings, words in (
        ({"IMAGES_PER_GPU": 0}, "IMAGES_PER_GPU = 0: must be more than 0"),
        ({"RPN_ANCHOR_SCALES": [8, 16]}, "give 5 scales"),
        ({"DETECTION_OVERLAP": 600}, "must be less than DETECTION_TILE"),
        ({"BACKBONE": "resnet34"}, "choose resnet50 or resnet101"),
    ):
        with pytest.raises(InputError, match=words):
            make_config("compact", settings)


def test_inference_config_keeps_what_was_set_on_the_instance():
    config = make_config("compact")
    config.DETECTION_MIN_CONFIDENCE = 0.9
    assert inference_config(config).DETECTION_MIN_CONFIDENCE == 0.9


@pytest.mark.parametrize(
    ("settings", "model", "words"),
    [
        ({"IMAGE_MIN_DIM": "a"}, "mrcnn", "IMAGE_MIN_DIM = 'a': 'a' is not a whole number"),
        ({"JIT_COMPILE": "yes"}, "mrcnn", "JIT_COMPILE = yes: choose True, False or 'auto'"),
        ({"LOSS_WEIGHTS": {"border": 3}}, "unet", "LOSS_WEIGHTS = {'border': 3}: give at least 0"),
        ({"LOSS_WEIGHTS": {"border_loss": -1}}, "unet", "give at least 0 for foreground_loss"),
        ({"DECODER_CHANNELS": []}, "unet", "give 1 to 5 numbers"),
        ({"DECODER_CHANNELS": [8] * 6}, "unet", "give 1 to 5 numbers"),
        ({"BOUNDARY_WEIGHT": -1}, "unet", "BOUNDARY_WEIGHT = -1: must be at least 0"),
        ({"IMAGE_MIN_SCALE": 2.0}, "unet", "the U-Net sees images as they are"),
        ({"BORDER_THRESHOLD": 0.5}, "mrcnn", "there is no setting BORDER_THRESHOLD of mrcnn"),
    ],
)
def test_settings_are_checked_wherever_they_come_from(settings, model, words):
    with pytest.raises(InputError) as error:
        make_config("compact", settings, model=model)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_settings_that_take_values_of_several_kinds():
    assert parse_settings(["JIT_COMPILE=True"], "compact") == {"JIT_COMPILE": True}
    assert make_config("compact", {"JIT_COMPILE": "auto"}).JIT_COMPILE == "auto"
    assert make_config("compact", {"BORDER_THRESHOLD": None}, model="unet").BORDER_THRESHOLD is None
