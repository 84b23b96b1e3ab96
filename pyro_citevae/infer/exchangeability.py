"""Global values of tokens without training cells: an unseen token is one more like those that were seen."""

from __future__ import annotations

from typing import Any, final

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Int
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.program import LatentDynamics

__all__ = ["Exchangeable", "global_draws"]

_CONCENTRATION = 1.0


def global_draws(guide: AmortizedGuide, n_draws: int) -> dict[str, Tensor]:
    """Draws of the global sites, each of shape (draw, 1, 1) + event shape.

    What they say of tokens without training cells comes from the other tokens; see :class:`Exchangeable`.
    """
    with torch.no_grad(), pyro.plate("draw", n_draws, dim=-3):
        draws: dict[str, Tensor] = guide.mechanism()
    if not draws or bool(guide.model.seen.all()):
        return draws
    with torch.no_grad(), Exchangeable(guide.model, draws) as given, pyro.plate("draw", n_draws, dim=-3):
        guide.model.aligned_mechanism()
    return given.values


@final
class Exchangeable(Messenger):
    r"""Gives global sites their drawn values, and tokens without cells what a seen token deviates by.

    ::

        q_u ~ a seen token, with probability 1 / (n + 1) each, or none
        row_u = mean_u + s_u (row_q - mean_q) / s_q        or, for none, a draw from the prior of row_u

    with the same q for all that a token has. The n seen tokens and an unseen one are exchangeable given what
    their prior means say, and this is Polya's urn on their standardised deviations. A normal in its place
    would lose what matters most: few perturbations of a screen do anything, and those share directions. So
    where nothing is known of it, the expected effect of an unseen token is the mean effect of the seen ones,
    and its spread is theirs. Of sites that features inform, the model itself says what the rows are, given
    the donors, by :meth:`~pyro_citevae.LatentDynamics.unseen`.

    Args:
        model: The model, whose ``dims`` say which sites have rows of tokens and whose ``seen`` which of these
            have training cells.
        draws: Values of the global sites over draws.

    Source: D. Blackwell and J. B. MacQueen, Ferguson Distributions via Polya Urn Schemes (1973).
    """

    def __init__(self, model: LatentDynamics, draws: dict[str, Tensor]) -> None:
        super().__init__()
        self.model, self.values = model, dict(draws)
        self.donor = self._donors(len(next(iter(draws.values()))) if draws else 0)
        self.told = model.unseen(draws, self.donor) if model.in_use is None else {}  # rows of seen tokens

    def _donors(self, n_draws: int) -> Int[Tensor, "draw token"]:
        """Whose deviation each token has: its own if it was seen, that of a seen one, or -1 for none."""
        seen = self.model.seen
        of_seen = torch.cat([seen.nonzero()[:, 0], seen.new_tensor([-1], dtype=torch.int64)])
        weight = torch.ones_like(of_seen, dtype=torch.float)
        weight[-1] = _CONCENTRATION
        drawn = of_seen[torch.multinomial(weight, n_draws * len(seen), replacement=True)]
        own = torch.arange(len(seen), device=seen.device)
        return torch.where(seen, own, drawn.view(n_draws, len(seen)))

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        name = message["name"]
        if name not in self.values:
            return
        dims = self.model.axes(name) or ()
        of_seen = self.model.in_use is not None and name in self.model.local_sites  # rows of these alone
        if name in self.told:
            self.values[name] = self.told[name]
        elif "token" in dims and not of_seen:
            self.values[name] = self._exchanged(message["fn"], self.values[name], dims)
        message["value"], message["done"] = self.values[name], True

    def _exchanged(self, law: Any, value: Tensor, dims: tuple[str, ...]) -> Tensor:
        """The values with those of unseen tokens replaced."""
        axis = dims.index("token") - len(dims)
        row = [1] * (-1 - axis)
        shape = (len(value), *[1] * (value.dim() + axis - 1), -1, *row)
        donor = self.donor.view(shape)
        prior = law.expand(value.shape[: -len(dims)])
        scaled = _located(prior.base_dist)
        deviation = value if scaled is None else scaled.inv(value)
        given = deviation.gather(axis, donor.clamp(min=0).expand_as(deviation))
        exchanged = torch.where(donor < 0, prior.sample(), given if scaled is None else scaled(given))
        return torch.where(self.model.seen.view(-1, *row), value, exchanged)


def _located(law: Any) -> Any:
    """The map from standardised deviations to values, for a family with a location and a scale."""
    affine = dist.transforms.AffineTransform
    if isinstance(law, dist.Normal):
        return affine(law.loc, law.scale)
    if isinstance(law, dist.LogNormal):
        return dist.transforms.ComposeTransform([affine(law.loc, law.scale), dist.transforms.ExpTransform()])
    return None
