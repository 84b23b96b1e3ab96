"""The benchmark of speed runs: its parts are what they say, and every row can be measured at tiny sizes."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path

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
    with pytest.raises(ValueError, match="60 cells are too few for 60 perturbations"):
        write_screen(tmp_path / "none.h5ad", 60, 20, n_perturbations=60)


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
    predict_citevae.main([file, "--cells", "5", "--draws", "3"])
    predicted = json.loads(capsys.readouterr().out)
    assert predicted["rows"] == 10
    assert predicted["peak_gib"] >= predicted["before_gib"]


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


def test_start_up_and_predictions_are_measured_in_processes_of_their_own(tmp_path: Path) -> None:
    import prediction
    import start_up
    from case import Result

    for case in [*start_up.cases(True, tmp_path), *prediction.cases(True, tmp_path)]:
        found = Result.of_case(case, {})
        assert found.ratio is not None, found.note
        assert found.ratio > 0
        assert (found.passed is None) == (found.target == "printed")
    assert "layers mean, sd, q05, q95" in found.note


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
    assert len(results) == 18
    for one in results:
        assert one["ratio"] is not None or one["note"].startswith("not measured: ")
    measured = {one["row"] for one in results if one["ratio"] is not None}
    assert measured >= {"likelihood", "training step", "growth", "prediction"}
