"""Ablations, run one by one and set against a baseline.

    OUTPUT/
      baseline/                   a run each, see `mrcnn_nuclei.runs`
      dice/
      ...
      ablation.md, .csv, .json    the table

What acts at detection alone has no training of its own: it detects with the baseline's weights.
"""

import logging
from pathlib import Path

from mrcnn.errors import InputError
from mrcnn_nuclei.ablation_table import BASELINE, AblationTable
from mrcnn_nuclei.config import json_settings, make_config
from mrcnn_nuclei.formats import WRITERS
from mrcnn_nuclei.runs import Run
from mrcnn_nuclei.switches import ABLATIONS, AT_DETECTION, SEARCH, choose

LOGGER = logging.getLogger("mrcnn_nuclei")


def ablate(
    output,
    train_dataset,
    val_dataset,
    preset="compact",
    settings=None,
    model="mrcnn",
    names=None,
):
    """Run a baseline and ablations of it, and tabulate what they change.

    What is done already is not done again, and ablations of an earlier call stay in the table. The
    table is written anew after each.

    Parameters
    ----------
    output : str or Path
    train_dataset, val_dataset : NucleusDataset
        The latter's images are predicted and scored.
    preset, settings, model
        Of the baseline, see `mrcnn_nuclei.config.make_config`.
    names : sequence of str, optional
        See `mrcnn_nuclei.switches.choose`.

    Returns
    -------
    AblationTable

    Raises
    ------
    InputError
        See there; also if the output was made with other settings or images.
    """
    output, settings = Path(output), settings or {}
    config = make_config(preset, settings, model=model)
    if names is None and len(val_dataset.image_ids) < 2:
        names = [name for name in choose(config) if name != SEARCH]
    names = choose(config, names)
    done = [name for name in ABLATIONS if (output / name / "metrics.json").is_file()]
    names = [name for name in ABLATIONS if name in names or name in done]
    if SEARCH in names and len(val_dataset.image_ids) < 2:
        raise InputError(f"{SEARCH}: needs two held-out images at least; name others by --only")
    common = {
        "model": model,
        "preset": preset,
        "settings": json_settings(config),
        "images": {"training": train_dataset.names, "held_out": val_dataset.names},
    }

    def start(name, changes):
        return Run(output / name, {**common, "changes": changes})

    def train(run, name, changes):
        changed = make_config(preset, {**settings, **changes}, f"nucleus-{name}-{model}", model)
        return run.train(changed, train_dataset, val_dataset)

    LOGGER.info("%s", BASELINE)
    baseline = start(BASELINE, {})
    weights = train(baseline, BASELINE, {})
    baseline.predict(weights, val_dataset)
    table = AblationTable(baseline.score(val_dataset))
    table.write(output)
    for number, name in enumerate(names, 1):
        LOGGER.info("%s, %d of %d", name, number, len(names))
        changes = ABLATIONS[name].changes(config)
        run = start(name, changes)
        if name == SEARCH:
            changes = _search(run, weights, val_dataset, baseline.read("training"))
        elif changes.keys() <= AT_DETECTION:
            run.predict(weights, val_dataset, settings=changes)
        else:
            run.predict(train(run, name, changes), val_dataset)
        table.add(name, changes, run.score(val_dataset))
        table.write(output)
    return table


def _search(run, weights, dataset, training):
    """Predict each half of the images with thresholds that were found on the other one."""

    def work():
        from mrcnn_nuclei.detector import Detector

        halves = dataset.image_ids[::2], dataset.image_ids[1::2]
        settings = []
        for own, other in (halves, halves[::-1]):
            detector = Detector(weights)
            settings.append(detector.tune(dataset, other)[0])
            for i in own:
                image, writer = dataset.load_image(i), WRITERS["labels"]
                path = writer.path(run.folder / "predictions", dataset.names[i])
                writer.write(path, detector.detect(image), image)
        return {"settings": settings}

    first, second = run.do("predictions", work, training=training)["settings"]
    return {name: [first[name], second[name]] for name in first}
