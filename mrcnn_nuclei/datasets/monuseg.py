"""MoNuSeg: H&E images as TIFF with outlines as Aperio ImageScope XML.

The layout is `train/NAME.tif` with `train/NAME.xml`, or both in one folder. Where an XML file is
missing, a label map `labels/NAME.png` stands in for it. `organs.json` (NAME to organ) is optional.

Kumar et al., "A Dataset and a Technique for Generalized Nuclear Segmentation for Computational
Pathology", IEEE Transactions on Medical Imaging 36(7), 2017.
"""

import json
from pathlib import Path
from xml.sax import SAXException
from xml.sax.handler import ContentHandler

import defusedxml.sax
import numpy as np
from defusedxml.common import DefusedXmlException
from skimage.draw import polygon

from mrcnn.errors import InputError
from mrcnn_nuclei.datasets import Sample, check_shape, missing_annotation, subset_folders
from mrcnn_nuclei.image_files import find_images, read_label_map

TIFF_SUFFIXES = (".tif", ".tiff")


def recognises(root):
    """Tell whether a folder holds TIFF images with XML outlines or with `labels/NAME.png`."""
    root = Path(root)
    if not root.is_dir():
        return False
    return any(
        path.with_suffix(".xml").is_file()
        or (folder.name == "train" and (root / "labels" / f"{path.stem}.png").is_file())
        for folder in subset_folders(root)
        for path in find_images(folder, TIFF_SUFFIXES)
    )


def find(root, subset=None):
    """List the images of a MoNuSeg folder.

    Parameters
    ----------
    root : str or Path
    subset : str, optional
        A subfolder, such as "test". Default: "train" and "val" where they exist, else `root`.

    Returns
    -------
    list of Sample
        With the organ, where `organs.json` tells it.

    Raises
    ------
    InputError
        If there is no such folder or no TIFF image in it.
    """
    root = Path(root)
    organs = _read_organs(root / "organs.json")
    samples = []
    for folder in subset_folders(root, subset):
        for image_path in find_images(folder, TIFF_SUFFIXES):
            name = image_path.stem
            candidates = (
                image_path.with_suffix(".xml"),
                root / "labels" / f"{name}.png",
                folder / "labels" / f"{name}.png",
            )
            annotation = next((path for path in candidates if path.is_file()), None)
            samples.append(Sample(name, image_path, annotation, organs.get(name)))
    if not samples:
        raise InputError(f"{root}: no TIFF images in it; format monuseg wants NAME.tif files")
    return sorted(samples, key=lambda sample: sample.name)


def read_labels(sample, shape):
    """Read the XML outlines of a sample, or its label map; see `read_annotation`."""
    if sample.annotation is None:
        raise missing_annotation(sample)
    if sample.annotation.suffix == ".xml":
        return read_annotation(sample.annotation, shape)
    labels = read_label_map(sample.annotation)
    check_shape(labels, shape, sample)
    return labels


def read_annotation(xml_path, shape):
    """Fill the outlines of an ImageScope file.

    Parameters
    ----------
    xml_path : str or Path
    shape : sequence of int
        Height and width of the image in pixels; what follows them is ignored.

    Returns
    -------
    ndarray
        int32 [H, W]. A region's label is its position in the file, from 1; a later region
        overwrites an earlier one. Regions of fewer than three vertices are left out, and parts
        beyond the edge are clipped. Pixels on an outline belong to it (`skimage.draw.polygon`).

    Raises
    ------
    InputError
        If the file is missing, not well-formed, declares entities or a document type, has no
        Annotation or Region, or has a region wholly outside the image.
    """
    height, width = shape[:2]
    labels = np.zeros((height, width), np.int32)
    regions = read_regions(xml_path)
    if not regions:
        raise InputError(f"{xml_path}: has no regions; outline the nuclei, or leave the image out")
    for label, (region_id, vertices) in enumerate(regions, start=1):
        if len(vertices) < 3:
            continue
        x, y = np.array(vertices).T
        if x.max() < 0 or y.max() < 0 or x.min() > width or y.min() > height:
            raise InputError(
                f"{xml_path}: region {region_id} lies outside its image of {width} x {height} "
                "pixels; pair each image with its own annotation"
            )
        labels[polygon(y, x, labels.shape)] = label
    return labels


def read_regions(xml_path):
    """Read the outlines of an ImageScope file as they are.

    Parameters
    ----------
    xml_path : str or Path

    Returns
    -------
    list of (id, list of (float, float))
        The id and the vertices (x, y) of each region, in the order of the file.

    Raises
    ------
    InputError
        If the file is missing, not well-formed, declares entities or a document type, or has no
        Annotation, or if a vertex is no number.
    """
    handler = _RegionHandler()
    try:
        with open(xml_path, "rb") as file:
            defusedxml.sax.parse(file, handler, forbid_dtd=True)
    except OSError as error:
        raise InputError(f"{xml_path}: cannot be read ({error.strerror}); check it") from None
    except DefusedXmlException:
        raise InputError(
            f"{xml_path}: declares a document type or entities, which annotations do not need and "
            "which can be harmful; remove the declaration"
        ) from None
    except SAXException as error:
        reason = f"{error.getMessage()}, line {error.getLineNumber()}"
        raise InputError(
            f"{xml_path}: is not well-formed XML ({reason}); export or copy it again"
        ) from None
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{xml_path}: a Vertex lacks a numeric X or Y ({error}); correct or export it again"
        ) from None
    if not handler.has_annotation:
        raise InputError(
            f"{xml_path}: has no Annotation; it must be an Aperio ImageScope annotation file"
        )
    for region_id, vertices in handler.regions:
        if not np.isfinite(vertices).all():
            raise InputError(f"{xml_path}: region {region_id} has a vertex that is no number")
    return handler.regions


class _RegionHandler(ContentHandler):
    """Collects (id, [(x, y), ...]) of each region, in a third of the time that a tree takes."""

    def __init__(self):
        super().__init__()
        self.has_annotation = False
        self.regions = []

    def startElement(self, name, attrs):
        if name == "Vertex" and self.regions:
            self.regions[-1][1].append((float(attrs["X"]), float(attrs["Y"])))
        elif name == "Region":
            self.regions.append((attrs.get("Id", len(self.regions) + 1), []))
        elif name == "Annotation":
            self.has_annotation = True


def _read_organs(path):
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise InputError(
            f"{path}: is not a JSON object of image name to organ; correct it"
        ) from None
