"""GeoJSON as QuPath reads it (0.4 and later; drag the file onto the open image).

QuPath takes pixels of the full-resolution image, with the origin at the corner of the first pixel:
https://qupath.readthedocs.io/en/stable/docs/advanced/exporting_annotations.html
"""

import json
import uuid

from mrcnn.files import atomic_path

#: Makes the ids of this software's objects; any constant would do.
_NAMESPACE = uuid.UUID("8a1d7a0e-52a5-4c08-9c6e-3d1f5a7c2b94")


def write(path, instances, image=None, class_names=("Background", "Nucleus")):
    """Write one detection object for each instance of an image.

    The same instances give the same file, ids included. Instances without pixels are left out.

    Parameters
    ----------
    path : str or Path
    instances : Instances
    image : ignored
    class_names : sequence of str
        Name of each class id.
    """
    features = (
        _feature(*one, class_names)
        for one in zip(
            range(len(instances)),
            instances.to_polygons(),
            instances.areas.tolist(),
            instances.scores.tolist(),
            instances.class_ids.tolist(),
        )
        if one[1]
    )
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        # One object a line: a slide has a million.
        file.write('{"type": "FeatureCollection", "features": [')
        for index, feature in enumerate(features):
            file.write(",\n" if index else "\n")
            json.dump(feature, file)
        file.write("\n]}\n")


def _feature(index, rings, area, score, class_id, class_names):
    rings = [ring.astype(int).tolist() for ring in rings]
    if len(rings) == 1:
        geometry = {"type": "Polygon", "coordinates": rings}
    else:
        geometry = {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}
    name = class_names[class_id] if class_id < len(class_names) else f"Class {class_id}"
    return {
        "type": "Feature",
        # Two instances may have the same outline, but not the same id.
        "id": str(uuid.uuid5(_NAMESPACE, f"{index} {class_id} {rings}")),
        "geometry": geometry,
        "properties": {
            "objectType": "detection",
            "classification": {"name": name, "color": [0, 240, 255]},
            "measurements": {"score": round(score, 6), "area": area},
        },
    }
