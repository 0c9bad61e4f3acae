"""The embedded data set: tiles that imitate H&E-stained tissue at 40x, drawn from a seed.

A tile is drawn as light sees a slide. Two maps hold how much haematoxylin and how much eosin lies
in each pixel; the stain vectors turn them into optical density, and Beer-Lambert's law into colour.
Stroma with fibres, nests of epithelium, lumens and cracks in the tissue come from smooth random
fields; nuclei are placed one by one, alone or against a neighbour, and later ones lie on top of
earlier ones, so that the label map is exact.

The set is hard for a threshold: pale nuclei are no darker than cytoplasm, clusters merge, and
smudges, red blood cells and debris are stained but are no nuclei.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from skimage.color import rgb_from_hed

from mrcnn.files import atomic_path
from mrcnn.opencv import cv2

# Ruifrok and Johnston, "Quantification of histochemical staining by color deconvolution", 2001:
# optical density of each stain in red, green and blue. The third vector stands for what scanner
# and section add; some of it in the eosin turns its magenta into the salmon pink of real slides.
HAEMATOXYLIN, EOSIN, RESIDUAL = rgb_from_hed

NUCLEI_PER_PIXEL = (60 / 256**2, 90 / 256**2)  # a tile's default density lies in this range
MARGIN = 24  # tissue is drawn this far beyond the tile, so that nuclei are cut at its edges


def generate(count=12, size=256, seed=0, nuclei=None):
    """Draw a data set.

    Parameters
    ----------
    count : int
        Number of tiles. Tile i is the same whatever the count.
    size : int
        Height and width of each tile in pixels.
    seed : int
    nuclei : int, optional
        Nuclei to draw in each tile; see `draw_tile`.

    Returns
    -------
    list of (str, ndarray, ndarray)
        Name, image uint8 [size, size, 3] and label map int32 [size, size] of each tile.
    """
    return [
        (f"synthetic_{index:03d}", *draw_tile(size, np.random.default_rng([seed, index]), nuclei))
        for index in range(count)
    ]


def write(root, count=12, size=256, seed=0, nuclei=None):
    """Draw a data set into the folders `images` and `labels` of `root`.

    The label maps are 16-bit greyscale PNG, 0 for background. The parameters are those of
    `generate`.

    Returns
    -------
    list of Path
        The images.
    """
    return write_tiles(root, generate(count, size, seed, nuclei))


def write_tiles(root, tiles):
    """Write drawn tiles into the folders `images` and `labels` of `root`.

    Parameters
    ----------
    root : str or Path
    tiles : iterable of (str, ndarray, ndarray)
        As `generate` returns them.

    Returns
    -------
    list of Path
        The images.
    """
    images = []
    for name, image, labels in tiles:
        images.append(Path(root) / "images" / f"{name}.png")
        _write_png(images[-1], image[..., ::-1])
        _write_png(Path(root) / "labels" / f"{name}.png", labels.astype(np.uint16))
    return images


def draw_tile(size, rng, nuclei=None):
    """Draw one tile.

    Parameters
    ----------
    size : int
        Height and width in pixels.
    rng : numpy.random.Generator
    nuclei : int, optional
        How many nuclei to draw; about 60 to 90 in 256 x 256 by default. 0 draws tissue without
        nuclei. Nuclei shrink where so many would not fit, and the few that still find no place
        are left out.

    Returns
    -------
    image : ndarray
        uint8 [size, size, 3], RGB.
    labels : ndarray
        int32 [size, size]: 0 for background, 1.. for the nuclei.
    """
    tissue = _Tissue(size + 2 * MARGIN, rng)
    if nuclei is None:
        nuclei = round(rng.uniform(*NUCLEI_PER_PIXEL) * size**2)
    # The margin gets its share, so that about this many lie in the tile or reach into it.
    placed, labels = _place_nuclei(tissue, round(nuclei * (tissue.size / (size + 16)) ** 2), rng)

    haematoxylin, eosin = _stain_tissue(tissue, labels, rng)
    _stain_distractors(haematoxylin, eosin, tissue, labels, rng)
    _stain_nuclei(haematoxylin, eosin, placed, rng)

    tile = np.s_[MARGIN : MARGIN + size, MARGIN : MARGIN + size]
    image = _photograph(haematoxylin[tile], eosin[tile], rng)
    _, consecutive = np.unique(np.append(labels[tile], 0), return_inverse=True)
    return image, consecutive[:-1].reshape(size, size).astype(np.int32)


class _Tissue:
    """The architecture of a tile: where epithelium, stroma and holes lie, how fibres run."""

    def __init__(self, size, rng):
        self.size = size
        self.shape = (size, size)
        # One smooth field makes nests of epithelium, and lumens where it is highest: a lumen is
        # thus surrounded by epithelium, and nests by stroma.
        self.depth = _fractal(rng, self.shape, 75)
        nest_edge, lumen_edge = rng.uniform(-0.9, 0.3), rng.uniform(1.1, 2.6)
        self.epithelium = _step(self.depth - nest_edge, 0.12)
        self.lumen = _step(self.depth - lumen_edge, 0.05)
        self.gland = np.exp(-(((self.depth - lumen_edge + 0.35) / 0.2) ** 2))  # around lumens
        # Fibres follow the level lines of a bent ramp.
        angle = rng.uniform(0, np.pi)
        y, x = np.mgrid[:size, :size].astype(np.float32)
        ramp = (
            y * np.cos(angle)
            + x * np.sin(angle)
            + rng.uniform(5, 20) * _fractal(rng, self.shape, 70, 1)
        )
        along = x * np.cos(angle) - y * np.sin(angle)
        noise = _fractal(rng, (size // 4, 3 * size), 3.5)
        self.fibres = cv2.remap(
            noise,
            np.float32(ramp + size),
            np.float32(along / 14 + size / 8),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REFLECT,
        )
        slope_y, slope_x = np.gradient(ramp)
        self.fibre_angle = np.arctan2(slope_x, -slope_y)
        slope_y, slope_x = np.gradient(self.depth)
        self.nest_angle = np.arctan2(slope_y, slope_x)
        cracks = self.fibres + 1.2 * _fractal(rng, self.shape, 35, 1)
        self.cracks = _step(cracks - rng.uniform(2.2, 3.4), 0.25) * (1 - self.epithelium)
        self.infiltrate = _fractal(rng, self.shape, 40, 1)
        self.nucleus_radius = rng.uniform(8, 11.5)  # of the epithelium, in pixels


@dataclass(frozen=True)
class _Kind:
    """How nuclei of a kind look: sizes in pixels, stain in units of haematoxylin."""

    radius: tuple  # of a circle of the same area; epithelium: times the tile's own
    elongation: tuple  # long axis / short axis
    irregularity: float  # of the outline, as a part of the radius
    strength: tuple
    rim: float  # chromatin on the membrane, compared to that inside
    clumps: float  # contrast of the chromatin inside
    nucleoli: int  # at most


EPITHELIAL = _Kind((0.75, 1.4), (1.05, 1.7), 0.06, (0.65, 1.35), 0.5, 0.26, 3)
LYMPHOCYTE = _Kind((4.3, 6.0), (1.0, 1.25), 0.04, (1.2, 1.9), 0.15, 0.20, 0)
FIBROBLAST = _Kind((4.3, 7.0), (2.2, 4.5), 0.05, (0.8, 1.6), 0.25, 0.15, 0)


@dataclass(frozen=True)
class _Nucleus:
    kind: _Kind
    window: tuple  # slices of the canvas
    depth: np.ndarray  # float32 [h, w]: pixels inside the outline, negative outside
    label: int
    centre: tuple
    radius: float


def _place_nuclei(tissue, count, rng):
    """Return the nuclei, earliest first, and the label map of the canvas."""
    labels = np.zeros(tissue.shape, np.int32)
    placed = []
    areas = [0]
    # Nuclei of 240 pixels on average shall cover at most half of the canvas.
    crowding = min(1.0, math.sqrt(0.5 * tissue.size**2 / max(1, 240 * count)))
    for _ in range(20 * count):
        if len(placed) == count:
            break
        kind, centre, angle, radius = _propose(tissue, placed, crowding, rng)
        y, x = np.int32(centre)
        if not (0 <= y < tissue.size and 0 <= x < tissue.size):
            continue
        if tissue.lumen[y, x] > 0.2 or tissue.cracks[y, x] > 0.5:
            continue
        if rng.random() > 0.4 + tissue.gland[y, x]:
            continue
        window, depth = _outline(kind, centre, angle, radius, tissue.shape, rng)
        inside = depth > 0
        if _covers_too_much(labels[window], inside, areas):
            continue
        label = len(placed) + 1
        labels[window][inside] = label
        areas.append(np.count_nonzero(inside))
        placed.append(_Nucleus(kind, window, depth, label, centre, radius))
    return placed, labels


def _propose(tissue, placed, crowding, rng):
    """Draw kind, centre, angle and radius of the next nucleus."""
    neighbour = placed[rng.integers(len(placed))] if placed and rng.random() < 0.45 else None
    if neighbour is not None and neighbour.kind is FIBROBLAST:
        neighbour = None  # fibroblasts lie alone
    if neighbour is None:
        centre = rng.uniform(0, tissue.size, 2)
        kind = _kind_at(tissue, np.int32(centre), rng)
    else:
        centre, kind = neighbour.centre, neighbour.kind
    radius = rng.uniform(*kind.radius) * crowding
    if kind is EPITHELIAL:
        radius *= tissue.nucleus_radius
    if neighbour is not None:
        direction = rng.uniform(0, 2 * np.pi)
        reach = (radius + neighbour.radius) * rng.uniform(0.9, 1.8)
        centre = centre + reach * np.array([np.sin(direction), np.cos(direction)])
    y, x = np.clip(np.int32(centre), 0, tissue.size - 1)
    angles = tissue.fibre_angle if kind is FIBROBLAST else tissue.nest_angle
    return kind, centre, angles[y, x] + rng.normal(0, 0.35), radius


def _kind_at(tissue, centre, rng):
    y, x = centre
    if rng.random() < tissue.epithelium[y, x]:
        return EPITHELIAL if rng.random() < 0.93 else LYMPHOCYTE
    return LYMPHOCYTE if tissue.infiltrate[y, x] + rng.normal(0, 0.6) > 0.4 else FIBROBLAST


def _outline(kind, centre, angle, radius, shape, rng):
    """Return the window of the canvas around a nucleus and each pixel's depth inside its outline.

    The outline is an ellipse, bent if it is long, whose radius a few low Fourier terms disturb.
    """
    elongation = rng.uniform(*kind.elongation)
    reach = int(radius * np.sqrt(elongation) * 1.35) + 4
    y0, x0 = np.maximum(np.int32(centre) - reach, 0)
    y1, x1 = np.minimum(np.int32(centre) + reach + 1, shape)
    y = np.arange(y0, y1, dtype=np.float32)[:, None] - np.float32(centre[0])
    x = np.arange(x0, x1, dtype=np.float32) - np.float32(centre[1])
    cosine, sine = np.float32([np.cos(angle), np.sin(angle)])
    u, v = x * cosine + y * sine, y * cosine - x * sine
    if elongation > 2:
        v = v + np.float32(rng.normal(0, 0.08)) * (u * u / np.float32(radius) - np.float32(radius))
    stretch = np.float32(np.sqrt(elongation))
    point = u / stretch + 1j * (v * stretch)
    distance = np.abs(point)
    direction = point / np.maximum(distance, 1e-6)
    # Terms of order 5 down to 2: order 1 would only move the nucleus, order 0 only scale it.
    terms = rng.normal(0, kind.irregularity, 4) * [0.4, 0.5, 0.67, 1.0]
    terms = np.append(terms * np.exp(2j * np.pi * rng.random(4)), [0, 0])
    edge = radius * (1 + np.polyval(terms.astype(np.complex64), direction).real)
    # Depth is exact across the short axis and stretched along the long one.
    return (slice(y0, y1), slice(x0, x1)), (edge - distance) / stretch


def _covers_too_much(labels, inside, areas):
    """Tell whether a new nucleus would hide a third of another one, or cut it in two."""
    below = labels[inside]
    hidden = np.bincount(below)
    hidden[:1] = 0
    for label in np.flatnonzero(hidden):
        if hidden[label] > 0.3 * min(areas[label], len(below)):
            return True
        rest = ((labels == label) & ~inside).astype(np.uint8)
        if cv2.connectedComponents(rest, connectivity=4)[0] != 2:
            return True
    return False


def _stain_tissue(tissue, labels, rng):
    """Return haematoxylin and eosin of everything but the nuclei."""
    shape = tissue.shape
    grain = _fractal(rng, shape, 3, 2)
    clouds = _fractal(rng, shape, 30, 2)
    stroma_eosin = rng.uniform(0.25, 0.5) * (1 + 0.3 * tissue.fibres + 0.2 * clouds)
    stroma_haematoxylin = rng.uniform(0.05, 0.2) * (1 + 0.2 * tissue.fibres + 0.2 * grain)

    # Cytoplasm: one cell for each nucleus, of its own tone, with a membrane between cells.
    distance, nearest = cv2.distanceTransformWithLabels(
        np.uint8(labels == 0), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    owner = np.zeros(nearest.max() + 1, np.int32)
    owner[nearest[labels > 0]] = labels[labels > 0]
    cells = owner[nearest]
    tone = rng.standard_normal(len(owner), np.float32)[cells]
    membrane = cv2.morphologyEx(np.float32(cells), cv2.MORPH_GRADIENT, np.ones((2, 2)))
    membrane = cv2.GaussianBlur(np.float32(membrane > 0), (0, 0), 1.0)
    body = np.exp(-((np.minimum(distance, 99) / rng.uniform(9, 18)) ** 2))
    level = rng.uniform(0.15, 0.55)
    contrast = rng.uniform(-1.0, 0.3) + 2.5 * max(0, 0.4 - level)
    texture = 0.12 * tone + 0.15 * clouds + 0.15 * grain + contrast * membrane
    cell_eosin = level * (0.6 + 0.4 * body + texture)
    cell_haematoxylin = rng.uniform(0.1, 0.4) * (0.4 + 0.6 * body + texture)

    epithelium = tissue.epithelium
    eosin = epithelium * cell_eosin + (1 - epithelium) * stroma_eosin
    haematoxylin = epithelium * cell_haematoxylin + (1 - epithelium) * stroma_haematoxylin
    glass = 1 - np.maximum(tissue.lumen, tissue.cracks)
    eosin = np.maximum(eosin, 0.05) * glass + 0.02
    haematoxylin = np.maximum(haematoxylin, 0.02) * glass + 0.01
    return np.float32(haematoxylin), np.float32(eosin)


def _stain_distractors(haematoxylin, eosin, tissue, labels, rng):
    """Add what is stained but no nucleus: red blood cells, debris, smudges out of focus."""
    tiles = tissue.size**2 / 256**2
    free = labels == 0
    for _ in range(rng.poisson(2.0 * tiles)):
        y, x = rng.uniform(0, tissue.size, 2)
        for _ in range(rng.integers(1, 7)):
            depth, window = _disc((y, x) + rng.normal(0, 9, 2), rng.uniform(4, 6), tissue.shape)
            cell = np.clip(depth, 0, 1) * free[window]
            biconcave = 1.0 - 0.3 * np.clip(depth / 5, 0, 1)
            eosin[window] += cell * (rng.uniform(0.9, 1.3) * biconcave - eosin[window])
            haematoxylin[window] *= 1 - 0.9 * cell
    for _ in range(rng.poisson(10 * tiles)):
        depth, window = _disc(rng.uniform(0, tissue.size, 2), rng.uniform(0.8, 2.2), tissue.shape)
        haematoxylin[window] += np.clip(depth, 0, 1) * rng.uniform(0.3, 1.5) * free[window]
    smudges = np.zeros(tissue.shape, np.float32)
    for _ in range(rng.poisson(6 * tiles)):
        depth, window = _disc(rng.uniform(0, tissue.size, 2), rng.uniform(5, 12), tissue.shape)
        smudges[window] += np.clip(depth, 0, 1) * rng.uniform(0.4, 1.1)
    haematoxylin += cv2.GaussianBlur(smudges, (0, 0), 5) * (1 - tissue.lumen)


def _disc(centre, radius, shape):
    """Return each pixel's depth inside a disc, and the window of the canvas it is for."""
    reach = int(radius) + 2
    y, x = np.clip(np.int32(centre), reach, np.array(shape) - reach - 1)
    window = (slice(y - reach, y + reach + 1), slice(x - reach, x + reach + 1))
    dy, dx = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    return np.float32(radius - np.hypot(dy, dx)), window


def _stain_nuclei(haematoxylin, eosin, placed, rng):
    chromatin = _fractal(rng, haematoxylin.shape, 2.6, 2)
    nuclear = np.zeros_like(haematoxylin)
    for nucleus in placed:
        kind, window, depth = nucleus.kind, nucleus.window, nucleus.depth
        strength = rng.uniform(*kind.strength)
        body = 1 + kind.clumps * 1.3 * chromatin[window]
        body = body + kind.rim * np.exp(-((depth - 1.2) ** 2) / 1.5)
        for _ in range(rng.integers(kind.nucleoli + 1)):
            y, x = nucleus.centre + rng.normal(0, 0.25 * nucleus.radius, 2)
            body = body + _spot(window, y, x, rng.uniform(1.1, 1.9))
        cover = np.float32(np.clip(depth + 0.5, 0, 1))
        amount = np.float32(np.maximum(body, 0.2) * strength)
        if rng.random() < 0.3:
            cover = cv2.GaussianBlur(cover, (0, 0), rng.uniform(0.6, 1.6))
        # Light passes both of two overlapping nuclei, so part of the lower one shows through.
        amount += 0.35 * nuclear[window]
        nuclear[window] += cover * (amount - nuclear[window])
        haematoxylin[window] += cover * (amount - haematoxylin[window])
        eosin[window] += cover * (0.1 + 0.12 * strength - 0.3 * eosin[window])


def _spot(window, y, x, sigma):
    rows, columns = (np.arange(side.start, side.stop) for side in window)
    bell = np.exp(-((rows - y) ** 2) / (2 * sigma**2))[:, None]
    return bell * np.exp(-((columns - x) ** 2) / (2 * sigma**2))


def _photograph(haematoxylin, eosin, rng):
    """Return the RGB image that a scanner makes of the two stains."""
    h_vector = _unit(HAEMATOXYLIN + rng.uniform(0, 0.25) * RESIDUAL + rng.normal(0, 0.02, 3))
    e_vector = _unit(EOSIN + rng.uniform(0.5, 1.3) * RESIDUAL + rng.normal(0, 0.02, 3))
    thickness = 1 + 0.12 * _fractal(rng, haematoxylin.shape, 90, 1)
    h_amount, e_amount = rng.uniform(0.85, 1.25), rng.uniform(0.8, 1.2)
    density = (h_amount * haematoxylin * thickness)[..., None] * h_vector
    density = density + (e_amount * eosin * thickness)[..., None] * e_vector
    light = np.float32(rng.uniform(238, 250) * np.exp(-density))
    light = cv2.GaussianBlur(light, (0, 0), rng.uniform(0.5, 0.9))
    noise = cv2.GaussianBlur(rng.normal(0, 6, light.shape).astype(np.float32), (0, 0), 0.7)
    return np.uint8(np.clip(np.rint(light + noise), 0, 255))


def _unit(vector):
    return np.float32(vector / np.linalg.norm(vector))


def _step(values, width):
    """Return 0 for negative, 1 for positive values, with a soft step of the given width."""
    return np.float32(0.5 + 0.5 * np.tanh(values / width))


def _fractal(rng, shape, scale, octaves=3):
    """Return smooth noise, float32 of about unit variance, whose coarsest blobs have that scale."""
    total = np.zeros(shape, np.float32)
    for octave in range(octaves):
        step = max(1.0, scale / 2**octave)
        if step < 5:
            white = rng.standard_normal(shape, np.float32)
            total += cv2.GaussianBlur(white, (0, 0), step / 2) * step * 0.5**octave
            continue
        coarse = rng.standard_normal([int(side / step) + 4 for side in shape], np.float32)
        fine = cv2.resize(coarse, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
        y, x = rng.integers(0, [fine.shape[0] - shape[0] + 1, fine.shape[1] - shape[1] + 1])
        total += fine[y : y + shape[0], x : x + shape[1]] * 0.5**octave
    return total / total.std()


def _write_png(path, pixels):
    _, encoded = cv2.imencode(".png", pixels)
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded)
