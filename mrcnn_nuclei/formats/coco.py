"""COCO JSON: one file for a set of images, masks as compressed RLE, overlaps kept."""

import json

from mrcnn.files import atomic_path


def write(path, predictions, class_names=("background", "nucleus")):
    """Write the instances of a set of images.

    Parameters
    ----------
    path : str or Path
    predictions : mapping, or iterable of pairs, of str and Instances
        File name of each image, as other programs shall find it, and what it shows.
    class_names : sequence of str
        Name of each class id; the first is the background and no category.

    Notes
    -----
    `pycocotools.coco.COCO` reads the file. Each annotation has a `score` beside COCO's own fields,
    so that the list of annotations serves `loadRes` too.
    """
    categories = [
        {"id": class_id, "name": name, "supercategory": ""}
        for class_id, name in enumerate(class_names)
        if class_id > 0
    ]
    images, annotations = [], []
    for image_id, (name, instances) in enumerate(dict(predictions).items(), start=1):
        height, width = instances.shape
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for annotation in instances.to_coco(image_id=image_id):
            annotations.append({"id": len(annotations) + 1, **annotation, "iscrowd": 0})
    content = {"images": images, "annotations": annotations, "categories": categories}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
