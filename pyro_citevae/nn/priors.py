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

        tau_i ~ LogNormal(0, 1)                 relative scale of each source of features
        B_0 ~ N(0, s)      B_f ~ N(0, s tau_i(f))          weights of the population and of each feature
        mean_p = B_0 + F_p B                    row of token p, before its own deviation N(0, s)

    With B integrated out, rows are a Gaussian process over tokens with kernel ``s^2 (1 + tau^2 F F^T)``:
    useless features shrink tau, and leave the population's mean row.

    Args:
        features: Feature of each token; a row of zeros is a token of which nothing is known.
        names: Names of the columns, ``SOURCE_NUMBER``.

    Source: C. E. Rasmussen and C. K. I. Williams, Gaussian Processes for Machine Learning (2006).

    Example:
        >>> import torch
        >>> prior = FeaturePrior(torch.eye(3), ["one_0", "one_1", "two_0"])
        >>> prior.sources
        ('one', 'two')
        >>> prior("a", 0.5, 4).shape
        torch.Size([3, 4])
    """

    F: Tensor
    source: Tensor

    def __init__(self, features: Float[Tensor, "token feature"], names: Sequence[str]) -> None:
        super().__init__()
        of_column = [name.rpartition("_")[0] for name in names]
        self.sources = tuple(dict.fromkeys(of_column))
        self.register_buffer("F", features)
        index = torch.tensor([self.sources.index(one) for one in of_column], dtype=torch.int64)
        self.register_buffer("source", index, persistent=False)

    def forward(self, site: str, scale: float, width: int) -> Float[Tensor, "... token width"]:
        """Draws ``tau_SITE`` and ``B_SITE``, and returns the means of the rows; see the class."""
        one = self.F.new_ones(1)
        weight = one
        if self.sources:
            relative: Any = dist.LogNormal(0 * one, one).expand((len(self.sources),)).to_event(1)
            tau = pyro.sample(f"tau_{site}", relative)
            weight = torch.cat([torch.ones_like(tau[..., :1]), tau[..., self.source]], dim=-1)
        shape = (len(self.source) + 1, width)
        B = pyro.sample(f"B_{site}", normal(0 * one, scale * weight[..., None], *shape))
        design = torch.cat([self.F.new_ones(len(self.F), 1), self.F], dim=-1)
        mean = design @ B
        # under a plate of draws a law's rows lie one axis further left than values that meet cells
        return mean.unsqueeze(-3) if mean.dim() > 2 else mean
