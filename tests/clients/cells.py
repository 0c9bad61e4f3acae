"""Find cells: a script as users of Matterport's package wrote them.

    python cells.py WEIGHTS

IMAGES/NAME.png is an image, and each file of MASKS/NAME a cell; all is below the working folder.
"""

import os
import sys

import matplotlib.pyplot as plt
import numpy as np
import skimage.io

import mrcnn.model as modellib
from mrcnn import utils, visualize
from mrcnn.config import Config

IMAGES, MASKS, LOGS = "images", "masks", "logs"


class CellConfig(Config):
    NAME = "cell"
    GPU_COUNT = 1
    IMAGES_PER_GPU = 1
    NUM_CLASSES = 1 + 1
    BACKBONE = "resnet50"
    IMAGE_MIN_DIM = 128
    IMAGE_MAX_DIM = 128
    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    TRAIN_ROIS_PER_IMAGE = 8
    POST_NMS_ROIS_TRAINING = 40
    POST_NMS_ROIS_INFERENCE = 40
    STEPS_PER_EPOCH = 1
    VALIDATION_STEPS = 1


class InferenceConfig(CellConfig):
    GPU_COUNT = 1
    IMAGES_PER_GPU = 1
    DETECTION_MIN_CONFIDENCE = 0


class CellDataset(utils.Dataset):
    def load_cells(self, names):
        self.add_class("cells", 1, "cell")
        for name in names:
            path = os.path.join(IMAGES, name + ".png")
            height, width = skimage.io.imread(path).shape[:2]
            self.add_image("cells", image_id=name, path=path, width=width, height=height)

    def load_mask(self, image_id):
        folder = os.path.join(MASKS, self.image_info[image_id]["id"])
        masks = [skimage.io.imread(os.path.join(folder, f)) > 0 for f in sorted(os.listdir(folder))]
        return np.stack(masks, axis=-1), np.ones(len(masks), dtype=np.int32)

    def image_reference(self, image_id):
        return self.image_info[image_id]["path"]


def cells(names):
    dataset = CellDataset()
    dataset.load_cells(names)
    dataset.prepare()
    return dataset


names = sorted(os.path.splitext(name)[0] for name in os.listdir(IMAGES))
dataset_train, dataset_val = cells(names[:-1]), cells(names[-1:])

config = CellConfig()
config.display()
model = modellib.MaskRCNN(mode="training", config=config, model_dir=LOGS)
model.load_weights(
    sys.argv[1],
    by_name=True,
    exclude=["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"],
)
model.train(
    dataset_train, dataset_val, learning_rate=config.LEARNING_RATE, epochs=1, layers="heads"
)

inference_config = InferenceConfig()
model = modellib.MaskRCNN(mode="inference", config=inference_config, model_dir=LOGS)
model.load_weights(model.find_last(), by_name=True)

image, _, gt_class_id, gt_bbox, gt_mask = modellib.load_image_gt(
    dataset_val, inference_config, 0, use_mini_mask=False
)
r = model.detect([image], verbose=1)[0]
visualize.display_instances(
    image, r["rois"], r["masks"], r["class_ids"], dataset_val.class_names, r["scores"]
)
plt.savefig("cells.png")
AP, precisions, recalls, overlaps = utils.compute_ap(
    gt_bbox, gt_class_id, gt_mask, r["rois"], r["class_ids"], r["scores"], r["masks"]
)
print("cells:", len(r["scores"]))
print("mAP:", AP)
