"""Everything at toy size on drawn tissue: a set, a trained network, nuclei, scores, pictures."""

import time

import numpy as np

from mrcnn.instances import Instances
from mrcnn.opencv import cv2
from mrcnn_nuclei import overlay
from mrcnn_nuclei.config import make_config
from mrcnn_nuclei.datasets import NucleusDataset, synthetic
from mrcnn_nuclei.detection import detect_images, image_sources
from mrcnn_nuclei.evaluation import evaluate_folder
from mrcnn_nuclei.formats import label_tiff

SETTINGS = {
    "STEPS_PER_EPOCH": 20,
    "VALIDATION_STEPS": 2,
    "SCHEDULE": [("all", 5, 1.0), ("all", 7, 0.1)],
}
"""Changes to the compact preset, so that training takes some three minutes on two CPU cores."""

TRAINING_TILES, TRAINING_SIZE = 16, 400  # larger than the crop, so that crops differ and can turn
HELD_OUT_TILES, HELD_OUT_SIZE = 4, 256


def run_demo(output, seed=0, settings=None):
    """Draw a synthetic set, train `compact` on it, detect, score and draw the held-out tiles.

    Parameters
    ----------
    output : Path
        Gets `data`, `logs`, `results`, and `table.md`, `table.json` and `demo.png`.
    seed : int
    settings : dict, optional
        Further changes to the preset.

    Returns
    -------
    Evaluation
        Of the held-out tiles.
    """
    start = time.monotonic()
    data = output / "data"
    print(f"1/4  drawing {TRAINING_TILES} tiles to train on and {HELD_OUT_TILES} held out: {data}")
    synthetic.write(data / "train", TRAINING_TILES, TRAINING_SIZE, seed)
    held_out = synthetic.write(data / "val", HELD_OUT_TILES, HELD_OUT_SIZE, seed + 1)

    settings = {**SETTINGS, "SEED": seed, **(settings or {})}
    epochs = settings["SCHEDULE"][-1][1]
    print(f"2/4  training the compact preset for {epochs} short epochs; the first step compiles")
    from mrcnn_nuclei.training import train

    dataset = NucleusDataset().load(data, subset="val")
    weights = train(
        make_config("compact", settings, name="nucleus-demo"),
        NucleusDataset().load(data, subset="train"),
        dataset,
        output / "logs",
    )

    results = output / "results"
    print("3/4  detecting the nuclei of the held-out tiles")
    detect_images(
        image_sources(held_out), weights, results, ["overlay", "labels", "geojson", "csv"]
    )

    print("4/4  scoring and drawing")
    evaluation = evaluate_folder(results / "labels", dataset, progress=False)
    overlay.save_png(output / "demo.png", _draw(dataset, results / "labels"))
    for suffix in ("md", "json"):
        evaluation.write(output / f"table.{suffix}")
    print(evaluation.to_text())
    print(
        f"done in {(time.monotonic() - start) / 60:.1f} minutes; wrote {output}: look at "
        f"{output / 'demo.png'} and {results / 'overlay'}, scores are in {output / 'table.md'}"
    )
    return evaluation


def _draw(dataset, labels, count=2, zoom=2):
    """The first held-out tiles, and beside each what was found, false and missed in it."""
    rows = []
    for image_id, name in enumerate(dataset.names[:count]):
        image = dataset.load_image(image_id)
        size = [zoom * side for side in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        truth, _ = dataset.load_labels(image_id)
        found = label_tiff.read(labels / f"{name}.tif").to_label_map()
        truth, found = (
            Instances.from_label_map(np.kron(x, np.ones((zoom, zoom), x.dtype)))
            for x in (truth, found)
        )
        comparison = overlay.compare_overlay(image, truth, found)
        margin = ((0, len(comparison) - len(image)), (0, 0), (0, 0))
        plain = np.pad(image, margin, constant_values=255)
        rows.append(np.hstack([plain, comparison]))
    return np.vstack(rows)
