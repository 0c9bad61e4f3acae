"""Instances: conversions there and back, moves, comparisons, and what a thousand nuclei cost."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco_mask
from scipy import ndimage
from skimage.draw import polygon2mask
from stacks import dense_masks
from timing import shortest

from mrcnn.errors import InputError
from mrcnn.instances import Instances, column_runs
from mrcnn.opencv import cv2
from mrcnn.overlaps import mask_iou

LABELS = np.array(
    [
        [0, 5, 5, 0, 0],
        [2, 5, 0, 0, 9],
        [2, 2, 0, 9, 9],
        [0, 0, 0, 0, 9],
    ]
)

label_maps = hnp.arrays(
    np.int32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.sampled_from([0, 0, 0, 1, 2, 3, 7]),
)
masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=10))
quick = settings(max_examples=80, deadline=None)


def nuclei_grid(rng, count=1024, side=1000):
    """About `count` discs of radius 8 to 14 on a grid, painted into a label map."""
    labels = np.zeros((side, side), np.int32)
    pitch = int(side / count**0.5)
    y, x = np.mgrid[-14:15, -14:15]
    label = 0
    for top in range(1, side - 30, pitch):
        for left in range(1, side - 30, pitch):
            label += 1
            disc = y**2 + x**2 <= rng.uniform(8, 14) ** 2
            labels[top : top + 29, left : left + 29][disc] = label
    return labels


def test_a_label_map_is_read_in_ascending_order_of_its_labels():
    instances = Instances.from_label_map(LABELS, scores=[0.25, 0.5, 0.75])
    assert instances.shape == (4, 5) and len(instances) == 3
    np.testing.assert_array_equal(instances.boxes, [[1, 0, 3, 2], [0, 1, 2, 3], [1, 3, 4, 5]])
    np.testing.assert_array_equal(instances.masks[0], [[1, 0], [1, 1]])
    np.testing.assert_array_equal(instances.masks[1], [[1, 1], [1, 0]])
    np.testing.assert_array_equal(instances.areas, [3, 3, 4])
    np.testing.assert_array_equal(instances.scores, [0.25, 0.5, 0.75])
    np.testing.assert_array_equal(instances.class_ids, [1, 1, 1])
    dtypes = instances.boxes.dtype, instances.scores.dtype, instances.class_ids.dtype
    assert dtypes == (np.int32, np.float32, np.int32)
    assert Instances.from_label_map(LABELS).scores.tolist() == [1, 1, 1]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.uint32, np.int64])
def test_a_label_map_may_have_any_integer_type(dtype):
    labels = (LABELS > 0).astype(dtype)
    np.testing.assert_array_equal(Instances.from_label_map(labels).to_label_map(), LABELS > 0)


def test_huge_labels_do_not_cost_huge_memory():
    labels = np.zeros((3, 3), np.uint32)
    labels[0, 0], labels[2, 1:] = 4_000_000_000, 77
    np.testing.assert_array_equal(
        Instances.from_label_map(labels).to_label_map(), [[2, 0, 0], [0, 0, 0], [0, 1, 1]]
    )


@pytest.mark.parametrize(
    "labels", [np.zeros((2, 2, 2), int), np.zeros((2, 2)), -np.eye(2, dtype=int)]
)
def test_what_is_no_label_map_is_refused(labels):
    with pytest.raises(InputError, match="label"):
        Instances.from_label_map(labels)


@quick
@given(label_maps)
def test_label_map_there_and_back(labels):
    painted = Instances.from_label_map(labels).to_label_map()
    values, expected = np.unique(labels, return_inverse=True)
    expected = expected.reshape(labels.shape) + (values[0] != 0)
    assert painted.dtype == np.int32
    np.testing.assert_array_equal(painted, expected)


@quick
@given(dense_masks())
def test_dense_there_and_back(dense):
    instances = Instances.from_dense(dense)
    np.testing.assert_array_equal(instances.to_dense(), dense)
    np.testing.assert_array_equal(instances.areas, dense.sum(axis=(0, 1)))


@quick
@given(dense_masks())
def test_coco_there_and_back(dense):
    instances = Instances.from_dense(dense, scores=np.linspace(0.5, 1, dense.shape[2]))
    results = instances.to_coco(image_id=7)
    for k, result in enumerate(results):
        np.testing.assert_array_equal(coco_mask.decode(result["segmentation"]), dense[..., k])
        assert result["area"] == dense[..., k].sum() and result["image_id"] == 7
    again = Instances.from_coco(results, instances.shape)
    np.testing.assert_array_equal(again.to_dense(), dense)
    np.testing.assert_array_equal(again.scores, instances.scores)


@quick
@given(masks)
def test_coco_from_other_encoders(mask):
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    starts, ends = column_runs(mask, (0, 0, *mask.shape), mask.shape[0])
    counts = np.diff(np.stack([starts, ends], 1).ravel(), prepend=0, append=mask.size).tolist()
    plain = {"size": list(mask.shape), "counts": counts}
    read = Instances.from_coco([{"segmentation": rle}, {"segmentation": plain}], mask.shape)
    for k in range(2):
        np.testing.assert_array_equal(read.to_dense()[..., k], mask)


def test_coco_fields_by_hand():
    instances = Instances.from_label_map(LABELS)[1]
    (result,) = instances.to_coco(image_id="a")
    # Column-major: 0 in column 0; rows 0 and 1 of column 1; row 0 of column 2.
    plain = {"size": [4, 5], "counts": [4, 2, 2, 1, 11]}
    assert result == {
        "image_id": "a",
        "category_id": 1,
        "segmentation": {
            "size": [4, 5],
            "counts": coco_mask.frPyObjects(plain, 4, 5)["counts"].decode(),
        },
        "bbox": [1, 0, 2, 2],
        "area": 3,
        "score": 1.0,
    }


def test_coco_polygons_and_runs_across_columns():
    square = {"segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]], "category_id": 2}
    whole = {"segmentation": {"size": [4, 6], "counts": [0, 24]}, "score": 0.5}
    nothing = {"segmentation": [[1, 1, 2, 2]]}
    read = Instances.from_coco([square, whole, nothing], (4, 6))
    np.testing.assert_array_equal(read.boxes, [[1, 1, 3, 4], [0, 0, 4, 6], [0, 0, 0, 0]])
    np.testing.assert_array_equal(read.areas, [6, 24, 0])
    np.testing.assert_array_equal(read.class_ids, [2, 1, 1])
    np.testing.assert_array_equal(read.scores, [1, 0.5, 1])


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        {"size": [5, 4], "counts": [0, 20]},
        {"size": [4, 5], "counts": [0, 21]},
        {"size": [4, 5], "counts": "PPPP"},
        {"size": [4, 5], "counts": ""},
    ],
)
def test_coco_masks_that_do_not_fit_are_refused(segmentation):
    with pytest.raises(InputError, match="COCO"):
        Instances.from_coco([{"segmentation": segmentation}], (4, 5))


def test_the_best_score_wins_a_contested_pixel_and_the_lower_index_a_tie():
    dense = np.ones((1, 3, 3), bool)
    dense[0, 0, 1] = dense[0, 2, 0] = False
    assert Instances.from_dense(dense, [0.9, 0.5, 0.1]).to_label_map().tolist() == [[1, 1, 2]]
    assert Instances.from_dense(dense, [0.5, 0.9, 0.1]).to_label_map().tolist() == [[1, 2, 2]]
    assert Instances.from_dense(dense, [0.5, 0.5, 0.5]).to_label_map().tolist() == [[1, 1, 2]]


def test_selection():
    instances = Instances.from_label_map(LABELS, scores=[0.25, 0.5, 0.75])
    assert instances[1].scores.tolist() == [0.5]
    assert instances[-1].areas.tolist() == [4]
    assert instances[1:].scores.tolist() == [0.5, 0.75]
    assert instances[[2, 0]].scores.tolist() == [0.75, 0.25]
    assert instances[instances.scores > 0.3].areas.tolist() == [3, 4]
    assert len(instances[np.zeros(3, bool)]) == len(instances[[]]) == 0
    assert [one.scores.item() for one in instances] == [0.25, 0.5, 0.75]
    with pytest.raises(IndexError):
        instances[3]


def test_concatenation_keeps_order_and_refuses_other_sizes():
    a, b = Instances.from_label_map(LABELS)[:1], Instances.from_label_map(LABELS)[1:]
    joined = Instances.concatenate([a, Instances.empty((4, 5)), b])
    np.testing.assert_array_equal(joined.to_dense(), Instances.from_label_map(LABELS).to_dense())
    for wrong in ([], [a, Instances.empty((4, 4))]):
        with pytest.raises(InputError, match="one image size"):
            Instances.concatenate(wrong)


def test_no_instances_pass_through_everything():
    empty = Instances.empty((3, 4))
    assert len(empty) == 0 and empty.boxes.shape == (0, 4)
    assert empty.to_label_map().shape == (3, 4) and empty.to_dense().shape == (3, 4, 0)
    assert empty.to_coco(image_id=0) == empty.to_polygons() == []
    assert len(Instances.from_coco([], (3, 4))) == len(empty.translate(1, 1, (9, 9))) == 0
    assert len(empty.areas) == len(mask_iou(empty, empty)[2]) == 0


def test_translation_clips_and_drops():
    moved = Instances.from_label_map(LABELS).translate(-1, -1, (2, 3))
    # Rows 1 to 2 and columns 1 to 3 of LABELS: what is left of 2, 5 and 9.
    np.testing.assert_array_equal(
        moved.to_dense().transpose(2, 0, 1),
        [[[0, 0, 0], [1, 0, 0]], [[1, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, 1]]],
    )
    assert len(Instances.from_label_map(LABELS).translate(2, 0, (3, 2))) == 1
    assert len(Instances.from_label_map(LABELS).translate(100, 0, (50, 50))) == 0


@quick
@given(dense_masks(), st.integers(-12, 12), st.integers(-12, 12))
def test_translation_equals_moving_the_dense_masks(dense, dy, dx):
    height, width, _ = dense.shape
    canvas = np.zeros((40, 40, dense.shape[2]), bool)
    canvas[14 + dy : 14 + dy + height, 14 + dx : 14 + dx + width] = dense
    window = canvas[14:24, 14:22]
    moved = Instances.from_dense(dense).translate(dy, dx, (10, 8))
    np.testing.assert_array_equal(moved.to_dense(), window[..., window.any(axis=(0, 1))])


@quick
@given(dense_masks(), st.integers(0, 30), st.integers(0, 30))
def test_translation_there_and_back(dense, dy, dx):
    dense = dense[..., dense.any(axis=(0, 1))]
    there = Instances.from_dense(dense).translate(dy, dx, (40, 40))
    np.testing.assert_array_equal(there.translate(-dy, -dx, dense.shape[:2]).to_dense(), dense)


def test_one_pixel_is_a_closed_square():
    ((ring,),) = Instances((5, 5), [[2, 3, 3, 4]], [1], [1], [np.ones((1, 1))]).to_polygons()
    assert len(ring) == 5 and ring[0].tolist() == ring[-1].tolist()
    assert {tuple(point) for point in ring} == {(3, 2), (4, 2), (4, 3), (3, 3)}


def test_an_l_keeps_its_inner_corner_and_diagonal_parts_are_apart():
    mask = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]], bool)
    (rings,) = Instances.from_dense(mask[..., None]).to_polygons()
    points = sorted({tuple(point) for point in ring} for ring in rings)
    corners = {(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (0, 2)}
    assert len(points) == 2
    assert corners in points and {(2, 2), (3, 2), (3, 3), (2, 3)} in points


@quick
@given(masks)
def test_rings_rasterise_to_the_mask_with_holes_filled(mask):
    rings = Instances.from_dense(mask[..., None]).to_polygons()[0]
    filled = np.zeros(mask.shape, bool)
    area = 0
    for ring in rings:
        assert len(ring) >= 5 and (ring[0] == ring[-1]).all()
        assert len(np.unique(ring[:-1], axis=0)) == len(ring) - 1
        assert ((np.diff(ring, axis=0) != 0).sum(axis=1) == 1).all()
        part = polygon2mask(mask.shape, ring[:, ::-1] - 0.5)
        x, y = ring.T
        assert abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) / 2 == part.sum()
        area += part.sum()
        filled |= part
    assert (filled >= mask).all()
    # What is filled beyond the mask cannot be reached from outside.
    expected = ndimage.binary_fill_holes(mask, structure=np.ones((3, 3)))
    assert (filled >= expected).all()
    assert (filled <= ndimage.binary_fill_holes(mask)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (4, 5, 3)}, "shape must be"),
        ({"boxes": [[0, 0, 1]]}, "boxes must be"),
        ({"scores": [1, 1]}, "as many scores"),
        ({"class_ids": []}, "as many scores"),
        ({"boxes": [[-1, 0, 1, 1]]}, "box 0 .* does not lie"),
        ({"boxes": [[3, 4, 5, 5]]}, "box 0 .* does not lie"),
        ({"boxes": [[2, 2, 1, 3]]}, "box 0 .* does not lie"),
        ({"boxes": [[0, 0, 2, 2]]}, "mask 0 is"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    fields = {
        "shape": (4, 5),
        "boxes": [[1, 2, 3, 3]],
        "scores": [1],
        "class_ids": [1],
        "masks": [np.ones((2, 1))],
    }
    assert len(Instances(**fields)) == 1
    with pytest.raises(InputError, match=message) as caught:
        Instances(**{**fields, **changes})
    assert "\n" not in str(caught.value)


def test_a_thousand_instances_cost_megabytes_and_milliseconds():
    labels = nuclei_grid(np.random.default_rng(0))

    def use():
        instances = Instances.from_label_map(labels)
        instances.to_label_map()
        mask_iou(instances, instances.translate(3, 3, instances.shape))
        return instances

    tracemalloc.start()
    seconds, instances = shortest(use, limit=2)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(instances) > 950
    # Tracing slows Python several times; the work itself takes some 50 ms.
    assert seconds < 2 and peak < 20e6


def test_real_nuclei_survive_every_round_trip(monuseg):
    labels = cv2.imread(str(monuseg / "labels" / "TCGA-HE-7130-01Z-00-DX1.png"), -1)
    instances = Instances.from_label_map(labels)
    assert len(instances) == 1862
    painted = instances.to_label_map()
    np.testing.assert_array_equal(painted > 0, labels > 0)
    again = Instances.from_coco(instances.to_coco(image_id=1), instances.shape)
    np.testing.assert_array_equal(again.boxes, instances.boxes)
    np.testing.assert_array_equal(again.to_label_map(), painted)
    rows, cols, iou = mask_iou(instances, again)
    np.testing.assert_array_equal(rows, cols)
    assert len(rows) == 1862 and (iou == 1).all()
