"""Mask-NMS: each rule by hand, all together against a plain computation, and what it costs."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timing import shortest

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn.overlaps import mask_iou
from mrcnn_nuclei.datasets.synthetic import draw_tile
from mrcnn_nuclei.mask_nms import check_options, mask_nms
from mrcnn_nuclei.metrics import evaluate_pair
from mrcnn_nuclei.noise import noisy_copy

quick = settings(max_examples=100, deadline=None)


def row(*runs, class_ids=None):
    """Instances in one row of pixels, from (first, end, score)."""
    boxes = [(0, first, 1, end) for first, end, _ in runs]
    masks = [np.ones((1, end - first), bool) for first, end, _ in runs]
    scores = [score for _, _, score in runs]
    return Instances((1, 30), boxes, scores, class_ids or [1] * len(runs), masks)


def runs(instances):
    """What `row` made, in order; every instance must be one run."""
    assert all(mask.all() for mask in instances.masks)
    return [
        (first, end, round(score, 6))
        for (_, first, _, end), score in zip(instances.boxes.tolist(), instances.scores.tolist())
    ]


def content(instances):
    """All there is to know of each instance, as comparable values."""
    return [
        (tuple(box), score, class_id, mask.tobytes())
        for box, score, class_id, mask in zip(
            instances.boxes.tolist(), instances.scores, instances.class_ids, instances.masks
        )
    ]


THREE = [row((0, 10, 0.9)), row((2, 12, 0.6)), row((1, 9, 0.3))]


def test_the_union_and_the_mean_score():
    assert runs(mask_nms(THREE)) == [(0, 12, 0.6)]


def test_a_pixel_needs_half_of_the_members():
    assert runs(mask_nms(THREE, fuse="vote")) == [(1, 10, 0.6)]
    assert runs(mask_nms(THREE[:2], fuse="vote")) == [(0, 12, 0.75)]
    # A prediction without a part in it counts for the score, not for the pixels.
    assert runs(mask_nms([*THREE, row()], fuse="vote")) == [(1, 10, 0.45)]
    four = [*THREE, row((4, 13, 0.2))]
    assert runs(mask_nms(four, fuse="vote")) == [(1, 12, 0.5)]


def test_members_without_a_common_pixel_leave_nothing_to_a_vote():
    parts = [row((first, first + 3, 0.5)) for first in (0, 3, 6, 9)]
    whole = row((0, 12, 0.9))
    assert runs(mask_nms([whole, *parts], iou_threshold=0.2)) == [(0, 12, 0.58)]
    assert len(mask_nms([whole, *parts], iou_threshold=0.2, fuse="vote")) == 0


def test_a_member_overlaps_the_best_itself_not_what_it_has_grown_to():
    # The third has IoU 4/16 with the best, and 8/16 with the union of the first two.
    predictions = [row((0, 10, 0.9)), row((4, 14, 0.6)), row((6, 16, 0.3))]
    fused = mask_nms(predictions, min_votes=1)
    assert runs(fused) == [(0, 14, 0.5), (6, 16, 0.1)]
    assert runs(mask_nms(predictions)) == [(0, 14, 0.5)]


def test_the_best_decides_who_belongs_together():
    # Left and middle overlap, and so do middle and right, but not left and right.
    def fused(left, middle, right):
        predictions = [row((0, 10, left)), row((4, 14, middle)), row((8, 18, right))]
        return [run[:2] for run in runs(mask_nms(predictions, min_votes=1))]

    assert fused(0.5, 0.9, 0.5) == [(0, 18)]
    assert fused(0.9, 0.5, 0.4) == [(0, 14), (8, 18)]
    assert fused(0.4, 0.5, 0.9) == [(4, 18), (0, 10)]


def test_each_other_prediction_gives_the_instance_that_overlaps_most():
    # 8/10 and 9/10; what was not chosen is removed, although it would have been enough.
    predictions = [row((0, 10, 0.9)), row((0, 8, 0.7), (0, 9, 0.5))]
    assert runs(mask_nms(predictions, min_votes=1)) == [(0, 10, 0.7)]


def test_the_best_ones_own_prediction_has_one_vote():
    predictions = [row((0, 10, 0.9), (1, 10, 0.8)), row(), row((20, 30, 0.7))]
    assert runs(mask_nms(predictions, min_votes=1)) == [(0, 10, 0.3), (20, 30, 0.233333)]
    assert len(mask_nms(predictions)) == 0


def test_neighbours_that_overlap_little_stay():
    one = row((0, 10, 0.9), (8, 18, 0.8))
    other = row((0, 10, 0.5), (8, 18, 0.4))
    assert runs(mask_nms([one, other])) == [(0, 10, 0.7), (8, 18, 0.6)]


def test_the_threshold_itself_is_not_above_it():
    predictions = [row((0, 10, 0.9)), row((0, 5, 0.8))]
    assert len(mask_nms(predictions, iou_threshold=0.5, min_votes=2)) == 0
    assert len(mask_nms(predictions, iou_threshold=0.49, min_votes=2)) == 1
    touching = [row((0, 10, 0.9)), row((10, 20, 0.8))]
    assert len(mask_nms(touching, iou_threshold=0, min_votes=1)) == 2


@pytest.mark.parametrize(("count", "votes"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_half_of_the_predictions_must_agree(count, votes):
    def fused(agreeing):
        found = [row((0, 10, 0.5))] * agreeing
        return mask_nms(found + [row()] * (count - agreeing))

    assert len(fused(votes)) == 1
    assert votes == 1 or len(fused(votes - 1)) == 0


def test_what_takes_part_in_a_dropped_object_is_gone():
    # The first leads 0.9 and takes the second with it, although that one would have found two more.
    predictions = [row((0, 10, 0.9)), row((3, 13, 0.5)), row((6, 16, 0.4)), row((6, 16, 0.4))]
    assert runs(mask_nms(predictions, min_votes=3)) == []
    assert runs(mask_nms(predictions[1:], min_votes=3)) == [(3, 16, 0.433333)]


def test_classes_do_not_meet():
    one, other = row((0, 10, 0.9), class_ids=[1]), row((0, 10, 0.5), class_ids=[2])
    fused = mask_nms([one, other])
    assert runs(fused) == [(0, 10, 0.45), (0, 10, 0.25)]
    assert fused.class_ids.tolist() == [1, 2]
    assert len(mask_nms([one, other], min_votes=2)) == 0


def test_among_equal_scores_the_one_that_others_confirm_goes_first():
    apart = np.repeat([1, 2], 10)[None]
    merged = np.ones_like(apart)
    for predictions in ([apart, apart, merged], [merged, apart, apart], [apart, merged, apart]):
        assert runs(mask_nms(predictions, fuse="vote")) == [(0, 10, 1), (10, 20, 0.666667)]


def test_soft_nms_lowers_scores():
    # 0.8 becomes 0.8 * (1 - 0.8); what joins the best keeps its score.
    predictions = [row((0, 10, 0.9), (2, 10, 0.8)), row((0, 10, 0.6))]
    assert runs(mask_nms(predictions)) == [(0, 10, 0.75)]
    assert runs(mask_nms(predictions, method="soft")) == [(0, 10, 0.75), (2, 10, 0.08)]
    twice = [row((0, 10, 0.9), (0, 10, 0.8))]
    assert runs(mask_nms(twice, method="soft")) == [(0, 10, 0.9)]


def test_a_lowered_score_loses_its_turn():
    # (3, 13) falls to 0.8 * (1 - 7/13) = 0.37, so that (5, 15) leads, and gets (8, 18) too.
    predictions = [row((0, 10, 0.9), (3, 13, 0.8)), row((5, 15, 0.5)), row((8, 18, 0.4))]
    fused = runs(mask_nms(predictions, method="soft", min_votes=1))
    assert fused == [(3, 18, round((0.8 * 6 / 13 + 0.9) / 3, 6)), (0, 10, 0.3)]


def test_nothing_to_fuse():
    empty = Instances.empty((1, 30))
    for predictions in ([empty], [empty, empty, empty]):
        fused = mask_nms(predictions)
        assert len(fused) == 0 and fused.shape == (1, 30)
    assert runs(mask_nms([empty, THREE[0], THREE[1]])) == [(0, 12, 0.5)]
    without_pixels = Instances((1, 30), [[0, 3, 1, 5]], [1], [1], [np.zeros((1, 2), bool)])
    assert len(mask_nms([without_pixels, without_pixels])) == 0


@pytest.mark.parametrize(
    ("predictions", "options", "words"),
    [
        ([], {}, "no predictions"),
        ([row(), Instances.empty((1, 31))], {}, "one image size"),
        ([np.zeros((2, 2))], {}, "label map"),
        ([row((0, 3, np.nan))], {}, "scores"),
        ([row((0, 3, -1))], {}, "scores"),
        ([row()], {"iou_threshold": 1.1}, "iou_threshold is 1.1"),
        ([row()], {"iou_threshold": np.nan}, "iou_threshold is nan"),
        ([row()], {"min_votes": 0}, "min_votes is 0"),
        ([row(), row()], {"min_votes": 3}, "2 predictions can give from 1 to 2 votes"),
        ([row()], {"fuse": "mean"}, "choose union or vote"),
        ([row()], {"method": "hard"}, "choose greedy or soft"),
    ],
)
def test_what_cannot_be_fused(predictions, options, words):
    with pytest.raises(InputError, match=words):
        mask_nms(predictions, **options)


@st.composite
def predictions(draw, most=4, class_ids=(1, 2)):
    """Up to `most` predictions of a 7 x 7 image; scores and shapes that often coincide."""
    one = st.tuples(
        st.integers(0, 4),
        st.integers(0, 4),
        st.sampled_from([0b111111111, 0b011011000, 0b010111010, 0b111110100, 0]),
        st.sampled_from([0.25, 0.3, 0.9, 1]),
        st.sampled_from(class_ids),
    )
    found = draw(st.lists(st.lists(one, max_size=6), min_size=1, max_size=most))
    return [
        Instances(
            (7, 7),
            [(y, x, y + 3, x + 3) for y, x, *_ in each],
            [score for *_, score, _ in each],
            [class_id for *_, class_id in each],
            [np.array([bits >> k & 1 for k in range(9)]).reshape(3, 3) for _, _, bits, *_ in each],
        )
        for each in found
    ]


def plainly(predictions, threshold, min_votes, fuse):
    """Mask-NMS as the documentation tells it, on dense masks; the result of `mask_nms` dense."""
    waiting = []
    for source, instances in enumerate(predictions):
        dense = instances.to_dense()
        for k in range(len(instances)):
            one = (source, dense[..., k], float(instances.scores[k]), instances.class_ids[k])
            if one[1].any():
                waiting.append((*one, instances.boxes[k].tolist()))

    def iou(one, other):
        same = one[3] == other[3]
        return same * (one[1] & other[1]).sum() / (one[1] | other[1]).sum()

    def agreement(one):
        greatest = {}
        for other in everything:
            if other[0] != one[0]:
                greatest[other[0]] = max(greatest.get(other[0], 0), iou(one, other))
        return sum(sorted(greatest.values()))

    everything = list(waiting)
    waiting.sort(key=lambda one: (-one[2], -agreement(one), one[4], one[3], one[1].tobytes()))
    fused = []
    while waiting:
        best = waiting[0]
        near = [one for one in waiting[1:] if iou(best, one) > threshold]
        members = [best]
        for source in range(len(predictions)):
            candidates = [one for one in near if one[0] == source != best[0]]
            if candidates:
                members.append(max(candidates, key=lambda one: iou(best, one)))
        gone = [best, *near]
        waiting = [one for one in waiting if all(one is not other for other in gone)]
        votes = np.sum([member[1] for member in members], axis=0)
        pixels = votes > 0 if fuse == "union" else votes * 2 >= len(members)
        if len(members) >= min_votes and pixels.any():
            score = sum(member[2] for member in members) / len(predictions)
            fused.append((pixels, score, best[3]))
    return fused


@quick
@given(predictions(), st.sampled_from([0, 0.2, 0.4, 0.5, 0.8]), st.sampled_from(["union", "vote"]))
def test_it_equals_the_plain_computation(predictions, threshold, fuse):
    for min_votes in {1, check_options(len(predictions), threshold, None, fuse, "greedy")}:
        fused = mask_nms(predictions, iou_threshold=threshold, min_votes=min_votes, fuse=fuse)
        expected = plainly(predictions, threshold, min_votes, fuse)
        assert (np.diff(fused.scores) <= 0).all()
        found = [
            (fused.to_dense()[..., k].tobytes(), round(float(fused.scores[k]), 5))
            for k in range(len(fused))
        ]
        assert sorted(found) == sorted((p.tobytes(), round(score, 5)) for p, score, _ in expected)
        assert sorted(fused.class_ids) == sorted(class_id for *_, class_id in expected)


@quick
@given(
    predictions(),
    st.randoms(use_true_random=False),
    st.sampled_from(["union", "vote"]),
    st.sampled_from(["greedy", "soft"]),
)
def test_the_order_of_predictions_and_of_instances_changes_nothing(given, random, fuse, method):
    mixed = [each[random.sample(range(len(each)), len(each))] for each in given]
    random.shuffle(mixed)
    options = {"iou_threshold": 0.2, "fuse": fuse, "method": method}
    assert content(mask_nms(given, **options)) == content(mask_nms(mixed, **options))


@quick
@given(predictions(most=1), st.sampled_from([0.1, 0.4, 0.7]), st.sampled_from(["greedy", "soft"]))
def test_one_prediction_alone_or_repeated_stays_what_it_is(given, threshold, method):
    (instances,) = given
    instances = instances[instances.areas > 0]
    kept = []
    for k in range(len(instances)):
        if not kept or not (mask_iou(instances[[k]], instances[kept])[2] > threshold).any():
            kept.append(k)
    instances = instances[kept]
    for count in (1, 2, 3):
        fused = mask_nms([instances] * count, iou_threshold=threshold, method=method)
        assert sorted(content(fused)) == sorted(content(instances))


@pytest.fixture(scope="module")
def tile():
    return Instances.from_label_map(draw_tile(1000, np.random.default_rng(0), nuclei=1000)[1])


@pytest.mark.parametrize("fuse", ["union", "vote"])
@pytest.mark.parametrize("seed", range(5))
def test_five_noisy_copies_make_one_better_than_the_best(seed, fuse):
    rng = np.random.default_rng(seed)
    truth = Instances.from_label_map(draw_tile(320, rng)[1])
    copies = [noisy_copy(truth, rng) for _ in range(5)]
    best = max(evaluate_pair(truth, copy)["AJI"] for copy in copies)
    fused = evaluate_pair(truth, mask_nms(copies, fuse=fuse))["AJI"]
    assert fused - best > 0.03


def test_five_thousand_nuclei_cost_less_than_a_second_and_300_megabytes(tile):
    rng = np.random.default_rng(0)
    copies = [noisy_copy(tile, rng) for _ in range(5)]
    assert sum(map(len, copies)) > 4500
    seconds, fused = shortest(mask_nms, copies, limit=1)
    tracemalloc.start()
    mask_nms(copies)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 800 < len(fused) < 1100
    assert seconds < 1 and peak < 100e6  # 0.3 s and 40 MB on one idle core
