"""Outlines as Aperio ImageScope XML, as MoNuSeg has them: one Region a nucleus.

Vertices are in pixels of the full-resolution image; whole numbers are the centres of pixels, as the
reader of MoNuSeg's annotations takes them.
"""

import numpy as np

from mrcnn.errors import InputError
from mrcnn.files import atomic_path
from mrcnn_nuclei.datasets.monuseg import read_regions
from mrcnn_nuclei.formats import bands
from mrcnn_nuclei.formats.outlines import fill, join, require_shape

_HEAD = """\
<Annotations{microns}>
<Annotation Id="1" Name="Nuclei" ReadOnly="0" LineColor="65280" Visible="1" Selected="1" Type="4">
<Regions>
"""
_REGION = """\
<Region Id="{number}" Type="0" Zoom="1" Selected="0" Text="" NegativeROA="0" Analyze="1" \
DisplayId="{number}" Area="{area}"{microns}>
<Vertices>
{vertices}
</Vertices>
</Region>
"""
_TAIL = """\
</Regions>
</Annotation>
</Annotations>
"""


def write(path, found, image=None, mpp=None):
    """Write one region for each nucleus of an image; its id is the nucleus's number.

    Parameters
    ----------
    path : str or Path
    found : Instances, or an object with `bands()`
        Those without pixels are left out. Several parts are joined by a line without width, since
        a region is one ring; holes are filled.
    image : ignored
    mpp : float, optional
        Microns per pixel, for `MicronsPerPixel` and `AreaMicrons`.

    Notes
    -----
    `mrcnn_nuclei.datasets.monuseg.read_annotation` paints the same nuclei. The format has
    no scores.
    """
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="\n") as file,
    ):
        file.write(_HEAD.format(microns="" if mpp is None else f' MicronsPerPixel="{mpp:.6g}"'))
        number = 0
        for _, instances in bands(found):
            for rings, area in zip(instances.to_polygons(), instances.areas.tolist()):
                number += 1
                if rings:
                    file.write(_region(number, rings, area, mpp))
        file.write(_TAIL)


def read(path, shape=None):
    """Read the regions of an ImageScope file.

    Parameters
    ----------
    path : str or Path
    shape : tuple of int
        (H, W) of the image, which the file does not tell.

    Returns
    -------
    Instances
        In the order of the file.

    Raises
    ------
    InputError
        If `shape` is missing, the file is not well-formed, declares entities or a document type,
        has no Annotation, or has a region wholly outside the image.
    """
    require_shape(path, shape)
    outlines = [[np.array(vertices)] for _, vertices in read_regions(path)]
    try:
        return fill(outlines, shape, 0.0)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _region(number, rings, area, mpp):
    vertices = "\n".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in (join(rings)[:-1] - 0.5).tolist())
    microns = "" if mpp is None else f' AreaMicrons="{area * mpp**2:.6g}"'
    return _REGION.format(number=number, area=area, microns=microns, vertices=vertices)
