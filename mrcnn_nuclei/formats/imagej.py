"""ImageJ ROI zip: one traced region a nucleus, for Fiji's ROI Manager.

Outlines follow the edges of pixels, with the origin at the corner of the first, as ImageJ's wand
draws them: https://imagej.net/ij/developer/api/ij/ij/io/RoiDecoder.html
"""

import zipfile

from mrcnn.errors import InputError
from mrcnn.files import atomic_path
from mrcnn_nuclei.formats import bands, require
from mrcnn_nuclei.formats.outlines import fill, join, require_shape

#: Bytes that all regions of a file may unpack to; more is taken for a decompression bomb.
MAX_BYTES = 2**30

#: Names of the types of region that have an area. A composite counts as a rectangle.
_AREAS = ("POLYGON", "RECT", "OVAL", "FREEHAND", "TRACED")


def write(path, found, image=None, mpp=None):
    """Write one region for each nucleus of an image, named by its number.

    Parameters
    ----------
    path : str or Path
    found : Instances, or an object with `bands()`
        Those without pixels are left out. Several parts are joined by a line without width, since
        a traced region is one ring; holes are filled.
    image, mpp : ignored

    Notes
    -----
    Score and class are properties of the region, which ImageJ lists. The directory of a ZIP file is
    written last: of each nucleus, its entry there stays in memory.
    """
    roifile = require("roifile")
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
        for number, rings, score, class_id in _outlines(found):
            name = f"{number:05d}"
            region = roifile.ImagejRoi.frompoints(join(rings)[:-1].astype(int), name=name)
            region.roitype = roifile.ROI_TYPE.TRACED
            region.props = f"class: {class_id}\nscore: {score:.6g}\n"
            # An entry tells the time, unless it is told one.
            file.writestr(zipfile.ZipInfo(f"{name}.roi"), region.tobytes())


def read(path, shape=None):
    """Read the regions of an ImageJ ROI zip, by whatever tool.

    Parameters
    ----------
    path : str or Path
    shape : tuple of int
        (H, W) of the image, which the file does not tell.

    Returns
    -------
    Instances
        In the order of the file. Score and class are those that `write` notes, else 1.

    Raises
    ------
    InputError
        If `shape` is missing, the file is no zip of regions, has one that is no area, or unpacks to
        more than MAX_BYTES.
    """
    roifile = require("roifile")
    require_shape(path, shape)
    outlines, scores, class_ids = [], [], []
    try:
        for region in map(roifile.ImagejRoi.frombytes, _entries(path)):
            if region.roitype.name not in _AREAS:
                raise InputError(f"has a region of type {region.roitype.name}; trace the nuclei")
            properties = dict(
                line.split(": ", 1) for line in region.props.splitlines() if ": " in line
            )
            outlines.append(region.coordinates(multi=True))
            scores.append(float(properties.get("score", 1)))
            class_ids.append(int(properties.get("class", 1)))
        return fill(outlines, shape, 0.5, scores, class_ids)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # roifile and zipfile raise all kinds on broken files
        raise InputError(
            f"{path}: is no readable zip of ImageJ regions ({error}); save it again in the ROI "
            "Manager"
        ) from None


def _outlines(found):
    number = 0
    for _, instances in bands(found):
        for rings, score, class_id in zip(
            instances.to_polygons(), instances.scores.tolist(), instances.class_ids.tolist()
        ):
            number += 1
            if rings:
                yield number, rings, score, class_id


def _entries(path):
    with zipfile.ZipFile(path) as file:
        entries = [entry for entry in file.infolist() if entry.filename.lower().endswith(".roi")]
        if sum(entry.file_size for entry in entries) > MAX_BYTES:
            raise InputError(f"holds more than {MAX_BYTES:,} bytes; save the regions in parts")
        if not entries and file.infolist():
            raise InputError("has no .roi in it; save the regions in the ROI Manager")
        for entry in entries:
            yield file.read(entry)
