"""The exact posterior of a small screen by Markov chain Monte Carlo, to hold an approximate one against."""

from __future__ import annotations

import copy
import time
import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import xarray as xr
from pyro import poutine
from pyro.infer import MCMC, NUTS
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_citevae import sites
from pyro_citevae.class_source import reference
from pyro_citevae.data.batch import Batch
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import CiteVAEWarning, FitError, ModelError
from pyro_citevae.infer import idata
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.program import LatentDynamics

__all__ = ["nuts"]

_LEAPFROGS = 31  # in a usual draw of a hundred or more values


def nuts(
    model: LatentDynamics,
    data: Trajectories,
    *,
    draws: int = 500,
    warmup: int = 500,
    chains: int = 1,
    max_tree_depth: int = 10,
    seed: int = 0,
    progress: bool = True,
    jit: bool = False,
    long: float = 600.0,
) -> xr.DataTree:
    """Draws from the posterior of every site by the No-U-Turn sampler.

    The program's parameters are held at their present values; sites are sampled. So a fitted
    ``posterior.model`` gives the posterior that its guide approximates. The time grows with the cells: some
    hundred cells take minutes, more are for :func:`pyro_citevae.fit`.

    Args:
        model: The generative program.
        data: Observed cells.
        draws: Draws of each chain.
        warmup: Draws before them, which adapt step size and mass matrix.
        chains: Number of chains, run one after the other from starts of their own.
        max_tree_depth: A draw takes at most ``2^max_tree_depth`` gradients.
        seed: Seed of the first chain; the next ones count on from it.
        progress: Whether to show a progress bar.
        jit: Compile the log density by torch.jit, which takes a third of the time on small screens.
        long: Seconds beyond which a run is long: a warning says so before it starts.

    Returns:
        Groups ``posterior`` (global sites by ``model.dims``, states ``z`` and ``s`` as in
        :meth:`Posterior.to_datatree`), ``sample_stats`` (``diverging``, ``lp``, ``step_size``) and
        ``observed_data``.

    Raises:
        ModelError: The model has discrete sites that inference sums over.
        FitError: The data have another schema than the model or no cell, or a number is below 1.

    Example:
        >>> import pyro_citevae as cv
        >>> from pyro_citevae.models import LinearGaussian
        >>> data = cv.simulate(n_cells=6, n_genes=5, n_steps=2, values="real").data
        >>> model = LinearGaussian(data.schema)
        >>> tree = nuts(model, data, draws=4, warmup=4, max_tree_depth=4, progress=False)
        >>> tree["posterior"]["z"].sizes
        Frozen({'chain': 1, 'draw': 4, 'cell': 6, 'time': 2, 'program': 3})

    Source: M. D. Hoffman and A. Gelman, The No-U-Turn Sampler (2014).
    """
    sizes = {"draws": draws, "warmup": warmup, "chains": chains, "max_tree_depth": max_tree_depth}
    _require(model, data, sizes)
    with torch.inference_mode(False):
        held = copy.deepcopy(model).float().eval().requires_grad_(False)
        batch = data.batch().to(held.device)
        _warn_of_a_long_run(held, batch, chains * (draws + warmup), long)
    runs = []
    for chain in range(chains):
        with seeded(seed + chain), torch.inference_mode(False):
            kernel = NUTS(
                _EveryStep()(held),
                jit_compile=jit,
                ignore_jit_warnings=True,
                max_tree_depth=max_tree_depth,
            )
            drawn, stats = _chain(kernel, batch, draws, warmup, progress)
            runs.append({"posterior": _posterior(held, data, drawn), "sample_stats": stats})
    groups = {
        name: xr.concat([run[name] for run in runs], dim="chain").assign_coords(chain=np.arange(chains))
        for name in ("posterior", "sample_stats")
    }
    tree = xr.DataTree.from_dict(groups | {"observed_data": idata.observed_groups(data)["observed_data"]})
    idata.attribute(
        tree,
        model=reference(type(model)),
        sampler="NUTS",
        inference_library="pyro",
        inference_library_version=version("pyro-ppl"),
    )
    return tree


def _require(model: LatentDynamics, data: Trajectories, sizes: dict[str, int]) -> None:
    if model.enumerated:
        raise ModelError(
            f"nuts({type(model).__name__}) has discrete sites, which this sampler cannot draw; use fit()."
        )
    if data.n_cells == 0:
        raise FitError("nuts(data) has no cell; give the cells to condition on.")
    if data.schema != model.schema:
        raise FitError("nuts(data) has another schema than the model; build the model with data.schema.")
    for name, value in sizes.items():
        if value < 1:
            raise FitError(f"nuts({name}={value}) must be 1 or more.")


def _warn_of_a_long_run(model: LatentDynamics, batch: Batch, n_draws: int, long: float) -> None:
    with seeded(0):
        for _ in range(2):  # the first run is slower than any other
            start = time.perf_counter()
            poutine.trace(model).get_trace(batch).log_prob_sum()
            once = time.perf_counter() - start
    seconds = 2 * once * n_draws * _LEAPFROGS  # the gradient costs as much again
    if seconds > long:
        warnings.warn(
            f"nuts() of {batch.n_cells} cells takes about {seconds / 3600:.1f} hours for {n_draws} draws; "
            "take fewer cells with data.thinned(n), or fewer draws.",
            CiteVAEWarning,
            stacklevel=3,
        )


def _chain(
    kernel: NUTS, batch: Batch, draws: int, warmup: int, progress: bool
) -> tuple[dict[str, Tensor], xr.Dataset]:
    """The draws of one chain, and statistics with a chain axis of length one."""
    steps: list[dict[str, float]] = []

    def note(kernel: NUTS, values: dict[str, Tensor], stage: str, i: int) -> None:
        if stage.startswith("Sample"):
            steps.append({"lp": -float(kernel.potential_fn(values)), "step_size": float(kernel.step_size)})

    sampler = MCMC(kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=not progress, hook_fn=note)
    sampler.run(batch)
    stats = {name: np.array([step[name] for step in steps]) for name in steps[0]}
    stats["diverging"] = np.isin(np.arange(draws), sampler.diagnostics()["divergences"]["chain 0"])
    labelled = {name: (("chain", "draw"), value[None]) for name, value in stats.items()}
    drawn: dict[str, Tensor] = sampler.get_samples()
    return drawn, xr.Dataset(labelled, coords={"chain": [0], "draw": np.arange(draws)})


def _posterior(model: LatentDynamics, data: Trajectories, drawn: dict[str, Tensor]) -> xr.Dataset:
    """The draws of a chain by name and axis."""
    local = sites.cell_states(drawn)
    mechanism = {name: value[:, None, None] for name, value in drawn.items() if name not in local}
    last = max(step for name in local if (step := sites.step_of_state(name)) is not None)
    z = torch.stack([drawn[name] for name in sites.states_to(last)], dim=2)
    states = idata.states_dataset(model, data, z, drawn.get(sites.INVARIANT))
    return idata.global_dataset(model, mechanism, len(z)).merge(states)


class _EveryStep(Messenger):
    """Scores the states after a cell's last observation too.

    The program masks them, since they integrate to one; but a sampler needs a proper law for each site.
    """

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        if not message["is_observed"]:
            message["mask"] = None
