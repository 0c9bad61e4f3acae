"""An image with its nuclei in a window of napari."""

import os
import sys
from pathlib import Path

from mrcnn.errors import InputError
from mrcnn_nuclei.image_files import read_image
from mrcnn_nuclei.napari.layers import labels_layer, read_nuclei

SCREENS = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
"""Variables of the environment by which Qt finds a screen on Linux; without one it aborts."""

OPACITY = 0.4
"""Of predictions, under which the tissue stays visible."""


def view(image_path, prediction, truth=None):
    """Show an image and its nuclei until the window is closed.

    Parameters
    ----------
    image_path : str or Path
    prediction, truth : str or Path
        See `mrcnn_nuclei.napari.layers.read_nuclei`.

    Raises
    ------
    InputError
        If napari or a screen is missing, or a file cannot be used.
    """
    napari = _import_napari()
    window = napari.Viewer(title=Path(image_path).name, show=False)
    add_layers(window, image_path, prediction, truth)
    window.show()
    napari.run()


def add_layers(viewer, image_path, prediction, truth=None):
    """Add an image and its nuclei to a viewer; those of the truth as outlines.

    Parameters
    ----------
    viewer : napari.Viewer or napari.components.ViewerModel
    image_path, prediction, truth
        See `view`.
    """
    image = read_image(image_path)
    shape = image.shape[:2]
    nuclei = read_nuclei(prediction, image_path, shape)
    found = labels_layer(nuclei, "prediction", opacity=OPACITY)
    layers = [(image, {"name": Path(image_path).stem, "rgb": True}, "image"), found]
    if truth is not None:
        layers.append(labels_layer(read_nuclei(truth, image_path, shape), "truth"))
    for data, attributes, kind in layers:
        layer = getattr(viewer, f"add_{kind}")(data, **attributes)
        if layer.name == "truth":
            layer.contour = 2


def _import_napari():
    try:
        import napari
        import qtpy.QtWidgets  # noqa: F401
    except (ImportError, RuntimeError) as error:  # qtpy's, of a missing Qt, is of either kind
        raise InputError(
            f"napari cannot be started ({' '.join(str(error).split())}); "
            "pip install 'mrcnn-nuclei[napari]'"
        ) from None
    if sys.platform == "linux" and not any(os.environ.get(name) for name in SCREENS):
        raise InputError("napari needs a screen, and DISPLAY names none; log in with a desktop")
    return napari
