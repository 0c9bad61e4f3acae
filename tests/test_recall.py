"""Nuclei are counted in the group of their size and shape."""

import numpy as np
import pytest
from skimage.draw import disk, ellipse

from mrcnn_nuclei.metrics import find_overlaps
from mrcnn_nuclei.recall import GROUPS, Recall


def draw_tissue():
    """A small, a middling and a large disk, and a long ellipse, with gaps in the numbers."""
    labels = np.zeros((100, 160), np.int32)
    for label, centre, radius in ((2, (20, 20), 4), (3, (20, 60), 9), (7, (50, 120), 25)):
        labels[disk(centre, radius)] = label
    labels[ellipse(80, 40, 5, 20)] = 9  # as large as a disk of radius 10; eccentricity 0.97
    return labels


def count(truth, prediction):
    recall = Recall()
    recall.add(truth, find_overlaps(truth, prediction))
    return recall.counts


@pytest.mark.parametrize(
    ("label", "groups"),
    [
        (2, {"radius < 6"}),
        (3, {"radius 6-12"}),
        (7, {"radius > 12"}),
        (9, {"radius 6-12", "eccentricity > 0.9"}),
    ],
)
def test_a_nucleus_counts_in_its_groups(label, groups):
    truth = draw_tissue()
    truth[truth != label] = 0
    everything, nothing = count(truth, truth), count(truth, np.zeros_like(truth))
    for name in GROUPS:
        member = name == "all" or name in groups
        assert everything[name] == (member, member)
        assert nothing[name] == (0, member)


def test_half_of_a_nucleus_does_not_find_it():
    truth = draw_tissue()
    prediction = np.where(truth == 3, 3, 0)
    rows = np.flatnonzero((truth == 7).any(axis=1))
    half = np.arange(len(truth))[:, None] < rows[: len(rows) // 2].max() + 1
    prediction[(truth == 7) & half] = 7
    found, true = count(truth, prediction)["all"]
    assert (found, true) == (1, 4)


def test_images_add_up():
    truth, empty = draw_tissue(), np.zeros((8, 8), np.int32)
    recall = Recall()
    for labels in (truth, truth, empty):
        recall.add(labels, find_overlaps(labels, labels))
    assert recall.counts["all"] == (8, 8)
    assert recall.counts["eccentricity > 0.9"] == (2, 2)
