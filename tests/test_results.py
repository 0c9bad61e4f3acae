"""The manifest of a folder of results."""

import errno
import json
import os

import numpy as np
import pytest

from mrcnn.instances import Instances
from mrcnn_nuclei import results
from mrcnn_nuclei.results import Job, Result, write_results


@pytest.fixture
def job():
    labels = np.zeros((8, 8), np.int32)
    labels[2:5, 2:5] = 1
    found = Instances.from_label_map(labels)
    return Job("a", "a.png", "made of this", lambda progress: Result(found))


def write(job, output, by="me"):
    return write_results([job], output, ["labels"], "results.json", {"by": by})


def test_results_made_of_the_same_by_the_same_are_left_as_they_are(job, tmp_path):
    assert write(job, tmp_path) == (1, 1)
    assert write(job, tmp_path) == (0, 0)
    assert write(job, tmp_path, by="you") == (1, 1)
    assert write(job._replace(identity="made of that"), tmp_path, by="you") == (1, 1)


KINDS = (("labels", "tif"), ("measurements", "csv"))


def test_files_of_older_results_do_not_pass_for_new_ones(job, tmp_path):
    """`coco.json` and tables would be read in place of the label maps written later."""

    def files(writers, by="me", of="made of this", jobs=("a", "b")):
        jobs = [job._replace(name=name, identity=of) for name in jobs]
        write_results(jobs, tmp_path, writers, "results.json", {"by": by})
        found = (path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*"))
        return sorted(name for name in found if name != "results.json")

    (tmp_path / "mine.csv").write_text("not of this program")
    every = ["coco.json", *(f"{k}/{name}" for k, s in KINDS for name in (f"a.{s}", f"b.{s}"))]
    assert files(["labels", "coco", "csv"]) == [*every, "mine.csv"]
    assert files(["labels"]) == [*every, "mine.csv"]  # of the same still
    assert files(["labels"], "you", jobs="a") == [
        *("labels/a.tif", "labels/b.tif", "measurements/b.csv", "mine.csv")
    ]
    assert files(["labels"], "you") == ["labels/a.tif", "labels/b.tif", "mine.csv"]
    files(["labels", "csv", "geojson"], "you")
    corrected = tmp_path / "geojson" / "a.geojson"
    os.utime(corrected, (4e9, 4e9))
    assert files(["labels"], "me") == [
        *("geojson/a.geojson", "labels/a.tif", "labels/b.tif", "mine.csv")
    ]
    corrected.unlink()
    files(["labels", "csv"], "you")
    assert files(["labels"], "you", "made of that") == ["labels/a.tif", "labels/b.tif", "mine.csv"]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"by": "me"}', '{"by": "me", "images": {"a": 3}}', "3"]
)
def test_a_manifest_that_cannot_be_understood_counts_for_nothing(content, job, tmp_path):
    (tmp_path / "results.json").write_text(content)
    assert write(job, tmp_path) == (1, 1)
    assert write(job, tmp_path) == (0, 0)


def test_nothing_is_written_before_there_is_a_result(job, tmp_path):
    def fail(progress):
        raise RuntimeError("no such image")

    with pytest.raises(RuntimeError):
        write(job._replace(make=fail), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_told_when_old_claims_are_withdrawn(job, tmp_path, monkeypatch):
    write(job, tmp_path)

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def fail(progress):
        raise AssertionError("made although the old claim still stands")

    monkeypatch.setattr(results, "atomic_path", full)
    with pytest.raises(OSError, match="No space left"):
        write(job._replace(make=fail), tmp_path, by="you")
    assert json.loads((tmp_path / "results.json").read_text())["by"] == "me"


def test_a_manifest_that_cannot_be_read_is_told_before_the_work(job, tmp_path):
    (tmp_path / "results.json").mkdir()

    def fail(progress):
        raise AssertionError("made although it cannot be noted")

    with pytest.raises(IsADirectoryError, match=r"results\.json"):
        write(job._replace(make=fail), tmp_path)
