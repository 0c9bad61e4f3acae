"""The table: means, spreads and intervals by hand; rows only for images new to a network."""

import csv
import io
import json

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from mrcnn.errors import InputError
from mrcnn_nuclei import cli, crossval
from mrcnn_nuclei.datasets.folds import write_folds
from mrcnn_nuclei.evaluation import COLUMNS, Evaluation
from mrcnn_nuclei.metrics import METRICS
from mrcnn_nuclei.table import RESAMPLES, SECTIONS, bootstrap_interval, read_table

HELD_OUT, FOLD_0, TEST = SECTIONS
FOLDS = [["a", "b"], ["c"]]
ORGANS = {"a": "Breast", "b": "Kidney", "c": "Breast", "t": None}


def scores(**images):
    """Rows of an evaluation in which every metric of an image is the same."""
    return [
        {"image": name, "nuclei_true": 10, "nuclei_pred": 5, **dict.fromkeys(METRICS, value)}
        for name, value in images.items()
    ]


def write_run(output, name, trained_on="", metrics=None, test_metrics=None):
    folder = output / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"trained_on": list(trained_on)}))
    for steps, rows in zip((crossval.HELD_OUT, crossval.TEST), (metrics, test_metrics)):
        if rows:
            inputs = {"weights": "a digest"}
            (folder / f"{steps.predictions}.json").write_text(json.dumps({"inputs": inputs}))
            scored = {**json.loads(Evaluation(rows).to_json()), "inputs": {"predictions": inputs}}
            (folder / f"{steps.metrics}.json").write_text(json.dumps(scored))


@pytest.fixture
def output(tmp_path):
    """Two folds of Mask R-CNN, the first of two images."""
    notes = {"dataset": "gone", "format": None, "organs": ORGANS}
    (tmp_path / "crossval.json").write_text(json.dumps(notes))
    write_folds(tmp_path / "folds.json", FOLDS)
    write_run(tmp_path, "fold0-mrcnn", "c", scores(a=0.2, b=0.6), scores(t=0.1))
    write_run(tmp_path, "fold1-mrcnn", "ab", scores(c=0.7), scores(t=0.3))
    return tmp_path


def find(table, row, level="all", of=""):
    (record,) = (
        r
        for r in table.records
        if (r["section"], r["row"], r["level"], r["of"]) == (*row, level, of)
    )
    return record


MEAN = (HELD_OUT, "Mask R-CNN, mean of two folds")


# The interval


def test_interval_of_two_images_by_hand():
    # Of the four equally likely draws one has twice 0, one twice 1, and two have both.
    assert bootstrap_interval([0, 1]) == (0, 1)
    # Of four images all are 1 in (3/4)^4 = 32 % of the draws, and all 0 in 0.4 %; one is in 5 %.
    assert bootstrap_interval([1, 1, 1, 0]) == (0.25, 1)
    assert bootstrap_interval([0.3, 0.3, 0.3]) == pytest.approx((0.3, 0.3))


def test_interval_equals_that_of_scipy():
    values = np.random.default_rng(1).beta(5, 4, 30)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, method="percentile", random_state=7
    ).confidence_interval
    # Another stream of draws, so that both err by some hundredths of the width.
    width = expected.high - expected.low
    assert bootstrap_interval(values) == pytest.approx(tuple(expected), abs=0.05 * width)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    # The mean of 30 is nearly normal.
    half = 1.96 * values.std() / np.sqrt(30)
    assert bootstrap_interval(values) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.1 * half
    )


# The rows


def test_mean_and_spread_by_hand(output):
    table = read_table(output)
    single = find(table, (HELD_OUT, "Mask R-CNN, fold 0"))
    assert (single["images"], single["AJI"]) == (2, pytest.approx(0.4))
    assert (single["AJI_low"], single["AJI_high"]) == pytest.approx((0.2, 0.6))
    mean = find(table, MEAN)
    assert (mean["images"], mean["mAP"]) == (3, pytest.approx(0.5))  # each image weighs the same
    assert mean["paper"] == 0.4502
    assert find(table, MEAN, "spread")["mAP"] == pytest.approx(0.15)  # of 0.4 and 0.7
    assert find(table, MEAN, "organ", "Breast")["PQ"] == pytest.approx(0.45)
    kidney = find(table, MEAN, "organ", "Kidney")
    assert kidney["PQ"] == 0.6 and "PQ_low" not in kidney  # of one image
    assert find(table, MEAN, "image", "c")["Dice"] == 0.7
    assert [r["row"] for r in table.records if r.get("paper")] == [MEAN[1]]


@pytest.mark.parametrize("content", [None, {"inputs": {"weights": "another"}}])
def test_scores_of_predictions_that_are_gone_are_not_shown(output, content):
    step = output / "fold1-mrcnn" / "predictions.json"
    step.unlink() if content is None else step.write_text(json.dumps(content))
    table = read_table(output)
    assert find(table, (HELD_OUT, "Mask R-CNN, fold 0"))["images"] == 2
    assert find(table, (HELD_OUT, "Mask R-CNN, fold 1"))["images"] == 0
    assert find(table, MEAN)["images"] == 0


@pytest.mark.parametrize("content", ["{}", "[]", "3", '{"images"'])
@pytest.mark.parametrize("step", ["metrics", "predictions", "config"])
def test_damaged_files_count_for_nothing(output, step, content):
    (output / "fold1-mrcnn" / f"{step}.json").write_text(content)
    assert find(read_table(output), (HELD_OUT, "Mask R-CNN, fold 1"))["images"] == 0
    (output / "crossval.json").write_text(content)
    with pytest.raises(InputError, match="no cross-validation in it"):
        read_table(output)


def test_scores_of_an_ensemble_of_other_predictions_are_not_shown(output):
    names = ["fold0-mrcnn", "fold1-mrcnn"]
    write_run(output, "test-mrcnn", "abc", test_metrics=scores(t=0.4))
    fused = output / "test-mrcnn"
    (fused / "config.json").write_text(json.dumps({"trained_on": list("abc"), "members": names}))
    inputs = {"members": [{"weights": "a digest"}] * 2}
    (fused / "test.json").write_text(json.dumps({"inputs": inputs}))
    content = json.loads((fused / "test_metrics.json").read_text())
    (fused / "test_metrics.json").write_text(
        json.dumps({**content, "inputs": {"predictions": inputs}})
    )
    row = (TEST, "Mask R-CNN, two by Mask-NMS")
    assert find(read_table(output), row)["images"] == 1
    step = output / "fold1-mrcnn" / "test.json"
    step.write_text(json.dumps({"inputs": {"weights": "another"}}))
    assert find(read_table(output), row)["images"] == 0


def test_scores_that_keep_no_record_are_shown(output):
    path = output / "fold1-mrcnn" / "metrics.json"
    path.write_text(Evaluation(scores(c=0.7)).to_json())
    (output / "fold1-mrcnn" / "predictions.json").unlink()
    assert find(read_table(output), MEAN)["images"] == 3


def test_several_networks_on_the_same_image_are_averaged_first(output):
    write_run(output, "test-mrcnn", "abc", None, scores(t=0.4))
    table = read_table(output)
    mean = find(table, (TEST, "Mask R-CNN, mean of two networks"))
    assert (mean["images"], mean["AJI"]) == (1, pytest.approx(0.2))
    assert find(table, (TEST, "Mask R-CNN, mean of two networks"), "spread")[
        "AJI"
    ] == pytest.approx(0.1)
    assert find(table, (TEST, "Mask R-CNN, two by Mask-NMS"))["AJI"] == 0.4


def test_what_is_not_done_has_no_numbers(output):
    (output / "fold1-mrcnn" / "metrics.json").unlink()
    table = read_table(output)
    assert find(table, MEAN)["images"] == 0  # of all folds or none
    lines = table.to_markdown().splitlines()
    (line,) = (line for line in lines if line.startswith(f"| {MEAN[1]} |"))
    assert line == f"| {MEAN[1]} | 0 |{' - |' * len(METRICS)} 0.4502 |"
    assert any(line.startswith("| Mask R-CNN, two by Mask-NMS | 0 | - |") for line in lines)
    assert not any(row.model == "unet" for row in table.rows)

    (output / "fold0-mrcnn" / "metrics.json").unlink()
    for k in range(2):
        (output / f"fold{k}-mrcnn" / "test_metrics.json").unlink()
    with pytest.raises(InputError, match="no run in it is done"):
        read_table(output)
    with pytest.raises(InputError, match="no cross-validation"):
        read_table(output / "fold0-mrcnn")


def test_both_networks_of_the_folds(output):
    for k, (trained_on, rows) in enumerate([("c", scores(a=0, b=0)), ("ab", scores(c=0))]):
        write_run(output, f"fold{k}-unet", trained_on, rows)
        write_run(output, f"fold{k}-both", trained_on, scores(**dict.fromkeys(FOLDS[k], 0.9)))
    table = read_table(output)
    assert [row.name for row in table.rows if row.section == HELD_OUT] == [
        *(f"Mask R-CNN, {which}" for which in ("fold 0", "fold 1", "mean of two folds")),
        *(f"U-Net, {which}" for which in ("fold 0", "fold 1", "mean of two folds")),
        *(
            f"Both networks, Mask-NMS, {which}"
            for which in ("fold 0", "fold 1", "mean of two folds")
        ),
    ]
    both = find(table, (HELD_OUT, "Both networks, Mask-NMS, mean of two folds"))
    assert (both["images"], both["AJI"]) == (3, pytest.approx(0.9))


def test_folds_in_any_order(tmp_path):
    (tmp_path / "crossval.json").write_text(
        json.dumps({"dataset": "", "format": None, "organs": {}})
    )
    write_folds(tmp_path / "folds.json", FOLDS)
    write_run(tmp_path, "fold1-mrcnn", "ab", scores(c=0.7))
    assert find(read_table(tmp_path), (HELD_OUT, "Mask R-CNN, fold 1"))["AJI"] == pytest.approx(0.7)


def test_flips_come_after_their_network(output):
    for k, trained_on in enumerate(("c", "ab")):
        rows = scores(**dict.fromkeys(FOLDS[k], 0.8))
        write_run(output, f"fold{k}-mrcnn-flips", trained_on, rows)
        write_run(output, f"fold{k}-unet", trained_on, rows)
        write_run(output, f"fold{k}-joint", trained_on, rows)
        write_run(output, f"fold{k}-joint-flips", trained_on, rows)
    means = [row.name for row in read_table(output).rows if row.section == HELD_OUT]
    assert [name for name in means if "mean" in name] == [
        "Mask R-CNN, mean of two folds",
        "Mask R-CNN, flips, mean of two folds",
        "U-Net, mean of two folds",
        "Both networks, Mask-NMS, mean of two folds",
        "Both networks, joint, mean of two folds",
        "Both networks, joint, flips, mean of two folds",
    ]
    flips = find(read_table(output), (HELD_OUT, "Mask R-CNN, flips, mean of two folds"))
    assert (flips["images"], flips["AJI"]) == (3, pytest.approx(0.8))


def test_a_row_whose_network_saw_the_image_is_left_out(output, caplog):
    write_run(output, "nested-mrcnn", "bc", scores(a=0.5, b=0.5))
    assert find(read_table(output), (FOLD_0, "Mask R-CNN, one by Mask-NMS"))["images"] == 0
    assert "nested-mrcnn: left out, since its networks were trained on b" in caplog.text


# What is written


def test_files(output):
    table = read_table(output, {"Otsu": Evaluation(scores(a=0.1, b=0.1, c=0.4))})
    table.write(output / "table")
    rows = list(csv.DictReader(io.StringIO((output / "table" / "table.csv").read_text())))
    content = json.loads((output / "table" / "table.json").read_text())
    assert content["bootstrap"] == {"resamples": 10_000, "seed": 0, "confidence": 0.95}
    assert len(rows) == len(content["records"]) == len(table.records)
    for row, record in zip(rows, content["records"]):
        for name in (*COLUMNS[1:], "AJI_low", "PQ_high"):
            assert row[name] == str(record.get(name, ""))
    otsu = find(table, (HELD_OUT, "Otsu"))
    assert otsu["AJI"] == pytest.approx(0.2)
    markdown = (output / "table" / "table.md").read_text()
    assert "| Otsu | 3 | 0.200 [0.100, 0.400] |" in markdown
    assert "| a | Otsu | 1 | 10 | 5 | 0.100 |" in markdown
    with Image.open(output / "table" / "table.png") as picture:
        assert picture.width > 1000
        pixels = np.asarray(picture.convert("RGB"))
    for colour in ((0x00, 0x72, 0xB2), (0x55, 0x55, 0x55)):  # of Mask R-CNN and of the added row
        assert (pixels == colour).all(axis=-1).sum() > 50


def test_command(tmp_path, output, capsys):
    for name in "abc":
        labels = np.zeros((20, 20), np.uint8)
        labels[2:8, 2:8] = 1
        for folder in ("images", "labels", "other"):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels).save(tmp_path / "data" / folder / f"{name}.png")
    arguments = ["table", str(output), "--output", str(tmp_path / "out")]
    added = ["--add", f"Other={tmp_path / 'data' / 'other'}", "--dataset", str(tmp_path / "data")]
    assert cli.main([*arguments, *added]) == 0
    out = capsys.readouterr().out
    assert "| Other | 3 | 1.000 [1.000, 1.000] |" in out
    assert out.endswith(f"to {tmp_path / 'out'}\n")
    assert (tmp_path / "out" / "table.md").read_text() in out
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [
        *(".csv", ".json", ".md", ".png")
    ]
    for wrong in (["--add", "Other"], ["--add", f"Other={tmp_path / 'data' / 'other'}"]):
        assert cli.main([*arguments, *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1
