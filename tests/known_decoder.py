"""A screen small enough for Markov chain Monte Carlo: five genes, two programs and a known decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import final

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from scipy import sparse

import pyro_citevae as cv

LOADING = ((1.2, 0.0), (-0.8, 0.3), (0.0, 1.2), (0.4, -0.9), (-0.5, -0.5))
TRUTH = {"W": torch.tensor([[0.1, -0.3], [0.25, -0.1]]), "a": torch.tensor([[1.0, 0.0], [-0.5, 0.7]])}


@final
class KnownDecoder(cv.LatentDynamics):
    """z_t ~ N(0.6 z_{t-1} + W z_{t-1} + u_t a, 0.3), x_t ~ NB(library softmax(C z_t), 10), W and a unknown.

    The decoder is given, so that the programs keep their order and signs and the posterior has one mode.
    """

    dims = MappingProxyType({"W": ("program", "source"), "a": ("token", "program")})

    def __init__(self, schema: cv.Schema) -> None:
        super().__init__(schema, n_programs=2)
        self.register_buffer("C", torch.tensor(LOADING))

    def mechanism(self) -> cv.Mechanism:
        W = pyro.sample("W", dist.Normal(self.C.new_zeros(2, 2), 0.3).to_event(2))
        a = pyro.sample("a", dist.Normal(self.C.new_zeros(self.schema.n_tokens, 2), 1.0).to_event(2))
        return cv.Mechanism(W=W, a=a)

    def initial(self, mechanism: cv.Mechanism) -> cv.program.Distribution:
        return dist.Normal(self.C.new_zeros(2), 1.0).to_event(1)

    def transition(
        self, mechanism: cv.Mechanism, history: Sequence[torch.Tensor], u: torch.Tensor
    ) -> cv.program.Distribution:
        loc = 0.6 * history[-1] + history[-1] @ mechanism.W.mT + u @ mechanism.a
        return dist.Normal(loc, 0.3).to_event(1)

    def emission(
        self, mechanism: cv.Mechanism, z: torch.Tensor, s: torch.Tensor, library: torch.Tensor
    ) -> cv.program.Distribution:
        log_mean = library.log()[..., None] + torch.log_softmax(z @ self.C.T, dim=-1)
        return cv.counts.NegativeBinomial(log_mean, self.C.new_tensor(10.0).log()).to_event(1)


def small_screen(n_cells: int = 60, n_steps: int = 2, seed: int = 0) -> cv.Trajectories:
    """Sequences of counts at known library sizes of about 500, drawn from the model itself at TRUTH."""
    sizes = {"n_cells": n_cells, "n_genes": 5, "n_programs": 2, "n_perturbations": 2, "n_steps": n_steps}
    data = cv.simulate(**sizes, design="sequences", library=500.0, seed=seed).data
    batch = data.batch().unobserved()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        trace = poutine.trace(poutine.condition(KnownDecoder(data.schema), TRUTH)).get_trace(batch)
    x = trace.nodes["x"]["value"].transpose(0, 1).reshape(data.n_observations, 5).numpy()
    return replace(data, values=sparse.csr_matrix(x.astype(np.float32)))
