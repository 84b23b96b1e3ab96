"""Shipped screens by halves: seen effects against those of the other half of each group's cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scored import NOMINAL

import pyro_citevae as cv
from pyro_citevae.analysis import coverage, diagnose, measure, measured_effects
from pyro_citevae.data import datasets
from pyro_citevae.data.pseudobulk import effect as measured
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE

NAMES = ("renge", "papalexi", "norman_subset")
_FEWEST = 8  # cells of a half


def of(name: str) -> pd.DataFrame:
    """A row a group: coverage, and error against the other half, of the model and of this half itself."""
    data = datasets.load(name)
    first = halved(data)
    train, other = data.rows(first), data.rows(~first)
    model = CiteVAE(train.schema)
    posterior = cv.fit(model, BackwardSmoother(model), train, seed=0, progress=False)
    verdict, control, rows = diagnose(posterior, train).verdict, train.schema.control, []
    for at in np.unique(other.row_times).tolist():
        now, ours = other.select(time=at), train.select(time=at)
        labels = [
            one
            for one in now.perturbations()
            if min(now.select(one).n_cells, ours.select(one).n_cells) >= _FEWEST
        ]
        if not labels or min(now.select(control).n_cells, ours.select(control).n_cells) < _FEWEST:
            continue
        found = [measure(now, label, at) for label in labels]
        drawn = posterior.effect(labels, time=at, draws=400, progress=False)
        truth = measured_effects(found, list(train.schema.genes))
        covered = coverage(
            drawn, truth.effect, variance=truth.variance, probability=NOMINAL, by=["perturbation"]
        ).coverage
        mean = drawn.mean(("chain", "draw")).isel(time=0)
        for p, one in enumerate(found):
            error = (mean.to_numpy()[p] - one.delta)[one.keep]
            own = (measured(ours.select(labels[p]), ours.select(control)) - one.delta)[one.keep]
            row = {"label": labels[p], "time": at, "error": float(np.linalg.norm(error))}
            row |= {"rule": float(np.linalg.norm(own)), "size": float(np.linalg.norm(one.delta[one.keep]))}
            at_each = covered.sel(perturbation=labels[p]).to_numpy().ravel()
            rows.append(
                row | {f"coverage_{100 * q:.0f}": float(c) for q, c in zip(NOMINAL, at_each, strict=True)}
            )
    return pd.DataFrame(rows).assign(screen=name, verdict=verdict)


def halved(data: cv.Trajectories, seed: int = 0) -> np.ndarray:
    """Which observations are of the first half of their group."""
    rng = np.random.default_rng(seed)
    key = [f"{label} {time}" for label, time in zip(data.row_labels, data.row_times, strict=True)]
    order = np.lexsort((rng.random(len(key)), np.array(key)))
    _, start, n = np.unique(np.array(key)[order], return_index=True, return_counts=True)
    place = np.arange(len(key)) - np.repeat(start, n)
    first = np.zeros(len(key), dtype=bool)
    first[order] = place % 2 == 0
    return first
