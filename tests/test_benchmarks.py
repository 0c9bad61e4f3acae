"""The benchmarks: that one which needs a GPU runs, and how tables reach RESULTS.md."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture
def harness(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import harness

    monkeypatch.setattr(harness, "RESULTS", tmp_path / "RESULTS.md")
    return harness


def test_a_table_replaces_the_one_of_its_section(harness):
    marks = "<!-- speed: written by benchmarks -->", "<!-- end of speed -->"
    harness.RESULTS.write_text(f"before\n{marks[0]}\nold\n{marks[1]}\nafter\n")
    for seconds in ("1 s", "2 s"):
        harness.publish("speed", "how", ["what", "time"], [["step", seconds]])
    text = harness.RESULTS.read_text()
    assert text.startswith(f"before\n{marks[0]}\nhow\n") and text.endswith(f"{marks[1]}\nafter\n")
    assert "| step | 2 s |" in text and "old" not in text and "1 s" not in text


def test_a_missing_mark_loses_nothing(harness):
    text = "<!-- speed: written by benchmarks -->\nand all the rest\n"
    harness.RESULTS.write_text(text)
    with pytest.raises(ValueError, match="end of speed"):
        harness.publish("speed", "how", ["what"], [["step"]])
    assert harness.RESULTS.read_text() == text


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_the_protocol_is_timed_at_toy_size(precision):
    found = subprocess.run(
        [sys.executable, BENCHMARKS / "gpu.py", "--toy", "--steps", "4", "--precision", precision],
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    *stages, result = found.splitlines()
    assert [stage.split(":")[0] for stage in stages] == ["heads", "4+", "all"]
    assert result.startswith(f"{precision}: ") and "5 folds of 300 epochs on 24 images" in result
