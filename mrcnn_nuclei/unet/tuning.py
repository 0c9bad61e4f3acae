"""The watershed's thresholds, chosen on images whose nuclei are known."""

import numpy as np
from tqdm import tqdm

from mrcnn_nuclei.evaluation import without_crowds
from mrcnn_nuclei.metrics import evaluate_pair

CHOICES = {
    "FOREGROUND_THRESHOLD": (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7),
    "INTERIOR_THRESHOLD": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    "BORDER_THRESHOLD": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, None),
    "MIN_MARKER_AREA": (1, 4, 8, 16, 24),
    "MIN_NUCLEUS_AREA": (10, 20, 40, 60),
}
"""What is tried for each setting, one setting after the other; None leaves a map out."""

ROUNDS = 2


def tune(network, dataset, progress=True):
    """Search the settings with which nuclei are found best, by mean AJI over a data set's images.

    Each setting in turn takes its best value while the others stay, twice over: the settings
    depend on each other little.

    Parameters
    ----------
    network : UNet
        Its `config` is left with the settings found.
    dataset : NucleusDataset
        Annotated images that the network was not trained on.
    progress : bool
        Show bars with an ETA.

    Returns
    -------
    settings : dict
        Of `CHOICES`.
    before, after : float
        Mean AJI with the settings that the network came with, and with those found.
    """
    config = network.config
    images = []
    for i in tqdm(dataset.image_ids, "Predicting", unit="image", disable=not progress):
        maps = network.predict_maps(dataset.load_image(i)).astype(np.float16)
        images.append((maps, *dataset.load_labels(i)))

    tried = {}

    def score():
        settings = tuple(getattr(config, name) for name in CHOICES)
        if settings not in tried:
            tried[settings] = float(np.mean([_score(network, *image) for image in images]))
        return tried[settings]

    before = best = score()
    steps = [step for _ in range(ROUNDS) for step in CHOICES.items()]
    bar = tqdm(steps, "Searching", unit="setting", disable=not progress)
    for name, values in bar:
        chosen = getattr(config, name)
        for value in values:
            setattr(config, name, value)
            if score() > best:
                chosen, best = value, score()
        setattr(config, name, chosen)
        bar.set_postfix(AJI=f"{best:.3f}")
    return {name: getattr(config, name) for name in CHOICES}, before, best


def _score(network, maps, labels, class_ids):
    """The AJI of the nuclei in an image's maps."""
    found = network.segment(maps).to_label_map()
    return evaluate_pair(*without_crowds(labels, class_ids, found))["AJI"]
