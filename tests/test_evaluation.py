"""Folders of predictions are matched by name, scored and tabulated."""

import csv
import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn_nuclei.datasets.nucleus import NucleusDataset
from mrcnn_nuclei.evaluation import Evaluation, evaluate_folder, evaluate_set
from mrcnn_nuclei.metrics import METRICS


class Dataset:
    """What `evaluate_folder` needs of a dataset."""

    def __init__(self, images):
        self.names = list(images)
        self._labels = list(images.values())

    def load_labels(self, image_id):
        labels = self._labels[image_id]
        return labels, np.ones(len(np.unique(labels)) - 1, np.int32)


def strip(*runs):
    """One row of pixels from (label, length) pairs."""
    return np.concatenate([np.full((1, length), label, np.int32) for label, length in runs], axis=1)


TRUTH = strip((1, 8), (0, 4), (2, 8))
HALF = strip((1, 8), (0, 12))  # AJI 8/16, mAP 1/2, DQ 2/3


def test_mean_and_deviation_by_hand():
    result = evaluate_set(
        [("a", TRUTH), ("b", TRUTH)],
        [("a", TRUTH), ("b", Instances.from_label_map(HALF))],
    )
    assert [row["image"] for row in result.rows] == ["a", "b"]
    assert [(row["nuclei_true"], row["nuclei_pred"]) for row in result.rows] == [(2, 2), (2, 1)]
    assert [row["AJI"] for row in result.rows] == [1, 0.5]
    assert result.mean["AJI"] == 0.75
    assert result.std["AJI"] == 0.25
    assert result.mean["F1"] == pytest.approx((1 + 2 / 3) / 2)
    assert result.mean["nuclei_pred"] == 1.5


def test_names_must_agree():
    with pytest.raises(InputError, match="a is paired with the prediction of b"):
        evaluate_set([("a", TRUTH)], [("b", TRUTH)])
    with pytest.raises(InputError, match="b is paired with the prediction of nothing"):
        evaluate_set([("a", TRUTH), ("b", TRUTH)], [("a", TRUTH)])
    with pytest.raises(InputError, match="no images"):
        evaluate_set([], [])
    with pytest.raises(InputError, match=r"^a: .*1 x 20 and 1 x 3"):
        evaluate_set([("a", TRUTH)], [("a", TRUTH[:, :3])])


def test_folder_of_any_tool(tmp_path):
    dataset = Dataset(dict.fromkeys(["plain", "ours", "cellpose", "numpy", "a.b"], TRUTH))
    tifffile.imwrite(tmp_path / "plain.tif", TRUTH.astype(np.uint16))
    tifffile.imwrite(tmp_path / "ours_labels.tif", TRUTH.astype(np.uint32))
    Image.fromarray(np.zeros((1, 20, 3), np.uint8)).save(tmp_path / "ours.png")  # a picture
    Image.fromarray(TRUTH.astype(np.uint16)).save(tmp_path / "cellpose_cp_masks.png")
    np.save(tmp_path / "numpy.npy", HALF)
    tifffile.imwrite(tmp_path / "a.b.ome.tif", TRUTH.astype(np.uint16))
    tifffile.imwrite(tmp_path / "plain2_labels.tif", TRUTH.astype(np.uint16))
    (tmp_path / "notes.txt").write_text("not a label map")

    result = evaluate_folder(tmp_path, dataset)
    assert [row["image"] for row in result.rows] == dataset.names
    assert [row["AJI"] for row in result.rows] == [1, 1, 1, 0.5, 1]
    assert result.ignored == ("plain2_labels.tif",)
    assert "1 file matches no image and went unscored: plain2_labels.tif" in result.to_text()


def test_crowds_are_left_out(tmp_path):
    dataset = Dataset({"a": TRUTH})
    dataset.load_labels = lambda _: (TRUTH, np.array([1, -1]))  # label 2 is a crowd
    # Label 3 lies wholly in the crowd; 4 has one pixel of three there and is a false positive.
    np.save(tmp_path / "a.npy", strip((1, 8), (0, 2), (4, 3), (3, 7)))
    (row,) = evaluate_folder(tmp_path, dataset).rows
    assert (row["nuclei_true"], row["nuclei_pred"]) == (1, 2)
    assert row["AJI"] == 8 / (8 + 3)


def test_missing_predictions_are_named(tmp_path):
    names = [f"tile{k}" for k in range(8)]
    np.save(tmp_path / "tile0.npy", TRUTH)
    with pytest.raises(InputError) as error:
        evaluate_folder(tmp_path, Dataset(dict.fromkeys(names, TRUTH)))
    assert "7 of 8 images have no prediction, such as tile1, tile2, tile3, ...;" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="absent: no such file or folder"):
        evaluate_folder(tmp_path / "absent", Dataset({"a": TRUTH}))


def test_prediction_of_another_size_is_refused_by_name(tmp_path):
    np.save(tmp_path / "a.npy", TRUTH[:, :10])
    with pytest.raises(InputError, match=r"^a: ground truth and prediction differ in size"):
        evaluate_folder(tmp_path, Dataset({"a": TRUTH}))


@pytest.mark.parametrize(("count", "shown"), [(5, False), (6, True)])
def test_progress_appears_for_many_images(tmp_path, capsys, count, shown):
    names = [f"tile{k}" for k in range(count)]
    for name in names:
        np.save(tmp_path / f"{name}.npy", TRUTH)
    dataset = Dataset(dict.fromkeys(names, TRUTH))
    evaluate_folder(tmp_path, dataset)
    assert (f"{count}/{count}" in capsys.readouterr().err) == shown
    evaluate_folder(tmp_path, dataset, progress=False)
    assert capsys.readouterr().err == ""


@pytest.fixture
def evaluation():
    return evaluate_set([("long name", TRUTH), ("b", TRUTH)], [("long name", TRUTH), ("b", HALF)])


def test_terminal_table(evaluation):
    lines = evaluation.to_text().splitlines()
    assert lines[0].split() == ["image", "true", "pred", *METRICS]
    assert len({len(line) for line in lines}) == 1
    assert len(lines[0]) <= 110
    assert lines[2].startswith("long name     2     2  1.0000")
    assert lines[-2].split()[:4] == ["mean", "2.0", "1.5", "0.7500"]
    assert lines[-1].split()[:4] == ["std", "0.0", "0.5", "0.2500"]


def test_files(evaluation, tmp_path):
    for suffix in ("json", "csv", "md", "txt"):
        evaluation.write(tmp_path / "new" / f"table.{suffix}")
    assert sorted(path.suffix for path in (tmp_path / "new").iterdir()) == [
        ".csv",
        ".json",
        ".md",
        ".txt",
    ]
    content = json.loads((tmp_path / "new" / "table.json").read_text())
    assert content["images"] == evaluation.rows
    assert content["mean"]["AJI"] == 0.75
    assert content["std"] == evaluation.std

    with (tmp_path / "new" / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[1]["image"] == "b"
    assert float(rows[1]["F1"]) == pytest.approx(2 / 3, abs=1e-15)

    lines = (tmp_path / "new" / "table.md").read_text().splitlines()
    assert len(lines) == 2 + 2 + 2
    assert {line.count("|") for line in lines} == {len(METRICS) + 4}
    assert lines[1].startswith("| :-- | --: |")


def test_unknown_format_is_refused_and_writes_nothing(evaluation, tmp_path):
    with pytest.raises(InputError, match="written as .json, .csv, .md, .txt"):
        evaluation.write(tmp_path / "table.xlsx")
    assert list(tmp_path.iterdir()) == []


def test_ignored_files_are_counted():
    row = {"image": "a", "nuclei_true": 1, "nuclei_pred": 1, **dict.fromkeys(METRICS, 1.0)}
    text = Evaluation([row], ("p.tif", "q.tif", "r.tif", "s.tif")).to_text()
    assert text.endswith("4 files match no image and went unscored: p.tif, q.tif, r.tif, ...\n")


def test_real_fold_against_itself(monuseg):
    dataset = NucleusDataset().load(monuseg, subset="val", fold=0)
    result = evaluate_folder(monuseg / "labels", dataset, progress=False)
    assert len(result.rows) == 6
    assert len(result.ignored) == 24
    assert result.mean["nuclei_true"] * 6 == 3395
    # The readers draw the XML as the label maps were drawn.
    assert result.mean["AJI"] == 1


def test_recall_by_shape_is_part_of_every_report(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", HALF)
    result = evaluate_folder(tmp_path, Dataset({"a": TRUTH}), by_shape=True)
    assert result.recall["radius < 6"] == (1, 2)
    assert json.loads(result.to_json())["recall"]["all"] == {"found": 1, "true": 2}
    assert "| radius < 6 | 2 | 1 | 0.5000 |" in result.to_markdown()
    assert "  radius < 6         0.5000  (1 of 2)\n" in result.to_text()
    assert "  radius > 12        -  (0 of 0)\n" in result.to_text()
    plain = evaluate_folder(tmp_path, Dataset({"a": TRUTH}))
    assert plain.recall is None and "recall" not in json.loads(plain.to_json())
