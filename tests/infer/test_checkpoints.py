"""The state of a fit on disk: it survives a kill and a full disk, and belongs to one fit."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from screens import simulated
from torch.optim.optimizer import register_optimizer_step_pre_hook

import pyro_citevae as cv
from pyro_citevae.data import Trajectories
from pyro_citevae.errors import FitError, RunError
from pyro_citevae.guides import BackwardSmoother, MeanField
from pyro_citevae.infer.checkpoints import StateFile
from pyro_citevae.models import CiteVAE

STEPS = 4  # of an epoch: 190 training cells in minibatches of 48
QUICK = {"max_epochs": 4, "batch_size": 48, "progress": False, "seed": 0}
FILE = "training.safetensors"


def screen(seed: int = 0) -> Trajectories:
    return simulated(n_cells=200, n_genes=12, n_steps=2, seed=seed)


def fitted(
    data: Trajectories, *, guide: Any = BackwardSmoother, hidden: int = 8, **options: Any
) -> cv.Posterior:
    model = CiteVAE(data.schema, n_programs=2, n_invariant=1, hidden=hidden)
    return cv.fit(model, guide(model, hidden=8), data, **{**QUICK, **options})


def weights(posterior: cv.Posterior) -> dict[str, torch.Tensor]:
    return {**posterior.model.state_dict(prefix="m."), **posterior.guide.state_dict(prefix="g.")}


def equal(one: cv.Posterior, two: cv.Posterior) -> bool:
    same = all(torch.equal(value, weights(two)[name]) for name, value in weights(one).items())
    return same and one.history.equals(two.history)


@pytest.fixture(scope="module")
def data() -> Trajectories:
    return screen()


def in_a_process(work: Callable[[Connection], None]) -> tuple[int, list[str]]:
    """Exit code of a process of its own, and what it sends."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(sender,))
    process.start()
    sender.close()
    said = []
    try:
        while True:
            said.append(receiver.recv())
    except EOFError:
        process.join()
    assert process.exitcode is not None
    return process.exitcode, said


def at_step(wanted: int, act: Callable[[], object]) -> None:
    """Does something at a step of this process's optimiser."""
    steps = iter(range(1_000_000))
    register_optimizer_step_pre_hook(lambda *_: act() if next(steps) == wanted else None)


def killed(data: Trajectories, folder: Path, step: int, **options: Any) -> None:
    def work(_: Connection) -> None:
        at_step(step, lambda: os.kill(os.getpid(), signal.SIGKILL))
        fitted(data, checkpoints=folder, **options)

    assert in_a_process(work)[0] == -signal.SIGKILL


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sampler": "blocks"},
        {"sampler": "balanced", "objective": "iwae", "n_particles": 2},
        {"patience": 1, "validation": 0.3, "learning_rate": 0.05, "max_epochs": 30},
    ],
    ids=str,
)
def test_a_fit_that_was_killed_goes_on_to_the_same_posterior(
    data: Trajectories, tmp_path: Path, options: dict
) -> None:
    whole = fitted(data, **options)
    killed(data, tmp_path, 2 * STEPS + 2, **options)
    assert {path.name for path in tmp_path.iterdir()} == {FILE, "lock"}
    assert equal(whole, fitted(data, checkpoints=tmp_path, resume=True, **options))
    assert equal(whole, fitted(data, checkpoints=tmp_path, resume=True, **options)), "a finished fit stays"


def test_killed_in_the_first_epoch_it_begins(data: Trajectories, tmp_path: Path) -> None:
    killed(data, tmp_path, 2)
    assert equal(fitted(data), fitted(data, checkpoints=tmp_path, resume=True))


def test_killed_twice_it_goes_on(data: Trajectories, tmp_path: Path) -> None:
    killed(data, tmp_path, STEPS + 1)
    killed(data, tmp_path, STEPS + 1, resume=True)
    assert equal(fitted(data), fitted(data, checkpoints=tmp_path, resume=True))


def test_keeping_states_changes_nothing(data: Trajectories, tmp_path: Path) -> None:
    assert equal(fitted(data), fitted(data, checkpoints=tmp_path))


def test_a_disk_that_fills_leaves_the_last_whole_state(data: Trajectories, tmp_path: Path) -> None:
    def work(sender: Connection) -> None:
        full = (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])  # bytes, fewer than a state has
        at_step(2 * STEPS + 1, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, full))
        try:
            fitted(data, checkpoints=tmp_path)
        except RunError as error:
            sender.send(str(error))

    code, said = in_a_process(work)
    assert code == 0
    (sentence,) = said
    assert "training.safetensors' cannot be written" in sentence
    assert "--resume" in sentence
    assert [path.name for path in tmp_path.iterdir()] == [FILE]
    assert equal(fitted(data), fitted(data, checkpoints=tmp_path, resume=True))


@pytest.mark.parametrize(
    ("other", "phrase"),
    [
        ({"learning_rate": 0.1}, r"another fit's learning_rate \(0.006, and here 0.1\)"),
        ({"seed": 1}, "another fit's seed"),
        ({"max_epochs": 9}, "another fit's max_epochs"),
        ({"guide": MeanField}, "another guide"),
        ({"hidden": 16}, "another model's hidden"),
        ({"data": screen(seed=1)}, "another data"),
    ],
    ids=str,
)
def test_the_state_of_another_fit_is_refused(
    data: Trajectories, tmp_path: Path, other: dict, phrase: str
) -> None:
    fitted(data, checkpoints=tmp_path, max_epochs=4)
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(FitError, match=phrase):
        fitted(**{"data": data, "checkpoints": tmp_path, "resume": True, **other})
    assert (tmp_path / FILE).read_bytes() == before


def test_a_state_is_not_overwritten_unasked(data: Trajectories, tmp_path: Path) -> None:
    fitted(data, checkpoints=tmp_path, max_epochs=1)
    with pytest.raises(FitError, match="holds a fit that was not finished; go on with it"):
        fitted(data, checkpoints=tmp_path, max_epochs=1)


def test_to_go_on_needs_a_folder(data: Trajectories) -> None:
    with pytest.raises(FitError, match="name it with checkpoints"):
        fitted(data, resume=True)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_truncated_state_is_told(data: Trajectories, tmp_path: Path, share: float) -> None:
    fitted(data, checkpoints=tmp_path, max_epochs=1)
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[: int(share * len(content))])
    with pytest.raises(RunError, match=r"is no whole state of a fit .* delete it to start anew"):
        fitted(data, checkpoints=tmp_path, max_epochs=1, resume=True)


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"a": 1},
        {"citevae": None, "state_dict": {}},
        {"citevae": {"fit": [], "history": 3}, "state_dict": {"a": torch.ones(1)}},
    ],
    ids=str,
)
def test_a_state_of_something_else_is_told(data: Trajectories, tmp_path: Path, state: dict[str, Any]) -> None:
    StateFile().save_checkpoint(state, tmp_path / FILE)
    with pytest.raises(RunError, match=r"is no whole state of a fit .* delete it to start anew"):
        fitted(data, checkpoints=tmp_path, resume=True)


def test_a_changed_byte_of_a_state_is_told(data: Trajectories, tmp_path: Path) -> None:
    fitted(data, checkpoints=tmp_path, max_epochs=1)
    content = (tmp_path / FILE).read_bytes()
    rng = random.Random(0)
    for place in [rng.randrange(len(content)) for _ in range(40)]:
        (tmp_path / FILE).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises((RunError, FitError)) as told:
            fitted(data, checkpoints=tmp_path, max_epochs=1, resume=True)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "said", ["[" * 100_000, "null", '{"tensor": "9"}', '{"pairs": 3}', "{}", '{"a": 1, "b": 2}']
)
def test_other_json_in_a_state_is_told(data: Trajectories, tmp_path: Path, said: str) -> None:
    save_file({"0": torch.ones(2)}, tmp_path / FILE, metadata={"state": said, "sha256": "0" * 64})
    with pytest.raises(RunError, match="is no whole state of a fit"):
        fitted(data, checkpoints=tmp_path, resume=True)


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harmed"),)


def test_a_pickle_in_the_place_of_a_state_is_not_executed(
    data: Trajectories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / FILE).write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(RunError, match="is no whole state"):
        fitted(data, checkpoints=tmp_path, resume=True)
    assert not Path("harmed").exists()
