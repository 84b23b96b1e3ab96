"""Executes the notebooks and writes what they show beside their text: ``make notebooks``."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="such as 05; all if none")
    wanted = parser.parse_args().names
    for path in sorted(HERE.glob("[0-9]*.py")):
        if not wanted or any(path.name.startswith(name) for name in wanted):
            executed(path)
            print(path.stem, flush=True)


def executed(path: Path) -> Path:
    """Runs a notebook from top to bottom, and writes it with its outputs.

    Args:
        path: Its text.
    """
    notebook = jupytext.read(path)
    with tempfile.TemporaryDirectory() as folder:
        place = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # of each run the same
        cell.metadata.pop("execution", None)
    written = path.with_suffix(".ipynb")
    nbformat.write(notebook, written)
    return written


if __name__ == "__main__":
    main()
