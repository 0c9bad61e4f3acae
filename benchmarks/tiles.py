"""A data set of drawn images, in memory."""

import numpy as np

from mrcnn.dataset import Dataset


class Tiles(Dataset):
    """Drawn images with their label maps, in memory."""

    def __init__(self, tiles):
        super().__init__()
        self.tiles = tiles
        self.add_class("nucleus", 1, "nucleus")
        for number in range(len(tiles)):
            self.add_image("nucleus", number, None)
        self.prepare()

    def load_image(self, image_id):
        """The image."""
        return self.tiles[image_id][0]

    def load_labels(self, image_id):
        """The label map, and a class for each label."""
        labels = self.tiles[image_id][1]
        return labels, np.ones(labels.max(), np.int32)
