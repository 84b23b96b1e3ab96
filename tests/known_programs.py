"""Programs with known parameters, and data drawn from them: what criticism must find nothing wrong with."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from scipy import sparse
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.guides import BackwardSmoother, MeanField
from pyro_citevae.models import LinearGaussian

TRAINING = {"batch_size": 100, "kl_start": 1.0, "n_particles": 10, "validation": 0.0, "progress": False}


class Counts(cv.LatentDynamics):
    """z_t ~ N(z_{t-1} + u_t a, 0.3);  x_t ~ NB(library * softmax(C z_t), theta), every value a parameter."""

    def __init__(self, schema: cv.Schema, *, theta: float = 3.0) -> None:
        super().__init__(schema, n_programs=2)
        generator = torch.Generator().manual_seed(0)
        self.a = torch.nn.Parameter(torch.randn(schema.n_tokens, 2, generator=generator))
        self.C = torch.nn.Parameter(0.7 * torch.randn(2, schema.n_genes, generator=generator))
        self.log_theta = torch.nn.Parameter(torch.tensor(theta).log())

    def mechanism(self) -> cv.Mechanism:
        return cv.Mechanism(a=self.a)

    def initial(self, mechanism: cv.Mechanism) -> cv.program.Distribution:
        return dist.Normal(torch.zeros(2), 1.0).to_event(1)

    def transition(self, mechanism: cv.Mechanism, history: list, u: torch.Tensor) -> cv.program.Distribution:
        return dist.Normal(history[-1] + u @ mechanism.a, 0.3).to_event(1)

    def emission(
        self, mechanism: cv.Mechanism, z: torch.Tensor, s: torch.Tensor, library: torch.Tensor
    ) -> cv.program.Distribution:
        log_mean = library.log()[..., None] + torch.log_softmax(z @ self.C, dim=-1)
        return cv.counts.NegativeBinomial(log_mean, self.log_theta).to_event(1)


def known(model: cv.LatentDynamics) -> cv.Posterior:
    """A model whose parameters are taken as they are: nothing global to infer, and no cell is abducted."""
    return cv.Posterior(model, MeanField(model, hidden=4), pd.DataFrame(), {})


def drawn_from(model: cv.LatentDynamics, design: cv.Trajectories, seed: int = 0) -> cv.Trajectories:
    batch = design.batch()
    torch.manual_seed(seed)
    with torch.no_grad(), pyro.poutine.trace() as tracer:
        model(batch.unobserved())
    x = tracer.trace.nodes["x"]["value"].transpose(0, 1)[batch.observed.T].numpy()
    return replace(design, values=sparse.csr_matrix(x))


def screen(design: str = "time course", values: str = "counts", n_cells: int = 400) -> cv.Trajectories:
    return simulated(design, values, n_cells=n_cells, n_genes=8, library=40.0, seed=1)


def linear_gaussian(design: cv.Trajectories) -> LinearGaussian:
    model = LinearGaussian(design.schema, n_programs=2)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.W.copy_(torch.tensor([[[0.0, 0.3], [-0.2, 0.0]]]))
        model.a.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.5, 0.5]]))
        model.loading.weight.copy_(0.7 * torch.randn(8, 2, generator=generator))
        model.loading.bias.copy_(0.5 * torch.randn(8, generator=generator))
    return model


class TooNarrow(BackwardSmoother):
    """Trains as its parent does, and then draws with half its spread."""

    def state(self, t: int, law: cv.program.Distribution, batch: cv.data.Batch) -> torch.Tensor:
        if not torch.is_grad_enabled():
            law = dist.Normal(law.base_dist.loc, 0.5 * law.base_dist.scale).to_event(1)
        return super().state(t, law, batch)


class Mean(cv.LatentDynamics):
    """m ~ N(0, 1) for each gene;  x ~ N(m, 1): the posterior of m is N(sum x / (n + 1), 1 / (n + 1))."""

    dims = MappingProxyType({"m": ("gene",)})

    def __init__(self, schema: cv.Schema, *, n_programs: int = 1) -> None:
        super().__init__(schema, n_programs=n_programs, n_invariant=1)
        self.scale = torch.nn.Parameter(torch.ones(schema.n_genes))

    def mechanism(self) -> cv.Mechanism:
        return cv.Mechanism(m=pyro.sample("m", dist.Normal(torch.zeros_like(self.scale), 1.0).to_event(1)))

    def initial(self, mechanism: cv.Mechanism) -> cv.program.Distribution:
        return dist.Normal(torch.zeros(self.n_programs), 1.0).to_event(1)

    def transition(self, mechanism: cv.Mechanism, history: list, u: torch.Tensor) -> cv.program.Distribution:
        return dist.Normal(torch.zeros(self.n_programs), 1.0).to_event(1)

    def emission(
        self, mechanism: cv.Mechanism, z: torch.Tensor, s: torch.Tensor, library: torch.Tensor
    ) -> cv.program.Distribution:
        return dist.Normal(mechanism.m + 0 * z[..., :1], self.scale).to_event(1)


def smoothed(design: cv.Trajectories) -> cv.Posterior:
    """The smoother of a linear Gaussian model with known parameters, trained until it is all but exact."""
    model = linear_gaussian(design)
    guide = BackwardSmoother(model, hidden=16, correction=0)
    data = drawn_from(model, design, seed=5)
    return cv.fit(model, guide, data, learn_model=False, max_epochs=150, learning_rate=0.05, **TRAINING)
