"""Find balloons and keep only their colour: a script for Matterport's package.

    python balloon.py train --dataset=DIR --weights=coco
    python balloon.py splash --weights=last --image=FILE

DIR/train and DIR/val hold images and the polygons that somebody drew on them with VIA, the VGG
Image Annotator, in via_region_data.json.
"""

import argparse
import json
import os

import numpy as np
import skimage.color
import skimage.draw
import skimage.io

from mrcnn import model as modellib
from mrcnn import utils
from mrcnn.config import Config

COCO_WEIGHTS_PATH = os.path.abspath("mask_rcnn_coco.h5")
EPOCHS = 30
CLASS_LAYERS = ["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"]


class BalloonConfig(Config):
    """Two images at a time, as many as 12 GB hold."""

    NAME = "balloon"
    IMAGES_PER_GPU = 2
    NUM_CLASSES = 1 + 1  # background + balloon
    STEPS_PER_EPOCH = 100
    DETECTION_MIN_CONFIDENCE = 0.9


class InferenceConfig(BalloonConfig):
    """One image at a time."""

    GPU_COUNT = 1
    IMAGES_PER_GPU = 1


class BalloonDataset(utils.Dataset):
    """Images with polygons by VIA."""

    def load_balloon(self, folder):
        """Add the annotated images of a folder."""
        self.add_class("balloon", 1, "balloon")
        with open(os.path.join(folder, "via_region_data.json")) as file:
            annotations = list(json.load(file).values())
        annotations = [a for a in annotations if a["regions"]]
        for a in annotations:
            regions = a["regions"]
            if isinstance(regions, dict):  # by VIA 1; VIA 2 writes a list
                regions = regions.values()
            path = os.path.join(folder, a["filename"])
            height, width = skimage.io.imread(path).shape[:2]
            self.add_image(
                "balloon",
                image_id=a["filename"],
                path=path,
                width=width,
                height=height,
                polygons=[region["shape_attributes"] for region in regions],
            )

    def load_mask(self, image_id):
        info = self.image_info[image_id]
        if info["source"] != "balloon":
            return super(self.__class__, self).load_mask(image_id)
        size = info["height"], info["width"]
        mask = np.zeros([*size, len(info["polygons"])], dtype=bool)
        for i, polygon in enumerate(info["polygons"]):
            ys, xs = polygon["all_points_y"], polygon["all_points_x"]
            rr, cc = skimage.draw.polygon(ys, xs, shape=size)
            mask[rr, cc, i] = True
        return mask, np.ones(len(info["polygons"]), dtype=np.int32)

    def image_reference(self, image_id):
        info = self.image_info[image_id]
        if info["source"] == "balloon":
            return info["path"]
        return super(self.__class__, self).image_reference(image_id)


def load_dataset(folder):
    """The prepared data set of a folder."""
    dataset = BalloonDataset()
    dataset.load_balloon(folder)
    dataset.prepare()
    return dataset


def train(model, folder):
    """Train the heads only: the images are few, and COCO's features are good."""
    model.train(
        load_dataset(os.path.join(folder, "train")),
        load_dataset(os.path.join(folder, "val")),
        learning_rate=model.config.LEARNING_RATE,
        epochs=EPOCHS,
        layers="heads",
    )


def color_splash(image, mask):
    """The image in grey, but coloured where any of the masks [H, W, N] is."""
    gray = 255 * skimage.color.gray2rgb(skimage.color.rgb2gray(image))
    inside = np.any(mask, axis=-1, keepdims=True)
    return np.where(inside, image, gray).astype(np.uint8)


def splash(model, path):
    """Write the colour splash of an image beside it, and return its path."""
    image = skimage.io.imread(path)
    r = model.detect([image], verbose=1)[0]
    result = os.path.splitext(path)[0] + "_splash.png"
    skimage.io.imsave(result, color_splash(image, r["masks"]), check_contrast=False)
    print("Saved to ", result)
    return result


def find_weights(model, name):
    """The path that --weights means."""
    if name == "coco":
        if not os.path.exists(COCO_WEIGHTS_PATH):
            utils.download_trained_weights(COCO_WEIGHTS_PATH)
        return COCO_WEIGHTS_PATH
    if name == "last":
        return model.find_last()
    if name == "imagenet":
        return model.get_imagenet_weights()
    return name


def main(arguments=None):
    """Run the script's command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["train", "splash"])
    parser.add_argument("--dataset")
    parser.add_argument("--weights", required=True, help="'coco', 'last', 'imagenet' or a path")
    parser.add_argument("--logs", default="logs")
    parser.add_argument("--image")
    args = parser.parse_args(arguments)

    training = args.command == "train"
    config = BalloonConfig() if training else InferenceConfig()
    config.display()
    model = modellib.MaskRCNN(
        mode="training" if training else "inference", config=config, model_dir=args.logs
    )
    # COCO has other classes.
    exclude = CLASS_LAYERS if args.weights == "coco" else None
    model.load_weights(find_weights(model, args.weights), by_name=True, exclude=exclude)
    if training:
        train(model, args.dataset)
        return model
    return splash(model, args.image)


if __name__ == "__main__":
    main()
