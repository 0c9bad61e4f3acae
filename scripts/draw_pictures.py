"""Draw the pictures of README and documents anew: `python scripts/draw_pictures.py`.

All are of drawn tissue, in which the weights that come with the project were let loose.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from mrcnn.instances import Instances
from mrcnn.opencv import cv2
from mrcnn_nuclei import overlay
from mrcnn_nuclei.datasets import synthetic
from mrcnn_nuclei.detector import Detector
from mrcnn_nuclei.figures import draw_model

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"

TOP, HEIGHT, WIDTH, ZOOM = 450, 330, 900, 2
INSET, INSET_AT, INSET_ZOOM = 76, (170, 478), 5
"""Rows of a square tile that are shown; side and corner (y, x) of the enlarged detail: pixels."""


def draw_hero(detector):
    """Tissue, from the left as it is and to the right with what was found, and a detail."""
    tile, _ = synthetic.draw_tile(WIDTH, np.random.default_rng(31), nuclei=1300)
    image = np.ascontiguousarray(tile[TOP : TOP + HEIGHT])
    found = detector.detect(image)
    plain = _enlarge(image, ZOOM)
    outlined = overlay.draw_overlay(plain, _enlarge_masks(found, ZOOM), thickness=2)
    picture = plain.copy()
    start = WIDTH * ZOOM // 3
    picture[:, start:] = outlined[:, start:]
    picture[:, start - 1 : start + 1] = 255

    y, x = INSET_AT
    window = slice(y, y + INSET), slice(x, x + INSET)
    detail = _enlarge(image[window], INSET_ZOOM)
    nuclei = found.translate(-y, -x, (INSET, INSET))
    nuclei = _enlarge_masks(nuclei[nuclei.areas > 0], INSET_ZOOM)
    detail = overlay.draw_overlay(detail, nuclei, thickness=3)
    detail = np.pad(detail, ((5, 5), (5, 5), (0, 0)), constant_values=255)
    right, bottom = picture.shape[1] - 30, picture.shape[0] - 30
    picture[bottom - len(detail) : bottom, right - len(detail) : right] = detail
    corners = [(ZOOM * x, ZOOM * y), (ZOOM * (x + INSET), ZOOM * (y + INSET))]
    cv2.rectangle(picture, *corners, (255, 255, 255), 3)
    Image.fromarray(picture).save(IMAGES / "hero.webp", quality=82, method=6)
    print(f"hero.webp: {len(found)} nuclei found in {WIDTH} x {HEIGHT} pixels")


def _enlarge(image, zoom):
    return cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)


def _enlarge_masks(nuclei, zoom):
    """Nuclei on an enlarged image, their outlines smoothed."""
    labels = nuclei.to_label_map()
    shape = tuple(zoom * side for side in nuclei.shape)
    boxes, masks = [], []
    for number, (y1, x1, y2, x2) in enumerate(nuclei.boxes, start=1):
        mask = np.pad(labels[y1:y2, x1:x2] == number, 1).astype(np.float32)
        mask = cv2.GaussianBlur(_enlarge(mask, zoom), (0, 0), zoom / 2) > 0.5
        mask = mask[zoom:-zoom, zoom:-zoom]
        boxes.append((zoom * y1, zoom * x1, zoom * y2, zoom * x2))
        masks.append(mask)
    return Instances(shape, boxes, nuclei.scores, nuclei.class_ids, masks)


def draw_diagram(detector):
    """Figure 1 of `nucleus figures`, for the documents."""
    image, _ = synthetic.draw_tile(256, np.random.default_rng(3))
    draw_model(detector, image, detector.detect(image), IMAGES / "model.svg")


if __name__ == "__main__":
    shipped = Detector("he")
    draw_hero(shipped)
    draw_diagram(shipped)
