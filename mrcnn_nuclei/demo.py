"""Nuclei found by the shipped weights, then all at toy size on drawn tissue: training, scores."""

import time

import numpy as np

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn.opencv import cv2
from mrcnn_nuclei import overlay
from mrcnn_nuclei.config import make_config
from mrcnn_nuclei.datasets import NucleusDataset, synthetic
from mrcnn_nuclei.detection import detect_images, image_sources
from mrcnn_nuclei.evaluation import evaluate_folder
from mrcnn_nuclei.formats import label_tiff

NETWORKS = {"mrcnn": "Mask R-CNN", "unet": "the U-Net"}

SETTINGS = {
    "mrcnn": {
        "STEPS_PER_EPOCH": 20,
        "VALIDATION_STEPS": 2,
        "SCHEDULE": [("all", 4, 1.0), ("all", 6, 0.1)],
    },
    "unet": {
        "STEPS_PER_EPOCH": 30,
        "VALIDATION_STEPS": 1,
        "BATCH_NORM_MOMENTUM": 0.9,
        "SCHEDULE": [("all", 3, 1.0), ("all", 4, 0.1)],
    },
}
"""Changes to the compact presets, so that training takes minutes on two CPU cores."""

TRAINING_TILES, TRAINING_SIZE = 16, 400  # larger than the crop, so that crops differ and can turn
HELD_OUT_TILES, HELD_OUT_SIZE = 4, 256


def run_demo(output, seed=0, settings=None):
    """Draw a synthetic set, train both networks on it, detect, score and draw the held-out tiles.

    What the project's own weights find in these tiles is drawn first, before any training.

    Parameters
    ----------
    output : Path
        Gets `first.png` and `results/shipped`; then `data`, `logs`, for each network
        `results/<network>`, `table-<network>.md` and `table-<network>.json`, and `demo.png`.
    seed : int
    settings : dict, optional
        Further changes to the presets.

    Returns
    -------
    dict
        Network -> the Evaluation of the held-out tiles.
    """
    start = time.monotonic()
    data, results = output / "data", output / "results"
    print(f"1/6  drawing {TRAINING_TILES} tiles to train on and {HELD_OUT_TILES} held out: {data}")
    synthetic.write(data / "train", TRAINING_TILES, TRAINING_SIZE, seed)
    held_out = synthetic.write(data / "val", HELD_OUT_TILES, HELD_OUT_SIZE, seed + 1)
    writers = ["overlay", "labels", "geojson", "csv"]
    training_set, dataset = (NucleusDataset().load(data, subset=s) for s in ("train", "val"))

    print("2/6  outlining the held-out tiles with the weights that come with the project")
    try:
        detect_images(image_sources(held_out), None, results / "shipped", writers)
        overlay.save_png(output / "first.png", _draw(dataset, [results / "shipped"]))
        print(f"     look at {output / 'first.png'}, {time.monotonic() - start:.0f} seconds after")
    except InputError as error:
        print(f"     left out: {error}")

    from mrcnn_nuclei.training import train

    evaluations = {}
    for step, (model, title) in enumerate(NETWORKS.items(), start=3):
        changes = {**SETTINGS[model], "SEED": seed, **(settings or {})}
        epochs = changes["SCHEDULE"][-1][1]
        print(f"{step}/6  training {title} for {epochs} short epochs; the first step compiles")
        config = make_config("compact", changes, name=f"nucleus-demo-{model}", model=model)
        weights = train(config, training_set, dataset, output / "logs")
        detect_images(image_sources(held_out), weights, results / model, writers)
        evaluations[model] = evaluate_folder(results / model / "labels", dataset, progress=False)

    print("5/6  drawing what both have found")
    folders = [results / model for model in NETWORKS]
    overlay.save_png(output / "demo.png", _draw(dataset, folders))

    print("6/6  scores of the held-out tiles")
    for model, evaluation in evaluations.items():
        for suffix in ("md", "json"):
            evaluation.write(output / f"table-{model}.{suffix}")
        print(f"\n{NETWORKS[model]}\n{evaluation.to_text()}")
    print(
        f"done in {(time.monotonic() - start) / 60:.1f} minutes; wrote {output}: look at "
        f"{output / 'demo.png'} (a tile, what Mask R-CNN found in it, what the U-Net did) and the "
        f"overlays in {results}"
    )
    return evaluations


def _draw(dataset, folders, count=2, zoom=2):
    """The first tiles, and beside each what the results in each folder found, invented, missed."""
    rows = []
    for image_id, name in enumerate(dataset.names[:count]):
        image = dataset.load_image(image_id)
        size = [zoom * side for side in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        truth = _enlarge(dataset.load_labels(image_id)[0], zoom)
        comparisons = [
            overlay.compare_overlay(image, truth, _enlarge(found.to_label_map(), zoom))
            for found in (label_tiff.read(folder / "labels" / f"{name}.tif") for folder in folders)
        ]
        margin = ((0, len(comparisons[0]) - len(image)), (0, 0), (0, 0))
        rows.append(np.hstack([np.pad(image, margin, constant_values=255), *comparisons]))
    return np.vstack(rows)


def _enlarge(labels, zoom):
    return Instances.from_label_map(np.kron(labels, np.ones((zoom, zoom), labels.dtype)))
