"""What OpenSlide reads: Aperio, Hamamatsu, MIRAX, Leica, Ventana, Zeiss, DICOM slides."""

import numpy as np

from mrcnn_nuclei.image_files import broken
from mrcnn_nuclei.slides import require
from mrcnn_nuclei.slides.slide import Slide


class OpenSlideFile(Slide):
    """A slide that OpenSlide reads. What the scanner left out is white, as glass is.

    Parameters
    ----------
    path : str or Path

    Raises
    ------
    InputError
        If OpenSlide is not installed, or cannot read the file.
    """

    def __init__(self, path):
        openslide = require("openslide")
        self._errors = openslide.OpenSlideError
        try:
            self._slide = openslide.OpenSlide(str(path))
        except openslide.OpenSlideError as error:
            raise broken(path, error) from None
        levels = [(height, width) for width, height in self._slide.level_dimensions]
        given = [self._slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
        mpp = None if None in given else float(np.mean([float(value) for value in given]))
        super().__init__(path, levels, mpp)

    def _read_level(self, level, window):
        y1, x1, y2, x2 = window
        scale = np.divide(self.shape[:2], self.levels[level])
        top, left = np.rint(np.multiply((y1, x1), scale)).astype(int).tolist()
        try:
            region = self._slide.read_region((left, top), level, (x2 - x1, y2 - y1))
        except self._errors as error:
            raise broken(self.path, error) from None
        pixels = np.asarray(region)
        pixels, alpha = pixels[..., :3], pixels[..., 3:]
        if alpha.min() == 255:
            return np.ascontiguousarray(pixels)
        blended = pixels * (alpha / np.float32(255)) + (255 - alpha)
        return np.rint(blended).astype(np.uint8)
