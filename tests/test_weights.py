"""Weights files: Matterport's layout out, every older layout in, and files that are no good."""

import errno
import functools
import json
import pickle
import re
import resource

import h5py
import keras
import numpy as np
import pytest
from helpers import GOLDEN, golden_json, make_config, weight_by_rule
from keras import layers

from mrcnn.backbone import BatchNorm
from mrcnn.errors import InputError
from mrcnn.network import build_network
from mrcnn.weights import (
    LoadReport,
    load_state,
    load_weights,
    read_attribute,
    save_weights,
    weighted_layers,
)

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


# Matterport's layout

INVENTORIES = sorted(path.stem.split("_", 2)[2] for path in GOLDEN.glob("h5_inventory_*.json"))
AUTOMATIC_NAME = re.compile(r"(activation|add|lambda|max_pooling2d|zero_padding2d)(_\d+)?")


@pytest.fixture(scope="module", params=INVENTORIES)
def layout(request):
    """What is in a file that Matterport's code wrote, and the network that it is for."""
    told = golden_json(f"h5_inventory_{request.param}")
    config = make_config(BACKBONE=told["backbone"], NUM_CLASSES=told["num_classes"])
    return told, build_network(told["mode"], config)


@pytest.fixture(scope="module")
def rule():
    """The weight rule; layers that networks share are computed once."""
    return functools.cache(weight_by_rule)


def parts_of(told):
    """Yield the group, the data set's name in it, and the layer and weight that it is for."""
    for group, details in told["groups_with_weights"].items():
        for name in details["attrs"]["weight_names"]:
            owner, _, weight = name.removesuffix(":0").rpartition("/")
            # The training network was the second of its session, so that Keras appended _1.
            yield group, name, owner.removesuffix("_1") or group, weight


def text_attribute(names, kind):
    """Names as old h5py wrote them, as bytes, or as new h5py does."""
    return np.array(names, dtype="S" if kind is bytes else h5py.string_dtype())


def write_inventory(path, told, array_of):
    """Write the file that an inventory describes, with arrays from (layer, weight, shape)."""
    with h5py.File(path, "w") as file:
        for name, value in told["root_attrs"].items():
            file.attrs[name] = text_attribute(value, bytes)
        for group in told["empty_groups"]:
            file.create_group(group).attrs["weight_names"] = np.array([])
        for group, details in told["groups_with_weights"].items():
            names = details["attrs"]["weight_names"]
            file.create_group(group).attrs["weight_names"] = text_attribute(names, bytes)
        for group, name, layer, weight in parts_of(told):
            shape, dtype = told["datasets"][f"{group}/{name}"]
            file[group].create_dataset(
                name, data=array_of(layer, weight, tuple(shape)).astype(dtype)
            )


def tree(item):
    """What is in a group, as the inventories put it."""
    if isinstance(item, h5py.Dataset):
        return {"type": "dataset", "shape": list(item.shape), "dtype": str(item.dtype)}

    def text(value):
        return value.decode() if isinstance(value, bytes) else [x.decode() for x in value]

    attributes = {name: text(value) for name, value in item.attrs.items()}
    children = {name: tree(child) for name, child in item.items()}
    return {"type": "group", "attrs": attributes, "children": children}


def test_a_file_of_matterports_loads_in_full(layout, rule, tmp_path):
    told, network = layout
    path = tmp_path / "w.h5"
    anchors = np.zeros((2, 261888, 4), "float32")  # which the port, and nobody else, has as weights
    write_inventory(path, told, lambda *of: anchors if of[0] == "anchors" else rule(*of))
    assert len(told["datasets"]) == told["n_datasets"]
    if told["tree"]:  # else the inventory is in parts only
        with h5py.File(path) as file:
            assert tree(file) == told["tree"]

    report = load_weights(network, path)
    assert report.unused == (["anchors/Variable"] if told["mode"] == "training" else [])
    assert not (report.missing or report.mismatched or report.excluded)
    for full, value in weights_of(network).items():
        assert np.array_equal(value, rule(*full.split("/"), value.shape)), full

    with h5py.File(path, "a") as file:
        for group, name in ((file, "layer_names"), *((g, "weight_names") for g in file.values())):
            group.attrs[name] = text_attribute([x.decode() for x in group.attrs[name] if x], str)
    assert load_weights(network, path) == report
    path.unlink()


def test_a_file_saved_here_is_as_matterports(layout, tmp_path):
    told, network = layout
    path = tmp_path / "w.h5"
    save_weights(network, path)
    with h5py.File(path) as file:
        found = tree(file)
    path.unlink()

    names, shapes, count = {}, {}, 0
    for group, name, layer, weight in parts_of(told):
        shape, dtype = told["datasets"][f"{group}/{name}"]
        count += np.prod(shape)
        if group != "anchors":
            names.setdefault(group, []).append(f"{layer}/{weight}:0")
            shapes[f"{group}/{layer}/{weight}:0"] = (shape, dtype)
    attributes = found["attrs"]
    # By position, too: in the order of Matterport's model, less the layers without weights.
    assert attributes["layer_names"] == [x for x in told["root_attrs"]["layer_names"] if x in names]
    assert attributes["backend"] == told["root_attrs"]["backend"]
    assert attributes["keras_version"] == keras.__version__
    groups = found["children"]
    assert {name: group["attrs"]["weight_names"] for name, group in groups.items()} == names
    assert {
        f"{group}/{layer}/{weight}": (data["shape"], data["dtype"])
        for group, inside in groups.items()
        for layer, weights in inside["children"].items()
        for weight, data in weights["children"].items()
    } == shapes
    anchors = 2 * 261888 * 4 if told["mode"] == "training" else 0
    assert network.count_params() + anchors == count == told["n_params"]


def test_layers_are_named_as_matterports(layout):
    told, network = layout
    assert told["keras_model_layers_in_order"] == told["root_attrs"]["layer_names"]
    ours = {layer.name: type(layer).__name__ for layer in network.layers}
    for name, kind in told["layer_classes"].items():
        if AUTOMATIC_NAME.fullmatch(name):
            continue
        # What Matterport wraps, or writes as a function, is a class of its own here.
        assert (
            name in ours
            if kind in ("TimeDistributed", "Lambda", "ConstLayer")
            else (ours[name] == kind)
        ), name


def test_coco_weights_start_a_network_of_two_classes(rule, tmp_path):
    told = golden_json("h5_inventory_resnet50_81")
    write_inventory(tmp_path / "coco.h5", told, rule)
    network = build_network("inference", make_config(BACKBONE="resnet50", NUM_CLASSES=2))
    before = weights_of(network)
    heads = ["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"]
    report = load_weights(network, tmp_path / "coco.h5", exclude=heads)
    (tmp_path / "coco.h5").unlink()
    assert not (report.missing or report.mismatched or report.unused)
    excluded = "mrcnn_class_logits, mrcnn_bbox_fc, mrcnn_mask"  # mrcnn_bbox only reshapes
    assert str(report) == f"130 layers loaded, 3 excluded ({excluded})"
    for full, value in weights_of(network).items():
        layer, weight = full.split("/")
        expected = before[full] if layer in heads else rule(layer, weight, value.shape)
        assert np.array_equal(value, expected), full


# What is written


@pytest.mark.parametrize("by_name", [True, False])
def test_keras_reads_what_is_written_here(model, tmp_path, by_name):
    save_weights(model, tmp_path / "w.h5")
    other = small_model()
    other.load_weights(tmp_path / "w.h5", by_name=by_name)
    for name, value in weights_of(model).items():
        np.testing.assert_array_equal(weights_of(other)[name], value)


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
    assert [name.split("/")[0] for name in report.excluded] == ["rpn_conv_shared"] * 2 + [
        "mrcnn_class_logits"
    ] * 2
    assert not (report.missing or report.unused)


def test_exclude_names_a_nested_model(model, tmp_path):
    groups = matterport_file(model)
    report = load_weights(model, write_groups(tmp_path / "w.h5", groups), ["rpn_model"])
    assert report.excluded == ["rpn_conv_shared/kernel", "rpn_conv_shared/bias"]
    assert not (report.missing or report.unused)


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
    assert str(report) == "3 layers loaded, 1 of another shape (mrcnn_class_logits)"


def test_the_report_names_layers_in_one_line():
    report = LoadReport(
        loaded=["conv1/kernel", "conv1/bias", "fc/bias"],
        mismatched=["fc/kernel"],
        missing=[f"res{i}/{name}" for i in range(7) for name in ("kernel", "bias")],
        unused=["a\nb\x1b[31m/kernel"],
    )
    assert str(report) == (
        "1 layer loaded, 1 of another shape (fc), "
        "7 not in the file (res0, res1, res2, res3 and 3 more), "
        r"1 in the file only (a\nb\x1b[31m)"
    )
    assert str(LoadReport(loaded=["a/kernel", "b/kernel"])) == "2 layers loaded"


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
    assert_refused(model, path, "truncated")
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
    assert_refused(model, path, "not a readable .h5 file", "lists 'conv1' but does not hold it")


# What somebody made in order to do harm


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def sentinel(tmp_path):
    """A file that only comes into being if something in a weights file is executed."""
    path = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(path))).close()
    assert path.exists()  # so the payload works
    path.unlink()
    yield path
    assert not path.exists()


def test_nothing_in_a_file_is_executed(model, tmp_path, sentinel):
    groups = matterport_file(model)
    path = write_groups(tmp_path / "w.h5", groups)
    payload = pickle.dumps(Payload(sentinel))
    touch = {"class_name": "Lambda", "config": {"function": ["4wEAAAA=", None, None]}}
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = json.dumps({"config": {"layers": [touch]}})
        file.attrs["recipe"] = np.void(payload)
        file["extra"] = np.void(payload)
    load_weights(model, path)
    assert_holds(model, groups)
    with pytest.raises(InputError, match="its attribute 'recipe' is not JSON"):
        read_attribute(path, "recipe")


def test_objects_are_no_weights(model, tmp_path, sentinel):
    path = write_groups(tmp_path / "w.h5", matterport_file(model))
    payload = np.frombuffer(pickle.dumps(Payload(sentinel)), np.uint8)
    with h5py.File(path, "a") as file:
        del file["conv1/conv1/bias:0"]
        data = file.create_dataset("conv1/conv1/bias:0", 4, h5py.vlen_dtype(np.uint8))
        data[:] = [payload] * 4
    assert_refused(model, path, "'conv1/bias:0' in it is no array of numbers")


@pytest.mark.parametrize("kind", ["pickle", "npz", "keras"])
def test_other_formats_are_not_opened(model, tmp_path, sentinel, kind):
    path = tmp_path / "w.h5"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Payload(sentinel)))
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, kernel=np.array([Payload(sentinel)], object))
    else:
        model.save(tmp_path / "w.keras")
        (tmp_path / "w.keras").rename(path)
    assert_refused(model, path, "not a readable .h5 file")


def external_link(file, secret):
    del file["conv1"]
    file["conv1"] = h5py.ExternalLink(secret, "/conv1")


def external_link_to_an_array(file, secret):
    del file["conv1/conv1/bias:0"]
    file["conv1/conv1/bias:0"] = h5py.ExternalLink(secret, "/conv1/conv1/bias:0")


def external_link_to_a_whole_model(file, secret):
    del file.attrs["layer_names"]
    file["model_weights"] = h5py.ExternalLink(secret, "/")


def soft_link(file, secret):
    file.move("conv1/conv1/bias:0", "elsewhere")
    file["conv1/conv1/bias:0"] = h5py.SoftLink("/elsewhere")


def external_storage(file, secret):
    del file["conv1/conv1/bias:0"]
    place = [(secret, 0, 16)]
    file.create_dataset("conv1/conv1/bias:0", (4,), "float32", external=place)


def virtual_array(file, secret):
    del file["conv1/conv1/bias:0"]
    virtual = h5py.VirtualLayout((4,), "float32")
    virtual[:] = h5py.VirtualSource(secret, "conv1/conv1/bias:0", (4,), "float32")
    file.create_virtual_dataset("conv1/conv1/bias:0", virtual)


@pytest.mark.parametrize(
    "reach_out",
    [
        external_link,
        external_link_to_an_array,
        external_link_to_a_whole_model,
        soft_link,
        external_storage,
        virtual_array,
    ],
)
def test_no_other_file_is_read(model, tmp_path, reach_out):
    secret = write_groups(tmp_path / "secret.h5", matterport_file(model))
    path = write_groups(tmp_path / "w.h5", matterport_file(model))
    with h5py.File(path, "a") as file:
        reach_out(file, str(secret))
    before = weights_of(model)["conv1/bias"]
    assert_refused(model, path, "in it is")
    np.testing.assert_array_equal(weights_of(model)["conv1/bias"], before)


def test_a_state_is_not_read_from_another_file(model, tmp_path):
    save_weights(model, tmp_path / "secret.h5", state={"optimizer": [np.ones(3)]})
    path = write_groups(tmp_path / "w.h5", matterport_file(model))
    with h5py.File(path, "a") as file:
        file["training_state"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "training_state")
    with pytest.raises(InputError, match="'training_state' in it is a link"):
        load_state(path)


def test_an_array_of_absurd_size_is_not_read(model, tmp_path):
    path = write_groups(tmp_path / "w.h5", matterport_file(model))
    absurd = {"shape": (10**6, 10**6), "dtype": "float32", "compression": "gzip"}
    with h5py.File(path, "a") as file:
        del file["conv1/conv1/kernel:0"]
        file.create_dataset("conv1/conv1/kernel:0", **absurd)
        state = file.create_group("training_state/optimizer")
        state.create_dataset("000000", **absurd)
    assert load_weights(model, path).mismatched == ["conv1/kernel"]
    with pytest.raises(InputError, match="'000000' in it claims to be larger than it is"):
        load_state(path)


def test_a_chunk_of_absurd_size_is_not_unpacked(model, tmp_path):
    path = write_groups(tmp_path / "w.h5", matterport_file(model))
    with h5py.File(path, "a") as file:
        del file["conv1/conv1/bias:0"]
        options = {"maxshape": (None,), "chunks": (10**9,), "compression": "gzip"}
        file.create_dataset("conv1/conv1/bias:0", (4,), "float32", **options)
    assert_refused(model, path, "'conv1/bias:0' in it is stored in chunks larger than itself")


def test_attributes_that_are_no_json(model, tmp_path):
    path = tmp_path / "w.h5"
    save_weights(model, path, {"recipe": {}}, {"epoch": 3})
    for value in ("{'a': 1}", b"\x80\x04", 3, [1.0, 2.0], h5py.Empty("f"), "[" * 100_000):
        with h5py.File(path, "a") as file:
            file.attrs["recipe"] = file["training_state"].attrs["epoch"] = value
        for read in (lambda: read_attribute(path, "recipe"), lambda: load_state(path)):
            if value == 3:
                continue
            with pytest.raises(InputError) as caught:
                read()
            assert "\n" not in str(caught.value) and str(path) in str(caught.value)


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
