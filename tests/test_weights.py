"""Weights files: Matterport's layout out, every older layout in, and files that are no good."""

import errno
import json
import resource

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from mrcnn.backbone import BatchNorm
from mrcnn.config import Config
from mrcnn.errors import InputError
from mrcnn.network import build_network
from mrcnn.weights import load_state, load_weights, read_attribute, save_weights, weighted_layers

BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def small_model(classes=3):
    """A layer of each kind, one of them in a nested model."""
    shared = layers.Input((4, 4, 4))
    rpn = keras.Model(shared, layers.Conv2D(2, 1, name="rpn_conv_shared")(shared), name="rpn_model")
    image = layers.Input((4, 4, 3))
    x = layers.Conv2D(4, 1, name="conv1")(image)
    x = layers.Activation("relu")(BatchNorm(name="bn_conv1")(x))
    return keras.Model(image, layers.Dense(classes, name="mrcnn_class_logits")(rpn(x)))


def weights_of(model):
    return {
        f"{layer.name}/{weight.name}": keras.ops.convert_to_numpy(weight)
        for layer in weighted_layers(model)
        for weight in layer.weights
    }


def random_arrays(layer, names, seed):
    """Arrays of a layer's shapes, under the names that they have in a file."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.random(weight.shape, "float32")
        for name, weight in zip(names, layer.weights, strict=True)
    }


def matterport_file(model, suffix=""):
    """The groups of a file for `small_model`, as {group: {data set: array}}."""
    groups = {}
    for i, layer in enumerate(weighted_layers(model)):
        group = "rpn_model" if layer.name.startswith("rpn") else layer.name
        names = [f"{layer.name}{suffix}/{weight.name}:0" for weight in layer.weights]
        groups[group] = random_arrays(layer, names, i)
    return groups


def write_groups(path, groups, root=None, dtype="S", parts=1):
    """Write groups as Keras does; its lists of names are bytes or str, in one attribute or more."""

    def set_names(target, attribute, names):
        names = np.array(list(names), dtype=h5py.string_dtype() if dtype == "str" else dtype)
        if parts == 1:
            target.attrs[attribute] = names
            return
        for i, part in enumerate(np.array_split(names, parts)):
            target.attrs[f"{attribute}{i}"] = part

    with h5py.File(path, "w") as file:
        target = file.create_group(root) if root else file
        set_names(target, "layer_names", groups)
        for group_name, arrays in groups.items():
            group = target.create_group(group_name)
            set_names(group, "weight_names", arrays)
            for name, array in arrays.items():
                group[name] = array
    return path


def assert_holds(model, groups):
    """Every array of a file is in the model, whatever it is called in the file."""
    expected = [array for arrays in groups.values() for array in arrays.values()]
    found = list(weights_of(model).values())
    assert len(found) == len(expected)
    for value, array in zip(found, expected):
        np.testing.assert_array_equal(value, array)


@pytest.fixture
def model():
    return small_model()


@pytest.fixture(scope="module")
def resnet50():
    class TwoClasses(Config):
        NAME = "two"
        BACKBONE = "resnet50"
        NUM_CLASSES = 2
        IMAGE_MIN_DIM = IMAGE_MAX_DIM = 128

    return build_network("inference", TwoClasses())


def inventory(golden, name):
    return json.loads((golden / f"h5_inventory_{name}.json").read_text())


# What is written


def test_file_has_the_groups_names_and_shapes_of_matterports(resnet50, golden, tmp_path):
    expected = inventory(golden, "resnet50_2")
    path = tmp_path / "w.h5"
    save_weights(resnet50, path)
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: [list(item.shape), str(item.dtype)]})
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
        names = {group: [n.decode() for n in file[group].attrs["weight_names"]] for group in file}
        layer_names = [name.decode() for name in file.attrs["layer_names"]]
        assert file.attrs["backend"] == b"tensorflow"
        assert file.attrs["keras_version"].decode() == keras.__version__
    assert found == expected["datasets"]
    groups = expected["groups_with_weights"]
    assert names == {group: groups[group]["attrs"]["weight_names"] for group in groups}
    assert sorted(layer_names) == sorted(groups)


def test_round_trip(model, tmp_path):
    path = tmp_path / "deep" / "er" / "w.h5"
    save_weights(model, path, {"val_loss": 0.5, "recipe": {"preset": "compact"}})
    other = small_model()
    report = load_weights(other, path)
    assert sorted(report.loaded) == sorted(weights_of(model))
    assert not (report.missing or report.mismatched or report.unused)
    for name, value in weights_of(model).items():
        np.testing.assert_array_equal(weights_of(other)[name], value)
    assert read_attribute(path, "val_loss") == 0.5
    assert read_attribute(path, "recipe") == {"preset": "compact"}
    assert read_attribute(path, "other") is None
    assert load_state(path) is None


def test_training_state_round_trip(model, tmp_path):
    path = tmp_path / "w.h5"
    arrays = [np.full((i + 1, 2), i, "float32") for i in range(12)] + [np.array(7)]
    save_weights(model, path, state={"epoch": 3, "layers": "(a)|(b)", "optimizer": arrays})
    state = load_state(path)
    assert (state["epoch"], state["layers"]) == (3, "(a)|(b)")
    for value, array in zip(state["optimizer"], arrays, strict=True):
        np.testing.assert_array_equal(value, array)
    assert not load_weights(small_model(), path).unused  # the state is no layer


# What is read


@pytest.mark.parametrize("name", ["resnet50_2", "resnet50_2_training"])
def test_every_array_of_a_resnet50_file_finds_its_place(resnet50, golden, tmp_path, name):
    stored = inventory(golden, name)
    path = tmp_path / "w.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array(stored["root_attrs"]["layer_names"], "S")
        for group in stored["empty_groups"]:
            file.create_group(group).attrs["weight_names"] = np.array([], "S")
        for group, details in stored["groups_with_weights"].items():
            names = details["attrs"]["weight_names"]
            file.create_group(group).attrs["weight_names"] = np.array(names, "S")
        for number, (dataset, (shape, dtype)) in enumerate(stored["datasets"].items()):
            file.create_dataset(dataset, shape, dtype, chunks=True, fillvalue=number)  # tiny
    report = load_weights(resnet50, path)
    assert not (report.missing or report.mismatched)
    assert report.unused == (["anchors/Variable"] if name.endswith("training") else [])
    numbers = {dataset: number for number, dataset in enumerate(stored["datasets"])}
    suffix = "_1" if name.endswith("training") else ""
    for full, value in weights_of(resnet50).items():
        layer, weight = full.split("/")
        inside = layer in ("rpn_conv_shared", "rpn_class_raw", "rpn_bbox_pred")
        group = "rpn_model" if inside else layer
        assert (value == numbers[f"{group}/{layer}{suffix}/{weight}:0"]).all(), full


@pytest.mark.parametrize("suffix", ["", "_1", "_12"])
def test_keras_2_names(model, tmp_path, suffix):
    groups = matterport_file(model, suffix)
    load_weights(model, write_groups(tmp_path / "w.h5", groups))
    assert_holds(model, groups)


@pytest.mark.parametrize("options", [{"dtype": "str"}, {"parts": 3}, {"root": "model_weights"}])
def test_attributes_as_text_or_in_parts_and_full_model_files(model, tmp_path, options):
    groups = matterport_file(model)
    load_weights(model, write_groups(tmp_path / "w.h5", groups, **options))
    assert_holds(model, groups)


def test_keras_1_names_go_by_position(model, tmp_path):
    groups = {
        "conv1": random_arrays(model.get_layer("conv1"), ["conv1_W:0", "conv1_b:0"], 0),
        "bn_conv1": random_arrays(
            model.get_layer("bn_conv1"),
            [f"bn_conv1_{name}:0" for name in ("gamma", "beta", "running_mean", "running_std")],
            1,
        ),
    }
    report = load_weights(model, write_groups(tmp_path / "w.h5", groups))
    names = ["conv1/kernel", "conv1/bias", *(f"bn_conv1/{name}" for name in BATCH_NORM)]
    arrays = [array for group in groups.values() for array in group.values()]
    for name, array in zip(names, arrays, strict=True):
        np.testing.assert_array_equal(weights_of(model)[name], array)
    assert sorted(report.loaded) == sorted(names)


def test_layers_that_only_one_side_has(model, tmp_path):
    groups = matterport_file(model)
    del groups["conv1"]
    groups["fc1000"] = {"fc1000/kernel:0": np.ones((2, 2), "float32")}
    before = weights_of(model)
    report = load_weights(model, write_groups(tmp_path / "w.h5", groups))
    assert report.missing == ["conv1/kernel", "conv1/bias"]
    assert report.unused == ["fc1000/kernel"]
    np.testing.assert_array_equal(weights_of(model)["conv1/kernel"], before["conv1/kernel"])


def test_exclude_leaves_layers_as_they_are(model, tmp_path):
    groups = matterport_file(model)
    before = weights_of(model)
    excluded = ["mrcnn_class_logits", "rpn_conv_shared"]
    report = load_weights(model, write_groups(tmp_path / "w.h5", groups), excluded)
    for name, value in weights_of(model).items():
        same = np.array_equal(value, before[name])
        assert same == (name.split("/")[0] in excluded), name
    assert len(report.unused) == 4 and not report.missing


def test_an_excluded_layer_is_not_taken_for_one_whose_name_it_extends(tmp_path):
    image = layers.Input((4, 4, 3))
    x = layers.Conv2D(3, 1, name="mrcnn_mask_conv1")(image)
    model = keras.Model(image, layers.Conv2D(3, 1, name="mrcnn_mask")(x))
    groups = {
        layer.name: random_arrays(layer, [f"{layer.name}/kernel:0", f"{layer.name}/bias:0"], i)
        for i, layer in enumerate(weighted_layers(model))
    }
    report = load_weights(model, write_groups(tmp_path / "w.h5", groups), ["mrcnn_mask_conv1"])
    assert report.loaded == ["mrcnn_mask/kernel", "mrcnn_mask/bias"]
    kernel = groups["mrcnn_mask"]["mrcnn_mask/kernel:0"]
    np.testing.assert_array_equal(weights_of(model)["mrcnn_mask/kernel"], kernel)


def test_another_shape_is_reported_and_not_loaded(model, tmp_path):
    path = tmp_path / "w.h5"
    save_weights(small_model(classes=81), path)
    report = load_weights(model, path)
    assert report.mismatched == ["mrcnn_class_logits/kernel", "mrcnn_class_logits/bias"]
    assert "2 of another shape" in str(report)


# What cannot be read


def assert_refused(model, path, *words):
    with pytest.raises(InputError) as caught:
        load_weights(model, path)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(str(path))
    for word in words:
        assert word in message


def test_files_that_are_no_good(model, tmp_path):
    path = tmp_path / "w.h5"
    assert_refused(model, path, "no such weights file")
    assert_refused(model, tmp_path, "not a readable .h5 file")
    path.write_text("<html>404</html>")
    assert_refused(model, path, "not a readable .h5 file")
    save_weights(model, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert_refused(model, path, "cut off")
    path.write_bytes(b"")
    assert_refused(model, path, "not a readable .h5 file")


def test_files_without_anything_that_fits(model, tmp_path):
    path = tmp_path / "w.h5"
    write_groups(path, {"fc1000": {"fc1000/kernel:0": np.ones((2, 2), "float32")}})
    assert_refused(model, path, "no weight in it fits")
    with h5py.File(path, "w") as file:
        file["layers/conv2d/vars/0"] = np.ones(3)  # Keras 3's own layout
    assert_refused(model, path, "no weight in it fits")


def test_a_file_whose_index_names_what_is_not_there(model, tmp_path):
    path = write_groups(tmp_path / "w.h5", matterport_file(model))
    with h5py.File(path, "a") as file:
        del file["conv1"]
    assert_refused(model, path, "not a readable .h5 file", "conv1")


# What goes wrong while writing


def test_a_failure_midway_leaves_the_old_file(model, tmp_path, monkeypatch):
    path = tmp_path / "w.h5"
    save_weights(model, path)
    before = path.read_bytes()
    create, written = h5py.Group.create_dataset, []

    def fail_at_the_fourth(group, name, **kwargs):
        written.append(name)
        if len(written) == 4:
            raise KeyboardInterrupt
        return create(group, name, **kwargs)

    monkeypatch.setattr(h5py.Group, "create_dataset", fail_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        save_weights(model, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["w.h5"]


def test_no_room_leaves_the_old_file_and_names_it(model, tmp_path):
    path = tmp_path / "w.h5"
    save_weights(model, path)
    before = path.read_bytes()
    _, hard = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError) as caught:
            save_weights(model, path, state={"optimizer": [np.ones((200, 200))] * 3})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["w.h5"]
