"""How far the guide is from the posterior, by its importance weights: Pareto k, and a bound a cell."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pyro
import torch
import xarray as xr
from jaxtyping import Float
from pyro import poutine
from pyro.ops.stats import fit_generalized_pareto
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_citevae.analysis.criticism.replication import require_cells
from pyro_citevae.data.batch import Batch
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError
from pyro_citevae.infer import idata
from pyro_citevae.infer.exchangeability import global_draws
from pyro_citevae.infer.importance import log_weights
from pyro_citevae.infer.posterior import Posterior
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.infer.substitute import Substitute

__all__ = ["held_out_bound", "pareto_k"]

_MOST_VALUES = 5_000_000
_FEWEST_IN_TAIL = 5
_ROUNDING = 1e-5


def pareto_k(
    posterior: Posterior,
    data: Trajectories,
    *,
    mechanism: bool = True,
    draws: int = 200,
    particles: int = 8,
    most_cells: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Pareto k of the guide's importance weights, for the global sites and for each cell's states apart.

    The largest ``min(0.2 S, 3 sqrt S)`` of S weights p / q are fitted by a generalised Pareto distribution
    with shape k. Above ``min(0.7, 1 - 1 / log10 S)`` the guide misses so much of the posterior's mass that no
    reweighting mends it; below 0.5 its draws are as good as the posterior's for most purposes. A k of all
    sites together would fail by their number alone, and so may that of many global sites.

    * ``states``: weights ``p(x_n, z_n, s_n | g) / q(z_n, s_n | x_n)`` of each cell, given one draw g.
    * ``mechanism``: weights ``p(g) prod_n p(x_n | g) / q(g)`` over draws g, where each cell's evidence is
      estimated by M particles from the same random numbers for every g. What noise is left in the estimates
      inflates k: ``monte_carlo_sd`` is its standard deviation in nats, to be compared with ``log_weight_sd``,
      that of the log weights; with more particles it falls. The cost is S M passes over the data.

    Args:
        posterior: A fitted model.
        data: The training cells: the global sites' posterior is that given these very cells.
        mechanism: Whether the global sites are weighed, too.
        draws: Number S of draws.
        particles: Number M of draws of the states for each draw of the global sites; even.
        most_cells: Cells beyond this number are thinned evenly in ``states``.
        seed: Seed of every draw.

    Returns:
        ``states`` with dim (cell), of sequences (trajectory), and, if the model has global sites, the scalars
        ``mechanism``, ``monte_carlo_sd`` and ``log_weight_sd``; the thresholds lie in ``attrs``. Equal
        weights have k = -inf.

    Raises:
        ModelError: The program sums over discrete sites.
        DataError: The data are empty or of another panel, there are fewer than 25 draws, or an odd number
            of particles.

    Source: A. Vehtari, D. Simpson, A. Gelman, Y. Yao, J. Gabry, Pareto Smoothed Importance Sampling (2024);
    Y. Yao et al., Yes, but Did It Work?: Evaluating Variational Inference (2018).
    """
    require_cells(posterior, data)
    if draws < 25:
        raise DataError(f"pareto_k(draws={draws}) leaves fewer than 5 weights in the tail; use 25 or more.")
    if particles < 2 or particles % 2:
        raise DataError(f"pareto_k(particles={particles}) must be even, so that its halves tell the noise.")
    thinned = data.thinned(most_cells)
    with seeded(seed), torch.no_grad():
        weights = _cell_weights(posterior, thinned, draws, posterior.guide.mechanism())
        cell = idata.cell_dim(data.schema)
        found = xr.Dataset({"states": (cell, _shapes(weights))}, {cell: thinned.names.astype(str)})
        if mechanism and global_draws(posterior.guide, 1):
            found = found.assign(_mechanism(posterior, data, draws, particles, seed))
    return found.assign_attrs(draws=draws, good_below=0.5, usable_below=min(0.7, 1 - 1 / math.log10(draws)))


def held_out_bound(
    posterior: Posterior, data: Trajectories, *, particles: int = 64, seed: int = 0
) -> xr.Dataset:
    """Importance-weighted lower bound on the log predictive density of each cell, by perturbation and time.

    ``L_n = log 1/M sum_m p(x_n, z_m, s_m | g_m) / q(z_m, s_m | x_n)``, ``g_m ~ q(g)``, at most
    ``log int q(g) p(x_n | g) dg``, which it reaches with many particles. With one particle, its expectation
    is the evidence lower bound less the global sites' own terms.

    Args:
        posterior: A fitted model.
        data: Held-out cells.
        particles: Number M of draws.
        seed: Seed of the draws.

    Returns:
        ``bound`` (nats a cell), ``standard_error`` (over cells) and ``n_cells`` with dims (perturbation,
        time), NaN where there is no cell, and ``cell_bound`` with dim (cell). A sequence has the dim
        (trajectory), and counts as observed at its last time.

    Raises:
        ModelError: The program sums over discrete sites.
        DataError: The data are empty or of another panel, or there is no particle.

    Source: Y. Burda, R. Grosse, R. Salakhutdinov, Importance Weighted Autoencoders (2016).
    """
    require_cells(posterior, data)
    if particles < 1:
        raise DataError(f"held_out_bound(particles={particles}) must be one or more.")
    with seeded(seed), torch.no_grad():
        weights = _cell_weights(posterior, data, particles, global_draws(posterior.guide, particles))
    bound = np.logaddexp.reduce(weights, axis=0) - math.log(particles)
    last = np.flatnonzero(np.diff(data.row_cell, append=data.n_cells))
    cell = idata.cell_dim(data.schema)
    cells = xr.DataArray(
        bound,
        {
            cell: data.names.astype(str),
            "perturbation": (cell, data.labels.astype(str)),
            "time": (cell, data.row_times[last]),
        },
        (cell,),
    )
    groups = cells.to_dataframe("bound").groupby(["perturbation", "time"])["bound"]
    found = xr.Dataset(
        {
            "bound": groups.mean().to_xarray(),
            "standard_error": groups.sem().to_xarray(),
            "n_cells": groups.size().to_xarray(),
        }
    ).fillna({"n_cells": 0})
    cells = cells.rename(perturbation="cell_perturbation", time="cell_time")
    return found.assign(cell_bound=cells).assign_attrs(particles=particles)


def _chunks(data: Trajectories, passes: int) -> Iterator[Batch]:
    """Minibatches of consecutive cells, such that so many passes at once fit in memory."""
    return data.chunks(max(1, _MOST_VALUES // (passes * data.schema.n_slots * data.schema.n_genes)))


def _cell_weights(
    posterior: Posterior, data: Trajectories, draws: int, mechanism: dict[str, Tensor]
) -> Float[np.ndarray, "draw cell"]:
    """Log weights of the cells' states, given the global values."""
    weights = np.empty((draws, data.n_cells))
    for batch in _chunks(data, draws):
        one = log_weights(
            posterior.model, posterior.guide, batch.to(posterior.model.device), draws, mechanism
        )
        weights[:, batch.index.numpy()] = one.cells.cpu().numpy()
    return weights


def _mechanism(
    posterior: Posterior, data: Trajectories, draws: int, particles: int, seed: int
) -> dict[str, float]:
    """Pareto k of the global sites, and the noise of the estimated evidence behind it."""
    model, guide = posterior.model, posterior.guide
    prior, mechanism = _weighed_mechanism(posterior, draws)
    evidence = np.zeros((2, draws))  # of each half of the particles
    total = np.zeros(draws)
    for batch in _chunks(data, particles):
        first = int(batch.index[0])
        batch = batch.to(model.device)
        # draw by draw, so that every draw gets the same random numbers: their noise is common, and cancels
        for i in range(draws):
            values = {name: value[i, 0, 0] for name, value in mechanism.items()}
            with seeded(seed + first):
                one = log_weights(model, guide, batch, particles, values)
            halves = one.cells.double().view(2, particles // 2, -1).logsumexp(1) - math.log(particles // 2)
            evidence[:, i] += halves.sum(1).cpu().numpy()
            total[i] += float((halves.logsumexp(0) - math.log(2)).sum())
    weight = prior + total
    noise = (evidence[0] - evidence[1]).std() / 2  # a half has twice the whole's variance
    shape = float(_shapes(weight[:, None])[0])
    return {"mechanism": shape, "monte_carlo_sd": float(noise), "log_weight_sd": float(weight.std())}


def _weighed_mechanism(
    posterior: Posterior, draws: int
) -> tuple[Float[np.ndarray, " draw"], dict[str, Tensor]]:
    """``log p(g) - log q(g)`` for draws g of the global sites, and the draws."""
    with pyro.plate("draw", draws, dim=-3):
        with poutine.trace() as guided:
            values = posterior.guide.mechanism()
        with Substitute(values, mean=False), poutine.trace() as modelled:
            posterior.model.mechanism()
    totals = []
    for trace in (modelled.trace, guided.trace):
        trace.compute_log_prob()
        sites = [node for node in trace.nodes.values() if node["type"] == "sample"]
        terms = [node["log_prob"].expand(draws, 1, 1) for node in sites if not site_is_subsample(node)]
        totals.append(torch.stack(terms).sum((0, 2, 3)).double().cpu().numpy())
    return totals[0] - totals[1], values


def _shapes(weights: Float[np.ndarray, "draw column"]) -> Float[np.ndarray, " column"]:
    """Pareto k of each column of log weights; -inf where they are equal, inf where too few differ."""
    S = len(weights)
    n_tail = math.ceil(min(0.2 * S, 3 * math.sqrt(S)))
    ordered = np.sort(weights - weights.max(0), axis=0)[-n_tail - 1 :]
    # the fit takes one sample at a time, as every implementation does; its cost is that of one weight
    return np.array([_shape(column) for column in ordered.T])


def _shape(tail: Float[np.ndarray, " draw"]) -> float:
    """Pareto k of the largest log weights, of which the smallest is the threshold."""
    above = tail[tail > tail[0]]
    if tail[-1] - tail[0] < _ROUNDING:
        return -math.inf
    if len(above) < _FEWEST_IN_TAIL:
        return math.inf
    k, _ = fit_generalized_pareto(torch.from_numpy(np.exp(above) - np.exp(tail[0])))
    return float(k)
