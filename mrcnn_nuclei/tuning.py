"""The thresholds of either network, chosen on images whose nuclei are known."""

import numpy as np
from tqdm import tqdm

from mrcnn_nuclei.evaluation import without_crowds
from mrcnn_nuclei.metrics import evaluate_pair
from mrcnn_nuclei.postprocessing import postprocess

CONFIDENCE = "DETECTION_MIN_CONFIDENCE"

CHOICES = {
    "mrcnn": {
        CONFIDENCE: (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.8, 0.9),
        "DETECTION_MASK_THRESHOLD": (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6),
    },
    "unet": {
        "FOREGROUND_THRESHOLD": (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7),
        "INTERIOR_THRESHOLD": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        "BORDER_THRESHOLD": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, None),
        "MIN_MARKER_AREA": (1, 4, 8, 16, 24),
        "MARKER_DEPTH": (0.0, 0.05, 0.1, 0.15, 0.2, 0.3),
        "MARKER_SMOOTHING": (1.0, 1.5, 2.0, 2.5, 3.0),
        "MIN_NUCLEUS_AREA": (10, 20, 40, 60),
    },
}
"""What is tried for each network's settings, one after the other; None leaves a map out."""

ROUNDS = 2


def tune(network, dataset, image_ids=None, progress=True):
    """Search the settings with which nuclei are found best, by mean AJI over a data set's images.

    The network sees each image once. Then each setting in turn takes its best value while the
    others stay, twice over: the settings depend on each other little.

    Parameters
    ----------
    network : NucleusRCNN or UNet
        One that has not predicted yet: it keeps the least confidence with which it began. Its
        `config` is left with the settings found.
    dataset : NucleusDataset
        Annotated images that the network was not trained on.
    image_ids : sequence of int, optional
        Default: all.
    progress : bool
        Show bars with an ETA.

    Returns
    -------
    settings : dict
        Of `CHOICES`.
    before, after : float
        Mean AJI with the settings that the network came with, and with those found.
    """
    config, choices = network.config, CHOICES[network.config.MODEL]
    image_ids = dataset.image_ids if image_ids is None else image_ids
    given = getattr(config, CONFIDENCE)
    if CONFIDENCE in choices:  # the network itself leaves out what is below
        setattr(config, CONFIDENCE, min(given, *choices[CONFIDENCE]))
    images = []
    for i in tqdm(image_ids, "Predicting", unit="image", disable=not progress):
        images.append((network.predict(dataset.load_image(i)), *dataset.load_labels(i)))
    setattr(config, CONFIDENCE, given)

    tried = {}

    def score():
        settings = tuple(getattr(config, name) for name in choices)
        if settings not in tried:
            tried[settings] = float(np.mean([_score(network, *image) for image in images]))
        return tried[settings]

    before = best = score()
    steps = [step for _ in range(ROUNDS) for step in choices.items()]
    bar = tqdm(steps, "Searching", unit="setting", disable=not progress)
    for name, values in bar:
        chosen = getattr(config, name)
        for value in values:
            setattr(config, name, value)
            if score() > best:
                chosen, best = value, score()
        setattr(config, name, chosen)
        bar.set_postfix(AJI=f"{best:.3f}")
    return {name: getattr(config, name) for name in choices}, before, best


def _score(network, prediction, labels, class_ids):
    """The AJI of the nuclei in an image's prediction."""
    found = postprocess(network.segment(prediction), network.config).to_label_map()
    return evaluate_pair(*without_crowds(labels, class_ids, found))["AJI"]
