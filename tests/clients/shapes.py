"""Train on drawn squares, circles and triangles, then measure: a script for Matterport's package.

    python shapes.py --logs logs --seed 0

Random weights and a backbone small enough for a CPU take the place of COCO's ResNet-101.
"""

import argparse
import math
import random

import cv2
import keras
import numpy as np

import mrcnn.model as modellib
from mrcnn import utils
from mrcnn.config import Config
from mrcnn.model import log


def small_resnet(input_image, stage5=True, train_bn=None):
    """C1 to C5 of a narrow residual network, normalised in a way that frozen layers keep."""
    x = keras.layers.Rescaling(1 / 64)(input_image)
    x = keras.layers.Conv2D(16, 3, strides=2, padding="same", name="conv1")(x)
    x = keras.layers.GroupNormalization(8, name="conv1_norm")(x)
    maps = [keras.layers.Activation("relu")(x)]
    for stage, width in [(2, 32), (3, 48), (4, 64), (5, 96)]:
        x = residual_block(maps[-1], width, strides=2, name=f"res{stage}a")
        maps.append(residual_block(x, width, strides=1, name=f"res{stage}b"))
    return maps


def residual_block(x, width, strides, name):
    """Two convolutions beside one."""
    layers = keras.layers
    y = layers.Conv2D(width, 3, strides=strides, padding="same", name=name + "_branch2a")(x)
    y = layers.Activation("relu")(layers.GroupNormalization(8, name=name + "_norm2a")(y))
    y = layers.Conv2D(width, 3, padding="same", name=name + "_branch2b")(y)
    y = layers.GroupNormalization(8, name=name + "_norm2b")(y)
    shortcut = layers.Conv2D(width, 1, strides=strides, name=name + "_branch1")(x)
    return layers.Activation("relu", name=name + "_out")(layers.Add()([y, shortcut]))


def small_resnet_shapes(image_shape):
    """Height and width of P2 to P6."""
    strides = np.array([[4], [8], [16], [32], [64]])
    return np.ceil(np.array(image_shape[:2]) / strides).astype(int)


class ShapesConfig(Config):
    """What fits pictures of 128 x 128 with up to four shapes, and two CPU cores."""

    NAME = "shapes"
    GPU_COUNT = 1
    IMAGES_PER_GPU = 8
    NUM_CLASSES = 1 + 3  # background + 3 shapes

    BACKBONE = staticmethod(small_resnet)
    COMPUTE_BACKBONE_SHAPE = staticmethod(small_resnet_shapes)
    TOP_DOWN_PYRAMID_SIZE = 64
    RPN_CHANNELS = 64
    FPN_CLASSIF_FC_LAYERS_SIZE = 128
    FPN_MASK_CHANNELS = 32
    TRAIN_BN = None
    BATCH_NORM_MOMENTUM = 0.9

    IMAGE_MIN_DIM = 128
    IMAGE_MAX_DIM = 128
    MINI_MASK_SHAPE = (28, 28)
    RPN_ANCHOR_SCALES = (32, 48, 64, 96, 128)
    PRE_NMS_LIMIT = 1000
    POST_NMS_ROIS_TRAINING = 200
    POST_NMS_ROIS_INFERENCE = 200
    TRAIN_ROIS_PER_IMAGE = 32
    MAX_GT_INSTANCES = 8
    DETECTION_MAX_INSTANCES = 20

    OPTIMIZER = "adam"
    LEARNING_RATE = 0.001
    STEPS_PER_EPOCH = 50
    VALIDATION_STEPS = 2


class InferenceConfig(ShapesConfig):
    """One picture at a time."""

    IMAGES_PER_GPU = 1


class ShapesDataset(utils.Dataset):
    """Pictures that are invented once and drawn whenever they are asked for."""

    KINDS = ["square", "circle", "triangle"]

    def invent(self, count, side):
        """Add `count` pictures of `side` x `side` pixels, with one to four shapes each."""
        for class_id, kind in enumerate(self.KINDS, start=1):
            self.add_class("shapes", class_id, kind)
        for number in range(count):
            shapes = [self.random_shape(side) for _ in range(random.randint(1, 4))]
            # Later shapes lie on top: prefer them to what they hide.
            boxes = np.array([[y - r, x - r, y + r, x + r] for _, _, (x, y), r in shapes])
            keep = utils.non_max_suppression(boxes, np.arange(len(shapes)), 0.3)
            self.add_image(
                "shapes",
                image_id=number,
                path=None,
                side=side,
                background=self.random_color(),
                shapes=[shapes[i] for i in sorted(keep)],
            )

    def random_color(self):
        return [random.randint(0, 255) for _ in range(3)]

    def random_shape(self, side):
        """Kind, colour, centre and half the size of a shape."""
        centre = (random.randint(20, side - 21), random.randint(20, side - 21))
        return random.choice(self.KINDS), self.random_color(), centre, random.randint(20, side // 4)

    def load_image(self, image_id):
        info = self.image_info[image_id]
        image = np.full((info["side"], info["side"], 3), info["background"], dtype=np.uint8)
        for kind, color, centre, radius in info["shapes"]:
            draw(image, kind, color, centre, radius)
        return image

    def load_mask(self, image_id):
        info = self.image_info[image_id]
        masks = np.zeros((len(info["shapes"]), info["side"], info["side"]), dtype=np.uint8)
        for i, (kind, _, centre, radius) in enumerate(info["shapes"]):
            draw(masks[i], kind, 1, centre, radius)
            masks[:i][:, masks[i] > 0] = 0
        class_ids = [self.class_names.index(kind) for kind, *_ in info["shapes"]]
        return np.moveaxis(masks, 0, -1).astype(bool), np.array(class_ids, dtype=np.int32)

    def image_reference(self, image_id):
        info = self.image_info[image_id]
        if info["source"] == "shapes":
            return ", ".join(kind for kind, *_ in info["shapes"])
        return super(self.__class__, self).image_reference(image_id)


def draw(image, kind, color, centre, radius):
    """Fill a shape in an image, in place."""
    x, y = centre
    if kind == "circle":
        cv2.circle(image, centre, radius, color, thickness=-1)
    elif kind == "square":
        cv2.rectangle(image, (x - radius, y - radius), (x + radius, y + radius), color, -1)
    else:
        foot = round(radius * 2 / math.sqrt(3))
        corners = [[x, y - radius], [x - foot, y + radius], [x + foot, y + radius]]
        cv2.fillConvexPoly(image, np.array(corners), color)


def make_dataset(count, config):
    """A prepared data set of `count` pictures."""
    dataset = ShapesDataset()
    dataset.invent(count, int(config.IMAGE_SHAPE[0]))
    dataset.prepare()
    return dataset


def train(logs):
    """Train the heads, then everything, then everything at a tenth of the rate."""
    config = ShapesConfig()
    config.display()
    dataset_train = make_dataset(2000, config)
    dataset_val = make_dataset(50, config)
    model = modellib.MaskRCNN(mode="training", config=config, model_dir=logs)
    rate = config.LEARNING_RATE
    model.train(dataset_train, dataset_val, learning_rate=rate, epochs=1, layers="heads")
    model.train(dataset_train, dataset_val, learning_rate=rate, epochs=8, layers="all")
    model.train(dataset_train, dataset_val, learning_rate=rate / 10, epochs=10, layers="all")


def evaluate(logs, count=10):
    """Mean over `count` new pictures of the average precision at IoU 0.5."""
    inference_config = InferenceConfig()
    dataset = make_dataset(count, inference_config)
    model = modellib.MaskRCNN(mode="inference", config=inference_config, model_dir=logs)
    model_path = model.find_last()
    model.load_weights(model_path, by_name=True)

    APs = []
    for image_id in dataset.image_ids:
        image, image_meta, gt_class_id, gt_bbox, gt_mask = modellib.load_image_gt(
            dataset, inference_config, image_id, use_mini_mask=False
        )
        log("gt_class_id", gt_class_id)
        results = model.detect([image], verbose=0)
        r = results[0]
        AP, precisions, recalls, overlaps = utils.compute_ap(
            gt_bbox, gt_class_id, gt_mask, r["rois"], r["class_ids"], r["scores"], r["masks"]
        )
        APs.append(AP)
    return np.mean(APs)


def main(arguments=None):
    """Run the script's command line and return the mAP."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", default="logs")
    parser.add_argument("--seed", type=int)
    args = parser.parse_args(arguments)
    if args.seed is not None:
        random.seed(args.seed)
        keras.utils.set_random_seed(args.seed)
    train(args.logs)
    mAP = evaluate(args.logs)
    print("mAP: ", mAP)
    return mAP


if __name__ == "__main__":
    main()
