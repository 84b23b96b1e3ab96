"""Every block of code in the documentation runs, on small screens and for one pass."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from click import Command

import pyro_citevae as cv
from pyro_citevae.cli.app import imported
from pyro_citevae.cli.commands import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in (ROOT / "docs").rglob("*.md")
    if not {"_build", "_generated", "decisions"} & {*page.relative_to(ROOT).parts}
)
CODE = re.compile(r"^```(python|sh)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [code for kind, code in CODE.findall(page.read_text()) if kind == language]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Screens of a few cells, and fits of one pass: what is tried is the code, not the answer."""
    fit: Callable[..., Any] = cv.fit

    def short(*given: Any, **options: Any) -> Any:
        return fit(*given, **(options | {"max_epochs": 1, "progress": False, "accelerator": "cpu"}))

    def thinned(screen: Callable[[], Any]) -> Callable[[], Any]:
        def some() -> Any:
            whole = screen()
            groups = whole.obs[[c for c in ("perturbation", "time", "batch", "cell_type") if c in whole.obs]]
            place = groups.astype(str).agg("/".join, axis=1)
            return whole[place.groupby(place).cumcount().to_numpy() < 8].copy()

        return some

    for name in ("renge", "papalexi", "norman_subset", "kang"):
        monkeypatch.setattr(cv.datasets, name, thinned(getattr(cv.datasets, name)))
    monkeypatch.setattr(cv, "fit", short)
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "page",
    [one for one in PAGES if blocks(one, "python")],
    ids=lambda page: page.relative_to(ROOT / "docs").as_posix(),
)
def test_the_code_of_a_page_runs(page: Path, small: None, capsys: pytest.CaptureFixture[str]) -> None:
    if page.name == "tune.md":
        pytest.importorskip("optuna")
    code = "\n".join(blocks(page, "python"))
    exec(compile(code, str(page), "exec"), {"__name__": "page", "np": np})


def commands() -> list[tuple[str, str]]:
    """Every line of the pages and of README that calls citevae."""
    found = []
    for page in [*PAGES, ROOT / "README.md"]:
        for code in blocks(page, "sh"):
            lines = (line.strip() for line in code.replace("\\\n", " ").splitlines())
            name = page.relative_to(ROOT).as_posix()
            found.extend((name, line) for line in lines if line.startswith("citevae "))
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_a_command_of_a_page_is_understood(page: str, line: str) -> None:
    """Its options exist and have values of their types; it is not run."""
    alone = re.split(r" [|>] ", line)[0]
    words = shlex.split(alone.replace("$SLURM_ARRAY_TASK_ID", "0"), comments=True)[1:]
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    command: Command = imported(name)
    command.make_context(name, words[len(name.split()) :], resilient_parsing=False)


def test_every_page_is_in_the_site() -> None:
    """A page that no list of contents names cannot be found."""
    listed = " ".join(page.read_text() for page in PAGES if "```{toctree}" in page.read_text())
    for page in PAGES:
        assert page.stem == "index" or re.search(rf"\b{page.stem}\b", listed), page


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """And has a page for each public name of the package."""
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        "docs",
        str(tmp_path),
    ]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
    inventory = zlib.decompress((tmp_path / "objects.inv").read_bytes().split(b"zlib.\n", 1)[1]).decode()
    listed = {line.split(" ", 1)[0] for line in inventory.splitlines()}
    for module in (cv.data, cv.models, cv.guides, cv.infer, cv.analysis, cv.benchmark, cv.conformance):
        for name in module.__all__:
            value = getattr(module, name)
            if not inspect.ismodule(value) and not isinstance(value, dict | list | tuple | Mapping):
                own = f"{module.__name__}.{name}"
                assert {own, f"pyro_citevae.{name}"} & listed, own
