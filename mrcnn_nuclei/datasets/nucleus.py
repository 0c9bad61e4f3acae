"""NucleusDataset: annotated nuclei of any supported format behind Matterport's `Dataset`."""

import threading
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np

from mrcnn.dataset import Dataset
from mrcnn.errors import InputError
from mrcnn_nuclei.datasets import Sample, detect_format, has_both_subfolders, reader
from mrcnn_nuclei.datasets.folds import divide, folds_file
from mrcnn_nuclei.image_files import read_image

CACHE_BYTES = 2**30


class NucleusDataset(Dataset):
    """Images of one class, "nucleus", with label maps.

    Images and label maps are read when first asked for and kept while they fit in 1 GiB of memory.
    """

    def __init__(self, class_map=None):
        super().__init__(class_map)
        self._cache = _Cache(CACHE_BYTES)

    def load(
        self,
        root,
        format=None,
        subset=None,
        fold=None,
        folds=5,
        preprocess=None,
        annotated=True,
        names=None,
    ):
        """Add the images of a data set, then `prepare`.

        Which images:

        - `fold=K`: subset "val" is the images of fold K, "train" those of all other folds, None
          all. Folds come from `root/folds.json`, else from `folds.make_folds` with seed 0, which
          keeps patients together and spreads organs evenly.
        - no fold, subset "train" or "val": the subfolder of that name if `root` has both of them,
          else the same as `fold=0`.
        - no fold, another subset: the subfolder of that name, such as "stage1_test".
        - neither, or subset "all": everything.

        Parameters
        ----------
        root : str or Path
            The data set's folder; a file is possible with "coco". With "synthetic" the seed, or
            None for 0.
        format : {"monuseg", "dsb2018", "label_maps", "outlines", "coco", "synthetic"}, optional
            Default: told by the layout of `root`.
        subset : str, optional
        fold : int, optional
            From 0.
        folds : int
            Number of folds to make, where there is no `folds.json`.
        preprocess : callable, optional
            Takes a label map [H, W] and returns a cleaned one; for training labels, so that it is
            not applied with subset "val". Crowd regions are kept out of it.
        annotated : bool
            Whether images without an annotation are an error. False is for detection.
        names : collection of str, optional
            Only these images, in the usual order. Default: all of the subset.

        Returns
        -------
        NucleusDataset
            Itself.

        Raises
        ------
        InputError
            If the data set cannot be found or read, lacks an image of `names`, or the choice leaves
            no image.
        """
        if subset == "all":
            subset = None
        if format is None:
            format = _detect_format(root, subset, annotated)
        if format == "synthetic":
            samples, pixels = _draw_synthetic(root)
        else:
            samples, pixels = None, {}
        samples = _choose(root, format, samples, subset, fold, folds)
        if names is not None:
            samples = _named(root, samples, set(names))
        _check_samples(root, samples, annotated, self.names)

        self.add_class("nucleus", 1, "nucleus")
        for sample in samples:
            self.add_image(
                "nucleus",
                sample.name,
                str(sample.image_path),
                format=format,
                sample=sample,
                organ=sample.organ,
                preprocess=None if subset == "val" else preprocess,
                pixels=pixels.get(sample.name),
            )
        self.prepare()
        return self

    @property
    def names(self):
        """Names of the images, in the order of their ids."""
        return [info["id"] for info in self.image_info]

    def image_reference(self, image_id):
        """Return the path of the image."""
        return self.image_info[image_id]["path"]

    def load_image(self, image_id):
        """Read an image.

        Parameters
        ----------
        image_id : int

        Returns
        -------
        ndarray
            uint8 RGB [H, W, 3]; the caller may write to it.

        Raises
        ------
        InputError
            If the file cannot be read.
        """
        return self._cache.get(("image", image_id), lambda: (self._read_image(image_id),))[0].copy()

    def load_labels(self, image_id):
        """Read the nuclei of an image.

        Parameters
        ----------
        image_id : int

        Returns
        -------
        labels : ndarray
            int32 [H, W], 0 for background, else 1 to N without gaps: nuclei in the order of their
            annotation, then crowds. The caller may write to it.
        class_ids : ndarray
            int32 [N]: 1 for a nucleus, -1 for a crowd, a region to be ignored.

        Raises
        ------
        InputError
            If the image or its annotation cannot be read, or their sizes differ.
        """
        labels, class_ids = self._cache.get(
            ("labels", image_id), lambda: self._read_labels(image_id)
        )
        return labels.astype(np.int32), class_ids.copy()

    def load_mask(self, image_id):
        """Return the nuclei as a dense stack, for callers that want Matterport's form.

        A 1000 x 1000 image with 1000 nuclei makes a gigabyte; `load_labels` makes 4 MB.

        Parameters
        ----------
        image_id : int

        Returns
        -------
        masks : ndarray
            bool [H, W, N].
        class_ids : ndarray
            int32 [N], as of `load_labels`.
        """
        labels, class_ids = self.load_labels(image_id)
        return labels[..., None] == np.arange(1, len(class_ids) + 1, dtype=np.int32), class_ids

    def _read_image(self, image_id):
        info = self.image_info[image_id]
        return read_image(info["path"]) if info["pixels"] is None else info["pixels"]

    def _read_labels(self, image_id):
        info = self.image_info[image_id]
        if info["format"] == "synthetic":
            labels = info["sample"].annotation
        else:
            shape = self._cache.get(("image", image_id), lambda: (self._read_image(image_id),))[0]
            labels = reader(info["format"]).read_labels(info["sample"], shape.shape[:2])
        if info["preprocess"] is not None:
            nuclei = info["preprocess"](np.maximum(labels, 0))
            labels = np.where(nuclei > 0, nuclei, np.minimum(labels, 0))
        labels, class_ids = _number(labels)
        return labels.astype(np.min_scalar_type(len(class_ids))), class_ids


class _Cache:
    """The tuples of arrays used last, as many as fit in `capacity` bytes."""

    def __init__(self, capacity):
        self.capacity = capacity
        self._items = OrderedDict()
        self._size = 0
        self._lock = threading.RLock()

    def get(self, key, make):
        """Return the arrays kept under a key, or make and keep them."""
        with self._lock:
            if key in self._items:
                self._items.move_to_end(key)
                return self._items[key]
        arrays = make()
        with self._lock:
            if key not in self._items:
                self._items[key] = arrays
                self._size += _byte_count(arrays)
            while self._size > self.capacity:
                self._size -= _byte_count(self._items.popitem(last=False)[1])
        return arrays

    def __reduce__(self):  # a copy in another process starts empty: locks do not travel
        return _Cache, (self.capacity,)


def _byte_count(arrays):
    return sum(array.nbytes for array in arrays)


def _detect_format(root, subset, annotated):
    try:
        return detect_format(root, subset)
    except InputError:
        if annotated:
            raise
        return "label_maps"  # its layout without label maps is a folder of images


def _draw_synthetic(root):
    """Return samples with their label maps as annotation, and images by name."""
    from mrcnn_nuclei.datasets import synthetic

    try:
        seed = 0 if root is None else int(str(root))
    except ValueError:
        raise InputError(
            f"{root}: format synthetic takes a seed in place of a folder; give a whole number"
        ) from None
    tiles = synthetic.generate(seed=seed)
    samples = [
        Sample(name, Path(f"synthetic-{seed}") / name, labels, organ="synthetic")
        for name, _, labels in tiles
    ]
    return samples, {name: image for name, image, _ in tiles}


def _choose(root, format, samples, subset, fold, n_folds):
    """Return the samples of a subset or fold; see `NucleusDataset.load`."""

    def find(subset=None):
        return samples if format == "synthetic" else reader(format).find(root, subset)

    splits = subset in ("train", "val")
    if fold is not None and subset is not None and not splits:
        raise InputError(
            f"subset {subset!r} has no folds; with a fold the subset must be 'train' or 'val'"
        )
    if fold is None and splits and format != "synthetic" and has_both_subfolders(root):
        return find(subset)
    if fold is None and not splits:
        return find(subset)
    samples = find()
    if fold is None:
        n_folds = min(n_folds, len({sample.group or sample.name for sample in samples}))
    folds = divide(samples, folds_file(root), n_folds)
    if not 0 <= (fold or 0) < len(folds):
        raise InputError(f"{root}: there is no fold {fold}; choose 0 to {len(folds) - 1}")
    val = set(folds[fold or 0])
    if subset is None:
        return samples
    chosen = [sample for sample in samples if (sample.name in val) == (subset == "val")]
    if not chosen:
        raise InputError(
            f"{root}: fold {fold or 0} leaves no image for subset {subset!r}; add images, or "
            "subfolders train and val"
        )
    return chosen


def _named(root, samples, names):
    missing = names - {sample.name for sample in samples}
    if missing:
        raise InputError(f"{root}: has no image {min(missing)}; add it, or leave it out")
    return [sample for sample in samples if sample.name in names]


def _check_samples(root, samples, annotated, known_names):
    names = Counter([*known_names, *(sample.name for sample in samples)])
    repeated = [name for name, count in names.items() if count > 1]
    if repeated:
        raise InputError(
            f"{root}: two images are called {repeated[0]}; rename one, or load one subset at a time"
        )
    missing = [sample for sample in samples if sample.annotation is None]
    if annotated and len(missing) == len(samples) > 0:
        raise InputError(
            f"{missing[0].image_path}: has no annotation, as all {len(samples)} images; name each "
            "annotation like its image, see docs/data.md"
        )
    if annotated and missing:
        raise InputError(
            f"{missing[0].image_path}: has no annotation (as {len(missing)} of {len(samples)} "
            "images); add what is missing, or leave these images out"
        )


def _number(labels):
    """Number positive labels, then negative ones, from 1 without gaps; also return class ids."""
    values, inverse = np.unique(labels, return_inverse=True)
    nuclei, crowds = values > 0, values < 0
    numbers = np.zeros(len(values), np.int32)
    numbers[nuclei] = np.arange(1, nuclei.sum() + 1)
    numbers[crowds] = np.arange(nuclei.sum() + 1, nuclei.sum() + crowds.sum() + 1)
    class_ids = np.repeat(np.array([1, -1], np.int32), [nuclei.sum(), crowds.sum()])
    return numbers[inverse].reshape(labels.shape), class_ids
