"""Signals: 130 and 143 with one line on what is kept, a second one at once, and the posterior in Python."""

from __future__ import annotations

import ctypes
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from jupyter_client.manager import start_new_kernel
from kills import child_of, ended, in_child
from lightning.pytorch.callbacks import Callback
from screens import as_anndata, simulated

import pyro_citevae as cv
from pyro_citevae.cli import main
from pyro_citevae.errors import InterruptedFit
from pyro_citevae.guides import MeanField
from pyro_citevae.models import StaticShift
from pyro_citevae.signals import Stopped, heeded

SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
MODEL = '[model]\nname = "StaticShift"\nn_programs = 2\nhidden = 4\n[guide]\nname = "MeanField"\nhidden = 4\n'
BENCHMARK = MODEL + "seeds = 1\n"


@pytest.fixture(autouse=True)
def heeds_interrupts() -> Iterator[None]:
    """Ctrl-C as in a terminal: a shell's background jobs ignore it, and so would these tests there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("signals")
    found = {name: home / name for name in ("screen.h5ad", "model.toml", "benchmark.toml", "run")}
    as_anndata(simulated(n_cells=300, seed=0)).write_h5ad(found["screen.h5ad"])
    found["model.toml"].write_text(MODEL)
    found["benchmark.toml"].write_text(f"seeds = 1\ndraws = 50\nnetwork_steps = 500\n{MODEL}")
    (home / "targets.txt").write_text("gene_0\ngene_1\n")
    found["targets.txt"] = home / "targets.txt"
    line = "fit {screen.h5ad} --time time --hold-out time=3 --config {model.toml} --epochs 1 --quiet -o {run}"
    assert in_child(lambda: command(line, found)) == 0
    found["whole"] = home / "whole"
    assert in_child(lambda: command(f"{FIT} --epochs 6", {**found, "out": found["whole"]})) == 0
    return found


def words(line: str, places: dict[str, Path]) -> list[str]:
    return [re.sub(r"\{(.*?)\}", lambda found: str(places[found[1]]), word) for word in shlex.split(line)]


def command(line: str, places: dict[str, Path]) -> None:
    """A command, as a process of its own runs it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
    sys.argv = ["citevae", *words(line, places)]
    main()


def is_heeded(process: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    found = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process}/status").read_text())
    return found is not None and bool(int(found[1], 16) >> (number - 1) & 1)


def wait_for(what: Callable[[], bool], most: float = 60.0) -> None:
    until = time.monotonic() + most
    while not what():
        assert time.monotonic() < until
        time.sleep(0.005)


def heeding(*given: str) -> subprocess.Popen[str]:
    """The command line in a process of its own, from the moment on in which it heeds signals."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pyro_citevae", *given],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    # the handler of SIGTERM is ours alone; that of SIGINT is Python's until then
    wait_for(lambda: process.poll() is not None or is_heeded(process.pid, signal.SIGTERM))
    return process


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


FIT = "fit {screen.h5ad} --time time --config {model.toml} --quiet -o {out}"


@pytest.mark.parametrize(("number", "code"), SIGNALS.items())
def test_a_fit_that_is_stopped_says_what_is_kept_and_goes_on(
    number: int, code: int, places: dict[str, Path], tmp_path: Path
) -> None:
    given = {**places, "out": tmp_path / "run"}
    child = child_of(lambda: command(f"{FIT} --epochs 6", given), tmp_path / "stderr")
    wait_for((tmp_path / "run.training/seed_0/training.safetensors").exists)
    os.kill(child, number)
    assert ended(child) == code
    said = (tmp_path / "stderr").read_text()
    kept = f"each whole epoch is kept in {tmp_path}/run.training; go on by the same command with --resume."
    assert said == f"stopped by {signal.Signals(number).name}; {kept}\n"
    assert names(tmp_path) == {"run.training", "stderr"}
    assert in_child(lambda: command(f"{FIT} --epochs 6 --resume", given)) == 0
    for file in ("model.safetensors", "history.parquet"):
        assert (tmp_path / "run" / file).read_bytes() == (places["whole"] / file).read_bytes()
    assert names(tmp_path) == {"run", "stderr"}


@pytest.mark.parametrize(("number", "code"), SIGNALS.items())
def test_a_command_that_is_stopped_before_it_has_imported_anything_says_so_too(
    number: int, code: int, places: dict[str, Path]
) -> None:
    process = heeding("inspect", str(places["screen.h5ad"]))
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert said == f"stopped by {signal.Signals(number).name}; nothing was written.\n"
    assert process.returncode == code


@pytest.mark.parametrize(("number", "code"), SIGNALS.items())
def test_a_command_that_is_stopped_leaves_nothing(
    number: int, code: int, places: dict[str, Path], tmp_path: Path
) -> None:
    given = {**places, "out": tmp_path / "pred.h5ad"}
    line = "predict {run} --do gene_0 --draws 100000 -o {out} --json"
    with open(tmp_path / "stdout", "w") as stdout:  # noqa: PTH123

        def work() -> None:
            sys.stdout = stdout
            try:
                command(line, given)
            finally:
                stdout.flush()

        child = child_of(work, tmp_path / "stderr")
    time.sleep(0.5)
    os.kill(child, number)
    assert ended(child) == code
    sentence = f"stopped by {signal.Signals(number).name}; nothing was written."
    assert (tmp_path / "stderr").read_text().splitlines()[-1] == sentence
    assert json.loads((tmp_path / "stdout").read_text()) == {"error": sentence}
    assert names(tmp_path) == {"stderr", "stdout"}


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_c_calls_python_is_heeded_a_moment_later(number: int) -> None:
    """Nothing can be raised there: as where numba compiles."""

    def work() -> None:
        called = ctypes.CFUNCTYPE(None)(lambda: os.kill(os.getpid(), number))
        with heeded():
            try:
                called()
                time.sleep(30)
            except Stopped as stop:
                sys.exit(stop.exit_code)

    assert in_child(work) == SIGNALS[number]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_ends_at_once(number: int, tmp_path: Path) -> None:
    def work() -> None:
        with heeded():
            (tmp_path / "ready").touch()
            try:
                time.sleep(60)
            except Stopped:
                (tmp_path / "stopped").touch()
                time.sleep(60)  # what is being cleaned up takes long

    child = child_of(work)
    wait_for((tmp_path / "ready").exists)
    os.kill(child, number)
    wait_for((tmp_path / "stopped").exists)
    os.kill(child, signal.SIGINT)
    assert ended(child, most=5.0) == -signal.SIGINT


# In Python


class AtEpoch(Callback):
    """Does something at the end of an epoch, or in the first step after it."""

    def __init__(self, epoch: int, act: Callable[[], object], *, within: bool = False) -> None:
        self.epoch, self.act, self.within = epoch, act, within

    def on_train_epoch_end(self, trainer, *_: object) -> None:
        if trainer.current_epoch == self.epoch and not self.within:
            self.act()

    def on_train_batch_end(self, trainer, *_: object) -> None:
        if trainer.current_epoch == self.epoch + 1 and self.within:
            self.act()


def fitted(**options: object) -> cv.Posterior:
    data = simulated(n_cells=200, seed=0)
    model = StaticShift(data.schema, n_programs=2, hidden=4)
    given = {"max_epochs": 6, "progress": False, "seed": 0, **options}
    return cv.fit(model, MeanField(model, hidden=4), data, **given)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def equal(one: cv.Posterior, two: cv.Posterior) -> bool:
    parts = [(one.model, two.model), (one.guide, two.guide)]
    return all(
        torch.equal(value, b.state_dict()[name]) for a, b in parts for name, value in a.state_dict().items()
    )


@pytest.mark.parametrize("within", [False, True])
def test_an_interrupted_fit_has_its_posterior_within_reach_and_goes_on(within: bool, tmp_path: Path) -> None:
    called = {"checkpoints": tmp_path / "state"}
    with pytest.raises(
        InterruptedFit, match=r"interrupted after \d+ steps; .*last_value.*resume=True"
    ) as told:
        fitted(**called, callbacks=[AtEpoch(2, interrupt, within=within)])
    assert isinstance(told.value, KeyboardInterrupt)
    found = told.value.last_good
    assert len(found.history) == 2 + within
    assert np.isfinite(found.effect(cv.do("gene_0"), draws=2)).all()
    found.save(tmp_path / "run")
    for one in (found, cv.load(tmp_path / "run")):
        assert "steps and was interrupted." in one.adequacy.signs[0].sentence
    assert equal(fitted(), fitted(**called, resume=True))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_before_the_first_epoch_an_interrupt_is_a_bare_one() -> None:
    with pytest.raises(KeyboardInterrupt) as told:
        fitted(callbacks=[AtEpoch(-1, interrupt, within=True)])
    assert not isinstance(told.value, InterruptedFit)


def test_an_interrupt_in_the_last_stretch_has_the_history_of_all(tmp_path: Path) -> None:
    calls = []

    class Late(Callback):
        def on_train_epoch_end(self, trainer, *_: object) -> None:
            calls.append(trainer.global_step)
            if len(calls) > 1 and calls[-1] < calls[-2]:  # the second training has begun
                interrupt()

    with pytest.raises(InterruptedFit) as told:
        fitted(max_epochs=None, max_steps=40, batch_size=20, callbacks=[Late()])
    steps = told.value.last_good.history.step
    assert (steps.diff().iloc[1:] > 0).all()


def test_sigterm_ends_a_script_as_it_does_without_a_fit() -> None:
    def work() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        fitted(max_epochs=500, callbacks=[AtEpoch(1, lambda: os.kill(os.getpid(), signal.SIGTERM))])

    assert in_child(work) == -signal.SIGTERM


NOTEBOOK = """
import pyro_citevae as cv
data = cv.simulate(n_cells=100, seed=0).data
model = cv.models.StaticShift(data.schema, n_programs=2)
guide = cv.guides.MeanField(model)
"""


@pytest.mark.slow
def test_a_notebook_that_is_stopped_has_the_posterior_so_far() -> None:
    manager, client = start_new_kernel()
    said: list[str] = []

    def show(message: dict) -> None:
        content = message["content"]
        said.extend(str(content[key]) for key in ("text", "ename") if key in content)

    def run(code: str) -> str:
        said.clear()
        client.execute_interactive(code, output_hook=show, timeout=300)
        return " ".join(said)

    try:
        run(NOTEBOOK)
        timer = threading.Timer(20.0, manager.interrupt_kernel)
        timer.start()
        fit = "cv.fit(model, guide, data, max_epochs={}, compile='never', progress=False)"
        assert run(f"posterior = {fit.format(10**6)}") == "InterruptedFit"
        assert (
            run("import sys; posterior = sys.last_value.last_good; print(len(posterior.history) > 0)")
            == "True\n"
        )
        assert run(f"print(len({fit.format(2)}.history))") == "2\n", "the kernel is as it was"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


# Every command, at random moments

COMMANDS = {
    "fit": f"{FIT} --epochs 60",
    "fit on two devices": f"{FIT} --epochs 60 --devices 2",
    "predict": "predict {run} --do gene_0 --do gene_1 --draws 2000 -o {out}",
    "rank": "rank {run} --draws 500 -o {out}",
    "evaluate": "evaluate {run} -o {out}",
    "export": "export {run} --draws 300 -o {out}.nc",
    "report": "report {run} -o {out}.html",
    "challenge": "challenge {run} --targets {targets.txt} --controls {screen.h5ad} -o {out}",
    "demo": "demo --epochs 3 --quiet -o {out}",
    "simulate": "simulate c3d --frames 3000 --jobs 2 --quiet -o {out}",
    "benchmark": "benchmark unseen-gene --config {benchmark.toml} --data {screen.h5ad} --quiet -o {out}",
    "benchmark with jobs": "benchmark unseen-gene --config {benchmark.toml} --data {screen.h5ad} --quiet "
    "--jobs 2 -o {out}",
    "inspect": "inspect {screen.h5ad}",
    "check": "check CiteVAE",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(("number", "code"), SIGNALS.items())
def test_every_command_ends_with_its_code_and_one_line(
    name: str, number: int, code: int, places: dict[str, Path], tmp_path: Path
) -> None:
    rng = random.Random(f"{name} {number}")
    seen = set()
    for case in range(2):
        folder = tmp_path / str(case)
        folder.mkdir()
        given = words(COMMANDS[name], {**places, "out": folder / "out"})
        process = heeding(*given)
        pause = rng.choice((0.0, 0.5, 2.0, 5.0, 10.0))
        time.sleep(pause)
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        said = process.communicate(timeout=60)[1]
        where = f"{name}, {pause} s: {process.returncode}\n{said}"
        assert process.returncode in (code, 0), where
        seen.add(process.returncode)
        assert "Traceback" not in said, where
        if process.returncode:
            last = said.splitlines()[-1]
            assert re.fullmatch(rf"stopped by {signal.Signals(number).name}; .*\.", last), where
            assert said.count("stopped by") == 1, where
        assert not list(folder.rglob(".citevae-*")), where
    assert code in seen or name in ("inspect", "check")
