"""The base class of data sets: classes, images and how to read them."""

import logging
import warnings

import numpy as np
import skimage.io
from PIL import Image
from skimage.util import img_as_ubyte

from mrcnn.errors import InputError

logger = logging.getLogger(__name__)


class Dataset:
    """A list of images with instances of known classes.

    Subclass it, call `add_class` and `add_image` for all there is, override `load_mask`, and call
    `prepare` before use. Sources keep apart the classes and images of data sets that are combined:
    each source numbers its classes as it likes, and the network sees one common numbering.

    A subclass may also define

        load_labels(image_id) -> (labels, class_ids)

    with an int32 label map [H, W], 0 for the background, and int32 class IDs [N] of the labels 1
    to N. Callers that find it prefer it to `load_mask`: a thousand instances then cost one array
    of the image's size. This base class does not define it.

    Parameters
    ----------
    class_map : dict, optional
        Accepted for compatibility; not used.

    Attributes
    ----------
    image_info : list of dict
        "id", "source", "path" and whatever else `add_image` was given, an image each.
    class_info : list of dict
        "source", "id" and "name" of each class. The first is the background, "BG".
    num_classes, num_images : int
    class_ids : ndarray [num_classes]
    class_names : list of str
    class_from_source_map, image_from_source_map : dict
        From "source.id" to the index here.
    sources : list of str
    source_class_ids : dict
        From each source to the indices of its classes, the background included.
    """

    def __init__(self, class_map=None):
        self._image_ids = []
        self.image_info = []
        self.class_info = [{"source": "", "id": 0, "name": "BG"}]
        self.source_class_ids = {}

    def add_class(self, source, class_id, class_name):
        """Add a class, unless the source already has one of this ID.

        Parameters
        ----------
        source : str
            Name of the data set, without a dot.
        class_id : int
            The class's number in the source.
        class_name : str

        Raises
        ------
        InputError
            If the source's name contains a dot.
        """
        if "." in source:
            raise InputError(f"source {source!r} contains a dot: choose a name without one")
        known = {(info["source"], info["id"]) for info in self.class_info}
        if (source, class_id) not in known:
            self.class_info.append({"source": source, "id": class_id, "name": class_name})

    def add_image(self, source, image_id, path, **kwargs):
        """Add an image.

        Parameters
        ----------
        source : str
        image_id : int or str
            What the source calls the image.
        path : str or Path
        **kwargs
            Anything else to keep in `image_info`.
        """
        self.image_info.append({"id": image_id, "source": source, "path": path, **kwargs})

    def image_reference(self, image_id):
        """A link or text that tells a person which image this is; subclasses override it."""
        return ""

    def prepare(self, class_map=None):
        """Number classes and images; call it after all of them have been added.

        Parameters
        ----------
        class_map : dict, optional
            Accepted for compatibility; not used.
        """
        self.num_classes = len(self.class_info)
        self.class_ids = np.arange(self.num_classes)
        self.class_names = [info["name"].split(",")[0] for info in self.class_info]
        self.num_images = len(self.image_info)
        self._image_ids = np.arange(self.num_images)
        self.class_from_source_map = _by_source(self.class_info)
        self.image_from_source_map = _by_source(self.image_info)
        self.sources = list(dict.fromkeys(info["source"] for info in self.class_info))
        self.source_class_ids = {
            source: [
                index
                for index, info in enumerate(self.class_info)
                if index == 0 or info["source"] == source
            ]
            for source in self.sources
        }

    def map_source_class_id(self, source_class_id):
        """The class's index here, from "source.id"."""
        return self.class_from_source_map[source_class_id]

    def get_source_class_id(self, class_id, source):
        """The number that a source gave to a class.

        Raises
        ------
        ValueError
            If the class comes from another source.
        """
        info = self.class_info[class_id]
        if info["source"] != source:
            raise ValueError(f"class {class_id} comes from {info['source']!r}, not {source!r}")
        return info["id"]

    @property
    def image_ids(self):
        """Indices of all images, known after `prepare`."""
        return self._image_ids

    def source_image_link(self, image_id):
        """Path or URL of an image."""
        return self.image_info[image_id]["path"]

    def load_image(self, image_id):
        """Read an image from its file.

        Parameters
        ----------
        image_id : int

        Returns
        -------
        ndarray uint8 [H, W, 3]
            RGB. Grey is repeated, an alpha channel dropped; CMYK and deeper pixels are converted
            with a warning.

        Raises
        ------
        InputError
            If the file cannot be read or is no such image.
        """
        path = self.image_info[image_id]["path"]
        try:
            image = skimage.io.imread(path)
        except Exception as error:  # each decoder raises its own kinds
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise InputError(f"{path}: not a readable image ({reason}): check the file") from error
        return _to_rgb(image, path)

    def load_mask(self, image_id):
        """Read the instances of an image; subclasses override it.

        Parameters
        ----------
        image_id : int

        Returns
        -------
        masks : ndarray bool [H, W, N]
        class_ids : ndarray int32 [N]
        """
        logger.warning("this data set does not define load_mask(): its images have no instances")
        return np.empty((0, 0, 0), bool), np.empty(0, np.int32)


def _by_source(infos):
    return {f"{info['source']}.{info['id']}": index for index, info in enumerate(infos)}


def _to_rgb(image, path):
    """Any decoded picture as uint8 RGB [H, W, 3]."""
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim != 3 or image.shape[2] not in (1, 2, 3, 4):
        raise InputError(
            f"{path}: array of shape {image.shape} is no grey, RGB or RGBA image: convert it"
        )
    if image.shape[2] == 4 and _is_cmyk(path):
        warnings.warn(f"{path}: CMYK converted to RGB without a colour profile", stacklevel=3)
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    if image.dtype != np.uint8:
        if not (image.dtype in (bool, np.uint16) or _is_fraction(image)):
            raise InputError(
                f"{path}: {image.dtype} pixels have no known range: save it with 8 bits a channel"
            )
        if image.dtype != bool:
            warnings.warn(f"{path}: {image.dtype} reduced to 8 bits a channel", stacklevel=3)
        image = img_as_ubyte(image)
    if image.shape[2] < 3:
        return np.repeat(image[:, :, :1], 3, axis=2)
    return image[:, :, :3]


def _is_fraction(image):
    return image.dtype.kind == "f" and image.min() >= 0 and image.max() <= 1


def _is_cmyk(path):
    try:
        with Image.open(path) as picture:
            return picture.mode == "CMYK"
    except OSError:  # a format that Pillow does not know
        return False
