"""What each model claims of itself: its switches, its mechanism and its special cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyro import poutine

import pyro_citevae as cv
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE

LAYOUTS = ("time course", "sequences", "snapshot")


def screen(layout: str = "time course", **options: object) -> cv.Trajectories:
    given = {"n_cells": 40, "n_genes": 7, "n_programs": 3, "n_perturbations": 3, "n_steps": 3, "seed": 3}
    return cv.simulate(**(given | {"layout": layout} | options)).data


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
    "edges": (False, {"A"}),
    "mask": (False, {"m"}),
    "scale": (False, {"b"}),
    "own_transcript": (False, {"c"}),
    "direct": (False, {"d"}),
    "group": (False, {"e"}),
    "n_invariant": (0, {"s"}),
}


def whole(data: cv.Trajectories, **options: object) -> CiteVAE:
    settings = {"n_programs": 2, "n_invariant": 1, "hidden": 4, "mask": True}
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
    law = remembered.transition(remembered.mechanism(), history, u)
    assert torch.autograd.grad(law.mean.sum(), history)[0].abs().min() > 0


@pytest.mark.parametrize(("exposure", "share"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0), (5.0, 1.0)])
def test_without_time_a_direct_change_is_complete_at_once(exposure: float, share: float) -> None:
    data = screen()
    model = whole(data, time=False, group=False)
    mechanism = model.mechanism()
    given = torch.zeros(1, 40, 3)
    given[..., 1] = exposure
    technical = torch.zeros(40, dtype=torch.int64)
    seen = model.observation(mechanism, given, torch.ones(1, 40, dtype=torch.int64), technical)
    torch.testing.assert_close(seen.offset[0, 0], share * mechanism.direct[1])


# StaticShift


def test_a_share_of_the_library_leaves_room_for_unmeasured_genes_in_every_model() -> None:
    from pyro_citevae.models import StaticShift

    data = cv.datasets.load("norman_subset")
    batch = data.batch(np.arange(10))
    model = StaticShift(data.schema, n_programs=2, hidden=4)
    with torch.no_grad():
        assert (model(batch).emission.mean.sum(-1) < batch.library).all()
