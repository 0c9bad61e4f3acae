"""Results of a set of images on disk; stopped, the work goes on where it was."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from mrcnn.files import atomic_path
from mrcnn_nuclei.formats import WRITERS

OTHERWISE = "otherwise"
"""Of what results were made that stay from a call with other options."""

LOGGER = logging.getLogger("mrcnn_nuclei")


class Result(NamedTuple):
    """What was found in an image, and what its writers want besides.

    Attributes
    ----------
    found : Instances, or an object with `bands()`
        See `mrcnn_nuclei.formats`.
    image : uint8 array [H, W, 3], or what is sliced like it, optional
        RGB.
    mpp : float, optional
        Microns per pixel.
    """

    found: Any
    image: Any = None
    mpp: float | None = None


class Job(NamedTuple):
    """The result of one image, and how to come by it.

    Attributes
    ----------
    name : str
        Of its files, without suffix.
    file_name : str
        Of the image, for files that hold the whole set.
    identity
        JSON-able: of what the result is made; see `file_identity`.
    make : callable
        `make(alone)` returns a Result; if it is the only one to make, it may show a progress bar of
        its own.
    """

    name: str
    file_name: str
    identity: Any
    make: callable


def write_results(jobs, output, writers, manifest, made_by, notes=None):
    """Write the results of images that are not there yet.

    An image whose results are there, made of the same by the same, is left as it is, unless a
    format needs the whole set at once. What older results left of an image that is made anew, in
    formats not asked for now, is deleted: nobody could tell which of them belong together. Files
    that somebody has changed since are kept.

    Parameters
    ----------
    jobs : list of Job
    output : str or Path
        Folder of the results.
    writers : list of str
        Names of `mrcnn_nuclei.formats.WRITERS`.
    manifest : str
        Name of the file in `output` that tells of what each result was made.
    made_by : dict
        JSON-able: what else decides the results. Those of another are made anew.
    notes : dict, optional
        JSON-able: written into the manifest too, but free to change.

    Returns
    -------
    nuclei : int
        In the results of this call.
    images : int
        Number of images that were not done already.
    """
    output = Path(output)
    per_image = [WRITERS[name] for name in writers if WRITERS[name].per_image]
    per_set = [WRITERS[name] for name in writers if not WRITERS[name].per_image]
    manifest = _Manifest(output / manifest, made_by, notes or {})
    waiting = [
        job
        for job in jobs
        if per_set
        or not manifest.has(job, writers)
        or not all(writer.path(output, job.name).exists() for writer in per_image)
    ]
    done = len(jobs) - len(waiting)
    if done:
        LOGGER.info("%d of %d images are done already", done, len(jobs))

    nuclei, predictions = 0, {}
    with tqdm(total=len(waiting), unit="image", desc="Images", disable=len(waiting) < 2) as bar:
        for job in waiting:
            result = job.make(len(waiting) < 2)
            for kind in manifest.outdated(job) - set(writers):
                _delete(_file(kind, output, job.name))
            known = manifest.remove(job)
            for writer in per_image:
                writer.write(writer.path(output, job.name), *result)
            manifest.add(job, {*known, *writers})
            if per_set:
                predictions[job.file_name] = result.found
            nuclei += len(result.found)
            bar.set_postfix(nuclei=nuclei, refresh=False)
            bar.update()
    for writer in per_set:
        writer.write(writer.path(output), predictions)
    if per_set:
        manifest.save()  # no older than what it tells of
    return nuclei, len(waiting)


def file_identity(path):
    """Path, size and time of a file, which change with its content; of drawn images the name."""
    try:
        status = Path(path).stat()
    except OSError:
        return [str(path)]
    return [str(path), status.st_size, status.st_mtime_ns]


def _file(kind, output, name):
    writer = WRITERS[kind]
    return writer.path(output, name) if writer.per_image else writer.path(output)


def _delete(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class _Manifest:
    """Of what the results in a folder were made, and which kinds of file; others are void."""

    def __init__(self, path, made_by, notes):
        self.path = path
        self.head = {**notes, **made_by}
        same, self.images = self._read(made_by)
        if not same:
            for claim in self.images.values():
                claim["made_of"] = OTHERWISE
            self.save()  # an old claim would hold for a part of what replaces its results

    def has(self, job, kinds):
        """Whether an image's files of these kinds are there."""
        return set(kinds) <= self._kinds(job)

    def outdated(self, job):
        """The kinds of an image's files that are there, but made of something else."""
        return set(self.images.get(job.name, {}).get("kinds", ())) - self._kinds(job)

    def remove(self, job):
        """Forget an image's files; returns the kinds that there were, made of the same."""
        kinds = self._kinds(job)
        if self.images.pop(job.name, None):
            self.save()
        return kinds

    def add(self, job, kinds):
        """Note the kinds of an image's files."""
        self.images[job.name] = {"made_of": job.identity, "kinds": sorted(kinds)}
        self.save()

    def save(self):
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps({**self.head, "images": self.images}, indent=1))

    def _read(self, made_by):
        """Whether what is there was made by the same, and what is claimed of each image."""
        try:
            known = json.loads(self.path.read_text())
            claims = {}
            for name, claim in known["images"].items():
                kinds = sorted(set(claim["kinds"]) & set(WRITERS))
                claims[name] = {"made_of": claim["made_of"], "kinds": kinds}
            same = all(known.get(key) == value for key, value in made_by.items())
            return same, claims if same else self._unchanged(claims)
        except (FileNotFoundError, NotADirectoryError):
            return True, {}
        except (ValueError, KeyError, TypeError, AttributeError):
            return False, {}

    def _unchanged(self, claims):
        """Without the files that are newer than what tells of them."""
        told, folder = self.path.stat().st_mtime_ns, self.path.parent
        for name, claim in claims.items():
            files = {kind: _file(kind, folder, name) for kind in claim["kinds"]}
            claim["kinds"] = [
                kind
                for kind, file in files.items()
                if file.exists() and file.stat().st_mtime_ns <= told
            ]
        return claims

    def _kinds(self, job):
        known = self.images.get(job.name, {})
        return set(known["kinds"]) if known.get("made_of") == job.identity else set()
