"""Replicated data: what the fitted program would have measured instead of the screen at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_citevae import sites
from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.batch import Batch
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError, ModelError
from pyro_citevae.infer.exchangeability import global_draws
from pyro_citevae.infer.predictive import Predictive
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.infer.substitute import Substitute
from pyro_citevae.program import LatentDynamics

__all__ = [
    "MOST_VALUES",
    "Replicate",
    "ReplicatedCells",
    "measured",
    "prior_draws",
    "replicates",
    "require_cells",
]

ReplicatedCells = Literal["population", "cells"]

MOST_VALUES = 5_000_000


@dataclass(frozen=True)
class Replicate:
    """One block of replicated values.

    Attributes:
        chain: Which member of an ensemble.
        draws: Which draws.
        rows: Which observations of the data.
        x: The values.
    """

    chain: int
    draws: slice
    rows: slice
    x: Float[Tensor, "draw row gene"]


def replicates(
    posterior: Predictive,
    data: Trajectories,
    *,
    draws: int,
    cells: ReplicatedCells = "population",
    prior: bool = False,
    seed: int = 0,
    most_values: int = MOST_VALUES,
) -> Iterator[Replicate]:
    """Replicates the data in blocks that fit in memory: all cells for some draws, then for the next.

    ``g ~ q(g)`` once a draw, then for each cell ``s, z ~ p(s, z | g, schedule)`` and ``x ~ p(x | g, s, z)``,
    at the cell's own times, library sizes and batch: a new cell under the same conditions. With
    ``cells="cells"`` s and z are those abducted from the cell itself, which checks the emission alone.

    Args:
        posterior: A posterior, or an ensemble, whose members are chains.
        data: The cells to replicate.
        draws: Number of draws, of each member of an ensemble.
        cells: ``"population"`` for new cells, ``"cells"`` for the same ones.
        prior: Draw the global sites from their prior; parameters stay fitted.
        seed: Seed of every draw.
        most_values: Draws x cells x genes that are held at once.

    Raises:
        DataError: The data are empty or of another panel, or ``cells`` or ``draws`` is not as above.
        ModelError: The same cells are asked for from the prior.
    """
    _require(posterior, data, draws, cells, prior)
    n_groups = len(data.conditions) * len(data.schema.times)
    n_draws = max(1, min(draws, most_values // (n_groups * data.schema.n_genes)))
    n_cells = max(1, most_values // (n_draws * data.schema.n_slots * data.schema.n_genes))
    first_row = np.searchsorted(data.row_cell, np.arange(data.n_cells + 1))
    rng = np.random.default_rng(seed)
    for chain, (model, guide) in enumerate(posterior.members):
        with seeded(int(rng.integers(2**31))):
            mechanism = prior_draws(model, draws) if prior else global_draws(guide, draws)
        for start in range(0, draws, n_draws):
            drawn = slice(start, min(start + n_draws, draws))
            fixed = {name: value[drawn] for name, value in mechanism.items()}
            for first in range(0, data.n_cells, n_cells):
                last = min(first + n_cells, data.n_cells)
                batch = data.batch(np.arange(first, last)).to(model.device)
                with seeded(int(rng.integers(2**31))), torch.no_grad():
                    abducting = guide if cells == "cells" else None
                    x = _replicated(model, abducting, batch, fixed, drawn.stop - drawn.start)
                rows = slice(int(first_row[first]), int(first_row[last]))
                yield Replicate(chain, drawn, rows, x.transpose(1, 2)[:, batch.observed.T])


def measured(data: Trajectories, most_values: int = MOST_VALUES) -> Iterator[Replicate]:
    """The data themselves in the same form, as a single draw."""
    n_rows = max(1, most_values // data.schema.n_genes)
    for first in range(0, data.n_observations, n_rows):
        rows = slice(first, min(first + n_rows, data.n_observations))
        yield Replicate(0, slice(0, 1), rows, torch.from_numpy(data.values[rows].toarray())[None])


def prior_draws(model: LatentDynamics, draws: int) -> dict[str, Tensor]:
    """Draws of the global sites from their prior, each of shape (draw, 1, 1) + event shape."""
    with torch.no_grad(), pyro.plate("draw", draws, dim=-3):
        nodes: dict[str, Any] = poutine.trace(model.mechanism).get_trace().nodes
    drawn = {name: node for name, node in nodes.items() if node["type"] == "sample"}
    return {name: node["value"] for name, node in drawn.items() if not site_is_subsample(node)}


def _replicated(
    model: LatentDynamics,
    guide: AmortizedGuide | None,
    batch: Batch,
    mechanism: dict[str, Tensor],
    draws: int,
) -> Float[Tensor, "draw slot cell gene"]:
    """Values drawn from the program; with a guide, from the states that it abducts."""
    values = dict(mechanism)
    if guide is not None:
        with Substitute(mechanism, mean=False), pyro.plate("draw", draws, dim=-3):
            abducted: Any = poutine.trace(guide).get_trace(batch)
        values |= {name: abducted.nodes[name]["value"] for name in sites.cell_states(abducted.nodes)}
    with Substitute(values, mean=False), pyro.plate("draw", draws, dim=-3), poutine.trace() as tracer:
        model(batch.unobserved())
    x: Any = tracer.trace.nodes[sites.VALUES]["value"]
    return x


def require_cells(posterior: Predictive, data: Trajectories) -> None:
    """Checks that there are cells, of the model's panel.

    Raises:
        DataError: There are none, or they have other genes or tokens.
    """
    if data.schema.genes != posterior.schema.genes or data.schema.tokens != posterior.schema.tokens:
        raise DataError("the data has other genes or tokens than the model; read it with schema=.")
    if data.n_cells == 0:
        raise DataError("the data is empty; give cells that the model can be held against.")


def _require(posterior: Predictive, data: Trajectories, draws: int, cells: str, prior: bool) -> None:
    require_cells(posterior, data)
    if draws < 1:
        raise DataError(f"draws={draws} must be one or more.")
    if cells not in get_args(ReplicatedCells):
        raise DataError(f"replicate={cells!r} is not known; use 'population' or 'cells'.")
    if prior and cells == "cells":
        raise ModelError("the prior has not seen the cells; use replicate='population' with prior=True.")
