"""A VAE of single observations, blind to time and to perturbations, with a weight on its prior."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch

import pyro_citevae as cv
from pyro_citevae.nn.networks import Decoder, ImageDecoder


class BetaVAE(cv.LatentDynamics):
    r"""States without a past: every step on its own.

    ::

        z_{n,t} ~ N(0, I)            x_{n,t} ~ N(f(z_t), spread I)

    Dividing its bound by spread^2 shows the weight beta of the Kullback-Leibler term of a VAE whose noise has
    scale one: ``beta = spread^2`` up to a factor.

    Source: I. Higgins et al., beta-VAE (2017); for the noise in the place of beta, O. Rybkin, K. Daniilidis,
    S. Levine, Simple and Effective VAE Training with Calibrated Decoders (2021).
    """

    def __init__(
        self, schema: cv.Schema, *, n_programs: int = 4, hidden: int = 64, spread: float = 0.3
    ) -> None:
        super().__init__(schema, n_programs=n_programs)
        self.f = (
            ImageDecoder(n_programs, schema.image, hidden)
            if schema.image
            else Decoder(n_programs, schema.n_genes, hidden)
        )
        self.spread = spread

    def mechanism(self) -> cv.Mechanism:
        """There is nothing to draw."""
        return cv.Mechanism()

    def initial(self, mechanism: cv.Mechanism) -> cv.program.Distribution:
        """Standard normal."""
        return dist.Normal(torch.zeros(self.n_programs), 1.0).to_event(1)

    def transition(
        self, mechanism: cv.Mechanism, history: Sequence[torch.Tensor], u: torch.Tensor
    ) -> cv.program.Distribution:
        """Standard normal again, whatever was before."""
        return dist.Normal(torch.zeros_like(history[-1]), 1.0).to_event(1)

    def emission(
        self, mechanism: cv.Mechanism, z: torch.Tensor, s: torch.Tensor, library: torch.Tensor
    ) -> cv.program.Distribution:
        """Normal around the decoder's value."""
        return dist.Normal(self.f(z), self.spread).to_event(1)
