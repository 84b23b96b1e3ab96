"""Bounds on the log evidence, as modules of a minibatch."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal, cast

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import is_validation_enabled, prune_subsample_sites
from pyro.util import check_model_guide_match
from torch import Tensor, nn

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.batch import Batch
from pyro_citevae.errors import FitError
from pyro_citevae.infer.importance import log_weights
from pyro_citevae.nn.network_parameters import without_network_parameters
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
    if objective == "elbo" and model.enumerated:
        return _Weighted(_Summed(_of_pyro(TraceEnum_ELBO, model, guide, particles)))
    if objective == "elbo":
        return _Weighted(_Elbo(model, guide, particles))
    if model.enumerated:
        raise FitError(
            f"objective='{objective}' is not defined for {type(model).__name__}, whose discrete sites are "
            "summed over; use objective='elbo'."
        )
    return RenyiBound(model, guide, alpha=0.0 if objective == "iwae" else alpha, draws=particles)


def _of_pyro(kind: type, model: LatentDynamics, guide: AmortizedGuide, particles: int) -> nn.Module:
    elbo = kind(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=2)
    made: nn.Module = elbo(model, guide)
    return made


class _Elbo(nn.Module):
    """``log p(x, z) - log q(z)`` at draws of the guide, as one tensor.

    Pyro's own reads every site's term from the device, which waits for the host that often. Where a guide
    draws a site without a gradient through the draw, Pyro's own is taken, which has an estimator for it.

    Args:
        model: The generative program.
        guide: Its guide.
        particles: Number of draws.
    """

    def __init__(self, model: LatentDynamics, guide: AmortizedGuide, particles: int) -> None:
        super().__init__()
        self.model, self.guide, self.particles = model, guide, particles
        self.general: nn.Module | None = None

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        """The negative bound of the data set that the minibatch stands for."""
        if self.general is None:
            with without_network_parameters():  # an optimiser has them of the modules
                q = prune_subsample_sites(poutine.trace(self._drawn(self.guide)).get_trace(batch))
                if all(cast(Any, site["fn"]).has_rsample for _, site in q.iter_stochastic_nodes()):
                    p = poutine.trace(poutine.replay(self._drawn(self.model), trace=q)).get_trace(batch)
                    return self._negative(prune_subsample_sites(p), q)
            self.general = _of_pyro(Trace_ELBO, self.model, self.guide, self.particles)
        loss: Tensor = self.general(batch)
        return loss

    def _drawn(self, program: Callable[[Batch], Any]) -> Callable[[Batch], Any]:
        """The program under a plate of draws, if there are several."""
        if self.particles == 1:
            return program
        return pyro.plate("draw", self.particles, dim=-3)(program)

    def _negative(self, p: Trace, q: Trace) -> Float[Tensor, ""]:
        if is_validation_enabled():
            check_model_guide_match(p, q, 3 if self.particles > 1 else 2)
        gap = cast(Tensor, q.log_prob_sum()) - cast(Tensor, p.log_prob_sum())
        return gap / self.particles


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
