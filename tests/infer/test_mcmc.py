"""Markov chain Monte Carlo against exact posteriors, and the guides against it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType
from typing import final

import jaxtyping
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from known_decoder import LOADING, KnownDecoder, small_screen
from pyro import poutine
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.analysis.criticism.importance_sampling import pareto_k
from pyro_citevae.errors import CiteVAEError, CiteVAEWarning
from pyro_citevae.guides import BackwardSmoother, Flow, MeanField
from pyro_citevae.models import CiteVAE, Switching

SHORT = {"draws": 5, "warmup": 5, "max_tree_depth": 3, "progress": False}


@contextmanager
def compiled() -> Iterator[dict[str, bool]]:
    """Compiled, with the checks of shapes off: while torch.jit traces a program, sizes are tensors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield {"jit": True, "progress": False}
    jaxtyping.config.update("jaxtyping_disable", False)


@final
class Conjugate(cv.LatentDynamics):
    """a ~ N(0, 1), z_t ~ N(0.6 z_{t-1} + u_t a, 0.3), x_t ~ N(C z_t, 0.5): all sites are jointly normal."""

    dims = MappingProxyType({"a": ("token", "program")})

    def __init__(self, schema: cv.Schema) -> None:
        super().__init__(schema, n_programs=2)
        self.C = torch.nn.Parameter(torch.tensor(LOADING))

    def mechanism(self) -> cv.Mechanism:
        return cv.Mechanism(a=pyro.sample("a", dist.Normal(torch.zeros(2, 2), 1.0).to_event(2)))

    def initial(self, mechanism: cv.Mechanism) -> cv.program.Distribution:
        return dist.Normal(torch.zeros(2), 1.0).to_event(1)

    def transition(self, mechanism: cv.Mechanism, history: list, u: torch.Tensor) -> cv.program.Distribution:
        return dist.Normal(0.6 * history[-1] + u @ mechanism.a, 0.3).to_event(1)

    def emission(
        self, mechanism: cv.Mechanism, z: torch.Tensor, s: torch.Tensor, library: torch.Tensor
    ) -> cv.program.Distribution:
        return dist.Normal(z @ self.C.T, 0.5).to_event(1)


def screen(n_cells: int = 12, **options: object) -> cv.Trajectories:
    sizes = {"n_cells": n_cells, "n_genes": 5, "n_perturbations": 2, "n_steps": 2}
    return simulated(**{**sizes, "design": "sequences", "values": "real", **options})


def exact(model: cv.LatentDynamics, data: cv.Trajectories) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Mean and sd of every site, of which the log density is a quadratic: one Newton step finds its peak.

    States after a cell's last observation are masked, so they are NaN.
    """
    shapes = {"a": (2, 2)} | {f"z_{t}": (data.n_cells, 2) for t in range(3)}
    sizes = [int(np.prod(shape)) for shape in shapes.values()]

    def split(flat: torch.Tensor) -> dict[str, torch.Tensor]:
        parts = flat.split(sizes)
        return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

    def density(flat: torch.Tensor) -> torch.Tensor:
        return poutine.trace(poutine.condition(model, split(flat))).get_trace(data.batch()).log_prob_sum()

    start = torch.zeros(sum(sizes))
    slope = torch.autograd.functional.jacobian(density, start).double()
    precision = -torch.autograd.functional.hessian(density, start).double()
    scored = precision.diagonal() > 0
    covariance = torch.linalg.inv(precision[scored][:, scored])
    mean, sd = torch.full((2, sum(sizes)), torch.nan, dtype=torch.double)
    mean[scored], sd[scored] = covariance @ slope[scored], covariance.diagonal().sqrt()
    return {name: (split(mean)[name].numpy(), split(sd)[name].numpy()) for name in shapes}


@pytest.fixture(scope="module")
def gappy() -> cv.Trajectories:
    """Six cells, of which the last two were not seen after step 1."""
    data = screen(n_cells=6)
    return data.rows((data.row_step == 1) | (data.row_cell < 4))


@pytest.fixture(scope="module")
def sampled(gappy: cv.Trajectories) -> xr.DataTree:
    with compiled() as options:
        return cv.nuts(Conjugate(gappy.schema), gappy, draws=400, warmup=200, **options)


def test_an_exactly_known_posterior_is_recovered(sampled: xr.DataTree, gappy: cv.Trajectories) -> None:
    truth = exact(Conjugate(gappy.schema), gappy)
    drawn = {"a": sampled["posterior"]["a"]}
    drawn |= {f"z_{t}": sampled["posterior"]["z"].isel(time=t) for t in range(3)}
    off = {name: (drawn[name].mean(("chain", "draw")) - mean) / sd for name, (mean, sd) in truth.items()}
    ratio = {name: drawn[name].std(("chain", "draw")) / sd for name, (_, sd) in truth.items()}
    # some 250 effective draws: a mean is off by 0.06 sd, a sd by 5 %; the bands are five times as wide
    assert all(abs(value).max() < 0.3 for value in off.values())
    assert all(abs(value - 1).max() < 0.25 for value in ratio.values())
    assert int(off["z_2"].isnull().sum()) == 4
    assert not sampled["sample_stats"]["diverging"].any()


def test_states_after_the_last_observation_follow_the_transition(
    sampled: xr.DataTree, gappy: cv.Trajectories
) -> None:
    z, a = sampled["posterior"]["z"], sampled["posterior"]["a"].drop_vars("token")
    u = xr.DataArray(gappy.batch().u[2].numpy(), dims=("trajectory", "token"))
    step = z.isel(time=2) - 0.6 * z.isel(time=1) - xr.dot(u, a, dim="token")
    unseen = step.isel(trajectory=slice(4, None))
    assert float(unseen.std()) == pytest.approx(0.3, rel=0.1)
    assert abs(float(unseen.mean())) < 0.05


def test_the_draws_are_labelled_as_those_of_a_fit() -> None:
    data = screen(layout="time course", values="counts")
    model = CiteVAE(data.schema, n_programs=2, n_invariant=1, hidden=4)
    tree = cv.nuts(model, data, chains=2, **SHORT)
    fitted = cv.fit(model, MeanField(model, hidden=4), data, max_epochs=1, progress=False)
    expected = fitted.to_datatree(data, draws=5)
    ours, theirs = tree["posterior"], expected["posterior"]
    assert set(ours.data_vars) == set(theirs.data_vars)
    for name in ours.data_vars:
        assert ours[name].dims == theirs[name].dims
        assert ours[name].isel(chain=0).shape == theirs[name].isel(chain=0).shape
    for name in ("cell", "time", "program", "token", "gene"):
        assert ours.indexes[name].equals(theirs.indexes[name])
    assert ours.sizes["chain"] == 2
    assert not np.array_equal(ours["a"][0], ours["a"][1])
    assert tree["observed_data"].equals(expected["observed_data"])
    assert {"diverging", "lp", "step_size"} == set(tree["sample_stats"].data_vars)


def test_the_same_seed_gives_the_same_draws_and_leaves_the_model_alone() -> None:
    data = screen()
    model = Conjugate(data.schema)
    one, two, other = (
        cv.nuts(model, data, seed=seed, **SHORT)["posterior"].to_dataset() for seed in (0, 0, 1)
    )
    assert one.equals(two)
    assert not one.equals(other)
    assert model.C.requires_grad


def test_a_long_run_is_told_before_it_starts() -> None:
    data = screen()
    with pytest.warns(CiteVAEWarning, match="nuts\\(\\) of 12 cells takes about .* hours for 10 draws"):
        cv.nuts(Conjugate(data.schema), data, **SHORT, long=0.0)


BAD = [
    (lambda data: cv.nuts(Switching(data.schema), data), "nuts\\(Switching\\) has discrete sites"),
    (lambda data: cv.nuts(Conjugate(screen(n_genes=6).schema), data), "has another schema than the model"),
    (lambda data: cv.nuts(Conjugate(data.schema), data, draws=0), "nuts\\(draws=0\\) must be 1 or more"),
    (lambda data: cv.nuts(Conjugate(data.schema), data, chains=0), "nuts\\(chains=0\\) must be 1 or more"),
    (lambda data: cv.nuts(Conjugate(data.schema), data.rows(data.row_step > 9)), "has no cell"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD)
def test_what_cannot_be_sampled_is_refused(call: object, message: str) -> None:
    with pytest.raises(CiteVAEError, match=message):
        call(screen())


# the guides against the sampler


FIT = {"batch_size": 60, "learning_rate": 0.01, "kl_start": 1.0, "validation": 0.0, "progress": False}


def compared(
    posterior: cv.Posterior, sampled: xr.Dataset, data: cv.Trajectories
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of the means of the global values in sampled sd, and ratio of the sd, of W and a."""
    drawn = posterior.to_datatree(draws=4000)["posterior"]
    off, ratio = [], []
    for name in ("W", "a"):
        sd = sampled[name].std(("chain", "draw"))
        off.append((drawn[name].mean(("chain", "draw")) - sampled[name].mean(("chain", "draw"))) / sd)
        ratio.append(drawn[name].std(("chain", "draw")) / sd)
    return np.concatenate([one.values.ravel() for one in off]), np.concatenate(
        [one.values.ravel() for one in ratio]
    )


@pytest.mark.slow
def test_the_flow_guide_agrees_with_the_sampler_and_a_narrow_one_is_told() -> None:
    data = small_screen()
    model = KnownDecoder(data.schema)
    with compiled() as options:
        tree = cv.nuts(model, data, draws=800, warmup=400, **options)
    sampled = tree["posterior"].to_dataset()

    flow = cv.fit(model, Flow(model, hidden=32), data, max_epochs=2000, n_particles=8, **FIT)
    off, ratio = compared(flow, sampled, data)
    assert abs(off).max() < 0.2
    assert ratio.min() > 0.6
    assert ratio.max() < 1.4

    narrow = cv.fit(model, MeanField(model, hidden=32), data, max_epochs=600, n_particles=16, **FIT)
    assert compared(narrow, sampled, data)[1].max() < 0.7
    smoother = cv.fit(model, BackwardSmoother(model, hidden=32), data, max_epochs=600, n_particles=16, **FIT)
    assert compared(smoother, sampled, data)[1].max() < 0.7

    weights = {guide: pareto_k(fit, data, draws=1000, mechanism=False) for guide, fit in
               (("flow", flow), ("narrow", narrow))}  # fmt: skip
    assert weights["narrow"]["states"].max() > 0.7 > weights["flow"]["states"].max()
    spread = {guide: float(pareto_k(fit, data, particles=32)["log_weight_sd"]) for guide, fit in
              (("flow", flow), ("narrow", narrow), ("smoother", smoother))}  # fmt: skip
    assert spread["narrow"] > 1.0 > spread["flow"]
    assert spread["smoother"] > 1.0
