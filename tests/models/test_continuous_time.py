"""ContinuousTime: its drift against matrix exponentials, its grid, its units and its noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from torch import Tensor

import pyro_citevae as cv
from pyro_citevae.errors import ModelError
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import ContinuousTime

K, N, P = 3, 4, 2


def schema(*ends: float, **fields: Any) -> cv.Schema:
    given = {"design": "sequences", "time_unit": "day", "times": ends, "grid": ends}
    return cv.Schema(("g0", "g1", "g2"), ("A", "B"), **(given | fields))


def model_of(one: cv.Schema, **options: Any) -> ContinuousTime:
    torch.manual_seed(0)
    return ContinuousTime(one, **({"n_programs": K, "unit": 1.0, "hidden": 4} | options)).double()


def values(scale: float = 1.0) -> cv.Mechanism:
    """Rates with a rotation, so that no program decays on its own; a small scale makes them linear."""
    generator = torch.Generator().manual_seed(1)
    W = torch.randn(K, K, generator=generator, dtype=torch.float64)
    W[0, 1], W[1, 0] = 1.5, -1.5
    a = scale * torch.randn(P, K, generator=generator, dtype=torch.float64)
    return cv.Mechanism(W=W, a=a, b=0.3 * torch.randn(P, K, generator=generator, dtype=torch.float64))


def states(scale: float = 1.0) -> Tensor:
    return scale * torch.randn(N, K, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def doses(amount: float = 1.0) -> Tensor:
    return amount * torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.5, 2.0]], dtype=torch.float64)


def step(model: ContinuousTime, t: int, mechanism: cv.Mechanism, z: Tensor, u: Tensor) -> Any:
    return model.transition(model.regime(mechanism, t, u), [z], u)


@pytest.mark.parametrize("duration", [0.3, 1.0, 4.0])
def test_a_linear_drift_is_the_matrix_exponential(duration: float) -> None:
    """Where tanh(z) = z to nine digits: z(dt) = e^{F dt} z + int e^{F s} ds u a, with F = W - decay I."""
    small = 1e-5
    mechanism, z, u = values(small), states(small), doses()
    found = step(model_of(schema(duration), solver_step=0.01), 1, mechanism, z, u).mean.detach().numpy()
    affine = np.zeros((K + 1, K + 1))
    for n in range(N):
        affine[:K, :K] = mechanism.W.numpy() - 0.05 * np.eye(K)
        affine[:K, K] = (u @ mechanism.a)[n].numpy()
        exact = (expm(affine * duration) @ [*z[n].numpy(), 1.0])[:K]
        np.testing.assert_allclose(found[n], exact, rtol=1e-6, atol=small * 1e-6)


def test_a_saturating_drift_is_that_of_an_adaptive_solver() -> None:
    mechanism, z, u = values(), states(), doses()
    found = step(model_of(schema(3.0)), 1, mechanism, z, u).mean.detach().numpy()

    def drift(_: float, one: np.ndarray, rate: np.ndarray) -> np.ndarray:
        return rate - 0.05 * one + mechanism.W.numpy() @ np.tanh(one)

    for n in range(N):
        rate = (u @ mechanism.a)[n].numpy()
        exact = solve_ivp(drift, (0, 3), z[n].numpy(), args=(rate,), rtol=1e-10, atol=1e-12).y[:, -1]
        np.testing.assert_allclose(found[n], exact, atol=1e-3)


def test_the_solver_is_of_fourth_order() -> None:
    mechanism, z, u = values(), states(), doses()
    means = [
        step(model_of(schema(2.0), solver_step=h), 1, mechanism, z, u).mean for h in (0.4, 0.2, 0.1, 0.0125)
    ]
    errors = [float((mean - means[-1]).abs().max()) for mean in means[:-1]]
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert ((orders > 3.5) & (orders < 4.7)).all()


@pytest.mark.parametrize("ends", [(0.5, 1.0, 2.0), (0.1, 0.37, 2.0)], ids=str)
def test_a_finer_grid_leads_to_the_same_mean(ends: tuple[float, ...]) -> None:
    mechanism, z, u = values(), states(), doses()
    whole = step(model_of(schema(2.0), solver_step=0.05), 1, mechanism, z, u).mean
    fine, walked = model_of(schema(*ends), solver_step=0.05), z
    for t in range(1, len(ends) + 1):
        walked = step(fine, t, mechanism, walked, u).mean
    torch.testing.assert_close(walked, whole, rtol=0, atol=1e-6)


def test_beyond_the_grid_time_goes_on_by_the_step() -> None:
    mechanism, z, u = values(), states(), doses()
    model = model_of(schema(1.0, 4.0, step=2.0))
    beyond = step(model, 3, mechanism, z, u)
    torch.testing.assert_close(beyond.mean, step(model_of(schema(2.0)), 1, mechanism, z, u).mean)


def test_the_noise_grows_as_the_root_of_time() -> None:
    mechanism, z, u = values(), states(), doses()
    model = model_of(schema(1.0, 5.0))
    short, long = (step(model, t, mechanism, z, u).stddev for t in (1, 2))
    torch.testing.assert_close(long, 2 * short)
    torch.testing.assert_close(short, model.sigma * torch.exp(u @ mechanism.b))


def test_hours_are_days_with_rates_rescaled() -> None:
    mechanism, z, u = values(), states(), doses()
    days = model_of(schema(1.0, 3.0, 3.5))
    hours = model_of(schema(24.0, 72.0, 84.0), decay=0.05 / 24, solver_step=0.25 * 24)
    with torch.no_grad():
        hours.sigma = days.sigma / 24**0.5
    rescaled = mechanism.updated(W=mechanism.W / 24, a=mechanism.a / 24)
    for t in (1, 2, 3):
        one, same = step(days, t, mechanism, z, u), step(hours, t, rescaled, z, u)
        torch.testing.assert_close(one.mean, same.mean)
        torch.testing.assert_close(one.stddev, same.stddev)


def test_the_unit_of_the_data_does_not_matter_if_none_is_given() -> None:
    data = cv.simulate(n_cells=30, n_genes=5, n_perturbations=2, times=(1, 2, 5), layout="sequences").data
    scaled = {"times": (24.0, 48.0, 120.0), "grid": (24.0, 48.0, 120.0), "step": 24.0, "time_unit": "hour"}
    in_hours = replace(data, schema=replace(data.schema, **scaled))
    bounds = []
    for one in (data, in_hours):
        model = ContinuousTime(one.schema, n_programs=2, n_invariant=0, hidden=4)
        guide = BackwardSmoother(model, hidden=4)
        fitted = cv.fit(model, guide, one, max_epochs=2, progress=False)
        bounds.append(fitted.bound(one))
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-5)


def test_a_long_interval_stays_finite() -> None:
    mechanism, z, u = values(), 100 * states(), doses(10.0)
    law = step(model_of(schema(500.0)), 1, mechanism, z, u)
    most = (mechanism.W.abs().sum(1) + (u @ mechanism.a).abs()) / 0.05 + 1
    assert (law.mean.abs() < most).all()


def test_gradients_reach_states_rates_and_doses_and_are_those_of_the_mean() -> None:
    mechanism, model = values(), model_of(schema(0.7))
    z, u = states().requires_grad_(), doses().requires_grad_()
    W, a, b = (one.clone().requires_grad_() for one in (mechanism.W, mechanism.a, mechanism.b))

    def mean_and_scale(*given: Tensor) -> tuple[Tensor, Tensor]:
        z, u, W, a, b = given
        law = step(model, 1, cv.Mechanism(W=W, a=a, b=b), z, u)
        return law.mean, law.stddev

    assert torch.autograd.gradcheck(mean_and_scale, (z, u, W, a, b))


def test_draws_go_side_by_side() -> None:
    mechanism, u = values(), doses()
    many = states()[None, None] * torch.arange(1, 6, dtype=torch.float64)[:, None, None, None]
    scale = torch.linspace(0.5, 1.5, 5, dtype=torch.float64)[:, None, None, None]
    wide = cv.Mechanism(W=mechanism.W * scale, a=mechanism.a * scale, b=mechanism.b * scale)
    model = model_of(schema(1.3))
    law = step(model, 1, wide, many, u)
    assert law.batch_shape == (5, 1, N)
    for d in range(5):
        each = cv.Mechanism(**{name: one[d, 0] for name, one in vars(wide).items()})
        alone = step(model, 1, each, many[d, 0], u)
        torch.testing.assert_close(law.mean[d, 0], alone.mean)
        torch.testing.assert_close(law.stddev[d, 0], alone.stddev)


def test_the_program_takes_durations_from_the_schema() -> None:
    """One long interval moves cells farther than one short one, by the same dose."""
    data = cv.simulate(n_cells=60, n_genes=5, n_perturbations=2, times=(1, 9), layout="sequences").data
    torch.manual_seed(0)
    model = ContinuousTime(data.schema, n_programs=2, n_invariant=0, hidden=4, unit=1.0)
    guide = BackwardSmoother(model, hidden=4)
    posterior = cv.fit(model, guide, data, max_epochs=1, progress=False)
    drift = posterior.programs([cv.do("gene_0"), cv.do()], draws=20)
    effect = abs(drift[0, :, 0] - drift[0, :, 1]).mean(("draw", "program"))
    assert effect.time.to_numpy().tolist() == [0, 1, 9]
    assert float(effect[2]) > 2 * float(effect[1]) > 0


@pytest.mark.parametrize("wrong", [{"unit": 0.0}, {"unit": -1.0}, {"solver_step": 0.0}], ids=str)
def test_times_that_are_not_positive_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ModelError, match="needs times above 0"):
        model_of(schema(1.0), **wrong)
