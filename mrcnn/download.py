"""Files from the web: with progress, going on where a transfer breaks off, whole or not at all."""

import http.client
import re
import urllib.error
import urllib.request

from tqdm import tqdm

from mrcnn.errors import InputError
from mrcnn.files import atomic_path, file_digest

CHUNK = 1 << 16  # bytes
TIMEOUT = 30  # seconds without any data


def download(url, path, flaw=lambda part: None, verbose=1):
    """Download a file with a progress bar, and print its SHA-256.

    A transfer that breaks off goes on where it stopped if the server can do that and still has the
    same file, else from the start, as long as it gets farther than the time before.

    Parameters
    ----------
    url : str
    path : str or Path
        Appears complete or not at all.
    flaw : callable, optional
        Takes the path of the complete download and returns what is wrong with it, or None.
    verbose : int
        0 shows neither progress nor digest.

    Raises
    ------
    InputError
        If the download fails; the message says what to fetch and where to put it.
    OSError
        If the file cannot be written, with `filename` set.
    """
    with atomic_path(path) as part:
        with (
            open(part, "wb") as file,
            tqdm(
                desc=file_name(url),
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                delay=0.01,  # so that without a connection nothing but the error shows
                disable=not verbose,
            ) as bar,
        ):
            try:
                _fetch(url, file, bar)
            except ConnectionError as error:
                raise download_failed(url, path, error) from error
        reason = flaw(part)
        if reason:
            raise download_failed(url, path, reason)
    if verbose:
        print_digest(path)


def print_digest(path):
    """Print the SHA-256 of a file, so that it can be compared.

    Parameters
    ----------
    path : str or Path
    """
    print(f"{path}: SHA-256 {file_digest(path)}")


def file_name(url):
    """The last part of a URL."""
    return url.rpartition("/")[2]


def download_failed(url, path, reason):
    """The error that says what to fetch and where to put it.

    Parameters
    ----------
    url : str
    path : str or Path
    reason : str or Exception

    Returns
    -------
    InputError
    """
    return InputError(
        f"{url} could not be downloaded ({reason}): fetch it by other means and save it as {path}"
    )


def _fetch(url, file, bar):
    """Write what a URL gives to an open file, in as many goes as it takes."""
    version = None
    while True:
        start = file.tell()
        try:
            for position, chunk, bar.total, current in _receive(url, start, version):
                version = current
                file.seek(position)
                file.write(chunk)
                bar.update(file.tell() - bar.n)
            file.truncate()
            return
        except ConnectionError:
            if file.tell() <= start:
                raise


def _receive(url, start, version):
    """Yield (position, bytes, total size or None, version) of what a URL gives.

    Whatever goes wrong is a ConnectionError, which the disk's errors are not.
    """
    try:
        response, position, total, version = _ask(url, start, version)
        with response:
            yield position, b"", total, version  # of an empty file, too
            while chunk := response.read(CHUNK):
                yield position, chunk, total, version
                position += len(chunk)
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(str(error).strip("<>")) from error
    if total is not None and position < total:
        raise ConnectionError(f"broke off after {position} of {total} bytes")


def _ask(url, start=0, version=None):
    """The response, where in the file it begins, the total size or None, and the version.

    It begins at `start` or before if the server can do that and still has this version, by which
    it calls a state of the file. Where the server names none, two files could get mixed.
    """
    headers = {"Range": f"bytes={start}-", "If-Range": version} if start and version else {}
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT
        )
    except urllib.error.HTTPError as error:
        if headers and error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _ask(url)
        raise
    if headers and response.status == http.client.PARTIAL_CONTENT:
        extent = response.headers.get("Content-Range", "")
        extent = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", extent)
        if not extent or int(extent[1]) > start:
            response.close()
            return _ask(url)
        first, last, total = extent.groups()
        return response, int(first), int(last) + 1 if total == "*" else int(total), version
    size = response.headers.get("Content-Length")
    if size is not None and not re.fullmatch(r"\d+", size):
        raise ConnectionError(f"the server gives the size {size!r}")
    version = response.headers.get("ETag") or response.headers.get("Last-Modified")
    return response, 0, None if size is None else int(size), version
