"""Switching: the sum over regimes against brute force, and sampled regimes against their chain."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from screens import simulated
from torch import Tensor

import pyro_citevae as cv
from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data import Batch
from pyro_citevae.errors import ModelError
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.infer.substitute import Substitute
from pyro_citevae.models import Switching

LAYOUT = pytest.mark.parametrize("layout", ["snapshot", "time course", "sequences"])
N_STEPS = 3


def screen(design: str = "time course", n_cells: int = 12) -> cv.Trajectories:
    return simulated(design, n_cells=n_cells, n_genes=5, n_perturbations=2, n_steps=N_STEPS, seed=2)


def pair(data: cv.Trajectories, **options: Any) -> tuple[Switching, AmortizedGuide]:
    """A model and a guide in double precision, with regimes that differ."""
    torch.manual_seed(0)
    model = Switching(data.schema, **({"n_programs": 2, "n_invariant": 1, "hidden": 4} | options))
    guide = BackwardSmoother(model, hidden=4)
    with torch.no_grad():
        for parameter in [*model.parameters(), *guide.parameters()]:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.double(), guide.double()


def double(batch: Batch) -> Batch:
    x = replace(batch.x, value=batch.x.value.double())
    return replace(batch, u=batch.u.double(), library=batch.library.double(), x=x)


def drawn(guide: AmortizedGuide, batch: Batch, seed: int = 0) -> poutine.Trace:
    torch.manual_seed(seed)
    return poutine.trace(guide).get_trace(batch)


def enumerated(model: Switching, guide: AmortizedGuide, batch: Batch, trace: poutine.Trace) -> float:
    """The bound at the guide's draws, summed over regimes by Pyro."""
    elbo = TraceEnum_ELBO(max_plate_nesting=2)
    with torch.no_grad():
        return -elbo.loss(model, poutine.replay(guide, trace=trace), batch)


def brute_force(model: Switching, batch: Batch, trace: poutine.Trace) -> float:
    """The same by running the program once for each of the R^T sequences of regimes."""
    values = {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes if name != "cell"}
    each = [
        joint(model, batch, values, regimes)
        for regimes in product(range(model.n_regimes), repeat=batch.n_steps)
    ]
    cells = torch.stack([by_cell for _, by_cell in each]).logsumexp(0).sum() * batch.size / batch.n_cells
    return float((each[0][0] + cells - trace.log_prob_sum()).detach())


def joint(
    model: Switching, batch: Batch, values: dict[str, Tensor], regimes: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Log probability of the global sites, and that of each cell's own ones at given regimes."""
    fixed = {
        f"r_{t}": torch.full((batch.n_cells,), regime, dtype=torch.int64)
        for t, regime in enumerate(regimes, start=1)
    }
    with torch.no_grad(), Substitute(values | fixed, mean=False):
        trace = poutine.trace(model).get_trace(batch)
    trace.compute_log_prob()
    shared, cells = torch.zeros(()).double(), torch.zeros(batch.n_cells).double()
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or name in ("cell", "slot"):
            continue
        if name == "x":
            cells += torch.where(batch.observed, site["unscaled_log_prob"], 0.0).sum(0)
        elif name.startswith("z_") and name != "z_0":
            cells += torch.where(batch.reached(int(name[2:])), site["unscaled_log_prob"], 0.0)
        elif name in ("s", "z_0") or name.startswith("r_"):
            cells += site["unscaled_log_prob"]
        else:
            shared += site["log_prob_sum"]
    return shared, cells


@LAYOUT
@pytest.mark.parametrize("n_lags", [1, 2])
@pytest.mark.parametrize(("n_regimes", "steered"), [(1, True), (2, True), (3, True), (2, False)])
def test_the_enumerated_bound_is_the_sum_over_all_sequences_of_regimes(
    layout: str, n_lags: int, n_regimes: int, steered: bool
) -> None:
    data = screen(layout)
    model, guide = pair(data, n_lags=n_lags, n_regimes=n_regimes, steered=steered)
    batch = double(data.batch())
    trace = drawn(guide, batch)
    assert enumerated(model, guide, batch, trace) == pytest.approx(brute_force(model, batch, trace), abs=1e-5)


def test_a_gap_in_a_sequence_and_a_minibatch_change_nothing_of_that() -> None:
    data = screen("sequences")
    gappy = data.rows((data.row_step != 2) | (data.row_cell % 2 == 0))
    gappy = gappy.rows((gappy.row_step != 3) | (gappy.row_cell % 3 == 0))
    model, guide = pair(data, n_regimes=2)
    batch = double(gappy.batch(np.array([0, 1, 5, 6])))
    assert len(batch.last.unique()) > 1
    assert batch.size > batch.n_cells
    trace = drawn(guide, batch)
    assert enumerated(model, guide, batch, trace) == pytest.approx(brute_force(model, batch, trace), abs=1e-5)


def test_steps_after_the_last_observation_cost_nothing() -> None:
    """Cells seen at step 1 have the same bound whether their regimes are followed one step or three."""
    data = screen()
    early = data.select(time=1)
    model, guide = pair(data, n_regimes=3)
    short = double(early.batch())
    long = replace(short, u=torch.cat([short.u, short.u[-1:], short.u[-1:]]))
    assert (short.n_steps, long.n_steps) == (1, 3)
    trace = drawn(guide, long)
    bound = enumerated(model, guide, long, trace)
    assert bound == pytest.approx(enumerated(model, guide, short, trace), abs=1e-8)


@LAYOUT
@pytest.mark.parametrize("n_lags", [1, 2])
def test_vectorised_particles_are_the_particles_one_by_one(layout: str, n_lags: int) -> None:
    data, n = screen(layout), 4
    model, guide = pair(data, n_lags=n_lags)
    batch = double(data.batch())
    torch.manual_seed(1)
    with pyro.plate("draw", n, dim=-3):
        trace = poutine.trace(guide).get_trace(batch)

    def plated(program: Any) -> Any:
        def run(batch: Batch) -> None:
            with pyro.plate("draw", n, dim=-3):
                program(batch)

        return run

    elbo = TraceEnum_ELBO(max_plate_nesting=3)
    with torch.no_grad():
        together = -elbo.loss(plated(model), poutine.replay(plated(guide), trace=trace), batch) / n
    apart = [bound_of_draw(model, guide, batch, trace, d) for d in range(n)]
    assert len({round(one, 3) for one in apart}) == n
    assert together == pytest.approx(np.mean(apart), abs=1e-5)


def bound_of_draw(
    model: Switching, guide: AmortizedGuide, batch: Batch, trace: poutine.Trace, d: int
) -> float:
    """The bound at one draw of a guide that ran under a plate of draws."""
    values = {
        name: site["value"][d, 0] if name == "s" or name.startswith("z_") else site["value"][d, 0, 0]
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and name not in ("cell", "draw")
    }
    with torch.no_grad(), Substitute(values, mean=False):
        alone = poutine.trace(guide).get_trace(batch)
    return enumerated(model, guide, batch, alone)


def test_the_gradient_reaches_every_parameter() -> None:
    data = screen("sequences")
    model, guide = pair(data, n_regimes=2)
    torch.manual_seed(0)
    elbo = TraceEnum_ELBO(max_plate_nesting=2, num_particles=3, vectorize_particles=True)
    elbo.differentiable_loss(model, guide, double(data.batch())).backward()
    for part in (model, guide):
        for name, parameter in part.named_parameters():
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().sum() > 0, name


def mechanism_of(model: Switching) -> cv.Mechanism:
    """A mechanism with regimes that differ, without sites."""
    torch.manual_seed(3)
    with torch.no_grad():
        return model.mechanism().updated(c=torch.randn(model.n_regimes, model.n_programs).double())


def test_each_cell_moves_by_its_own_regime() -> None:
    data = screen()
    model, _ = pair(data, n_regimes=3, n_lags=2)
    values = mechanism_of(model)
    r = torch.arange(12) % 3
    history = [torch.randn(12, 2).double(), torch.randn(12, 2).double()]
    u = torch.rand(12, 2).double()
    law = model.transition(values.updated(r=torch.nn.functional.one_hot(r, 3).double()), history, u)
    for n in range(12):
        expected = 0.95 * history[-1][n] + values.c[r[n]] + u[n] @ values.a
        for lag in (1, 2):
            expected = expected + values.W[r[n], lag - 1] @ torch.tanh(history[-lag][n])
        torch.testing.assert_close(law.mean[n], expected)


def walks(model: Switching, u: Tensor, n_draws: int, values: cv.Mechanism) -> Iterator[Tensor]:
    """Indicators of the regime at each step, of cells under a plate of draws."""
    mechanism = values
    with pyro.plate("cell", u.shape[1], dim=-1), pyro.plate("draw", n_draws, dim=-3):
        for t in range(1, len(u)):
            mechanism = model.regime(mechanism, t, u[t])
            yield mechanism.r


def test_sampled_regimes_follow_the_markov_chain() -> None:
    model, _ = pair(screen(), n_regimes=3)
    values, n = mechanism_of(model), 20_000
    torch.manual_seed(4)
    seen = [r[:, 0] for r in walks(model, torch.zeros(4, 2, 2).double(), n // 2, values)]
    law = values.pi
    for r in seen:
        share = r.mean((0, 1))
        assert ((share - law).abs() < 5 * (law * (1 - law) / n).sqrt()).all()
        law = law @ values.Q
    for before, after in pairwise(seen):
        pairs = torch.einsum("dnr,dnq->rq", before, after)
        rows = pairs.sum(1, keepdim=True)
        assert ((pairs / rows - values.Q).abs() < 5 * (values.Q * (1 - values.Q) / rows).sqrt()).all()


def test_a_dose_draws_cells_into_its_regime() -> None:
    model, _ = pair(screen(), n_regimes=2)
    values = mechanism_of(model).updated(v=torch.tensor([[0.0, 3.0], [0.0, 0.0]]).double())
    u = torch.zeros(2, 2, 2).double()
    u[1, 1, 0] = 1.0
    torch.manual_seed(5)
    (r,) = walks(model, u, 20_000, values)
    odds = values.pi[1] / values.pi[0] * torch.tensor([1.0, np.exp(3.0)])
    share = (odds / (1 + odds)).double()
    assert ((r[:, 0, :, 1].mean(0) - share).abs() < 5 * (share * (1 - share) / 20_000).sqrt()).all()


def test_unsteered_regimes_do_not_hear_the_dose() -> None:
    data = screen()
    model, _ = pair(data, steered=False)
    sites = poutine.trace(model).get_trace(double(data.batch())).nodes
    assert "v" not in sites
    assert sites["r_1"]["fn"].logits.unique(dim=-2).shape[-2] == 1


@LAYOUT
def test_a_fit_raises_the_bound_and_predictions_draw_the_regimes(layout: str) -> None:
    data = screen(layout, n_cells=60)
    model = Switching(data.schema, n_programs=2, n_invariant=1, hidden=4)
    guide = BackwardSmoother(model, hidden=4)
    settings = {"max_epochs": 8, "batch_size": 10, "learning_rate": 0.03, "kl_start": 1.0, "progress": False}
    posterior = cv.fit(model, guide, data, **settings)
    assert posterior.history["training"].iloc[-1] > posterior.history["training"].iloc[0]
    cells = posterior.predict([cv.do("gene_0"), cv.do()], cells=data.controls(), draws=6)
    again = posterior.predict([cv.do("gene_0"), cv.do()], cells=data.controls(), draws=6)
    assert np.isfinite(cells.layers["mean"]).all()
    assert (cells.X != again.X).nnz == 0
    effect = posterior.effect(cv.do("gene_0"), draws=6)
    assert np.isfinite(effect).all()
    assert float(effect.std()) > 0
    assert float(abs(posterior.effect(cv.do(), draws=6)).max()) == 0
    tree = posterior.to_datatree(data, draws=3)
    assert tree["posterior"]["W"].dims == ("chain", "draw", "regime", "lag", "program", "source")
    assert np.isfinite(tree["log_likelihood"]["x"]).all()


def test_a_model_without_a_regime_is_refused() -> None:
    with pytest.raises(ModelError, match=r"Switching\(n_regimes=0\) needs a regime"):
        Switching(screen().schema, n_regimes=0)
