"""Laws, fits and predictions on a GPU agree with those on the CPU; left out where there is none."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor
from typer.testing import CliRunner

import pyro_citevae as cv
from pyro_citevae import analysis, registry
from pyro_citevae.cli import app
from pyro_citevae.conformance.pair import Case, Pair
from pyro_citevae.conformance.run import Run
from pyro_citevae.data import Batch, Simulation
from pyro_citevae.errors import DivergenceError, FitError
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.infer import drawn_rows, unmix
from pyro_citevae.infer.captured_step import CapturedStep
from pyro_citevae.models import CiteVAE
from pyro_citevae.nn.counts import CountLaw, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from pyro_citevae.nn.sparse_counts import SparseCounts

ACCELERATOR, DEVICE = "gpu", "cuda"
QUICK = {"max_epochs": 4, "batch_size": 50, "progress": False}
SIZES = {"n_cells": 200, "n_genes": 12, "n_programs": 2, "n_perturbations": 3, "n_steps": 2}
PAIRS = [
    *((name, "BackwardSmoother") for name in registry.MODELS),
    *(("StaticShift", name) for name in registry.GUIDES if name != "BackwardSmoother"),
]


def fitted(data: cv.Trajectories, **options: object) -> cv.Posterior:
    model = CiteVAE(data.schema, n_programs=2, hidden=8)
    return cv.fit(model, BackwardSmoother(model, hidden=8), data, **{**QUICK, **options})


def as_anndata(data: cv.Trajectories) -> AnnData:
    obs = pd.DataFrame({"perturbation": data.row_labels.astype(str), "time": data.row_times}, data.names)
    X = sparse.csr_matrix(data.values, dtype=np.float32)
    return AnnData(X=X, obs=obs, var=pd.DataFrame(index=list(data.schema.genes)))


def climb(posterior: cv.Posterior) -> float:
    return posterior.history["training"].iloc[-1] - posterior.history["training"].iloc[0]


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return cv.simulate(**SIZES, seed=0)


@pytest.fixture(scope="module")
def data(simulation: Simulation) -> cv.Trajectories:
    return simulation.data


@pytest.fixture(scope="module")
def on_gpu(data: cv.Trajectories) -> cv.Posterior:
    return fitted(data, accelerator=ACCELERATOR).to(ACCELERATOR)


# The same arithmetic


def value_and_gradients(kind: type[CountLaw], free: list[Tensor], x: Tensor, stored: bool) -> list[Tensor]:
    leaves = [one.detach().requires_grad_() for one in free]
    place = x.reshape(-1).nonzero()[:, 0]
    counts = SparseCounts.of(x, place, x.reshape(-1)[place]) if stored else x
    found = kind(*leaves).to_event(1).log_prob(counts)
    return [found, *torch.autograd.grad(found.sum(), leaves)]


@pytest.mark.gpu
@pytest.mark.parametrize("stored", [False, True], ids=["dense", "stored"])
@pytest.mark.parametrize(
    ("kind", "n"), [(NegativeBinomial, 2), (ZeroInflatedNegativeBinomial, 3), (Poisson, 1)]
)
def test_the_likelihood_is_that_of_the_cpu_in_double_precision(
    kind: type[CountLaw], n: int, stored: bool
) -> None:
    torch.manual_seed(0)
    free = [2 * torch.randn(64, 300), *(torch.randn(300) for _ in range(n - 1))]
    x = torch.poisson(free[0].exp() * torch.rand(64, 300))
    wanted = value_and_gradients(kind, [one.double() for one in free], x.double(), stored)
    found = value_and_gradients(kind, [one.to(DEVICE) for one in free], x.to(DEVICE), stored)
    for one, other in zip(found, wanted, strict=True):
        assert one.device.type == DEVICE
        assert (one.cpu() - other).norm() < 1e-5 * other.norm()


@pytest.mark.gpu
@pytest.mark.parametrize(("model", "guide"), PAIRS)
def test_every_density_and_the_bound_are_those_of_the_cpu(model: str, guide: str) -> None:
    made = Pair(lambda schema: registry.MODELS[model](schema, n_programs=3), registry.GUIDES[guide])
    for case in made.cases:
        there, batch = Case(case.data, *copied(case)), case.batch.to(DEVICE)
        for program, run in ((there.model, case.drawn), (there.guide, case.guided)):
            for name, density in Run(program, batch, on_device(run.values)).densities.items():
                torch.testing.assert_close(density.cpu(), run.densities[name], rtol=1e-3, atol=1e-3)
        bound = there.bound(batch, on_device(case.guided.values))
        assert bound.item() == pytest.approx(case.bound(case.batch, case.guided.values).item(), rel=1e-3)


def copied(case: Case) -> tuple[cv.LatentDynamics, cv.AmortizedGuide]:
    """The model and the guide of a case on the GPU."""
    model, guide = copy.deepcopy((case.model, case.guide))
    model.to(DEVICE)
    guide.to(DEVICE).attach(model)
    return model, guide


def on_device(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(DEVICE) for name, value in values.items()}


# Training


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_fit_on_a_gpu_reaches_the_bound_of_one_on_the_cpu(data: cv.Trajectories, precision: str) -> None:
    cpu, gpu = fitted(data), fitted(data, accelerator=ACCELERATOR, precision=precision)
    last = [one.history["training"].iloc[-1] for one in (cpu, gpu)]
    assert abs(last[0] - last[1]) < 0.2 * climb(cpu)


@pytest.mark.gpu
@pytest.mark.parametrize(("model", "guide"), PAIRS)
def test_every_program_trains_and_predicts_on_a_gpu(model: str, guide: str) -> None:
    pair = Pair(lambda schema: registry.MODELS[model](schema, n_programs=3), registry.GUIDES[guide])
    for case in pair.cases:
        options = {"max_epochs": 2, "batch_size": 16, "progress": False, "accelerator": ACCELERATOR}
        posterior = cv.fit(case.model, case.guide, case.data, **options).to(ACCELERATOR)
        assert np.isfinite(posterior.history["training"]).all()
        controls = case.data.controls()
        predicted = posterior.predict(cv.do("gene_0"), cells=controls, draws=4, progress=False)
        assert np.isfinite(predicted.layers["mean"]).all()
        assert np.isfinite(posterior.effect(cv.do("gene_0"), cells=controls, draws=4)).all()
        tree = posterior.to_datatree(case.data, draws=4)
        assert np.isfinite(tree["posterior"]["z"]).all()


@pytest.mark.gpu
def test_a_fit_on_a_gpu_goes_on(data: cv.Trajectories, tmp_path: Path) -> None:
    fitted(data, accelerator=ACCELERATOR, checkpoints=tmp_path)
    again = fitted(data, accelerator=ACCELERATOR, checkpoints=tmp_path, resume=True)
    assert len(again.history) == 4


@pytest.mark.gpu
@pytest.mark.parametrize(("first", "then"), [("cpu", ACCELERATOR), (ACCELERATOR, "cpu")])
def test_a_state_goes_on_on_another_kind_of_device(
    data: cv.Trajectories, tmp_path: Path, first: str, then: str
) -> None:
    with pytest.raises(InterruptedError):
        fitted(data, accelerator=first, checkpoints=tmp_path, batches=Interrupted(data), validation=0.0)
    whole = fitted(
        data, accelerator=then, checkpoints=tmp_path, batches=[data.batch()], validation=0.0, resume=True
    )
    assert len(whole.history) == 4


class Interrupted:
    """A minibatch an epoch, and none in the third."""

    def __init__(self, data: cv.Trajectories) -> None:
        self.data, self.epoch = data, 0

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Batch]:
        self.epoch += 1
        if self.epoch == 3:
            raise InterruptedError
        yield self.data.batch()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_counts_of_a_file_train_on_a_gpu(data: cv.Trajectories, tmp_path: Path, kind: str) -> None:
    stored = as_anndata(data)
    path = tmp_path / f"screen.{kind}"
    stored.write_h5ad(path) if kind == "h5ad" else stored.write_zarr(path)
    disk = fitted(cv.Trajectories.from_disk(path, time="time"), accelerator=ACCELERATOR)
    assert climb(disk) > 0


@pytest.mark.gpu
@pytest.mark.parametrize("sampler", ["balanced", "blocks"])
def test_every_sampler_feeds_a_gpu(data: cv.Trajectories, sampler: str) -> None:
    assert climb(fitted(data, accelerator=ACCELERATOR, sampler=sampler)) > 0


@pytest.mark.gpu
def test_several_particles_and_tighter_bounds_train_on_a_gpu(data: cv.Trajectories) -> None:
    options = {"n_particles": 3, "objective": "iwae", "accelerator": ACCELERATOR}
    assert climb(fitted(data, **options)) > 0


@pytest.mark.gpu
def test_a_fit_comes_back_to_the_cpu_and_is_saved(data: cv.Trajectories, tmp_path: Path) -> None:
    posterior = fitted(data, accelerator=ACCELERATOR)
    assert next(posterior.model.parameters()).device.type == "cpu"
    posterior.to(ACCELERATOR).save(tmp_path / "run")
    loaded = cv.load(tmp_path / "run")
    for one, other in zip(posterior.model.parameters(), loaded.model.parameters(), strict=True):
        assert torch.equal(one.cpu(), other)


def test_mixed_precision_trains_on_the_cpu(data: cv.Trajectories) -> None:
    full, mixed = fitted(data), fitted(data, precision="bf16-mixed")
    assert next(mixed.model.parameters()).dtype == torch.float32
    last = [one.history["training"].iloc[-1] for one in (full, mixed)]
    assert abs(last[0] - last[1]) < 0.2 * climb(full)


# Predictions


@pytest.mark.gpu
def test_predictions_are_those_of_the_cpu_but_for_the_draws(
    data: cv.Trajectories, on_gpu: cv.Posterior
) -> None:
    options = {"cells": data.controls(), "draws": 200, "progress": False}
    found = on_gpu.effect(cv.do("gene_0"), **options).squeeze()
    on_gpu.to("cpu")
    wanted = on_gpu.effect(cv.do("gene_0"), **options).squeeze()
    on_gpu.to(ACCELERATOR)
    apart = found.mean("draw") - wanted.mean("draw")
    error = np.sqrt((found.var("draw") + wanted.var("draw")) / 200)
    assert (abs(apart) < 5 * error + 1e-6).all()


@pytest.mark.gpu
def test_draws_on_a_gpu_follow_their_seed(data: cv.Trajectories, on_gpu: cv.Posterior) -> None:
    one, two = (on_gpu.programs(cv.do("gene_0"), cells=data.controls(), draws=5, seed=3) for _ in range(2))
    np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
def test_an_ensemble_ranks_and_is_exported_on_a_gpu(data: cv.Trajectories) -> None:
    fits = [fitted(data, accelerator=ACCELERATOR, seed=seed) for seed in range(2)]
    ensemble = cv.Ensemble(fits).to(ACCELERATOR)
    assert np.isfinite(ensemble.bound(data))
    assert len(ensemble.rank(["gene_0", "gene_1"], n_cells=20, draws=8).table) == 2
    assert ensemble.to_datatree(data, draws=4)["posterior"].sizes["chain"] == 2


@pytest.mark.gpu
def test_a_posterior_is_checked_where_it_is(simulation: Simulation, on_gpu: cv.Posterior) -> None:
    data = simulation.data
    assert np.isfinite(analysis.recovery(on_gpu, simulation, draws=8)["correlation"]).all()
    assert np.isfinite(analysis.predictive_check(on_gpu, data, draws=4)["p_value"]["mean"]).all()
    assert np.isfinite(analysis.held_out_bound(on_gpu, data, particles=4)["cell_bound"]).all()
    assert analysis.pareto_k(on_gpu, data, draws=50).sizes["cell"] == data.n_cells
    assert analysis.licence(on_gpu, data).report


@pytest.mark.gpu
def test_programs_are_unmixed_on_a_gpu() -> None:
    sizes = {**SIZES, "n_cells": 2000, "n_steps": 4}
    data = cv.simulate(**sizes, design="sequences", seed=0).data
    posterior = fitted(data, accelerator=ACCELERATOR).to(ACCELERATOR)
    unmixed = unmix(posterior, data, rounds=1, clamped=1, **QUICK, accelerator=ACCELERATOR)
    assert np.isfinite(unmixed.history["training"]).all()


@pytest.mark.gpu
def test_the_command_line_fits_predicts_and_scores_on_a_gpu(data: cv.Trajectories, tmp_path: Path) -> None:
    screen, run = tmp_path / "screen.h5ad", tmp_path / "run"
    as_anndata(data).write_h5ad(screen)
    on = ["--accelerator", ACCELERATOR]
    small = [
        "--epochs",
        "2",
        "--precision",
        "bf16-mixed",
        "--time",
        "time",
        "--hold-out",
        "time=2",
        "--quiet",
    ]
    for command in (
        ["fit", str(screen), "-o", str(run), *small, *on],
        ["predict", str(run), "-o", str(tmp_path / "made.h5ad"), "--do", "gene_0", "--draws", "4", *on],
        ["rank", str(run), "--do", "gene_0", "--draws", "4", "--cells", "10", *on],
        ["evaluate", str(run), "--draws", "4", *on],
        ["evaluate", str(run), "--licence", *on],
    ):
        done = CliRunner().invoke(app, command, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert np.isfinite(anndata.read_h5ad(tmp_path / "made.h5ad").layers["mean"]).all()


@pytest.mark.parametrize(
    ("device", "phrase"),
    [
        ("abacus", r"to\('abacus'\) names no device"),
        ("meta", r"to\('meta'\) names no device"),
        ("cuda:99", r"to\('cuda:99'\) finds .* on this machine"),
    ],
)
def test_a_device_that_is_not_there_is_named(data: cv.Trajectories, device: str, phrase: str) -> None:
    model = CiteVAE(data.schema, n_programs=2, hidden=4)
    posterior = cv.Posterior(model, BackwardSmoother(model, hidden=4), pd.DataFrame(), {})
    with pytest.raises(FitError, match=phrase):
        posterior.to(device)
    assert posterior.to("cpu") is posterior


# Recorded steps


@pytest.mark.gpu
def test_a_recorded_fit_is_the_fit_of_the_same_steps_run_one_by_one(
    data: cv.Trajectories, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draw by draw: the graph takes the random numbers that the steps would; sums round in another order."""
    recorded = fitted(data, accelerator=ACCELERATOR)
    graphs = CapturedStep._recorded
    monkeypatch.setattr(CapturedStep, "_recorded", lambda self: None)
    by_step = fitted(data, accelerator=ACCELERATOR)
    assert graphs is not CapturedStep._recorded
    columns = ["training", "gradient_norm"]
    np.testing.assert_allclose(recorded.history[columns], by_step.history[columns], rtol=1e-3)
    for name, value in by_step.model.state_dict().items():
        torch.testing.assert_close(recorded.model.state_dict()[name], value, rtol=1e-2, atol=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("name", [one for one in registry.MODELS if one != "ImageSequence"])
def test_every_shipped_model_is_recorded_or_says_why_not(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = "real" if name == "LinearGaussian" else "counts"
    screen = cv.simulate(**SIZES, values=values).data
    recorded: list[bool] = []
    graphs = CapturedStep._recorded
    monkeypatch.setattr(CapturedStep, "_recorded", lambda self: recorded.append(True) or graphs(self))
    model = registry.MODELS[name](screen.schema)
    cv.fit(model, BackwardSmoother(model), screen, accelerator=ACCELERATOR, **QUICK)
    assert bool(recorded) == (name not in ("ContinuousTime", "Switching", "LinearGaussian"))


@pytest.mark.gpu
def test_rows_of_large_tables_are_recorded(data: cv.Trajectories, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = fitted(data, accelerator=ACCELERATOR)
    monkeypatch.setattr(drawn_rows, "_MANY_OWN_VALUES", 0)
    some = fitted(data, accelerator=ACCELERATOR)
    assert abs(some.bound(data) - plain.bound(data)) < 0.1 * abs(plain.bound(data))


@pytest.mark.gpu
def test_a_recorded_fit_goes_on_from_its_state(data: cv.Trajectories, tmp_path: Path) -> None:
    whole = fitted(data, accelerator=ACCELERATOR)
    state = tmp_path / "state"

    def cut_off(self: CapturedStep, *given: object) -> None:
        if self.n_taken == 9:
            raise KeyboardInterrupt
        taken(self, *given)

    taken = CapturedStep.__call__
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(CapturedStep, "__call__", cut_off)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fitted(data, accelerator=ACCELERATOR, checkpoints=state)
    again = fitted(data, accelerator=ACCELERATOR, checkpoints=state, resume=True)
    np.testing.assert_allclose(again.history["training"], whole.history["training"], rtol=1e-3)


@pytest.mark.gpu
def test_a_recorded_step_that_is_no_number_is_told(data: cv.Trajectories) -> None:
    with pytest.raises(DivergenceError, match="lower learning_rate"):
        fitted(data, accelerator=ACCELERATOR, learning_rate=1e6, gradient_clip=1e12, max_epochs=40)
