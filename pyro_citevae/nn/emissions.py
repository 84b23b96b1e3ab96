"""Emissions: the law of the values observed of a cell, given a decoder's logits."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_citevae.errors import ModelError
from pyro_citevae.nn.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial

__all__ = ["Emission"]

_FAMILIES = MappingProxyType(
    {"counts": ("negative_binomial", "zero_inflated", "poisson"), "real": ("gaussian",)}
)
_LEAST_LOG_RATE = -80.0


@final
class Emission(nn.Module):
    r"""The law of a cell's values, independent over genes.

    ::

        log mu = log library + log softmax(logits)        over the genes and, if given, the unmeasured rest

        negative_binomial   x_g ~ NB(mu_g, theta_g)
        zero_inflated       x_g ~ pi_g delta_0 + (1 - pi_g) NB(mu_g, theta_g)
        poisson             x_g ~ Poisson(mu_g)
        gaussian            x_g ~ N(logits_g, scale_g)

    ===========  ====================================  =======
    symbol       meaning                               shape
    ===========  ====================================  =======
    log_theta    logarithm of the inverse dispersion   (gene,)
    gate_logits  logit of pi, the share of dropouts    (gene,)
    log_scale    logarithm of the standard deviation   (gene,)
    ===========  ====================================  =======

    Args:
        values: What is observed, ``"counts"`` or ``"real"``: that of the schema.
        n_genes: Number G of genes.
        family: One of the four; None for the negative binomial, or the Gaussian of real values.

    Raises:
        ModelError: The family is unknown or does not fit the values.

    Source: C. Hafemeister and R. Satija, Normalization and Variance Stabilization of Single-Cell RNA-seq
    Data (2019), for counts; D. Risso et al., A General and Flexible Method for Signal Extraction from
    Single-Cell RNA-seq Data (2018), for the zero inflation.

    Example:
        >>> import torch
        >>> emission = Emission("counts", n_genes=3, family="poisson")
        >>> emission(torch.zeros(2, 3), library=torch.tensor([3.0, 30.0])).mean
        tensor([[ 1.,  1.,  1.],
                [10., 10., 10.]])
    """

    def __init__(self, values: str, n_genes: int, family: str | None = None) -> None:
        super().__init__()
        fitting = _FAMILIES[values]
        self.family = fitting[0] if family is None else family
        self.n_genes = n_genes
        if self.family not in fitting:
            raise ModelError(
                f"emission='{family}' does not fit a schema of values='{values}'; name one of "
                f"{', '.join(fitting)}."
            )
        if self.family in ("negative_binomial", "zero_inflated"):
            self.log_theta = nn.Parameter(torch.full((n_genes,), 2.0))
        if self.family == "zero_inflated":
            self.gate_logits = nn.Parameter(torch.full((n_genes,), -3.0))
        if self.family == "gaussian":
            self.log_scale = nn.Parameter(torch.zeros(n_genes))

    def forward(
        self, logits: Float[Tensor, "... gene_and_rest"], library: Float[Tensor, ...]
    ) -> Distribution:
        """The law of the values, with event shape (gene,).

        Args:
            logits: What the decoder says of each gene. One more class stands for the genes that the library
                size counts and nobody measured.
            library: Library size of each cell; real values have none.
        """
        law: Any
        with torch.autocast(logits.device.type, enabled=False):  # a log mean of 8 bits would be off by 1 %
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            if self.family == "gaussian":
                law = dist.Normal(self._genes(logits), self.log_scale.exp())
            else:
                log_shares = self._genes(torch.log_softmax(logits, dim=-1))
                law = self._counts(_plus(log_shares, library.log()[..., None]))
        return law.to_event(1)

    def _genes(self, values: Float[Tensor, "... gene_and_rest"]) -> Float[Tensor, "... gene"]:
        """Without the rest; where there is none, without a slice, whose gradient would be a copy."""
        return values if values.shape[-1] == self.n_genes else values[..., : self.n_genes]

    def _counts(self, log_mean: Float[Tensor, "... gene"]) -> Distribution:
        if self.family == "poisson":
            # below, the rate would round to zero, and a count there would cost infinitely much
            return Poisson(log_mean.clamp(min=_LEAST_LOG_RATE))
        if self.family == "zero_inflated":
            return ZeroInflatedNegativeBinomial(log_mean, self.log_theta, self.gate_logits)
        return NegativeBinomial(log_mean, self.log_theta)


def _plus(values: Float[Tensor, ...], added: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """The sum; in place where nothing is learnt, since making a tensor costs a pass over it."""
    in_place = (
        not torch.is_grad_enabled() and torch.broadcast_shapes(values.shape, added.shape) == values.shape
    )
    return values.add_(added) if in_place else values + added
