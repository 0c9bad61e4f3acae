"""Output files, and folders, that appear whole or not at all."""

import contextlib
import errno
import hashlib
import os
import tempfile
from pathlib import Path

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of the system when there is no room for a file."""


@contextlib.contextmanager
def atomic_path(path):
    """Yield a temporary path beside `path` that takes its name once the block has succeeded.

    A reader of `path` sees the old file or the complete new one, whatever happens in between:
    an exception, a full disk or a killed process.

    Parameters
    ----------
    path : str or Path
        Where the finished file shall be. Missing parent folders are made.

    Yields
    ------
    Path
        A name in the same folder and with the same suffixes, for the block to write to.

    Raises
    ------
    OSError
        If the folder cannot be made or written to, or the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".part-", suffix="-" + path.name, dir=path.parent)
    os.close(handle)
    os.chmod(name, 0o666 & ~_umask())
    temporary = Path(name)
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        # A failed write names no file, and a failed renaming the temporary one.
        if error.errno and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path):
    """Yield a path for a new folder that takes the name of `path` once the block has succeeded.

    Parameters
    ----------
    path : str or Path
        Where the finished folder shall be; what is there is replaced. Missing parent folders are
        made.

    Yields
    ------
    Path
        On the same file system and of the same name; nothing is there yet.

    Raises
    ------
    OSError
        If it cannot be written, or the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent) as folder:
        finished = Path(folder, path.name)
        yield finished
        if path.is_dir():  # a folder replaces no folder that has something in it
            os.replace(path, Path(folder, "old"))
        os.replace(finished, path)


def file_digest(path):
    """The SHA-256 of a file.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    str
        64 hexadecimal digits.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
