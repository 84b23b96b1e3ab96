"""Importance weights of the guide's draws: apart for the global sites and for each cell's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.batch import Batch
from pyro_citevae.errors import ModelError
from pyro_citevae.infer.substitute import Substitute
from pyro_citevae.program import LatentDynamics

__all__ = ["LogWeights", "log_weights"]


@dataclass(frozen=True)
class LogWeights:
    """Log importance weights, given one draw g of the global sites that all cells and draws share.

    Attributes:
        mechanism: ``log p(g) - log q(g)``.
        cells: ``log p(x_n, z_n, s_n | g) - log q(z_n, s_n | x_n)`` for each draw of a cell's states.
    """

    mechanism: Float[Tensor, ""]
    cells: Float[Tensor, "draw cell"]


def log_weights(
    model: LatentDynamics,
    guide: AmortizedGuide,
    batch: Batch,
    draws: int,
    mechanism: dict[str, Tensor] | None = None,
) -> LogWeights:
    """Draws from the guide, and weighs the draws by the model.

    Args:
        model: The generative program.
        guide: Its guide.
        batch: Observed cells.
        draws: Draws of each cell's states.
        mechanism: Values of the global sites; None for one draw of the guide.

    Returns:
        The weights, without the factor N / B by which a minibatch stands for the whole.

    Raises:
        ModelError: The program sums over discrete sites, whose weights are not defined draw by draw.

    Source: Y. Burda, R. Grosse, R. Salakhutdinov, Importance Weighted Autoencoders (2016).
    """
    if model.enumerated:
        raise ModelError(
            f"{type(model).__name__} sums over discrete sites, so its draws have no importance weights; "
            "use objective='elbo', and criticise it by predictive checks."
        )
    with poutine.trace() as drawn:
        values = guide.mechanism()
    if mechanism is not None:
        values = mechanism
    with Substitute(values, mean=False), pyro.plate("draw", draws, dim=-3):
        guided = poutine.trace(guide).get_trace(batch)
        modelled = poutine.trace(poutine.replay(model, trace=guided)).get_trace(batch)
    scale = batch.size / batch.n_cells
    shape = (draws, batch.n_cells)
    prior = _global_terms(modelled)
    weight = prior if mechanism is not None else prior - drawn.trace.log_prob_sum()
    return LogWeights(weight, (_cell_terms(modelled, shape) - _cell_terms(guided, shape)) / scale)


def _cell_terms(trace: Any, shape: tuple[int, int]) -> Float[Tensor, "draw cell"]:
    """Log probabilities of the sites in the plate of cells, summed over a cell's sites and slots."""
    trace.compute_log_prob(lambda name, site: _is_local(site))
    terms = [node["log_prob"] for node in trace.nodes.values() if _is_local(node)]
    summed = [term.sum(-2) if term.dim() > 1 else term for term in terms]
    return torch.stack([term.expand(shape) for term in summed]).sum(0)


def _global_terms(trace: Any) -> Tensor:
    """Log probabilities of the sites outside the plate of cells, which are equal in every draw."""
    trace.compute_log_prob(lambda name, site: not _is_local(site))
    sites = [node for node in trace.nodes.values() if _is_sampled(node) and not _is_local(node)]
    terms = [node["log_prob"].sum() / math.prod(node["log_prob"].shape[-3:-2]) for node in sites]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def _is_sampled(node: dict[str, Any]) -> bool:
    return bool(node["type"] == "sample") and type(node["fn"]).__name__ != "_Subsample"


def _is_local(node: dict[str, Any]) -> bool:
    return _is_sampled(node) and any(frame.name == "cell" for frame in node["cond_indep_stack"])
