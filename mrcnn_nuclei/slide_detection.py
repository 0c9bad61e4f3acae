"""Detection in slides: block by block, kept on disk, and put together from there.

What was found in a block is written before the next result is waited for. Stopped by whatever
cause, the same command goes on with the blocks that are missing. What comes out depends neither on
the order in which they were done nor on who did them.
"""

import json
import logging
import shutil
from functools import partial
from itertools import groupby
from pathlib import Path
from zipfile import BadZipFile

from tqdm import tqdm

from mrcnn.errors import InputError
from mrcnn.files import atomic_path
from mrcnn_nuclei import blocks, instance_files
from mrcnn_nuclei.blocks import block_grid, touches
from mrcnn_nuclei.contrast import prepare
from mrcnn_nuclei.tiling import merge_rows
from mrcnn_nuclei.tissue import find_tissue, tissue_statistics

LOGGER = logging.getLogger("mrcnn_nuclei")

MANIFEST = "blocks.json"
"""File of a slide's folder that tells of what its blocks were made."""


class SlideNuclei:
    """The nuclei of a slide, in files: what the writers of `mrcnn_nuclei.formats` go through.

    Parameters
    ----------
    shape : (int, int)
        (H, W) of the slide.
    parts : list of (int, Path, int)
        Of each band the row of pixels above which it and later ones have none, the file, and the
        number of nuclei.
    """

    def __init__(self, shape, parts):
        self.shape = shape
        self._parts = parts

    def __len__(self):
        return sum(count for _, _, count in self._parts)

    def bands(self):
        """Yield (top, Instances) from top to bottom; see `mrcnn_nuclei.formats.bands`."""
        for top, path, _ in self._parts:
            yield top, instance_files.read(path)


def detect_slide(
    detector, slide, folder, made_by, scale=1.0, region=None, cluster=None, progress=True
):
    """Find the nuclei of a slide.

    Parameters
    ----------
    detector : Detector
    slide : Slide
    folder : str or Path
        Where blocks are kept, those of an earlier call among them if they were made of the same.
    made_by
        JSON-able: what decides what is found, besides `scale`.
    scale : float
        Pixels that the network sees for each of the slide's.
    region : Region, optional
        Only nuclei whose centroid lies in it are wanted.
    cluster : Cluster, optional
        Who does it; by default this process.
    progress : bool
        Show a bar with an ETA.

    Returns
    -------
    found : SlideNuclei
        In files of the folder, until the next call.
    capped : int
        In how many tiles DETECTION_MAX_INSTANCES was reached.

    Raises
    ------
    InputError
        If a block cannot be read.
    """
    folder, config = Path(folder), detector.config
    tissue = find_tissue(slide)
    grid = block_grid(slide.shape[:2], config, scale)
    wanted = [
        block
        for block in grid
        if touches(block, tissue, slide.shape[:2]) and (region is None or region.meets(block.core))
    ]
    statistics = None
    if config.IMAGE_NORMALIZATION == "zscore":
        statistics = tissue_statistics(slide, tissue, scale, partial(prepare, config=config))
    _claim(folder, {"made_by": made_by, "scale": scale})
    done = [block for block in wanted if _path(folder, block).exists()]
    LOGGER.info(
        "%s: %d of %d blocks have something to look at, %d are done already",
        slide.path,
        len(wanted),
        len(grid),
        len(done),
    )
    missing = [block for block in wanted if not _path(folder, block).exists()]
    nuclei = capped = 0
    with tqdm(
        total=len(wanted),
        initial=len(done),
        desc="Detecting",
        unit="block",
        disable=not progress,
    ) as bar:
        for block, seen in _see(detector, slide, missing, scale, statistics, cluster):
            with atomic_path(_path(folder, block)) as temporary:
                temporary.write_bytes(seen.data)
            nuclei += seen.count
            capped += seen.capped
            bar.set_postfix(nuclei=nuclei, refresh=False)
            bar.update()
    return _put_together(folder, wanted, slide.shape[:2], region, progress), capped


def _see(detector, slide, missing, scale, statistics, cluster):
    """Each block with what was seen in it, as it comes."""
    if cluster is None:
        for block in missing:
            yield block, blocks.detect_block(detector, slide, block, scale, statistics)
    elif missing:
        look = partial(
            blocks.detect_block_of,
            detector.recipe,
            str(Path(slide.path).resolve()),
            scale=scale,
            statistics=statistics,
        )
        yield from cluster.map(look, missing)


def _put_together(folder, wanted, shape, region, progress):
    """Merge the blocks row by row into files of one band each."""
    bands = folder / "bands"
    shutil.rmtree(bands, ignore_errors=True)
    rows = [list(row) for _, row in groupby(wanted, key=lambda block: block.row)]
    windows = [[block.window for block in row] for row in rows]
    found = ([_read(_path(folder, block)) for block in row] for row in rows)
    parts = []
    merged = merge_rows(windows, found, shape)
    for top, band in tqdm(
        merged, "Joining", total=len(rows), unit="row", disable=not progress, delay=1
    ):
        if region is not None:
            band = region.select(band)
        if len(band):
            path = bands / f"{len(parts):04d}.npz"
            with atomic_path(path) as temporary:
                temporary.write_bytes(instance_files.pack(band))
            parts.append((top, path, len(band)))
    return SlideNuclei(tuple(shape), parts)


def _path(folder, block):
    return folder / f"{block.row:04d}_{block.column:04d}.npz"


def _read(path):
    try:
        return instance_files.read(path)
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise InputError(
            f"{path}: cannot be read ({error}); remove it and repeat the command"
        ) from None


def _claim(folder, made_of):
    """Remove blocks that were made of something else."""
    path = folder / MANIFEST
    made_of = json.loads(json.dumps(made_of))
    try:
        if json.loads(path.read_text()) == made_of:
            return
    except (OSError, ValueError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(made_of, indent=1))
