"""Cross-validation: who is trained and tried on what, and that nothing finished is done again."""

import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mrcnn_nuclei
from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn_nuclei import cli, commands
from mrcnn_nuclei.crossval import (
    HELD_OUT,
    cross_validate,
    load_held_out,
    make_ensembles,
    make_networks,
    make_parts,
)
from mrcnn_nuclei.datasets import NucleusDataset
from mrcnn_nuclei.datasets.folds import divide, read_folds, write_folds
from mrcnn_nuclei.datasets.synthetic import draw_tile
from mrcnn_nuclei.formats import WRITERS
from mrcnn_nuclei.image_files import read_label_map
from mrcnn_nuclei.table import read_table

FOLDS = [["a0", "a1"], ["b0", "b1"], ["c0", "c1"]]
NUCLEI = 8


def write_image(root, name, labels=True):
    """A strip of NUCLEI squares, in reality of no colour."""
    truth = np.kron(np.arange(1, NUCLEI + 1), np.pad(np.ones((6, 6), np.uint8), 2))
    for folder, pixels in (("images", np.dstack([truth * 20] * 3)), ("labels", truth)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        if labels or folder == "images":
            Image.fromarray(pixels.astype(np.uint8)).save(root / folder / f"{name}.png")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    for name in sum(FOLDS, []):
        write_image(root, name)
    return root


class Networks:
    """Stands in for training and detection: notes who is trained on what, and misses nuclei.

    Network k misses nucleus k + 1 of each image. `stops` are the calls of training, from 0, that
    end after they have begun.
    """

    def __init__(self, stops=()):
        self.trained, self.predicted, self.stops = [], [], stops
        self.settings, self.unets = {}, {}

    def last_checkpoint(self, logs, name, model):
        if not (Path(logs) / f"{name}.h5").exists():
            raise InputError("none")
        return Path(logs) / f"{name}.h5"

    def continues(self, weights, config):
        return False

    def train(self, config, train_dataset, val_dataset, logs, weights=None, epochs=None):
        call = len(self.trained)
        self.trained.append((config.NAME, train_dataset.names, val_dataset.names, weights))
        path = Path(logs) / f"{config.NAME}.h5"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{call % NUCLEI}")
        if call in self.stops:
            raise KeyboardInterrupt
        return path

    def dataset_sources(self, dataset):
        return [(name, dataset.load_image(i)[..., 0] // 20) for i, name in enumerate(dataset.names)]

    def detect_images(self, sources, weights, output, writers, settings=None, unet=None):
        missed = int(Path(weights).read_text()) + 1
        self.unets[Path(output).parent.name] = unet
        found = {}
        for name, labels in sources:
            self.predicted.append(f"{Path(output).parent.name} {name}")
            self.settings[Path(output).parent.name] = settings
            found[f"{name}.png"] = Instances.from_label_map(np.where(labels == missed, 0, labels))
            path = WRITERS["labels"].path(output, name)
            WRITERS["labels"].write(path, found[f"{name}.png"])
        WRITERS["coco"].write(WRITERS["coco"].path(output), found)
        return sum(map(len, found.values())), 0


@pytest.fixture
def networks(monkeypatch):
    """Put a Networks in the place of the modules that need Keras."""

    def use(*args, **kwargs):
        used = Networks(*args, **kwargs)
        for name in ("training", "detection"):
            monkeypatch.setattr(mrcnn_nuclei, name, used, raising=False)
            monkeypatch.setitem(sys.modules, f"mrcnn_nuclei.{name}", used)
        keras = types.SimpleNamespace(utils=types.SimpleNamespace(clear_session=lambda: None))
        monkeypatch.setitem(sys.modules, "keras", keras)
        return used

    return use


def run(output, root, models=("mrcnn",), folds=FOLDS, nested=False, settings=None, **kwargs):
    made = make_networks(make_parts(folds, nested), models, settings=settings)
    cross_validate(output, root, folds, made, **kwargs)


def metrics(output, run, name="metrics"):
    return json.loads((output / run / f"{name}.json").read_text())


# The plan


def test_parts_of_three_folds():
    assert make_parts([["a"], ["b"], ["c", "d"]], nested=True) == [
        ("fold0", ["b", "c", "d"], ["a"], ["a"]),
        ("fold1", ["a", "c", "d"], ["b"], ["b"]),
        ("fold2", ["a", "b"], ["c", "d"], ["c", "d"]),
        ("nested1", ["c", "d"], ["b"], ["a"]),
        ("nested2", ["b"], ["c", "d"], ["a"]),
    ]
    for folds, nested, least in (([["a"]], False, 2), ([["a"], ["b"]], True, 3)):
        with pytest.raises(InputError, match=f"give {least} at least"):
            make_parts(folds, nested)


@pytest.mark.parametrize("n_folds", [3, 5, 10])
def test_no_network_of_an_ensemble_is_trained_on_what_it_is_tried_on(n_folds):
    folds = [[f"{k}-{i}" for i in range(4)] for k in range(n_folds)]
    runs = {
        f"{part.name}-{config.MODEL}": part
        for part, config in make_networks(make_parts(folds, nested=True), ("mrcnn", "unet"))
    }
    ensembles = make_ensembles(n_folds)
    assert len(ensembles) == n_folds + 2 + 2
    for ensemble in ensembles:
        members = [runs[name] for name in ensemble.members]
        if ensemble.steps is HELD_OUT:
            assert len({tuple(member.held_out) for member in members}) == 1
            for member in members:
                assert not set(member.training) & set(member.held_out)
        else:
            assert [member.name for member in members] == [f"fold{k}" for k in range(n_folds)]
    for name in ("nested-mrcnn", "nested-unet"):
        (nested,) = (ensemble for ensemble in ensembles if ensemble.name == name)
        for member in (runs[name] for name in nested.members):
            assert len(member.training) == (n_folds - 2) * 4
            assert not set(member.training + member.validation) & set(folds[0])


def test_processes_share_the_folds(dataset, monkeypatch, tmp_path, capsys):
    called = []
    monkeypatch.setattr(
        "mrcnn_nuclei.crossval.cross_validate",
        lambda output, root, folds, networks, **kwargs: called.append((folds, networks)),
    )
    command = ["crossval", "--dataset", str(dataset), "--output", str(tmp_path), "--n-folds", "3"]
    for options in (["--fold", "0", "2", "--nested"], ["--fold", "1"]):
        assert cli.main([*command, "--model", "unet", *options]) == 0
    names = [[part.name for part, _ in networks] for _, networks in called]
    assert names == [["fold0", "fold2", "nested2"], ["fold1"]]
    assert [len(folds) for folds, _ in called] == [3, 3]  # each knows of all
    assert cli.main([*command, "--fold", "0", "3"]) == 2
    assert capsys.readouterr().err.endswith("error: --fold 3: the folds are 0 to 2\n")


def test_runs_are_called_as_those_of_train():
    (_, config), *_ = make_networks(make_parts(FOLDS), ["unet"], "compact", {"SEED": 5})
    options = types.SimpleNamespace(fold=0, model="unet")
    assert config.NAME == commands._run_name(options, "compact") == "nucleus-fold0-unet-compact"
    assert (config.MODEL, config.SEED) == ("unet", 5)


def test_tiles_of_a_slide_share_a_fold(tmp_path):
    slides = [f"TCGA-{site}-{k:04d}-01Z-00-DX1" for site in ("A7", "B0") for k in range(3)]
    for name in [f"{slide}_{k}" for slide in slides for k in range(2)]:
        write_image(tmp_path, name)
    data = NucleusDataset().load(tmp_path)
    folds = divide([info["sample"] for info in data.image_info], n_folds=3)
    assert [len(fold) for fold in folds] == [4, 4, 4]
    for fold in folds:
        assert all(f"{name[:-1]}{k}" in fold for name in fold for k in range(2))


def test_folds_of_the_real_images_are_even_in_organs(monuseg):
    samples = [info["sample"] for info in NucleusDataset().load(monuseg).image_info]
    folds = divide(samples)
    assert [len(fold) for fold in folds] == [6] * 5
    for organ in {sample.organ for sample in samples}:
        names = {sample.name for sample in samples if sample.organ == organ}
        counts = [len(names & set(fold)) for fold in folds]
        assert max(counts) - min(counts) <= 1, organ
    patient = {sample.name: sample.group for sample in samples}
    patients = [{patient[name] for name in fold} for fold in folds]
    assert len(set.union(*patients)) == sum(map(len, patients))


# The runs


def test_every_image_is_predicted_by_the_network_that_did_not_see_it(networks, dataset, tmp_path):
    used = networks()
    run(tmp_path, dataset)
    a, b, c = FOLDS
    assert used.trained == [
        ("nucleus-fold0-mrcnn-compact", b + c, a, None),
        ("nucleus-fold1-mrcnn-compact", a + c, b, None),
        ("nucleus-fold2-mrcnn-compact", a + b, c, None),
    ]
    assert used.predicted == [
        *("fold0-mrcnn a0", "fold0-mrcnn a1", "fold1-mrcnn b0", "fold1-mrcnn b1"),
        *("fold2-mrcnn c0", "fold2-mrcnn c1"),
    ]
    assert read_folds(tmp_path / "folds.json") == FOLDS
    assert load_held_out(tmp_path).names == sum(FOLDS, [])
    config = json.loads((tmp_path / "fold1-mrcnn" / "config.json").read_text())
    assert (config["trained_on"], config["validated_on"]) == (a + c, b)
    assert config["settings"]["SEED"] == 0 and config["weights"] == "none"
    # The second network misses nucleus 2: seven of eight squares, each perfect.
    labels = read_label_map(tmp_path / "fold1-mrcnn" / "predictions" / "labels" / "b0.tif")
    assert len(np.unique(labels)) == NUCLEI
    scores = metrics(tmp_path, "fold1-mrcnn")
    assert [row["image"] for row in scores["images"]] == b
    assert scores["mean"]["AJI"] == scores["mean"]["mAP"] == 7 / 8


def test_nothing_finished_is_done_again(networks, dataset, tmp_path):
    stopped = networks(stops=[1])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, dataset)
    assert len(stopped.trained) == 2 and len(stopped.predicted) == 2
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "fold0-mrcnn").rglob("*")}

    used = networks()
    run(tmp_path, dataset)
    # What had begun goes on from its last checkpoint.
    logs = tmp_path / "fold1-mrcnn" / "logs"
    assert [(name, weights) for name, _, _, weights in used.trained] == [
        ("nucleus-fold1-mrcnn-compact", logs / "nucleus-fold1-mrcnn-compact.h5"),
        ("nucleus-fold2-mrcnn-compact", None),
    ]
    assert len(used.predicted) == 4
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "fold0-mrcnn").rglob("*")}

    idle = networks()
    run(tmp_path, dataset)
    assert idle.trained == idle.predicted == []


def test_weights_that_changed_are_tried_again(networks, dataset, tmp_path):
    """As by `nucleus tune`, which writes thresholds into the file."""
    networks()
    run(tmp_path, dataset)
    assert metrics(tmp_path, "fold0-mrcnn")["mean"]["nuclei_pred"] == NUCLEI - 1
    weights = tmp_path / "fold0-mrcnn" / "logs" / "nucleus-fold0-mrcnn-compact.h5"
    weights.write_text(f"{NUCLEI}")  # misses none
    used = networks()
    run(tmp_path, dataset)
    assert used.trained == [] and used.predicted == ["fold0-mrcnn a0", "fold0-mrcnn a1"]
    assert metrics(tmp_path, "fold0-mrcnn")["mean"]["nuclei_pred"] == NUCLEI


def test_other_settings_and_folds_are_refused(networks, dataset, tmp_path):
    networks()
    run(tmp_path, dataset, epochs=3)
    for refused, kwargs in (
        ("epochs", {"epochs": 4}),
        ("LEARNING_RATE", {"epochs": 3, "settings": {"LEARNING_RATE": 0.5}}),
        ("folds.json: .* other folds", {"epochs": 3, "folds": FOLDS[::-1]}),
    ):
        with pytest.raises(InputError, match=refused):
            run(tmp_path, dataset, **kwargs)
    with pytest.raises(InputError, match="has no image z"):
        run(tmp_path / "new", dataset, folds=[*FOLDS, ["z"]])


def test_the_weights_to_start_from_are_noted(networks, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("NUCLEI_WEIGHTS", str(tmp_path))
    free, output = tmp_path / "nuclei_free.h5", tmp_path / "runs"
    free.write_text("abc")
    used = networks()
    run(output, dataset, weights="free")
    assert {weights for *_, weights in used.trained} == {"free"}
    config = json.loads((output / "fold2-mrcnn" / "config.json").read_text())
    # FIPS 180-2 gives this digest of "abc".
    assert config["weights_sha256"] == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    free.write_text("abd")
    with pytest.raises(InputError, match="made with another weights_sha256"):
        run(output, dataset, weights="free")


# Ensembles and the test folder


def test_detectors_start_from_the_u_nets_of_their_folds(networks, dataset, tmp_path):
    used = networks()
    with pytest.raises(InputError, match="fold0-unet: no trained U-Net; give --model unet first"):
        run(tmp_path, dataset, weights="unet")
    run(tmp_path, dataset, ["unet"])
    run(tmp_path, dataset, ["mrcnn"], weights="unet")
    with pytest.raises(InputError, match="fold0-mrcnn/config.json: .* another weights_sha256"):
        (tmp_path / "fold0-unet/logs/nucleus-fold0-unet-compact.h5").write_text("trained anew")
        run(tmp_path, dataset, ["mrcnn"], weights="unet")
    for k, (name, training, _, weights) in enumerate(used.trained[3:]):
        assert name == f"nucleus-fold{k}-mrcnn-compact"
        assert weights == tmp_path / f"fold{k}-unet/logs/nucleus-fold{k}-unet-compact.h5"
        assert training == used.trained[k][1]
    status = cli.main(["crossval", "--dataset", str(dataset), "--output", "x", "--weights", "unet"])
    assert status == 2


def test_both_networks_of_a_fold_are_fused(networks, dataset, tmp_path):
    networks()
    run(tmp_path, dataset, ["mrcnn"])
    assert not (tmp_path / "fold0-both").exists()
    networks()
    run(tmp_path, dataset, ["unet"])  # a call of its own, so that it may have settings of its own
    for k, fold in enumerate(FOLDS):
        scores = metrics(tmp_path, f"fold{k}-both")
        assert [row["image"] for row in scores["images"]] == fold
        # Network k of either kind misses the same nucleus; what one of two finds is kept.
        assert scores["mean"]["AJI"] == 7 / 8
    config = json.loads((tmp_path / "fold1-both" / "config.json").read_text())
    assert config["trained_on"] == sorted(FOLDS[0] + FOLDS[2])


def test_flips_are_tried_beside_the_rest_without_training(networks, dataset, tmp_path):
    networks()
    run(tmp_path, dataset, nested=True)
    used = networks()
    run(tmp_path, dataset, nested=True, flips=True)
    assert used.trained == []
    assert used.settings == {
        f"fold{k}-mrcnn-flips": {"TEST_TIME_AUGMENTATION": True} for k in range(3)
    }
    for k, fold in enumerate(FOLDS):
        scores = metrics(tmp_path, f"fold{k}-mrcnn-flips")
        assert [row["image"] for row in scores["images"]] == fold
        assert scores["mean"]["AJI"] == 7 / 8
    idle = networks()
    run(tmp_path, dataset, nested=True, flips=True)
    assert idle.predicted == []


def test_the_unet_of_its_fold_corrects_each_mask_rcnn(networks, dataset, tmp_path, caplog):
    networks()
    run(tmp_path, dataset, models=("unet",), flips=True)
    assert not list(tmp_path.glob("*joint*"))
    used = networks()
    run(tmp_path, dataset, flips=True)
    for k, fold in enumerate(FOLDS):
        for name, settings in (("joint", {}), ("joint-flips", {"TEST_TIME_AUGMENTATION": True})):
            name = f"fold{k}-{name}"
            unet = tmp_path / f"fold{k}-unet" / "logs" / f"nucleus-fold{k}-unet-compact.h5"
            assert (used.unets.pop(name), used.settings.pop(name)) == (unet, settings)
            assert [row["image"] for row in metrics(tmp_path, name)["images"]] == fold
            config = json.loads((tmp_path / name / "config.json").read_text())
            assert config["members"] == [f"fold{k}-mrcnn", f"fold{k}-unet"]
            assert not set(config["trained_on"]) & set(fold)
    assert not any(used.unets.values())

    # A U-Net that is trained anew counts anew; without it the results are no longer of use.
    row = "Both networks, joint, mean of three folds"
    images = {row.name: row.images for row in read_table(tmp_path).rows}
    assert len(images[row]) == 6
    unet = tmp_path / "fold1-unet/logs/nucleus-fold1-unet-compact.h5"
    unet.write_text("5")
    used = networks()
    run(tmp_path, dataset, models=("unet",), flips=True)
    assert set(used.settings) == {
        f"fold1-{name}" for name in ("unet", "unet-flips", "joint", "joint-flips")
    }
    unet.unlink()
    run(tmp_path, dataset, flips=True)
    assert "fold1-joint: left out, since" in caplog.text


def test_nested_networks_are_fused_on_fold_0(networks, dataset, tmp_path):
    used = networks()
    run(tmp_path, dataset, nested=True)
    assert used.trained[3:] == [
        ("nucleus-nested1-mrcnn-compact", FOLDS[2], FOLDS[1], None),
        ("nucleus-nested2-mrcnn-compact", FOLDS[1], FOLDS[2], None),
    ]
    assert metrics(tmp_path, "nested1-mrcnn")["mean"]["AJI"] == 7 / 8
    scores = metrics(tmp_path, "nested-mrcnn")
    assert [row["image"] for row in scores["images"]] == FOLDS[0]
    assert scores["mean"]["AJI"] == 1  # each of two misses another one


def test_networks_of_all_folds_are_fused_on_a_test_folder(networks, dataset, tmp_path):
    output, test = tmp_path / "runs", tmp_path / "test"
    write_image(test, "t0")
    networks()
    run(output, dataset)
    used = networks()
    run(output, dataset, test=test)
    assert used.trained == []
    assert used.predicted == [f"fold{k}-mrcnn t0" for k in range(3)]
    for k in range(3):
        assert metrics(output, f"fold{k}-mrcnn", "test_metrics")["mean"]["AJI"] == 7 / 8
    # Three networks, of which two have to agree, miss a nucleus each.
    assert metrics(output, "test-mrcnn", "test_metrics")["mean"]["AJI"] == 1
    config = json.loads((output / "test-mrcnn" / "config.json").read_text())
    assert config["trained_on"] == sum(FOLDS, [])


def test_another_test_folder_is_refused(networks, dataset, tmp_path):
    for name in ("test", "other"):
        write_image(tmp_path / name, "t0")
    networks()
    run(tmp_path / "runs", dataset, test=tmp_path / "test")
    with pytest.raises(InputError, match="other: the runs in .* were tried on .*test; give that"):
        run(tmp_path / "runs", dataset, test=tmp_path / "other")


def test_a_test_folder_without_truth_is_predicted_only(networks, dataset, tmp_path):
    output, test = tmp_path / "runs", tmp_path / "test"
    write_image(test, "t0", labels=False)
    networks()
    run(output, dataset, test=test)
    assert (output / "test-mrcnn" / "test" / "labels" / "t0.tif").exists()
    assert not list(output.rglob("test_metrics.json"))


def test_a_test_image_that_is_trained_on_is_refused(networks, dataset, tmp_path):
    networks()
    write_image(tmp_path / "test", "b1")
    with pytest.raises(InputError, match="b1 is an image of --dataset too"):
        run(tmp_path / "runs", dataset, test=tmp_path / "test")
    assert not (tmp_path / "runs").exists()


def test_a_patient_in_two_folds_is_told(networks, tmp_path, caplog):
    networks()
    folds = [[f"TCGA-A7-000{k}-01Z-00-DX{i}" for i in range(2)] for k in range(2)]
    folds[0][1], folds[1][1] = folds[1][1], folds[0][1]
    for name in sum(folds, []):
        write_image(tmp_path / "data", name)
    run(tmp_path / "runs", tmp_path / "data", folds=folds)
    assert "images of 2 patients, such as TCGA-A7-0000, are in several folds" in caplog.text


# The command


def test_the_command_chooses_folds_and_networks(monkeypatch, tmp_path, capsys):
    calls = []
    monkeypatch.setattr(commands, "import_keras", lambda: None)
    monkeypatch.setattr(
        "mrcnn_nuclei.crossval.cross_validate", lambda *args, **kwargs: calls.append((args, kwargs))
    )
    data, output = tmp_path / "data", str(tmp_path / "runs")
    for name in "abcd":
        write_image(data, name)
    write_folds(data / "folds.json", [["a", "b"], ["c", "d"]])
    write_folds(tmp_path / "other.json", [["a"], ["b"], ["c", "d"]])
    common = ["crossval", "--dataset", str(data), "--output", output]
    for options in (
        ["--model", "unet", "--set", "FOCAL_GAMMA=2"],
        ["--folds", str(tmp_path / "other.json"), "--nested", "--model", "mrcnn"],
        ["--n-folds", "4", "--epochs", "3", "--seed", "5"],
    ):
        assert cli.main([*common, *options]) == 0
    (unet, nested, both) = calls
    assert unet[0][:3] == (output, str(data), [["a", "b"], ["c", "d"]])
    assert [(part.name, c.MODEL, c.FOCAL_GAMMA) for part, c in unet[0][3]] == [
        *(("fold0", "unet", 2), ("fold1", "unet", 2)),
    ]
    assert [part.name for part, _ in nested[0][3]] == [
        *("fold0", "fold1", "fold2", "nested1", "nested2"),
    ]
    assert sorted(both[0][2]) == [["a"], ["b"], ["c"], ["d"]]
    assert [c.MODEL for _, c in both[0][3]] == ["mrcnn", "unet"] * 4
    assert {c.SEED for _, c in both[0][3]} == {5} and both[1]["epochs"] == 3
    capsys.readouterr()
    for options, word in (
        (["--n-folds", "5"], "5 folds"),
        (["--set", "FOCAL_GAMMA=2"], "no setting FOCAL_GAMMA of mrcnn"),
        (["--weights", "last"], "last: no such weights file"),
        (["--nested"], "give 3 at least"),
    ):
        assert cli.main([*common, *options]) == 2
        error = capsys.readouterr().err
        assert word in error and error.count("\n") == 1


# All of it, at toy size

ROOT = Path(__file__).resolve().parent.parent


def nucleus_in_a_process(*arguments):
    """Run a command with the tiny preset in a process of its own; return status and messages."""
    command = [sys.executable, __file__, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, env=environment, stderr=subprocess.PIPE, text=True, timeout=1800, check=False
    )
    return result.returncode, result.stderr


def draw(root, count):
    for k in range(count):
        for folder, pixels in zip(("images", "labels"), draw_tile(96, np.random.default_rng(k))):
            path = root / folder / f"{root.name}{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    return root


def files_of(*folders):
    return {p: p.stat().st_mtime_ns for folder in folders for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_killed_in_the_second_fold_and_continued(tmp_path, capsys):
    data, test, output = draw(tmp_path / "data", 4), draw(tmp_path / "test", 1), tmp_path / "runs"
    arguments = ["crossval", "--dataset", data, "--output", output, "--test", test]
    arguments += ["--n-folds", 2, "--preset", "tiny"]

    status, messages = nucleus_in_a_process("kill", *arguments)
    assert status == -signal.SIGKILL, messages
    finished = [output / "fold0-mrcnn", output / "fold0-unet"]
    assert all((run / "test_metrics.json").exists() for run in finished)
    half, unbegun = output / "fold1-mrcnn", output / "fold1-unet"
    assert list(half.rglob("*_0001.h5")) and not (half / "training.json").exists()
    assert [path.name for path in unbegun.iterdir()] == ["config.json"]
    before = files_of(*finished)

    status, messages = nucleus_in_a_process(*arguments)
    assert status == 0, messages
    assert files_of(*finished) == before
    assert "continuing" in messages and "after epoch 1" in messages
    (history,) = half.rglob("history.csv")
    assert [line.split(",")[0] for line in history.read_text().splitlines()] == ["epoch", "0", "1"]
    folds = read_folds(output / "folds.json")
    for k, fold in enumerate(folds):
        for model in ("mrcnn", "unet", "both"):
            images = metrics(output, f"fold{k}-{model}")["images"]
            assert [row["image"] for row in images] == fold
    for name in ("fold1-unet", "test-mrcnn", "test-unet"):
        assert [r["image"] for r in metrics(output, name, "test_metrics")["images"]] == ["test0"]

    members = [str(output / f"fold{k}-mrcnn" / "test") for k in range(2)]
    assert cli.main(["ensemble", *members, "--output", str(tmp_path / "fused")]) == 0
    fused, ours = (
        read_label_map(folder / "labels" / "test0.tif")
        for folder in (tmp_path / "fused", output / "test-mrcnn" / "test")
    )
    np.testing.assert_array_equal(fused, ours)

    capsys.readouterr()
    assert cli.main(["table", str(output)]) == 0
    messages = capsys.readouterr().out
    for row in ("Mask R-CNN, mean of two folds | 4", "U-Net, two by Mask-NMS | 1"):
        assert f"| {row} |" in messages
    content = json.loads((output / "table.json").read_text())
    (mean,) = (
        r["AJI"]
        for r in content["records"]
        if (r["row"], r["level"]) == ("U-Net, mean of two folds", "all")
    )
    scored = [metrics(output, f"fold{k}-unet")["mean"]["AJI"] for k in range(2)]
    assert mean == pytest.approx(np.mean(scored))


def main(arguments):
    """Run a command; after `kill`, until the fifth epoch of all has ended."""
    from tiny import tiny_preset

    from mrcnn_nuclei import training

    if arguments[0] == "kill":
        ends = []

        def kill(self, epoch, logs=None):
            ends.append(epoch)
            if len(ends) == 5:
                os.kill(os.getpid(), signal.SIGKILL)

        training.ProgressBar.on_epoch_end = kill
        arguments = arguments[1:]
    with tiny_preset():
        return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
