"""The plugin's widget: detect nuclei on an image layer, while the window stays alive."""

import subprocess
import sys
import tempfile
from pathlib import Path

from mrcnn.errors import InputError
from mrcnn_nuclei.napari.layers import labels_layer, place_of, read_nuclei, rgb_pixels
from mrcnn_nuclei.overlay import save_png

WRITTEN = "labels,csv"
"""Of `mrcnn_nuclei.formats.WRITERS`, what tells of nuclei and scores."""

NO_FILE = Path()
"""What an empty file box holds."""


def make_widget():
    """The widget, as napari asks for it.

    Returns
    -------
    magicgui.widgets.FunctionGui
    """
    import napari.layers
    from magicgui import magicgui
    from napari.qt.threading import FunctionWorker, create_worker
    from napari.types import LayerDataTuple
    from napari.utils.notifications import show_error

    def tell(error):
        show_error(" ".join(str(error).split()) or type(error).__name__)

    def detect_nuclei(
        image: napari.layers.Image, weights: Path = NO_FILE, settings: str = ""
    ) -> FunctionWorker[LayerDataTuple]:
        # napari adds what the worker returns. Unless told, it would show errors as tracebacks.
        return create_worker(
            detect_layer,
            image,
            weights,
            settings,
            _start_thread=False,
            _ignore_errors=True,
            _progress={"desc": "detecting nuclei"},
            _connect={"errored": tell},
        )

    widget = magicgui(
        detect_nuclei,
        call_button="Detect nuclei",
        weights={"filter": "*.h5", "tooltip": "What nucleus train wrote; none: the project's"},
        settings={
            "tooltip": "Changes to the settings of the weights, separated by blanks, such as "
            "DETECTION_MIN_CONFIDENCE=0.7 or FOREGROUND_THRESHOLD=0.6"
        },
    )
    widget.called.connect(lambda worker: worker.start())  # now napari listens to it
    return widget


def detect_layer(layer, weights=NO_FILE, settings=""):
    """Detect the nuclei of an image layer by `nucleus detect`.

    In a process of its own, since TensorFlow crashes in one that has loaded Mesa's OpenGL.

    Parameters
    ----------
    layer : napari.layers.Image
    weights : str or Path
        Default: those that come with the project.
    settings : str
        NAME=VALUE, separated by blanks.

    Returns
    -------
    tuple
        See `mrcnn_nuclei.napari.layers.labels_layer`; it lies where the image does.

    Raises
    ------
    InputError
        With the command's one line if it fails.
    """
    pixels = rgb_pixels(layer)
    with tempfile.TemporaryDirectory() as folder:
        image, results = Path(folder, "image.png"), Path(folder, "results")
        save_png(image, pixels)
        command = [sys.executable, "-m", "mrcnn_nuclei.cli", "detect", "--image", image]
        command += ["--output", results, "--write", WRITTEN]
        if Path(weights) != NO_FILE:
            command += ["--weights", weights]
        command += [part for setting in settings.split() for part in ("--set", setting)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            last = (run.stderr.strip() or f"nucleus detect ended with {run.returncode}").split("\n")
            raise InputError(last[-1].removeprefix("nucleus: error: "))
        nuclei = read_nuclei(results, image, pixels.shape[:2])
    return labels_layer(nuclei, f"nuclei of {layer.name}", **place_of(layer))
