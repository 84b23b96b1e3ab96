"""A variant of one's own that uses contexts: what its rows and its sites learn of a new one."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch

import pyro_citevae as cv
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import StaticShift


class OwnOfContexts(StaticShift):
    """``z_0 ~ N(mu_c, 1)``, ``z_t ~ N(u_t (m a) + R_c, 1)``: a row that controls tell, and a site."""

    dims = MappingProxyType({**StaticShift.dims, "R": ("context", "program")})

    def __init__(self, schema: cv.Schema, *, n_programs: int = 2) -> None:
        super().__init__(schema, n_programs=n_programs, hidden=4)
        self.mu = torch.nn.Parameter(torch.zeros(schema.n_contexts, n_programs))

    def mechanism(self) -> cv.Mechanism:
        shape = (self.schema.n_contexts, self.n_programs)
        R = pyro.sample("R", dist.Normal(0.0, 0.3).expand(shape).to_event(2))
        return super().mechanism().updated(R=R)

    def initial(self, mechanism: cv.Mechanism) -> Any:
        c = mechanism.context
        return dist.Normal(self.mu.mean(0) if c is None else self.mu[c], 1.0).to_event(1)

    def transition(self, mechanism: cv.Mechanism, history: Any, u: Any) -> Any:
        c, R = mechanism.context, mechanism.R
        moved = R.mean(-2, keepdim=True) if c is None else R[..., c, :]
        return dist.Normal(history[-1] + u @ mechanism.shift + moved, 1.0).to_event(1)


def test_a_variant_of_ones_own_learns_a_new_context() -> None:
    """The new row is fitted to the controls, the site is left to its prior, and the rest stays."""
    whole = cv.simulate(
        n_cells=320, n_genes=12, n_perturbations=3, n_contexts=4, n_steps=2, design="snapshot"
    ).data
    three = whole.cells(np.flatnonzero(whole.context < 3))
    data = replace(three, schema=replace(whole.schema, contexts=whole.schema.contexts[:3]))
    controls = whole.select("control", context="context_3")
    model = OwnOfContexts(data.schema)
    posterior = cv.fit(model, BackwardSmoother(model, hidden=8), data, max_epochs=5, progress=False)
    adapted = posterior.adapt(controls, progress=False)
    torch.testing.assert_close(adapted.model.mu[:3], posterior.model.mu)
    assert bool((adapted.model.mu[3] != 0).all())
    R = adapted.to_datatree(draws=400)["posterior"]["R"].sel(context="context_3")
    assert float(abs(R.mean("draw")).max()) < 0.08  # five standard errors of 0.3 / 20
    np.testing.assert_allclose(R.std("draw"), 0.3, rtol=0.3)
