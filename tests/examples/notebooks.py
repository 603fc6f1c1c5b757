"""Executes the notebooks in `examples/notebooks`, each in a fresh kernel, and writes their outputs into them.

python -m tests.examples.notebooks [NAME ...]: all of them, or those whose names begin so.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import chdir
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.integrations.loopback_hub import hub_environment, loopback_hub

FOLDER = Path(__file__).parents[2] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def execute(path: Path, folder: Path) -> NotebookNode:
    """Runs a notebook in `folder`, with a hub of its own, and returns it with the outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails. Shows the cell and the traceback.
    """
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(notebook, timeout=240, kernel_name="python3", record_timing=False, allow_errors=False)
    with loopback_hub() as hub, chdir(folder):
        client.execute(env={**hub_environment(hub, folder / "home"), "PYTHONWARNINGS": "ignore"})
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def texts(notebook: NotebookNode) -> list[str]:
    """What each code cell says: what it prints, and its result's plain form, or the name of a richer one."""
    said = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            parts = []
            for output in cell.outputs:
                data = output.get("data", {})
                parts.append(output.get("text", "") or data.get("text/plain", ""))
                parts.extend(kind for kind in sorted(data) if kind != "text/plain")
            said.append("\n".join(parts))
    return said


def main() -> None:
    for path in NOTEBOOKS:
        if len(sys.argv) == 1 or any(path.name.startswith(name) for name in sys.argv[1:]):
            with tempfile.TemporaryDirectory() as folder:
                nbformat.write(execute(path, Path(folder)), path)


if __name__ == "__main__":
    main()
