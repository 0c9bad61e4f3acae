"""Fixtures and settings that all test modules share."""

import logging
import os
import runpy
import sys
import types
from functools import cache
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")

import pytest

ROOT = Path(__file__).resolve().parent.parent
COLLECTED = pytest.StashKey()


@pytest.fixture(scope="session")
def shared():
    """The folder with the real images, or a skip that says how to provide it."""
    folder = Path(os.environ.get("NUCLEI_SHARED") or ROOT.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip("needs the real images: set NUCLEI_SHARED to the folder that holds data/")
    return folder


@pytest.fixture(scope="session")
def monuseg(shared):
    """The MoNuSeg training images."""
    return shared / "data" / "monuseg"


@pytest.fixture
def distribution(monkeypatch):
    """The arguments that setup.py gives to setuptools."""
    said = {}
    setuptools = types.ModuleType("setuptools")
    setuptools.find_packages = lambda include: include
    setuptools.setup = said.update
    monkeypatch.setitem(sys.modules, "setuptools", setuptools)
    runpy.run_path(str(ROOT / "setup.py"))
    return said


@pytest.fixture(autouse=True)
def fresh_loggers(monkeypatch):
    """A command sets up the loggers of its process; other tests want theirs back."""
    for name in ("mrcnn", "mrcnn_nuclei"):
        logger = logging.getLogger(name)
        for attribute in ("handlers", "level", "propagate"):
            monkeypatch.setattr(logger, attribute, getattr(logger, attribute))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session, items):
    """Ask what the tests compared when all have run; remember them before `-k` and `-m` choose."""
    items.sort(key=lambda item: item.path.name == "test_golden.py")
    session.stash[COLLECTED] = list(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Of several processes (`-n 2`), have one run all modules that compare with golden numbers.

    What they compared is noted in it. Of other modules, each runs in one, for their fixtures' sake.
    """
    from xdist.scheduler import LoadFileScheduling

    golden = {"test_golden.py", *modules_with_golden_tests()}

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "golden" if Path(file).name in golden else file

    return Scheduling(config, log)


@cache
def modules_with_golden_tests():
    return {x.name for x in (ROOT / "tests").glob("test_*.py") if "golden_" in x.read_text()}


@pytest.fixture
def golden_tests_left_out(request):
    """Modules with golden tests that this run leaves out, in full or in part; slow ones may be."""
    modules = modules_with_golden_tests()
    collected = request.session.stash[COLLECTED]
    dropped = set(collected) - set(request.session.items)
    dropped = {item.path.name for item in dropped if not item.get_closest_marker("slow")}
    return sorted(modules - {item.path.name for item in collected} | modules & dropped)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    """Where the real images are there, a test that asks for them and skips has failed."""
    report = yield
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and os.environ.get("NUCLEI_REQUIRE_SHARED") and "shared" in item.fixturenames:
        report.outcome = "failed"
        report.longrepr = f"skipped although the real images are there: {report.longrepr[2]}"
    return report
