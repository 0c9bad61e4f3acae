"""`nucleus ensemble`: what predictions it reads, what it writes, and how it refuses."""

import inspect
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn_nuclei import ensemble
from mrcnn_nuclei.cli import build_parser, main
from mrcnn_nuclei.ensemble import fuse_folders
from mrcnn_nuclei.formats import WRITERS
from mrcnn_nuclei.image_files import read_label_map
from mrcnn_nuclei.mask_nms import mask_nms
from mrcnn_nuclei.predictions import open_predictions

ROOT = Path(__file__).resolve().parent.parent
SHAPE = (8, 24)


def strips(*runs):
    """Instances across the height of the image, from (first, end, score)."""
    boxes = [(0, first, 8, end) for first, end, _ in runs]
    masks = [np.ones((8, end - first), bool) for first, end, _ in runs]
    return Instances(SHAPE, boxes, [score for *_, score in runs], [1] * len(runs), masks)


FIRST = {"a": strips((0, 10, 0.75), (12, 20, 0.5)), "b": strips((2, 6, 0.5))}
SECOND = {"a": strips((1, 11, 0.25)), "b": strips()}
FUSED = {"a": [(0, 11, 0.5), (12, 20, 0.25)], "b": [(2, 6, 0.25)]}


def write(folder, predictions, kinds):
    """What `nucleus detect --write KINDS` leaves."""
    for kind in kinds.split(","):
        writer = WRITERS[kind]
        if writer.per_image:
            for name, instances in predictions.items():
                writer.write(writer.path(folder, name), instances)
        else:
            writer.write(writer.path(folder), {f"{n}.png": x for n, x in predictions.items()})
    return folder


def runs(instances):
    return [
        (first, end, round(score, 6))
        for (_, first, _, end), score in zip(instances.boxes.tolist(), instances.scores.tolist())
    ]


def fused(folder):
    """The runs in each image of a COCO file that was written."""
    predictions = open_predictions(folder)
    return {name: runs(predictions.read(name)) for name in predictions.names}


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.tif")}


@pytest.fixture
def folders(tmp_path):
    return [write(tmp_path / "1", FIRST, "labels,csv"), write(tmp_path / "2", SECOND, "coco")]


@pytest.mark.parametrize("kinds", ["labels,csv", "coco", "labels,coco"])
def test_scores_are_read_from_what_detect_writes(tmp_path, kinds):
    folders = [write(tmp_path / "1", FIRST, kinds), write(tmp_path / "2", SECOND, kinds)]
    assert fuse_folders(folders, tmp_path / "out", ["labels", "coco"]) == (3, 2)
    assert fused(tmp_path / "out") == FUSED
    labels = read_label_map(tmp_path / "out" / "labels" / "a.tif")
    assert labels[0].tolist() == [1] * 11 + [0] + [2] * 8 + [0] * 4


def test_label_maps_of_any_tool_and_coco_files_go_together(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name, instances in FIRST.items():
        tifffile.imwrite(theirs / f"{name}_cp_masks.tif", instances.to_label_map())
        Image.fromarray(np.zeros((*SHAPE, 3), np.uint8)).save(theirs / f"{name}.png")
    coco = write(tmp_path, SECOND, "coco") / "coco.json"
    fuse_folders([theirs, coco], tmp_path / "out", ["coco"])
    assert fused(tmp_path / "out") == {
        "a": [(0, 11, 0.625), (12, 20, 0.5)],
        "b": [(2, 6, 0.5)],
    }


def test_coco_keeps_overlaps(tmp_path):
    crossing = {"a": strips((0, 10, 0.5), (8, 20, 0.25))}
    folders = [write(tmp_path / k, crossing, "coco,labels") for k in "12"]
    fuse_folders(folders, tmp_path / "out", ["coco"])
    assert fused(tmp_path / "out") == {"a": runs(crossing["a"])}


def test_options_reach_mask_nms(tmp_path, folders):
    fuse_folders(folders, tmp_path / "out", ["coco"], min_votes=2)
    assert fused(tmp_path / "out") == {"a": [(0, 11, 0.5)], "b": []}
    fuse_folders(folders, tmp_path / "out", ["coco"], iou_threshold=0.9)
    assert fused(tmp_path / "out")["a"] == [(0, 10, 0.375), (12, 20, 0.25), (1, 11, 0.125)]


def test_only_what_is_not_done_is_done(tmp_path, folders, monkeypatch):
    out = tmp_path / "out"
    assert fuse_folders(folders, out) == (3, 2)
    before = times(out)
    assert fuse_folders(folders, out) == (0, 0)
    (out / "labels" / "b.tif").unlink()
    assert fuse_folders(folders, out) == (1, 1)
    after = times(out)
    assert {path.stem for path in after if after[path] != before[path]} == {"b"}
    write(folders[0], {"a": FIRST["a"][:1]}, "labels,csv")
    assert fuse_folders(folders, out) == (1, 1)
    assert fuse_folders(folders, out, fuse="vote") == (2, 2)

    def interrupt(predictions, **options):
        if len(predictions[0]) == len(FIRST["b"]) and predictions[0].boxes[0, 1] == 2:
            raise KeyboardInterrupt
        return mask_nms(predictions, **options)

    monkeypatch.setattr(ensemble, "mask_nms", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fuse_folders(folders, tmp_path / "stopped")
    monkeypatch.undo()
    assert [path.stem for path in times(tmp_path / "stopped")] == ["a"]
    assert fuse_folders(folders, tmp_path / "stopped")[1] == 1


def test_files_of_other_options_are_made_anew(tmp_path, folders):
    out = tmp_path / "out"

    def width():
        return np.count_nonzero(read_label_map(out / "labels" / "a.tif")[0] == 1)

    fuse_folders(folders, out, ["labels"])
    assert width() == 11
    fuse_folders(folders, out, ["geojson"], iou_threshold=0.9)
    assert not list((out / "labels").iterdir())  # they would pass for what the manifest tells of
    assert fuse_folders(folders, out, ["labels"], iou_threshold=0.9)[1] == 2
    assert width() == 10
    assert fuse_folders(folders, out, ["geojson", "labels"], iou_threshold=0.9)[1] == 0


def test_all_categories_of_a_coco_file_are_nuclei(tmp_path):
    folders = [write(tmp_path / k, FIRST, "coco") for k in "12"]
    path = folders[0] / "coco.json"
    path.write_text(path.read_text().replace('"category_id": 1', '"category_id": 7'))
    fuse_folders(folders, tmp_path / "out", ["coco"], min_votes=2)
    assert fused(tmp_path / "out") == {name: runs(found) for name, found in FIRST.items()}


def test_every_format(tmp_path, folders):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in FIRST:
        Image.fromarray(np.full((*SHAPE, 3), 200, np.uint8)).save(pictures / f"{name}.jpg")
    fuse_folders(folders, tmp_path / "out", list(WRITERS), pictures)
    files = {path.relative_to(tmp_path / "out").as_posix() for path in tmp_path.rglob("out/**/*.*")}
    folders = {Path(WRITERS[kind].file).parent for kind in WRITERS if WRITERS[kind].per_image}
    per_image = {f"{folder}/{name}" for folder in folders for name in "ab"}
    assert {name.partition(".")[0] for name in files} == {
        *per_image,
        *("coco", "submission", "ensemble"),
    }
    records = json.loads((tmp_path / "out" / "coco.json").read_text())["images"]
    assert [record["file_name"] for record in records] == ["a.jpg", "b.jpg"]


def refuses(words, *arguments, **options):
    with pytest.raises(InputError, match=words) as caught:
        fuse_folders(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_an_image_that_one_folder_lacks(tmp_path, folders):
    (folders[0] / "labels" / "b.tif").unlink()
    refuses("1: 1 of 2 images have no prediction, such as b, which .*2", folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_that_cannot_be_used(tmp_path, folders):
    out = tmp_path / "out"
    refuses("no predictions to fuse", [], out)
    refuses("nowhere: no such file or folder", [folders[0], tmp_path / "nowhere"], out)
    (tmp_path / "empty").mkdir()
    refuses("empty: no predictions in it", [tmp_path / "empty"], out)
    (tmp_path / "list.json").write_text("[]")
    refuses("list.json: is not a COCO instances file", [tmp_path / "list.json"], out)
    refuses("--output .*: the predictions of .* are there", [folders[0]], folders[0])
    refuses("the predictions of .*labels are there", [folders[0] / "labels"], folders[0])
    refuses("the predictions of .*coco.json are there", [folders[1] / "coco.json"], folders[1])
    refuses("min_votes is 3", folders, out, min_votes=3)
    assert not out.exists()


def test_predictions_that_do_not_fit(tmp_path, folders):
    out = tmp_path / "out"
    wide = {name: Instances.empty((8, 25)) for name in "ab"}
    refuses(
        r"a: its predictions differ in size \(8 x 24, 8 x 25 pixels\)",
        [folders[0], write(tmp_path / "wide", wide, "labels")],
        out,
    )
    table = folders[0] / "measurements" / "a.csv"
    table.write_text(table.read_text().replace("\n2,", "\n7,"))
    refuses("a.csv: does not tell the score of each nucleus", folders, out)
    content = json.loads((folders[1] / "coco.json").read_text())
    del content["images"][0]["height"]
    (folders[1] / "coco.json").write_text(json.dumps(content))
    refuses("coco.json: its record of a cannot be used", folders[1:], out)
    twice = {"images": [{"id": k, "file_name": f"{k}/a.png"} for k in (1, 2)]}
    (tmp_path / "twice.json").write_text(json.dumps(twice))
    refuses("twice.json: names two images a", [tmp_path / "twice.json"], out)


def test_images_that_are_not_there(tmp_path, folders):
    out = tmp_path / "out"
    refuses("an overlay needs the images", folders, out, ["overlay"])
    refuses("nowhere: no such folder", folders, out, ["overlay"], tmp_path / "nowhere")
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((*SHAPE, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    refuses("1 of 2 images are not in it, such as b", folders, out, ["overlay"], tmp_path)


def test_the_command(tmp_path, folders, capsys):
    out = tmp_path / "out"
    arguments = ["ensemble", *map(str, folders), "--output", str(out)]
    assert main([*arguments, "--write", "labels,coco", "--fuse", "vote", "--min-votes", "2"]) == 0
    assert capsys.readouterr().out == f"1 nuclei in 2 images; wrote labels, coco to {out}\n"
    assert fused(out) == {"a": [(0, 11, 0.5)], "b": []}
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"3 nuclei in 2 images; wrote labels to {out}\n"
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"nothing to do: labels of all images are in {out}\n"
    shutil.rmtree(folders[1])
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"nucleus: error: {folders[1]}: no such") and error.count("\n") == 1


def test_the_command_has_the_defaults_of_the_function():
    options = vars(build_parser().parse_args(["ensemble", "a", "--output", "b"]))
    for name, parameter in inspect.signature(mask_nms).parameters.items():
        if name != "predictions":
            assert options[name] == parameter.default


def test_fusing_does_not_wait_for_keras():
    program = "import mrcnn_nuclei.ensemble, sys; assert 'keras' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
