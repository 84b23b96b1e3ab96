"""Latent sites: what the model draws, its guide must draw too, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.batch import Batch
from pyro_citevae.data.doses import Doses
from pyro_citevae.errors import ModelError
from pyro_citevae.infer.drawn_rows import drawn_rows, n_own_values
from pyro_citevae.nn.rows_in_use import RowsInUse
from pyro_citevae.program import LatentDynamics

__all__ = ["few_rows", "global_sites", "is_latent", "require_matching_sites"]


def is_latent(site: Mapping[str, Any]) -> bool:
    """Whether a site of a trace is neither observed, nor a plate's, nor a guide's own auxiliary."""
    ours = site["type"] == "sample" and not site_is_subsample(cast(Any, site))
    return ours and not site["is_observed"] and not site["infer"].get("is_auxiliary")


def require_matching_sites(model: LatentDynamics, guide: AmortizedGuide, batch: Batch) -> None:
    """Refuses a model and a guide that do not draw the same latent sites.

    Discrete sites that an ``enumerated`` model marks with ``infer={"enumerate": ...}`` are summed over, so
    the guide does not draw them.

    Args:
        model: The generative program.
        guide: Its guide.
        batch: A few cells, one of them observed as late as any.

    Raises:
        ModelError: A site is drawn by one of the two only; the sentence names it and the way out.
    """
    batch = batch.to(model.device)
    with drawn_rows(model, guide, few_rows(model, guide, batch)):
        drawn, guided = _latent_sites(model, batch), _latent_sites(guide, batch)
    summed = {name for name, site in drawn.items() if site["infer"].get("enumerate")}
    model_name, guide_name = type(model).__name__, type(guide).__name__
    for name in sorted(drawn.keys() - guided.keys() - (summed if model.enumerated else set())):
        way_out = (
            f"set enumerated = True on {model_name}, so that inference sums over it"
            if name in summed
            else "draw it in the guide, or in mechanism() if it is global, where the guide finds it"
        )
        raise ModelError(f"{model_name} samples '{name}', and {guide_name} does not; {way_out}.")
    for name in sorted(guided.keys() - drawn.keys()):
        raise ModelError(
            f"{guide_name} samples '{name}', and {model_name} does not; leave it out of the guide, or sample "
            "it in the model."
        )
    for name in sorted(guided.keys() & summed):
        raise ModelError(
            f"{guide_name} samples '{name}', which {model_name} has summed over; leave it out of the guide."
        )


def global_sites(model: LatentDynamics) -> dict[str, Tensor]:
    """A prior draw of each site that ``model.mechanism`` samples, by name."""
    with torch.random.fork_rng(), torch.no_grad(), poutine.block(), poutine.trace() as tracer:
        model.mechanism()
    nodes: dict[str, Any] = tracer.trace.nodes
    return {name: node["value"] for name, node in nodes.items() if is_latent(node)}


def few_rows(model: LatentDynamics, guide: AmortizedGuide, batch: Batch) -> RowsInUse | None:
    """The rows of the cells' tokens, where tokens have rows of their own; None where all rows are drawn.

    Args:
        model: The generative program.
        guide: Its guide.
        batch: A few cells.
    """
    if n_own_values(model, guide) is None:
        return None
    given = Doses.of(batch.u)
    acting = RowsInUse.acting(given.token, given.amount)
    return RowsInUse.of_tokens(acting.tokens, model.schema.n_tokens)


def _latent_sites(program: nn.Module, batch: Batch) -> dict[str, dict[str, Any]]:
    with torch.random.fork_rng(), torch.no_grad(), poutine.trace() as tracer:
        program(batch)
    sites: dict[str, Any] = tracer.trace.nodes
    return {name: site for name, site in sites.items() if is_latent(site)}
