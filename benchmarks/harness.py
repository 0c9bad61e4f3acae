"""What the benchmarks share: medians, a process each, and where their tables are kept."""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import distributions
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from mrcnn.files import atomic_path
from mrcnn_nuclei.markdown import markdown_table

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "RESULTS.md"


def median(function, repetitions=5, warm=1):
    """Median seconds of a call, after some that warm up, and the last result."""
    for _ in range(warm):
        result = function()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def peak_memory():
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_process(*arguments, environment=None):
    """What a Python script prints last, as JSON; a process of its own has its own peak memory."""
    path = os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH")]))
    finished = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, **(environment or {})},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(finished.stdout.splitlines()[-1])


def machine():
    """On what was measured, in words."""
    wanted = {"tensorflow", "tensorflow-cpu", "keras", "numpy"}
    found = sorted((each.name, each.version) for each in distributions() if each.name in wanted)
    packages = ", ".join(f"{name} {version}" for name, version in found)
    return (
        f"{os.cpu_count()} CPU cores ({platform.machine()}), Python {platform.python_version()}, "
        f"{packages}"
    )


def publish(section, text, header, lines, names=1):
    """Print a table and put it into RESULTS.md, between the marks of a section."""
    table = markdown_table(header, lines, names)
    print(f"\n{text}\n\n{table}", flush=True)
    begin, end = f"<!-- {section}: written by benchmarks -->", f"<!-- end of {section} -->"
    results = RESULTS.read_text(encoding="utf-8")
    before, found, rest = results.partition(begin)
    if not found:
        before, rest = f"{results.rstrip()}\n\n", f"{end}\n"
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{RESULTS}: lacks {end}")
    with atomic_path(RESULTS) as temporary:
        temporary.write_text(f"{before}{begin}\n{text}\n\n{table}{end}{after}", encoding="utf-8")
