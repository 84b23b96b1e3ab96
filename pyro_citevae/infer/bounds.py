"""Bounds on the log evidence, as modules of a minibatch."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any, Literal

import torch
from jaxtyping import Float
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.batch import Batch
from pyro_citevae.errors import FitError
from pyro_citevae.infer.importance import log_weights
from pyro_citevae.program import LatentDynamics

__all__ = ["Objective", "RenyiBound", "negative_bound"]

Objective = Literal["elbo", "iwae", "renyi"]


def negative_bound(
    model: LatentDynamics, guide: AmortizedGuide, objective: Objective, *, alpha: float, particles: int
) -> nn.Module:
    """The negative bound of the data set that a minibatch stands for.

    Args:
        model: The generative program.
        guide: Its guide.
        objective: ``"elbo"``, ``"iwae"`` or ``"renyi"``.
        alpha: Order of the Renyi bound.
        particles: Number of draws.

    Raises:
        FitError: The model sums over discrete sites, for which only the ELBO is defined.
    """
    if objective == "elbo":
        kind = TraceEnum_ELBO if model.enumerated else Trace_ELBO
        elbo = kind(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=2)
        made: nn.Module = elbo(model, guide)
        return _Weighted(_Summed(made) if model.enumerated else made)
    if model.enumerated:
        raise FitError(
            f"objective='{objective}' is not defined for {type(model).__name__}, whose discrete sites are "
            "summed over; use objective='elbo'."
        )
    return RenyiBound(model, guide, alpha=0.0 if objective == "iwae" else alpha, draws=particles)


class _Weighted(nn.Module):
    """A bound in which a cell's terms count as the minibatch says."""

    def __init__(self, bound: nn.Module) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        """The negative bound of the data set that the minibatch stands for."""
        with nullcontext() if batch.weight is None else _CellScale(batch.weight):
            loss: Tensor = self.bound(batch)
        return loss


class _CellScale(Messenger):
    """Scales the terms of every site in the plate of cells, in the model and in the guide alike."""

    def __init__(self, weight: Float[Tensor, " cell"]) -> None:
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        if any(frame.name == "cell" for frame in message["cond_indep_stack"]):
            message["scale"] = message["scale"] * self.weight


class _Summed(nn.Module):
    """A bound summed over discrete sites, which Pyro refuses to compute without its gradient."""

    def __init__(self, bound: nn.Module) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        """The negative bound of the data set that the minibatch stands for."""
        with torch.enable_grad():
            loss: Tensor = self.bound(batch)
        return loss if torch.is_grad_enabled() else loss.detach()


class RenyiBound(nn.Module):
    """A bound on the log evidence that is tighter than the ELBO, cell by cell.

    ``L = log p(g) - log q(g) + sum_n 1 / (1 - alpha) log mean_m w_nm^(1 - alpha)`` with M draws of each
    cell's states given one draw g of the global sites. ``alpha = 0`` is the importance-weighted bound, and
    ``alpha -> 1`` the ELBO. Pyro's own takes the weights of all cells together, of which one draw then
    carries everything.

    Args:
        model: The generative program.
        guide: Its guide.
        alpha: Order, from 0 to below 1.
        draws: Number M of draws.

    Source: Y. Burda, R. Grosse, R. Salakhutdinov, Importance Weighted Autoencoders (2016); Y. Li and R. E.
    Turner, Renyi Divergence Variational Inference (2016).
    """

    def __init__(self, model: LatentDynamics, guide: AmortizedGuide, *, alpha: float, draws: int) -> None:
        super().__init__()
        self.model, self.guide = model, guide
        self.alpha, self.draws = alpha, draws

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        """The negative bound of the data set that the minibatch stands for."""
        weights = log_weights(self.model, self.guide, batch, self.draws)
        order = 1 - self.alpha
        cells = (torch.logsumexp(order * weights.cells, 0) - math.log(self.draws)) / order
        if batch.weight is not None:
            cells = batch.weight * cells
        return -(weights.mechanism + batch.size / batch.n_cells * cells.sum())
