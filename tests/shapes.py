"""A data set of rectangles and discs, drawn with NumPy."""

import numpy as np

from mrcnn.dataset import Dataset


class ShapesDataset(Dataset):
    """Pictures with three bright shapes on grey noise, and their label maps.

    Parameters
    ----------
    count : int
        Of pictures.
    size : int
        Their height and width in pixels.
    first : int
        Pictures are the same wherever their number, `first` for the first one, is.
    """

    def __init__(self, count, size=64, first=0):
        super().__init__()
        self.add_class("shapes", 1, "rectangle")
        self.add_class("shapes", 2, "disc")
        self.size = size
        for number in range(first, first + count):
            self.add_image("shapes", number, None)
        self.prepare()

    def load_image(self, image_id):
        labels, class_ids = self.load_labels(image_id)
        colors = np.array([[40, 40, 40], [200, 60, 60], [60, 60, 200]])
        image = colors[np.concatenate([[0], class_ids])[labels]]
        noise = np.random.default_rng(self.image_info[image_id]["id"]).integers(0, 50, image.shape)
        return (image + noise).astype(np.uint8)

    def load_labels(self, image_id):
        rng = np.random.default_rng([1, self.image_info[image_id]["id"]])
        labels = np.zeros((self.size, self.size), np.int32)
        class_ids = np.array([1, 2, rng.integers(1, 3)], np.int32)
        y, x = np.indices(labels.shape)
        # One in each of three quarters, so that none hides another.
        half = self.size // 2
        for label, (corner, class_id) in enumerate(zip([(0, 0), (0, 1), (1, 0)], class_ids), 1):
            radius = rng.integers(half // 5, half // 3)
            center = rng.integers(radius + 1, half - radius - 1, 2) + half * np.array(corner)
            dy, dx = abs(y - center[0]), abs(x - center[1])
            distance = np.hypot(dy, dx) if class_id == 2 else np.maximum(dy, dx)
            labels[distance <= radius] = label
        return labels, class_ids
