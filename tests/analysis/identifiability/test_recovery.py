"""Recovery of a known truth: the matching, the scores, and what the data license."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch

import pyro_citevae as cv
from pyro_citevae.analysis import match, recovery
from pyro_citevae.errors import ModelError
from pyro_citevae.guides import BackwardSmoother, KalmanSmoother, MeanField
from pyro_citevae.models import CiteVAE, StaticShift


def screen(layout: str, **options: object) -> cv.data.simulate.Simulation:
    return cv.simulate(
        **{
            "n_cells": 120,
            "n_genes": 60,
            "n_programs": 5,
            "n_perturbations": 10,
            "n_lags": 2,
            "n_steps": 4,
            "layout": layout,
            "edge_share": 0.2,
            "edge_weight": (0.3, 0.6),
            "saturating": True,
            "decay": 0.2,
            "library": 3e3,
            "dispersion": 20.0,
            **options,
        }
    )


def known(simulation: cv.data.simulate.Simulation) -> CiteVAE:
    """The program that made the data, with its emission and its noise; graph and shifts are to be found."""
    truth = simulation.truth
    L, K, _ = truth.W.shape
    switches = {
        "own_transcript": False,
        "direct": False,
        "group": False,
        "hidden": 0,
        "n_invariant": 0,
        "edges": False,
    }
    model = CiteVAE(
        simulation.data.schema, n_programs=K, n_lags=L, decay=truth.decay, shift_scale=1.0, **switches
    )
    with torch.no_grad():
        model.decoder.map.linear.weight.copy_(torch.tensor(truth.loading.T))
        model.decoder.map.linear.bias.copy_(torch.tensor(truth.intercept))
        model.likelihood.log_theta.fill_(math.log(20.0))
        model.sigma = torch.full((K,), truth.sigma)
    return model


APART = partial(BackwardSmoother, mechanism="low_rank")
TOGETHER = partial(KalmanSmoother, mechanism="full_rank")  # the states move with the mechanism


def fitted(
    simulation: cv.data.simulate.Simulation,
    epochs: int,
    guide: Callable[[CiteVAE], cv.AmortizedGuide] = APART,
) -> cv.Posterior:
    model = known(simulation)
    return cv.fit(
        model,
        guide(model),
        simulation.data,
        learn_model=False,
        warm_start=True,
        max_epochs=epochs,
        learning_rate=0.01,
        batch_size=simulation.data.n_cells,
        kl_start=1.0,
        validation=0.0,
        progress=False,
    )


def test_order_sign_and_scale_are_undone_by_the_matching() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(size=(500, 4))
    order, scale = np.array([2, 0, 3, 1]), np.array([1.5, -2.0, 0.3, -1.0])
    mixed = np.empty_like(true)
    mixed[:, order] = true * scale + 3.0
    found = match(mixed, true)
    assert (found.order == order).all()
    np.testing.assert_allclose(found.scale, scale)
    np.testing.assert_allclose(abs(found.correlation), 1.0)


def test_unrelated_states_have_no_correlation() -> None:
    rng = np.random.default_rng(1)
    found = match(rng.normal(size=(5000, 3)), rng.normal(size=(5000, 3)))
    assert abs(found.correlation).max() < 4 / np.sqrt(5000)
    assert sorted(found.order) == [0, 1, 2]


class Told(MeanField):  # type: ignore[misc]
    """A guide that was told the states."""

    def states(self, batch, summary, s, drawn) -> None:  # type: ignore[no-untyped-def]
        for t, z in enumerate(self.told):
            self.state(t, dist.Normal(z[batch.index], 1e-3).to_event(1), batch)


def test_a_guide_that_was_told_the_truth_scores_its_optimum() -> None:
    """The programs told in another order, sign and scale: every score is invariant to all three."""
    simulation = screen("sequences", n_cells=30)
    truth = simulation.truth
    model = CiteVAE(
        simulation.data.schema, n_programs=5, n_lags=2, edges=False, n_invariant=0, decay=truth.decay
    )
    guide = Told(model, hidden=4)
    order, scale = np.array([3, 1, 4, 0, 2]), np.array([2.0, -1.0, 0.5, -3.0, 1.0])
    z = np.empty_like(truth.z)
    z[..., order] = truth.z * scale
    guide.told = torch.tensor(z, dtype=torch.float32)
    W, a = np.empty_like(truth.W), np.empty_like(truth.a)
    W[:, order[:, None], order] = truth.W * scale[:, None] / scale
    a[:, order] = truth.a * scale
    with torch.no_grad():
        for name, value in (("W", W), ("a", a)):
            getattr(guide.globals.independent.locs, name).copy_(torch.tensor(value))
            setattr(guide.globals.independent.scales, name, torch.full(value.shape, 1e-3))
    posterior = cv.Posterior(model, guide, pd.DataFrame(), {})
    found = recovery(posterior, simulation)
    np.testing.assert_allclose(found["correlation"], 1.0, atol=1e-4)
    assert found["edge_auroc"] == 1.0
    assert found["shift_correlation"] == pytest.approx(1.0, abs=1e-3)
    assert (found["coverage"] > 0.5).all()  # the draws are centred on the truth
    assert (found["contraction"] > 0.99).all()
    assert found.attrs["report"].startswith("The lag graph is recovered")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_sequences_tell_the_graph_and_the_shifts(seed: int) -> None:
    simulation = screen("sequences", seed=seed, n_cells=300, n_genes=40, library=2e3)
    found = recovery(fitted(simulation, 500, TOGETHER), simulation)
    assert found["edge_auroc"] >= 0.95
    assert found["shift_correlation"] >= 0.95
    # 100 values each, some of them told by the same cells: a share near 0.8 has a standard error of 0.05
    assert 0.7 - 0.05 < found["coverage"].mean() < 0.9 + 0.05


def test_one_snapshot_does_not_tell_the_graph_and_the_report_says_why() -> None:
    simulation = screen("snapshot", n_cells=300)
    found = recovery(fitted(simulation, 150), simulation)
    assert found["edge_auroc"] < 0.85
    assert "not recovered" in found.attrs["report"]
    assert "every cell is seen once, at one step" in found.attrs["report"]


def test_a_model_without_a_lag_graph_has_nothing_to_recover() -> None:
    simulation = screen("sequences", n_cells=20)
    model = StaticShift(simulation.data.schema, n_programs=5, hidden=4)
    posterior = cv.Posterior(model, MeanField(model, hidden=4), pd.DataFrame(), {})
    with pytest.raises(
        ModelError, match=r"needs sites a, and W of shape \(2, 5, 5\); fit CiteVAE with n_programs=5"
    ):
        recovery(posterior, simulation)
