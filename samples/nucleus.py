"""Train and detect nuclei: `python samples/nucleus.py COMMAND` is the command `nucleus`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mrcnn_nuclei.cli import main

if __name__ == "__main__":
    sys.exit(main())
