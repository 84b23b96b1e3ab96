"""A VAE whose states move by sparse steps, blind to perturbations."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch

import pyro_citevae as cv
from pyro_citevae.nn.networks import Decoder, ImageDecoder


class SlowVAE(cv.LatentDynamics):
    r"""Each state stays where it is, or moves far: the steps are Laplacian.

    ::

        z_{n,0} ~ N(0, I)        z_{n,t} ~ Laplace(z_{t-1}, b)        x_{n,t} ~ N(f(z_t), scale)

    Source: D. Klindt et al., Towards Nonlinear Disentanglement in Natural Data with Temporal Sparse Coding
    (2021), who fix the rate 1 / b; here it is learnt.
    """

    def __init__(self, schema: cv.Schema, *, n_programs: int = 4, hidden: int = 64) -> None:
        super().__init__(schema, n_programs=n_programs)
        self.f = (
            ImageDecoder(n_programs, schema.image, hidden)
            if schema.image
            else Decoder(n_programs, schema.n_genes, hidden)
        )
        self.b = cv.program.positive(torch.full((n_programs,), 0.3))
        self.log_scale = torch.nn.Parameter(torch.zeros(schema.n_genes))

    def mechanism(self) -> cv.Mechanism:
        """There is nothing to draw."""
        return cv.Mechanism()

    def initial(self, mechanism: cv.Mechanism) -> cv.program.Distribution:
        """Standard normal."""
        return dist.Normal(torch.zeros(self.n_programs), 1.0).to_event(1)

    def transition(
        self, mechanism: cv.Mechanism, history: Sequence[torch.Tensor], u: torch.Tensor
    ) -> cv.program.Distribution:
        """Laplacian steps."""
        return dist.Laplace(history[-1], self.b).to_event(1)

    def emission(
        self, mechanism: cv.Mechanism, z: torch.Tensor, s: torch.Tensor, library: torch.Tensor
    ) -> cv.program.Distribution:
        """Normal around the decoder's value."""
        return dist.Normal(self.f(z), self.log_scale.exp()).to_event(1)
