"""What a caller has set in torch, Pyro or NumPy for the whole process changes no answer, and stays set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from screens import simulated
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

import pyro_citevae as cv
from pyro_citevae import analysis, guides, models
from pyro_citevae.conformance import check_guide, check_model
from pyro_citevae.data.pixels import Pixels
from pyro_citevae.errors import CiteVAEError, DivergenceError, FitError, HookError, ScheduleError
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.registry import GUIDES, MODELS

QUICK: dict[str, Any] = {"max_epochs": 2, "batch_size": 32, "progress": False}

BLIND = [name for name in MODELS if name != "ImageSequence"]  # which has a test of its own


@contextmanager
def double_by_default() -> Iterator[None]:
    """What a Pyro user often does first; the library has to leave it so."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


class Own(cv.LatentDynamics):
    """A user's program whose hooks write numbers out, so that torch chooses their type."""

    dims = {"W": ("program", "source"), "a": ("token", "program")}  # noqa: RUF012

    def __init__(self, schema: cv.Schema) -> None:
        super().__init__(schema, n_programs=2)
        self.turn = torch.nn.Parameter(torch.eye(2))
        self.decoder = torch.nn.Linear(2, schema.n_genes)

    def mechanism(self) -> cv.Mechanism:
        W = pyro.sample("W", dist.Normal(0.0, 0.3).expand([2, 2]).to_event(2))
        a = pyro.sample("a", dist.Normal(0.0, 1.0).expand([self.schema.n_tokens, 2]).to_event(2))
        return cv.Mechanism(W=W @ self.turn, a=a)

    def initial(self, mechanism: cv.Mechanism) -> cv.program.Distribution:
        return dist.Normal(torch.zeros(2), 1.0).to_event(1)

    def transition(
        self, mechanism: cv.Mechanism, history: list[Tensor], u: Tensor
    ) -> cv.program.Distribution:
        loc = history[-1] @ mechanism.W.mT + u @ mechanism.a
        return dist.Normal(loc, torch.full((2,), 0.3)).to_event(1)

    def emission(
        self, mechanism: cv.Mechanism, z: Tensor, s: Tensor, library: Tensor
    ) -> cv.program.Distribution:
        log_mean = library.log()[..., None] + torch.log_softmax(self.decoder(z), -1)
        return cv.counts.NegativeBinomial(log_mean, torch.ones(self.schema.n_genes)).to_event(1)


def made(data: cv.Trajectories) -> tuple[models.CiteVAE, guides.BackwardSmoother]:
    model = models.CiteVAE(data.schema, n_programs=2, n_invariant=1, hidden=4)
    return model, guides.BackwardSmoother(model, hidden=4)


def fit(data: cv.Trajectories, **settings: Any) -> cv.Posterior:
    return cv.fit(*made(data), data, **{**QUICK, **settings})


@cache
def screen() -> cv.Trajectories:
    return simulated("sequences").hold_out(perturbations=["gene_2"])[0]


@cache
def fitted(seed: int = 0) -> cv.Posterior:
    return fit(screen(), seed=seed)


def saved_and_loaded(posterior: cv.Posterior, folder: Path) -> cv.infer.Effect:
    posterior.save(folder / "run", overwrite=True)
    return cv.load(folder / "run").effect(cv.do("gene_0"), draws=3, progress=False)


CALLS: dict[str, Callable[[Path], Any]] = {
    "fit": lambda _: fit(screen()),
    "fit in bf16": lambda _: fit(screen(), precision="bf16-mixed"),
    "fit by iwae": lambda _: fit(screen(), objective="iwae", n_particles=2),
    "fit balanced": lambda _: fit(screen(), sampler="balanced"),
    "fit to batches": lambda _: fit(screen(), batches=[screen().batch()], validation=0),
    "fit and resume": lambda folder: fit(screen(), checkpoints=folder / "state", resume=True),
    "fit of one's own": lambda _: cv.fit(
        model := Own(screen().schema), guides.MeanField(model), screen(), **QUICK
    ),
    "unmix": lambda _: cv.infer.unmix(
        fit(simulated("sequences", "real", n_cells=200)),
        simulated("sequences", "real", n_cells=200),
        by="transitions",
        rounds=1,
        clamped=1,
        progress=False,
    ),
    "predict": lambda _: fitted().predict(
        cv.do("gene_0"), cells=screen().controls(), draws=3, progress=False
    ),
    "effect": lambda _: fitted().effect([cv.do("gene_0"), cv.do("gene_2")], draws=3, progress=False),
    "effect on cells": lambda _: fitted().effect(cv.do("gene_0"), cells=screen().controls(), draws=3),
    "effect as measured": lambda _: fitted().effect(cv.do("gene_0"), versus=screen(), draws=3),
    "programs": lambda _: fitted().programs(cv.do("gene_0"), draws=3),
    "rank": lambda _: fitted().rank(["gene_0", "gene_2"], draws=5, progress=False).table,
    "bound": lambda _: fitted().bound(screen(), particles=2),
    "to_datatree": lambda _: fitted().to_datatree(screen(), draws=3),
    "save and load": lambda folder: saved_and_loaded(fitted(), folder),
    "ensemble": lambda _: cv.Ensemble([fitted(), fitted(1)]).effect(cv.do("gene_0"), draws=3),
    "nuts": lambda _: cv.nuts(
        models.StaticShift(screen().schema, n_programs=2, hidden=0),
        screen().thinned(4),
        draws=4,
        warmup=4,
        max_tree_depth=3,
        progress=False,
    ),
    "simulate": lambda _: cv.simulate(n_cells=20).data.values,
    "licence": lambda _: str(analysis.licence(fitted(), screen(), draws=3)),
    "pareto_k": lambda _: analysis.pareto_k(fitted(), screen(), draws=30, particles=2),
    "held_out_bound": lambda _: analysis.held_out_bound(fitted(), screen(), particles=2),
    "predictive_check": lambda _: analysis.predictive_check(fitted(), screen(), draws=3),
    "calibration": lambda _: analysis.simulation_based_calibration(
        *made(screen()), screen(), replicates=1, draws=3, max_epochs=1, progress=False
    ),
    "latent additive": lambda _: analysis.LatentAdditive(screen(), steps=3).delta(cv.do("gene_0"), 3.0),
}


def arrays_of(found: Any) -> list[Any]:
    """The numbers in an answer, each with its type."""
    if isinstance(found, cv.Posterior):
        weights = [*found.model.state_dict().values(), *found.guide.state_dict().values()]
        return [found.history, *arrays_of([value.numpy() for value in weights])]
    if hasattr(found, "layers"):
        return [found.X.toarray(), *(np.asarray(found.layers[name]) for name in ("mean", "sd", "q05", "q95"))]
    if hasattr(found, "subtree"):
        return [value.to_numpy() for one in found.subtree for value in one.data_vars.values()]
    if hasattr(found, "data_vars"):
        return [value.to_numpy() for value in found.data_vars.values()]
    if hasattr(found, "toarray"):
        return [found.toarray()]
    return (
        found
        if isinstance(found, list)
        else [found if isinstance(found, pd.DataFrame) else np.asarray(found)]
    )


def require_equal(one: Any, other: Any) -> None:
    first, second = arrays_of(one), arrays_of(other)
    assert len(first) == len(second)
    for before, after in zip(first, second, strict=True):
        if isinstance(before, pd.DataFrame):
            pd.testing.assert_frame_equal(before, after, rtol=0, atol=0)
            continue
        assert before.dtype == after.dtype
        np.testing.assert_array_equal(before, after)


def seeded_call(name: str, folder: Path) -> Any:
    """The answer to a call; models that are handed over as they were made have equal weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CALLS[name](folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "unmix")) for name in CALLS]
)
def test_a_double_default_changes_no_answer(name: str, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    expected = seeded_call(name, tmp_path / "one")
    with double_by_default():
        found = seeded_call(name, tmp_path / "two")
    require_equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", [*BLIND, *GUIDES])
def test_weights_are_single_whatever_the_default(name: str, dtype: torch.dtype) -> None:
    values = "real" if name in ("LinearGaussian", "KalmanSmoother") else "counts"
    data = simulated("sequences", values)
    torch.set_default_dtype(dtype)
    try:
        model = MODELS.get(name, models.LinearGaussian if values == "real" else models.StaticShift)(
            data.schema
        )
        guide = GUIDES.get(name, guides.MeanField)(model)
    finally:
        torch.set_default_dtype(torch.float32)
    numbers = [*model.state_dict().values(), *guide.state_dict().values()]
    assert {value.dtype for value in numbers if value.is_floating_point()} == {torch.float32}


@pytest.mark.parametrize(("check", "kind"), [(check_model, models.CiteVAE), (check_guide, guides.MeanField)])
def test_the_laws_hold_under_a_double_default(check: Callable[[Any], Any], kind: type) -> None:
    with double_by_default():
        check(kind).require()


def test_programs_run_alone_under_a_double_default() -> None:
    data = simulated()
    model = Own(data.schema)
    guide = guides.MeanField(model, hidden=4)
    with double_by_default():
        batch = data.batch()
        drawn = pyro.poutine.trace(guide).get_trace(batch)
        walked = pyro.poutine.replay(model, trace=drawn)(batch)
    assert {walked.z[-1].dtype, walked.emission.mean.dtype, walked.mechanism.W.dtype} == {torch.float32}


# Double precision


class Noting(Own):
    """Notes the types that its transition is handed."""

    seen_types: set[torch.dtype] = set()  # noqa: RUF012

    def transition(
        self, mechanism: cv.Mechanism, history: list[Tensor], u: Tensor
    ) -> cv.program.Distribution:
        law = super().transition(mechanism, history, u)
        if self.training:
            self.seen_types |= {mechanism.W.dtype, history[-1].dtype, u.dtype, law.mean.dtype}
        return law


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_a_fit_in_double_precision_trains_in_it_and_returns_single(default: torch.dtype) -> None:
    data = simulated()
    model = Noting(data.schema)
    guide = guides.BackwardSmoother(model, hidden=4)
    torch.set_default_dtype(default)
    try:
        model.seen_types.clear()
        posterior = cv.fit(model, guide, data, precision="64-true", **QUICK)
        assert torch.get_default_dtype() == default
    finally:
        torch.set_default_dtype(torch.float32)
    assert Noting.seen_types - {torch.float32} == {torch.float64}
    weights = [*posterior.model.parameters(), *posterior.guide.parameters()]
    assert {value.dtype for value in weights} == {torch.float32}
    assert {value.dtype for value in [*model.parameters(), *guide.parameters()]} == {torch.float32}
    assert posterior.record["settings"]["precision"] == "64-true"
    assert np.isfinite(posterior.effect(cv.do("gene_0"), draws=3, progress=False)).all()


@pytest.mark.parametrize("name", BLIND)
def test_double_precision_starts_where_single_does(name: str) -> None:
    """Equal weights to begin with, and equal minibatches; only what is drawn in training differs."""
    data = simulated("sequences", "real" if name == "LinearGaussian" else "counts")
    model = MODELS[name](data.schema, n_programs=2)
    guide = guides.BackwardSmoother(model, hidden=4)
    still = {**QUICK, "learning_rate": 1e-9}
    one, two = (
        cv.fit(model, guide, data, precision=precision, **still) for precision in ("32-true", "64-true")
    )
    for name, value in one.model.state_dict().items():
        torch.testing.assert_close(two.model.state_dict()[name], value, rtol=0, atol=1e-6)
    for name, value in one.guide.state_dict().items():
        torch.testing.assert_close(two.guide.state_dict()[name], value, rtol=0, atol=1e-6)


def test_a_fit_in_double_precision_ends_near_one_in_single() -> None:
    data = simulated("sequences", "real", n_steps=2)
    model = models.LinearGaussian(data.schema, n_programs=2)
    guide = guides.BackwardSmoother(model, hidden=4)
    settings = {
        "max_epochs": 100,
        "learning_rate": 0.02,
        "n_particles": 10,
        "validation": 0,
        "progress": False,
    }
    one, two = (
        cv.fit(model, guide, data, precision=precision, **settings) for precision in ("32-true", "64-true")
    )
    assert two.bound(data, particles=50) == pytest.approx(one.bound(data, particles=50), abs=0.3)
    first, second = (
        each.effect([cv.do("gene_0"), cv.do("gene_1")], draws=50, progress=False).mean(("chain", "draw"))
        for each in (one, two)
    )
    assert np.corrcoef(first.to_numpy().ravel(), second.to_numpy().ravel())[0, 1] > 0.99


class StoppedError(Exception):
    """What interrupts a fit."""


@contextmanager
def stopped_at(step: int) -> Iterator[None]:
    """Interrupts a fit at a step of its optimiser."""
    steps = iter(range(1000))

    def stop(*_: Any) -> None:
        if next(steps) == step:
            raise StoppedError

    handle = register_optimizer_step_pre_hook(stop)
    try:
        with pytest.raises(StoppedError):
            yield
    finally:
        handle.remove()


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_double_precision_goes_on_from_a_state(default: torch.dtype, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"precision": "64-true", "max_epochs": 3}
    whole = fit(screen(), **settings)
    torch.set_default_dtype(default)
    try:
        with stopped_at(4):
            fit(screen(), checkpoints=tmp_path, **settings)
        for _ in ("goes on", "is finished"):
            require_equal(fit(screen(), checkpoints=tmp_path, resume=True, **settings), whole)
    finally:
        torch.set_default_dtype(torch.float32)


def test_images_are_trained_in_double_precision() -> None:
    data = simulated("sequences", "real", n_genes=12)
    values = Pixels(np.full((data.n_observations, 2, 2, 3), 51, np.uint8), np.arange(data.n_observations))
    data = replace(data, schema=replace(data.schema, image=(2, 2, 3)), values=values)
    model = models.ImageSequence(data.schema, n_programs=2)
    guide = guides.Framewise(model, hidden=4)
    with double_by_default():
        posterior = cv.fit(model, guide, data, precision="64-true", **QUICK)
        assert posterior.bound(data) == fit_bound(posterior, data)
        assert data.batch().x.dense.dtype == torch.float32
    assert posterior.history["training"].map(np.isfinite).all()


def fit_bound(posterior: cv.Posterior, data: cv.Trajectories) -> float:
    """The bound under the default of torch."""
    torch.set_default_dtype(torch.float32)
    try:
        return posterior.bound(data)
    finally:
        torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_of_another_precision_is_fitted_in_single(dtype: torch.dtype) -> None:
    model = Own(screen().schema).to(dtype)
    guide = guides.MeanField(model, hidden=4).to(dtype)
    posterior = cv.fit(model, guide, screen(), **QUICK)
    assert {value.dtype for value in posterior.model.parameters()} == {torch.float32}
    assert {value.dtype for value in model.parameters()} == {dtype}
    assert posterior.history["training"].map(np.isfinite).all()


# What is given back, and what else may be set


class Failing(Own):
    """Fails in its transition."""

    def transition(
        self, mechanism: cv.Mechanism, history: list[Tensor], u: Tensor
    ) -> cv.program.Distribution:
        raise RuntimeError("no transition")


class Diverging(Own):
    """Gives no number once its parameters have moved."""

    def __init__(self, schema: cv.Schema) -> None:
        super().__init__(schema)
        self.start = torch.nn.Parameter(torch.zeros(2))

    def initial(self, mechanism: cv.Mechanism) -> cv.program.Distribution:
        moved = (self.start.detach() != 0).any()
        return dist.Normal(torch.where(moved, torch.nan, self.start), 1.0).to_event(1)


def refused(kind: type[Own], data: cv.Trajectories, **settings: Any) -> None:
    model = kind(data.schema)
    cv.fit(model, guides.MeanField(model, hidden=4), data, **{**QUICK, **settings})


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: refused(Own, screen(), max_epochs=0), FitError),
        (lambda: refused(Failing, screen()), HookError),
        (lambda: refused(Failing, screen(), precision="64-true"), HookError),
        (lambda: refused(Diverging, screen()), DivergenceError),
        (lambda: refused(Diverging, screen(), precision="64-true"), DivergenceError),
        (lambda: fitted().effect(cv.do("no such gene")), ScheduleError),
        (lambda: models.CiteVAE(screen().schema, n_programs=0), CiteVAEError),
    ],
)
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_the_default_is_given_back_after_an_error(
    call: Callable[[], Any], error: type[Exception], default: torch.dtype
) -> None:
    fitted()
    torch.set_default_dtype(default)
    try:
        with pytest.raises(error) as raised:
            call()
        assert torch.get_default_dtype() == default
    finally:
        torch.set_default_dtype(torch.float32)
    if isinstance(raised.value, DivergenceError):
        assert {value.dtype for value in raised.value.last_good.model.parameters()} == {torch.float32}


def test_a_seed_sets_the_default_within_and_gives_it_back() -> None:
    with double_by_default(), seeded(0):
        assert torch.randn(1).dtype == torch.float32
        with seeded(0, torch.float64):
            assert torch.randn(1).dtype == torch.float64
        assert torch.randn(1).dtype == torch.float32


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "deterministic algorithms": deterministic,
    "NumPy raises": lambda: np.errstate(all="raise"),
    "Pyro validates": lambda: pyro.validation_enabled(True),
    "Pyro does not validate": lambda: pyro.validation_enabled(False),
}
TRIED = ("fit", "fit by iwae", "predict", "effect", "rank", "to_datatree", "nuts", "licence", "calibration")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*TRIED, "latent additive"])
@pytest.mark.parametrize("state", STATES)
def test_what_else_is_set_changes_no_answer(state: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    expected = seeded_call(name, tmp_path / "one")
    with STATES[state]():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        found = seeded_call(name, tmp_path / "two")
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
    require_equal(found, expected)
