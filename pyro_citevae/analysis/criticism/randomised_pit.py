"""The randomised probability integral transform: do measured cells look as predicted?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from pyro_citevae.analysis.criticism.replication import (
    MOST_VALUES,
    Replicate,
    ReplicatedCells,
    replicates,
)
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.infer.idata import observed_groups
from pyro_citevae.infer.predictive import Predictive

__all__ = ["randomised_pit", "transformed"]


def randomised_pit(
    posterior: Predictive,
    data: Trajectories,
    *,
    replicate: ReplicatedCells = "population",
    draws: int = 200,
    most_cells: int = 1000,
    seed: int = 0,
    most_values: int = MOST_VALUES,
) -> xr.DataArray:
    """Probability integral transform of each observed value under its predictive distribution.

    ``u = P(x_rep < x) + v P(x_rep = x)`` with v uniform, by replicated values; v breaks the ties of counts.
    The observed value is counted among the replicated ones, so that u is exactly uniform, for every number
    of draws, if it is one more draw of the program.

    Over the cells, the values of a gene are then uniform, and independent but for what uncertain global sites
    share out: ``uniform(pit, "cell")`` tests that gene by gene. The values of a cell's genes depend on each
    other. For plots of ArviZ that take one dim, ``pit.stack(value=("cell", "gene"), create_index=False)``.

    Args:
        posterior: A fitted model, or an ensemble.
        data: The cells; held-out ones for an honest test.
        replicate: ``"population"`` for new cells under the same schedules, at the same times and library
            sizes; ``"cells"`` for the same cells with their abducted states.
        draws: Number of replicated values, of each member of an ensemble.
        most_cells: Cells beyond this number are thinned evenly.
        seed: Seed of every draw.
        most_values: Draws x cells x genes that are held at once, which bounds the memory.

    Returns:
        Dims (cell, gene), one row an observation, with the coords ``perturbation`` and ``observed_time``.

    Raises:
        DataError: The data are empty or of another panel, or an argument is not as above.

    Source: C. Czado, T. Gneiting, L. Held, Predictive Model Assessment for Count Data (2009).
    """
    data = data.thinned(most_cells)
    made = replicates(posterior, data, draws=draws, cells=replicate, seed=seed, most_values=most_values)
    u = transformed(made, data.values, draws * len(posterior.members), seed)
    known = observed_groups(data)["constant_data"][["perturbation", "observed_time"]]
    return xr.DataArray(
        u,
        {**known.coords, **known.data_vars, "gene": list(data.schema.genes)},
        ("cell", "gene"),
        name="pit",
        attrs={"replicate": replicate, "draws": draws},
    )


def transformed(
    blocks: Iterable[Replicate], values: Any, n_draws: int, seed: int
) -> Float[np.ndarray, "observation gene"]:
    """``u = (#{x_rep < x} + v (1 + #{x_rep = x})) / (1 + n_draws)`` of each value, with v uniform.

    Args:
        blocks: Replicated values.
        values: The observed ones: rows of a sparse matrix, in memory or on disk.
        n_draws: Replicates of each value, all members of an ensemble together.
        seed: Seed of v.
    """
    below = np.zeros(values.shape, dtype=np.int64)
    equal = np.zeros_like(below)
    for block in blocks:
        drawn, true = block.x.cpu().numpy(), values[block.rows].toarray()
        below[block.rows] += (drawn < true).sum(0)
        equal[block.rows] += (drawn == true).sum(0)
    v = np.random.default_rng(seed).random(below.shape)
    return np.asarray((below + v * (1 + equal)) / (1 + n_draws))
