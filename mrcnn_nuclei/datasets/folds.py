"""Folds for cross-validation: made from a seed, read and written as JSON.

The file is an object {"fold0": [names], "fold1": [names], ...}.
"""

import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from mrcnn.errors import InputError
from mrcnn.files import atomic_path


def make_folds(names, groups=None, strata=None, n_folds=5, seed=0):
    """Divide images into folds of nearly equal size.

    Parameters
    ----------
    names : sequence of str
        The result does not depend on their order.
    groups : sequence, optional
        Patient or slide of each image; images of one group share a fold. None stands for a group
        of its own.
    strata : sequence, optional
        Organ of each image, say; each stratum is spread evenly over the folds. A group counts to
        the stratum of its first image.
    n_folds : int
    seed : int

    Returns
    -------
    list of list of str
        `n_folds` sorted lists, none of them empty. Without groups, their lengths, also within
        a stratum, differ by at most one.

    Raises
    ------
    InputError
        If there are fewer images, or groups of images, than folds.
    """
    groups = [None] * len(names) if groups is None else groups
    strata = [None] * len(names) if strata is None else strata
    members, stratum_of = defaultdict(list), {}
    for name, group, stratum in sorted(zip(names, groups, strata), key=lambda image: image[0]):
        key = ("image", name) if group is None else ("group", str(group))
        members[key].append(name)
        stratum_of.setdefault(key, str(stratum))
    if not 1 <= n_folds <= len(members):
        raise InputError(
            f"{len(members)} images (those of one patient or slide counted once) cannot be divided "
            f"into {n_folds} folds; add images or ask for fewer folds"
        )

    # Stratum by stratum, large groups first, each to the fold that lacks its stratum most.
    shuffled = np.random.default_rng(seed).permutation(len(members))
    keys = [list(members)[k] for k in shuffled]
    keys.sort(key=lambda key: (stratum_of[key], -len(members[key])))
    folds = [[] for _ in range(n_folds)]
    stratum_counts = [Counter() for _ in range(n_folds)]
    for key in keys:
        stratum = stratum_of[key]
        k = min(range(n_folds), key=lambda k: (stratum_counts[k][stratum], len(folds[k])))
        folds[k] += members[key]
        stratum_counts[k][stratum] += len(members[key])
    return [sorted(fold) for fold in folds]


def folds_file(root):
    """The file that divides a data set into folds, `root/folds.json`; None if there is none."""
    path = Path(str(root)) / "folds.json"
    return path if path.is_file() else None


def divide(samples, path=None, n_folds=5):
    """The folds of a data set: those of a file, else made with seed 0 from groups and organs.

    Parameters
    ----------
    samples : sequence of mrcnn_nuclei.datasets.Sample
    path : str or Path, optional
        See `read_folds`. It may name images that are not there.
    n_folds : int
        How many to make.

    Returns
    -------
    list of list of str

    Raises
    ------
    InputError
        If the file cannot be used or lacks an image, or `make_folds` fails.
    """
    if path is None:
        names, groups, organs = zip(*((s.name, s.group, s.organ) for s in samples))
        return make_folds(names, groups, organs, n_folds)
    folds = read_folds(path)
    known = set().union(*folds)
    unknown = [sample.name for sample in samples if sample.name not in known]
    if unknown:
        raise InputError(f"{path}: has no fold for the image {unknown[0]}; add it")
    return folds


def read_folds(path):
    """Read folds from a JSON file.

    Returns
    -------
    list of list of str
        In the order of their numbers.

    Raises
    ------
    InputError
        If the file is missing, of another form, or names an image twice.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        folds = [list(content[f"fold{k}"]) for k in range(len(content))]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (ValueError, KeyError, TypeError):
        folds = []
    if not all(folds or [[]]) or not all(isinstance(name, str) for fold in folds for name in fold):
        raise InputError(
            f'{path}: is not of the form {{"fold0": [names], "fold1": [names], ...}}; correct it'
        )
    repeated = [name for name, n in Counter(sum(folds, [])).items() if n > 1]
    if repeated:
        raise InputError(f"{path}: names {repeated[0]} more than once; keep it in one fold")
    return folds


def write_folds(path, folds):
    """Write folds to a JSON file, whole or not at all."""
    content = {f"fold{k}": list(fold) for k, fold in enumerate(folds)}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
