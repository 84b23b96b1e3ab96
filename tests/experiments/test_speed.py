"""The benchmark of speed runs: its parts are what they say, and every row can be measured at tiny sizes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

import pyro_citevae as cv

SPEED = Path(__file__).parents[2] / "experiments/speed"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SPEED))


@pytest.mark.parametrize("layout", ["snapshot", "time course"])
def test_the_step_written_by_hand_has_the_bound_of_the_programs(layout: str) -> None:
    """The same weights and draws give the same evidence lower bound, to rounding, term by term or in Pyro."""
    from plain_torch import PlainStep, program

    data = cv.simulate(
        n_cells=60, n_genes=20, n_perturbations=3, n_steps=3, design=layout, combinations=("gene_0+gene_1",)
    ).data
    model, guide = program(data.schema, hidden=8)
    posterior = cv.fit(model, guide, data, max_epochs=3, batch_size=20, learning_rate=0.02, progress=False)
    step = PlainStep(posterior.model, posterior.guide)
    for seed in range(3):
        torch.manual_seed(seed)
        by_hand = -step(data.batch()).item() / data.n_cells
        assert by_hand == pytest.approx(posterior.bound(data, particles=1, seed=seed), rel=1e-5)


def test_training_by_hand_takes_the_trainers_steps() -> None:
    """From the same weights to bounds that are alike; minibatches and draws are others."""
    from plain_torch import PlainStep, program, train

    data = cv.simulate(n_cells=200, n_genes=20, n_perturbations=3, n_steps=2, design="snapshot").data
    model, guide = program(data.schema, hidden=8)
    start = PlainStep(model, guide)
    first = start(data.batch()).item()
    train(start, data, batch_size=50, max_epochs=20)
    posterior = cv.fit(model, guide, data, batch_size=50, max_epochs=20, validation=0.0, progress=False)
    gained = (first - start(data.batch()).item()) / data.n_cells
    pyros = first / data.n_cells + posterior.bound(data)
    assert gained > 1
    assert gained == pytest.approx(pyros, rel=0.1)


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_a_simulated_screen_is_written_in_chunks_and_read_whole(tmp_path: Path, kind: str) -> None:
    import screen_file

    whole = tmp_path / f"whole.{kind}"
    screen_file.write_screen(whole, 90, 50, n_perturbations=3)
    adata = anndata.read_zarr(whole) if kind == "zarr" else anndata.read_h5ad(whole)
    path = screen_file.screen_file(tmp_path, 90, 50, kind=kind, n_perturbations=3, chunk=20)
    parts = anndata.read_zarr(path) if kind == "zarr" else anndata.read_h5ad(path)
    assert parts.shape == (90, 50)
    assert parts.obs["perturbation"].equals(adata.obs["perturbation"])
    assert 0.3 < (parts.obs["perturbation"] == "control").mean() < 0.7
    assert 0.05 < parts.X.nnz / (90 * 50) < 0.25
    assert (np.asarray(parts.X[80:].sum(1)) > 0).all(), "the last chunk is empty"
    assert cv.Trajectories.from_anndata(parts, perturbation="perturbation").n_cells == 90
    written = path.stat().st_mtime_ns
    assert screen_file.screen_file(tmp_path, 90, 50, kind=kind, n_perturbations=3) == path
    assert path.stat().st_mtime_ns == written
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([path.name, whole.name])


def test_every_perturbation_of_a_simulated_screen_has_a_cell(tmp_path: Path) -> None:
    """Also where there are more of them than genes, and nearly as many as cells."""
    from screen_file import write_screen

    file = tmp_path / "many.h5ad"
    write_screen(file, 60, 20, n_perturbations=40, chunk=7)
    data = cv.Trajectories.from_anndata(anndata.read_h5ad(file), perturbation="perturbation")
    assert data.schema.n_tokens == 40
    assert data.schema.n_genes == 20
    assert data.seen.all()


def test_a_perturbation_changes_few_genes_and_its_own_one() -> None:
    from screen_file import _TARGETS, _Shares

    shares = _Shares(500, 600, np.random.default_rng(0))
    one, other, unmeasured = (np.diff(shares.cumulative(c), prepend=0.0) for c in (0, 3, 600))
    assert one.sum() == pytest.approx(1.0)
    changed = np.log(other / one)
    assert changed[2] < -1
    for law in (other, unmeasured):
        moved = np.log(law / one) - np.median(np.log(law / one))
        assert 0 < (np.abs(moved) > 1e-6).sum() <= _TARGETS + 1


def test_scripts_of_a_process_answer_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import first_steps
    import predict_citevae
    import train_citevae
    from screen_file import screen_file

    file = str(screen_file(tmp_path, 40, 20, n_perturbations=2))
    train_citevae.main([file, "--epochs", "2", "--batch-size", "16", "--hidden", "4"])
    trained = json.loads(capsys.readouterr().out)
    assert trained["cells_per_second"] > 0
    assert trained["peak_gib"] > 0.1
    train_citevae.main([file, "--steps", "4", "--epochs", "99", "--batch-size", "16", "--hidden", "4"])
    assert json.loads(capsys.readouterr().out)["cells_per_second"] > 0
    predict_citevae.main([file, "--cells", "5", "--draws", "3", "--perturbations", "1"])
    assert json.loads(capsys.readouterr().out)["rows"] == 5
    predict_citevae.main([file, "--cells", "5", "--draws", "3"])
    predicted = json.loads(capsys.readouterr().out)
    assert predicted["rows"] == 10
    assert predicted["peak_gib"] >= predicted["before_gib"]
    first_steps.main([file, "--batch-size", "16"])
    assert json.loads(capsys.readouterr().out)["steps"] == 3


def test_rows_are_measured_written_and_not_measured_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import run
    from case import Result

    given = ["--quick", "-o", str(tmp_path / "out"), "--work", str(tmp_path), "--rows"]
    assert run.main([*given, "likelihood", "step"]) == 0
    assert run.main([*given, "growth"]) == 0
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert [one["row"] for one in results] == ["likelihood", "training step"] + 6 * ["growth"]
    for one in results:
        assert one["low"] <= one["ratio"] <= one["high"]
        assert one["rounds"] >= 1
        assert one["machine"]["OMP_NUM_THREADS"] == os.environ.get("OMP_NUM_THREADS", "not set")
        assert one["machine"]["torch"] == version("torch")
    frame = pd.read_parquet(tmp_path / "out/results.parquet")
    assert (frame["score"] == "ratio").all()
    assert frame["value"].tolist() == [one["ratio"] for one in results]
    table = (tmp_path / "out/results.md").read_text()
    assert table.count("| growth |") == 6
    assert table.count("load average") == 3

    def again(*_: object) -> None:
        raise AssertionError("measured twice")

    monkeypatch.setattr(Result, "of_case", again)
    assert run.main([*given, "likelihood", "step", "growth"]) == 0
    assert "torch's time over ours" in capsys.readouterr().out


def test_rows_of_another_target_go_and_measured_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without a GPU does not overwrite what one with a GPU has measured."""
    import machine
    import run
    from case import Case, Measured, Result, Target, UnavailableError

    def absent() -> Measured:
        raise UnavailableError("no device")

    def measured() -> Measured:
        return Measured([3.0], "there")

    cases = [Case("GPU", "fit", Target("of", "at least", 2.5), measured)]
    monkeypatch.setattr(run, "ROWS", {"gpu": lambda quick, work: cases})
    given = ["--rows", "gpu", "-o", str(tmp_path)]
    old = Result.of_case(Case("GPU", "gone", Target("of"), measured), machine.described())
    run.write(tmp_path, [old])
    assert run.main(given) == 0
    assert list(run.read(tmp_path)) == [("GPU", "fit")]
    cases[0] = Case("GPU", "fit", Target("of", "at least", 2.5), absent)
    assert run.main([*given, "--again"]) == 0
    assert run.read(tmp_path)["GPU", "fit"].ratio == 3.0
    cases[0] = Case("GPU", "fit", Target("of", "at least", 4.0), absent)
    run.main(given)
    assert run.read(tmp_path)["GPU", "fit"].ratio is None


def test_the_fast_likelihood_must_be_exact_to_pass() -> None:
    from case import Case, Measured, Result, Target, UnavailableError

    def result(measured: Measured, bound: float | None = 2.0) -> Result:
        return Result.of_case(Case("row", "case", Target("of", "at least", bound), lambda: measured), {})

    assert result(Measured([2.5, 3.0, 1.0], "")).passed is True
    assert result(Measured([1.5], "")).passed is False
    assert result(Measured([2.5], "", holds=False)).passed is False
    assert result(Measured([2.5], ""), bound=None).passed is None
    assert Target("of", "at most", 1.0).reached(1.2) is False

    def absent() -> Measured:
        raise UnavailableError("no device; buy one")

    skipped = Result.of_case(Case("row", "case", Target("of"), absent), {})
    assert skipped.ratio is None
    assert skipped.passed is None
    assert "not measured: no device; buy one" in skipped.line()


def test_memory_and_time_of_a_prediction_are_of_the_same_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import prediction
    from case import Result

    asked = []

    def answered(*arguments: object) -> dict[str, object]:
        asked.append(arguments)
        return {"peak_gib": 1.0, "before_gib": 0.6, "layers_gib": 0.3, "layers": ["mean"], "seconds": 90.0}

    monkeypatch.setattr(prediction, "answer", answered)
    memory, took = (Result.of_case(case, {}) for case in prediction.cases(True, tmp_path))
    assert len(asked) == 1
    assert (memory.ratio, memory.passed) == (0.5, True)
    assert (took.ratio, took.passed) == (1.5, False)
    assert took.note == "1.00 GiB, of which 0.60 before the call and 0.30 in the layers mean; 90 s"


def test_a_process_that_does_not_start_is_not_measured(tmp_path: Path) -> None:
    import start_up
    from case import UnavailableError

    assert [case.target.bound for case in start_up.cases(True, tmp_path)] == [1.0, 1.0, None]
    assert start_up._measured(("-c", "pass"), 2.0, 1).ratios[0] < 1
    with pytest.raises(UnavailableError, match=r"ended with 1: .*no_such_module"):
        start_up._measured(("-c", "import no_such_module"), 2.0, 1)


def test_what_further_epochs_add_is_the_time_of_an_epoch(tmp_path: Path) -> None:
    from open_screen import in_memory
    from screen_file import screen_file
    from whole_fits import cells_a_second, seconds_an_epoch

    assert seconds_an_epoch(lambda epochs: 5 + 2 * epochs, 1, 4) == pytest.approx(2.0)
    data = in_memory(screen_file(tmp_path, 200, 20, n_perturbations=2))
    assert cells_a_second(data, 1, 5, hidden=4, batch_size=8) > 0


def test_what_is_measured_on_a_gpu_can_be_measured_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for kernels, of which a CPU has none."""
    import gpu
    from prediction import Sizes

    asked: list[tuple[object, ...]] = []

    def answered(*arguments: object, **_: object) -> dict[str, object]:
        asked.append(arguments)
        return {"seconds": 2.0, "steps": 8, "layers": ["mean"], "cells_per_second": 1.0, "versions": "1.4"}

    monkeypatch.setattr(gpu, "_DEVICE", "cpu")
    monkeypatch.setattr(gpu, "answer", answered)
    monkeypatch.setattr(gpu, "predicted", answered)
    monkeypatch.setattr(gpu, "peers", lambda: Path("python"))
    fit = gpu.Fit(96, 20, 16, 2)
    assert gpu._first_steps(tmp_path, (30, 20), 1).ratios == [0.2]
    assert gpu._prediction(tmp_path, Sizes(2, 5, 3, 20), 2).ratios == [0.4, 0.4]
    assert gpu._over_scvi(tmp_path, fit, 1).ratios[0] > 1
    assert asked[-1][2:] == ("--batch-size", 16, "--short", 1, "--epochs", 3, "--accelerator", "cpu")
    assert "never" in gpu._captured(tmp_path, fit).note


def test_kernels_of_a_step_are_those_that_further_epochs_add(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gpu
    from torch.autograd import DeviceType

    event = SimpleNamespace(
        device_type=DeviceType.CUDA,
        is_user_annotation=False,
        time_range=SimpleNamespace(elapsed_us=lambda: 1000.0),
    )
    trained: list[int] = []

    def fitted(data: cv.Trajectories, epochs: int, **_: object) -> float:
        trained.append(epochs * data.n_cells // 16)
        return 5 + 0.01 * trained[-1]

    @contextmanager
    def profiled(**_: object) -> Iterator[SimpleNamespace]:
        # a hundred while it is captured, and three a step
        yield SimpleNamespace(events=lambda: (100 + 3 * trained[-1]) * [event])

    monkeypatch.setattr(gpu, "fitted", fitted)
    monkeypatch.setattr(gpu, "profile", profiled)
    found = gpu._over_kernels(tmp_path, gpu.Fit(96, 20, 16, 2), 32, 1)
    assert found.ratios[0] == pytest.approx(10 / 3)
    assert found.note == "10.00 ms a step, 3.00 ms in 3 kernels and copies"


def test_a_row_that_fails_on_a_gpu_leaves_the_others_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu
    from case import Case, Measured, Result, Target

    def result(measure: object) -> Result:
        return Result.of_case(Case("GPU", "case", Target("of"), gpu._on_a_gpu(measure)), {})

    def fails() -> Measured:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert result(fails).note == "not measured: torch finds no CUDA device here"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    assert result(fails).note == "not measured: RuntimeError: out of memory"
    assert result(lambda: Measured([2.0], "fast")).note == "a card: fast"


def test_the_profile_divides_a_step_into_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import profile_step

    given = [
        "--steps",
        "3",
        "--batch-size",
        "4",
        "--genes",
        "20",
        "--work",
        str(tmp_path),
        "-o",
        str(tmp_path / "p.md"),
    ]
    profile_step.main(given)
    text = (tmp_path / "p.md").read_text()
    parts = [line.split("|") for line in text.splitlines() if line.startswith("| ") and "%" in line]
    own = [float(cells[2]) for cells in parts]
    assert len(own) == len(profile_step._PARTS) + 1
    assert min(own) > 0
    within = float(text.partition("a step; ")[2].partition(" ms within")[0])
    assert sum(own) == pytest.approx(within, abs=0.1)
    assert text in capsys.readouterr().out


@pytest.mark.slow
def test_every_row_runs_at_tiny_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows of processes of their own too; what is not here says why."""
    import run

    assert run.main(["--quick", "-o", str(tmp_path / "out"), "--work", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert len(results) == 44
    for one in results:
        assert one["ratio"] is not None or one["note"].startswith("not measured: ")
    measured = {one["row"] for one in results if one["ratio"] is not None}
    assert measured >= {
        "likelihood",
        "training step",
        "growth",
        "memory with perturbations",
        "prediction",
        "two processes",
        "start-up",
    }
    assert {one["row"] for one in results if one["note"].endswith("no CUDA device here")} <= {
        "GPU",
        "GPU over CPU",
    }
