"""A fit that is killed, whenever or at a call of the file system, goes on to the same bytes."""

from __future__ import annotations

import os
import random
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest
from kills import calls_of, child_of, ended, in_child, killed_at_call
from screens import as_anndata, simulated

import pyro_citevae as cv
from pyro_citevae.cli import app

MODEL = '[model]\nname = "StaticShift"\nn_programs = 2\nhidden = 4\n[guide]\nname = "MeanField"\nhidden = 4\n'
FIT = "fit {screen} --time time --config {model} --epochs 5 --quiet -o {out}"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("kills")
    found = {name: home / name for name in ("screen", "model", "whole")}
    as_anndata(simulated(n_cells=200, seed=0)).write_h5ad(found["screen"])
    found["model"].write_text(MODEL)
    assert in_child(lambda: said(FIT, {**found, "out": found["whole"]})) == 0
    return found


def said(line: str, places: dict[str, Path]) -> None:
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    try:
        app([word.format(**places) for word in shlex.split(line)])
    except SystemExit as stop:
        assert not stop.code, line


def goes_on(places: dict[str, Path], folder: Path, line: str) -> None:
    """Goes on with a fit, and looks whether it is the one that was never killed."""
    out = folder / "out"
    assert in_child(lambda: said(f"{line} --resume", {**places, "out": out})) == 0
    for file in ("model.safetensors", "history.parquet", "discrepancy.nc"):
        assert (out / file).exists() == (places["whole"] / file).exists()
        if (out / file).exists():
            assert (out / file).read_bytes() == (places["whole"] / file).read_bytes(), file
    cv.verify(out)
    assert {path.name for path in folder.iterdir()} == {"out"}


@pytest.mark.parametrize("n", [1, pytest.param(24, marks=pytest.mark.slow)])
@pytest.mark.parametrize("line", [FIT, f"{FIT} --overwrite"], ids=["anew", "over a run"])
def test_killed_at_a_call_of_the_file_system(
    n: int, line: str, places: dict[str, Path], tmp_path: Path
) -> None:
    def start(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        if "--overwrite" in line:
            assert in_child(lambda: said(f"{FIT} --seed 1", {**places, "out": folder / "out"})) == 0
        return folder

    folder = start("counted")
    calls = calls_of(folder, lambda: said(line, {**places, "out": folder / "out"}))
    for i in range(n):
        number = calls * (2 * i + 1) // (2 * n)
        folder = start(str(number))
        assert killed_at_call(number, folder, lambda to=folder / "out": said(line, {**places, "out": to}))
        goes_on(places, folder, line)


@pytest.mark.parametrize("n", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_a_random_moment(n: int, places: dict[str, Path], tmp_path: Path) -> None:
    rng, took = random.Random(n), 2.0
    for case in range(n):
        folder = tmp_path / str(case)
        folder.mkdir()
        started = time.perf_counter()
        child = child_of(lambda to=folder / "out": said(FIT, {**places, "out": to}))
        time.sleep(rng.uniform(0, took))
        os.kill(child, signal.SIGKILL)
        if ended(child) == 0:
            took = time.perf_counter() - started
        goes_on(places, folder, FIT)
