"""Matterport's module of helpers: its names from the modules that hold them here, and the rest."""

from mrcnn.anchors import (
    compute_backbone_shapes,
    generate_anchors,
    generate_pyramid_anchors,
    pyramid_anchors,
)
from mrcnn.boxes import (
    apply_box_deltas,
    box_refinement,
    compute_iou,
    compute_overlaps,
    compute_recall,
    denorm_boxes,
    non_max_suppression,
    norm_boxes,
    trim_zeros,
)
from mrcnn.dataset import Dataset
from mrcnn.images import (
    mold_image,
    normalize_statistics,
    resize,
    resize_image,
    unmold_image,
)
from mrcnn.masks import (
    compute_overlaps_masks,
    expand_mask,
    extract_bboxes,
    minimize_crop,
    minimize_mask,
    mold_mask,
    paste_mask,
    resize_mask,
    unmold_mask,
)
from mrcnn.matching import compute_ap, compute_ap_range, compute_matches
from mrcnn.pretrained import COCO_MODEL_URL, download_coco

__all__ = [
    "COCO_MODEL_URL",
    "Dataset",
    "apply_box_deltas",
    "batch_slice",
    "box_refinement",
    "box_refinement_graph",
    "compute_ap",
    "compute_ap_range",
    "compute_backbone_shapes",
    "compute_iou",
    "compute_matches",
    "compute_overlaps",
    "compute_overlaps_masks",
    "compute_recall",
    "denorm_boxes",
    "download_trained_weights",
    "expand_mask",
    "extract_bboxes",
    "generate_anchors",
    "generate_pyramid_anchors",
    "minimize_crop",
    "minimize_mask",
    "mold_image",
    "mold_mask",
    "non_max_suppression",
    "norm_boxes",
    "normalize_statistics",
    "paste_mask",
    "pyramid_anchors",
    "resize",
    "resize_image",
    "resize_mask",
    "trim_zeros",
    "unmold_image",
    "unmold_mask",
]


def box_refinement_graph(box, gt_box):
    """`box_refinement` of tensors, see `mrcnn.box_ops`."""
    from mrcnn import box_ops  # here, because Keras takes seconds to import

    return box_ops.box_refinement_graph(box, gt_box)


def batch_slice(inputs, graph_fn, batch_size, names=None):
    """Apply a function of single images to each image of a batch, and stack what it returns.

    Parameters
    ----------
    inputs : tensor or list of tensor
        Each [batch, ...].
    graph_fn : callable
        Takes a slice of each input and returns one tensor, or a tuple or list of them.
    batch_size : int
        Number of images; static.
    names : list of str, optional
        Accepted for compatibility; tensors of Keras 3 have no names.

    Returns
    -------
    tensor or list of tensor
        Each [batch, ...]; a list if `graph_fn` returns several.
    """
    from keras import ops  # here, because it takes seconds

    if not isinstance(inputs, (list, tuple)):
        inputs = [inputs]
    outputs = [graph_fn(*(tensor[index] for tensor in inputs)) for index in range(batch_size)]
    outputs = [out if isinstance(out, (list, tuple)) else [out] for out in outputs]
    stacked = [ops.stack(column, axis=0) for column in zip(*outputs)]
    return stacked[0] if len(stacked) == 1 else stacked


def download_trained_weights(coco_model_path, verbose=1):
    """Download Matterport's weights, trained on COCO: about 250 MB.

    Parameters
    ----------
    coco_model_path : str or Path
        Where to save them; the file appears once it is complete.
    verbose : int
        0 shows no progress bar.

    Raises
    ------
    InputError
        If the download fails; the message says what to fetch and where to put it.
    OSError
        If the file cannot be written.
    """
    download_coco(coco_model_path, verbose)
