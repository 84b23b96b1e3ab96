"""The notebooks run from top to bottom, and what they showed lies beside their text."""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "experiments/notebooks").glob("[0-9]*.py"))
LONG = ("04", "07", "08")  # a minute and more in the short mode, too
SHORT = """
import pyro_citevae as cv

_fit = cv.fit
cv.fit = lambda *given, **options: _fit(*given, **(options | {"max_epochs": 1}))
"""


def executed(path: Path, folder: Path, before: str = "") -> nbformat.NotebookNode:
    notebook = jupytext.read(path)
    if before:
        notebook.cells.insert(0, nbformat.v4.new_code_cell(before))
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=place).execute()
    return notebook


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba would set torch's threads to the machine's cores, which wait for each other if busy."""
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")


@pytest.mark.parametrize(
    "path",
    [pytest.param(one, marks=pytest.mark.slow) if one.stem[:2] in LONG else one for one in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_the_notebook_runs_in_a_short_mode(path: Path, tmp_path: Path) -> None:
    """Each fit takes one pass: what is tried is that every cell runs."""
    notebook = executed(path, tmp_path, SHORT)
    assert notebook.metadata["jupytext"]["formats"] == "ipynb,py:percent"
    shown = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.outputs]
    assert len(shown) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs(path: Path, tmp_path: Path) -> None:
    executed(path, tmp_path)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_it_showed_lies_beside_it(path: Path) -> None:
    """The same cells, pictures that a passer-by sees, and no warning."""
    written = path.with_suffix(".ipynb")
    assert written.stat().st_size < 1_000_000
    shown, text = nbformat.read(written, as_version=4), jupytext.read(path)
    assert [cell.source for cell in shown.cells] == [cell.source for cell in text.cells], "make notebooks"
    outputs = [output for cell in shown.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert not [output for output in outputs if output.output_type == "error"]
    shown_as = [output["data"] for output in outputs if "data" in output]
    assert all("image/png" in data for data in shown_as if "<Figure size" in data.get("text/plain", ""))


def test_there_are_notebooks() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"0{i}" for i in range(1, 9)]
