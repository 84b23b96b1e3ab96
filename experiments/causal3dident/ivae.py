"""A VAE whose prior depends on the perturbation and not on the past."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import pyro
import pyro.distributions as dist
import torch

import pyro_citevae as cv
from pyro_citevae.nn.networks import Decoder, ImageDecoder
from pyro_citevae.nn.priors import normal


class IdentifiableVAE(cv.LatentDynamics):
    r"""Conditionally independent states, whose mean and scale an environment sets.

    ::

        a_pk ~ N(0, 1)       b_pk ~ N(0, 1)
        z_{n,0} ~ N(0, I)    z_{n,t} ~ N(u_t a, exp(u_t b))        x_{n,t} ~ N(f(z_t), scale)

    Source: I. Khemakhem, D. P. Kingma, R. P. Monti, A. Hyvärinen, Variational Autoencoders and Nonlinear ICA
    (2020).
    """

    dims = MappingProxyType({"a": ("token", "program"), "b": ("token", "program")})

    def __init__(self, schema: cv.Schema, *, n_programs: int = 4, hidden: int = 64) -> None:
        super().__init__(schema, n_programs=n_programs)
        self.f = (
            ImageDecoder(n_programs, schema.image, hidden)
            if schema.image
            else Decoder(n_programs, schema.n_genes, hidden)
        )
        self.log_scale = torch.nn.Parameter(torch.zeros(schema.n_genes))

    def mechanism(self) -> cv.Mechanism:
        """Samples what each environment sets."""
        P, K = self.schema.n_tokens, self.n_programs
        zero = self.log_scale.new_zeros(())
        a = pyro.sample("a", normal(zero, 1.0, P, K))
        b = pyro.sample("b", normal(zero, 1.0, P, K))
        return cv.Mechanism(a=a, b=b)

    def initial(self, mechanism: cv.Mechanism) -> cv.program.Distribution:
        """Standard normal."""
        return dist.Normal(torch.zeros(self.n_programs), 1.0).to_event(1)

    def transition(
        self, mechanism: cv.Mechanism, history: Sequence[torch.Tensor], u: torch.Tensor
    ) -> cv.program.Distribution:
        """What the environment sets, whatever was before."""
        return dist.Normal(u @ mechanism.a, torch.exp(u @ mechanism.b)).to_event(1)

    def emission(
        self, mechanism: cv.Mechanism, z: torch.Tensor, s: torch.Tensor, library: torch.Tensor
    ) -> cv.program.Distribution:
        """Normal around the decoder's value."""
        return dist.Normal(self.f(z), self.log_scale.exp()).to_event(1)
