"""What holds the project together: its requirements, its imports, its docstrings, its documents."""

import ast
import os
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent

NOT_OURS = {".git", ".venv", ".device", "build", "dist", "logs", "demo", "output", "__pycache__"}
NOT_OURS |= {
    "notebook_runs",
    "site",
    ".pytest_cache",
    ".ruff_cache",
    ".hypothesis",
    "mrcnn_nuclei.egg-info",
}

BACKENDS = {"tensorflow", "jax", "torch"}
SLOW_IMPORTS = BACKENDS | {"keras"}


def project_files(*suffixes):
    """Every file of the project with one of the suffixes, or all; nothing that was built."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = set(folders) - NOT_OURS
        for name in names:
            if not suffixes or name.endswith(suffixes):
                yield Path(folder, name)


def package_modules(package):
    """The syntax trees of a package's modules by dotted name, `__init__` by its folder's."""
    modules = {}
    for path in (ROOT / package).rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return modules


def imported_names(name, tree):
    """The dotted names that a module imports, anywhere in it; `from a import b` gives a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            assert node.level == 0, f"{name} imports relatively"
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


def within(name, package):
    return name == package or name.startswith(package + ".")


ENGINE = package_modules("mrcnn")
NUCLEI = package_modules("mrcnn_nuclei")


def test_requirements_have_the_bounds_of_setup(distribution):
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    assert lines.pop() == "-e ."

    extras = distribution["extras_require"]
    bounds = {}
    for line in distribution["install_requires"] + extras["imgaug"] + extras["test"]:
        requirement = Requirement(line)
        bounds[requirement.name] = requirement.specifier
    requirements = [Requirement(line) for line in lines]
    assert {requirement.name for requirement in requirements} == {
        *("tensorflow", "keras", "numpy", "scikit-image", "imgaug", "h5py", "opencv-python"),
        "pytest",
    }
    for requirement in requirements:
        assert requirement.specifier == bounds[requirement.name], requirement.name


def test_a_package_has_the_same_bounds_wherever_setup_names_it(distribution):
    bounds = {}
    for line in sum(distribution["extras_require"].values(), distribution["install_requires"]):
        requirement = Requirement(line)
        specifier = bounds.setdefault(requirement.name, requirement.specifier)
        assert requirement.specifier == specifier, requirement.name


def test_one_version_everywhere(distribution):
    import mrcnn

    assert distribution["version"] == mrcnn.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d[^\]]*)\]", changelog, re.MULTILINE).group(1)
    assert newest == mrcnn.__version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [mrcnn.__version__]


def test_no_file_names_a_folder_of_somebodys_machine():
    folder = re.compile(rb"(?<![\w.~})])/(work|root|farm|tmp|home/\w+|Users/\w+)/")
    for path in project_files():
        content = path.read_bytes()
        if b"\0" not in content:
            found = folder.search(content)
            assert not found, f"{path.relative_to(ROOT)}: {found.group().decode()}"


def test_the_engine_knows_nothing_about_nuclei():
    for name, tree in ENGINE.items():
        for imported in imported_names(name, tree):
            assert not within(imported, "mrcnn_nuclei"), f"{name} imports {imported}"


@pytest.mark.parametrize("top", ["mrcnn.model", "mrcnn.network"])
def test_no_stage_imports_what_composes_the_stages(top):
    above = {"mrcnn", "mrcnn.model"}
    for name, tree in ENGINE.items():
        if name not in above:
            for imported in imported_names(name, tree):
                assert not within(imported, top), f"{name} imports {imported}"


def test_imports_have_no_cycle():
    """A package's `__init__` only names what its modules hold, and is left out."""
    modules = {
        name: tree
        for name, tree in (ENGINE | NUCLEI).items()
        if not ROOT.joinpath(*name.split(".")).is_dir()
    }
    graph = {
        name: modules.keys() & set(imported_names(name, tree)) for name, tree in modules.items()
    }
    TopologicalSorter(graph).prepare()


def test_one_module_asks_which_backend_runs():
    for name, tree in (ENGINE | NUCLEI).items():
        if name == "mrcnn.backend":
            continue
        for imported in imported_names(name, tree):
            assert imported.partition(".")[0] not in BACKENDS, f"{name} imports {imported}"
            assert not within(imported, "keras.backend"), f"{name} imports {imported}"
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                asked = ast.unparse(node)
                assert asked not in ("keras.backend.backend", "keras.config.backend"), name
            elif isinstance(node, ast.Constant):
                assert node.value != "KERAS_BACKEND", name


@pytest.mark.parametrize(
    "module",
    [
        "mrcnn",
        "mrcnn.config",
        "mrcnn.instances",
        "mrcnn_nuclei",
        "mrcnn_nuclei.cli",
        "mrcnn_nuclei.metrics",
        "mrcnn_nuclei.evaluation",
        "mrcnn_nuclei.datasets",
        "mrcnn_nuclei.formats",
        "mrcnn_nuclei.report.page",
    ],
)
def test_what_needs_no_network_does_not_wait_for_keras(module):
    program = f"import {module}, sys; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not SLOW_IMPORTS & set(run.stdout.split())


def test_every_file_says_what_it_is():
    for path in project_files(".py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path.relative_to(ROOT)


def test_what_is_public_has_a_docstring():
    """Methods of a subclass may override, and then the base class tells what they do."""
    silent = []
    for name, tree in (ENGINE | NUCLEI).items():
        for node in public_definitions(tree):
            if not ast.get_docstring(node):
                silent.append(f"{name}.{node.name}")
            if isinstance(node, ast.ClassDef) and not node.bases:
                for method in public_definitions(node):
                    if not ast.get_docstring(method):
                        silent.append(f"{name}.{node.name}.{method.name}")
    assert not silent


def public_definitions(parent):
    """The public functions and classes right inside a module or class; no property's setter."""
    for node in parent.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            if not any(ast.unparse(item).endswith(".setter") for item in node.decorator_list):
                yield node


def test_the_architecture_page_lists_every_module():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    engine, nuclei = page.split("## `mrcnn_nuclei`")
    for package, text in [("mrcnn", engine), ("mrcnn_nuclei", nuclei)]:
        listed = set(re.findall(r"^\| `([\w/.]+)` \|", text, re.MULTILINE))
        there = {
            path.name + "/" * path.is_dir()
            for path in (ROOT / package).iterdir()
            if not path.name.startswith("__")
        }
        assert listed == there, package
