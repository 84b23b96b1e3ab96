"""Simulation-based calibration: on the program's own data, is the truth like a draw of the posterior?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from pyro import poutine
from rich.progress import track
from scipy import sparse
from torch import Tensor

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.batch import Batch
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError
from pyro_citevae.infer import idata
from pyro_citevae.infer.exchangeability import global_draws
from pyro_citevae.infer.posterior import Posterior
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.infer.substitute import Substitute
from pyro_citevae.infer.svi import fit
from pyro_citevae.program import LatentDynamics
from pyro_citevae.sites import INVARIANT, VALUES, cell_states, state, states_to

__all__ = ["quantities", "simulation_based_calibration"]


def simulation_based_calibration(
    model: LatentDynamics,
    guide: AmortizedGuide,
    design: Trajectories,
    *,
    replicates: int = 100,
    draws: int = 99,
    sites: Sequence[str] | None = None,
    first: Mapping[str, Any] | None = None,
    progress: bool = True,
    seed: int = 0,
    **settings: Any,
) -> xr.DataTree:
    """Ranks of the truth among posterior draws, over data sets drawn from the prior.

    ::

        for each replicate
          (g, s, z, x) ~ the program, under the design's schedules, times, batches and library sizes
          q            = the guide, fitted to x with the model's parameters as they stand
          rank(f)      = number of draws of q with f(draw) < f(truth)      uniform on 0..draws if q = p(. | x)

    The quantities f are the global sites, the states of one random cell, so that ranks are independent over
    replicates, and ``log_likelihood``, the log density of that cell's observations, which also notices a
    guide that has not looked at the data. The cell is among those observed until the last step.

    The guide is amortised, so it is trained once, on data of its own (``first``), and then only refreshed by
    each replicate's data (``settings``). Global sites start from the last replicate's posterior and need
    enough steps to reach the next.

    Args:
        model: The program, with the parameters to be trusted; they are not learnt.
        guide: Its guide.
        design: Cells whose schedules, times, batches and library sizes are simulated.
        replicates: Number of simulated data sets.
        draws: Number of posterior draws, one less than the number of ranks.
        sites: Global sites to rank; all if None.
        first: Settings of the first fit, where they differ; ``warm_start=True`` for a guide trained before.
        progress: Whether to show a progress bar.
        seed: Seed of everything.
        **settings: Settings of each fit, as in :func:`pyro_citevae.fit`.

    Returns:
        Group ``ranks`` with dims (replicate, ...), and ``prior_sbc`` with the ranks on the uniform scale,
        ``(rank + v) / (draws + 1)`` with v uniform, and dims (chain, draw, ...), where a draw is a replicate,
        as ArviZ 1.x's ``plot_ecdf_pit`` takes it. ``uniform(quantities(found), "draw")`` is the verdict.

    Raises:
        DataError: There is no replicate, no draw or no cell, or a site is not among the global ones.
        FitError: A setting is unknown or out of range, or the design has another schema than the model.

    Source: S. Talts, M. Betancourt, D. Simpson, A. Vehtari, A. Gelman, Validating Bayesian Inference
    Algorithms with Simulation-Based Calibration (2018); M. Modrák et al., Simulation-Based Calibration
    Checking for Bayesian Computation: The Choice of Test Quantities Shapes Sensitivity (2023).
    """
    if replicates < 1 or draws < 1 or design.n_cells == 0:
        raise DataError(
            f"simulation_based_calibration(replicates={replicates}, draws={draws}) needs a replicate, a draw "
            "and a design with cells."
        )
    for name in sites or ():
        if name not in guide.mechanism():
            raise DataError(
                f"simulation_based_calibration(sites=...) names '{name}', no global site of the model."
            )
    rng = np.random.default_rng(seed)
    options = {"seed": seed, **settings, "progress": False, "learn_model": False}
    data, _ = _simulated(model, design, int(rng.integers(2**31)))
    fitted = fit(model, guide, data, **{**options, **(first or {})})
    last = design.batch().last.numpy()
    candidates = np.flatnonzero(last == last.max())
    ranks = []
    for _ in track(range(replicates), "simulation-based calibration", disable=not progress):
        data, truth = _simulated(model, design, int(rng.integers(2**31)))
        fitted = fit(fitted.model, fitted.guide, data, **{**options, "warm_start": True})
        cell = int(rng.choice(candidates))
        ranks.append(_ranks(fitted, data, truth, cell, draws, sites, int(rng.integers(2**31))))
    ranked = xr.concat(ranks, "replicate").assign_coords(replicate=np.arange(replicates))
    scaled = ranked.map(lambda rank: (rank + rng.random(rank.shape)) / (draws + 1))
    scaled = scaled.rename(replicate="draw").expand_dims(chain=[0])
    tree = xr.DataTree.from_dict({"ranks": ranked, "prior_sbc": scaled})
    tree.attrs.update(draws=draws, replicates=replicates, seed=seed)
    return tree


def quantities(calibration: xr.DataTree) -> xr.DataArray:
    """Every ranked number on the uniform scale, with dims (quantity, draw), named as ``z[2.0, program_0]``.

    Args:
        calibration: What :func:`simulation_based_calibration` returned.
    """
    parts = []
    for name, values in calibration["prior_sbc"].to_dataset().isel(chain=0, drop=True).data_vars.items():
        dims = [dim for dim in values.dims if dim != "draw"]
        labels = product(*(values[dim].to_numpy() for dim in dims))
        names = [f"{name}[{', '.join(map(str, label))}]" if dims else str(name) for label in labels]
        flat = values.transpose(*dims, "draw").to_numpy().reshape(len(names), -1)
        parts.append(xr.DataArray(flat, {"quantity": names, "draw": values.draw}, ("quantity", "draw")))
    return xr.concat(parts, "quantity")


def _simulated(
    model: LatentDynamics, design: Trajectories, seed: int
) -> tuple[Trajectories, dict[str, Tensor]]:
    """A data set drawn from the program, and the values of its latent sites."""
    batch = design.batch().to(model.device)
    was = model.training
    model.eval()  # with the sites that no cell meets, as the guide has them
    try:
        with seeded(seed), torch.no_grad(), poutine.trace() as tracer:
            model(batch.unobserved())
    finally:
        model.train(was)
    values: dict[str, Any] = {
        name: node["value"] for name, node in tracer.trace.nodes.items() if node["type"] == "sample"
    }
    x = values.pop(VALUES).transpose(0, 1)[batch.observed.T].cpu().numpy()
    return replace(design, values=sparse.csr_matrix(x), split=None), values


def _ranks(
    fitted: Posterior,
    data: Trajectories,
    truth: dict[str, Tensor],
    cell: int,
    draws: int,
    sites: Sequence[str] | None,
    seed: int,
) -> xr.Dataset:
    """Number of posterior draws below the truth, for each quantity."""
    batch = data.batch(np.array([cell])).to(fitted.model.device)
    with seeded(seed), torch.no_grad():
        mechanism = global_draws(fitted.guide, draws)
        with Substitute(mechanism, mean=False), pyro.plate("draw", draws, dim=-3):
            guided: Any = poutine.trace(fitted.guide).get_trace(batch)
        states = cell_states(guided.nodes)
        local = {name: guided.nodes[name]["value"] for name in states}
        true_mechanism = {name: truth[name][None, None, None] for name in mechanism}
        true_local = {name: truth[name][None, None, [cell]] for name in states}
        drawn = _quantities(fitted.model, batch, mechanism, local, sites)
        true = _quantities(fitted.model, batch, true_mechanism, true_local, sites)
    return (drawn < true.isel(chain=0, draw=0)).sum(("chain", "draw"))


def _quantities(
    model: LatentDynamics,
    batch: Batch,
    mechanism: dict[str, Tensor],
    local: dict[str, Tensor],
    sites: Sequence[str] | None,
) -> xr.Dataset:
    """Global sites, states and log likelihood of one cell, with dims (chain, draw, ...)."""
    draws = len(local[state(0)])
    kept = {name: value for name, value in mechanism.items() if sites is None or name in sites}
    names = idata.state_dims(model, batch.n_steps)
    if not model.n_invariant:
        del names["invariant"]
    found = idata.global_dataset(model, kept, draws).assign_coords(names)
    z = torch.stack([local[name][:, 0, 0] for name in states_to(batch.n_steps)], dim=1)
    found["z"] = (("chain", "draw", "time", "program"), z[None].cpu().numpy())
    if model.n_invariant:
        found["s"] = (("chain", "draw", "invariant"), local[INVARIANT][:, 0, 0][None].cpu().numpy())
    if not model.enumerated:  # whose discrete sites have no draws
        with Substitute(mechanism | local, mean=False), pyro.plate("draw", draws, dim=-3):
            density = model(batch).emission.log_prob(batch.x.dense)  # type: ignore[union-attr]
        likelihood = torch.where(batch.observed, density, 0.0).sum((-2, -1))
        found["log_likelihood"] = (("chain", "draw"), likelihood[None].cpu().numpy())
    return found
