"""From an image and its ground truth to a batch for the network."""

import logging
import random
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from mrcnn.anchors import compute_backbone_shapes, generate_pyramid_anchors
from mrcnn.errors import InputError
from mrcnn.image_meta import compose_image_meta, parse_image_meta
from mrcnn.images import mold_image, normalize_statistics, resize_image
from mrcnn.imgaug_compat import augment_dense, is_imgaug, wrap_imgaug
from mrcnn.masks import extract_bboxes, minimize_crop, resize_mask
from mrcnn.random_rois import build_detection_targets, generate_random_rois
from mrcnn.rpn_targets import AnchorRows, build_rpn_targets

LOGGER = logging.getLogger("mrcnn")


def load_image_gt(
    dataset, config, image_id, augment=False, augmentation=None, use_mini_mask=None, rng=None
):
    """Load an image with its ground truth, resized or cropped for the network.

    Serves both generations of Matterport's callers: the fourth positional argument is 2018's
    `augment` flag, or 2020's `augmentation` if it is an augmenter.

    A dataset with `load_labels(image_id) -> (labels [H, W] int32, class_ids [N])`, where label
    k + 1 is the object of `class_ids[k]`, is read through it; `load_mask`, which makes one
    full-size mask an object, is for all others.

    Parameters
    ----------
    dataset : Dataset
    config : Config
    image_id : int
    augment : bool or augmenter
        True: mirror the image left to right with probability 1/2.
    augmentation : imgaug.augmenters.Augmenter or callable, optional
        A callable is `augmentation(image, labels, rng) -> (image, labels)` on uint8 [H, W, C] and
        int32 [H, W]. It receives the picture as resized and cropped, without the padding that
        "crop" mode adds, and keeps its size; if it has an attribute `crops = True` it receives the
        whole picture and returns the crop, at most as large as the network's input. Dense masks
        become a label map for it, where the first of overlapping objects wins. In training, an
        attribute `at_epoch(epoch)` returns the augmentation of an epoch, counted from 0.
    use_mini_mask : bool, optional
        None: as `config.USE_MINI_MASK`.
    rng : numpy.random.Generator, optional
        None draws from the global streams of `random` and NumPy as Matterport does.

    Returns
    -------
    image : ndarray [H, W, C] uint8
    image_meta : ndarray
        See `mrcnn.image_meta`.
    class_ids : ndarray [N] int32
        Of the objects that have a pixel in the picture; a crowd's is negative.
    bbox : ndarray [N, 4] int32
        (y1, x1, y2, x2), end exclusive.
    mask : ndarray [height, width, N] bool
        Relative to the boxes at `config.MINI_MASK_SHAPE`, or the size of the image.

    Raises
    ------
    InputError
        If the dataset or the augmentation returns arrays that do not fit together.
    """
    if callable(augment):
        if augmentation is not None:
            raise InputError("load_image_gt: two augmentations were given; pass one of them")
        augment, augmentation = False, augment
    example = load_example(dataset, config, image_id, augment, augmentation, rng)
    if use_mini_mask is None:
        use_mini_mask = config.USE_MINI_MASK
    mini_shape = config.MINI_MASK_SHAPE if use_mini_mask else None
    visible, boxes, masks = _extract(example.truth, mini_shape)
    active_class_ids = np.zeros(dataset.num_classes, np.int32)
    source = dataset.image_info[image_id]["source"]
    active_class_ids[dataset.source_class_ids[source]] = 1
    meta = compose_image_meta(
        image_id,
        example.original_shape,
        example.image.shape,
        example.window,
        example.scale,
        active_class_ids,
    )
    return example.image, meta, example.class_ids[visible], boxes, masks


class Example(NamedTuple):
    """An image as the network sees it, before normalisation, and its objects.

    Attributes
    ----------
    image : ndarray [h, w, C] uint8
    truth : ndarray
        A label map int32 [h, w], where label k + 1 is the object of `class_ids[k]`, or dense masks
        bool [h, w, N].
    class_ids : ndarray [N] int32
    window : tuple of int
        (y1, x1, y2, x2) of what is not padding.
    scale : float
        By which the image was resized.
    original_shape : tuple of int
        (H, W, C).
    """

    image: np.ndarray
    truth: np.ndarray
    class_ids: np.ndarray
    window: tuple
    scale: float
    original_shape: tuple


def load_example(dataset, config, image_id, augment=False, augmentation=None, rng=None):
    """Load an image and its objects, resized or cropped for the network, and augmented.

    Parameters
    ----------
    dataset, config, image_id, augmentation, rng
        See `load_image_gt`.
    augment : bool
        Mirror the image left to right with probability 1/2.

    Returns
    -------
    Example
    """
    image = dataset.load_image(image_id)
    original_shape = image.shape
    truth, class_ids = load_truth(dataset, image_id, image)
    if augmentation is not None and not is_imgaug(augmentation):
        truth = label_map_of(truth)

    if getattr(augmentation, "crops", False):
        image, truth, window = _augmented_crop(image, truth, augmentation, config, rng)
        scale = 1
    else:
        image, window, scale, padding, crop = resize_image(
            image,
            min_dim=config.IMAGE_MIN_DIM,
            max_dim=config.IMAGE_MAX_DIM,
            min_scale=config.IMAGE_MIN_SCALE,
            mode=config.IMAGE_RESIZE_MODE,
            rng=rng,
        )
        truth = resize_mask(truth, scale, padding, crop)
        if augment or augmentation is not None:
            # Padding stays padding, except where Matterport's code augments it with the image.
            inside = config.IMAGE_RESIZE_MODE == "crop" or config.IMAGE_NORMALIZATION == "zscore"
            y1, x1, y2, x2 = window if inside else (0, 0, *image.shape[:2])
            part = np.s_[y1:y2, x1:x2]
            image, truth = image.copy(), truth.copy()
            image[part], truth[part] = _augment(
                image[part], truth[part], augment, augmentation, rng
            )
    return Example(image, truth, class_ids, window, scale, original_shape)


class Batches:
    """Batches of a dataset in a random but repeatable order: `batches[i]` is `(inputs, outputs)`.

    Subclasses make the examples.

    Parameters
    ----------
    dataset : Dataset
        Prepared.
    config : Config
    shuffle : bool
        Draw a new order of the images for each epoch.
    augmentation : imgaug.augmenters.Augmenter or callable, optional
        See `load_image_gt`.
    augment : bool
        Mirror images left to right with probability 1/2.
    batch_size : int, optional
        Default `config.BATCH_SIZE`.
    seed : int, optional
        With a seed a batch depends on nothing but (seed, epoch, index), so that an interrupted
        training continues with the batches that it would have seen. Without, the global streams
        of `random` and NumPy are used, as by Matterport.
    no_augmentation_sources : collection of str, optional
        Sources whose images are not augmented.
    steps : int, optional
        Batches an epoch; beyond the last image a further order follows. Default: each image once.

    Attributes
    ----------
    epoch : int
        Counts from 0, advanced by `on_epoch_end`; may be set.
    """

    def __init__(
        self,
        dataset,
        config,
        shuffle=True,
        augmentation=None,
        *,
        augment=False,
        batch_size=None,
        seed=None,
        no_augmentation_sources=None,
        steps=None,
    ):
        self.image_ids = np.array(dataset.image_ids)
        if not len(self.image_ids):
            raise InputError("dataset: it holds no images; add some and call prepare()")
        self.dataset = dataset
        self.config = config
        self.shuffle = shuffle
        self.augmentation = augmentation
        self.augment = augment
        self.batch_size = batch_size or config.BATCH_SIZE
        self.seed = seed
        self.no_augmentation_sources = frozenset(no_augmentation_sources or ())
        self.steps = steps or -(-len(self.image_ids) // self.batch_size)
        self._statistics = {}
        self.set_epoch(0)

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        if not 0 <= index < self.steps:
            raise IndexError(index)
        rng = None if self.seed is None else np.random.default_rng([self.seed, self.epoch, index])
        first = index * self.batch_size
        examples = [
            self.make_example(image_id, rng)
            for image_id in self._order[first : first + self.batch_size]
        ]
        if len({inputs[0].shape for inputs, _ in examples}) > 1:
            raise InputError(
                f"IMAGE_RESIZE_MODE {self.config.IMAGE_RESIZE_MODE!r} gives images of different "
                "sizes, which cannot share a batch: use 'square' or 'crop', or a batch size of 1"
            )
        inputs, outputs = zip(*examples)
        return [np.stack(rows) for rows in zip(*inputs)], [np.stack(rows) for rows in zip(*outputs)]

    @property
    def epoch(self):
        """The epoch whose batches are made, counted from 0."""
        return self._epoch

    @epoch.setter
    def epoch(self, epoch):
        self.set_epoch(epoch)

    def set_epoch(self, epoch):
        """Go to the start of an epoch, counted from 0, and draw its order of images."""
        self._epoch = int(epoch)
        at_epoch = getattr(self.augmentation, "at_epoch", None)
        self._epoch_augmentation = at_epoch(self._epoch) if at_epoch else self.augmentation
        passes = -(-self.steps * self.batch_size // len(self.image_ids))
        orders = [self.image_ids] * passes
        if self.shuffle:
            # Batches take the indices below `steps` for their streams.
            rng = np.random
            if self.seed is not None:
                rng = np.random.default_rng([self.seed, self._epoch, self.steps])
            orders = [rng.permutation(order) for order in orders]
        self._order = np.concatenate(orders)

    def on_epoch_end(self):
        """Advance to the next epoch."""
        self.set_epoch(self._epoch + 1)

    def make_example(self, image_id, rng):
        """One row of each input and output, as lists of arrays."""
        raise NotImplementedError

    def augmentations(self, image_id):
        """The keyword arguments of `load_example` that say how an image is augmented."""
        source = self.dataset.image_info[image_id]["source"]
        if source in self.no_augmentation_sources:
            return {}
        return {"augment": self.augment, "augmentation": self._epoch_augmentation}

    def mold(self, image, window, image_id):
        """The image as the network takes it; z-scores are those of the whole image."""
        if self.config.IMAGE_NORMALIZATION != "zscore":
            return mold_image(image, self.config).astype(np.float32)
        if image_id not in self._statistics:
            whole = self.dataset.load_image(image_id)
            self._statistics[image_id] = normalize_statistics(whole, self.config)
        statistics = self._statistics[image_id]
        return mold_image(image, self.config, statistics, window).astype(np.float32)


class DataGenerator(Batches):
    """Batches of a dataset: `generator[i]` is `(inputs, outputs)`, lists of arrays.

    inputs: images [B, H, W, C] float32 (molded), image_meta [B, 12 + classes], rpn_match
    [B, A, 1] int32, rpn_bbox [B, RPN_TRAIN_ANCHORS_PER_IMAGE, 4], gt_class_ids
    [B, MAX_GT_INSTANCES] int32, gt_boxes [B, MAX_GT_INSTANCES, 4] int32 (pixels), gt_masks
    [B, h, w, MAX_GT_INSTANCES] bool. With `random_rois`, rois [B, random_rois, 4] int32 follow;
    with `detection_targets` too, those that were sampled from them,
    [B, TRAIN_ROIS_PER_IMAGE, 4], and outputs holds their class_ids [B, TRAIN_ROIS_PER_IMAGE, 1],
    deltas and masks, see `build_detection_targets`. Otherwise outputs is empty.

    An image without objects is a row like any other, its class ids all 0. Of an image with more
    than MAX_GT_INSTANCES objects a random selection is learnt. The others are crowds, to the RPN
    one by one and to the heads gathered into a few boxes, so that nothing on them is background.

    Parameters
    ----------
    random_rois : int
        Number of random ROIs an image, for debugging the heads without the RPN.
    detection_targets : bool
        Sample training targets from the random ROIs.
    dataset, config, shuffle, augmentation, **kwargs
        See `Batches`.
    """

    def __init__(
        self,
        dataset,
        config,
        shuffle=True,
        augmentation=None,
        random_rois=0,
        detection_targets=False,
        **kwargs,
    ):
        super().__init__(dataset, config, shuffle, augmentation, **kwargs)
        self.random_rois = random_rois
        self.detection_targets = detection_targets
        self._anchors = {}
        self._cap_reported = False

    def make_example(self, image_id, rng):
        """One row of each input and output."""
        config = self.config
        image, meta, class_ids, boxes, masks = load_image_gt(
            self.dataset, config, image_id, rng=rng, **self.augmentations(image_id)
        )
        chosen = self._choose_objects(len(class_ids), image_id, rng)
        rpn_class_ids = np.full_like(class_ids, -1)
        rpn_class_ids[chosen] = class_ids[chosen]
        rpn_match, rpn_bbox = build_rpn_targets(
            image.shape, self._anchors_of(image.shape), rpn_class_ids, boxes, config, rng
        )
        crowds = _crowds(np.delete(boxes, chosen, axis=0), image.shape, config.MAX_GT_INSTANCES)
        class_ids, boxes, masks = class_ids[chosen], boxes[chosen], masks[..., chosen]
        if len(crowds):
            class_ids = np.concatenate([class_ids, np.full(len(crowds), -1, class_ids.dtype)])
            boxes = np.concatenate([boxes, crowds])
            masks = np.pad(masks, [(0, 0), (0, 0), (0, len(crowds))])

        inputs = [
            self.mold(image, parse_image_meta(meta[np.newaxis])["window"][0], image_id),
            meta.astype(np.float32),
            rpn_match[:, np.newaxis],
            rpn_bbox.astype(np.float32),
            _padded(class_ids.astype(np.int32), config.MAX_GT_INSTANCES),
            _padded(boxes, config.MAX_GT_INSTANCES),
            _padded(masks, config.MAX_GT_INSTANCES, axis=-1),
        ]
        outputs = []
        if self.random_rois:
            rois = generate_random_rois(image.shape, self.random_rois, class_ids, boxes, rng)
            inputs.append(rois)
            if self.detection_targets:
                sampled, target_class_ids, deltas, target_masks = build_detection_targets(
                    rois, class_ids, boxes, masks, config, rng
                )
                inputs.append(sampled)
                outputs = [target_class_ids[:, np.newaxis], deltas, target_masks]
        return inputs, outputs

    def _choose_objects(self, count, image_id, rng):
        """Indices of the objects that the network's arrays have room for."""
        limit = self.config.MAX_GT_INSTANCES
        if count <= limit:
            return np.arange(count)
        if not self._cap_reported:
            self._cap_reported = True
            LOGGER.warning(
                "image %s has %d objects, more than MAX_GT_INSTANCES = %d: a random selection of "
                "them is learnt, in other such images too",
                self.dataset.image_info[image_id]["id"],
                count,
                limit,
            )
        limit -= _crowd_grid(limit) ** 2
        return (np.random if rng is None else rng).choice(count, limit, replace=False)

    def _anchors_of(self, image_shape):
        shape = tuple(image_shape[:2])
        if shape not in self._anchors:
            # In float64: rounded, anchors that tie for a box's best IoU would not tie any more.
            anchors = generate_pyramid_anchors(
                self.config.RPN_ANCHOR_SCALES,
                self.config.RPN_ANCHOR_RATIOS,
                compute_backbone_shapes(self.config, image_shape),
                self.config.BACKBONE_STRIDES,
                self.config.RPN_ANCHOR_STRIDE,
            )
            self._anchors[shape] = AnchorRows(anchors)
        return self._anchors[shape]


def data_generator(
    dataset,
    config,
    shuffle=True,
    augment=False,
    augmentation=None,
    random_rois=0,
    batch_size=1,
    detection_targets=False,
    no_augmentation_sources=None,
):
    """Yield the batches of `DataGenerator` without end, as Matterport's code of 2018 did."""
    batches = DataGenerator(
        dataset,
        config,
        shuffle,
        augmentation,
        random_rois,
        detection_targets,
        augment=augment,
        batch_size=batch_size,
        no_augmentation_sources=no_augmentation_sources,
    )
    while True:
        yield from batches
        batches.on_epoch_end()


def _crowd_grid(limit):
    """Into how many rows and columns objects beyond a limit are gathered: few rows of it."""
    return min(4, int(limit**0.5 / 2))


def _crowds(boxes, image_shape, limit):
    """Gather boxes into a few large ones, by the cell of a grid that their centre is in.

    A proposal is no background if its IoU with a crowd is 0.001 or more, which a nucleus reaches
    within a box of a few hundred times its area.
    """
    grid = _crowd_grid(limit)
    if not len(boxes) or not grid:
        return boxes[:0]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    row, column = (centres * grid / np.array(image_shape[:2])).astype(int).clip(0, grid - 1).T
    cells = [boxes[row * grid + column == cell] for cell in range(grid**2)]
    return np.array(
        [[*cell[:, :2].min(axis=0), *cell[:, 2:].max(axis=0)] for cell in cells if len(cell)],
        boxes.dtype,
    )


def load_truth(dataset, image_id, image):
    """Load the objects of an image, through `load_labels` of a dataset that has it.

    Parameters
    ----------
    dataset : Dataset
    image_id : int
    image : ndarray [H, W, C]

    Returns
    -------
    truth : ndarray
        A label map int32 [H, W], or dense masks bool [H, W, N]; see `label_map_of`.
    class_ids : ndarray [N]

    Raises
    ------
    InputError
        If the dataset returns arrays that do not fit together.
    """
    name = dataset.image_info[image_id]["id"]
    if hasattr(dataset, "load_labels"):
        truth, class_ids = dataset.load_labels(image_id)
        class_ids = np.asarray(class_ids)
        highest = truth.max(initial=0)
        if highest > len(class_ids):
            raise InputError(
                f"image {name}: its label map goes up to {highest} but load_labels returned "
                f"{len(class_ids)} class ids: return one a label"
            )
    else:
        truth, class_ids = dataset.load_mask(image_id)
        class_ids = np.asarray(class_ids)
        if not len(class_ids):
            # Matterport's base class returns a mask of shape [0, 0, 0].
            truth = np.zeros((*image.shape[:2], 0), bool)
        if truth.shape[2:] != class_ids.shape:
            raise InputError(
                f"image {name}: load_mask returned masks of shape {truth.shape} for "
                f"{len(class_ids)} class ids: return [H, W, N] and N"
            )
    if truth.shape[:2] != image.shape[:2]:
        raise InputError(
            f"image {name}: it measures {image.shape[:2]}, its annotation {truth.shape[:2]}: "
            "make them one size"
        )
    return truth, class_ids


def label_map_of(truth):
    """The label map of an image's objects, whichever way a dataset gives them.

    Parameters
    ----------
    truth : ndarray
        A label map int32 [H, W], returned as it is, or dense masks bool [H, W, N].

    Returns
    -------
    ndarray int32 [H, W]
        Label k + 1 is mask k; the first of overlapping objects wins.
    """
    if truth.ndim == 2:
        return truth
    if not truth.shape[-1]:
        return np.zeros(truth.shape[:2], np.int32)
    return np.where(truth.any(axis=-1), truth.argmax(axis=-1) + 1, 0).astype(np.int32)


def _augment(image, truth, augment, augmentation, rng):
    """Image and masks or label map, changed alike."""
    if augment and (random.randint(0, 1) if rng is None else rng.integers(2)):
        image, truth = np.fliplr(image), np.fliplr(truth)
    if augmentation is None:
        return image, truth
    if truth.ndim == 3:
        return augment_dense(augmentation, image, truth, rng)
    if is_imgaug(augmentation):
        return wrap_imgaug(augmentation)(image, truth, rng)
    new_image, new_labels = augmentation(image, truth, _generator(rng))
    if new_image.shape != image.shape or new_labels.shape != truth.shape:
        raise InputError(
            f"augmentation: it made {new_image.shape} and labels {new_labels.shape} of an image "
            f"of shape {image.shape}: keep the size, or set `crops = True` to return a crop"
        )
    return new_image, new_labels


def _augmented_crop(image, labels, augmentation, config, rng):
    """What an augmentation that crops by itself returns, padded to the network's input."""
    image, labels = augmentation(image, labels, _generator(rng))
    height, width = labels.shape
    missing = config.IMAGE_SHAPE[:2] - [height, width]
    if image.shape[:2] != labels.shape or missing.min() < 0:
        raise InputError(
            f"augmentation: it returned a crop of shape {image.shape} with labels {labels.shape}: "
            f"both must be one size, at most {tuple(config.IMAGE_SHAPE[:2])} (IMAGE_SHAPE)"
        )
    padding = [(0, missing[0]), (0, missing[1]), (0, 0)]
    return np.pad(image, padding), np.pad(labels, padding[:2]), (0, 0, height, width)


def _extract(truth, mini_shape):
    """Indices, boxes and masks of the objects that have a pixel; full-size masks if no shape."""
    dense = truth.ndim == 3
    boxes = extract_bboxes(truth) if dense else _label_boxes(truth)
    visible = np.flatnonzero(boxes[:, 2])
    boxes = boxes[visible]
    if mini_shape is None:
        if dense:
            return visible, boxes, truth[..., visible].astype(bool, copy=False)
        return visible, boxes, truth[..., np.newaxis] == visible + 1
    masks = np.zeros((len(visible), *mini_shape), bool)
    for i, (k, (y1, x1, y2, x2)) in enumerate(zip(visible, boxes)):
        crop = truth[y1:y2, x1:x2]
        masks[i] = minimize_crop(crop[..., k] if dense else crop == k + 1, mini_shape)
    return visible, boxes, np.moveaxis(masks, 0, -1)


def _label_boxes(labels):
    """Boxes [N, 4] of the labels 1 to N of a label map, zeros for one without pixels."""
    corners = [
        (region[0].start, region[1].start, region[0].stop, region[1].stop) if region else (0,) * 4
        for region in ndimage.find_objects(labels)
    ]
    return np.array(corners, np.int32).reshape(-1, 4)


def _generator(rng):
    """`rng`, or a Generator that follows from Python's global stream."""
    return np.random.default_rng(random.getrandbits(32)) if rng is None else rng


def _padded(array, length, axis=0):
    """`array` with zeros appended along `axis` up to `length`."""
    padding = [(0, 0)] * array.ndim
    padding[axis] = (0, length - array.shape[axis])
    return np.pad(array, padding)
