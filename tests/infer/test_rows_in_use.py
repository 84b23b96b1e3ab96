"""Rows of the tokens that act in a minibatch: on average over minibatches they are all rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyro import poutine
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.errors import CiteVAEWarning
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.infer import counterfactuals, drawn_rows
from pyro_citevae.infer.evidence_lower_bound import EvidenceLowerBound
from pyro_citevae.models import CiteVAE
from pyro_citevae.nn.normal_array import NormalArray
from pyro_citevae.nn.rows_in_use import RowsInUse

SIZE = 30


@pytest.fixture(scope="module")
def data() -> cv.Trajectories:
    return simulated(n_cells=240, n_genes=6, n_perturbations=5, combinations=("gene_0+gene_1",))


def made(data: cv.Trajectories) -> tuple[CiteVAE, BackwardSmoother]:
    torch.manual_seed(0)
    model = CiteVAE(data.schema, n_programs=2, n_invariant=1, hidden=8)
    guide = BackwardSmoother(model, hidden=8)
    guide.attach(model)
    with torch.no_grad():
        for parameter in (*guide.globals.independent.locs.parameters(), model.s_e_unconstrained):
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model, guide


def minibatches(data: cv.Trajectories) -> list[cv.data.Batch]:
    """All cells, each in one of eight."""
    order = np.random.default_rng(0).permutation(data.n_cells)
    return [data.batch(part) for part in np.split(order, data.n_cells // SIZE)]


def rows_of(batch: cv.data.Batch, share: torch.Tensor, weight: torch.Tensor | None = None) -> RowsInUse:
    return RowsInUse.of_minibatch(batch.u.token, batch.u.amount, share, weight)


def share(data: cv.Trajectories) -> torch.Tensor:
    return (data.batch().u != 0).any(0).float().mean(0)


@pytest.mark.parametrize("weighted", [False, True])
def test_each_token_counts_once_on_average_over_minibatches(data: cv.Trajectories, weighted: bool) -> None:
    total = torch.zeros(data.schema.n_tokens)
    weights = torch.ones(data.n_cells) if not weighted else torch.rand(data.n_cells) + 0.5
    acts = (data.batch().u != 0).any(0).float()
    of_cells = (weights[:, None] * acts).sum(0) / data.n_cells
    parts = minibatches(data)
    for batch in parts:
        rows = rows_of(batch, of_cells, weights[batch.index] if weighted else None)
        total[rows.tokens] += rows.weight[:, 0]
    torch.testing.assert_close(total / len(parts), torch.ones(data.schema.n_tokens))


def test_the_weighed_log_density_is_the_sum_of_weighed_entries() -> None:
    value, scale = torch.randn(4, 3, 2), torch.rand(3, 1) + 0.5
    weight = torch.tensor([[0.5], [2.0], [1.0]])
    law = NormalArray(torch.zeros(()), scale, (4, 3, 2), weight=weight)
    wanted = (weight * torch.distributions.Normal(0.0, scale).log_prob(value)).sum()
    torch.testing.assert_close(law.log_prob(value), wanted)
    alone = NormalArray(torch.zeros(()), scale, (4, 3, 2), weight=torch.ones(3, 1))
    torch.testing.assert_close(
        alone.log_prob(value), NormalArray(torch.zeros(()), scale, (4, 3, 2)).log_prob(value)
    )
    assert law.expand((5,)).log_prob(value).shape == (5,)


def terms(
    model: CiteVAE, guide: BackwardSmoother, batch: cv.data.Batch, rows: RowsInUse | None
) -> torch.Tensor:
    """``log p(e) - log q(e)`` where e stands at its mean."""
    model.in_use = rows
    with guide.globals.using(rows, model.local_sites), poutine.trace() as drawn:
        guide.globals()
    law: Any = drawn.trace.nodes["e"]["fn"]
    e = law.shared.loc.expand(law.event_shape)
    with poutine.trace() as tracer, poutine.condition(data={"e": e}):
        model.mechanism()
    model.in_use = None
    return tracer.trace.nodes["e"]["fn"].log_prob(e) - law.log_prob(e)


def test_the_mean_over_minibatches_is_the_term_of_all_rows(data: cv.Trajectories) -> None:
    """And so is its gradient, of every parameter that it has one of."""
    model, guide = made(data)
    parameters = [*guide.globals.parameters(), *model.parameters()]

    def of(loss: torch.Tensor) -> list[torch.Tensor]:
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return [torch.zeros(()) if one is None else one for one in found]

    parts = minibatches(data)
    some = sum(terms(model, guide, one, rows_of(one, share(data))) for one in parts) / len(parts)
    every = terms(model, guide, data.batch(), None)
    torch.testing.assert_close(some, every, rtol=1e-5, atol=1e-3)
    for one, other in zip(of(some), of(every), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


def test_values_are_predicted_from_these_rows_as_from_all(data: cv.Trajectories) -> None:
    """The law of the observed counts is the same, whichever rows are at hand."""
    model, _ = made(data)
    batch = minibatches(data)[0]
    rows = rows_of(batch, share(data))
    e = torch.randn(data.schema.n_steps, data.schema.n_tokens, data.schema.n_genes)
    laws = []
    for used, value in ((None, e), (rows, e[:, rows.tokens])):
        model.in_use = used
        torch.manual_seed(1)
        fixed = {"e": value, "a": torch.zeros(5, 2), "b": torch.zeros(5, 2), "c": torch.ones(5, 1)}
        fixed |= {"kappa": torch.ones(5), "W": torch.zeros(1, 2, 2), "s": torch.zeros(SIZE, 1)}
        fixed |= {f"z_{t}": torch.zeros(SIZE, 2) for t in range(batch.n_steps + 1)}
        with poutine.condition(data=fixed):
            laws.append(model(batch.unobserved()).emission.mean)
        model.in_use = None
    torch.testing.assert_close(*laws)


def fitted(data: cv.Trajectories, **options: Any) -> cv.Posterior:
    model = CiteVAE(data.schema, n_programs=2, n_invariant=1, hidden=8)
    guide = BackwardSmoother(model, hidden=8)
    settings: dict[str, Any] = {"max_epochs": 20, "batch_size": SIZE, "validation": 0.0, "progress": False}
    return cv.fit(model, guide, data, **settings | options)


@pytest.mark.parametrize("sampler", ["uniform", "balanced"])
def test_a_fit_by_rows_ends_where_one_by_all_of_them_does(
    data: cv.Trajectories, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    """Two seeds differ by more."""
    whole, other = (fitted(data, sampler=sampler, seed=seed) for seed in (0, 1))
    monkeypatch.setattr(drawn_rows, "_MANY_OWN_VALUES", 0)
    asked = []
    noted = EvidenceLowerBound._rows_in_use
    monkeypatch.setattr(
        EvidenceLowerBound, "_rows_in_use", lambda self, batch: asked.append(self.share) or noted(self, batch)
    )
    some = fitted(data, sampler=sampler)
    assert asked and all(one is not None for one in asked)
    bounds = [one.bound(data, seed=0) for one in (whole, other, some)]
    spread = max(abs(bounds[0] - bounds[1]), 0.01 * abs(bounds[0]))
    assert abs(bounds[2] - bounds[0]) < 2 * spread
    assert some.model.in_use is None
    assert some.model.state_dict().keys() == whole.model.state_dict().keys()
    sizes = some.effect("gene_0", draws=20).sizes
    assert sizes == whole.effect("gene_0", draws=20).sizes


def test_a_small_screen_takes_all_rows_and_given_minibatches_do_too(
    data: cv.Trajectories, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    made_before = EvidenceLowerBound.__init__
    monkeypatch.setattr(
        EvidenceLowerBound,
        "__init__",
        lambda self, *given: made_before(self, *given) or found.append(self.share),
    )
    fitted(data, max_epochs=1)
    monkeypatch.setattr(drawn_rows, "_MANY_OWN_VALUES", 0)
    fitted(data, max_epochs=1, batches=minibatches(data))
    fitted(data, max_epochs=1)
    assert [one is None for one in found] == [True, True, False]
    torch.testing.assert_close(found[2], share(data))


@pytest.fixture(scope="module")
def posterior(data: cv.Trajectories) -> cv.Posterior:
    return fitted(data)


def test_effects_are_predicted_from_the_rows_of_the_schedules(
    posterior: cv.Posterior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other draws of the same law; those of the sites without rows of their own are the same draws."""
    schedules = [cv.do("gene_3"), cv.do("gene_0+gene_1")]
    whole = posterior.effect(schedules, draws=400, seed=1)
    monkeypatch.setattr(drawn_rows, "_MANY_OWN_VALUES", 0)
    drawn: list[torch.Size] = []
    guide = posterior.guide.globals
    forward = type(guide).forward

    def noted(self: Any) -> dict[str, torch.Tensor]:
        made: dict[str, torch.Tensor] = forward(self)
        drawn.append(made["e"].shape)
        return made

    monkeypatch.setattr(type(guide), "forward", noted)
    some = posterior.effect(schedules, draws=400, seed=1)
    assert {shape[-2] for shape in drawn} == {3}
    error = 4 * np.sqrt((whole.var("draw") + some.var("draw")) / 400)
    assert (abs(whole.mean("draw") - some.mean("draw")) <= error + 1e-6).all()
    np.testing.assert_allclose(whole.std("draw"), some.std("draw"), rtol=0.35, atol=0.01)


def test_many_schedules_are_predicted_by_turns(
    posterior: cv.Posterior, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawn_rows, "_MANY_OWN_VALUES", 0)
    schedules = [cv.do(f"gene_{i}") for i in range(4)]
    together = posterior.effect(schedules, draws=300, seed=1)
    monkeypatch.setattr(counterfactuals, "_MOST_OWN_VALUES", 1)
    by_turns = posterior.effect(schedules, draws=300, seed=1)
    assert together.sizes == by_turns.sizes
    error = 4 * np.sqrt((together.var("draw") + by_turns.var("draw")) / 300)
    assert (abs(together.mean("draw") - by_turns.mean("draw")) <= error + 1e-6).all()


def test_cells_are_predicted_from_rows_and_an_unseen_token_from_all(
    data: cv.Trajectories, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, _ = data.hold_out(perturbations="gene_4")
    posterior = fitted(seen)
    monkeypatch.setattr(drawn_rows, "_MANY_OWN_VALUES", 0)
    cells = posterior.predict([cv.do("gene_2"), cv.do()], cells=seen.controls(), draws=20)
    assert np.isfinite(cells.layers["mean"]).all()
    with pytest.warns(CiteVAEWarning, match="neither training cells nor features"):
        assert np.isfinite(posterior.effect(cv.do("gene_4"), draws=20)).all()


def test_a_fit_by_rows_goes_on_from_its_state(
    data: cv.Trajectories, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """To the bit: moments and counts of steps are kept a row."""
    monkeypatch.setattr(drawn_rows, "_MANY_OWN_VALUES", 0)
    whole = fitted(data, max_epochs=4)
    kept = EvidenceLowerBound.on_train_epoch_start
    epochs = iter(range(10))

    def cut_off(self: EvidenceLowerBound) -> None:
        if next(epochs) == 2:
            raise KeyboardInterrupt
        kept(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(EvidenceLowerBound, "on_train_epoch_start", cut_off)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            fitted(data, max_epochs=4, checkpoints=tmp_path / "state")
    again = fitted(data, max_epochs=4, checkpoints=tmp_path / "state", resume=True)
    for one, other in ((again.model, whole.model), (again.guide, whole.guide)):
        for name, value in other.state_dict().items():
            assert torch.equal(one.state_dict()[name], value), name
