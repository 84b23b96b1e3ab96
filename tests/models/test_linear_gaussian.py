"""LinearGaussian against two exact solutions: the joint Gaussian solved densely, and a Kalman smoother."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from exact_posterior import exact, kalman
from known_programs import known
from pyro import poutine

import pyro_citevae as cv
from pyro_citevae.guides import BackwardSmoother, Flow, ForwardFilter, KalmanSmoother, MeanField
from pyro_citevae.models import LinearGaussian

SETTINGS = {
    "max_epochs": 250,
    "batch_size": 400,
    "learning_rate": 0.05,
    "kl_start": 1.0,
    "n_particles": 10,
    "validation": 0.0,
    "progress": False,
}


LINEAR = {"hidden": 16, "correction": 0}
# the first two hold the exact posterior; the flow's networks come as near as they can
GUIDES = [
    pytest.param((BackwardSmoother, {**LINEAR, "correlated": True}), id="BackwardSmoother"),
    pytest.param((ForwardFilter, {**LINEAR, "correlated": True}), id="ForwardFilter"),
    pytest.param((Flow, {"hidden": 16}), id="Flow", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def data() -> cv.Trajectories:
    simulation = cv.simulate(
        n_cells=400, n_genes=6, n_programs=2, n_perturbations=3, n_steps=4, design="sequences", values="real"
    )
    return simulation.data


@pytest.fixture(scope="module", params=GUIDES)
def fitted(request: pytest.FixtureRequest, data: cv.Trajectories) -> cv.Posterior:
    kind, options = request.param
    model = LinearGaussian(data.schema, n_programs=2)
    return cv.fit(model, kind(model, **options), data, seed=0, **SETTINGS)


def gap(posterior: cv.Posterior, data: cv.Trajectories) -> tuple[float, float]:
    """By how much of the log evidence the bound falls short, and the standard error of that."""
    evidence = exact(posterior, data).log_evidence / data.n_cells
    bounds = np.array([posterior.bound(data, particles=20, seed=seed) for seed in range(10)])
    short = (evidence - bounds) / abs(evidence)
    return float(short.mean()), float(short.std(ddof=1) / np.sqrt(len(short)))


def moving(schema: cv.Schema) -> LinearGaussian:
    """A model away from its start, whose programs move each other and share every gene."""
    torch.manual_seed(2)
    model = LinearGaussian(schema, n_programs=2)
    with torch.no_grad():
        model.W.copy_(torch.tensor([[[0.1, 0.3], [-0.4, 0.2]]]))
        model.a.normal_()
        model.loading.weight.copy_(torch.tensor([1.0, 0.8]) + 0.3 * torch.randn(schema.n_genes, 2))
    return model


def test_two_exact_solutions_agree(data: cv.Trajectories) -> None:
    posterior = known(moving(data.schema))
    dense, recursive = exact(posterior, data), kalman(posterior, data)
    assert recursive.log_evidence == pytest.approx(dense.log_evidence, rel=1e-9)
    assert np.allclose(recursive.mean, dense.mean, atol=1e-8)
    assert np.allclose(recursive.sd, dense.sd, atol=1e-8)


def test_the_bound_stays_below_the_exact_evidence_and_comes_within_half_a_percent(
    fitted: cv.Posterior, data: cv.Trajectories
) -> None:
    short, standard_error = gap(fitted, data)
    assert -3 * standard_error < short < 0.005


def test_smoothed_means_are_within_a_twentieth_of_a_posterior_sd(
    fitted: cv.Posterior, data: cv.Trajectories
) -> None:
    truth = kalman(fitted, data)
    draws = fitted.to_datatree(data, draws=2000, most_cells=40)["posterior"]["z"]
    cells = [list(data.names).index(name) for name in draws[draws.dims[2]].to_numpy()]
    mean, sd = draws.mean(("chain", "draw")).to_numpy(), draws.std(("chain", "draw")).to_numpy()
    off = (mean - truth.mean[cells]) / truth.sd[cells]
    # 2000 draws leave a Monte Carlo error of 0.022 sd in each mean, so judge the root mean square
    assert np.sqrt((off**2).mean()) < 0.05
    assert np.allclose(sd / truth.sd[cells], 1, atol=0.1)


def test_the_family_needs_correlated_programs_and_dependent_steps(data: cv.Trajectories) -> None:
    """Given one model, a diagonal scale leaves a gap that a triangular one closes; apart, it is larger."""
    few = data.thinned(100)
    model = moving(few.schema)
    gaps = {}
    for name, guide in {
        "correlated": BackwardSmoother(model, **LINEAR, correlated=True),
        "diagonal": BackwardSmoother(model, **LINEAR),
        "apart": MeanField(model, **LINEAR),
    }.items():
        options = {**SETTINGS, "max_epochs": 120, "batch_size": 100, "learn_model": False}
        gaps[name] = gap(cv.fit(model, guide, few, seed=0, warm_start=True, **options), few)[0]
    assert 0 < gaps["correlated"] < 0.005
    assert 3 * gaps["correlated"] < gaps["diagonal"] < gaps["apart"], gaps


@pytest.mark.parametrize("layout", ["sequences", "time course", "snapshot"])
def test_the_kalman_smoother_is_exact_before_any_training(layout: str) -> None:
    """Every draw weighs as much as the evidence: nothing is left to learn, whatever was observed."""
    sizes = {"n_cells": 30, "n_genes": 6, "n_programs": 2, "n_perturbations": 3, "n_steps": 4, "seed": 5}
    few = cv.simulate(**sizes, design=layout, values="real").data
    model = moving(few.schema)
    guide, batch = KalmanSmoother(model, hidden=4, iterations=6), few.batch()
    torch.manual_seed(0)
    weights = []
    for _ in range(5):
        drawn = poutine.trace(guide).get_trace(batch)
        weighed = poutine.trace(poutine.replay(model, drawn)).get_trace(batch)
        weights.append(float((weighed.log_prob_sum() - drawn.log_prob_sum()).detach()))
    assert np.ptp(weights) < 1e-4 * abs(weights[0])
    if layout == "sequences":
        assert weights[0] == pytest.approx(kalman(known(model), few).log_evidence, rel=1e-5)
