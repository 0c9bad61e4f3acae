"""Run folders and checkpoints: their names and order, what stays, how training goes on."""

import datetime
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from mrcnn.checkpoints import (
    VAL_LOSS,
    Checkpoint,
    Monitor,
    best_checkpoint,
    checkpoints_in,
    find_last,
    new_log_dir,
    parse_checkpoint_path,
    restore_optimizer,
)
from mrcnn.weights import load_state, load_weights, read_attribute

NOW = datetime.datetime(2017, 10, 29, 23, 15, 42)


def small_model(learning_rate=0.5, momentum=0.9):
    image = layers.Input((3,))
    model = keras.Model(image, layers.Dense(2, name="mrcnn_class_logits")(image))
    model.compile(keras.optimizers.SGD(learning_rate, momentum=momentum), loss="mse")
    return model


def take_steps(model, count=1):
    for _ in range(count):
        gradients = [keras.ops.ones(v.shape) for v in model.trainable_variables]
        model.optimizer.apply(gradients, model.trainable_variables)


def weights_of(model):
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights]


def write_epochs(log_dir, values, layers="heads", monitor=VAL_LOSS):
    """Checkpoints of an imagined run with these validation losses, or values of a monitor."""
    model = small_model()
    callback = Checkpoint(log_dir, "Shapes", {"kind": "mrcnn"}, layers, seed=4, monitor=monitor)
    callback.set_model(model)
    for epoch, value in enumerate(values):
        take_steps(model)
        callback.on_epoch_end(epoch, {} if value is None else {monitor.name: value})
    return model


def names_in(log_dir):
    return [path.name for path in checkpoints_in(log_dir)]


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


# Names


def test_folder_of_a_new_run(tmp_path):
    folder = new_log_dir(tmp_path, "Shapes", NOW)
    assert folder == tmp_path / "shapes20171029T2315"
    folder.mkdir()
    second = new_log_dir(tmp_path, "Shapes", NOW)
    assert second == tmp_path / "shapes20171029T231542"
    second.mkdir()
    assert new_log_dir(tmp_path, "Shapes", NOW) == tmp_path / "shapes20171029T231543"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        # Matterport's own examples
        ("/logs/coco20171029T2315/mask_rcnn_coco_0001.h5", ("/logs/coco20171029T2315", 1)),
        ("logs/shapes20180101T0930/mask_rcnn_shapes_0123.h5", ("logs/shapes20180101T0930", 123)),
        ("a/nucleus-fold_2-x20171029T231542/mask_rcnn_nucleus-fold_2-x_10000.h5", (..., 10000)),
        ("/models/mask_rcnn_coco.h5", None),
        ("/models/mask_rcnn_coco_0001.h5", None),
        ("/logs/coco20171029T2315/weights_0001.h5", None),
        ("/logs/coco20171029T2315/mask_rcnn_coco_0001.h5.bak", None),
        ("/logs/coco20171029T2315/mask_rcnn_coco_001.h5", None),
        ("/logs/coco20171029T2315/best_model_0005.h5", None),
        ("/logs/coco20171029T2315/backup_mask_rcnn_coco_0001.h5", None),
        ("/logs/coco20171029T2315/unet_coco_0001.h5", None),  # of another network
    ],
)
def test_checkpoint_paths(path, expected):
    if expected is None:
        assert parse_checkpoint_path(path) is None
        return
    folder, epoch = expected
    folder = Path(path).parent if folder is ... else Path(folder)
    assert parse_checkpoint_path(path) == (folder, epoch)
    assert parse_checkpoint_path(Path(path)) == (folder, epoch)


@settings(max_examples=50, deadline=None)
@given(
    name=st.from_regex(r"[A-Za-z][A-Za-z0-9_.+\-]{0,12}", fullmatch=True),
    epoch=st.integers(1, 99999),
)
def test_what_is_written_can_be_parsed(name, epoch):
    folder = new_log_dir("/nowhere", name, NOW)
    path = folder / f"mask_rcnn_{name.lower()}_{epoch:04d}.h5"
    assert parse_checkpoint_path(path) == (folder, epoch)


# The last one


def test_last_is_the_last_epoch_of_the_newest_run(tmp_path):
    touch(tmp_path / "shapes20180101T0000" / "mask_rcnn_shapes_0300.h5")
    touch(tmp_path / "shapes20180301T0000" / "mask_rcnn_shapes_0002.h5")
    touch(tmp_path / "shapes20180301T0000" / "mask_rcnn_shapes_0010.h5")
    last = touch(tmp_path / "shapes20180301T0000" / "mask_rcnn_shapes_10001.h5")
    touch(tmp_path / "shapes20180301T0000" / "mask_rcnn_shapes_0011.h5.part")
    (tmp_path / "shapes20180401T0000").mkdir()  # stopped before its first epoch was over
    touch(tmp_path / "shapes20180501T0000.txt")
    assert find_last(tmp_path, "Shapes") == last


def test_a_second_run_of_the_same_minute_is_the_newer_one(tmp_path):
    touch(tmp_path / "a20180101T0000" / "mask_rcnn_a_0009.h5")
    last = touch(tmp_path / "a20180101T000001" / "mask_rcnn_a_0001.h5")
    assert find_last(tmp_path, "a") == last
    last = touch(tmp_path / "a20180101T0001" / "mask_rcnn_a_0001.h5")
    assert find_last(tmp_path, "a") == last


def test_runs_whose_names_begin_alike_are_told_apart(tmp_path):
    paths = {
        name: touch(tmp_path / f"{name}{stamp}" / f"mask_rcnn_{name}_0001.h5")
        for name, stamp in [
            ("nucleus", "20180101T0000"),
            ("nucleus-fold1", "20180201T0000"),
            ("nucleus-fold10", "20180301T0000"),
            ("nucleus2", "20180401T0000"),
            ("n.cleus", "20180501T0000"),
        ]
    }
    for name, path in paths.items():
        assert find_last(tmp_path, name) == path


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()])
def test_no_checkpoint_at_all(tmp_path, make):
    logs = tmp_path / "logs"
    make(logs)
    with pytest.raises(FileNotFoundError, match="no checkpoint of a run named 'shapes'"):
        find_last(logs, "shapes")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        best_checkpoint(logs)


# What stays


@pytest.mark.parametrize(
    ("losses", "kept"),
    [
        ([3.0], [1]),
        ([3.0, 2.0, 1.0, 0.5], [3, 4]),
        ([1.0, 3.0, 2.0, 4.0], [1, 3, 4]),
        ([3.0, 1.0, 2.0, 2.0, 0.9, 5.0, 5.0], [5, 6, 7]),
        ([2.0, np.nan, np.nan, np.nan], [1, 3, 4]),
        ([None, None, None], [2, 3]),
    ],
)
def test_the_last_two_and_the_best_stay(tmp_path, losses, kept):
    write_epochs(tmp_path, losses)
    assert names_in(tmp_path) == [f"mask_rcnn_shapes_{epoch:04}.h5" for epoch in kept]
    assert {path.name for path in tmp_path.iterdir()} == set(names_in(tmp_path))


def test_best_is_the_lowest_validation_loss_else_the_last(tmp_path):
    write_epochs(tmp_path / "a", [2.0, 1.0, 3.0, np.nan])
    assert best_checkpoint(tmp_path / "a").name == "mask_rcnn_shapes_0002.h5"
    write_epochs(tmp_path / "b", [None, None, None])
    assert best_checkpoint(tmp_path / "b").name == "mask_rcnn_shapes_0003.h5"


def test_of_some_monitors_more_is_better(tmp_path):
    write_epochs(tmp_path, [0.2, 0.6, 0.4, 0.3], monitor=Monitor("val_aji", higher=True))
    assert names_in(tmp_path) == [f"mask_rcnn_shapes_000{epoch}.h5" for epoch in (2, 3, 4)]
    assert best_checkpoint(tmp_path).name == "mask_rcnn_shapes_0002.h5"
    assert read_attribute(best_checkpoint(tmp_path), "val_aji") == 0.6


def test_a_checkpoint_holds_weights_recipe_and_state(tmp_path):
    model = write_epochs(tmp_path, [2.0, 1.0], layers="5+")
    path = tmp_path / "mask_rcnn_shapes_0002.h5"
    assert read_attribute(path, "kind") == "mrcnn"
    assert read_attribute(path, "val_loss") == 1.0
    state = load_state(path)
    assert (state["epoch"], state["layers"], state["seed"]) == (2, "5+", 4)
    other = small_model()
    load_weights(other, path)
    for value, expected in zip(weights_of(other), weights_of(model), strict=True):
        np.testing.assert_array_equal(value, expected)


# How training goes on


def test_restored_optimizer_steps_as_the_old_one_would(tmp_path):
    model = write_epochs(tmp_path, [None, None])
    path = tmp_path / "mask_rcnn_shapes_0002.h5"
    resumed = small_model()
    load_weights(resumed, path)
    assert restore_optimizer(resumed, path, "heads")
    assert int(resumed.optimizer.iterations) == 2
    take_steps(model)
    take_steps(resumed)
    for value, expected in zip(weights_of(resumed), weights_of(model), strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (small_model(), "all"),  # other layers
        (small_model(momentum=0.0), "heads"),  # an optimiser with other variables
    ],
)
def test_other_layers_or_variables_start_afresh(tmp_path, model, layers):
    write_epochs(tmp_path, [None, None])
    assert not restore_optimizer(model, tmp_path / "mask_rcnn_shapes_0002.h5", layers)
    assert int(model.optimizer.iterations) == 0


def test_files_of_others_stay_in_the_run_folder(tmp_path):
    theirs = ["best_model_0005.h5", "backup_mask_rcnn_shapes_0001.h5", "unet_shapes_0001.h5"]
    for name in theirs:
        (tmp_path / name).write_bytes(b"theirs")
    write_epochs(tmp_path, [3.0, 2.0, 1.0, 4.0])
    assert all((tmp_path / name).read_bytes() == b"theirs" for name in theirs)
    assert names_in(tmp_path) == [f"mask_rcnn_shapes_{epoch:04d}.h5" for epoch in (3, 4)]


def test_each_network_finds_its_own_runs(tmp_path):
    run = tmp_path / "nucleus20261122T1000"
    run.mkdir()
    (run / "mask_rcnn_nucleus_0002.h5").touch()
    (run / "unet_nucleus_0005.h5").touch()
    assert find_last(tmp_path, "nucleus").name == "mask_rcnn_nucleus_0002.h5"
    assert find_last(tmp_path, "nucleus", "unet").name == "unet_nucleus_0005.h5"
    assert parse_checkpoint_path(run / "unet_nucleus_0005.h5", "unet") == (run, 5)
