"""The 2018 Data Science Bowl: a folder an image, with one black and white mask a nucleus.

The layout is `ID/images/ID.png` with `ID/masks/*.png`, in the root or in a subfolder such as
`stage1_train`. Folders without masks, as in the competition's test sets, have no annotation.

Caicedo et al., "Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl",
Nature Methods 16, 2019.
"""

from pathlib import Path

import numpy as np

from mrcnn.errors import InputError
from mrcnn_nuclei.datasets import Sample, check_shape, missing_annotation, subset_folders
from mrcnn_nuclei.image_files import find_images, read_mask

WHOLE_SET = ("stage1_train", "train", "val")


def recognises(root):
    """Tell whether a folder holds at least one `ID/images/ID.*`."""
    root = Path(root)
    return root.is_dir() and any(
        image_path.stem == images_folder.parent.name
        for folder in _folders(root)
        for images_folder in folder.glob("*/images")
        for image_path in find_images(images_folder)
    )


def find(root, subset=None):
    """List the images of a Data Science Bowl folder.

    Parameters
    ----------
    root : str or Path
    subset : str, optional
        A subfolder, such as "stage1_test". Default: those of "stage1_train", "train" and "val"
        that exist, else `root`.

    Returns
    -------
    list of Sample
        The annotation is the sorted tuple of mask paths.

    Raises
    ------
    InputError
        If there is no such folder, no image in it, or not exactly one image for an id.
    """
    samples = []
    for folder in _folders(root, subset):
        for images_folder in sorted(folder.glob("*/images")):
            images = find_images(images_folder)
            if len(images) != 1:
                raise InputError(
                    f"{images_folder}: holds {len(images)} images; format dsb2018 wants one an id"
                )
            masks = tuple(find_images(images_folder.parent / "masks")) or None
            samples.append(Sample(images_folder.parent.name, images[0], masks))
    if not samples:
        raise InputError(f"{root}: no images in it; format dsb2018 wants ID/images/ID.png files")
    return sorted(samples, key=lambda sample: sample.name)


def read_labels(sample, shape):
    """Paint the masks of a sample in the order of their names, labelled from 1."""
    if sample.annotation is None:
        raise missing_annotation(sample)
    labels = np.zeros(shape[:2], np.int32)
    for label, mask_path in enumerate(sample.annotation, start=1):
        mask = read_mask(mask_path)
        check_shape(mask, shape, sample, mask_path)
        labels[mask] = label
    return labels


def _folders(root, subset=None):
    return subset_folders(root, subset, WHOLE_SET)
