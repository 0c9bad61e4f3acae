"""Segment nuclei of the 2018 Data Science Bowl: a script for Matterport's package.

    python nucleus.py train --dataset=DIR --weights=PATH
    python nucleus.py detect --dataset=DIR --subset=stage1_test --weights=last --output=DIR

DIR/stage1_train/ID/images/ID.png is an image, and each file of DIR/stage1_train/ID/masks a nucleus.
"""

import argparse
import csv
import glob
import os

import matplotlib.pyplot as plt
import numpy as np
import skimage.io

import mrcnn.model as modellib
from mrcnn import utils, visualize
from mrcnn.config import Config
from mrcnn.imgaug_compat import load_imgaug

iaa = load_imgaug().augmenters  # in place of `from imgaug import augmenters as iaa`

HELD_OUT = ["nuclei0", "nuclei1"]
"""Which images of stage1_train are for validation."""

STAGES = [("heads", 20), ("all", 40)]
"""Which layers are trained until which epoch."""


class NucleusConfig(Config):
    """Random crops of enlarged images, with many small nuclei."""

    NAME = "nucleus"
    IMAGES_PER_GPU = 6
    NUM_CLASSES = 1 + 1  # background + nucleus
    STEPS_PER_EPOCH = 100
    VALIDATION_STEPS = 4
    BACKBONE = "resnet50"

    IMAGE_RESIZE_MODE = "crop"
    IMAGE_MIN_DIM = 512
    IMAGE_MAX_DIM = 512
    IMAGE_MIN_SCALE = 2.0
    MEAN_PIXEL = np.array([43.5, 39.6, 48.2])

    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    RPN_NMS_THRESHOLD = 0.9
    RPN_TRAIN_ANCHORS_PER_IMAGE = 64
    POST_NMS_ROIS_TRAINING = 1000
    POST_NMS_ROIS_INFERENCE = 2000
    TRAIN_ROIS_PER_IMAGE = 128
    MAX_GT_INSTANCES = 200
    DETECTION_MAX_INSTANCES = 400
    DETECTION_MIN_CONFIDENCE = 0


class NucleusInferenceConfig(NucleusConfig):
    """Whole images, padded to a multiple of 64."""

    GPU_COUNT = 1
    IMAGES_PER_GPU = 1
    IMAGE_RESIZE_MODE = "pad64"
    RPN_NMS_THRESHOLD = 0.7


class NucleusDataset(utils.Dataset):
    """Images with a file a nucleus."""

    def load_nucleus(self, root, subset):
        """Add the images of "train", "val", or of a folder."""
        self.add_class("nucleus", 1, "nucleus")
        folder = os.path.join(root, "stage1_train" if subset in ("train", "val") else subset)
        for image_id in sorted(os.listdir(folder)):
            if subset in ("train", "val") and (image_id in HELD_OUT) != (subset == "val"):
                continue
            path = os.path.join(folder, image_id, "images", image_id + ".png")
            self.add_image("nucleus", image_id=image_id, path=path)

    def load_mask(self, image_id):
        folder = os.path.dirname(os.path.dirname(self.image_info[image_id]["path"]))
        files = sorted(glob.glob(os.path.join(folder, "masks", "*.png")))
        mask = np.stack([skimage.io.imread(file) > 0 for file in files], axis=-1)
        return mask, np.ones(len(files), dtype=np.int32)

    def image_reference(self, image_id):
        info = self.image_info[image_id]
        if info["source"] == "nucleus":
            return info["id"]
        return super(self.__class__, self).image_reference(image_id)


def load_dataset(root, subset):
    """The prepared data set of a subset."""
    dataset = NucleusDataset()
    dataset.load_nucleus(root, subset)
    dataset.prepare()
    return dataset


AUGMENTATION = iaa.Sequential(
    [
        iaa.Fliplr(0.5),
        iaa.SomeOf(
            (0, 2),
            [
                iaa.Flipud(0.5),
                iaa.OneOf([iaa.Affine(rotate=angle) for angle in (90, 180, 270)]),
                iaa.Affine(rotate=(-20, 20)),
                iaa.Multiply((0.8, 1.5)),
                iaa.GaussianBlur(sigma=(0.0, 5.0)),
            ],
        ),
    ]
)


def train(model, root):
    """Train stage by stage."""
    dataset_train, dataset_val = load_dataset(root, "train"), load_dataset(root, "val")
    for layers, epochs in STAGES:
        model.train(
            dataset_train,
            dataset_val,
            learning_rate=model.config.LEARNING_RATE,
            epochs=epochs,
            augmentation=AUGMENTATION,
            layers=layers,
        )


def encode_runs(mask):
    """The runs of a mask [H, W] as Kaggle has them: starts, from 1, and lengths, by columns."""
    pixels = np.flatnonzero(mask.ravel(order="F"))
    runs = np.split(pixels, np.flatnonzero(np.diff(pixels) > 1) + 1)
    return " ".join(f"{run[0] + 1} {len(run)}" for run in runs)


def submission_rows(image_id, masks, scores):
    """A row a nucleus; where nuclei overlap, the one with the best score has the pixels."""
    free = np.ones(masks.shape[:2], dtype=bool)
    for i in np.argsort(-scores):
        own = masks[:, :, i] & free
        free &= ~own
        if own.any():
            yield image_id, encode_runs(own)


def detect(model, root, subset, output):
    """Write submission.csv and a picture of each image into a folder."""
    dataset = load_dataset(root, subset)
    os.makedirs(output)
    with open(os.path.join(output, "submission.csv"), "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ImageId", "EncodedPixels"])
        for image_id in dataset.image_ids:
            image = dataset.load_image(image_id)
            r = model.detect([image], verbose=0)[0]
            name = dataset.image_info[image_id]["id"]
            writer.writerows(submission_rows(name, r["masks"], r["scores"]))
            visualize.display_instances(
                image,
                r["rois"],
                r["masks"],
                r["class_ids"],
                dataset.class_names,
                r["scores"],
                show_bbox=False,
                show_mask=False,
                title="Predictions",
            )
            plt.savefig(os.path.join(output, name + ".png"))
            plt.close()


def main(arguments=None):
    """Run the script's command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["train", "detect"])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--subset")
    parser.add_argument("--weights", required=True, help="'last' or a path")
    parser.add_argument("--logs", default="logs")
    parser.add_argument("--output", default="results")
    args = parser.parse_args(arguments)

    if args.command == "train":
        model = modellib.MaskRCNN(mode="training", config=NucleusConfig(), model_dir=args.logs)
    else:
        model = modellib.MaskRCNN(
            mode="inference", config=NucleusInferenceConfig(), model_dir=args.logs
        )
    weights = model.find_last() if args.weights == "last" else args.weights
    model.load_weights(weights, by_name=True)
    if args.command == "train":
        train(model, args.dataset)
    else:
        detect(model, args.dataset, args.subset, args.output)
    return model


if __name__ == "__main__":
    main()
