"""A report is a page that needs nothing else, and says what the run says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from screens import as_anndata, simulated

import pyro_citevae as cv
from pyro_citevae import report
from pyro_citevae.errors import RunError
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.kinds import PAGE
from pyro_citevae.models import CiteVAE

GENE = "<script>alert(1)</script>"
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    adata = as_anndata(simulated(n_cells=200))
    adata.var_names = [GENE, *adata.var_names[1:]]
    adata.write_h5ad(folder / "screen.h5ad")
    data = cv.Trajectories.from_anndata(adata, time="time")
    train, _ = data.hold_out(times=[3])
    model = CiteVAE(train.schema, n_programs=3)
    posterior = cv.fit(model, BackwardSmoother(model), train, max_epochs=2, progress=False)
    posterior.record["source"] = {"path": str(folder / "screen.h5ad")}
    posterior.save(folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    out = run.parent / "report.html"
    assert report.write(run, out, draws=20) == out.with_suffix(".ipynb")
    return out


def test_it_has_every_part(page: Path) -> None:
    said = page.read_text()
    parts = re.findall(r"<h2[^>]*>([^<]*)", said)
    assert [part.split()[0] for part in parts] == [
        "What",
        "May",
        "Training",
        "What",
        "How",
        "What",
        "How",
        "Beside",
        "What",
        "Versions",
    ]
    assert "persistence" in said
    assert re.search(r"\d+, time course", said)


def test_it_asks_for_nothing_and_runs_nothing(page: Path) -> None:
    said = page.read_text()
    assert not re.search(r"<script|<link[^>]+href=\"http|src=\"http|@import|url\(http", said)
    assert "&lt;script&gt;alert(1)" in said
    assert "default-src 'none'" in said


def test_each_picture_has_a_text_of_its_own(page: Path) -> None:
    pictures = re.findall(r"<img[^>]*>", page.read_text())
    assert len(pictures) >= 5
    for picture in pictures:
        alt = re.search(r'alt="([^"]+)"', picture)
        assert alt and "No description" not in alt[1]
        assert 'src="data:image/png;base64,' in picture.replace("\n", "")


def test_the_notebook_beside_it_can_be_run_again(page: Path, run: Path) -> None:
    notebook = nbformat.read(page.with_suffix(".ipynb"), as_version=4)
    injected = next(cell for cell in notebook.cells if "injected-parameters" in cell.metadata.get("tags", []))
    assert str(run) in injected.source
    assert not [
        out for cell in notebook.cells for out in cell.get("outputs", []) if out.output_type == "error"
    ]


def test_a_folder_that_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run; make one with citevae fit"):
        report.write(tmp_path, tmp_path / "report.html")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_it_without_a_word(page: Path, width: int, tmp_path: Path) -> None:
    """No error on the console; the gene's name is text."""
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--v=0",
        f"--window-size={width},900",
    ]
    command = [str(CHROMIUM), *options, f"--user-data-dir={tmp_path}", "--dump-dom", page.as_uri()]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in found.stderr
    assert "&lt;script&gt;alert(1)" in found.stdout


def test_a_report_that_fails_leaves_the_page_of_before(run: Path, tmp_path: Path) -> None:
    """And its notebook has the error."""
    out = tmp_path / "report.html"
    out.write_text(f"{PAGE.words}: the page of before")
    with pytest.raises(RunError, match=r"'.*report\.ipynb' shows where"):
        report.write(run, out, data=str(tmp_path / "none.h5ad"))
    assert out.read_text() == f"{PAGE.words}: the page of before"
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "report.ipynb"}
    assert '"output_type": "error"' in out.with_suffix(".ipynb").read_text()


def test_a_run_that_does_not_say_where_its_data_are_is_refused_with_a_way_out(
    run: Path, tmp_path: Path
) -> None:
    posterior = cv.load(run)
    del posterior.record["source"]
    posterior.save(tmp_path / "run")
    with pytest.raises(RunError, match="does not say which file it was trained on; name it with data="):
        report.write(tmp_path / "run", tmp_path / "report.html")
