"""Instances: the objects of one image, each mask stored at the size of its own box."""

from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask
from scipy import ndimage

from mrcnn.errors import InputError
from mrcnn.masks import extract_bboxes
from mrcnn.opencv import cv2


@dataclass(frozen=True, eq=False)
class Instances:
    """The objects of one image: what detectors, fusion, metrics and writers exchange.

    Instances may overlap. A mask is kept as the crop inside its box, so that a thousand nuclei cost
    as much memory as their boxes cover, not a thousand times the image. An instance may be without
    pixels (a detection whose mask stays below the threshold), and a box need not be tight.

    Attributes
    ----------
    shape : tuple of int
        (H, W) of the image in pixels.
    boxes : int32 array [N, 4]
        (y1, x1, y2, x2) in pixels, end exclusive, inside the image.
    scores : float32 array [N]
        The higher, the more certain; 1 for ground truth.
    class_ids : int32 array [N]
        1 is the first class; 0 stands for background and is not expected here.
    masks : tuple of N bool arrays
        Each [y2 - y1, x2 - x1], the size of its box.

    Raises
    ------
    InputError
        If the lengths differ, a box leaves the image or a mask has not the size of its box.
    """

    shape: tuple
    boxes: np.ndarray
    scores: np.ndarray
    class_ids: np.ndarray
    masks: tuple

    def __post_init__(self):
        shape = tuple(int(size) for size in self.shape)
        boxes = np.asarray(self.boxes, np.int32)
        if boxes.size == 0:
            boxes = boxes.reshape(0, 4)
        scores = np.asarray(self.scores, np.float32)
        class_ids = np.asarray(self.class_ids, np.int32)
        masks = tuple(np.asarray(mask).astype(bool, copy=False) for mask in self.masks)
        _check(shape, boxes, scores, class_ids, masks)
        for name, value in [
            ("shape", shape),
            ("boxes", boxes),
            ("scores", scores),
            ("class_ids", class_ids),
            ("masks", masks),
        ]:
            object.__setattr__(self, name, value)

    @classmethod
    def empty(cls, shape):
        """The instances of an image (H, W) that shows none."""
        return cls(shape, np.zeros((0, 4)), [], [], ())

    @classmethod
    def from_label_map(cls, labels, scores=None):
        """Read the instances of a label map, in ascending order of their labels.

        Parameters
        ----------
        labels : integer array [H, W]
            0 is background; every other value one instance. The values may have gaps.
        scores : sequence of float, optional
            One for each label that occurs, in ascending order of the labels. Default 1.

        Returns
        -------
        Instances
            All of class 1.

        Raises
        ------
        InputError
            If `labels` is not a two-dimensional array of integers from 0 up.
        """
        labels = np.asarray(labels)
        if labels.ndim != 2 or labels.dtype.kind not in "biu":
            raise InputError(
                f"a label map must be [H, W] integers, not {labels.dtype} {list(labels.shape)}"
            )
        if labels.size and labels.min() < 0:
            raise InputError(f"a label map must not hold negative labels, found {labels.min()}")
        if labels.size and labels.max() > labels.size:
            # find_objects makes a list as long as the greatest label: number them anew.
            values, inverse = np.unique(labels, return_inverse=True)
            labels = inverse.reshape(labels.shape) + (values[0] > 0)
        labels = labels.astype(np.int32, copy=False)

        found = [
            (label, window)
            for label, window in enumerate(ndimage.find_objects(labels), start=1)
            if window is not None
        ]
        boxes = [(y.start, x.start, y.stop, x.stop) for _, (y, x) in found]
        masks = [labels[window] == label for label, window in found]
        scores = np.ones(len(found)) if scores is None else scores
        return cls(labels.shape, boxes, scores, np.ones(len(found)), masks)

    @classmethod
    def from_dense(cls, masks, scores=None, class_ids=None):
        """Read the instances of a stack of full-size masks, Matterport's layout.

        Parameters
        ----------
        masks : bool array [H, W, N]
            One instance a channel. A channel without pixels keeps its place, with a box of zeros.
        scores, class_ids : sequence [N], optional
            Default 1.

        Returns
        -------
        Instances
        """
        masks = np.asarray(masks).astype(bool, copy=False)
        if masks.ndim != 3:
            raise InputError(f"dense masks must be [H, W, N], not {list(masks.shape)}")
        count = masks.shape[2]
        boxes = extract_bboxes(masks)
        crops = [masks[t:b, left:r, k].copy() for k, (t, left, b, r) in enumerate(boxes)]
        scores = np.ones(count) if scores is None else scores
        class_ids = np.ones(count) if class_ids is None else class_ids
        return cls(masks.shape[:2], boxes, scores, class_ids, crops)

    @classmethod
    def from_coco(cls, annotations, shape):
        """Read COCO annotations or results.

        Parameters
        ----------
        annotations : sequence of dict
            `segmentation` is a list of polygons [x, y, x, y, ...] or an RLE with compressed or
            plain counts; `score` and `category_id` default to 1. Polygons with fewer than three
            points are ignored.
        shape : tuple of int
            (H, W) of the image.

        Returns
        -------
        Instances
            In the order of `annotations`.

        Raises
        ------
        InputError
            If an annotation has no segmentation, or one that does not fit the image.
        """
        height, width = (int(size) for size in shape)
        boxes, masks = [], []
        for annotation in annotations:
            counts = _coco_counts(annotation.get("segmentation"), height, width)
            box, mask = _decode_counts(counts, height)
            boxes.append(box)
            masks.append(mask)
        scores = [annotation.get("score", 1) for annotation in annotations]
        class_ids = [annotation.get("category_id", 1) for annotation in annotations]
        return cls((height, width), boxes, scores, class_ids, masks)

    @classmethod
    def concatenate(cls, sequence):
        """Join the instances of several predictions for the same image, in their order.

        Parameters
        ----------
        sequence : sequence of Instances
            At least one, all of the same `shape`.

        Returns
        -------
        Instances
        """
        sequence = list(sequence)
        shapes = {instances.shape for instances in sequence}
        if len(shapes) != 1:
            raise InputError(
                f"instances to join must belong to one image size, not {sorted(shapes) or 'none'}"
            )
        return cls(
            shapes.pop(),
            np.concatenate([instances.boxes for instances in sequence]),
            np.concatenate([instances.scores for instances in sequence]),
            np.concatenate([instances.class_ids for instances in sequence]),
            [mask for instances in sequence for mask in instances.masks],
        )

    def __len__(self):
        return len(self.masks)

    def __getitem__(self, index):
        """Select by an integer, a slice, an array of integers or a bool array [N], as Instances."""
        chosen = np.atleast_1d(np.arange(len(self))[index])
        return Instances(
            self.shape,
            self.boxes[chosen],
            self.scores[chosen],
            self.class_ids[chosen],
            [self.masks[k] for k in chosen],
        )

    def __repr__(self):
        height, width = self.shape
        return f"Instances({len(self)} in {height} x {width})"

    @property
    def areas(self):
        """Number of pixels of each mask, int64 [N]."""
        return np.array([np.count_nonzero(mask) for mask in self.masks], np.int64)

    def to_label_map(self):
        """Paint the instances into one image.

        Returns
        -------
        int32 array [H, W]
            Instance k has the label k + 1. A pixel that several claim goes to the best score, and
            among equal scores to the lower index.
        """
        labels = np.zeros(self.shape, np.int32)
        lowest_first = np.lexsort((-np.arange(len(self)), self.scores))
        for k in lowest_first:
            y1, x1, y2, x2 = self.boxes[k]
            labels[y1:y2, x1:x2][self.masks[k]] = k + 1
        return labels

    def to_dense(self):
        """Return the masks as N full-size images, bool [H, W, N], Matterport's layout."""
        dense = np.zeros((*self.shape, len(self)), bool)
        for k, (y1, x1, y2, x2) in enumerate(self.boxes):
            dense[y1:y2, x1:x2, k] = self.masks[k]
        return dense

    def to_coco(self, image_id):
        """Return the instances as COCO results.

        Parameters
        ----------
        image_id : int or str
            Copied into each dictionary.

        Returns
        -------
        list of dict
            Ready for JSON: `image_id`, `category_id`, `segmentation` (compressed RLE, its counts a
            str), `bbox` (x, y, width, height), `area` and `score`.
        """
        height, width = self.shape
        results = []
        for k, (y1, x1, y2, x2) in enumerate(self.boxes.tolist()):
            starts, ends = column_runs(self.masks[k], self.boxes[k], height)
            turns = np.stack([starts, ends], axis=1).ravel()
            counts = np.diff(turns, prepend=0, append=height * width)
            rle = coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
            results.append(
                {
                    "image_id": image_id,
                    "category_id": int(self.class_ids[k]),
                    "segmentation": {"size": [height, width], "counts": rle["counts"].decode()},
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": int(np.count_nonzero(self.masks[k])),
                    "score": float(self.scores[k]),
                }
            )
        return results

    def to_polygons(self):
        """Return the outlines of each instance along the edges of its pixels.

        Returns
        -------
        list of N lists of float arrays [P, 2]
            Closed rings of (x, y), the order of COCO and GeoJSON, in pixels: the pixel in row r and
            column c is the square from (c, r) to (c + 1, r + 1). One ring for each part of the mask
            whose pixels share edges; holes are not cut out, and parts inside them are left out. A
            ring never crosses or touches itself, and has at least five points, the last equal to
            the first.
        """
        return [
            [ring + (x1, y1) for ring in _outer_rings(mask)]
            for mask, (y1, x1) in zip(self.masks, self.boxes[:, :2])
        ]

    def translate(self, dy, dx, shape):
        """Move the instances onto another canvas, as from a tile to its image or back.

        Parameters
        ----------
        dy, dx : int
            Added to every row and column.
        shape : tuple of int
            (H, W) of the new canvas.

        Returns
        -------
        Instances
            Clipped at the edges of the canvas; without those that have no pixel on it.
        """
        height, width = shape
        moved = self.boxes + np.array([dy, dx, dy, dx], np.int32)
        clipped = np.clip(moved, 0, np.array([height, width, height, width], np.int32))
        kept, masks = [], []
        on_canvas = (clipped[:, :2] < clipped[:, 2:]).all(axis=1)
        for k in np.flatnonzero(on_canvas).tolist():
            mask = _crop(self.masks[k], moved[k], clipped[k])
            if mask.any():
                kept.append(k)
                masks.append(mask)
        return Instances(shape, clipped[kept], self.scores[kept], self.class_ids[kept], masks)


def column_runs(mask, box, height):
    """Runs of a mask in the column-major order of the whole image, as run-length encodings want.

    Parameters
    ----------
    mask : bool array [h, w]
    box : (y1, x1, y2, x2)
        Where the mask lies in the image.
    height : int
        Rows of the image.

    Returns
    -------
    starts, ends : int64 arrays [R]
        Run i covers the pixels `starts[i] <= x * height + y < ends[i]`.
    """
    y1, x1 = (int(value) for value in box[:2])
    steps = np.diff(np.pad(mask, ((1, 1), (0, 0))).astype(np.int8), axis=0).T
    column, row = np.nonzero(steps == 1)
    starts = (x1 + column) * height + y1 + row
    column, row = np.nonzero(steps == -1)
    ends = (x1 + column) * height + y1 + row
    # A run at the bottom of a column goes on at the top of the next.
    apart = ends[:-1] != starts[1:]
    return starts[np.r_[True, apart][: len(starts)]], ends[np.r_[apart, True][: len(ends)]]


def _check(shape, boxes, scores, class_ids, masks):
    count = len(masks)
    if len(shape) != 2:
        raise InputError(f"shape must be (H, W), not {shape}")
    if boxes.shape != (count, 4):
        raise InputError(f"boxes must be [{count}, 4] for {count} masks, not {list(boxes.shape)}")
    if scores.shape != (count,) or class_ids.shape != (count,):
        raise InputError(
            f"{count} masks need as many scores and class_ids, "
            f"not {list(scores.shape)} and {list(class_ids.shape)}"
        )
    outside = (boxes[:, :2] < 0) | (boxes[:, 2:] < boxes[:, :2]) | (boxes[:, 2:] > shape)
    if outside.any():
        k = int(np.flatnonzero(outside.any(axis=1))[0])
        raise InputError(f"box {k} {boxes[k].tolist()} does not lie in the image {shape}")
    sizes = (boxes[:, 2:] - boxes[:, :2]).tolist()
    for k, (mask, size) in enumerate(zip(masks, sizes)):
        if list(mask.shape) != size:
            raise InputError(f"mask {k} is {list(mask.shape)}, its box {size}")


def _coco_counts(segmentation, height, width):
    """Lengths of the runs of a COCO segmentation, column-major, background first."""
    if isinstance(segmentation, list):
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]
        if not polygons:
            return np.array([height * width])
        segmentation = coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))
    elif not isinstance(segmentation, dict):
        raise InputError("a COCO annotation needs a segmentation: polygons or RLE")
    size, counts = list(segmentation["size"]), segmentation["counts"]
    if isinstance(counts, (str, bytes)):
        counts = _unpack_counts(counts)
    counts = np.asarray(counts, np.int64)
    if size != [height, width] or counts.sum() != height * width or (counts < 0).any():
        raise InputError(
            f"a COCO mask of size {size} with {counts.sum()} pixels in its runs "
            f"does not fit the {height} x {width} image"
        )
    return counts


def _unpack_counts(text):
    """Read COCO's compressed run lengths without painting the whole image, as pycocotools would.

    Each number is a series of characters from "0" up, five bits each, lowest first; bit 5 says that
    more follow, bit 4 of the last is the sign. From the fourth on a number is the difference to the
    last but one (https://github.com/cocodataset/cocoapi, common/maskApi.c).
    """
    text = text.encode() if isinstance(text, str) else text
    codes = np.frombuffer(text, np.uint8).astype(np.int64) - ord("0")
    ends = np.flatnonzero(codes & 32 == 0)
    if len(ends) == 0:
        return ends
    starts = np.r_[0, ends[:-1] + 1]
    bits = 5 * (np.arange(len(codes)) - np.repeat(starts, np.diff(np.r_[starts, len(codes)])))
    counts = np.add.reduceat((codes & 31) << bits, starts)
    counts -= ((codes[ends] & 16) > 0) * (32 << bits[ends])
    counts[1::2] = np.cumsum(counts[1::2])
    counts[2::2] = np.cumsum(counts[2::2])
    return counts


def _decode_counts(counts, height):
    """The box (y1, x1, y2, x2) and the mask inside it of column-major run lengths."""
    turns = np.cumsum(counts)
    starts, ends = turns[0::2][: len(turns) // 2], turns[1::2]
    starts, ends = starts[starts < ends], ends[starts < ends]
    if len(starts) == 0:
        return (0, 0, 0, 0), np.zeros((0, 0), bool)
    x1, x2 = starts[0] // height, (ends[-1] - 1) // height + 1
    columns = np.zeros((x2 - x1) * height + 1, np.int8)
    columns[starts - x1 * height] += 1
    columns[ends - x1 * height] -= 1
    columns = np.cumsum(columns[:-1], dtype=np.int8).astype(bool).reshape(x2 - x1, height)
    rows = np.flatnonzero(columns.any(axis=0))
    y1, y2 = rows[0], rows[-1] + 1
    return (y1, x1, y2, x2), columns[:, y1:y2].T.copy()


def _crop(mask, box, window):
    """The part of a mask that lies in a window (y1, x1, y2, x2) inside its box."""
    top, left = box[:2]
    y1, x1, y2, x2 = window
    return mask[y1 - top : y2 - top, x1 - left : x2 - left]


def _outer_rings(mask):
    """Closed rings [P, 2] of (x, y) around the 4-connected parts of a mask, along pixel edges."""
    parts = list(_parts(mask))
    if len(parts) > 1:  # a part inside a hole of another lies inside its ring
        filled = np.zeros_like(mask, bool)
        for y, x, part in parts:
            height, width = part.shape
            filled[y : y + height, x : x + width] |= ndimage.binary_fill_holes(part)
        parts = _parts(filled)
    return [_outer_ring(part) + (x, y) for y, x, part in parts]


def _parts(mask):
    """Yield the 4-connected parts of a mask: top, left, and a mask of the part's own size."""
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=4
    )
    for part in range(1, count):
        x, y, width, height = boxes[part, :4]
        yield y, x, labels[y : y + height, x : x + width] == part


def _outer_ring(part):
    """The closed ring [P, 2] of (x, y) around a mask of one part."""
    # On a grid of half pixels every pixel is a 3 x 3 block whose rim lies on its edges.
    grid = np.zeros((2 * part.shape[0] + 1, 2 * part.shape[1] + 1), np.uint8)
    grid[1::2, 1::2] = part
    grid = cv2.dilate(grid, np.ones((3, 3), np.uint8))
    (contour,), _ = cv2.findContours(grid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    contour = contour[:, 0]
    # Each step has one pixel corner, the point with even coordinates, at an end or beside it:
    # OpenCV cuts across inner corners.
    corners = np.where(contour % 2 == 0, contour, np.roll(contour, -1, axis=0)) // 2
    corners = corners[(corners != np.roll(corners, 1, axis=0)).any(axis=1)]
    step = corners - np.roll(corners, 1, axis=0)
    turn = (step != np.roll(step, -1, axis=0)).any(axis=1)
    ring = corners[turn].astype(float)
    return np.concatenate([ring, ring[:1]])
