"""How well the nuclei of validation images are found, epoch by epoch."""

import keras
import numpy as np

from mrcnn.data import label_map_of, load_truth
from mrcnn.images import normalize_statistics
from mrcnn_nuclei.evaluation import without_crowds
from mrcnn_nuclei.metrics import evaluate_pair

SIZE, COUNT = 512, 12
"""Side of the part in the middle of an image that is looked at, and of how many images."""


class ValidationAJI(keras.callbacks.Callback):
    """Reports `val_aji`, the mean AJI over validation images, at the end of each epoch.

    Parameters
    ----------
    network : UNet
    dataset : Dataset
    """

    def __init__(self, network, dataset):
        super().__init__()
        self.network = network
        self.dataset = dataset
        chosen = np.linspace(0, len(dataset.image_ids) - 1, min(COUNT, len(dataset.image_ids)))
        self.image_ids = dataset.image_ids[np.unique(chosen.round().astype(int))]

    def on_epoch_end(self, epoch, logs=None):
        scores = []
        for image_id in self.image_ids:
            image = self.dataset.load_image(image_id)
            truth, class_ids = load_truth(self.dataset, image_id, image)
            labels = label_map_of(truth)
            middle = tuple(
                slice(max(0, (side - SIZE) // 2), max(0, (side - SIZE) // 2) + SIZE)
                for side in labels.shape
            )
            # Training and detection normalise by the whole image too.
            statistics = normalize_statistics(image, self.network.config)
            found = self.network.detect(image[middle], statistics=statistics).to_label_map()
            pair = without_crowds(labels[middle], class_ids, found)
            scores.append(evaluate_pair(*pair)["AJI"])
        logs["val_aji"] = float(np.mean(scores))
