"""Additive shifts of one latent state, without dynamics: the SAMS-VAE family."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import final

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from pyro_citevae.data.schema import Schema
from pyro_citevae.nn.emissions import Emission
from pyro_citevae.nn.networks import Decoder
from pyro_citevae.nn.priors import gate, normal
from pyro_citevae.program import Distribution, LatentDynamics, Mechanism, positive


@final
class StaticShift(LatentDynamics):
    """A basal state plus sparse shifts, the same at every time after the dose.

    ::

        m_pk ~ RelaxedBernoulli(rho)       a_pk ~ N(0, s_a)
        z_{n,t} ~ N(u_t (m a), I)          basal state N(0, I) plus the shift; no step remembers another
        x_{n,t} ~ NB(library_n softmax(f(z_t)), theta_g)

    ======  =========================  ================
    symbol  meaning                    shape
    ======  =========================  ================
    m, a    target mask and shift      (token, program)
    theta   inverse dispersion         (gene,)
    ======  =========================  ================

    Args:
        schema: Names and sizes of the screen's axes.
        n_programs: Number K of latent dimensions.
        hidden: Width of the decoder's hidden layers; 0 makes it linear.
        emission: Family of :class:`Emission`; None for NB, or N(f(z), scale) where values are real.

    Source: M. Bereket and T. Karaletsos, Modelling Cellular Perturbations with the Sparse Additive
    Mechanism Shift Variational Autoencoder (2023).
    """

    s_a: Tensor
    dims = MappingProxyType({"m": ("token", "program"), "a": ("token", "program")})

    def __init__(
        self, schema: Schema, *, n_programs: int = 16, hidden: int = 64, emission: str | None = None
    ) -> None:
        super().__init__(schema, n_programs=n_programs)
        self.decoder = Decoder(n_programs, schema.n_shares, hidden)
        self.likelihood = Emission(schema.values, schema.n_genes, emission)
        self.s_a = positive(torch.tensor(1.0))

    def mechanism(self) -> Mechanism:
        """Samples the masks and the shifts."""
        P, K = self.schema.n_tokens, self.n_programs
        m = pyro.sample("m", gate(torch.full_like(self.s_a, 0.5), P, K))
        a = pyro.sample("a", normal(torch.zeros_like(self.s_a), self.s_a, P, K))
        return Mechanism(shift=m * a)

    def initial(self, mechanism: Mechanism) -> Distribution:
        """The basal state: standard normal."""
        return dist.Normal(self.s_a.new_zeros(self.n_programs), 1.0).to_event(1)

    def transition(
        self,
        mechanism: Mechanism,
        history: Sequence[Float[Tensor, "... cell program"]],
        u: Float[Tensor, "cell token"],
    ) -> Distribution:
        """A basal state shifted by the dose; the past does not matter."""
        return dist.Normal(u @ mechanism.shift, 1.0).to_event(1)

    def emission(
        self,
        mechanism: Mechanism,
        z: Float[Tensor, "... slot cell program"],
        s: Float[Tensor, "... slot cell invariant"],
        library: Float[Tensor, "slot cell"],
    ) -> Distribution:
        """Counts around the library's share of each gene, unless another family was asked for."""
        return self.likelihood(self.decoder(z), library)
