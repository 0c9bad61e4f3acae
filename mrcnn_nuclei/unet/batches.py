"""What the U-Net is trained on: images, and the maps that it should draw of them."""

import numpy as np

from mrcnn.data import Batches, label_map_of, load_example
from mrcnn_nuclei.unet.targets import boundary_weights, make_targets


class MapBatches(Batches):
    """Batches of a dataset: `batches[i]` is `(inputs, [])`, made from the detector's own crops.

    inputs: images [B, H, W, C] float32 (molded), maps [B, H, W, 3] float32, see
    `mrcnn_nuclei.unet.targets.make_targets`, and the weights of their pixels [B, H, W] float32,
    see `boundary_weights` there. Crowds, of which nothing is known, weigh 0.

    Parameters
    ----------
    dataset : Dataset
        The first of overlapping masks wins.
    config : UNetConfig
    **kwargs
        See `mrcnn.data.Batches`.
    """

    def make_example(self, image_id, rng):
        """One row of each input; there are no outputs."""
        config = self.config
        example = load_example(
            self.dataset, config, image_id, rng=rng, **self.augmentations(image_id)
        )
        labels = label_map_of(example.truth)
        crowd = np.concatenate([[False], example.class_ids < 0])[labels]
        labels = np.where(crowd, 0, labels)
        weights = boundary_weights(labels, config.BOUNDARY_WEIGHT)
        weights[crowd] = 0
        image = self.mold(example.image, example.window, image_id)
        return [image, make_targets(labels), weights], []
