"""What a U-Net changes in a Mask R-CNN's nuclei, by hand and by what must always hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mrcnn.instances import Instances
from mrcnn_nuclei.joint import join

SHAPE = (20, 40)


def squares(*boxes, scores=None):
    """Instances that fill their boxes (y1, x1, y2, x2)."""
    masks = [np.ones((y2 - y1, x2 - x1), bool) for y1, x1, y2, x2 in boxes]
    scores = np.ones(len(boxes)) if scores is None else scores
    return Instances(SHAPE, boxes, scores, [1] * len(boxes), masks)


NONE = squares()


def test_pixels_that_the_unet_rules_out_are_cut_off():
    foreground = np.full(SHAPE, 0.26)
    foreground[:, 8:] = 0.25
    joined = join(squares((2, 2, 12, 12), scores=[0.7]), foreground, NONE)
    assert joined.boxes.tolist() == [[2, 2, 12, 8]]
    assert joined.scores.tolist() == pytest.approx([0.7])


def test_nuclei_that_are_ruled_out_are_gone():
    foreground = np.ones(SHAPE)
    foreground[:, :12] = 0
    found = squares((2, 2, 12, 12), (2, 20, 12, 30), scores=[0.9, 0.4])
    joined = join(found, foreground, NONE)
    assert joined.boxes.tolist() == [[2, 20, 12, 30]]
    assert joined.scores.tolist() == pytest.approx([0.4])
    foreground[2:12, 11] = 1  # ten pixels are left
    assert len(join(found, foreground, NONE, min_area=10)) == 2
    assert len(join(found, foreground, NONE, min_area=11)) == 1


def test_what_two_claim_goes_to_the_better():
    found = squares((0, 0, 10, 10), (0, 5, 10, 15), scores=[0.6, 0.8])
    joined = join(found, np.ones(SHAPE), NONE)
    assert joined.boxes.tolist() == [[0, 0, 10, 5], [0, 5, 10, 15]]
    assert joined.scores.tolist() == pytest.approx([0.6, 0.8])


@pytest.mark.parametrize(
    ("box", "score", "added"),
    [
        ((2, 20, 12, 30), 0.5, True),
        ((2, 20, 12, 30), 0.49, False),
        ((2, 8, 12, 18), 0.9, True),  # 40 of 100 pixels are claimed
        ((2, 7, 12, 17), 0.9, False),  # 50
    ],
)
def test_nuclei_that_only_the_unet_shows(box, score, added):
    found = squares((2, 2, 12, 12), scores=[0.3])
    joined = join(found, np.ones(SHAPE), squares(box, scores=[score]))
    assert len(joined) == 1 + added
    assert joined.boxes[0].tolist() == [2, 2, 12, 12]
    if added:  # it has what the other leaves
        assert joined.boxes[1].tolist() == [2, max(box[1], 12), 12, box[3]]
        assert joined.scores[1] == pytest.approx(score)


def test_nothing_joins_nothing():
    assert len(join(NONE, np.zeros(SHAPE), NONE)) == 0
    assert join(NONE, np.ones(SHAPE), squares((2, 2, 6, 6))).boxes.tolist() == [[2, 2, 6, 6]]


LABELS = arrays.arrays(np.int32, (8, 9), elements=st.integers(0, 5))
MAPS = arrays.arrays(np.float32, (8, 9), elements=st.sampled_from(np.float32([0, 0.2, 0.3, 1])))


@settings(deadline=None, max_examples=100)
@given(LABELS, MAPS, LABELS, st.integers(0, 4), st.randoms(use_true_random=False))
def test_invariants(claimed, foreground, drawn, min_area, random):
    found, others = (Instances.from_label_map(each) for each in (claimed, drawn))
    scores = [random.random() for _ in range(len(others))]
    others = Instances.from_label_map(drawn, scores)
    joined = join(found, foreground, others, min_area)
    dense = joined.to_dense()
    assert dense.sum(axis=-1).max(initial=0) <= 1
    assert (joined.areas >= max(min_area, 1)).all()
    covered = dense.any(axis=-1)
    assert not (covered & (claimed == 0) & (drawn == 0)).any()
    assert not (covered & (foreground <= 0.25) & (drawn == 0)).any()
    if min_area <= 1:
        assert covered[(claimed > 0) & (foreground > 0.25)].all()
    # Without a U-Net's nuclei and with a map that rules nothing out, all stays as it was.
    same = join(found, np.ones(claimed.shape), Instances.empty(claimed.shape))
    np.testing.assert_array_equal(same.to_label_map(), found.to_label_map())
