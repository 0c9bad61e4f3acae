"""Images and ground truth to batches: against Matterport's matched, and at the limits."""

import itertools
import logging
import random

import numpy as np
import pytest
from helpers import golden_arrays
from hypothesis import given, settings
from hypothesis import strategies as st

from mrcnn.anchors import compute_backbone_shapes, generate_pyramid_anchors
from mrcnn.boxes import box_refinement, compute_overlaps
from mrcnn.config import Config
from mrcnn.data import DataGenerator, data_generator, load_image_gt
from mrcnn.dataset import Dataset
from mrcnn.errors import InputError
from mrcnn.image_meta import parse_image_meta
from mrcnn.imgaug_compat import load_imgaug, wrap_imgaug
from mrcnn.random_rois import build_detection_targets, generate_random_rois
from mrcnn.rpn_targets import AnchorRows, build_rpn_targets


def make_config(**settings):
    return type("TestConfig", (Config,), {"NAME": "test", **settings})()


def unpack(packed, shape):
    return np.unpackbits(packed)[: np.prod(shape)].reshape(shape).astype(bool)


class LabelDataset(Dataset):
    """Label maps in memory, of one class, with images that repeat the label in each channel."""

    def __init__(self, *label_maps, class_ids=None):
        super().__init__()
        self.add_class("cells", 1, "nucleus")
        self.label_maps = label_maps
        self.class_ids_of_labels = class_ids
        for index in range(len(label_maps)):
            self.add_image("cells", f"cell-{index}", None)
        self.prepare()

    def load_image(self, image_id):
        return np.repeat(self.label_maps[image_id].astype(np.uint8)[..., np.newaxis], 3, axis=-1)

    def load_labels(self, image_id):
        labels = self.label_maps[image_id]
        if self.class_ids_of_labels is not None:
            return labels, self.class_ids_of_labels
        return labels, np.ones(labels.max(initial=0), np.int32)


class DenseDataset(LabelDataset):
    """The same as full-size masks."""

    load_labels = property()  # hides it from hasattr

    def load_mask(self, image_id):
        labels, class_ids = LabelDataset.load_labels(self, image_id)
        return labels[..., np.newaxis] == np.arange(1, len(class_ids) + 1), class_ids


def blobs(height, width, count, seed=0, radius=5):
    """A label map of discs, later ones on top; some labels may have no pixel left."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.int32)
    y, x = np.ogrid[:height, :width]
    for label in range(1, count + 1):
        cy, cx, r = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(1, radius)
        labels[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = label
    return labels


def squares(side, count, step, size):
    """A label map of `count` separate squares in a grid."""
    labels = np.zeros((side, side), np.int32)
    corners = itertools.product(range(0, side - size + 1, step), repeat=2)
    for label, (y, x) in enumerate(itertools.islice(corners, count), start=1):
        labels[y : y + size, x : x + size] = label
    assert labels.max() == count
    return labels


CROP = dict(IMAGE_RESIZE_MODE="crop", IMAGE_MIN_DIM=128, IMAGE_MAX_DIM=128, NUM_CLASSES=2)
SMALL = dict(CROP, IMAGES_PER_GPU=2, MAX_GT_INSTANCES=60, RPN_ANCHOR_SCALES=(8, 16, 32, 64, 128))


@pytest.fixture(scope="module")
def loaded():
    return golden_arrays("load_image_gt")


@pytest.fixture(scope="module")
def matched():
    return golden_arrays("model_numpy")


@pytest.fixture(scope="module")
def golden_dataset(loaded):
    class GoldenDataset(Dataset):
        def load_image(self, image_id):
            return loaded[f"in_image_{image_id}"]

        def load_mask(self, image_id):
            packed, shape = loaded[f"in_mask_{image_id}"], loaded[f"in_mask_shape_{image_id}"]
            return unpack(packed, shape), loaded[f"in_class_ids_{image_id}"]

    dataset = GoldenDataset()
    dataset.add_class("syn", 1, "one")
    dataset.add_class("syn", 2, "two")
    dataset.add_class("other", 1, "three")
    for index in range(3):
        dataset.add_image("syn", index, None)
    dataset.prepare()
    return dataset


class TestLoadImageGt:
    @pytest.mark.parametrize("index", [0, 1])
    @pytest.mark.parametrize(
        "tag, settings",
        [
            ("square_mini", dict(IMAGE_MIN_DIM=128, IMAGE_MAX_DIM=128)),
            (
                "crop_mini",
                dict(
                    IMAGE_RESIZE_MODE="crop",
                    IMAGE_MIN_DIM=64,
                    IMAGE_MAX_DIM=64,
                    IMAGE_MIN_SCALE=2.0,
                ),
            ),
            (
                "pad64_full",
                dict(
                    IMAGE_RESIZE_MODE="pad64",
                    IMAGE_MIN_DIM=64,
                    IMAGE_MAX_DIM=64,
                    USE_MINI_MASK=False,
                ),
            ),
        ],
    )
    def test_equals_matterports(self, loaded, golden_dataset, tag, settings, index):
        random.seed(5 + index)
        np.random.seed(5 + index)  # noqa: NPY002
        config = make_config(NUM_CLASSES=4, **settings)
        image, meta, class_ids, boxes, masks = load_image_gt(golden_dataset, config, index)
        expected = {
            name: loaded[f"{tag}_{index}_{name}"]
            for name in ("image", "meta", "class_ids", "bbox", "mask", "mask_shape")
        }
        np.testing.assert_array_equal(image, expected["image"])
        np.testing.assert_allclose(meta, expected["meta"])
        np.testing.assert_array_equal(class_ids, expected["class_ids"])
        np.testing.assert_array_equal(boxes, expected["bbox"])
        np.testing.assert_array_equal(masks, unpack(expected["mask"], expected["mask_shape"]))
        assert (image.dtype, class_ids.dtype, boxes.dtype, masks.dtype) == (
            np.uint8,
            np.int32,
            np.int32,
            bool,
        )

    @settings(max_examples=25, deadline=None)
    @given(
        seed=st.integers(0, 1000),
        count=st.integers(0, 40),
        mode=st.sampled_from(["crop", "square", "pad64", "none"]),
        min_scale=st.sampled_from([0, 1.5]),
        mini=st.booleans(),
        augment=st.booleans(),
    )
    def test_label_map_and_dense_masks_give_the_same(
        self, seed, count, mode, min_scale, mini, augment
    ):
        labels = blobs(90, 140, count, seed)
        class_ids = np.where(np.arange(labels.max()) % 5 == 4, -1, 1).astype(np.int32)
        config = make_config(
            NUM_CLASSES=2,
            IMAGE_RESIZE_MODE=mode,
            IMAGE_MIN_DIM=70,
            IMAGE_MAX_DIM=192,
            IMAGE_MIN_SCALE=min_scale,
        )
        results = [
            load_image_gt(
                dataset(labels, class_ids=class_ids),
                config,
                0,
                augment=augment,
                use_mini_mask=mini,
                rng=np.random.default_rng(seed),
            )
            for dataset in (LabelDataset, DenseDataset)
        ]
        for fast, dense in zip(*results):
            assert fast.dtype == dense.dtype
            np.testing.assert_array_equal(fast, dense)

    def test_a_hand_made_label_map(self):
        labels = np.zeros((128, 128), np.int32)
        labels[10:14, 20:30] = 1
        labels[100:, 120:] = 3
        dataset = LabelDataset(labels, class_ids=np.array([1, 1, -1]))
        _, meta, class_ids, boxes, masks = load_image_gt(
            dataset, make_config(**CROP), 0, use_mini_mask=False
        )
        assert class_ids.tolist() == [1, -1]
        assert boxes.tolist() == [[10, 20, 14, 30], [100, 120, 128, 128]]
        assert masks.sum(axis=(0, 1)).tolist() == [40, 28 * 8]
        assert meta.tolist() == [0, 128, 128, 3, 128, 128, 3, 0, 0, 128, 128, 1, 1, 1]

    def test_both_generations_of_positional_arguments(self):
        augmenters = load_imgaug().augmenters
        dataset, config = LabelDataset(blobs(128, 128, 20)), make_config(**CROP)
        plain = load_image_gt(dataset, config, 0)
        mirror = augmenters.Fliplr(1.0)
        of_2020 = load_image_gt(dataset, config, 0, mirror)
        of_2018 = load_image_gt(dataset, config, 0, False, mirror, True)
        np.testing.assert_array_equal(of_2020[0], plain[0][:, ::-1])
        np.testing.assert_array_equal(of_2018[4], of_2020[4])
        assert load_image_gt(dataset, config, 0, False, None, False)[4].shape[:2] == (128, 128)
        assert load_image_gt(dataset, config, 0, None)[4].shape[:2] == (56, 56)
        config = make_config(**dict(CROP, IMAGE_RESIZE_MODE="none"))
        random.seed(1)
        mirrored = [
            bool((load_image_gt(dataset, config, 0, True)[0] == of_2020[0]).all())
            for _ in range(30)
        ]
        random.seed(1)
        assert mirrored == [bool(random.randint(0, 1)) for _ in range(30)]

    @pytest.mark.parametrize("dataset", [LabelDataset, DenseDataset])
    def test_imgaug_moves_image_and_objects_alike(self, dataset):
        augmenters = load_imgaug().augmenters
        labels = blobs(128, 128, 30)
        config = make_config(**CROP)
        flip = augmenters.Sequential(
            [augmenters.Fliplr(1.0), augmenters.Flipud(1.0), augmenters.Multiply(1.1)]
        )
        result = load_image_gt(dataset(labels), config, 0, augmentation=flip, use_mini_mask=False)
        turned = LabelDataset(np.ascontiguousarray(labels[::-1, ::-1]))
        expected = load_image_gt(turned, config, 0, use_mini_mask=False)
        for got, wanted in zip(result[1:], expected[1:]):
            np.testing.assert_array_equal(got, wanted)
        assert (result[0] != expected[0]).any()

    @pytest.mark.parametrize("dataset", [LabelDataset, DenseDataset])
    def test_imgaug_is_seeded_by_the_generator(self, dataset):
        turn = load_imgaug().augmenters.Affine(rotate=(-180, 180))
        example = dataset(squares(128, 16, 30, 8))
        config = make_config(**CROP)
        one, same, other = (
            load_image_gt(example, config, 0, turn, rng=np.random.default_rng(seed))
            for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(one[3], same[3])
        np.testing.assert_array_equal(one[0], same[0])
        assert not np.array_equal(one[0], other[0])

    def test_imgaug_that_resizes_is_refused(self):
        shrink = load_imgaug().augmenters.Resize(0.5)
        for dataset in (LabelDataset, DenseDataset):
            with pytest.raises(InputError, match="keep"):
                load_image_gt(dataset(blobs(128, 128, 5)), make_config(**CROP), 0, shrink)

    @pytest.mark.parametrize("dataset", [LabelDataset, DenseDataset])
    def test_a_callable_sees_the_crop_without_its_padding(self, dataset):
        seen = []

        def mirror(image, labels, rng):
            seen.append((image.shape, labels.shape, labels.dtype, type(rng)))
            return image[:, ::-1], labels[:, ::-1]

        config = make_config(**dict(CROP, IMAGE_MIN_DIM=100))
        example = dataset(np.pad(squares(100, 9, 40, 20), ((0, 0), (0, 0))))
        image, meta, _, boxes, _ = load_image_gt(example, config, 0, augmentation=mirror)
        assert seen == [((100, 100, 3), (100, 100), np.int32, np.random.Generator)]
        assert image.shape == (128, 128, 3)
        assert not image[100:].any() and not image[:, 100:].any()
        assert boxes[:3].tolist() == [[0, 80, 20, 100], [0, 40, 20, 60], [0, 0, 20, 20]]
        assert parse_image_meta(meta[np.newaxis])["window"].tolist() == [[0, 0, 100, 100]]

    def test_a_callable_that_crops_sees_the_whole_image(self):
        def corner(image, labels, rng):
            assert image.shape == (300, 200, 3)
            return image[200:300, 100:200], labels[200:300, 100:200]

        corner.crops = True
        labels = np.zeros((300, 200), np.int32)
        labels[210:220, 110:130] = 1
        config = make_config(**dict(CROP, IMAGE_MIN_DIM=100))
        image, meta, _, boxes, _ = load_image_gt(LabelDataset(labels), config, 0, corner)
        assert boxes.tolist() == [[10, 10, 20, 30]]
        assert image.shape == (128, 128, 3)
        assert parse_image_meta(meta[np.newaxis])["window"].tolist() == [[0, 0, 100, 100]]
        config = make_config(**dict(CROP, IMAGE_MIN_DIM=64))
        with pytest.raises(InputError, match="at most"):
            load_image_gt(LabelDataset(labels), config, 0, corner)

    def test_the_cached_image_stays_as_it_was(self):
        labels = blobs(128, 128, 10)
        picture = np.full((128, 128, 3), 7, np.uint8)
        dataset = LabelDataset(labels)
        dataset.load_image = lambda image_id: picture
        black = lambda image, labels, rng: (image * 0, labels * 0)  # noqa: E731
        load_image_gt(dataset, make_config(**CROP), 0, augmentation=black)
        assert (picture == 7).all() and labels.any()

    def test_arrays_that_do_not_fit_are_refused(self):
        config = make_config(**CROP)
        with pytest.raises(InputError, match="cell-0.*goes up to 9"):
            dataset = LabelDataset(squares(128, 9, 40, 20), class_ids=np.ones(8))
            load_image_gt(dataset, config, 0)
        dataset = LabelDataset(squares(128, 9, 40, 20))
        dataset.load_image = lambda image_id: np.zeros((128, 130, 3), np.uint8)
        with pytest.raises(InputError, match="cell-0.*one size"):
            load_image_gt(dataset, config, 0)
        with pytest.raises(InputError, match="keep the size"):
            shrink = lambda image, labels, rng: (image[1:], labels[1:])  # noqa: E731
            load_image_gt(LabelDataset(blobs(128, 128, 5)), config, 0, shrink)

    def test_a_dataset_without_masks_has_no_objects(self):
        class Empty(DenseDataset):
            def load_mask(self, image_id):
                return np.empty([0, 0, 0]), np.empty([0], np.int32)

        dataset = Empty(np.zeros((128, 128), np.int32))
        _, _, class_ids, boxes, masks = load_image_gt(dataset, make_config(**CROP), 0)
        assert (class_ids.shape, boxes.shape, masks.shape) == ((0,), (0, 4), (56, 56, 0))


class TestRpnTargets:
    @pytest.mark.parametrize("tag", ["sub", "nosub", "crowd_nosub", "tiny"])
    @pytest.mark.parametrize("prepare", [np.asarray, AnchorRows])
    def test_equal_matterports(self, matched, tag, prepare):
        anchors = prepare(matched["anchors"])
        class_ids = matched["gt_class_ids_crowd" if "crowd" in tag else "gt_class_ids"]
        shape = matched[f"rpn_{tag}_bbox_shape"]
        config = make_config(RPN_TRAIN_ANCHORS_PER_IMAGE=int(shape[0]))
        np.random.seed(42)  # noqa: NPY002
        match, bbox = build_rpn_targets(
            (128, 128, 3), anchors, class_ids, matched["gt_boxes"], config
        )
        expected = matched[f"rpn_{tag}_bbox_first_npos"]
        assert match.dtype == np.int32
        np.testing.assert_array_equal(match, matched[f"rpn_{tag}_match"])
        assert bbox.shape == tuple(shape)
        np.testing.assert_allclose(bbox[: len(expected)], expected, rtol=1e-12, atol=1e-12)
        assert not bbox[len(expected) :].any()

    @settings(max_examples=30, deadline=None)
    @given(seed=st.integers(0, 10_000), count=st.integers(1, 60), grid=st.booleans())
    def test_pairs_are_those_of_the_dense_matrix(self, seed, count, grid):
        rng = np.random.default_rng(seed)
        if grid:
            config = make_config(RPN_ANCHOR_SCALES=(8, 16, 32, 64, 128))
            shapes = compute_backbone_shapes(config, (64, 128))
            anchors = generate_pyramid_anchors(
                config.RPN_ANCHOR_SCALES, [0.5, 1, 2], shapes, config.BACKBONE_STRIDES, 1
            )
        else:
            corner, size = rng.integers(-20, 128, (300, 2)), rng.integers(1, 60, (300, 2))
            anchors = np.concatenate([corner, corner + size], axis=1).astype(float)
        corner, size = rng.integers(0, 100, (count, 2)), rng.integers(0, 50, (count, 2))
        boxes = np.concatenate([corner, corner + size], axis=1).astype(float)
        box, anchor, iou = AnchorRows(anchors).overlaps(boxes)
        dense = np.zeros((len(boxes), len(anchors)))
        dense[box, anchor] = iou
        np.testing.assert_array_equal(dense, compute_overlaps(anchors, boxes).T)

    def test_the_best_anchor_of_each_box(self):
        anchors = np.array([[0, 0, 4, 4], [0, 2, 4, 6], [0, 0, 8, 8], [20, 20, 24, 24]])
        boxes = np.array([[0, 0, 4, 8], [0, 1, 4, 5], [30, 30, 31, 31], [0, 0, 8, 7]])
        best, iou = AnchorRows(anchors).best(boxes)
        # Three anchors tie for the first box and two for the second; none overlaps the third.
        assert best.tolist() == [0, 0, 0, 2]
        np.testing.assert_allclose(iou, [1 / 2, 3 / 5, 0, 7 / 8])

    def test_best_anchors_of_many_boxes_are_those_of_the_dense_matrix(self):
        rng = np.random.default_rng(0)
        corners = rng.integers(0, 60, (100, 2))
        boxes = np.concatenate([corners, corners + rng.integers(1, 40, (100, 2))], axis=1)
        anchors = generate_pyramid_anchors([8, 24], [0.5, 1, 2], [[16, 16], [8, 8]], [4, 8], 1)
        best, iou = AnchorRows(anchors).best(boxes)
        dense = compute_overlaps(boxes.astype(float), anchors)
        np.testing.assert_allclose(iou, dense.max(axis=1))
        np.testing.assert_allclose(dense[np.arange(100), best], dense.max(axis=1))

    def test_without_objects_all_anchors_are_background(self):
        anchors = generate_pyramid_anchors([32], [1], [(8, 8)], [16], 1)
        config = make_config(RPN_TRAIN_ANCHORS_PER_IMAGE=10)
        match, bbox = build_rpn_targets(
            (128, 128, 3), anchors, np.zeros(0, int), np.zeros((0, 4), int), config
        )
        assert sorted(match) == [-1] * 10 + [0] * 54
        assert not bbox.any()

    def test_every_box_of_a_dense_image_has_an_anchor_and_crowds_have_none(self):
        config = make_config(
            RPN_ANCHOR_SCALES=(8, 16, 32, 64, 128), RPN_TRAIN_ANCHORS_PER_IMAGE=200_000
        )
        anchors = generate_pyramid_anchors(
            config.RPN_ANCHOR_SCALES,
            config.RPN_ANCHOR_RATIOS,
            compute_backbone_shapes(config, (640, 640)),
            config.BACKBONE_STRIDES,
            1,
        )
        corner = np.stack(np.divmod(np.arange(1000), 32), axis=1) * 20
        boxes = np.concatenate([corner, corner + 13], axis=1)
        class_ids = np.where(np.arange(1000) % 3, 1, -1)
        match, bbox = build_rpn_targets((640, 640, 3), anchors, class_ids, boxes, config)
        overlaps = compute_overlaps(anchors, boxes[class_ids > 0][::37])
        assert (match[(overlaps == overlaps.max(axis=0)).any(axis=1)] == 1).all()
        on_crowd = compute_overlaps(anchors, boxes[class_ids < 0][::37]).max(axis=1) >= 0.001
        assert not (match[on_crowd] == -1).any()
        positive = np.flatnonzero(match == 1)
        wanted = boxes[class_ids > 0]
        nearest = compute_overlaps(anchors[positive], wanted).argmax(axis=1)
        deltas = box_refinement(anchors[positive], wanted[nearest]) / config.RPN_BBOX_STD_DEV
        np.testing.assert_allclose(bbox[: len(positive)], deltas, atol=1e-4)


class TestDataGenerator:
    def test_inputs_are_matterports(self):
        labels = blobs(150, 150, 40)
        config = make_config(**SMALL)
        batches = DataGenerator(LabelDataset(labels, labels, labels), config)
        assert len(batches) == 2
        inputs, outputs = batches[1]
        assert outputs == []
        anchors = sum(3 * side * side for side in (32, 16, 8, 4, 2))
        assert [(array.shape, array.dtype.name) for array in inputs] == [
            ((2, 128, 128, 3), "float32"),
            ((2, 14), "float32"),
            ((2, anchors, 1), "int32"),
            ((2, 256, 4), "float32"),
            ((2, 60), "int32"),
            ((2, 60, 4), "int32"),
            ((2, 56, 56, 60), "bool"),
        ]
        with pytest.raises(IndexError):
            batches[2]

    def test_rows_are_load_image_gt_and_build_rpn_targets(self):
        labels = blobs(150, 150, 40)
        config = make_config(**dict(SMALL, IMAGES_PER_GPU=1))
        (images, meta, match, bbox, class_ids, boxes, masks), _ = DataGenerator(
            LabelDataset(labels), config, seed=3
        )[0]
        rng = np.random.default_rng([3, 0, 0])
        image, image_meta, ids, box, mask = load_image_gt(LabelDataset(labels), config, 0, rng=rng)
        count = len(ids)
        np.testing.assert_array_equal(images[0], (image - config.MEAN_PIXEL).astype(np.float32))
        np.testing.assert_array_equal(meta[0], image_meta)
        np.testing.assert_array_equal(class_ids[0, :count], ids)
        np.testing.assert_array_equal(boxes[0, :count], box)
        np.testing.assert_array_equal(masks[0, ..., :count], mask)
        assert not (class_ids[0, count:].any() or boxes[0, count:].any())
        anchors = generate_pyramid_anchors(
            config.RPN_ANCHOR_SCALES,
            config.RPN_ANCHOR_RATIOS,
            compute_backbone_shapes(config, (128, 128)),
            config.BACKBONE_STRIDES,
            1,
        )
        expected = build_rpn_targets(image.shape, anchors, ids, box, config, rng)
        np.testing.assert_array_equal(match[0, :, 0], expected[0])
        np.testing.assert_allclose(bbox[0], expected[1], rtol=1e-6)

    def test_a_seed_fixes_every_batch_and_nothing_else_does(self):
        labels = [blobs(200, 200, 50, seed) for seed in range(7)]
        dataset, config = LabelDataset(*labels), make_config(**SMALL)
        flip = load_imgaug().augmenters.Fliplr(0.5)
        first = DataGenerator(dataset, config, augmentation=flip, seed=5)
        straight = [first[i] for i in range(len(first))]
        first.on_epoch_end()
        assert first.epoch == 1
        later = first[2]

        resumed = DataGenerator(dataset, config, augmentation=flip, seed=5)
        resumed.set_epoch(1)
        for ours, theirs in zip(resumed[2][0], later[0]):
            np.testing.assert_array_equal(ours, theirs)
        resumed.epoch = 0
        for index in (3, 0):
            for ours, theirs in zip(resumed[index][0], straight[index][0]):
                np.testing.assert_array_equal(ours, theirs)
        pictures = [batch[0][0] for batch in (*straight, later)]
        assert not any(np.array_equal(a, b) for a, b in itertools.combinations(pictures, 2))
        other = DataGenerator(dataset, config, augmentation=flip, seed=6)
        assert not np.array_equal(other[0][0][0], pictures[0])

    def test_an_epoch_shows_each_image_once_and_wraps_around(self):
        labels = [np.zeros((128, 128), np.int32)] * 5
        config = make_config(**SMALL)

        def ids(batches):
            return [int(i) for inputs, _ in batches for i in inputs[1][:, 0]]

        assert ids(DataGenerator(LabelDataset(*labels), config, shuffle=False)) == [
            0,
            1,
            2,
            3,
            4,
            0,
        ]
        batches = DataGenerator(LabelDataset(*labels), config, seed=0, steps=5)
        order = ids(batches)
        assert len(batches) == 5 and len(order) == 10
        assert sorted(order[:5]) == sorted(order[5:]) == [0, 1, 2, 3, 4]
        batches.on_epoch_end()
        assert ids(batches) != order

    def test_global_streams_without_a_seed(self):
        dataset, config = (
            LabelDataset(*[blobs(200, 200, 50, i) for i in range(4)]),
            make_config(**SMALL),
        )
        results = []
        for _ in range(2):
            random.seed(8)
            np.random.seed(8)  # noqa: NPY002
            results.append(DataGenerator(dataset, config)[0][0])
        for one, same in zip(*results):
            np.testing.assert_array_equal(one, same)

    def test_crops_without_a_nucleus_and_with_one_pixel(self):
        empty, pixel = np.zeros((2, 128, 128), np.int32)
        pixel[64, 127] = 1
        batches = DataGenerator(LabelDataset(empty, pixel), make_config(**SMALL), shuffle=False)
        _, _, match, _, class_ids, boxes, masks = batches[0][0]
        assert class_ids.sum(axis=1).tolist() == [0, 1]
        assert not boxes[0].any() and boxes[1, 0].tolist() == [64, 127, 65, 128]
        # Interpolation with a border of zeros leaves a disc of the one pixel.
        assert masks[1, 28, 28, 0] and not masks[..., 1:].any()
        assert not (match[0] == 1).any() and (match[0] == -1).sum() == 256
        assert (match[1] == 1).any()

    def test_1862_nuclei(self, caplog):
        labels = squares(512, 1862, 11, 8)
        config = make_config(
            **dict(SMALL, IMAGE_MIN_DIM=512, IMAGES_PER_GPU=1, MAX_GT_INSTANCES=1024)
        )
        config.RPN_TRAIN_ANCHORS_PER_IMAGE = 100_000
        batches = DataGenerator(LabelDataset(labels), config, seed=1)
        with caplog.at_level(logging.WARNING, logger="mrcnn"):
            _, _, match, _, class_ids, boxes, masks = batches[0][0]
            batches[0]
        assert [record.message for record in caplog.records] == [
            "image cell-0 has 1862 objects, more than MAX_GT_INSTANCES = 1024: a random selection "
            "of them is learnt, in other such images too"
        ]
        objects, crowds = class_ids[0] == 1, class_ids[0] == -1
        assert (objects.sum(), crowds.sum()) == (1008, 16)
        assert len(np.unique(boxes[0], axis=0)) == 1024
        assert masks.shape == (1, 56, 56, 1024)
        np.testing.assert_array_equal(masks[0].any(axis=(0, 1)), objects)

        # No anchor on a nucleus that found no room is background, none is positive for it.
        chosen = {tuple(box[:2]) for box in boxes[0, objects]}
        corners = itertools.islice(itertools.product(range(0, 505, 11), repeat=2), 1862)
        surplus = np.array([(y, x, y + 8, x + 8) for y, x in corners if (y, x) not in chosen])
        assert len(surplus) == 1862 - 1008
        # To the heads neither: each lies in a crowd box that is small enough to count.
        assert (compute_overlaps(surplus, boxes[0, crowds]).max(axis=1) >= 0.001).all()
        anchors = generate_pyramid_anchors(
            config.RPN_ANCHOR_SCALES,
            config.RPN_ANCHOR_RATIOS,
            compute_backbone_shapes(config, (512, 512)),
            config.BACKBONE_STRIDES,
            1,
        )
        on_surplus = compute_overlaps(anchors, surplus[::10]).max(axis=1) >= 0.001
        assert not (match[0, on_surplus, 0] == -1).any()
        assert (match == -1).any()

    def test_zscore_uses_the_whole_image_and_leaves_padding_at_0(self):
        rng = np.random.default_rng(0)
        picture = rng.normal([200, 100, 50], [20, 10, 0.1], (300, 300, 3)).clip(0, 255)
        dataset = LabelDataset(np.zeros((300, 300), np.int32))
        dataset.load_image = lambda image_id: picture.astype(np.uint8)
        config = make_config(
            **dict(SMALL, IMAGE_MIN_DIM=100, IMAGES_PER_GPU=1, IMAGE_NORMALIZATION="zscore")
        )
        mirror = load_imgaug().augmenters.Fliplr(1.0)
        batches = DataGenerator(dataset, config, augmentation=mirror, seed=4)
        molded = batches[0][0][0][0]
        assert not molded[100:].any() and not molded[:, 100:].any()
        crop = load_image_gt(dataset, config, 0, mirror, rng=np.random.default_rng([4, 0, 0]))[0]
        whole = picture.astype(np.uint8).astype(float)
        expected = (crop - whole.mean(axis=(0, 1))) / np.maximum(whole.std(axis=(0, 1)), 1)
        np.testing.assert_allclose(molded[:100, :100], expected[:100, :100], atol=1e-4)

    def test_sources_that_are_not_augmented(self):
        dataset = LabelDataset(blobs(128, 128, 9))
        config = make_config(**dict(SMALL, IMAGES_PER_GPU=1))
        mirror = load_imgaug().augmenters.Fliplr(1.0)
        plain, left_alone, mirrored = (
            DataGenerator(dataset, config, augmentation=what, no_augmentation_sources=sources)
            for what, sources in ((None, None), (mirror, ["cells"]), (mirror, ["others"]))
        )
        np.testing.assert_array_equal(left_alone[0][0][0], plain[0][0][0])
        np.testing.assert_array_equal(mirrored[0][0][0], plain[0][0][0][:, :, ::-1])

    def test_images_of_different_size_cannot_share_a_batch(self):
        dataset = LabelDataset(np.zeros((64, 64), np.int32), np.zeros((128, 64), np.int32))
        config = make_config(**dict(SMALL, IMAGE_RESIZE_MODE="pad64", IMAGE_MIN_DIM=64))
        with pytest.raises(InputError, match="share a batch"):
            DataGenerator(dataset, config)[0]

    def test_the_generator_of_2018_never_ends(self):
        dataset = LabelDataset(*[blobs(128, 128, 9, i) for i in range(3)])
        batches = data_generator(dataset, make_config(**SMALL), shuffle=False, batch_size=1)
        ids = [int(inputs[1][0, 0]) for inputs, _ in itertools.islice(batches, 7)]
        assert ids == [0, 1, 2, 0, 1, 2, 0]

    def test_random_rois_with_targets(self):
        config = make_config(**dict(SMALL, TRAIN_ROIS_PER_IMAGE=40))
        dataset = LabelDataset(squares(128, 9, 40, 20), np.zeros((128, 128), np.int32))
        batches = DataGenerator(
            dataset, config, shuffle=False, random_rois=200, detection_targets=True, seed=0
        )
        inputs, (class_ids, deltas, masks) = batches[0]
        assert [array.shape for array in inputs[7:]] == [(2, 200, 4), (2, 40, 4)]
        assert class_ids.shape == (2, 40, 1) and deltas.shape == (2, 40, 2, 4)
        assert masks.shape == (2, 40, 28, 28, 2)
        assert class_ids[0].any() and not class_ids[1].any()


class TestRandomRois:
    def test_lie_within_the_image_and_near_objects(self):
        boxes = np.array([[0, 0, 10, 10], [50, 60, 54, 90]])
        rois = generate_random_rois((64, 96, 3), 100, np.ones(2, int), boxes)
        assert rois.shape == (100, 4) and rois.dtype == np.int32
        assert (rois[:, :2] >= 0).all() and (rois[:, 2:] <= [64, 96]).all()
        assert (rois[:, :2] < rois[:, 2:]).all()
        assert (rois[:45, 2:] <= 20).all()
        assert (rois[45:90] >= [46, 30, 46, 30]).all() and (rois[45:90, 2] <= 58).all()

    def test_detection_targets_by_hand(self):
        config = make_config(
            NUM_CLASSES=3, TRAIN_ROIS_PER_IMAGE=6, ROI_POSITIVE_RATIO=0.34, MASK_SHAPE=[4, 4]
        )
        rois = np.array([[0, 0, 8, 8], [0, 0, 4, 8], [20, 20, 30, 30], [0, 0, 3, 8]])
        boxes = np.array([[0, 0, 8, 8], [40, 40, 60, 60], [0, 0, 0, 0]])
        minis = np.zeros((56, 56, 3), bool)
        minis[:28, :, 0] = True
        # IoU with the object: 1, 0.5 (neither), 0, 0.375 (a hard negative).
        sampled, class_ids, deltas, masks = build_detection_targets(
            rois, np.array([2, 1, 0]), boxes, minis, config
        )
        assert sampled.tolist() == [[0, 0, 8, 8]] + [[0, 0, 3, 8]] * 5
        assert class_ids.tolist() == [2, 0, 0, 0, 0, 0]
        assert not deltas.any()
        assert masks[0, :, :, 2].round().tolist() == [[1] * 4] * 2 + [[0] * 4] * 2
        assert masks.sum() == masks[0, :, :, 2].sum()

    def test_deltas_point_to_the_object(self):
        config = make_config(NUM_CLASSES=2, TRAIN_ROIS_PER_IMAGE=3, USE_MINI_MASK=False)
        rois = np.array([[10, 10, 30, 30], [60, 60, 70, 70]])
        boxes = np.array([[12, 10, 32, 30]])
        masks = np.zeros((128, 128, 1), bool)
        masks[12:32, 10:30] = True
        _, class_ids, deltas, targets = build_detection_targets(
            rois, np.array([1]), boxes, masks, config
        )
        assert class_ids.tolist() == [0, 0, 0]  # a third of three, less than one: no positive
        config.ROI_POSITIVE_RATIO = 0.5
        _, class_ids, deltas, targets = build_detection_targets(
            rois, np.array([1]), boxes, masks, config
        )
        assert class_ids.tolist() == [1, 0, 0]
        np.testing.assert_allclose(deltas[0], [[0] * 4, [1, 0, 0, 0]], atol=1e-6)
        # The first 2 of 20 rows of the ROI lie above the object.
        np.testing.assert_allclose(targets[0, :, :, 1].mean(), 0.9, atol=0.02)


def test_wrapped_augmenter_keeps_labels_whole():
    augmenters = load_imgaug().augmenters
    labels = blobs(90, 110, 300, radius=8)
    image = np.repeat(labels[..., np.newaxis] % 251, 3, axis=-1).astype(np.uint8)
    turn = wrap_imgaug(
        augmenters.Sequential(
            [augmenters.Affine(rotate=(-90, 90), order=0), augmenters.Fliplr(0.5)]
        )
    )
    moved_image, moved = turn(image, labels, np.random.default_rng(2))
    assert moved.dtype == np.int32 and moved.max() <= 300 and moved.any()
    assert not np.array_equal(moved, labels)
    assert (moved_image[..., 0] == moved % 251).mean() > 0.98
