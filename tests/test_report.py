"""The report: its numbers are the table's, its outlines the masks', and it needs nothing else."""

import base64
import io
import json
import logging
import re
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from PIL import Image
from reports import (
    COUNTS,
    HOSTILE,
    MODELS,
    PLAIN,
    SHAPE,
    TRUTH,
    Page,
    squares,
    write_crossval,
    write_dataset,
    write_history,
    write_run,
)
from scipy import ndimage

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn_nuclei import cli
from mrcnn_nuclei.datasets.synthetic import draw_tile
from mrcnn_nuclei.metrics import METRICS, evaluate_pair
from mrcnn_nuclei.noise import noisy_copy
from mrcnn_nuclei.report import pictures
from mrcnn_nuclei.report.contents import read_contents
from mrcnn_nuclei.report.curves import INK, LINES, draw_curves
from mrcnn_nuclei.report.page import write_report
from mrcnn_nuclei.table import read_table

LINKS = ("src", "href", "xlink:href", "action", "poster", "srcset", "data", "formaction")


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return write_crossval(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def path(output):
    return write_report(output)


@pytest.fixture(scope="module")
def page(path):
    return Page(path)


def rows_of(page, kind):
    """The rows of the tables of a class: the texts of each, and the numbers in full precision."""
    rows, inside = [], False
    for tag, attributes, texts in page.elements:
        if tag == "table":
            inside = attributes["class"] == kind
        elif tag == "tr" and inside:
            rows.append(([], []))
        elif tag in ("th", "td") and inside:
            rows[-1][0].append("".join(texts).strip())
        elif tag == "data" and inside:
            rows[-1][1].append(float(attributes["value"]))
    return rows


def outlines_of(page):
    """What the script draws of each image, by name."""
    articles = page.find("article", class_="picture")
    scripts = page.find("script", type="application/json")
    return {
        article["data-name"]: json.loads("".join(texts))
        for (article, _), (_, texts) in zip(articles, scripts, strict=True)
    }


# Numbers


def test_the_table_is_that_of_nucleus_table(output, page):
    records = json.loads(read_table(output).to_json())["records"]
    shown = rows_of(page, "summary")
    overall = [r for r in records if r["level"] in ("all", "spread") and r["images"]]
    for record in overall:
        name = record["row"].replace("mean", "spread") if record["level"] == "spread" else None
        name = name or record["row"]
        (numbers,) = (numbers for texts, numbers in shown if texts[0] == name)
        expected = [record["images"], *(record[metric] for metric in METRICS)]
        assert numbers == expected + ([record["paper"]] if record.get("paper") else [])
    assert len(overall) == 4 + 2 + 2 and any(record.get("paper") for record in overall)
    organs = [r for r in records if r["level"] == "organ"]
    found = [numbers for texts, numbers in shown if texts[0].startswith("<b>Liver</b>: ")]
    assert found == [[1, *(record[metric] for metric in METRICS)] for record in organs]


def test_scores_of_images_are_those_of_the_table_worst_first(output, page):
    records = json.loads(read_table(output).to_json())["records"]
    names = ("nuclei_true", "nuclei_pred", *METRICS)
    expected = [[r[name] for name in names] for r in records if r["level"] == "image"]
    numbers = [numbers for _, numbers in rows_of(page, "sortable")[1:]]
    assert sorted(numbers) == sorted(expected) and len(numbers) == 4
    aji = [row[names.index("AJI")] for row in numbers]
    assert aji == sorted(aji)
    heads = page.find("th", **{"aria-sort": "ascending"})
    assert ["".join(texts) for _, texts in heads] == ["AJI"]


def test_counts_by_hand(page):
    articles = page.find("article", class_="picture")
    for (article, _), inside in zip(articles, page.within("article")):
        marks = [found for tag, found, _ in inside if "marks" in found.get("class", "")]
        counts = [
            {found["data-kind"]: int("".join(texts))}
            for tag, found, texts in inside
            if tag == "b" and "data-kind" in found
        ]
        for k, (mark, model) in enumerate(zip(marks, MODELS)):
            expected = COUNTS[article["data-name"], model]
            assert mark["data-prediction"] == str(k)
            shown = {name: n for one in counts[3 * k : 3 * k + 3] for name, n in one.items()}
            assert shown == expected
        assert len(marks) == 2
    assert len(articles) == 2


def test_outlines_by_hand(page):
    drawn = outlines_of(page)[HOSTILE]
    assert drawn["truth"] == [f"M3 {y}h6v-6h-6z" for y in (8, 18, 28)]
    mrcnn, unet = (drawn["predictions"][number] for number in "01")
    assert (mrcnn["found"], mrcnn["missed"]) == ([0], [1, 2])
    assert (mrcnn["right"], mrcnn["false"]) == ([0], [1, 2, 3])
    assert mrcnn["outlines"][1] == "M5 18h6v-6h-6z"
    assert (unet["right"], unet["false"], unet["outlines"]) == ([0], [], ["M3 8h6v-6h-6z"])


def test_the_prediction_shown_first_is_the_best_and_its_worst_image_comes_first(output, page):
    scores = {
        model: [read_json(output / f"fold{k}-{model}")["mean"]["AJI"] for k in range(2)]
        for model in MODELS
    }
    assert sum(scores["mrcnn"]) > sum(scores["unet"])
    (shelf, _), *_ = [found for found in page.find("div") if found[0].get("id") == "pictures"]
    assert shelf["data-best"] == "0"
    names = [found["data-name"] for found, _ in page.find("article")]
    assert names == [HOSTILE, PLAIN] and scores["mrcnn"][0] < scores["mrcnn"][1]


def read_json(run, step="metrics"):
    return json.loads((run / f"{step}.json").read_text())


# Outlines and counts of tissue


def corners_of(path):
    """The rings of an SVG path of M, h, v and z."""
    for ring in re.findall(r"M(\d+) (\d+)((?:[hv]-?\d+)+)z", path):
        point = np.array(ring[:2], int)
        points = [point]
        for axis, step in re.findall(r"([hv])(-?\d+)", ring[2]):
            point = point + (np.array([int(step), 0]) if axis == "h" else np.array([0, int(step)]))
            points.append(point)
        yield np.array(points)


def test_outlines_hold_the_pixels_of_the_masks():
    _, labels = draw_tile(128, np.random.default_rng(4))
    paths = pictures._outlines(labels)
    assert len(paths) == len(np.unique(labels)) - 1 > 10
    y, x = np.mgrid[:128, :128]
    centres = np.stack([x.ravel(), y.ravel()], axis=1) + 0.5
    for label, path in zip(np.unique(labels)[1:], paths):
        inside = np.zeros(labels.size, bool)
        for ring in corners_of(path):
            inside |= Outline(np.concatenate([ring, ring[:1]]), closed=True).contains_points(
                centres
            )
        filled = ndimage.binary_fill_holes(labels == label)
        np.testing.assert_array_equal(inside.reshape(labels.shape), filled)


@pytest.mark.parametrize("seed", range(3))
def test_counts_give_the_f1_of_the_metrics(seed, tmp_path):
    rng = np.random.default_rng(seed)
    _, labels = draw_tile(128, rng)
    predicted = noisy_copy(Instances.from_label_map(labels), rng).to_label_map()
    dataset = write_dataset(tmp_path / "data", {"a": labels.astype(np.uint16)})
    write_run(tmp_path / "run", dataset, {"a": predicted.astype(np.uint16)})
    (prediction,) = read_contents(tmp_path / "run").predictions
    picture = pictures.make_picture("a", (dataset, 0), [(0, prediction)])
    (marked,) = picture.marked
    found, missed, false = marked.counts.values()
    expected = evaluate_pair(labels, predicted)["F1"]
    assert 2 * found / (2 * found + missed + false) == pytest.approx(expected)
    assert found and missed and false
    assert marked.found.sum() == marked.right.sum()
    assert len(picture.truth) == found + missed and len(marked.outlines) == found + false


def test_crowds_are_neither_missed_nor_false(tmp_path):
    labels = squares((2, 3), (20, 20))
    dataset = write_dataset(tmp_path / "data", {"a": labels})
    load_labels, dataset.load_labels = dataset.load_labels, None
    crowd = load_labels(0)[0], np.array([1, -1], np.int32)
    dataset.load_labels = lambda image_id: crowd
    write_run(tmp_path / "run", dataset, {"a": labels})
    (prediction,) = read_contents(tmp_path / "run").predictions
    picture = pictures.make_picture("a", (dataset, 0), [(0, prediction)])
    assert picture.marked[0].counts == {"found": 1, "missed": 0, "false": 0}
    assert len(picture.truth) == 1


def test_pixels_are_those_of_the_image_and_never_more_than_needed(page, tmp_path):
    for found, _ in page.find("image"):
        with Image.open(io.BytesIO(base64.b64decode(found["href"].partition(",")[2]))) as image:
            assert image.size == SHAPE[::-1] == (int(found["width"]), int(found["height"]))
    large = np.zeros((100, 2500), np.uint8)
    large[10:20, 2400:2410] = 1
    dataset = write_dataset(tmp_path / "data", {"large": large})
    write_run(tmp_path / "run", dataset, {"large": large})
    wide = Page(write_report(tmp_path / "run", dataset=tmp_path / "data"))
    ((found, _),) = wide.find("image")
    with Image.open(io.BytesIO(base64.b64decode(found["href"].partition(",")[2]))) as image:
        assert image.size == (2000, 80)
    assert (found["width"], found["height"]) == ("2500", "100")
    assert outlines_of(wide)["large"]["truth"] == ["M2400 20h10v-10h-10z"]


# The page as a file


def test_the_page_refers_to_nothing_outside(path, page):
    references = [
        value
        for _, attributes, _ in page.elements
        for name, value in attributes.items()
        if name in LINKS
    ]
    assert len(references) > 10
    for reference in references:
        assert reference.startswith(("#", "data:")), reference
    text = path.read_text(encoding="utf-8")
    for start in ("url(", "@import", "fetch(", "XMLHttpRequest", "import(", "sendBeacon"):
        for part in text.split(start)[1:]:
            assert start == "url(" and part.startswith("#"), start + part[:40]
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert {r[1:] for r in references if r.startswith("#")} <= set(ids)


def test_hostile_names_are_text(path, page):
    assert not page.find("img") and "49" not in path.read_text().split("<article")[1][:300]
    heads = ["".join(texts).strip() for _, texts in page.find("h3")]
    assert any(head.startswith(HOSTILE) and head.endswith("<b>Liver</b>") for head in heads)
    assert not any(name.startswith("on") for _, found, _ in page.elements for name in found)
    assert not [tag for tag, _, texts in page.elements if tag == "b" and "Liver" in texts]


def test_everything_that_is_seen_has_words_too(page):
    for found, _ in page.find("svg", class_="pane"):
        assert HOSTILE in found["aria-label"] or PLAIN in found["aria-label"]
    (curves,) = page.find("figure", class_="curves")
    assert (
        "fold0-mrcnn: loss 1.500, val_loss 2.000, val_aji 0.667 after 3 epochs"
        in (curves[0]["aria-label"])
    )
    for found, texts in page.find("button"):
        assert found.get("aria-label") or "".join(texts).strip()
    assert page.find("html")[0][0]["lang"] == "en"


def test_the_page_appears_whole_or_not_at_all(output, tmp_path):
    copy = tmp_path / "runs"
    shutil.copytree(output, copy, ignore=shutil.ignore_patterns("report.html"))
    (copy / "fold1-mrcnn" / "predictions" / "labels" / f"{PLAIN}.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="plain.png"):
        write_report(copy)
    (copy / "fold1-mrcnn" / "predictions" / "labels" / f"{PLAIN}.png").unlink()
    with pytest.raises(InputError, match="has no label map of plain; repeat"):
        write_report(copy)
    assert not [found for found in copy.iterdir() if found.suffix == ".html"]


def test_a_prediction_of_another_size_is_one_line(tmp_path):
    dataset = write_dataset(tmp_path / "data", {"a": TRUTH})
    write_run(tmp_path / "run", dataset, {"a": TRUTH})
    Image.fromarray(TRUTH[:20]).save(tmp_path / "run" / "predictions" / "labels" / "a.png")
    with pytest.raises(InputError, match="a: ground truth and prediction differ in size"):
        write_report(tmp_path / "run", dataset=tmp_path / "data")


# What there is to report


def test_an_unfinished_cross_validation_shows_the_folds_that_are_done(output, tmp_path):
    copy = tmp_path / "runs"
    shutil.copytree(output, copy)
    for model in MODELS:
        shutil.rmtree(copy / f"fold1-{model}")
    contents = read_contents(copy)
    assert [p.name for p in contents.predictions] == ["Mask R-CNN, fold 0", "U-Net, fold 0"]
    assert [list(p.folders) for p in contents.predictions] == [[HOSTILE]] * 2
    page = Page(write_report(copy))
    assert [found["data-name"] for found, _ in page.find("article")] == [HOSTILE]


def test_a_run_of_a_cross_validation_knows_its_images(output, tmp_path):
    page = Page(write_report(output / "fold0-unet", tmp_path / "page.html"))
    assert [found["data-name"] for found, _ in page.find("article")] == [HOSTILE]
    (mean, std) = rows_of(page, "summary")[1:]
    metrics = read_json(output / "fold0-unet")
    assert mean[1] == list(metrics["mean"].values())
    assert std[1] == list(metrics["std"].values())


def test_new_images_are_shown_of_the_ensemble_that_predicted_them(output, tmp_path):
    copy = tmp_path / "runs"
    shutil.copytree(output, copy)
    new = write_dataset(tmp_path / "new", {"new": TRUTH})
    notes = {**read_json(copy, "crossval"), "test": str(tmp_path / "new")}
    (copy / "crossval.json").write_text(json.dumps(notes))
    write_run(copy / "test-unet", new, {"new": TRUTH}, trained_on=[HOSTILE, PLAIN])
    for step, old in (("test", "predictions"), ("test_metrics", "metrics")):
        (copy / "test-unet" / f"{old}.json").rename(copy / "test-unet" / f"{step}.json")
    (copy / "test-unet" / "predictions").rename(copy / "test-unet" / "test")
    names = [prediction.name for prediction in read_contents(copy).predictions]
    assert names[-1] == "U-Net, two by Mask-NMS (test images)"
    drawn = outlines_of(Page(write_report(copy)))
    assert drawn["new"]["predictions"].keys() == {"2"}


def test_images_that_have_moved_are_left_out(output, tmp_path, caplog):
    copy = tmp_path / "runs"
    shutil.copytree(output, copy)
    notes = {**read_json(copy, "crossval"), "dataset": str(tmp_path / "gone")}
    (copy / "crossval.json").write_text(json.dumps(notes))
    damaged = next(copy.glob("*/logs/*/history.csv"))
    damaged.write_text("epoch,loss\n")
    contents = read_contents(copy)
    assert contents.predictions and not contents.sources
    assert "gone" in caplog.text and "left out of the report" in caplog.text
    assert "its curve is left out" in caplog.text
    assert damaged.parents[2].name not in [history.name for history in contents.histories]
    assert Page(write_report(copy)).find("article") == []


@pytest.fixture
def ablation(tmp_path):
    dataset = write_dataset(tmp_path / "data", {"a": TRUTH})
    for name, predicted in (("baseline", squares((2, 3))), ("dice", TRUTH)):
        folder = tmp_path / "ablation" / name
        write_run(folder, dataset, {"a": predicted}, [2.0, 1.0], model="mrcnn")
    rows = [
        {
            "name": name,
            "title": "Dice",
            "settings": {},
            "mean": (mean := read_json(tmp_path / "ablation" / name)["mean"]),
            "difference": {m: mean[m] - base for m, base in mean.items()},
        }
        for name in ("baseline", "dice")
    ]
    (tmp_path / "ablation" / "ablation.json").write_text(json.dumps(rows))
    return tmp_path / "ablation"


def test_ablations(ablation, tmp_path):
    page = Page(write_report(ablation, dataset=tmp_path / "data"))
    baseline, dice = rows_of(page, "summary")[1:]
    assert baseline[0][0] == "baseline" and dice[0][0] == "dice: Dice"
    assert dice[1] == [1] * len(METRICS)
    drawn = outlines_of(page)["a"]["predictions"]
    assert (drawn["0"]["missed"], drawn["1"]["missed"]) == ([1, 2], [])


def test_without_its_images_a_report_says_how_to_see_them(ablation, caplog):
    with caplog.at_level(logging.WARNING, "mrcnn_nuclei"):
        page = Page(write_report(ablation))
    assert "reported without its images; give --dataset DIR" in caplog.text
    assert len(rows_of(page, "sortable")) == 3
    assert not page.find("article") and not page.find("a", href="#images")


def test_scores_of_predictions_that_are_gone_are_not_shown(output, tmp_path, caplog):
    copy = tmp_path / "runs"
    shutil.copytree(output, copy)
    step = copy / "fold0-mrcnn" / "predictions.json"
    step.write_text(json.dumps({"inputs": {"weights": "another"}}))
    with caplog.at_level(logging.WARNING, "mrcnn_nuclei"):
        contents = read_contents(copy / "fold0-mrcnn")
    assert "left out, since it was predicted anew" in caplog.text
    assert not contents.predictions and contents.histories


def test_a_training(tmp_path):
    write_history(tmp_path / "nucleus20261122T2334", [3.0, 2.0])
    page = Page(write_report(tmp_path / "nucleus20261122T2334"))
    assert page.find("svg") and not page.find("table")


def test_epochs_that_were_repeated_count_once(tmp_path):
    write_history(tmp_path / "run", [3.0, 2.0])
    with open(tmp_path / "run" / "history.csv", "a") as file:
        file.write("1,1.5,1.75,0.5\n2,1,1.25,0.6\n")
    (history,) = read_contents(tmp_path / "run").histories
    assert history.losses["epoch"].tolist() == [1, 2, 3]
    assert history.losses["loss"].tolist() == [3, 1.5, 1]


@pytest.mark.parametrize(
    "text",
    ["", "loss\n1\n", "epoch,loss\n", "epoch,rate\n0,1\n", "epoch,loss\nsoon,1\n"]
    + ["epoch,loss\n1,2,3,4\n5"],
)
def test_a_damaged_history_is_one_line(tmp_path, text):
    (tmp_path / "history.csv").write_text(text)
    with pytest.raises(InputError, match=r"history.csv: is no history of a training \(.*\); del"):
        read_contents(tmp_path)


def test_the_command(output, tmp_path, capsys):
    target = tmp_path / "pages" / "page.html"
    assert cli.main(["report", str(output), "--output", str(target)]) == 0
    size = target.stat().st_size
    assert f"wrote {target}, {size / 1e3:.0f} kB; open it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("folder", "words"),
    [("nowhere", "no such folder"), ("data", "nothing to report in it; give")],
)
def test_a_folder_of_something_else_is_one_line(output, folder, words, capsys):
    assert cli.main(["report", str(output.parent / folder)]) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


# Curves


def test_curves_follow_the_losses(output):
    histories = read_contents(output).histories[:1]
    svg = draw_curves(histories)
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("svg") and INK not in svg and "currentColor" in svg
    heights = {}
    for element in root.iter():
        style = element.get("style", "")
        if element.tag.endswith("path") and f"stroke: {LINES[0].lower()}" in style:
            points = np.array(re.findall(r"[ML] (\S+) (\S+)", element.get("d")), float)
            if len(points) == 3:
                heights.setdefault("stroke-opacity" in style, points)
    losses = histories[0].losses
    for thin, column in ((True, "loss"), (False, "val_loss")):
        x, y = heights[thin].T
        assert np.corrcoef(y, losses[column])[0, 1] == pytest.approx(-1, abs=1e-4)
        assert np.corrcoef(x, losses["epoch"])[0, 1] == pytest.approx(1, abs=1e-4)
    # Both are on one scale.
    thin, thick = heights[True][:, 1], heights[False][:, 1]
    assert (thin - thick) / np.ptp(thin) == pytest.approx(0.5 / 1.5, abs=1e-3)


def test_names_of_runs_are_no_formulas(output):
    (history,) = read_contents(output).histories[:1]
    names = ["_a<b>$x^2$", "b&c"]
    svg = draw_curves([history._replace(name=name) for name in names])
    texts = {element.text for element in ElementTree.fromstring(svg).iter()}
    assert set(names) <= texts
