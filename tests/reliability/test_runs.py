"""A run proves itself: what was changed, mixed or edited is refused in one sentence, and nothing is run."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from edited_runs import edited
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.errors import CiteVAEWarning, ModelError, RunError
from pyro_citevae.guides import MeanField
from pyro_citevae.models import StaticShift

FILES = ("model.safetensors", "history.parquet", "discrepancy.nc", "split.json", "run.json")


def fitted(seed: int) -> cv.Posterior:
    data = simulated(n_cells=200, seed=0).hold_out(times=[3])[0]
    model = StaticShift(data.schema, n_programs=2, hidden=4)
    return cv.fit(model, MeanField(model, hidden=4), data, max_epochs=1, progress=False, seed=seed)


@pytest.fixture(scope="module")
def posteriors() -> list[cv.Posterior]:
    return [fitted(seed) for seed in (0, 1)]


@pytest.fixture
def run(posteriors: list[cv.Posterior], tmp_path: Path) -> Path:
    posteriors[0].save(tmp_path / "run")
    return tmp_path / "run"


def weights(posterior: cv.Posterior) -> dict[str, torch.Tensor]:
    return {**posterior.model.state_dict(prefix="m."), **posterior.guide.state_dict(prefix="g.")}


def equal(one: cv.Posterior, two: cv.Posterior) -> bool:
    same = all(torch.equal(value, weights(two)[name]) for name, value in weights(one).items())
    return same and one.history.equals(two.history) and one.record == two.record


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_told_with_its_file(name: str, run: Path) -> None:
    content = (run / name).read_bytes()
    rng = random.Random(name)
    for _ in range(20):
        place = rng.randrange(len(content))
        (run / name).write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        for read in (cv.load, cv.verify):
            with pytest.raises(RunError, match=rf"{name}|is not a run") as told:
                read(run)
            assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", FILES[:-2])
def test_another_run_s_file_is_told(name: str, run: Path, posteriors: list[cv.Posterior]) -> None:
    posteriors[1].save(run.parent / "other")
    shutil.copy(run.parent / "other" / name, run / name)
    with pytest.raises(RunError, match="is not as it was written"):
        cv.load(run)


def test_a_whole_run_is_verified_and_its_text_is_free_to_change(run: Path) -> None:
    (run / "README.md").write_text("My notes.")
    assert set(cv.verify(run)) == set(FILES)
    assert cv.load(run).split is not None


def test_an_ensemble_is_verified_with_its_members(posteriors: list[cv.Posterior], tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    cv.Ensemble(posteriors).save(run)
    assert len(cv.verify(run)) == 1 + 2 * len(FILES)
    cv.Ensemble(posteriors[::-1]).save(other)
    shutil.rmtree(run / "member_1")
    shutil.copytree(other / "member_1", run / "member_1")
    for read in (cv.load, cv.verify):
        with pytest.raises(RunError, match=r"'member_1/run\.json' is not as it was written"):
            read(run)
    shutil.rmtree(run / "member_1")
    with pytest.raises(RunError, match="it has 1 of 2 members"):
        cv.load(run)


def test_a_number_of_members_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ensemble.json").write_text('{"members": 1000000000}')
    started = time.perf_counter()
    with pytest.raises(RunError, match="it has 0 of 1000000000 members"):
        cv.load(tmp_path / "run")
    assert time.perf_counter() - started < 1


def test_a_run_of_an_older_version_is_read_and_that_is_said_once(
    run: Path, posteriors: list[cv.Posterior]
) -> None:
    edited(run)
    with pytest.warns(CiteVAEWarning, match="before runs had checksums") as told:
        assert equal(cv.load(run), posteriors[0])
    assert len(told) == 1
    with pytest.raises(RunError, match="before runs had checksums"):
        cv.verify(run)


def test_a_run_of_a_newer_version_is_refused_with_the_way_out(run: Path) -> None:
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({"format": record["format"] + 1, "whatever": []}))
    for read in (cv.load, cv.verify):
        with pytest.raises(RunError, match=r"is of format 2, .* up to 1; install a newer pyro-citevae\."):
            read(run)


def test_weights_that_are_no_numbers_are_refused(run: Path, posteriors: list[cv.Posterior]) -> None:
    broken = fitted(2)
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("nan"))
    broken.save(run.parent / "broken")
    for read in (cv.load, cv.verify):
        with pytest.raises(RunError, match="is not finite"):
            read(run.parent / "broken")


def test_a_size_of_which_the_weights_have_nothing_is_refused_at_once(run: Path) -> None:
    edited(run, lambda record: record["model"]["settings"].update(n_programs=10**9))
    with pytest.raises(RunError, match="n_programs=1000000000 of the model does not fit its weights"):
        cv.load(run)


@pytest.mark.parametrize("reads", [8, pytest.param(300, marks=pytest.mark.slow)])
def test_a_run_that_is_overwritten_while_it_is_read_is_one_whole_run(
    reads: int, run: Path, posteriors: list[cv.Posterior]
) -> None:
    if (writer := os.fork()) == 0:
        try:
            for i in range(100_000):
                posteriors[i % 2].save(run, overwrite=True)
        finally:
            os._exit(1)
    try:
        found = [cv.load(run) for _ in range(reads)]
    finally:
        os.kill(writer, 9)
        os.waitpid(writer, 0)
    of = [next(i for i, one in enumerate(posteriors) if equal(one, read)) for read in found]
    assert len(of) == reads
    cv.load(run)
    posteriors[0].save(run.parent / "another")
    assert {path.name for path in run.parent.iterdir()} == {"run", "another"}


# Mutated runs

NONSENSE: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 10**30, "", "x", "a\0b", "../../etc/passwd", [], {}, [[]], {"a": None},
    float("nan"), [1] * 1000, "9" * 5000,
)  # fmt: skip
CONTENTS = (
    b"", b"\0", b"null", b"[]", b"{}", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"9" * 10_000,
    b'{"members": 2}', b"\x80\x04cos\nsystem\n(S'touch executed'\ntR.", b"PAR1" * 9, b"\x89HDF\r\n\x1a\n" * 9,
    b"\xff" * 8, (10**12).to_bytes(8, "little") + b"{}",
)  # fmt: skip


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Every place in a piece of JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(one for key, part in inner for one in places(part, (*path, key)))]


def change_json(rng: random.Random, value: Any) -> Any:
    """The JSON with something else at a place, or nothing there."""
    *above, last = rng.choice(places(value)[1:])
    inner = value
    for key in above:
        inner = inner[key]
    if isinstance(inner, dict) and rng.random() < 0.3:
        del inner[last]
    else:
        inner[last] = rng.choice(NONSENSE)
    return value


def edit_record(rng: random.Random, run: Path) -> None:
    record = change_json(rng, json.loads((run / "run.json").read_text()))
    (run / "run.json").write_text(json.dumps(record))


def edit_old_record(rng: random.Random, run: Path) -> None:
    edited(run, lambda record: change_json(rng, record))


def edit_old_split(rng: random.Random, run: Path) -> None:
    edited(run)
    split = change_json(rng, json.loads((run / "split.json").read_text()))
    (run / "split.json").write_text(json.dumps(split))


def change_bytes(rng: random.Random, run: Path) -> None:
    if rng.random() < 0.5:
        edited(run)  # nothing but the reader of the file is left to tell
    file = run / rng.choice(FILES)
    content = bytearray(file.read_bytes())
    for _ in range(rng.choice((1, 10, 100))):
        content[rng.randrange(len(content))] = rng.randrange(256)
    file.write_bytes(content[: rng.choice((len(content), rng.randrange(len(content))))])


def replace_content(rng: random.Random, run: Path) -> None:
    if rng.random() < 0.5:
        edited(run)
    (run / rng.choice((*FILES, "ensemble.json"))).write_bytes(rng.choice(CONTENTS))


def replace_file(rng: random.Random, run: Path) -> None:
    if rng.random() < 0.5:
        edited(run)
    file = run / rng.choice(FILES)
    file.unlink()
    how = rng.randrange(6)
    if how == 0:
        file.mkdir()
    elif how == 1:
        os.mkfifo(file)
    elif how == 2:
        file.symlink_to(file)
    elif how == 3:
        file.symlink_to("/dev/zero")
    elif how == 4:
        shutil.copy(run / rng.choice([name for name in FILES if name != file.name]), file)


def is_sealed(record: Path) -> bool:
    """Whether a record says what the files were."""
    return record.is_file() and b'"digest"' in record.read_bytes()


MUTATIONS: tuple[Callable[[random.Random, Path], None], ...] = (
    edit_record, edit_old_record, edit_old_split, change_bytes, replace_content, replace_file,
)  # fmt: skip


@pytest.mark.parametrize("seeds", [range(100), pytest.param(range(100, 1100), marks=pytest.mark.slow)])
def test_a_mutated_run_is_refused_in_one_sentence_or_is_what_it_was(
    seeds: range, run: Path, posteriors: list[cv.Posterior], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in seeds:
        rng, mutated = random.Random(seed), tmp_path / f"seed_{seed}"
        shutil.copytree(run, mutated)
        change = rng.choice(MUTATIONS)
        change(rng, mutated)
        sealed = is_sealed(mutated / "run.json")
        started = time.perf_counter()
        said = f"seed {seed}, {change.__name__}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = cv.load(mutated)
            except (RunError, ModelError) as error:
                assert "\n" not in str(error), said
            else:
                assert all(value.isfinite().all() for value in weights(found).values()), said
                if sealed:
                    assert equal(found, posteriors[0]), said
        assert time.perf_counter() - started < 10, said
        assert not (tmp_path / "executed").exists(), said
        shutil.rmtree(mutated)
