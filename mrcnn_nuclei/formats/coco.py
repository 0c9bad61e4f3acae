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
    predictions = dict(predictions)
    images = [
        {"id": image_id, "file_name": name, "height": found.shape[0], "width": found.shape[1]}
        for image_id, (name, found) in enumerate(predictions.items(), start=1)
    ]
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(f'{{"images": {json.dumps(images)},\n"annotations": [')
        separator = "\n"
        for number, annotation in enumerate(_annotations(predictions.values()), start=1):
            file.write(separator)
            file.write(json.dumps({"id": number, **annotation, "iscrowd": 0}))
            separator = ",\n"
        file.write(f'],\n"categories": {json.dumps(categories)}}}\n')


def _annotations(sequence):
    for image_id, instances in enumerate(sequence, start=1):
        yield from instances.to_coco(image_id=image_id)
