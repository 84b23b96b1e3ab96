"""Terms of a process: a new one is a class and a line, and each contributes what its equation says."""

from __future__ import annotations

import copy
import pickle
from itertools import combinations
from types import MappingProxyType
from typing import Any, final

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.guides import BackwardSmoother, MeanField
from pyro_citevae.models import CiteVAE
from pyro_citevae.models.lagged import LaggedExpression
from pyro_citevae.models.token_rows import Shift
from pyro_citevae.models.token_terms import Absent, Memory, TokenTerm, Values, sampled
from pyro_citevae.nn.priors import TokenRows
from pyro_citevae.nn.rows_in_use import RowsInUse


@final
class Ceiling(TokenTerm):
    """``c_k ~ LogNormal(0, 0.5)``; a shift saturates: ``c tanh(shift / c)``."""

    dims = MappingProxyType({"ceiling": ("program",)})

    def sites(self, values: Values) -> Values:
        median = self.model.zero.expand(self.model.n_programs)
        return {"ceiling": pyro.sample("ceiling", dist.LogNormal(median, 0.5).to_event(1))}

    def __call__(self, mechanism: cv.Mechanism, shift: torch.Tensor) -> torch.Tensor:
        return mechanism.ceiling * torch.tanh(shift / mechanism.ceiling)


@final
class Saturating(LaggedExpression):
    """z_t ~ N(past + c tanh(u a / c), sigma)."""

    def __init__(self, schema: cv.Schema, *, n_programs: int = 3) -> None:
        sizes = {"n_programs": n_programs, "n_invariant": 1, "n_lags": 1, "hidden": 4}
        super().__init__(schema, **sizes, emission=None, decay=0.05)
        self.memory, self.shift = Memory(self), Shift(self, 0.5, masked=True)
        self.ceiling = Ceiling(self)
        self.rows = TokenRows(None, ())
        self.dims = {site: axes for term in self.terms for site, axes in term.dims.items()}

    @property
    def terms(self) -> tuple[TokenTerm, ...]:
        return self.memory, self.shift, self.ceiling

    def mechanism(self) -> cv.Mechanism:
        return cv.Mechanism(**sampled(self.terms))

    def transition(self, mechanism: cv.Mechanism, history: Any, u: torch.Tensor) -> Any:
        shift = self.ceiling(mechanism, self.shift(mechanism, u))
        return self.step(self.memory(mechanism, history) + shift, self.zero)


def test_a_further_term_is_a_class_and_a_line() -> None:
    report = cv.check_model(Saturating, lambda model: MeanField(model, hidden=4))
    assert report.passed, str(report)
    model = Saturating(simulated().schema)
    assert model.dims["ceiling"] == ("program",)
    mechanism = model.mechanism()
    far = model.transition(mechanism, [torch.zeros(2, 3)], 1e6 * torch.eye(2, 3)).base_dist.loc
    torch.testing.assert_close(far.abs(), mechanism.ceiling.expand(2, 3))


def whole(data: cv.Trajectories) -> CiteVAE:
    switched_on = {"edges": True, "mask": True, "direct": True, "pairs": 2, "epistasis": True}
    return CiteVAE(data.schema, n_programs=2, n_invariant=1, hidden=4, **switched_on)


def test_sites_are_sampled_in_the_order_of_the_equations() -> None:
    model = whole(simulated())
    learnt = ["W", "a", "b", "A", "m", "d", "c", "v", "w", "q", "kappa", "e"]
    assert list(poutine.trace(model.mechanism).get_trace().stochastic_nodes) == learnt
    drawn = list(poutine.trace(model.eval().mechanism).get_trace().stochastic_nodes)
    assert drawn == [*learnt, "e_later"]
    assert list(model.dims) == drawn


def test_what_comes_after_the_screen_is_drawn_from_its_prior_alone() -> None:
    """The guide has no parameter of it, its terms cancel, and only later steps see it."""
    data = simulated()
    model = whole(data).eval()
    guide = BackwardSmoother(model, hidden=4)
    assert not any("e_later" in name for name, _ in guide.named_parameters())
    batch = data.batch()
    guided = poutine.trace(guide).get_trace(batch)
    modelled = poutine.trace(poutine.replay(model, trace=guided)).get_trace(batch)
    for trace in (guided, modelled):
        trace.compute_log_prob()
    terms = [trace.nodes["e_later"]["log_prob"] for trace in (guided, modelled)]
    torch.testing.assert_close(*terms)
    with pyro.plate("draw", 2000, dim=-3):
        drawn = guide.mechanism()["e_later"]
    torch.testing.assert_close(drawn.std((0, -1))[0, 0], model.deviation.scale[:, 0], rtol=0.1, atol=0.0)

    T, rows = data.schema.n_steps, RowsInUse.every(data.schema.n_tokens)
    mechanism = model.mechanism()
    direct = torch.zeros(data.schema.n_tokens, data.schema.n_genes)
    table, first = model.deviation.in_steps(direct, mechanism, torch.tensor([[T, T + 1, T + 2]]), rows)
    last, later, latest = (table[int(at) :][: len(direct)] for at in first.ravel())
    torch.testing.assert_close(later - last, mechanism.e_later)
    torch.testing.assert_close(latest, later)


@pytest.mark.parametrize("n_tokens", [1, 2, 3])
def test_each_term_contributes_what_its_equation_says(n_tokens: int) -> None:
    model = whole(simulated(n_perturbations=n_tokens))
    mechanism = model.mechanism()
    h = torch.rand(5, n_tokens)
    pairs = list(combinations(range(n_tokens), 2))
    zero = torch.zeros(5, 2)
    v, w = mechanism.v, mechanism.w
    expected = sum(((h[:, [i]] * h[:, [j]]) * ((v[i] * v[j]) @ w) for i, j in pairs), zero)
    torch.testing.assert_close(model.pairs(mechanism, h), expected)
    own = sum(((h[:, [i]] * h[:, [j]]) * mechanism.q[k] for k, (i, j) in enumerate(pairs)), zero)
    torch.testing.assert_close(model.epistasis(mechanism, h), own)
    z = [torch.randn(5, 2)]
    past = (1 - model.decay) * z[0] + torch.tanh(z[0]) @ mechanism.W[0].mT
    torch.testing.assert_close(model.memory(mechanism, z), past)


def test_what_is_switched_off_adds_nothing_and_draws_nothing() -> None:
    model = CiteVAE(simulated().schema, n_programs=2)
    term = Absent(model)
    assert not term.sites({})
    z = torch.randn(4, 2)
    assert torch.equal(z + term(None, z), z)


def test_the_parameters_of_terms_are_the_models_under_their_symbols() -> None:
    names = {name for name, _ in whole(simulated()).named_parameters()}
    assert {
        "mu_a",
        "m_c",
        "m_kappa",
        "s_e_unconstrained",
        "s_q_unconstrained",
        "sigma_unconstrained",
    } <= names


def test_a_copy_of_a_model_has_terms_of_its_own() -> None:
    model = whole(simulated())
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(term.model is copied for term in copied.terms)
        with torch.no_grad():
            copied.mu_a.add_(1.0)
        assert not model.mu_a.any()
        assert copied.shift.population[0].all()


def test_a_fit_trains_the_terms_of_the_fitted_model() -> None:
    data = simulated(n_cells=40)
    model = whole(data)
    posterior = cv.fit(model, BackwardSmoother(model, hidden=4), data, max_epochs=2, progress=False)
    assert posterior.model.shift.population[0] is posterior.model.mu_a
    assert posterior.model.mu_a.abs().max() > 0
    assert np.isfinite(posterior.history["training"]).all()
