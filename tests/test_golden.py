"""That no number in the golden files goes without a comparison."""

from fnmatch import fnmatch

import helpers
import pytest
from helpers import Golden, golden_entries

DESCRIPTIVE = (
    # Which software made them, and how large its files were.
    "*.json/onednn",
    "infer_?.json/tf",
    "h5_inventory_*/producer",
    "h5_inventory_*/file_bytes",
    # The third of three images, of which only the first two were loaded.
    "load_image_gt.npz/in_*_2",
    # How the cases were chosen, and how stable they are there.
    "infer_?.json/case",
    "infer_?.json/image_seed",
    "infer_?.json/stability/*",
    "train_2.json/variant",
    "train_2.json/seed",
    "train_2.json/image_seeds",
    "train_2.json/repeat_max_abs_diff_of_losses",
    # The noise of outputs that were not kept, and all noise in another unit.
    "numeric_noise_onednn_on_vs_off.json/b.rois/*",
    "numeric_noise_onednn_on_vs_off.json/b.class_ids/*",
    "numeric_noise_onednn_on_vs_off.json/b.scores/*",
    "numeric_noise_onednn_on_vs_off.json/b.masks_*",
    "numeric_noise_onednn_on_vs_off.json/*/max_abs",
    # The noise of a step of training: the tolerances of test_network.py lie above it.
    "numeric_noise_train_onednn_on_vs_off.json/*",
)


@pytest.fixture
def noted(monkeypatch):
    monkeypatch.setattr(helpers, "TAKEN", set())
    return helpers.TAKEN


def test_an_entry_is_noted_when_a_test_asks_for_it(noted):
    golden = Golden("x.json", {"a": 1, "b": {"c": 2, "d": 3}, "rows": [{"e": 4}, {"e": 5}]})
    assert "a" in golden and list(golden["b"]) == ["c", "d"]
    assert noted == {"x.json/b"}
    assert golden["a"] + golden["b"]["c"] + golden["rows"][1]["e"] == 8
    assert noted == {"x.json/a", "x.json/b", "x.json/b/c", "x.json/rows", "x.json/rows/*/e"}
    assert golden["b"] == {"c": 2, "d": 3}
    assert "x.json/b/d" in noted


def test_every_golden_number_is_compared(request, golden_tests_left_out):
    if golden_tests_left_out:
        pytest.skip(f"tests that compare were left out: {', '.join(golden_tests_left_out)}")
    if request.session.testsfailed:
        pytest.skip("a test that failed may not have come to all of its comparisons")
    open_entries = [entry for entry in golden_entries() if entry not in helpers.TAKEN]
    for pattern in DESCRIPTIVE:
        assert any(fnmatch(entry, pattern) for entry in open_entries), pattern
    missed = [x for x in open_entries if not any(fnmatch(x, pattern) for pattern in DESCRIPTIVE)]
    assert not missed, f"{len(missed)} golden entries that no test compares: {missed[:20]}"
