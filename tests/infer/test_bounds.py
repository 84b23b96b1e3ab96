"""Bounds: their order, their limits, what they refuse, and how a fit that diverges says where."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.errors import DivergenceError, FitError
from pyro_citevae.guides import BackwardSmoother, MeanField
from pyro_citevae.models import CiteVAE, LinearGaussian

screen = simulated


def fitted(data: cv.Trajectories, **settings: object) -> cv.Posterior:
    torch.manual_seed(0)
    model = CiteVAE(data.schema, n_programs=2, n_invariant=1, hidden=8)
    options = {"max_epochs": 2, "batch_size": 20, "validation": 0.0, "progress": False} | settings
    return cv.fit(model, BackwardSmoother(model, hidden=8), data, **options)


@pytest.fixture(scope="module")
def posterior() -> cv.Posterior:
    return fitted(screen(), max_epochs=10)


def mean_bound(posterior: cv.Posterior, data: cv.Trajectories, **options: object) -> tuple[float, float]:
    values = [posterior.bound(data, seed=seed, **options) for seed in range(30)]
    return float(np.mean(values)), float(np.std(values) / np.sqrt(len(values)))


def test_one_draw_of_every_bound_is_the_elbo(posterior: cv.Posterior) -> None:
    data = screen()
    elbo, error = mean_bound(posterior, data, particles=1)
    for options in ({"objective": "iwae"}, {"objective": "renyi", "alpha": 0.3}):
        other, other_error = mean_bound(posterior, data, particles=1, **options)
        assert abs(elbo - other) < 5 * np.hypot(error, other_error)


def test_bounds_rise_from_the_elbo_to_the_importance_weighted_one(posterior: cv.Posterior) -> None:
    """Renyi bounds fall in their order, and the importance-weighted one rises with its draws."""
    data = screen()
    ordered = [
        mean_bound(posterior, data, particles=16, objective="elbo"),
        mean_bound(posterior, data, particles=16, objective="renyi", alpha=0.9),
        mean_bound(posterior, data, particles=16, objective="renyi", alpha=0.5),
        mean_bound(posterior, data, particles=16, objective="iwae"),
        mean_bound(posterior, data, particles=128, objective="iwae"),
    ]
    for (below, one), (above, other) in pairwise(ordered):
        assert below < above + 3 * np.hypot(one, other)
    assert ordered[0][0] < ordered[-1][0] - 5 * ordered[0][1]


def test_many_draws_reach_the_exact_evidence() -> None:
    """One observed step of a linear Gaussian model: the evidence is a Gaussian density."""
    data = screen("snapshot", "real")
    torch.manual_seed(0)
    model = LinearGaussian(data.schema, n_programs=2)
    with torch.no_grad():
        model.a.normal_()
    posterior = cv.fit(
        model,
        BackwardSmoother(model, hidden=8),
        data,
        learn_model=False,
        max_epochs=300,
        learning_rate=0.03,
        progress=False,
        validation=0.0,
    )
    with torch.no_grad():
        z_mean, z_variance = torch.zeros(data.n_cells, 2), torch.ones(2)
        batch = data.batch()
        for t in range(1, batch.n_steps + 1):
            z_mean = (1 - model.decay) * z_mean + batch.u[t] @ model.a
            z_variance = (1 - model.decay) ** 2 * z_variance + model.sigma**2
        C = model.loading.weight
        covariance = C @ torch.diag(z_variance) @ C.T + torch.diag(model.r**2)
        law = torch.distributions.MultivariateNormal(model.loading(z_mean), covariance)
        exact = float(law.log_prob(batch.x.dense[0]).mean())
    close, error = mean_bound(posterior, data, particles=2000, objective="iwae")
    elbo, _ = mean_bound(posterior, data, particles=2000)
    assert elbo < exact
    assert abs(close - exact) < 4 * error + 0.02
    assert exact - elbo > 5 * abs(close - exact)


@pytest.mark.parametrize("objective", ["iwae", "renyi"])
def test_a_fit_by_a_tighter_bound_learns(objective: str) -> None:
    data = screen()
    start = fitted(data, max_epochs=1, objective=objective, n_particles=4)
    end = fitted(data, max_epochs=20, objective=objective, n_particles=4)
    assert end.bound(data, objective="iwae") > start.bound(data, objective="iwae")
    assert end.record["settings"]["objective"] == objective


def test_a_model_that_is_not_learnt_keeps_its_parameters() -> None:
    data = screen()
    torch.manual_seed(0)
    model = CiteVAE(data.schema, n_programs=2, n_invariant=1, hidden=8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    guide = BackwardSmoother(model, hidden=8)
    posterior = cv.fit(model, guide, data, learn_model=False, max_epochs=2, progress=False, validation=0.0)
    for name, value in posterior.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.requires_grad for parameter in posterior.model.parameters())
    assert not torch.equal(
        posterior.guide.state_dict()["encoder.linear.weight"], guide.state_dict()["encoder.linear.weight"]
    )


class Blown(MeanField):  # type: ignore[misc]
    """A guide whose states become infinite in one named cell from its sixth call on."""

    calls = 0

    def states(self, batch, summary, s, drawn) -> None:  # type: ignore[no-untyped-def]
        self.calls += 1
        bad = (batch.index == 7)[:, None] & torch.tensor(self.calls > 5)
        super().states(batch, torch.where(bad, torch.inf, summary), s, drawn)


def test_a_bound_that_is_no_number_names_site_parameter_and_cells() -> None:
    data = screen()
    model = CiteVAE(data.schema, n_programs=2, n_invariant=0, hidden=8)
    with pytest.raises(
        DivergenceError, match=r"bound became nan at step \d .* site 'z_0' of Blown"
    ) as caught:
        cv.fit(model, Blown(model), data, batch_size=60, max_epochs=9, progress=False, validation=0.0)
    assert "cells cell_7;" in str(caught.value)
    assert "parameter '" in str(caught.value)


def test_the_last_good_epoch_is_kept() -> None:
    data = screen()
    with pytest.raises(DivergenceError, match="last_good") as caught:
        fitted(data, learning_rate=1e5, gradient_clip=1e9, max_epochs=5)
    good = caught.value.last_good
    assert all(torch.isfinite(value).all() for value in good.model.state_dict().values())
    assert np.isfinite(good.bound(data))


def test_a_gradient_that_is_no_number_stops_before_the_step() -> None:
    class Pole(torch.autograd.Function):
        @staticmethod
        def forward(context: object, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(context: object, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * torch.nan

    class Steep(MeanField):  # type: ignore[misc]
        def states(self, batch, summary, s, drawn) -> None:  # type: ignore[no-untyped-def]
            super().states(batch, Pole.apply(summary), s, drawn)

    data = screen()
    model = CiteVAE(data.schema, n_programs=2, n_invariant=0, hidden=8)
    with pytest.raises(
        DivergenceError, match=r"gradient became nan .* 'guide\.encoder.* gradient is not finite"
    ):
        cv.fit(model, Steep(model), data, max_epochs=1, progress=False, validation=0.0)


@pytest.mark.parametrize(
    ("settings", "phrase"),
    [
        ({"objective": "iwae"}, "needs n_particles=2"),
        ({"objective": "renyi", "n_particles": 4, "alpha": 1.0}, r"alpha=1\.0.* below 1"),
        ({"objective": "vae"}, "objective='vae'"),
    ],
)
def test_bad_objectives(settings: dict, phrase: str) -> None:
    with pytest.raises(FitError, match=phrase):
        fitted(screen(), **settings)


def test_a_minibatch_of_weights_stands_for_the_whole(posterior: cv.Posterior) -> None:
    from pyro_citevae.infer.importance import log_weights

    data = screen()
    batch = data.batch(np.arange(10))
    with torch.no_grad():
        weights = log_weights(posterior.model, posterior.guide, batch, 5)
        torch.manual_seed(0)
        small = log_weights(posterior.model, posterior.guide, batch, 5).cells
        torch.manual_seed(0)
        large = log_weights(posterior.model, posterior.guide, replace(batch, size=1000), 5).cells
    assert weights.cells.shape == (5, 10)
    assert torch.allclose(small, large, rtol=1e-5)


def test_pyros_own_predictive_runs_the_same_program(posterior: cv.Posterior) -> None:
    """Draw by draw, the guide's states and the emission they lead to; its mean is the Posterior's."""
    data = screen()
    batch = data.batch(np.arange(20))
    drawn = Predictive(posterior.model, guide=posterior.guide, num_samples=400)(replace(batch, x=batch.x))
    assert drawn["z_1"].shape[0] == 400
    unobserved = poutine.uncondition(posterior.model)
    replicated = Predictive(unobserved, guide=posterior.guide, num_samples=400)(batch)["x"]
    assert replicated.shape == (400, 1, 20, 7)
    tree = posterior.to_datatree(data.cells(np.arange(20)), draws=400)
    ours = tree["posterior_predictive"]["x"].mean(("chain", "draw")).to_numpy()
    error = replicated.std(0)[0].numpy() / np.sqrt(400)
    assert np.mean(abs(replicated.mean(0)[0].numpy() - ours) < 4 * np.sqrt(2) * error + 0.01) > 0.97
