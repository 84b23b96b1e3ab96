"""Priors of global sites: arrays of independent entries, and what features of tokens say of their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float, Int
from pyro.distributions.torch_distribution import TorchDistributionMixin as Distribution
from torch import Tensor, nn

from pyro_citevae.nn.kriging import kriged
from pyro_citevae.nn.normal_array import NormalArray
from pyro_citevae.nn.rows_in_use import RowsInUse

__all__ = ["TokenRows", "from_seen", "gate", "normal"]

_TEMPERATURE = 0.5
_SPREAD_OF_RHO = 0.3
_LOG_RHO = -2.0  # starts small, so that features explain what they can before a token does alone


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
    return NormalArray(loc, scale, shape)


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
    law: Any = dist.RelaxedBernoulli(open_share.new_full((), _TEMPERATURE), probs=open_share)
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
class TokenRows(nn.Module):
    r"""Laws of the tokens' rows, such as those of the shifts a: independent, or moved by features of tokens.

    Without features, ``row_p ~ N(mu, s)``. Where features F inform a site::

        tau_f ~ LogNormal(0, 1)            B_f ~ N(0, s tau_f)       f = 0 for the population
        mean_p = mu + B_0 + F_p B                                    what population and features say
        rho_p ~ LogNormal(m_rho, 0.3)      row_p ~ N(mean_p, s rho_p)         and what a token has alone

    With B integrated out, rows are a Gaussian process over tokens with kernel
    ``s^2 (tau_0^2 + F diag(tau^2) F^T + diag(rho^2))``. A useless feature shrinks its tau, and leaves the
    population's mean row. Most perturbations of a screen do little and a few do much, hence a rho for each
    token: the few do not decide for all. A row of a token without cells teaches mu, B and m_rho nothing; it
    follows from the seen rows by :func:`~pyro_citevae.nn.kriging.kriged` under that kernel.

    Args:
        features: Features of each token, a row of zeros where nothing is known; None for no features.
        informed: Sites whose rows the features move.

    Source: D. J. C. MacKay, Bayesian Nonlinear Modeling for the Prediction Competition (1994), for a scale
    a feature; C. E. Rasmussen and C. K. I. Williams, Gaussian Processes for Machine Learning (2006).

    Example:
        >>> import torch
        >>> rows = TokenRows(torch.eye(3), ["a"])
        >>> rows("a", torch.zeros(()), 0.5, 4, torch.ones(3, dtype=torch.bool)).event_shape
        torch.Size([3, 4])
    """

    F: Tensor

    def __init__(self, features: Float[Tensor, "token feature"] | None, informed: Sequence[str]) -> None:
        super().__init__()
        self.register_buffer("F", features)
        self.m_rho = nn.ParameterDict()
        for site in informed if features is not None else ():
            self.m_rho[site] = nn.Parameter(torch.tensor(_LOG_RHO))

    def forward(
        self,
        site: str,
        population: Float[Tensor, ...],
        scale: float,
        width: int,
        seen: Bool[Tensor, " token"],
        used: RowsInUse | None = None,
    ) -> Distribution:
        """The law of a site's rows; draws ``tau_SITE``, ``B_SITE`` and ``rho_SITE`` if features inform it.

        Args:
            site: Name of the site.
            population: Mean mu of the population, which broadcasts to a row.
            scale: Scale s of the rows.
            width: Length of a row.
            seen: Which tokens have training cells.
            used: Tokens whose rows are drawn, with what they count; None for all.
        """
        own = population.new_full((1, 1), scale)
        rows = used or RowsInUse.every(len(seen), seen.device)
        seen_rows = seen.index_select(0, rows.tokens)
        mean = population.expand(len(seen_rows), width)
        if site in self.m_rho:
            mean = mean + self._mean(site, scale, width, rows)
            median = from_seen(self.m_rho[site].expand(len(seen), 1), seen)[:, 0]
            rho = pyro.sample(f"rho_{site}", dist.LogNormal(median, _SPREAD_OF_RHO).to_event(1))
            own = scale * rows.of(rho[..., None])
        return NormalArray(from_seen(mean, seen_rows), own, (len(seen_rows), width), weight=rows.weight)

    def unseen(
        self,
        site: str,
        values: Mapping[str, Tensor],
        population: Float[Tensor, ...],
        scale: float,
        seen: Bool[Tensor, " token"],
        donor: Int[Tensor, "draw token"],
    ) -> Float[Tensor, "draw ... token width"]:
        """Draws of a site's rows, those of unseen tokens by the kernel of the drawn tau and one rho.

        Each token's own rho would say that what a strong perturbation does is no guide to the others. The one
        in their place is the root of the seen tokens' mean square.

        Args:
            site: Name of an informed site.
            values: Draws of the global sites, of shape (draw, ..) + event shape.
            population: As in :meth:`forward`.
            scale: As in :meth:`forward`.
            seen: Which tokens have training cells.
            donor: Whose residual an unseen token has in each draw, or -1.
        """
        rows = values[site]
        tau = values[f"tau_{site}"].reshape(len(rows), 1, -1)
        rho = values[f"rho_{site}"].reshape(len(rows), 1, -1)[..., seen]
        own = rho.square().mean(-1, keepdim=True) * torch.eye(len(seen), device=rows.device)
        covariance = scale**2 * ((self._design * tau.square()) @ self._design.mT + own)
        centred = rows.reshape(len(rows), *rows.shape[-2:]) - population
        made = (kriged(centred, covariance, seen, donor) + population).reshape(rows.shape)
        return torch.where(seen[:, None], rows, made)

    def axes(self, axes: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        """Names of the axes of the sites that this adds, from those of the rows."""
        added: dict[str, tuple[str, ...]] = {}
        for site in self.m_rho:
            added |= {f"tau_{site}": ("feature",), f"B_{site}": ("feature", axes[site][-1])}
            added[f"rho_{site}"] = ("token",)
        return added

    @property
    def _design(self) -> Float[Tensor, "token feature"]:
        """A column of ones for the population, then the features."""
        return torch.cat([self.F.new_ones(len(self.F), 1), self.F], dim=-1)

    def _mean(self, site: str, scale: float, width: int, rows: RowsInUse) -> Float[Tensor, "... used width"]:
        """``B_0 + F_p B``."""
        design = rows.of(self._design)
        zero = design.new_zeros(design.shape[1])
        tau = pyro.sample(f"tau_{site}", dist.LogNormal(zero, 1.0).to_event(1))
        B = pyro.sample(f"B_{site}", normal(zero[:, None], scale * tau[..., None], len(zero), width))
        mean: Tensor = design @ B
        # under a plate of draws a law's rows lie one axis further left than values that meet cells
        return mean.unsqueeze(-3) if mean.dim() > 2 else mean
