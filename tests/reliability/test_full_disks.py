"""A full disk ends every command in one sentence about the right file, and nothing is left."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest
from kills import child_of, ended
from screens import as_anndata, simulated
from small_disks import alone, small_disk, used

import pyro_citevae as cv
from pyro_citevae.cli import app
from pyro_citevae.errors import RunError
from pyro_citevae.guides import MeanField
from pyro_citevae.models import StaticShift

MODEL = '[model]\nname = "StaticShift"\nn_programs = 2\nhidden = 4\n[guide]\nname = "MeanField"\nhidden = 4\n'
BENCHMARK = "seeds = 1\ndraws = 4\ncells = 0\nfolds = 2\nlimit = 1\nbaselines = false\n"
LARGE, PAGE = 512 * 2**20, 4096
SHARES = (0.0, 0.5, 0.97)  # of what is written, that there is room for

COMMANDS = {
    "predict": "predict {run} --do gene_0 --draws 20 -o {disk}/out.h5ad",
    "export": "export {run} --draws 20 -o {disk}/out.nc",
    "export as zarr": "export {run} --draws 20 -o {disk}/out.zarr",
    "fit": "fit {screen} --time time --config {model} --epochs 2 --quiet -o {disk}/out",
}
MORE = {
    "fit of seeds": f"{COMMANDS['fit']} --seeds 2",
    "rank": "rank {run} --draws 10 -o {disk}/out",
    "evaluate": "evaluate {run} --draws 10 -o {disk}/out",
    "licence": "evaluate {run} --licence -o {disk}/out",
    "challenge": "challenge {run} --targets {targets} --controls {screen} --draws 10 -o {disk}/out.h5ad",
    "report": "report {run} --draws 10 -o {disk}/out.html",
    "demo": "demo --epochs 1 --quiet -o {disk}/out",
    "simulate": "simulate c3d --frames 20 --jobs 1 --quiet -o {disk}/out",
    "sheet": "simulate c3d-sheet -o {disk}/out",
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("disks")
    files = ("screen", "model", "benchmark", "run", "targets", "disk")
    found = {name: home / name for name in files}
    as_anndata(simulated(n_cells=300, n_genes=30, seed=0)).write_h5ad(found["screen"])
    found["model"].write_text(MODEL)
    found["benchmark"].write_text(BENCHMARK + MODEL)
    found["targets"].write_text("gene_0\n")
    found["disk"].mkdir()
    said("fit {screen} --time time --hold-out time=3 --config {model} --epochs 1 --quiet -o {run}", found)
    return found


def said(line: str, places: dict[str, Path]) -> None:
    try:
        app([word.format(**places) for word in shlex.split(line)])
    except SystemExit as stop:
        assert not stop.code, line


def refused(line: str, places: dict[str, Path]) -> str:
    """The sentence of a command that a full disk ends; nothing where it ends well."""
    try:
        said(line, places)
    except RunError as error:
        return str(error)
    return ""


def fills_up(line: str, places: dict[str, Path], disk: Path) -> None:
    """Runs a command on disks that are smaller and smaller than it needs."""
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
    mounts = alone()
    if mounts:
        with small_disk(disk, LARGE, mounts):
            said(line, places)
            needed = used(disk)
    else:
        said(line, places)
        needed = max(path.stat().st_size for path in disk.rglob("*") if path.is_file())
        for path in sorted(disk.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    for share in SHARES:
        with small_disk(disk, int(share * needed) // PAGE * PAGE, mounts):
            told = refused(line, places)
            left = {path.name for path in disk.iterdir()}
            where = f"{share:.0%} of {needed} bytes: {told!r}, left {left}"
            assert re.fullmatch(
                r"'[^\n]*cannot be written \((.*No space.*|.*File too large.*)\)[^\n]*\.", told
            ), where
            assert str(disk) in told, where
            assert left <= {"out.training", ".out-chunks"}, where  # what another start goes on from
            assert not list(disk.rglob(".citevae-*")), where


@pytest.mark.parametrize("name", [*COMMANDS, *(pytest.param(one, marks=pytest.mark.slow) for one in MORE)])
def test_a_full_disk_is_one_sentence_with_nothing_left(name: str, places: dict[str, Path]) -> None:
    line = (COMMANDS | MORE)[name]
    assert ended(child_of(lambda: fills_up(line, places, places["disk"])), most=600) == 0


@pytest.mark.slow
def test_a_benchmark_on_a_full_disk_leaves_all_of_its_results_or_none(places: dict[str, Path]) -> None:
    line = "benchmark unseen-gene --config {benchmark} --data {screen} --quiet -o {disk}/out"
    disk, names = places["disk"], {"results.parquet", "results.md", "splits.json"}

    def work() -> None:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
        if not alone():
            return  # a limit on each file would stop the pieces as well
        found, needed = [], 1
        for share in (LARGE, *SHARES, 1.5):
            size = int(share * needed) // PAGE * PAGE
            with small_disk(disk, size, True):
                (disk / "out").mkdir()
                (disk / "out" / "folds").symlink_to(
                    places["run"].parent / "folds"
                )  # there is room for pieces
                told = refused(line, places)
                left = {path.name for path in (disk / "out").iterdir()} - {"folds"}
                assert left == (set() if told else names), told
                needed = max(needed, used(disk / "out"))
                found.append(bool(told))
        assert found == [False, True, True, True, False]

    (places["run"].parent / "folds").mkdir()
    assert ended(child_of(work), most=600) == 0


def test_a_run_that_does_not_fit_leaves_the_one_that_is_there(tmp_path: Path) -> None:
    data = simulated(n_cells=100, seed=0)
    model = StaticShift(data.schema, n_programs=2, hidden=4)
    posterior = cv.fit(model, MeanField(model, hidden=4), data, max_epochs=1, progress=False)

    def work() -> None:
        mounts = alone()
        with small_disk(tmp_path, 2**20, mounts):
            posterior.save(tmp_path / "run")
            before = used(tmp_path)
        with small_disk(tmp_path, before + 4096 if mounts else 4096, mounts):
            if mounts:
                posterior.save(tmp_path / "run")
            with pytest.raises(RunError, match=r"'.*run' cannot be written"):
                posterior.save(tmp_path / "run", overwrite=True)
            cv.verify(tmp_path / "run")

    assert ended(child_of(work)) == 0
