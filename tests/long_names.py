"""A screen that is hard to draw, with what each picture takes: long names, and forty genes at one place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

import pyro_citevae as cv
from pyro_citevae.analysis import Check, Licence, Measurement, coverage, plots
from pyro_citevae.infer.effect import Effect
from pyro_citevae.infer.interactions import Interactions
from pyro_citevae.infer.ranking import Ranking

__all__ = ["GENES", "Call", "calls"]

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

GENES = [f"ENSG00000{g:04d}-HLA-DRB{g}-antisense" for g in range(40)]
LABELS = [f"sgRNA-{chr(65 + p)}_of_the_second_library_of_guides+SMARCA{p}" for p in range(6)]
PROGRAMS = [f"program_{k}" for k in range(12)]
TOP = [", ".join(GENES[k : k + 3]) for k in range(12)]
TIMES = [0.0, 12.0, 24.0, 48.0]


def effect(rng: np.random.Generator, sign: float = 1.0) -> Effect:
    """Forty genes at about one place, surely raised; the perturbations differ in nothing but their name."""
    schema = cv.data.Schema(genes=tuple(GENES), tokens=tuple(LABELS[p].split("+")[1] for p in range(6)))
    draws = sign + rng.normal(0, 0.02, (1, 60, 6, 1, 40))
    made = Effect.of(draws, [cv.do(token) for token in schema.tokens], [48.0], schema, cv.do())
    return made.assign_coords(perturbation=LABELS)


def measurements(rng: np.random.Generator, number: int) -> list[Measurement]:
    """Values at the place of the effect."""
    return [
        Measurement(one, 48.0, 1.0 + rng.normal(0, 0.02, 40), np.full(40, 1e-4), np.ones(40, dtype=bool), 0.9)
        for one in LABELS[:number]
    ]


def states(rng: np.random.Generator, sign: float = 1.0) -> xr.DataArray:
    """Programs of six schedules and a control, with the genes that name them."""
    names = ["control", *LABELS]
    drift = sign * np.linspace(-1, 1, 7 * 12).reshape(7, 1, 12) * np.arange(4)[:, None]
    return xr.DataArray(
        drift + rng.normal(0, 0.05, (1, 30, 7, 4, 12)),
        dims=("chain", "draw", "perturbation", "time", "program"),
        coords={
            "perturbation": names, "time": TIMES, "program": PROGRAMS, "top_genes": ("program", TOP),
        },
        attrs={"time_unit": "hour"},
    )  # fmt: skip


def loadings(rng: np.random.Generator, sign: float = 1.0) -> xr.DataArray:
    """Of twelve programs on forty genes."""
    return xr.DataArray(
        sign * rng.normal(size=(12, 40)) + rng.normal(0, 0.1, (20, 12, 40)),
        dims=("draw", "program", "gene"),
        coords={"program": PROGRAMS, "gene": GENES, "top_genes": ("program", TOP)},
        attrs={"unit": "log mean count a unit of z"},
    )


def weights(rng: np.random.Generator, sign: float = 1.0) -> xr.DataArray:
    """A lag graph with two edges, one of each sign."""
    W = rng.normal(0, 0.3, (1, 60, 1, 12, 12))
    W[..., 1, 0], W[..., 5, 2] = 2 * sign, -2 * sign
    return xr.DataArray(
        W,
        dims=("chain", "draw", "lag", "program", "source"),
        coords={"program": PROGRAMS, "top_genes": ("program", TOP)},
    )


def pairs(sign: float = 1.0) -> Interactions:
    """A pair of each kind."""
    kinds = ["synergy", "buffering", "dominance", "additive", "unclear"]
    strength = 1 + sign * np.array([0.6, -0.5, 0.1, 0.0, 0.2])
    table = pd.DataFrame(
        {"pair": LABELS[:5], "time": 48.0, "strength": strength, "lower": strength - 0.2,
         "upper": strength + 0.1, "kind": kinds}
    )  # fmt: skip
    return Interactions(table, effect(np.random.default_rng(0)), 0.8)


def ranked(sign: float = 1.0) -> Ranking:
    """Six candidates of about one size, two of them without training cells."""
    table = pd.DataFrame(
        {"candidate": LABELS, "information": np.linspace(2, 1, 6)[:: int(sign)], "standard_error": 0.1,
         "spread": 0.3 + 0.001 * np.arange(6), "effect": 1.0, "unseen": ["", "X", "", "", "X", ""], "why": ""}
    )  # fmt: skip
    return Ranking(table, effect(np.random.default_rng(0)), "information", 100)


def licensed(sign: float = 1.0) -> Licence:
    """Checks that pass, fail, and were not tried."""
    shares = [(1.0, True), (0.3, False), (0.0, None)][:: int(sign)]
    checks = tuple(
        Check(f"{LABELS[i]}: a condition with a long name", "number", 0.4, 0.1, True, share, passed, "Seen.")
        for i, (share, passed) in enumerate(shares)
    )
    return Licence("component-wise", "They overlap.", checks, 50, 100)


def calls(sign: float = 1.0) -> dict[str, Call]:
    """Each picture with what it takes; with a sign of -1 what it shows is turned round."""
    rng = np.random.default_rng(0)
    predicted, measured = effect(rng, sign), measurements(rng, 2)
    truth = xr.DataArray(
        1.0 + rng.normal(0, 0.03, (6, 1, 40)),
        dims=("perturbation", "time", "gene"),
        coords={"perturbation": LABELS, "time": [48.0], "gene": GENES},
    )
    by_label = coverage(predicted, truth, by=["perturbation"])
    whole = coverage(predicted, truth, by=["perturbation"], probability=[0.5, 0.9])
    history = pd.DataFrame(
        {"step": np.arange(1, 30), "training": -sign / np.arange(1, 30), "held_out": -1.1 / np.arange(1, 30)}
    )
    walked = states(rng, sign)
    uniform = rng.random((120, 6)) ** np.array([1, 1, 1, 1, 3, 3]) ** sign
    values = xr.DataArray(uniform, dims=("cell", "gene"), coords={"gene": GENES[:6]})
    k = xr.Dataset(
        {"states": ("cell", sign * rng.normal(0.4, 0.2, 80)), "mechanism": 0.45},
        attrs={"good_below": 0.5, "usable_below": 0.7},
    )
    return {
        "trajectories": (plots.trajectories, (walked,), {"control": "control", "observed_until": 24.0}),
        "effects": (plots.effects, (predicted, measured), {"most_named": 40}),
        "volcano": (plots.volcano, (predicted,), {"perturbation": LABELS[:2], "most_named": 40}),
        "calibration": (plots.calibration, (by_label,), {"unit": "log fold change"}),
        "coverage": (plots.coverage, (whole,), {}),
        "lag_graph": (plots.lag_graph, (weights(rng, sign),), {}),
        "program_shifts": (plots.program_shifts, (walked,), {"control": "control"}),
        "program_genes": (plots.program_genes, (loadings(rng, sign),), {}),
        "training": (plots.training, (history,), {}),
        "interactions": (plots.interactions, (pairs(sign),), {}),
        "ranking": (plots.ranking, (ranked(sign),), {}),
        "licence": (plots.licence, (licensed(sign),), {}),
        "pit": (plots.pit, (values,), {}),
        "ecdf_differences": (plots.ecdf_differences, (values.rename(gene="quantity", cell="draw"),), {}),
        "pareto_k": (plots.pareto_k, (k,), {}),
    }  # fmt: skip
