"""What each command does with the options of `mrcnn_nuclei.cli`."""

import logging
from pathlib import Path

from tqdm import tqdm

from mrcnn.errors import InputError
from mrcnn.instances import Instances
from mrcnn_nuclei import datasets
from mrcnn_nuclei.config import MODELS, make_config, parse_settings
from mrcnn_nuclei.formats import parse_writers
from mrcnn_nuclei.shipped_weights import (
    DEFAULT,
    FILES,
    LICENCES,
    PRESET_OF,
    default_unet,
    find_shipped,
    saw,
)
from mrcnn_nuclei.startup import import_keras

LOGGER = logging.getLogger("mrcnn_nuclei")

START_WORDS = (None, "coco", "imagenet", "none")
"""What training may start from other than a file and weights that come with the project."""


def _run_name(options, preset):
    fold = "" if options.fold is None else f"fold{options.fold}-"
    return f"nucleus-{fold}{options.model}-{preset}"


def _preset(options):
    """The preset to train: that given, else that of the project's weights to start from."""
    return options.preset or PRESET_OF.get(options.weights, "compact")


def _load_dataset(root, options, subset, **kwargs):
    return datasets.NucleusDataset().load(
        root, format=options.format, subset=subset, fold=options.fold, **kwargs
    )


def _selected_subset(options):
    return "val" if options.subset is None and options.fold is not None else options.subset


def train(options):
    """Train a network."""
    from mrcnn_nuclei.preprocessing import clean_labels

    preset = _preset(options)
    settings = parse_settings(options.settings, preset, options.model)
    name = _run_name(options, preset)
    config = make_config(preset, {"SEED": options.seed, **settings}, name, options.model)
    train_dataset = _load_dataset(
        options.dataset, options, options.subset or "train", preprocess=clean_labels
    )
    for root in options.also:
        train_dataset.load(root, preprocess=clean_labels)
    val_dataset = _load_dataset(options.dataset, options, "val")
    both = set(train_dataset.names) & set(val_dataset.names)
    if both:
        LOGGER.warning(
            "%d images, such as %s, are in both subsets: validation will flatter the network",
            len(both),
            min(both),
        )
    _require_weights(options.weights, (*START_WORDS, "last"))
    seen = saw(options.weights, val_dataset.names)
    if seen:
        LOGGER.warning(
            "--weights %s: learned from all images of MoNuSeg, such as %s, so that validation will "
            "flatter the network; start from free",
            options.weights,
            seen[0],
        )

    import_keras()
    from mrcnn_nuclei import training

    weights = training.find_weights(options.weights, config, options.logs)
    _read_all(train_dataset, val_dataset)
    checkpoint = training.train(
        config,
        train_dataset,
        val_dataset,
        options.logs,
        weights=weights,
        epochs=options.epochs,
    )
    print(f"wrote {checkpoint.parent}; {config.CHECKPOINT} checkpoint: {checkpoint}")


def _read_all(*loaded):
    """Read each image and its nuclei, so that a broken file shows before training, not in it."""
    readings = [(dataset, image_id) for dataset in loaded for image_id in dataset.image_ids]
    for dataset, image_id in tqdm(readings, desc="Reading", unit="image", delay=1):
        dataset.load_image(image_id)
        dataset.load_labels(image_id)


def detect(options):
    """Write the nuclei of images."""
    from mrcnn_nuclei.regions import parse_region

    writers = parse_writers(options.write)
    if (options.dataset is None) == (options.image is None):
        raise InputError("detect: give either --dataset DIR or --image FILE ...")
    # The weights' network is not known yet; the U-Net has all settings of the detector, and more.
    settings = parse_settings(options.settings, options.preset or "compact", "unet")
    for path in options.image or ():
        if not Path(path).is_dir():  # OME-Zarr is a folder
            _require_file(path, "image")
    if options.workers is not None and options.scheduler is not None:
        raise InputError("detect: give either --workers N or --scheduler ADDRESS")
    region = options.region and parse_region(options.region)
    if options.dataset is not None:
        dataset = _load_dataset(
            options.dataset, options, _selected_subset(options), annotated=False
        )
    _require_weights(options.weights, (None, "last"))
    unet = default_unet(options.weights, options.unet)
    _require_weights(unet, (None,))

    import_keras()
    from mrcnn_nuclei.detection import dataset_sources, detect_images, image_sources

    sources = image_sources(options.image) if options.image else dataset_sources(dataset)
    weights = None if options.weights is None else _trained_weights(options)
    for word in (options.weights or DEFAULT, unet):
        if word in FILES:
            LOGGER.info("weights: %s (%s)", find_shipped(word), LICENCES[word])
    nuclei, images = detect_images(
        sources,
        weights,
        options.output,
        writers,
        options.preset,
        settings,
        unet=unet or "none",
        mpp=options.mpp,
        region=region,
        workers=options.workers,
        scheduler=options.scheduler,
    )
    _report(nuclei, images, writers, options.output)


def _report(nuclei, images, writers, output):
    kinds = ", ".join(writers)
    if images:
        print(f"{nuclei} nuclei in {images} image{'s' * (images != 1)}; wrote {kinds} to {output}")
    else:
        print(f"nothing to do: {kinds} of all images are in {output}")


def tune(options):
    """Save a network's best thresholds with its weights."""
    # The weights' network is not known yet; the U-Net has all settings of the detector, and more.
    settings = parse_settings(options.settings, options.preset or "compact", "unet")
    dataset = _load_dataset(options.dataset, options, options.subset or "val")
    if options.weights in FILES:
        raise InputError(
            f"--weights {options.weights}: thresholds are saved in the file, and this one is the "
            f"project's; give a copy of {FILES[options.weights]}"
        )
    _require_weights(options.weights, ("last",))

    import_keras()
    from mrcnn_nuclei.detector import Detector

    weights = _trained_weights(options)
    detector = Detector(weights, options.preset, settings)
    found, before, after = detector.tune(dataset)
    detector.save_settings()
    print(", ".join(f"{name} = {value}" for name, value in found.items()))
    print(
        f"mean AJI of {len(dataset.image_ids)} images {before:.3f} -> {after:.3f}; "
        f"wrote the settings into {weights}"
    )


def _require_weights(weights, words):
    """Refuse what is neither a file, nor weights of the project, nor one of these words."""
    if weights in FILES:
        find_shipped(weights)
    elif weights not in words:
        _require_file(weights, "weights")


def _require_fresh(weights, dataset):
    """Refuse, for networks that are to be compared on held-out images, what may have seen them."""
    seen = saw(weights, dataset.names)
    if seen:
        raise InputError(
            f"--weights {weights}: learned from all images of MoNuSeg, such as {seen[0]}, so that "
            "none would be held out; give free"
        )


def _trained_weights(options):
    """The file that `--weights` of a command for trained networks means."""
    from mrcnn_nuclei.training import last_checkpoint

    if options.weights != "last":
        return find_shipped(options.weights)
    name = _run_name(options, options.preset or "compact")
    return last_checkpoint(options.logs, name, options.model)


def _require_file(path, kind):
    if not Path(path).is_file():
        raise InputError(f"{path}: no such {kind} file; check the path")


def evaluate(options):
    """Print the scores of predictions."""
    from mrcnn_nuclei.evaluation import REPORTS, evaluate_folder

    if options.json and Path(options.json).suffix.lower() not in REPORTS:
        raise InputError(f"--json {options.json}: end its name in one of {', '.join(REPORTS)}")
    dataset = _load_dataset(options.truth, options, _selected_subset(options))
    evaluation = evaluate_folder(options.predictions, dataset, by_shape=options.by_shape)
    print(evaluation.to_text())
    if options.json:
        evaluation.write(options.json)
        print(f"wrote {options.json}")


def crossval(options):
    """Train and try the networks of every fold."""
    from mrcnn_nuclei.crossval import cross_validate, make_networks, make_parts
    from mrcnn_nuclei.datasets.folds import divide, folds_file

    models = list(MODELS) if options.model == "both" else [options.model]
    preset = _preset(options)
    for model in models:
        settings = parse_settings(options.settings, preset, model)
    weights = options.weights or settings.pop("INITIAL_WEIGHTS", None)
    _require_weights(weights, (*START_WORDS, "unet"))
    if weights == "unet" and options.model != "mrcnn":
        raise InputError("--weights unet: is what Mask R-CNNs start from; give --model mrcnn")
    dataset = datasets.NucleusDataset().load(options.dataset, options.format)
    _require_fresh(weights, dataset)
    samples = [info["sample"] for info in dataset.image_info]
    made = options.n_folds is not None
    path = options.folds or (None if made else folds_file(options.dataset))
    folds = divide(samples, path, options.n_folds if made else 5)
    settings = {"SEED": options.seed, **settings}
    parts = make_parts(folds, options.nested)
    if options.fold is not None:
        parts = _choose_parts(parts, options.fold, len(folds))
    networks = make_networks(parts, models, preset, settings)

    import_keras()
    from mrcnn_nuclei.training import find_weights

    if weights != "unet":  # what cannot be had shows before the images are read
        find_weights(weights, networks[0][1], options.output)
    _read_all(dataset)
    cross_validate(
        options.output,
        options.dataset,
        folds,
        networks,
        weights=weights,
        epochs=options.epochs,
        format=options.format,
        test=options.test,
        flips=options.flips,
    )
    print(f"wrote {options.output}; for its scores: nucleus table {options.output}")


def _choose_parts(parts, chosen, n_folds):
    """The parts of a cross-validation that belong to some of its folds."""
    unknown = set(chosen) - set(range(n_folds))
    if unknown:
        raise InputError(f"--fold {min(unknown)}: the folds are 0 to {n_folds - 1}")
    names = {f"{kind}{k}" for k in chosen for kind in ("fold", "nested")}
    return [part for part in parts if part.name in names]


def ensemble(options):
    """Write the nuclei of several predictions, fused."""
    from mrcnn_nuclei.ensemble import fuse_folders

    writers = parse_writers(options.write)
    nuclei, images = fuse_folders(
        options.predictions,
        options.output,
        writers,
        options.images,
        iou_threshold=options.iou_threshold,
        min_votes=options.min_votes,
        fuse=options.fuse,
        method=options.method,
    )
    _report(nuclei, images, writers, options.output)


def table(options):
    """Print and write the table of a cross-validation."""
    from mrcnn_nuclei.crossval import load_held_out
    from mrcnn_nuclei.evaluation import evaluate_folder
    from mrcnn_nuclei.table import read_table

    added = {}
    for text in options.add:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise InputError(f"--add {text}: write NAME=DIR")
        added[name] = evaluate_folder(folder, load_held_out(options.runs, options.dataset))
    found = read_table(options.runs, added)
    output = options.output or options.runs
    found.write(output)
    print(found.to_markdown())
    print(f"wrote table.md, table.csv, table.json and table.png to {output}")


def report(options):
    """Write a page that shows what runs have reached."""
    from mrcnn_nuclei.report.page import write_report

    page = write_report(options.run_folder, options.output, options.dataset, options.format)
    size = page.stat().st_size
    size = f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
    print(f"wrote {page}, {size}; open it with a browser")


def figures(options):
    """Draw the figures of the paper."""
    from mrcnn_nuclei.image_files import read_image

    settings = parse_settings(options.settings, options.preset or "compact", "unet")
    _require_weights(options.weights, (None, "last"))
    for path in options.image:
        _require_file(path, "image")
    validation = []
    if options.dataset or not options.image:
        format = options.format if options.dataset else "synthetic"
        dataset = datasets.NucleusDataset().load(
            options.dataset, format, options.subset or "val", options.fold
        )
        for image_id in dataset.image_ids[: options.count]:
            labels, class_ids = dataset.load_labels(image_id)
            truth = Instances.from_label_map(labels)[class_ids > 0]
            validation.append((dataset.names[image_id], dataset.load_image(image_id), truth))
    test = [(Path(path).stem, read_image(path)) for path in options.image[: options.count]]

    import_keras()
    from mrcnn_nuclei.detector import Detector
    from mrcnn_nuclei.figures import draw_figures

    detector = Detector(_trained_weights(options), options.preset, settings)
    written = draw_figures(detector, validation, test, options.output)
    print("wrote", *written)


def view(options):
    """Open an image and its nuclei in napari."""
    from mrcnn_nuclei.napari import viewer

    viewer.view(options.image, options.prediction, options.truth)


def ablate(options):
    """Try changes to a network, one by one."""
    from mrcnn_nuclei import ablation, switches
    from mrcnn_nuclei.preprocessing import clean_labels

    preset = _preset(options)
    settings = parse_settings(options.settings, preset, options.model)
    if options.weights:
        settings["INITIAL_WEIGHTS"] = options.weights
    weights = settings.get("INITIAL_WEIGHTS")
    _require_weights(weights, START_WORDS)
    settings = {"SEED": options.seed, **settings}
    config = make_config(preset, settings, model=options.model)
    names = options.only and [name.strip() for name in options.only.split(",")]
    switches.choose(config, names)
    train_dataset = _load_dataset(options.dataset, options, "train", preprocess=clean_labels)
    val_dataset = _load_dataset(options.dataset, options, "val")
    _require_fresh(weights, val_dataset)
    _read_all(train_dataset, val_dataset)

    import_keras()
    from mrcnn_nuclei.training import scale_schedule

    settings["SCHEDULE"] = scale_schedule(config.SCHEDULE, options.epochs)
    table = ablation.ablate(
        options.output, train_dataset, val_dataset, preset, settings, options.model, names
    )
    print(table.to_markdown())
    print(f"wrote {Path(options.output) / 'ablation.md'}, .csv and .json")


def average(options):
    """Write the mean of several checkpoints."""
    output = Path(options.output)
    if len(options.weights) < 2 and not options.half:
        raise InputError("--weights: give two files or more to average")
    if output.exists():
        raise InputError(f"{output}: exists already; remove it, or choose another name")
    for path in options.weights:
        _require_file(path, "weights")

    import_keras()
    from mrcnn.weights import average_weights
    from mrcnn_nuclei.networks import RECIPE, read_recipe

    recipe = read_recipe(options.weights[0])
    if recipe:
        recipe["settings"] |= parse_settings(options.settings, recipe["preset"], recipe["model"])
    elif options.settings:
        raise InputError(f"--set: {options.weights[0]} has no settings; give a checkpoint of train")
    dtype = "float16" if options.half else "float32"
    average_weights(options.weights, output, recipe and {RECIPE: recipe}, dtype)
    count = len(options.weights)
    print(f"wrote {output}, {f'the mean of {count} files' if count > 1 else 'in half precision'}")


def export(options):
    """Write a network for programs without Keras."""
    settings = parse_settings(options.settings, options.preset or "compact", "unet")
    # Weights are float32 however they were trained, and few runtimes have 16-bit operations.
    settings.setdefault("DTYPE_POLICY", "float32")
    if options.size:
        settings["DETECTION_TILE"] = options.size
    _require_weights(options.weights, ())
    weights = find_shipped(options.weights)

    import_keras()
    from mrcnn.export import check_export
    from mrcnn_nuclei.detector import Detector

    format = check_export(options.output, options.format)
    detector = Detector(weights, options.preset, settings)
    height, width = detector.config.IMAGE_SHAPE[:2]
    LOGGER.info("writing the network of %s as %s; takes a minute or two", options.weights, format)
    detector.export(options.output, format)
    print(f"wrote {options.output}, for images of {height} x {width} pixels")


def demo(options):
    """Run everything at toy size."""
    import_keras()
    from mrcnn_nuclei.demo import run_demo

    run_demo(Path(options.output), options.seed)
