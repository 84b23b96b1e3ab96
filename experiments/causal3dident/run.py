"""Recovery of programs from vectors: CITE-VAE beside programs that see less.

python experiments/causal3dident/run.py goes on where it was cut off: states and scores are in folds/.
Given names of rows, it runs those.
"""

from __future__ import annotations

import argparse
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
from pyro_citevae.analysis.identifiability.factor_recovery import factor_recovery
from pyro_citevae.analysis.identifiability.recovery import Matching, match
from pyro_citevae.data.mixing import mixed
from pyro_citevae.data.simulate import Simulation
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.infer import unmix
from pyro_citevae.infer.unmixing import smoothed_states
from pyro_citevae.models import CiteVAE

HERE = Path(__file__).parent
STORE = HERE / "folds"
EDGE = 0.2  # absolute weight from which an edge is called, half of the smallest true one
SCORES = {  # what the table has, by name
    "mcc": "MCC",
    "worst": "worst program",
    "linear_r2": "linear R2",
    "diagonal": "diagonal R2",
    "off_diagonal": "off-diagonal R2",
    "spearman": "Spearman",
    "triplet": "triplet",
    "auroc": "edge AUROC",
    "f1": "edge F1",
    "shd": "edges wrong of 16",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", help="names of the rows to run; all if none")
    asked = parser.parse_args()
    settings = tomllib.loads((HERE / "config.toml").read_text())
    STORE.mkdir(exist_ok=True)
    records = []
    for row in settings["rows"]:
        for seed in range(row["seeds"]):
            piece = piece_of(row, settings, seed)
            if not piece.is_file() and (not asked.rows or row["name"] in asked.rows):
                kept = piece.with_suffix(".npz")
                if not kept.is_file():
                    fit_states(kept, row, settings, seed)
                scored(kept, row, settings, seed).to_parquet(piece)
            if piece.is_file():
                records.append(pd.read_parquet(piece).assign(row=row["name"]))
                print(records[-1][["row", "seed", *SCORES]].to_string(header=False), flush=True)
    results = pd.concat(records, ignore_index=True)
    results.to_parquet(HERE / "results.parquet")
    (HERE / "results.md").write_text(tabulate(results) + "\n")
    draw(results, settings)
    draw_programs(results)


def piece_of(row: dict[str, Any], settings: dict[str, Any], seed: int) -> Path:
    """Where the scores of a row and seed are kept, and the states beside them."""
    shared = (settings["process"], settings["mixtures"][row["mixture"]], settings["fit"])
    return STORE / f"{key(row, *shared)}_{seed}.parquet"


def key(row: dict[str, Any], *shared: dict[str, Any]) -> str:
    """A digest of all settings that a row follows from; delete folds/ when the programs change."""
    said = [{name: value for name, value in row.items() if name not in ("name", "seeds")}, *shared]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def sequences(row: dict[str, Any], settings: dict[str, Any], seed: int) -> tuple[Simulation, cv.Trajectories]:
    """The process of a seed with its truth, and what is seen of it."""
    process = {**settings["process"], "edge_weight": tuple(settings["process"]["edge_weight"])}
    simulation = cv.simulate(**process, design="sequences", seed=seed)
    return simulation, mixed(simulation, **settings["mixtures"][row["mixture"]], seed=seed).data


def fit_states(kept: Path, row: dict[str, Any], settings: dict[str, Any], seed: int) -> None:
    """Writes the states that a row finds, and its lag graph where it has one."""
    started = time.perf_counter()
    simulation, seen = sequences(row, settings, seed)
    if row.get("hidden_perturbations"):
        seen = replace(seen, condition=np.zeros_like(seen.condition))
    z, W = states(row, settings["fit"], seen, simulation.truth.z[1:], seed)
    found = {"z": z} if W is None else {"z": z, "W": W}
    np.savez(kept, seconds=time.perf_counter() - started, **found)


def scored(kept: Path, row: dict[str, Any], settings: dict[str, Any], seed: int) -> pd.DataFrame:
    """The scores of the states of one row from one seed.

    Blocks and triplets are scored at the last step of each sequence, so that no two rows are of one sequence.
    """
    truth = sequences(row, settings, seed)[0].truth
    true = truth.z[1:]
    K = true.shape[-1]
    with np.load(kept) as found:
        z, W, seconds = found["z"], found.get("W"), found["seconds"].item()
    flat, target = z.reshape(-1, z.shape[-1]), true.reshape(-1, K)
    matching = match(flat, target)
    correlation = abs(matching.correlation)
    last = factor_recovery(z[-1], true[-1], [f"program {k}" for k in range(K)], seed=seed)
    scores = {
        "seed": seed,
        "seconds": seconds,
        "mcc": correlation.mean(),
        "worst": correlation.min(),
        "correlation": correlation.tolist(),
        "linear_r2": LinearRegression().fit(flat, target).score(flat, target),
        "diagonal": last.diagonal,
        "off_diagonal": last.off_diagonal,
        "spearman": last.spearman.diagonal().mean(),
        "triplet": last.triplet.mean(),
        "auroc": np.nan,
        "f1": np.nan,
        "shd": np.nan,
    }
    return pd.DataFrame([scores | (graph(W, matching, truth) if W is not None else {})])


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
    """The fit of a row: of more than one start, that of the best bound."""
    starts = [started(row, fit, data, K, seed + 1000 * start) for start in range(row.get("restarts", 1))]
    return max(starts, key=lambda posterior: posterior.bound(data)) if len(starts) > 1 else starts[0]


def started(
    row: dict[str, Any], fit: dict[str, Any], data: cv.Trajectories, K: int, seed: int
) -> cv.Posterior:
    """The fit of a row from one start."""
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
    guide = BackwardSmoother(model, correlated=row.get("correlated", False))
    posterior = cv.fit(model, guide, data, progress=False, **chosen)
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
        "shd": float((true != (strength > EDGE)).sum()),
        "W": turned.ravel().tolist(),
        "W_true": truth.W[0].ravel().tolist(),
    }


def tabulate(results: pd.DataFrame) -> str:
    """A line a row: median over seeds, and the range."""
    lines = [
        f"| | seeds | {' | '.join(SCORES.values())} | seconds |",
        "|---" * (len(SCORES) + 3) + "|",
    ]
    for row, group in results.groupby("row", sort=False):
        cells = [
            f"{group[n].median():.2f} ({group[n].min():.2f}-{group[n].max():.2f})"
            if group[n].notna().all()
            else ""
            for n in SCORES
        ]
        lines.append(
            f"| {row} | " + " | ".join([str(len(group)), *cells, f"{group.seconds.mean():.0f}"]) + " |"
        )
    return "\n".join(lines)


def draw(results: pd.DataFrame, settings: dict[str, Any]) -> None:
    """The lag graph of the first row beside the true one, seed by seed, once it has run."""
    rows = results[results.row == settings["rows"][0]["name"]]
    if rows.empty:
        return
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
    plt.close(figure)


def draw_programs(results: pd.DataFrame) -> None:
    """The correlation of every true program with its match, a line a row of the table."""
    by_row = {
        str(row): np.stack(list(group.correlation)) for row, group in results.groupby("row", sort=False)
    }
    seeds, K = max(found.shape for found in by_row.values())
    shown = np.full((len(by_row), seeds * K), np.nan)
    for line, found in zip(shown, by_row.values(), strict=True):
        line[: found.size] = found.ravel()
    figure, axis = plt.subplots(figsize=(9, 0.32 * len(by_row) + 0.9))
    image = axis.imshow(shown, cmap="viridis", vmin=0.5, vmax=1.0, aspect="auto")
    axis.set_yticks(range(len(by_row)), list(by_row), fontsize=8)
    axis.set_xticks(np.arange(seeds) * K + (K - 1) / 2, [f"seed {seed}" for seed in range(seeds)], fontsize=8)
    for edge in np.arange(1, seeds) * K - 0.5:
        axis.axvline(edge, color="white")
    figure.colorbar(image, extend="min")
    axis.set_title("Absolute correlation of each true program with its match", fontsize=10)
    figure.savefig(HERE / "programs.png", dpi=110, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    main()
