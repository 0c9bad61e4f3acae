"""HoVer-Net's results: `mat/NAME.mat` with a label map, `json/NAME.json` with outlines.

In JSON, "nuc" holds for each nucleus a "contour" of the pixels at its rim, whole numbers (x, y), as
OpenCV traces them: https://github.com/vqdang/hover_net
"""

import json
import math
import re
from pathlib import Path

import numpy as np
from scipy.io import loadmat, whosmat

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn.opencv import cv2
from mrcnn_nuclei.formats.outlines import check_points, check_total, require_shape
from mrcnn_nuclei.image_files import MAX_PIXELS

READ = ("inst_map", "inst_uid", "inst_type")

#: MATLAB's classes of plain numbers.
_NUMBERS = {"double", "single", "logical"}
_NUMBERS |= {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}


def recognises(path):
    """Tell whether the beginning of a JSON file looks like HoVer-Net's."""
    with open(path, "rb") as file:
        return re.search(rb'"nuc"\s*:', file.read(1000)) is not None


def read(path, shape=None):
    """Read the nuclei of a MATLAB or JSON file.

    Parameters
    ----------
    path : str or Path
        A label map if it ends in ".mat", else outlines.
    shape : tuple of int
        (H, W) of the image, which JSON does not tell.

    Returns
    -------
    Instances
        Classes are HoVer-Net's types where it tells them, else 1. Scores are 1: its probabilities
        are of the type, not of the nucleus.

    Raises
    ------
    InputError
        If it is no such file, or `shape` is missing.
    """
    if Path(path).suffix.lower() != ".mat":
        require_shape(path, shape)
    try:
        return _read_mat(path) if Path(path).suffix.lower() == ".mat" else _read_json(path, shape)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # SciPy and OpenCV raise all kinds on broken files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path}: is no readable result of HoVer-Net ({reason}); export or copy it again"
        ) from None


def _read_mat(path):
    arrays = whosmat(path)
    names = [name for name, _, _ in arrays]
    if "inst_map" not in names:
        raise InputError(f"has no inst_map, but {', '.join(names) or 'nothing'}; export it again")
    for name, size, kind in arrays:
        if name in READ and kind not in _NUMBERS:  # a cell may hold arrays of any size
            raise InputError(f"its {name} is a MATLAB {kind}; export numbers")
        if name in READ and math.prod(size) > MAX_PIXELS:
            raise InputError(f"holds more than {MAX_PIXELS:,} pixels; cut it into smaller images")
    content = loadmat(path, variable_names=READ)
    labels = content["inst_map"]
    if labels.dtype.kind == "f" and np.array_equal(labels, np.round(labels)):
        labels = labels.astype(np.int32)  # MATLAB's numbers are floats
    found = Instances.from_label_map(labels)
    if not {"inst_uid", "inst_type"} <= set(content):
        return found
    uids, types = (content[name].ravel().tolist() for name in ("inst_uid", "inst_type"))
    if len(uids) != len(types):
        raise InputError(f"has {len(uids)} inst_uid and {len(types)} inst_type; export it again")
    types = dict(zip(uids, types))
    class_ids = [_class_id(types.get(label)) for label in np.unique(labels[labels > 0]).tolist()]
    return Instances(found.shape, found.boxes, found.scores, class_ids, found.masks)


def _read_json(path, shape):
    with open(path, encoding="utf-8") as file:
        nuclei = list(json.load(file)["nuc"].values())
    boxes, masks, total = [], [], 0
    for number, nucleus in enumerate(nuclei, start=1):
        box, mask = _fill(np.array(nucleus["contour"]).reshape(-1, 2), shape, number)
        total += mask.size
        check_total(total)
        boxes.append(box)
        masks.append(mask)
    class_ids = [_class_id(nucleus.get("type")) for nucleus in nuclei]
    return Instances(shape, boxes, np.ones(len(masks)), class_ids, masks)


def _class_id(kind):
    """The class of a type; none and 0, of no type, count as the first."""
    return max(int(kind or 1), 1)


def _fill(contour, shape, number):
    """Box and mask of the pixels on and inside a contour."""
    check_points(contour, *shape, number)
    x1, y1 = contour.min(axis=0)
    x2, y2 = contour.max(axis=0) + 1
    check_total((y2 - y1) * (x2 - x1))
    mask = np.zeros((y2 - y1, x2 - x1), np.uint8)
    cv2.drawContours(mask, [(contour - (x1, y1)).astype(np.int32)], -1, 1, cv2.FILLED)
    one = Instances(mask.shape, [(0, 0, *mask.shape)], [1], [1], [mask]).translate(y1, x1, shape)
    if not len(one):
        return (0, 0, 0, 0), np.zeros((0, 0), bool)
    return one.boxes[0], one.masks[0]
