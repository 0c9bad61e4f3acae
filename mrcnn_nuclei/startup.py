"""How processes of the command line begin."""

import os
import sys


def import_keras():
    """Import Keras and its backend, whose C++ start-up messages heed no setting, in silence."""
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        import keras  # noqa: F401
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
