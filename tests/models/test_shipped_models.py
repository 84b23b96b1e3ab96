"""What each model claims of itself: its switches, its mechanism and its special cases."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pyro import poutine
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.errors import DataError
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE, ContinuousTime, Instantaneous, StaticShift, Switching, TargetedLag
from pyro_citevae.models.expression import ExpressionDynamics

LAYOUTS = ("time course", "sequences", "snapshot")
MODELS = (CiteVAE, ContinuousTime, Instantaneous, StaticShift, Switching, TargetedLag)


screen = partial(simulated, n_cells=40, n_programs=3)


def sites(model: cv.LatentDynamics, data: cv.Trajectories) -> set[str]:
    """Names of the model's latent sites."""
    trace = poutine.trace(model).get_trace(data.batch())
    return set(trace.stochastic_nodes) - {"cell", "slot"}


def fitted(model: cv.LatentDynamics, data: cv.Trajectories) -> cv.Posterior:
    guide = BackwardSmoother(model, hidden=4)
    return cv.fit(model, guide, data, max_epochs=2, batch_size=20, progress=False)


def require_predictions(posterior: cv.Posterior, data: cv.Trajectories) -> None:
    cells = posterior.predict([cv.do("gene_0"), cv.do("gene_0+gene_1@2")], cells=data.controls(), draws=5)
    assert np.isfinite(cells.layers["mean"]).all()
    assert np.isfinite(posterior.effect(cv.do("gene_0"), draws=5)).all()
    assert np.isfinite(posterior.programs(cv.do("gene_0"), draws=5)).all()


# CiteVAE: every ingredient has a switch

SWITCHES = {
    "time": (False, {"A", "W", "kappa"}),
    "onset": (False, {"kappa"}),
    "edges": (False, {"A"}),
    "mask": (False, {"m"}),
    "scale": (False, {"b"}),
    "own_transcript": (False, {"c"}),
    "direct": (False, {"d"}),
    "group": (False, {"e"}),
    "n_invariant": (0, {"s"}),
    "pairs": (0, {"v", "w"}),
    "epistasis": (False, {"q"}),
}


def whole(data: cv.Trajectories, **options: object) -> CiteVAE:
    on = {name: True for name in SWITCHES if name not in ("n_invariant", "pairs")}
    settings = {**on, "n_programs": 2, "n_invariant": 1, "hidden": 4, "pairs": 2}
    return CiteVAE(data.schema, **(settings | options))


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_removes_its_sites_and_nothing_else(switch: str) -> None:
    data, (off, removed) = screen(), SWITCHES[switch]
    model = whole(data, **{switch: off})
    assert sites(whole(data), data) - sites(model, data) == removed
    assert sites(model, data) < sites(whole(data), data)
    posterior = fitted(model, data)
    assert np.isfinite(posterior.bound(data))
    require_predictions(posterior, data)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_with_every_switch_off_what_is_left_still_fits(layout: str) -> None:
    data = screen(layout)
    model = whole(data, **{switch: off for switch, (off, _) in SWITCHES.items()})
    assert sites(model, data) == {"a", *(f"z_{t}" for t in range(4))}
    require_predictions(fitted(model, data), data)


def test_a_switch_leaves_no_parameter_without_use() -> None:
    data = screen()
    for switch, (off, _) in SWITCHES.items():
        model = whole(data, **{switch: off})
        trace = poutine.trace(model).get_trace(data.batch())
        trace.log_prob_sum().backward()
        assert [name for name, one in model.named_parameters() if one.grad is None] == [], switch


def test_without_time_the_past_does_not_matter() -> None:
    data = screen()
    model = whole(data, time=False)
    u = data.batch().u[-1]
    mechanism = model.mechanism()
    history = [torch.randn(40, 2, requires_grad=True)]
    law = model.transition(mechanism, history, u)
    torch.testing.assert_close(law.mean, u @ mechanism.a)
    assert not torch.autograd.grad(law.mean.sum(), history, allow_unused=True)[0]
    remembered = whole(data)
    law = remembered.transition(remembered.regime(remembered.mechanism(), 1, u), history, u)
    assert torch.autograd.grad(law.mean.sum(), history)[0].abs().min() > 0


def test_a_token_sets_in_with_its_exposure() -> None:
    """Shift and spread in step t by hand, under doses that stop; all steps of a constant one add up to T."""
    data = screen()
    model = whole(data, scale=True, mask=False, pairs=0, epistasis=False)
    mechanism = model.mechanism()
    doses = torch.tensor([[0.0, 0.0, 0.5], [0.0, 2.0, 0.5], [0.0, 0.0, 0.5]])
    still = [torch.zeros(1, 2)]
    walked = mechanism
    for t in range(1, 4):
        u = doses[t - 1][None]
        walked = model.regime(walked, t, u)
        law = model.transition(walked, still, u).base_dist
        h = u[0] * (1 - torch.exp(-mechanism.kappa * doses[:t].sum(0))) / whole_course(mechanism.kappa)
        repeated = h.sum() - h.max()
        torch.testing.assert_close(law.loc[0], h @ mechanism.a - repeated * model.mu_a)
        torch.testing.assert_close(law.scale[0], model.sigma * torch.exp(h @ mechanism.b))
    at_once = whole(data, onset=False, mask=False, pairs=0, epistasis=False)
    law = at_once.transition(at_once.mechanism_at(drawn_sites(at_once)), still, doses[:1])
    a = drawn_sites(at_once)["a"]
    torch.testing.assert_close(law.mean[0], doses[0] @ a)


def whole_course(kappa: torch.Tensor) -> torch.Tensor:
    """Mean over the three steps of the share that a constant unit dose has set in."""
    return sum(1 - torch.exp(-kappa * t) for t in (1, 2, 3)) / 3


def test_a_groups_deviation_is_the_sum_of_its_changes() -> None:
    """Offsets of one observation at every step, beside the random walk; past the last step it stands."""
    data = screen()
    model = whole(data, direct=False, own_transcript=False, time=False)
    mechanism = model.mechanism()
    exposure = torch.zeros(1, 1, 3)
    exposure[..., 1] = 1.0
    E = torch.zeros(data.schema.n_genes)
    for t in range(1, data.schema.n_steps + 4):
        E = E + (mechanism.e[t - 1, 1] if t <= len(mechanism.e) else 0.0)
        seen = model.observation(mechanism, exposure, torch.tensor([[t]]), torch.zeros(1, dtype=torch.int64))
        torch.testing.assert_close(seen.offset[0, 0], E)


def drawn_sites(model: cv.LatentDynamics) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    trace = poutine.trace(model.mechanism).get_trace()
    return {name: site["value"] for name, site in trace.iter_stochastic_nodes()}


@pytest.mark.parametrize(("exposure", "share"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0), (5.0, 1.0)])
def test_without_time_a_direct_change_is_complete_at_once(exposure: float, share: float) -> None:
    data = screen()
    model = whole(data, time=False, group=False)
    mechanism = model.mechanism()
    given = torch.zeros(1, 40, 3)
    given[..., 1] = exposure
    technical = torch.zeros(40, dtype=torch.int64)
    seen = model.observation(mechanism, given, torch.ones(1, 40, dtype=torch.int64), technical)
    torch.testing.assert_close(
        seen.offset[0, 0], share * (mechanism.d[1] + mechanism.c[1] * (torch.arange(7) == 1))
    )


# Every model

every_model = pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)


@every_model
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_model_fits_and_predicts_on_every_layout(kind: type[cv.LatentDynamics], layout: str) -> None:
    data = screen(layout)
    posterior = fitted(kind(data.schema, n_programs=2, hidden=4), data)
    assert np.isfinite(posterior.bound(data))
    require_predictions(posterior, data)


@every_model
def test_the_axes_named_in_dims_are_those_of_the_sites(kind: type[cv.LatentDynamics]) -> None:
    data = screen()
    model = kind(
        data.schema, n_programs=4, **({} if kind in (ContinuousTime, StaticShift) else {"n_lags": 2})
    )
    sizes = {"gene": 7, "token": 3, "program": 4, "source": 4, "lag": 2, "own": 1, "step": 3}
    sizes |= {"regime": 2, "previous": 2, "edge": 6}
    trace = poutine.trace(model.eval().mechanism).get_trace()
    assert set(trace.stochastic_nodes) == set(model.dims)
    for name in trace.stochastic_nodes:
        assert tuple(sizes[dim] for dim in model.dims[name]) == trace.nodes[name]["fn"].event_shape, name


@every_model
def test_a_model_of_one_program_can_be_fitted(kind: type[cv.LatentDynamics]) -> None:
    data = screen()
    require_predictions(fitted(kind(data.schema, n_programs=1, hidden=0), data), data)


@every_model
def test_a_share_of_the_library_leaves_room_for_unmeasured_genes(kind: type[cv.LatentDynamics]) -> None:
    data = cv.datasets.load("norman_subset")
    batch = data.batch(np.arange(10))
    model = kind(data.schema, n_programs=2, hidden=4)
    with torch.no_grad():
        assert (model(batch).emission.mean.sum(-1) < batch.library).all()


@pytest.mark.parametrize("kind", [CiteVAE, ContinuousTime, Instantaneous, Switching, TargetedLag])
def test_a_technical_batch_has_an_effect_of_its_own(kind: type[cv.LatentDynamics]) -> None:
    data = cv.datasets.load("norman_subset")
    batch = data.batch(np.arange(10))
    model = kind(data.schema, n_programs=2, hidden=4)
    with torch.no_grad():
        torch.manual_seed(0)
        before = model(batch).emission.mean
        model.batch_effect[int(batch.technical[0]), 0] += 1.0
        torch.manual_seed(0)
        after = model(batch).emission.mean
    changed = (after[0, :, 0] / before[0, :, 0]) > 1.5
    assert changed.tolist() == (batch.technical == batch.technical[0]).tolist()


@every_model
@pytest.mark.parametrize("layout", LAYOUTS)
def test_steps_of_unequal_length_run_through_fit_prediction_and_storage(
    kind: type[cv.LatentDynamics], layout: str, tmp_path: Path
) -> None:
    data = screen(layout, times=(1, 2, 5, 9))
    posterior = fitted(kind(data.schema, n_programs=2, hidden=4), data)
    assert posterior.programs(cv.do("gene_0"), draws=2).time.to_numpy().tolist() == [0, 1, 2, 5, 9]
    later = posterior.predict(cv.do("gene_0"), cells=data.controls(), draws=3, time=[5, 9, 10])
    assert set(later.obs["time"]) == {5.0, 9.0, 10.0}
    posterior.save(tmp_path / "run")
    loaded = cv.load(tmp_path / "run")
    assert loaded.schema == data.schema
    assert loaded.bound(data) == posterior.bound(data)
    with pytest.raises(DataError, match="time 4 is not on the grid"):
        posterior.effect(cv.do("gene_0"), time=4)


def history_of(n_lags: int, n_cells: int, n_programs: int) -> list[torch.Tensor]:
    return [torch.randn(n_cells, n_programs, requires_grad=True) for _ in range(n_lags)]


# TargetedLag


def targeted(
    m: list[float], u: list[float], n_lags: int = 2
) -> tuple[TargetedLag, cv.Mechanism, torch.Tensor]:
    """A model of two tokens and three programs, its mechanism with token 0's mask, and one cell's dose."""
    torch.manual_seed(0)
    data = screen(n_perturbations=2)
    model = TargetedLag(data.schema, n_programs=3, n_lags=n_lags)
    values = model.mechanism()
    mask = torch.tensor([m, [0.3, 0.4, 0.5]])
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    return model, values.updated(m=mask, a=mask * a, b=mask * b), torch.tensor([u])


def influence(law: object, history: list[torch.Tensor]) -> torch.Tensor:
    """Largest absolute effect of any past state on each program's mean."""
    rows = [torch.autograd.grad(one, history, retain_graph=True) for one in law.mean[0]]
    return torch.stack([torch.stack([g.abs().max() for g in row]).max() for row in rows])


def test_a_fully_targeted_program_forgets_its_past_and_is_set_by_the_shift() -> None:
    model, values, u = targeted([0.0, 1.0, 0.0], [1.0, 0.0])
    history = history_of(2, 1, 3)
    law = model.transition(values, history, u)
    seen = influence(law, history)
    assert seen[1] < 1e-30
    assert (seen[[0, 2]] > 0.5).all()
    torch.testing.assert_close(law.mean[0, 1], values.a[0, 1])


def test_an_untargeted_program_goes_on_as_unperturbed() -> None:
    model, values, u = targeted([0.0, 1.0, 0.0], [1.0, 0.0])
    history = history_of(2, 1, 3)
    law = model.transition(values, history, u)
    free = model.transition(values, history, torch.zeros(1, 2))
    left_alone = torch.tensor([True, False, True])
    torch.testing.assert_close(law.mean[0, left_alone], free.mean[0, left_alone])
    torch.testing.assert_close(law.stddev[0, left_alone], free.stddev[0, left_alone])
    # without a dose the transition is the lagged step alone
    past = 0.95 * history[-1] + sum(torch.tanh(history[-lag]) @ values.W[lag - 1].T for lag in (1, 2))
    torch.testing.assert_close(free.mean, past)


@pytest.mark.parametrize("u", [[1.0, 0.0], [1.0, 1.0], [0.5, 2.0], [0.0, 0.0]])
def test_the_cut_is_one_minus_the_product_over_tokens(u: list[float]) -> None:
    model, values, dose = targeted([0.2, 0.9, 0.7], u)
    history = history_of(2, 1, 3)
    past = model.transition(values, history, torch.zeros(1, 2)).mean
    left = ((1 - values.m) ** dose.T).prod(0)
    expected = left * past + dose @ values.a
    torch.testing.assert_close(model.transition(values, history, dose).mean, expected)


def test_only_targets_are_set_and_loosened() -> None:
    model, _, _ = targeted([0.5, 0.5, 0.5], [1.0, 0.0])
    trace = poutine.trace(model.mechanism).get_trace()
    site = {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes}
    values = trace.nodes["_RETURN"]["value"]
    torch.testing.assert_close(values.a, site["m"] * site["a"])
    torch.testing.assert_close(values.b, site["m"] * site["b"])
    torch.testing.assert_close(values.W, site["A"] * site["W"])


@pytest.mark.parametrize("m", [0.0, 0.5, 1.0])
def test_the_gradient_of_the_mask_is_finite_at_its_ends(m: float) -> None:
    model, values, u = targeted([m, m, m], [1.0, 0.0])
    mask = values.m.clone().requires_grad_()
    law = model.transition(values.updated(m=mask), history_of(2, 1, 3), u)
    (gradient,) = torch.autograd.grad(law.mean.sum(), mask)
    assert gradient.isfinite().all()


# Instantaneous


def instantaneous(n_programs: int = 3) -> tuple[Instantaneous, cv.Mechanism]:
    torch.manual_seed(1)
    data = screen(n_perturbations=2)
    model = Instantaneous(data.schema, n_programs=n_programs, n_lags=2)
    return model, model.mechanism()


def test_effects_within_a_step_go_from_earlier_to_later_programs() -> None:
    _, values = instantaneous(4)
    assert values.B.triu().eq(0).all()
    assert values.B.tril(-1).ne(0).sum() == 6


def test_without_effects_within_a_step_the_programs_are_independent() -> None:
    model, values = instantaneous()
    history, u = history_of(2, 5, 3), torch.rand(5, 2)
    law = model.transition(values.updated(B=torch.zeros(3, 3)), history, u)
    loc = 0.95 * history[-1] + sum(torch.tanh(history[-lag]) @ values.W[lag - 1].T for lag in (1, 2))
    alone = torch.distributions.Normal(loc + u @ values.a, model.sigma * torch.exp(u @ values.b))
    z = torch.randn(5, 3)
    torch.testing.assert_close(law.log_prob(z), alone.log_prob(z).sum(-1))


def test_moments_are_those_of_the_ordered_equations() -> None:
    """Program after program: z_k = sum_{j < k} B_kj z_j + loc_k + scale_k eps_k."""
    model, values = instantaneous()
    history, u, n = history_of(2, 1, 3), torch.tensor([[1.0, 0.5]]), 400_000
    with torch.no_grad():
        law = model.transition(values, history, u)
        no_step = model.transition(values.updated(B=torch.zeros(3, 3)), history, u)
        z = torch.zeros(n, 3)
        for k in range(3):
            z[:, k] = z[:, :k] @ values.B[k, :k] + no_step.mean[0, k] + no_step.stddev[0, k] * torch.randn(n)
        covariance = torch.cov(z.T)
        exact = law.covariance_matrix[0]
    sd = exact.diagonal().sqrt()
    assert ((z.mean(0) - law.mean[0]).abs() < 5 * sd / n**0.5).all()
    assert ((covariance - exact).abs() < 5 * 1.5 * sd[:, None] * sd / n**0.5).all()
    assert (exact - exact.diagonal().diag()).abs().max() > 0.01


def test_the_mean_is_the_fixed_point_of_the_equations() -> None:
    """It solves z = B z + loc, which K rounds of that map reach from anywhere; u (I - B)^-1 without lags."""
    model, values = instantaneous(4)
    history, u = history_of(2, 5, 4), torch.rand(5, 2)
    with torch.no_grad():
        mean = model.transition(values, history, u).mean
        loc = model.transition(values.updated(B=torch.zeros(4, 4)), history, u).mean
        z = torch.randn(5, 4)
        for _ in range(4):
            z = z @ values.B.T + loc
        torch.testing.assert_close(mean, z)
        model.decay = 1.0
        still = model.transition(values.updated(W=torch.zeros_like(values.W)), history, u)
        layer = u @ values.a @ torch.linalg.inv(torch.eye(4) - values.B).T
        torch.testing.assert_close(still.mean, layer)


# ExpressionDynamics


def test_what_the_models_share_is_no_model() -> None:
    with pytest.raises(TypeError, match=r"abstract.*mechanism.*transition"):
        ExpressionDynamics(screen().schema, n_programs=2, n_invariant=0, hidden=4, emission=None)
