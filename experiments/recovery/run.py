"""Recovery: does CiteVAE find the lag graph and the shifts that made its data?

python experiments/recovery/run.py --seeds 3
"""

from __future__ import annotations

import argparse
import math
import time
import tomllib
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import pyro_citevae as cv
from pyro_citevae.analysis import recovery
from pyro_citevae.guides import BackwardSmoother, KalmanSmoother
from pyro_citevae.models import CiteVAE

HERE = Path(__file__).parent
NEAR = 0.3  # spread of the starting loadings about the true ones, whose own is 0.7
GUIDES = {
    "KalmanSmoother": partial(KalmanSmoother, mechanism="full_rank"),
    "BackwardSmoother": partial(BackwardSmoother, mechanism="low_rank", correlated=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    settings = tomllib.loads((HERE / "config.toml").read_text())
    records = []
    for row in settings["rows"]:
        for seed in seeds:
            started = time.perf_counter()
            found = fitted(row, settings, seed)
            took = time.perf_counter() - started
            records.append({"row": row["name"], "seed": seed, "seconds": took, **found})
            print(f"{row['name']}, seed {seed}: {took:.0f} s; {found['report']}", flush=True)
    results = pd.DataFrame(records)
    results.to_parquet(HERE / "results.parquet")
    table = tabulate(results)
    (HERE / "results.md").write_text(table + "\n")
    print(table)


def fitted(row: dict[str, Any], settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """One fit's scores."""
    screen = {**settings["screen"], "edge_weight": tuple(settings["screen"]["edge_weight"])}
    simulation = cv.simulate(**screen, design=row["design"], n_cells=row["n_cells"], seed=seed)
    model = program(simulation, settings["screen"]["dispersion"], row["emission"], seed)
    known = {"learn_model": row["emission"] != "known", "seed": seed, "progress": False, **settings["fit"]}
    posterior = cv.fit(
        model,
        GUIDES[row["guide"]](model),
        simulation.data,
        warm_start=row["emission"] != "random",
        batch_size=row["n_cells"],
        max_epochs=row["max_epochs"],
        **known,
    )
    scores = recovery(posterior, simulation)
    return {
        "mcc": float(scores["correlation"].mean()),
        "edge_auroc": float(scores["edge_auroc"]),
        "shift_correlation": float(scores["shift_correlation"]),
        "shift_coverage": float(scores["coverage"].sel(parameter="shift")),
        "edge_coverage": float(scores["coverage"].sel(parameter="edge")),
        "coverage": float(scores["coverage"].mean()),
        "bound": posterior.bound(simulation.data, particles=20),
        "report": scores.attrs["report"],
    }


def program(simulation: Any, dispersion: float, emission: str, seed: int) -> CiteVAE:
    """CiteVAE in the form that made the data, its emission known, near the truth, or random."""
    truth = simulation.truth
    L, K, _ = truth.W.shape
    torch.manual_seed(seed)
    model = CiteVAE(
        simulation.data.schema,
        n_programs=K,
        n_invariant=0,
        n_lags=L,
        hidden=0,
        onset=False,
        own_transcript=False,
        direct=False,
        group=False,
        edges=False,
        decay=truth.decay,
        shift_scale=1.0,
    )
    if emission == "random":
        return model
    with torch.no_grad():
        loading = torch.tensor(truth.loading.T, dtype=torch.float32)
        noise = NEAR * torch.randn(loading.shape) if emission == "near" else 0.0
        model.decoder.map.linear.weight.copy_(loading + noise)
        model.decoder.map.linear.bias.copy_(torch.tensor(truth.intercept))
        model.likelihood.log_theta.fill_(math.log(dispersion))
        model.sigma = torch.full((K,), truth.sigma)
    return model


def tabulate(results: pd.DataFrame) -> str:
    """A line a row: mean over seeds, and the spread."""
    names = ("mcc", "edge_auroc", "shift_correlation", "shift_coverage", "edge_coverage")
    lines = [
        "| seen, known | MCC | edge AUROC | shift correlation | 80 % covers shifts | covers edges |",
        "|---|---|---|---|---|---|",
    ]
    for row, group in results.groupby("row", sort=False):
        cells = [f"{group[n].mean():.2f} ({group[n].min():.2f}-{group[n].max():.2f})" for n in names]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
