"""Writes the posteriors that the tests of ArviZ open, and the numbers that its calls must give.

=============  ==================================================================================
``counts``     CiteVAE after a few epochs, written by ``citevae export``: .nc and .zarr
``stacked``    the same with one observed dim, by ``idata.stacked``: .nc
``gaussian``   a linear Gaussian process whose guide is its exact posterior: .nc and .zarr
``ensemble``   two short fits, each a chain: .nc and .zarr
``truth.npz``  names, counts and draws by name; for ``gaussian`` the exact answer to leaving out a value
=============  ==================================================================================

Run as ``python -m arviz1.write FOLDER`` in ``tests/``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import final

import arviz
import numpy as np
import pandas as pd
import pyro.distributions as dist
import torch
import xarray as xr
from anndata import AnnData
from scipy.stats import norm
from torch import Tensor

from arviz1.contents import CELLS, DRAWS, GENES
from pyro_citevae import AmortizedGuide, Ensemble, Posterior, Trajectories, fit, load, simulate
from pyro_citevae.cli import app
from pyro_citevae.data import Batch
from pyro_citevae.guides import MeanField
from pyro_citevae.guides.mechanism_posterior import MechanismPosterior
from pyro_citevae.infer import idata
from pyro_citevae.models import LinearGaussian, StaticShift

SETTINGS = """
[model]
name = "CiteVAE"
n_programs = 2
n_invariant = 1
hidden = 8

[guide]
name = "BackwardSmoother"
hidden = 8

[fit]
max_epochs = 5
"""


def write(folder: Path) -> None:
    """Writes every file into an empty folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = write_counts(folder) | write_gaussian(folder) | write_ensemble(folder)
    np.savez(folder / "truth.npz", **truth)


def write_counts(folder: Path) -> dict[str, np.ndarray]:
    """Fits and exports from the command line, and returns what the files must hold."""
    adata = screen()
    adata.write_h5ad(folder / "screen.h5ad")
    settings, run = folder / "settings.toml", folder / "run"
    settings.write_text(SETTINGS)
    citevae("fit", folder / "screen.h5ad", "--time", "time", "--config", settings, "--quiet", "-o", run)
    for kind in ("nc", "zarr"):
        out = folder / f"counts.{kind}"
        citevae("export", run, "--draws", DRAWS, "--most-cells", CELLS, "-o", out)
    data = Trajectories.from_anndata(adata, perturbation="perturbation", time="time")
    tree = load(run).to_datatree(data, draws=DRAWS, most_cells=CELLS)
    idata.stacked(tree).to_netcdf(folder / "stacked.nc", engine="h5netcdf")
    cells = tree["observed_data"].cell.to_numpy()
    return {
        "cells": cells.astype(str),
        "genes": np.array(adata.var_names, dtype=str),
        "tokens": np.array(data.schema.tokens, dtype=str),
        "x": adata[cells].X,
        "elpd": elpd(tree),
        **{f"posterior_{name}": tree["posterior"][name].to_numpy() for name in ("W", "a", "c", "z")},
        **{f"prior_{name}": tree["prior"][name].to_numpy() for name in ("W", "a", "c")},
        "posterior_predictive_x": tree["posterior_predictive"]["x"].to_numpy(),
    }


def elpd(tree: xr.DataTree) -> np.ndarray:
    """What the ArviZ of this environment finds by leaving out each value."""
    found = arviz.loo(idata.as_arviz(tree))
    return np.array(found.elpd_loo if hasattr(found, "elpd_loo") else found.elpd)  # before and since 1.0


def screen() -> AnnData:
    """60 cells: a control and two perturbations, each cell at time 1, 2 or 3."""
    data = simulate(n_cells=60, n_genes=GENES, n_programs=2, n_perturbations=2, n_steps=3, seed=0).data
    obs = pd.DataFrame({"perturbation": data.row_labels.astype(str), "time": data.row_times}, data.names)
    x = data.values.toarray().astype(np.int32)
    return AnnData(X=x, obs=obs, var=pd.DataFrame(index=list(data.schema.genes)))


def citevae(*words: object) -> None:
    """Runs a command in this process."""
    app([str(word) for word in words], standalone_mode=False)


def write_gaussian(folder: Path) -> dict[str, np.ndarray]:
    """Writes exact draws, and returns each value's law given all others of its cell."""
    posterior, data = gaussian()
    tree = posterior.to_datatree(data, draws=4000)
    store(tree, folder / "gaussian")
    density, pit = left_out(posterior, data)
    return {"gaussian_elpd": density, "gaussian_pit": pit}


def store(tree: xr.DataTree, path: Path) -> None:
    """Writes netCDF and zarr as ``citevae export`` does."""
    tree.to_netcdf(path.with_suffix(".nc"), engine="h5netcdf")
    tree.to_zarr(path.with_suffix(".zarr"), zarr_format=2)


def write_ensemble(folder: Path) -> dict[str, np.ndarray]:
    """Writes a posterior of two chains, which give a value likelihoods far apart."""
    data = simulate(n_cells=60, n_genes=GENES, n_perturbations=2, seed=0).data
    model = StaticShift(data.schema, n_programs=2, hidden=4)
    guide = MeanField(model, hidden=4)
    members = [fit(model, guide, data, max_epochs=20, progress=False, seed=seed) for seed in range(2)]
    tree = Ensemble(members).to_datatree(data, draws=DRAWS, most_cells=CELLS)
    store(tree, folder / "ensemble")
    return {"ensemble_elpd": elpd(tree)}


def gaussian() -> tuple[Posterior, Trajectories]:
    """Twelve cells observed after one step, with the exact posterior of their states."""
    data = simulate(
        n_cells=12, n_genes=5, n_programs=2, n_perturbations=2, n_steps=1,
        design="snapshot", values="real", seed=0,
    ).data  # fmt: skip
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = LinearGaussian(data.schema, n_programs=2)
        for parameter in (model.W, model.a):
            parameter.normal_(std=0.5)
        model.r = torch.full((data.schema.n_genes,), 1.5)  # noise enough for importance sampling
    return Posterior(
        model.eval(), Exact(model, MechanismPosterior(model), hidden=1).eval(), pd.DataFrame(), record={}
    ), data


@final
class Exact(AmortizedGuide):
    """q(z_1 | x) q(z_0 | z_1), both by Gaussian conditioning."""

    def states(self, batch: Batch, summary: Tensor, s: Tensor, drawn: dict[str, Tensor]) -> None:
        """Draws z_1 given the values, and z_0 given z_1."""
        model, x = self.model, batch.x.dense[0]
        F, shift, sigma, C, e, r = laws(model, batch)
        before = torch.linalg.inv(F @ F.T + torch.diag(sigma**2))
        precision = before + C.T @ (C / r[:, None] ** 2)
        loc = torch.linalg.solve(precision, before @ shift.T + C.T @ ((x - e) / r**2).T).T
        z_1 = self.state(1, dist.MultivariateNormal(loc, precision_matrix=precision), batch)
        precision = torch.eye(len(F)) + F.T @ (F / sigma[:, None] ** 2)
        loc = ((z_1 - shift) / sigma**2) @ F @ torch.linalg.inv(precision)
        self.state(0, dist.MultivariateNormal(loc, precision_matrix=precision), batch)


def laws(model: LinearGaussian, batch: Batch) -> Sequence[Tensor]:
    """F, u a, sigma of ``z_1 ~ N(F z_0 + u a, sigma)``, and C, e, r of ``x ~ N(C z_1 + e, r)``."""
    (K, n), mechanism = (model.n_programs, batch.n_cells), model.mechanism()
    F = model.transition(mechanism, [torch.eye(K)], batch.u.new_zeros(K, batch.u.shape[-1])).mean.T
    shift = model.transition(mechanism, [torch.zeros(n, K)], batch.u[1]).mean
    return F, shift, model.sigma, model.loading.weight, model.loading.bias, model.r


def left_out(posterior: Posterior, data: Trajectories) -> tuple[np.ndarray, np.ndarray]:
    """Log density and distribution function of each value given the other values of its cell.

    With precision ``P`` of the values' joint normal law, the law of value g given the others has variance
    ``1 / P_gg`` and lies ``(P (x - mean))_g / P_gg`` below the value.
    """
    batch = data.batch()
    with torch.no_grad():
        F, shift, sigma, C, e, r = (one.double().numpy() for one in laws(posterior.model, batch))
    x = batch.x.dense[0].double().numpy()
    variance = C @ (F @ F.T + np.diag(sigma**2)) @ C.T + np.diag(r**2)
    precision = np.linalg.inv(variance)
    scale = 1 / np.sqrt(np.diag(precision))
    standard = (x - shift @ C.T - e) @ precision * scale
    return norm.logpdf(standard) - np.log(scale), norm.cdf(standard)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
