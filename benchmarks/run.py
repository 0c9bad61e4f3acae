"""Measure speed: `make bench`. Each part prints a table and puts it into RESULTS.md.

With names after it, only those. Each benchmark checks the result of what it times. Quote ratios and
medians: machines are noisy.
"""

import subprocess
import sys
from pathlib import Path

BENCHMARKS = ("parts", "compared", "mask_nms", "pipeline", "throughput")


def main(names):
    """Run benchmarks one after the other, each in a process of its own."""
    for name in names or BENCHMARKS:
        print(f"\n{name}", flush=True)
        subprocess.run([sys.executable, Path(__file__).with_name(f"{name}.py")], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
