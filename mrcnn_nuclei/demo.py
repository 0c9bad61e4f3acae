"""Everything at toy size on drawn tissue: both networks trained, nuclei, scores, pictures."""

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

    Parameters
    ----------
    output : Path
        Gets `data`, `logs`, for each network `results/<network>`, `table-<network>.md` and
        `table-<network>.json`, and `demo.png`.
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
    print(f"1/5  drawing {TRAINING_TILES} tiles to train on and {HELD_OUT_TILES} held out: {data}")
    synthetic.write(data / "train", TRAINING_TILES, TRAINING_SIZE, seed)
    held_out = synthetic.write(data / "val", HELD_OUT_TILES, HELD_OUT_SIZE, seed + 1)
    training_set, dataset = (NucleusDataset().load(data, subset=s) for s in ("train", "val"))

    from mrcnn_nuclei.training import train

    evaluations = {}
    for step, (model, title) in enumerate(NETWORKS.items(), start=2):
        changes = {**SETTINGS[model], "SEED": seed, **(settings or {})}
        epochs = changes["SCHEDULE"][-1][1]
        print(f"{step}/5  training {title} for {epochs} short epochs; the first step compiles")
        config = make_config("compact", changes, name=f"nucleus-demo-{model}", model=model)
        weights = train(config, training_set, dataset, output / "logs")
        writers = ["overlay", "labels", "geojson", "csv"]
        detect_images(image_sources(held_out), weights, results / model, writers)
        evaluations[model] = evaluate_folder(results / model / "labels", dataset, progress=False)

    print("4/5  drawing what both have found")
    overlay.save_png(output / "demo.png", _draw(dataset, results))

    print("5/5  scores of the held-out tiles")
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


def _draw(dataset, results, count=2, zoom=2):
    """The first held-out tiles, and beside each what each network found, invented and missed."""
    rows = []
    for image_id, name in enumerate(dataset.names[:count]):
        image = dataset.load_image(image_id)
        size = [zoom * side for side in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        truth = _enlarge(dataset.load_labels(image_id)[0], zoom)
        comparisons = [
            overlay.compare_overlay(image, truth, _enlarge(found.to_label_map(), zoom))
            for found in (
                label_tiff.read(results / model / "labels" / f"{name}.tif") for model in NETWORKS
            )
        ]
        margin = ((0, len(comparisons[0]) - len(image)), (0, 0), (0, 0))
        rows.append(np.hstack([np.pad(image, margin, constant_values=255), *comparisons]))
    return np.vstack(rows)


def _enlarge(labels, zoom):
    return Instances.from_label_map(np.kron(labels, np.ones((zoom, zoom), labels.dtype)))
