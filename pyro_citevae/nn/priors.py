"""Priors of global sites: arrays of independent entries, and what features of tokens say of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

__all__ = ["FeaturePrior", "from_seen", "gate", "normal"]

_TEMPERATURE = 0.5
_SPREAD_OF_RHO = 0.3


def normal(loc: Float[Tensor, ...], scale: Float[Tensor, ...] | float, *shape: int) -> Distribution:
    """``N(loc, scale)`` for every entry of an array.

    Args:
        loc: Mean, which broadcasts to the shape.
        scale: Standard deviation, which broadcasts to the shape.
        *shape: Shape of the array: the law's event shape.

    Example:
        >>> import torch
        >>> normal(torch.zeros(()), 0.3, 2, 4).event_shape
        torch.Size([2, 4])
    """
    law: Any = dist.Normal(loc, scale)
    return law.expand(torch.broadcast_shapes(law.batch_shape, shape)).to_event(len(shape))


def gate(open_share: Float[Tensor, ...], *shape: int) -> Distribution:
    """A relaxed Bernoulli on (0, 1) for every entry of an array: an edge or a target that may be absent.

    Args:
        open_share: Prior odds of an open gate, as a probability, which broadcasts to the shape.
        *shape: Shape of the array: the law's event shape.

    Source: C. J. Maddison, A. Mnih and Y. W. Teh, The Concrete Distribution (2017).

    Example:
        >>> import torch
        >>> law = gate(torch.tensor(0.2), 2, 4)
        >>> law.event_shape, bool((law.sample() < 1).all())
        (torch.Size([2, 4]), True)
    """
    law: Any = dist.RelaxedBernoulli(open_share.new_tensor(_TEMPERATURE), probs=open_share)
    return law.expand(torch.broadcast_shapes(law.batch_shape, shape)).to_event(len(shape))


def from_seen(
    mean: Float[Tensor, "... token _"], seen: Bool[Tensor, " token"]
) -> Float[Tensor, "... token _"]:
    """The prior means of rows, of which only those of tokens with cells teach what the means depend on.

    Without cells a row follows its prior, and would only be one more imagined observation of it.

    Args:
        mean: Prior mean of each token's row.
        seen: Which tokens have training cells.

    Example:
        >>> import torch
        >>> mean = torch.zeros(2, 1, requires_grad=True)
        >>> from_seen(mean, torch.tensor([True, False])).sum().backward()
        >>> mean.grad.ravel().tolist()
        [1.0, 0.0]
    """
    return torch.where(seen[:, None], mean, mean.detach())


@final
class FeaturePrior(nn.Module):
    r"""What the features F of tokens say of their rows: a Bayesian linear model for each kind of row.

    ::

        tau_f ~ LogNormal(0, 1)            B_f ~ N(0, s tau_f)       f = 0 for the population
        mean_p = B_0 + F_p B                                         what population and features say
        rho_p ~ LogNormal(m_rho, 0.3)      row_p ~ N(mean_p, s rho_p)         and what a token has alone

    With B integrated out, rows are a Gaussian process over tokens with kernel
    ``s^2 (tau_0^2 + F diag(tau^2) F^T + diag(rho^2))``. A useless feature shrinks its tau, and leaves the
    population's mean row. Most perturbations of a screen do little and a few do much, hence a rho for each
    token: the few do not decide for all, and an unseen token's spread has a heavier tail.

    Args:
        features: Features of each token; a row of zeros is a token of which nothing is known.
        sites: Kinds of rows that have deviations of their own.

    Source: D. J. C. MacKay, Bayesian Nonlinear Modeling for the Prediction Competition (1994), for a scale
    a feature; C. E. Rasmussen and C. K. I. Williams, Gaussian Processes for Machine Learning (2006).

    Example:
        >>> import torch
        >>> prior = FeaturePrior(torch.eye(3), ["a"])
        >>> prior.mean("a", 0.5, 4).shape, prior.own("a", 0.5, torch.ones(3, dtype=torch.bool)).shape
        (torch.Size([3, 4]), torch.Size([3, 1]))
    """

    F: Tensor

    def __init__(self, features: Float[Tensor, "token feature"], sites: Sequence[str]) -> None:
        super().__init__()
        self.register_buffer("F", features)
        self.m_rho = nn.ParameterDict({site: nn.Parameter(torch.tensor(-1.0)) for site in sites})

    def mean(self, site: str, scale: float, width: int) -> Float[Tensor, "... token width"]:
        """Draws ``tau_SITE`` and ``B_SITE``, and returns the means of the rows."""
        design = torch.cat([self.F.new_ones(len(self.F), 1), self.F], dim=-1)
        zero = self.F.new_zeros(design.shape[1])
        tau = pyro.sample(f"tau_{site}", dist.LogNormal(zero, 1.0).to_event(1))
        B = pyro.sample(f"B_{site}", normal(zero[:, None], scale * tau[..., None], len(zero), width))
        mean: Tensor = design @ B
        # under a plate of draws a law's rows lie one axis further left than values that meet cells
        return mean.unsqueeze(-3) if mean.dim() > 2 else mean

    def own(self, site: str, scale: float, seen: Bool[Tensor, " token"]) -> Float[Tensor, "... token 1"]:
        """Draws ``rho_SITE``, and returns the spread of each token's own deviation."""
        median = from_seen(self.m_rho[site].expand(len(seen), 1), seen)[:, 0]
        rho: Tensor = pyro.sample(f"rho_{site}", dist.LogNormal(median, _SPREAD_OF_RHO).to_event(1))
        return scale * rho[..., None]
