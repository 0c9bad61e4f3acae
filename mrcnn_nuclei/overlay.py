"""Pictures of nuclei on their image: outlines that leave the tissue visible."""

import numpy as np

from mrcnn.errors import InputError
from mrcnn.files import atomic_path
from mrcnn.instances import Instances
from mrcnn.opencv import cv2
from mrcnn.palettes import AUTO, find_palette, neighbour_indices
from mrcnn_nuclei.formats import bands
from mrcnn_nuclei.metrics import find_matched, find_overlaps
from mrcnn_nuclei.resolution import scaled_shape
from mrcnn_nuclei.slides import Picture

FOUND, FALSE, MISSED = (0, 240, 255), (255, 230, 0), (255, 255, 255)

#: Pixels of the longer side of an overlay; larger images are reduced.
MAX_SIDE = 4096

#: Outlines are two pixels wide where the median nucleus has at least this area in pixels.
THICK_ABOVE = 250


def draw_overlay(image, instances, *, palette=AUTO, thickness=None):
    """Draw the outline of every instance, neighbours in different colours.

    Parameters
    ----------
    image : uint8 array [H, W, 3] or [H, W]
    instances : Instances
    palette : str or sequence of (red, green, blue)
        A name, see `mrcnn.palettes`, or levels from 0 to 255.
    thickness : int, optional
        Width of the lines in pixels, inside the masks. Default 1, and 2 for larger nuclei.

    Returns
    -------
    uint8 array [H, W, 3]
        RGB.

    Raises
    ------
    InputError
        If the image and the instances differ in size.
    """
    canvas = _canvas(image, instances)
    thickness = thickness or _thickness(instances)
    if isinstance(palette, str):
        palette = find_palette(palette, canvas)
    palette = np.asarray(palette, np.uint8)
    colours = palette[neighbour_indices(instances.boxes, len(palette))]
    _draw_outlines(canvas, instances, colours, thickness)
    return canvas


def compare_overlay(image, truth, prediction, *, iou_threshold=0.5, thickness=None):
    """Draw what was found, what is false and what was missed.

    Parameters
    ----------
    image : uint8 array [H, W, 3] or [H, W]
    truth, prediction : Instances
    iou_threshold : float
        A nucleus is found if a prediction has more than this IoU with it, one to one.
    thickness : int, optional
        Width of the lines in pixels, as for `draw_overlay`.

    Returns
    -------
    uint8 array [H + L, W, 3]
        RGB: predictions that match (cyan) and that do not (yellow), ground truth that was missed
        (white), and below the image a legend of L rows that counts them.

    Raises
    ------
    InputError
        If the three differ in size.
    """
    canvas = _canvas(image, prediction)
    thickness = thickness or _thickness(truth)
    truth, prediction = truth[truth.areas > 0], prediction[prediction.areas > 0]
    found, right = find_matched(find_overlaps(truth, prediction), iou_threshold)
    missed = truth[~found]

    _draw_outlines(canvas, missed, np.full((len(missed), 3), MISSED), thickness)
    colours = np.where(right[:, None], FOUND, FALSE)
    _draw_outlines(canvas, prediction, colours, thickness)
    entries = [
        (FOUND, f"found {right.sum()}"),
        (FALSE, f"false {(~right).sum()}"),
        (MISSED, f"missed {len(missed)}"),
    ]
    return np.concatenate([canvas, _legend(canvas.shape[1], entries)])


def save_png(path, picture):
    """Write an RGB picture as PNG, whole or not at all.

    Parameters
    ----------
    path : str or Path
    picture : uint8 array [H, W, 3]
    """
    _, data = cv2.imencode(".png", picture[..., ::-1])
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write(path, found, image=None, mpp=None):
    """Write the overlay of one image as PNG: the writer "overlay" of `mrcnn_nuclei.formats`.

    An image with a side of more than MAX_SIDE pixels is shown reduced to that, see
    `draw_reduced_overlay`.
    """
    if image is None:
        raise InputError(f"{path}: an overlay needs the image to draw on")
    if max(image.shape[:2]) > MAX_SIDE:
        picture = draw_reduced_overlay(image, found, MAX_SIDE)
    else:
        nuclei = [instances for _, instances in bands(found)]
        nuclei = Instances.concatenate([Instances.empty(found.shape), *nuclei])
        picture = draw_overlay(image[:, :], nuclei)
    save_png(path, picture)


def draw_reduced_overlay(image, found, side):
    """Draw the outlines of nuclei on a reduced image, whatever its size.

    Parameters
    ----------
    image : Slide, or uint8 array [H, W, 3] or [H, W]
    found : Instances, or an object with `bands()`
    side : int
        Of the picture's longer side, in pixels.

    Returns
    -------
    uint8 array [h, w, 3]
        RGB. Outlines are a pixel wide; where a nucleus is smaller, it is a dot.

    Raises
    ------
    InputError
        If the image and the nuclei differ in size.
    """
    if tuple(image.shape[:2]) != tuple(found.shape):
        sizes = " and ".join(f"{h} x {w}" for h, w in (image.shape[:2], found.shape))
        raise InputError(f"image and instances differ in size: {sizes} pixels")
    if isinstance(image, np.ndarray):
        image = Picture(np.stack([image] * 3, axis=-1) if image.ndim == 2 else image[..., :3])
    factor = side / max(image.shape[:2])
    shape = scaled_shape(image.shape[:2], factor)
    canvas = image.thumbnail(shape)
    palette = find_palette(AUTO, canvas)
    for _, instances in bands(found):
        colours = palette[neighbour_indices(instances.boxes, len(palette))]
        for mask, (y1, x1), colour in zip(instances.masks, instances.boxes[:, :2], colours):
            y, x = np.nonzero(_rim(mask, 1))
            rows = ((y + y1 + 0.5) * (shape[0] / image.shape[0])).astype(int)
            columns = ((x + x1 + 0.5) * (shape[1] / image.shape[1])).astype(int)
            canvas[rows, columns] = colour
    return canvas


def _canvas(image, instances):
    image = np.asarray(image)
    if image.shape[:2] != instances.shape:
        sizes = " and ".join(f"{h} x {w}" for h, w in (image.shape[:2], instances.shape))
        raise InputError(f"image and instances differ in size: {sizes} pixels")
    if image.dtype != np.uint8:
        raise InputError(f"an overlay needs an 8-bit image, not {image.dtype}")
    if image.ndim == 2:
        image = np.stack([image] * 3, axis=-1)
    return image[..., :3].copy()


def _thickness(instances):
    return 2 if len(instances) and np.median(instances.areas) >= THICK_ABOVE else 1


def _draw_outlines(canvas, instances, colours, thickness):
    """Paint the rim of each mask, the best score last."""
    for k in np.argsort(instances.scores, kind="stable"):
        y1, x1, y2, x2 = instances.boxes[k]
        canvas[y1:y2, x1:x2][_rim(instances.masks[k], thickness)] = colours[k]


def _rim(mask, thickness):
    """The pixels of a mask that are at most `thickness` from its edge."""
    if not mask.size:
        return mask
    inside = cv2.erode(
        mask.astype(np.uint8),
        cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)),
        iterations=thickness,
        borderType=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
    return mask & (inside == 0)


def _legend(width, entries):
    """A strip that names each colour, as wide as the picture."""
    scale = np.clip(width / 900, 0.35, 1.5)
    height = round(36 * scale)
    strip = np.full((height, width, 3), 150, np.uint8)
    for k, (colour, text) in enumerate(entries):
        left = round((k + 0.05) * width / len(entries))
        bottom = round(0.7 * height)
        cv2.rectangle(strip, (left, height - bottom), (left + bottom, bottom), colour, cv2.FILLED)
        cv2.putText(
            strip,
            text,
            (left + round(1.2 * height), bottom),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.7 * scale,
            (0, 0, 0),
            max(1, round(1.5 * scale)),
            cv2.LINE_AA,
        )
    return strip
