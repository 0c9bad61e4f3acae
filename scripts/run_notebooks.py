"""Run the notebooks and keep what they show: `python scripts/run_notebooks.py [NOTEBOOK ...]`.

Without names all of `notebooks/`, in order. What a cell writes to its error stream, progress bars
and start-up messages, is left out.
"""

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


def run(notebook, folder, parameters=None, seconds=900):
    """Execute a notebook.

    Parameters
    ----------
    notebook : nbformat.NotebookNode
        Its cells get their outputs.
    folder : Path
        Where it runs.
    parameters : dict, optional
        Name -> value, set after the cell tagged "parameters".
    seconds : int
        That a cell may take.
    """
    added = []
    if parameters:
        at = [cell.metadata.get("tags") == ["parameters"] for cell in notebook.cells].index(True)
        code = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        added = [nbformat.v4.new_code_cell(code)]
        notebook.cells[at + 1 : at + 1] = added
    client = NotebookClient(
        notebook, timeout=seconds, kernel_name="python3", resources={"metadata": {"path": folder}}
    )
    client.execute()
    notebook.cells = [cell for cell in notebook.cells if cell not in added]
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]


def main(paths):
    for path in paths:
        start = time.monotonic()
        notebook = nbformat.read(path, as_version=4)
        run(notebook, path.parent)
        notebook.metadata["language_info"] = {"name": "python"}
        nbformat.validate(notebook)
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.monotonic() - start:.0f} s, {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main([Path(name).resolve() for name in sys.argv[1:]] or sorted(NOTEBOOKS.glob("*.ipynb")))
