"""What may be done to the nuclei of an image, whichever network found them."""

import numpy as np
from skimage.morphology import disk

from mrcnn.instances import Instances
from mrcnn.opencv import cv2
from mrcnn_nuclei.mask_nms import mask_nms

IOU_THRESHOLD = 0.5
"""Above which two masks of one prediction show the same nucleus."""


def postprocess(instances, config):
    """Apply `MASK_NMS`, then `MASK_DILATION`.

    By "greedy" Mask-NMS the better of two masks whose IoU is more than 0.5 stays. "soft" lowers the
    score of the other one by as much as they overlap, and drops it where that takes it below
    `DETECTION_MIN_CONFIDENCE`.

    Parameters
    ----------
    instances : Instances
    config : NucleusConfig

    Returns
    -------
    Instances
    """
    if config.MASK_NMS != "none":
        instances = mask_nms(
            [instances], iou_threshold=IOU_THRESHOLD, min_votes=1, method=config.MASK_NMS
        )
    if config.MASK_NMS == "soft":
        instances = instances[instances.scores >= config.DETECTION_MIN_CONFIDENCE]
    return dilate(instances, config.MASK_DILATION)


def dilate(instances, pixels):
    """Dilate each mask by a disc, or erode it.

    Masks are changed one by one, so that neighbours may come to overlap. What lies outside of the
    image is unknown: a nucleus at its edge is not eroded from there.

    Parameters
    ----------
    instances : Instances
    pixels : int
        Radius of the disc; negative to erode. A mask that erosion would leave empty stays as it is,
        so that no nucleus is lost.

    Returns
    -------
    Instances
        As many, in the same order, with tight boxes; `instances` itself if `pixels` is 0.
    """
    if not pixels:
        return instances
    change = cv2.dilate if pixels > 0 else cv2.erode
    radius = abs(pixels)
    height, width = instances.shape
    boxes, masks = [], []
    for (y1, x1, y2, x2), mask in zip(instances.boxes.tolist(), instances.masks):
        top, left = max(y1 - radius, 0), max(x1 - radius, 0)
        bottom, right = min(y2 + radius, height), min(x2 + radius, width)
        margin = ((y1 - top, bottom - y2), (x1 - left, right - x2))
        padded = np.pad(mask, margin).astype(np.uint8)
        # OpenCV's border neither dilates nor erodes.
        changed = change(padded, disk(radius))
        x, y, columns, rows = cv2.boundingRect(changed if changed.any() else padded)
        inside = np.s_[y : y + rows, x : x + columns]
        boxes.append((top + y, left + x, top + y + rows, left + x + columns))
        masks.append((changed if changed.any() else padded)[inside].astype(bool))
    return Instances(instances.shape, boxes, instances.scores, instances.class_ids, masks)
