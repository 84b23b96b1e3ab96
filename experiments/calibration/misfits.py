"""Planted misfits: fits that are wrong in a known way, each with the sign that has to fail."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

import pyro_citevae as cv
from pyro_citevae.analysis import diagnose
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE

SIGNS = {
    "two epochs": "training",
    "Poisson on dispersion 1": "emission",
    "one program for four": "programs",
    "narrowed guide": "guide",
    "a batch left out": "columns",
}
NAMES = tuple(SIGNS)
_SCREEN: dict[str, Any] = {
    "n_cells": 1200,
    "n_genes": 40,
    "n_programs": 4,
    "n_perturbations": 8,
    "design": "snapshot",
    "seed": 3,
}


def of(name: str) -> pd.DataFrame:
    """Fits a misfit, and says whether the diagnosis names it."""
    data = cv.simulate(**{**_SCREEN, "dispersion": 1.0 if name.startswith("Poisson") else 10.0}).data
    if name == "a batch left out":
        data = cv.Trajectories.from_anndata(with_lanes(data), perturbation="perturbation")
    arguments: dict[str, Any] = {"emission": "poisson"} if name.startswith("Poisson") else {}
    if name.startswith("one program"):
        arguments = {"n_programs": 1}
    fit: dict[str, Any] = {"max_epochs": 2} if name == "two epochs" else {}
    model = CiteVAE(data.schema, **arguments)
    posterior = cv.fit(model, BackwardSmoother(model), data, seed=0, progress=False, **fit)
    if name == "narrowed guide":
        posterior.guide.globals.widen(0.2)
    found = diagnose(posterior, data)
    failed = [one.name for one in found.failed]
    row = {"misfit": name, "sign": SIGNS[name], "named": SIGNS[name] in failed, "failed": ", ".join(failed)}
    numbers = {f"sign: {one.name}": one.number for one in found.signs}
    return pd.DataFrame([row | numbers | {"verdict": found.verdict}])


def with_lanes(data: cv.Trajectories) -> ad.AnnData:
    """The cells from two lanes by turns, of which one loses counts, gene by gene to another degree."""
    rng = np.random.default_rng(0)
    counts = data.values.toarray().astype(int)
    lane = np.arange(data.n_cells) % 2
    kept = np.exp(-np.abs(rng.normal(0.0, 0.7, data.schema.n_genes)))
    thinned = rng.binomial(counts, np.where(lane[:, None] == 1, kept, 1.0))
    obs = pd.DataFrame({"perturbation": data.labels.astype(str), "lane": np.where(lane == 1, "B", "A")})
    obs.index = data.names.astype(str)
    var = pd.DataFrame(index=list(data.schema.genes))
    return ad.AnnData(sparse.csr_matrix(thinned.astype(np.float32)), obs=obs, var=var)
