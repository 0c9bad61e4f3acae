"""The notebooks: as they are kept, and executed as a reader would, on drawn and on real tissue."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]


def load_runner():
    spec = importlib.util.spec_from_file_location("runner", ROOT / "scripts" / "run_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(outputs):
    return "".join(output.get("text", "") for output in outputs)


def test_there_are_six():
    assert NAMES == [
        "1_data",
        "2_train_stepwise",
        "3_unet",
        "4_mask_nms",
        "5_reproduce_table",
        "6_your_own_data",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_kept_as_executed(name):
    path, notebook = ROOT / "notebooks" / f"{name}.ipynb", read(name)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1)), "run scripts/run_notebooks.py"
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any({"image/jpeg", "image/png"} & output.get("data", {}).keys() for output in outputs)
    assert "Warning" not in text_of(outputs)
    assert path.stat().st_size < 1_000_000
    content = path.read_text(encoding="utf-8")
    assert not re.search(r"/(home|root|tmp|work|Users)/", content)
    (parameters,) = (cell for cell in cells if cell.metadata.get("tags") == ["parameters"])
    assert parameters.source.startswith("DATASET = None  #")
    for target in re.findall(r"\]\(([^)#]+)\)", "".join(c.source for c in notebook.cells)):
        assert (path.parent / target).is_file(), target


def execute(name, folder, parameters=None):
    notebook = read(name)
    load_runner().run(notebook, folder, parameters)
    return code_cells(notebook)


@pytest.mark.parametrize("name", ["1_data", "4_mask_nms"])
def test_executes(name, tmp_path):
    cells = execute(name, tmp_path)
    for found, kept in zip(cells, code_cells(read(name))):
        assert text_of(found.outputs) == text_of(kept.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("1_data", "4_mask_nms")])
def test_executes_with_a_network(name, tmp_path):
    cells = execute(name, tmp_path)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["1_data", "2_train_stepwise", "3_unet", "4_mask_nms"])
def test_one_path_makes_it_real(name, monuseg, tmp_path):
    cells = execute(name, tmp_path, {"DATASET": str(monuseg)})
    texts = text_of(output for cell in cells for output in cell.outputs)
    assert {
        "1_data": "30 images: TCGA-",
        "2_train_stepwise": "24 images to train on, 6 held out",
        "3_unet": "connected pieces in the mask",
        "4_mask_nms": "found by each",
    }[name] in texts
