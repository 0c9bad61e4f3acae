"""What each map of the U-Net is worth: `python benchmarks/unet_maps.py WEIGHTS DATASET FOLD`.

The maps of each held-out image are predicted once, and the watershed is given one, two or three of
them, with the thresholds of the weights file. Prints a table of means over the images.
"""

import logging
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from tqdm import tqdm

VARIANTS = {
    "foreground": {"BORDER_THRESHOLD": None, "INTERIOR_THRESHOLD": None},
    "foreground, border": {"INTERIOR_THRESHOLD": None},
    "foreground, interior": {"BORDER_THRESHOLD": None},
    "all three": {},
}
SHOWN = ("AJI", "PQ", "F1", "mAP", "Dice")


def compare(weights, root, fold):
    """Print the table."""
    from mrcnn_nuclei.datasets import NucleusDataset
    from mrcnn_nuclei.detector import Detector
    from mrcnn_nuclei.evaluation import evaluate_set

    logging.getLogger("mrcnn").setLevel(logging.ERROR)
    dataset = NucleusDataset().load(root, subset="val", fold=fold)
    network = Detector(weights).model
    ids = tqdm(dataset.image_ids, "Predicting", unit="image")
    maps = [network.predict(dataset.load_image(i)) for i in ids]
    truths = [(name, dataset.load_labels(i)[0]) for i, name in enumerate(dataset.names)]

    print(f"| maps | nuclei found | {' | '.join(SHOWN)} |")
    print("|:--|--:" + "|--:" * len(SHOWN) + "|")
    for title, settings in VARIANTS.items():
        known = {name: getattr(network.config, name) for name in settings}
        vars(network.config).update(settings)
        found = [(name, network.segment(m)) for name, m in zip(dataset.names, maps)]
        vars(network.config).update(known)
        mean = evaluate_set(truths, found, progress=False).mean
        cells = " | ".join(f"{mean[name]:.3f}" for name in SHOWN)
        print(f"| {title} | {sum(len(x) for _, x in found)} | {cells} |", flush=True)


if __name__ == "__main__":
    compare(sys.argv[1], sys.argv[2], int(sys.argv[3]))
