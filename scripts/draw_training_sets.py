"""Draws what the shipped weights were trained on besides photographs: tissue, and empty images.

Usage: python scripts/draw_training_sets.py FOLDER
"""

import sys
from pathlib import Path

from mrcnn_nuclei.datasets import blank, synthetic


def main(folder):
    synthetic.write(folder / "synthetic", count=36, seed=1)
    blank.write(folder / "blank", count=18, seed=1)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__.split("\n\n")[1])
    main(Path(sys.argv[1]))
