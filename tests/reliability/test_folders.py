"""Folders and names at the command line: each has one writer and its own kind, and what is read stays."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import anndata
import pytest
import xarray as xr
from kills import child_of, ended, killed_at_call
from screens import as_anndata, simulated

from pyro_citevae.cli import main
from pyro_citevae.errors import CiteVAEError, CiteVAEWarning, RunError
from pyro_citevae.locks import locked

MODEL = '[model]\nname = "StaticShift"\nn_programs = 2\nhidden = 4\n[guide]\nname = "MeanField"\nhidden = 4\n'
FIT = "fit screen.h5ad --time time --config model.toml --epochs 1 --quiet"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a screen, settings, and runs of two seeds."""
    found = tmp_path_factory.mktemp("folders")
    for name, seed in (("screen", 0), ("other", 1)):
        as_anndata(simulated(n_cells=200, seed=seed)).write_h5ad(found / f"{name}.h5ad")
    (found / "model.toml").write_text(MODEL)
    (found / "foreign").mkdir()
    (found / "foreign" / "thesis.txt").write_text("precious")
    (found / "list.txt").write_text("gene_0\n")
    before = Path.cwd()
    os.chdir(found)
    try:
        said(f"{FIT} --hold-out time=3 -o run")
        said("predict run --do gene_0 --draws 2 -o cells.h5ad")
    finally:
        os.chdir(before)
    return found


@pytest.fixture
def here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, to work in."""
    shutil.copytree(home, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def said(line: str) -> None:
    """Runs a command in this process; a mistake of the user's is raised."""
    sys.argv = ["citevae", *shlex.split(line)]
    from pyro_citevae.cli import app

    try:
        app(sys.argv[1:])
    except SystemExit as stop:
        assert not stop.code, line


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


# F2: its own kind alone

WRITERS = {
    "fit": f"{FIT} -o",
    "predict": "predict run --do gene_0 --draws 2 -o",
    "rank": "rank run --draws 2 -o",
    "evaluate": "evaluate run --draws 2 -o",
    "licence": "evaluate run --licence -o",
    "export": "export run -o",
    "report": "report run -o",
    "challenge": "challenge run --targets list.txt --controls screen.h5ad -o",
    "demo": "demo -o",
    "simulate": "simulate c3d --frames 10 -o",
    "sheet": "simulate c3d-sheet -o",
}
TARGETS = (
    "foreign",
    "screen.h5ad",
    "run",
    "list.txt",
    "model.toml",
    "cells.h5ad",
    "cells.effects.nc",
    ".",
    "..",
)
SAME = {("fit", "run"), ("demo", "run"), ("predict", "cells.h5ad")}


@pytest.mark.parametrize(("name", "target"), [one for one in product(WRITERS, TARGETS) if one not in SAME])
def test_overwrite_replaces_its_own_kind_alone(name: str, target: str, here: Path) -> None:
    before = contents(here)
    with pytest.raises(
        CiteVAEError, match=r"'.*(folder that you are in|is not a|is not pred|is or holds|ends? in)"
    ):
        said(f"{WRITERS[name]} {target} --overwrite")
    assert contents(here) == before


@pytest.mark.parametrize(
    "line",
    [
        f"{FIT} --candidates run/list.txt -o run --overwrite",
        "predict run --do gene_0 --cells cells.h5ad -o cells.h5ad --overwrite",
        "predict run --do gene_0 --data cells.h5ad -o cells.h5ad --overwrite",
        f"{FIT.replace('screen.h5ad', 'cells.h5ad')} -o cells.h5ad --overwrite",
    ],
)
def test_what_a_command_reads_it_does_not_replace(line: str, here: Path) -> None:
    shutil.copy("list.txt", "run/list.txt")
    before = contents(here)
    with pytest.raises(RunError, match=r"is or holds '.*', which is read; choose another name"):
        said(line)
    assert contents(here) == before


def test_a_benchmark_does_not_replace_what_is_not_of_one(here: Path) -> None:
    Path("results.md").write_text("My results.")
    before = contents(here)
    with pytest.raises(RunError, match=r"'results\.md' is not a benchmark's page"):
        said("benchmark unseen-gene --data screen.h5ad -o .")
    assert contents(here) == before


# F7: to go on


@pytest.mark.parametrize(
    ("line", "phrase"),
    [
        ("fit no_such.h5ad --time time --config model.toml --epochs 1 --hold-out time=3", "is not a file"),
        (
            "fit other.h5ad --time time --config model.toml --epochs 1 --hold-out time=3",
            "another (schema|data)",
        ),
        (f"{FIT} --hold-out time=3 --seed 1", "another fit's seed"),
        (f"{FIT} --hold-out time=3 --seeds 2", "fits from 1 seeds, and not 2"),
        (f"{FIT} --hold-out time=3 --guide BackwardSmoother", "another guide"),
        (FIT, "another (schema|data)"),
    ],
)
def test_to_go_on_looks_whether_the_run_is_of_the_same_fit(line: str, phrase: str, here: Path) -> None:
    before = contents(here)
    with pytest.raises(CiteVAEError, match=phrase):
        said(f"{line} -o run --resume --quiet")
    assert contents(here) == before


@pytest.mark.parametrize("target", ["foreign", "screen.h5ad"])
def test_to_go_on_with_what_is_no_run_is_refused(target: str, here: Path) -> None:
    with pytest.raises(RunError, match="is not a run"):
        said(f"{FIT} -o {target} --resume")


def test_a_complete_run_is_left_and_what_its_fit_left_is_swept(
    here: Path, capsys: pytest.CaptureFixture
) -> None:
    (here / "run.training" / "seed_0").mkdir(parents=True)
    before = contents(here / "run")
    said(f"{FIT} --hold-out time=3 -o run --resume")
    assert "run is complete" in capsys.readouterr().out
    assert contents(here / "run") == before
    assert not (here / "run.training").exists()


# F15: one writer


@contextmanager
def held_by_another(folder: Path, mark: Path) -> Iterator[int]:
    """A process of its own holds a folder's lock, and is killed in the end; its id."""

    def hold() -> None:
        with locked(folder):
            mark.touch()
            time.sleep(60)

    holder = child_of(hold)
    try:
        while not mark.exists():
            time.sleep(0.01)
        yield holder
    finally:
        os.kill(holder, signal.SIGKILL)
        ended(holder)


def test_a_second_process_is_refused_at_once_and_told_the_first(tmp_path: Path) -> None:
    with held_by_another(tmp_path / "folder", tmp_path / "held") as first:
        started = time.perf_counter()
        message = rf"'.*folder' is in use by process {first} on {re.escape(platform.node())}; wait for it"
        with pytest.raises(RunError, match=message), locked(tmp_path / "folder"):
            pass
        assert time.perf_counter() - started < 1
    assert (tmp_path / "folder" / "lock").exists()  # it had no time
    with locked(tmp_path / "folder"):  # which is known to be stale
        assert f"process {os.getpid()}" in (tmp_path / "folder" / "lock").read_text()
    assert not (tmp_path / "folder" / "lock").exists()


def test_a_lock_leaves_no_folder_behind(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a").exists()


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.warns(CiteVAEWarning, match="knows no locks"), locked(tmp_path / "folder"):
        pass


def test_many_processes_hold_a_lock_one_at_a_time(tmp_path: Path) -> None:
    def work() -> None:
        held = 0
        until = time.monotonic() + 1
        while time.monotonic() < until:
            try:
                with locked(tmp_path / "folder"):
                    (tmp_path / "alone").mkdir()  # which fails where another one is in here
                    held += 1
                    (tmp_path / "alone").rmdir()
            except RunError as error:
                if "in use" not in str(error):
                    raise
        assert held

    children = [child_of(work) for _ in range(4)]
    assert [ended(child) for child in children] == [0] * 4


def test_of_two_fits_into_one_folder_the_second_is_refused_and_the_first_is_whole(here: Path) -> None:
    line = FIT.replace("--epochs 1", "--epochs 30")
    first = child_of(lambda: said(f"{line} -o made"))
    try:
        while not Path("made.training/seed_0/training.safetensors").exists():
            time.sleep(0.01)
        for more in ("", "--resume", "--overwrite"):
            with pytest.raises(RunError, match=rf"made.training' is in use by process {first} on "):
                said(f"{line} -o made {more}")
    finally:
        code = ended(first)
    assert code == 0
    said(f"{line} -o made --resume")
    assert not Path("made.training").exists()


def test_of_two_benchmarks_into_one_folder_the_second_is_refused(here: Path) -> None:
    with (
        held_by_another(here / "made" / "folds", here / "held") as first,
        pytest.raises(RunError, match=rf"'made/folds' is in use by process {first} on "),
    ):
        said("benchmark unseen-gene --data screen.h5ad --config model.toml -o made --quiet")


# F8: a pair of files


def prediction(folder: Path) -> tuple[str | None, str | None]:
    """Which prediction each of the two files says that it is of."""
    cells, effects = folder / "made.h5ad", folder / "made.effects.nc"
    return (
        anndata.read_h5ad(cells).uns["prediction"] if cells.exists() else None,
        xr.load_dataarray(effects).attrs["prediction"] if effects.exists() else None,
    )


@pytest.mark.slow
def test_a_prediction_that_is_killed_at_any_call_is_a_pair_and_can_be_asked_again(here: Path) -> None:
    line = "predict run --do gene_{} --draws 2 -o made.h5ad --overwrite"
    said(line.format(0))
    old, _ = prediction(here)
    seen, number = set(), 0
    while True:
        whole = not killed_at_call(number, here, lambda: said(line.format(1)))
        said("rank run --draws 2 -o ranking --overwrite")  # the next command that writes there
        cells, effects = prediction(here)
        assert cells == effects
        assert not list(here.glob(".citevae-*"))
        seen.add(cells == old)
        if whole:
            break
        said(line.format(0))
        number += 1
    assert seen == {True, False}


def test_both_files_say_which_prediction_they_are_of(here: Path) -> None:
    said("predict run --do gene_0 --draws 2 -o made.h5ad")
    one, two = prediction(here)
    assert one == two
    said("predict run --do gene_1 --draws 2 -o made.h5ad --overwrite")
    assert prediction(here)[0] != one


# F17: numbers and names


@pytest.mark.parametrize(
    ("line", "phrase"),
    [
        (f"{FIT} -o made --seed {2**64}", "seed"),
        (f"{FIT} -o made --seed {2**63 - 1} --seeds 2", "seed"),
        (f"{FIT} -o made --seed -1", "seed"),
        (f"predict run --do gene_0 -o made.h5ad --seed {2**64}", "seed"),
        (f"rank run -o made --seed {2**64}", "seed"),
        (f"export run -o made.nc --seed {2**64}", "seed"),
        ("simulate c3d --frames 10 -o made --seed -1", "seed"),
        (f"{FIT.replace('model.toml', 'many.toml')} -o made", "batch_size"),
        (f"{FIT} -o ''", "the folder that you are in"),
        (f"{FIT} -o list.txt/made", "no folder you may write to|Not a directory"),
        (f"{FIT} -o {'x' * 300}", "File name too long"),
    ],
)
def test_numbers_and_names_out_of_range_are_refused_in_a_sentence(
    line: str, phrase: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    Path("many.toml").write_text(f"{MODEL}[fit]\nbatch_size = {10**20}\n")
    before = contents(here)
    monkeypatch.setattr(sys, "argv", ["citevae", *shlex.split(line)])
    with pytest.raises(SystemExit) as stop:
        main()
    told = capsys.readouterr().err
    assert stop.value.code == 2
    assert re.fullmatch(rf"error: [^\n]*({phrase})[^\n]*\.\n", told), told
    assert contents(here) == before


# What a file of settings runs


def test_a_python_file_that_settings_name_is_named_before_it_is_run(
    here: Path, capsys: pytest.CaptureFixture
) -> None:
    Path("own.py").write_text("raise SystemExit('it ran')\n")
    Path("own.toml").write_text('[model]\nname = "own.py:Mine"\n')
    with pytest.raises(CiteVAEError, match="it ran"):
        said(f"{FIT.replace('model.toml', 'own.toml')} -o made")
    assert "Runs 'own.py', which 'own.toml' names." in capsys.readouterr().out
    with pytest.raises(CiteVAEError, match="it ran"):
        said("benchmark unseen-gene --config own.toml --data screen.h5ad -o made --quiet")
    assert "Runs 'own.py', which 'own.toml' names." in capsys.readouterr().out


def test_verify_says_whole_or_what_is_damaged(here: Path, capsys: pytest.CaptureFixture) -> None:
    said("verify run")
    assert "run is whole: 5 files are as they were written" in capsys.readouterr().out
    weights = here / "run" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunError, match=r"'run' is damaged \('model.safetensors' is not as it was written\)"):
        said("verify run")
