"""Recovery of programs from vectors: CITE-VAE beside programs that see less.

python experiments/causal3dident/run.py goes on where it was cut off: folds/ keeps what a row's settings made.
"""

from __future__ import annotations

import hashlib
import json
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from beta_vae import BetaVAE
from ivae import IdentifiableVAE
from sklearn.linear_model import LinearRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.neural_network import MLPRegressor
from slow_vae import SlowVAE

import pyro_citevae as cv
from pyro_citevae.analysis.identifiability import Matching, match
from pyro_citevae.data.mixing import mixed
from pyro_citevae.data.simulate import Simulation
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.infer import unmix
from pyro_citevae.infer.unmixing import smoothed_states
from pyro_citevae.models import CiteVAE

HERE = Path(__file__).parent
EDGE = 0.2  # absolute weight from which an edge is called, half of the smallest true one


def main() -> None:
    settings = tomllib.loads((HERE / "config.toml").read_text())
    records = []
    store = HERE / "folds"
    store.mkdir(exist_ok=True)
    for row in settings["rows"]:
        for seed in range(row["seeds"]):
            mixture = settings["mixtures"][row["mixture"]]
            kept = store / f"{key(row, settings['process'], mixture, settings['fit'])}_{seed}.parquet"
            if not kept.is_file():
                started = time.perf_counter()
                found = scored(row, settings, seed)
                found |= {"seed": seed, "seconds": time.perf_counter() - started}
                pd.DataFrame([found]).to_parquet(kept)
            records.append(pd.read_parquet(kept).assign(row=row["name"]))
            print(records[-1][["row", "seed", "mcc", "f1", "seconds"]].to_string(header=False), flush=True)
    results = pd.concat(records, ignore_index=True)
    results.to_parquet(HERE / "results.parquet")
    table = tabulate(results)
    (HERE / "results.md").write_text(table + "\n")
    draw(results, settings)
    print(table)


def key(row: dict[str, Any], *shared: dict[str, Any]) -> str:
    """A digest of all settings that a row follows from; delete folds/ when the programs change."""
    said = [{name: value for name, value in row.items() if name not in ("name", "seeds")}, *shared]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def sequences(row: dict[str, Any], settings: dict[str, Any], seed: int) -> tuple[Simulation, cv.Trajectories]:
    """The process of a seed with its truth, and what is seen of it."""
    process = {**settings["process"], "edge_weight": tuple(settings["process"]["edge_weight"])}
    simulation = cv.simulate(**process, layout="sequences", seed=seed)
    return simulation, mixed(simulation, **settings["mixtures"][row["mixture"]], seed=seed).data


def scored(row: dict[str, Any], settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """The scores of one row from one seed."""
    simulation, seen = sequences(row, settings, seed)
    if row.get("hidden_perturbations"):
        seen = replace(seen, condition=np.zeros_like(seen.condition))
    true = simulation.truth.z[1:]
    z, W = states(row, settings["fit"], seen, true, seed)
    K = true.shape[-1]
    flat, target = z.reshape(-1, z.shape[-1]), true.reshape(-1, K)
    found = match(flat, target)
    linear = LinearRegression().fit(flat, target)
    scores = {
        "mcc": abs(found.correlation).mean(),
        "worst": abs(found.correlation).min(),
        "linear_r2": linear.score(flat, target),
        "auroc": np.nan,
        "f1": np.nan,
    }
    return scores | (graph(W, found, simulation.truth) if W is not None else {})


def states(
    row: dict[str, Any], fit: dict[str, Any], data: cv.Trajectories, true: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """States at steps 1..T, and the weights of the lag graph where there is one."""
    K = true.shape[-1]
    if row["program"] in ("random", "oracle"):
        return encoded(row["program"], data, true, seed), None
    posterior = fitted(row, fit, data, K, seed)
    W = None
    if row["program"] == "citevae" and row.get("time", True):
        W = posterior.to_datatree()["posterior"]["W"].mean(("chain", "draw")).to_numpy()[0]
    return smoothed_states(posterior, data), W


def fitted(
    row: dict[str, Any], fit: dict[str, Any], data: cv.Trajectories, K: int, seed: int
) -> cv.Posterior:
    """The fit of a row."""
    torch.manual_seed(seed)
    schema = data.schema
    plain = {"onset": False, "own_transcript": False, "direct": False, "group": False, "edges": False}
    makers = {
        "citevae": lambda: CiteVAE(
            schema,
            n_programs=K,
            n_invariant=0,
            decay=0.5,
            shift_scale=1.0,
            time=row.get("time", True),
            **plain,
        ),
        "ivae": lambda: IdentifiableVAE(schema, n_programs=K),
        "slow_vae": lambda: SlowVAE(schema, n_programs=K),
        "beta_vae": lambda: BetaVAE(schema, n_programs=K),
    }
    model = makers[row["program"]]()
    epochs = row.get("max_epochs", fit["max_epochs"])
    chosen = {**fit, "max_epochs": epochs, "seed": seed}
    posterior = cv.fit(model, BackwardSmoother(model), data, progress=False, **chosen)
    if row.get("rounds"):
        posterior = unmix(posterior, data, rounds=row["rounds"], progress=False)
    return posterior


def encoded(kind: str, data: cv.Trajectories, true: np.ndarray, seed: int) -> np.ndarray:
    """States by a network of random weights, or by one that is trained on the truth of the same cells."""
    x = data.values.toarray()
    if kind == "random":
        rng = np.random.default_rng(seed)
        hidden = np.maximum(x @ rng.normal(size=(x.shape[1], 64)), 0.0)
        made = hidden @ rng.normal(size=(64, true.shape[-1]))
    else:
        network = MLPRegressor(hidden_layer_sizes=(64, 64), max_iter=60, random_state=seed)
        made = network.fit(x, true[data.row_step - 1, data.row_cell]).predict(x)
    z = np.empty_like(true)
    z[data.row_step - 1, data.row_cell] = made
    return z


def graph(W: np.ndarray, found: Matching, truth: Any) -> dict[str, Any]:
    """How well the lag graph is found, in units of the true programs."""
    turned = found.lag_graph(W)
    true, strength = truth.A[0].ravel(), abs(turned).ravel()
    return {
        "auroc": roc_auc_score(true, strength),
        "f1": f1_score(true, strength > EDGE),
        "W": turned.ravel().tolist(),
        "W_true": truth.W[0].ravel().tolist(),
    }


def tabulate(results: pd.DataFrame) -> str:
    """A line a row: median over seeds, and the range."""
    names = ("mcc", "worst", "linear_r2", "auroc", "f1")
    lines = [
        "| | seeds | MCC | worst program | linear R2 | edge AUROC | edge F1 | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row, group in results.groupby("row", sort=False):
        cells = [
            f"{group[n].median():.2f} ({group[n].min():.2f}-{group[n].max():.2f})"
            if group[n].notna().all()
            else ""
            for n in names
        ]
        lines.append(
            f"| {row} | " + " | ".join([str(len(group)), *cells, f"{group.seconds.mean():.0f}"]) + " |"
        )
    return "\n".join(lines)


def draw(results: pd.DataFrame, settings: dict[str, Any]) -> None:
    """The lag graph of the first row beside the true one, seed by seed."""
    rows = results[results.row == settings["rows"][0]["name"]]
    K = settings["process"]["n_programs"]
    figure, axes = plt.subplots(2, len(rows), figsize=(2 * len(rows), 4.4), squeeze=False)
    for column, (_, one) in zip(axes.T, rows.iterrows(), strict=True):
        for axis, name in zip(column, ("W_true", "W"), strict=True):
            axis.imshow(np.reshape(one[name], (K, K)), cmap="RdBu_r", vmin=-0.8, vmax=0.8)
            axis.set_xticks([]), axis.set_yticks([])
        column[0].set_title(f"seed {one.seed}", fontsize=9)
    axes[0, 0].set_ylabel("true"), axes[1, 0].set_ylabel("fitted")
    figure.suptitle("Lag graph: weight of program j (column) on program k (row)", fontsize=10)
    figure.savefig(HERE / "lag_graph.png", dpi=110, bbox_inches="tight")


if __name__ == "__main__":
    main()
