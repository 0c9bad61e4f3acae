"""Images and label maps in files: TIFF, PNG, JPEG, WebP, BMP and, for label maps, NumPy's .npy.

Either the pixels of a file are what its writer stored, or reading it is refused. What has to be
converted (16-bit, grey, transparent, palette and CMYK images) is said once a kind on the logger
"mrcnn_nuclei".
"""

import io
import logging
import math
from pathlib import Path
from typing import NamedTuple

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from mrcnn.errors import InputError

log = logging.getLogger("mrcnn_nuclei")
# What tifffile complains about is raised here as an InputError, in one line.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".webp", ".bmp")
LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".npy")

#: What may stand behind an image's name in that of its label map; the first that is there counts.
#: "-lbl" is MorphoLibJ's in Fiji; "-labelled" and "-labels" are QuPath's.
LABEL_ENDINGS = (
    *("_labels", "_label", "_instances", "_cp_masks", "_masks", "_mask"),
    *("-labels", "-labelled", "-lbl"),
)

#: Pixels above which a file is taken for a decompression bomb: where Pillow refuses by itself.
MAX_PIXELS = 2 * Image.MAX_IMAGE_PIXELS

#: Depths that cameras deliver in 16-bit files.
CAMERA_BITS = (8, 10, 12, 14, 16)

_PILLOW_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_PILLOW_SPACES = {
    "1": "grey",
    "L": "grey",
    "I;16": "grey",
    "I;16B": "grey",
    "LA": "grey and alpha",
    "RGB": "RGB",
    "RGBA": "RGBA",
    "P": "palette",
    "CMYK": "CMYK",
}
_said = set()


class _Raster(NamedTuple):
    """Pixels as stored, [H, W] or [H, W, C], and what they mean; `palette` is uint8 [K, 3]."""

    pixels: np.ndarray
    space: str
    palette: np.ndarray | None = None


def find_images(folder, suffixes=IMAGE_SUFFIXES):
    """List the files of a folder by their suffix, hidden ones left out; none is no error."""
    return sorted(
        path
        for path in Path(folder).glob("*")
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )


def match_label_maps(names, files):
    """Find the label map of each image by its name.

    Parameters
    ----------
    names : iterable of str
        Of the images, without suffix; one of their own, ".ome", does not count.
    files : iterable of Path

    Returns
    -------
    dict of str to Path
        For each name that has one: NAME, NAME_labels, NAME_masks, ... Where there are several, the
        order of LABEL_ENDINGS decides, then that of LABEL_SUFFIXES.
    """
    by_stem = {}
    for path in sorted(files, key=lambda path: LABEL_SUFFIXES.index(path.suffix.lower())):
        by_stem.setdefault(path.stem.removesuffix(".ome"), path)
    matched = {}
    for name in names:
        plain = name.removesuffix(".ome")
        # The bare name comes last, since a picture of the image often has it.
        stems = [plain + end for end in (*LABEL_ENDINGS, "") if plain + end in by_stem]
        if stems:
            matched[name] = by_stem[stems[0]]
    return matched


def labelled_name(path):
    """The name of the image that a label map belongs to: NAME of NAME_labels.tif."""
    stem = Path(path).stem.removesuffix(".ome")
    ending = next((end for end in LABEL_ENDINGS if stem.endswith(end)), "")
    return stem.removesuffix(ending)


def read_image(path):
    """Read an image as 8-bit RGB.

    16-bit values are divided by the full range of the smallest camera depth (8, 10, 12, 14 or 16
    bits) that holds the largest of them, so a 12-bit image keeps its contrast. Transparency is
    dropped, not blended. EXIF orientation is ignored: annotations refer to the stored pixels.

    Parameters
    ----------
    path : str or Path
        TIFF, PNG, JPEG, WebP or BMP, told apart by content.

    Returns
    -------
    ndarray
        uint8 [H, W, 3], contiguous.

    Raises
    ------
    InputError
        If the file is missing, no image, truncated or corrupt, a stack, or of another pixel type.
    """
    path = Path(path)
    pixels, space, palette = _read_raster(path)
    if space == "palette":
        pixels = _look_up(path, pixels, palette)
    else:
        pixels = _to_8_bits(path, pixels, space)
    convert, what = _TO_RGB[space]
    if what:
        _say(path, what)
    return np.ascontiguousarray(convert(pixels))


def read_label_map(path):
    """Read a label map: 0 is background, each nucleus has a whole number of its own.

    Parameters
    ----------
    path : str or Path
        PNG (8 or 16 bits; of a palette image, the indices), TIFF or .npy. Floating-point numbers
        must be whole: ImageJ keeps labels above 65,535 so, having no integers of 32 bits.

    Returns
    -------
    ndarray
        int32 [H, W], the labels as stored.

    Raises
    ------
    InputError
        If the file cannot be read, or holds colours, fractions, negative numbers or a binary mask.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        labels, space = _read_npy(path), "grey"
    else:
        labels, space, _ = _read_raster(path)
    if labels.ndim != 2 or space not in ("grey", "inverted grey", "palette"):
        raise InputError(
            f"{path}: a label map has one number a pixel, this file has {_describe(labels)} "
            f"({space}); save the labels as a single-channel 16-bit PNG or TIFF"
        )
    if labels.dtype.kind == "f" and _are_whole(labels):
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "biu":
        raise InputError(
            f"{path}: labels are {labels.dtype}, not whole numbers; save them as integers"
        )
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest > np.iinfo(np.int32).max:
        raise InputError(
            f"{path}: labels run from {lowest} to {highest}; number the nuclei from 1, "
            "with 0 for background"
        )
    if highest == 255 and not np.any((labels > 0) & (labels < 255)):
        raise InputError(
            f"{path}: looks like a black and white mask (only 0 and 255), in which touching nuclei "
            "are one; give each nucleus a number of its own"
        )
    return labels.astype(np.int32)


def _are_whole(numbers):
    with np.errstate(invalid="ignore"):  # the remainder of infinity is NaN, which is not 0
        return not np.any(numbers % 1)


def read_mask(path):
    """Read a black and white mask.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    ndarray
        bool [H, W], true where any colour channel is above 0; transparency does not count.

    Raises
    ------
    InputError
        As `read_image`.
    """
    path = Path(path)
    pixels, space, palette = _read_raster(path)
    if space == "palette":
        pixels = _look_up(path, pixels, palette)
    elif space in ("RGBA", "grey and alpha"):
        pixels = pixels[..., :-1]
    return pixels.any(axis=2) if pixels.ndim == 3 else pixels != 0


def _read_raster(path):
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); check it") from None
    if not start:
        raise InputError(f"{path}: is empty (0 bytes); export or copy it again")
    if start[:2] in (b"II", b"MM"):
        raster = _read_tiff(path)
    else:
        raster = _read_with_pillow(path)
    if raster.pixels.size == 0:
        raise broken(path, "it has no pixels")
    return raster


def _read_tiff(path):
    try:
        with tifffile.TiffFile(path) as tiff:
            if not len(tiff.pages):
                raise broken(path, "its directory is missing")
            page = tiff.pages[0]
            _check_tiff(path, tiff, page)
            pixels = page.asarray()
            palette = page.colormap
    except InputError:
        raise
    except Exception as error:  # decoders raise all kinds on broken files
        raise broken(path, error) from None

    if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    photometric = page.photometric.name
    if photometric == "PALETTE" and channels == 1:
        return _Raster(pixels, "palette", (palette.T >> 8).astype(np.uint8))
    if photometric == "YCBCR" and page.compression.name in ("JPEG", "OJPEG"):
        photometric = "RGB"  # libjpeg has converted it
    space = {
        ("MINISBLACK", 1): "grey",
        ("MINISBLACK", 2): "grey and alpha",
        ("MINISWHITE", 1): "inverted grey",
        ("RGB", 3): "RGB",
        ("RGB", 4): "RGBA",
        ("SEPARATED", 4): "CMYK",
    }.get((photometric, channels))
    if space is None:
        raise InputError(
            f"{path}: {channels} channels of type {photometric} are not supported; "
            "save the image as RGB"
        )
    return _Raster(pixels, space)


def _check_tiff(path, tiff, page):
    """Refuse what would decode to something other than the one whole picture of the file."""
    axes = tiff.series[0].axes
    if len(tiff.pages) > 1 or not set(axes) <= set("YXS"):
        raise InputError(
            f"{path}: is a stack (pages: {len(tiff.pages)}, axes: {axes}), not one image; "
            "save the wanted page as a file of its own"
        )
    height, width = page.imagelength, page.imagewidth
    if height * width > MAX_PIXELS:
        raise _too_large(path, height, width)
    if height * width == 0:
        raise broken(path, "it has no pixels")
    if 1 < page.bitspersample < 8 and page.photometric.name != "PALETTE":
        raise InputError(f"{path}: has {page.bitspersample} bits a value; save it with 8 bits")
    size = tiff.filehandle.size
    ends = [at + count for at, count in zip(page.dataoffsets, page.databytecounts)]
    if len(ends) != math.prod(page.chunked) or not all(page.databytecounts) or max(ends) > size:
        raise broken(path, "some of its strips or tiles are missing")
    # tifffile takes a next page that lies beyond the end for none.
    tiff.filehandle.seek(tiff.pages.next_page_offset)
    if any(tiff.filehandle.read(tiff.tiff.offsetsize)):
        raise broken(path, "some of its pages are missing")


def _read_with_pillow(path):
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS) as image:
            file_format, frames = image.format, getattr(image, "n_frames", 1)
            if file_format == "PNG":
                image.verify()
        if frames > 1:
            raise InputError(
                f"{path}: holds {frames} pictures, not one image; save the wanted one as a file "
                "of its own"
            )
        if file_format == "PNG" and b"IEND\xaeB`\x82" not in data:  # Pillow would not miss it
            raise broken(path, "its end is missing")
        if file_format == "PNG" and data[24] == 16 and data[25] != 0:
            # Pillow keeps the upper byte only of colours of 16 bits.
            pixels = imagecodecs.png_decode(data)
            space = {2: "grey and alpha", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
            return _Raster(pixels, space)
        with Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS) as image:
            image.load()
            pixels, mode = np.asarray(image), image.mode
            palette = image.getpalette("RGB")
    except InputError:
        raise
    except Image.UnidentifiedImageError:
        raise InputError(
            f"{path}: is no TIFF, PNG, JPEG, WebP or BMP image, or its beginning is damaged; "
            "export or copy it again"
        ) from None
    except Image.DecompressionBombError:
        raise _too_large(path) from None
    except Exception as error:  # decoders raise all kinds on broken files
        raise broken(path, error) from None
    if mode not in _PILLOW_SPACES:
        raise InputError(f"{path}: pixels of type {mode} are not supported; save them as 8-bit RGB")
    palette = None if palette is None else np.array(palette, np.uint8).reshape(-1, 3)
    return _Raster(pixels, _PILLOW_SPACES[mode], palette)


def _read_npy(path):
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except Exception as error:  # NumPy raises all kinds on broken files
        raise broken(path, error) from None


def _to_8_bits(path, pixels, space):
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        return pixels * np.uint8(255)
    if pixels.dtype != np.uint16:
        raise InputError(
            f"{path}: pixels are {pixels.dtype}; save them as unsigned 8-bit or 16-bit numbers"
        )
    colours = pixels[..., :-1] if space in ("RGBA", "grey and alpha") else pixels
    bits = next(bits for bits in CAMERA_BITS if int(colours.max()) < 2**bits)
    _say(path, f"16-bit pixels that fit {bits} bits are scaled to 8 bits")
    scaled = np.round(np.arange(2**16) * (255 / (2**bits - 1)))
    return np.minimum(scaled, 255).astype(np.uint8)[pixels]


def _look_up(path, indices, palette):
    if indices.max() >= len(palette):
        raise broken(path, "a pixel lies beyond its palette")
    return palette[indices]


def _grey_to_rgb(grey):
    return np.repeat(grey[..., None], 3, axis=2)


def _cmyk_to_rgb(pixels):
    light = 255 - pixels.astype(np.uint16)
    return ((light[..., :3] * light[..., 3:] + 127) // 255).astype(np.uint8)


#: How uint8 pixels of each colour space become RGB, and what to tell the user about it.
_TO_RGB = {
    "RGB": (lambda rgb: rgb, None),
    "RGBA": (lambda rgba: rgba[..., :3], "transparency is dropped"),
    "palette": (lambda rgb: rgb, "palette colours are looked up"),
    "grey": (_grey_to_rgb, "grey is repeated as red, green and blue"),
    "inverted grey": (lambda grey: _grey_to_rgb(255 - grey), "grey is inverted, and repeated"),
    "grey and alpha": (lambda both: _grey_to_rgb(both[..., 0]), "transparency is dropped"),
    "CMYK": (_cmyk_to_rgb, "CMYK is converted to RGB without a colour profile"),
}


def _say(path, what):
    if what not in _said:
        _said.add(what)
        log.warning("%s: %s (said once for all such images)", path, what)


def _describe(pixels):
    return "an array of " + " x ".join(map(str, pixels.shape))


def broken(path, reason):
    """The error for a file that is truncated or corrupt, and why one thinks so."""
    reason = " ".join(str(reason).split()) or type(reason).__name__
    return InputError(f"{path}: is truncated or corrupt ({reason}); export or copy it again")


def _too_large(path, height=None, width=None):
    size = f"{width} x {height} pixels are" if width else "its size is"
    return InputError(
        f"{path}: {size} more than the limit of {MAX_PIXELS:,} pixels; cut it into smaller images"
    )
