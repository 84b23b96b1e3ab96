"""Recovery of a scene's factors from rendered sequences: CITE-VAE beside programs that see less.

python experiments/causal3dident/images.py goes on where it was cut off: frames and rows are in folds/.
"""

from __future__ import annotations

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
from run import key
from slow_vae import SlowVAE
from torch import nn

import pyro_citevae as cv
from pyro_citevae.analysis.factor_recovery import FactorRecovery, factor_recovery
from pyro_citevae.data import render
from pyro_citevae.data.causal3dident_dynamics import COARSE, FACTORS, latent_dynamics
from pyro_citevae.data.image_sequences import ImageSequences
from pyro_citevae.data.rendered_sequences import render_parts
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.infer import unmix
from pyro_citevae.infer.unmixing import smoothed_states
from pyro_citevae.models import ImageSequence
from pyro_citevae.nn.networks import ImageEncoder

HERE = Path(__file__).parent
SCORED = [name for name in FACTORS[:10] if name != "rot-gamma"]
COLUMNS = [FACTORS.index(name) for name in SCORED]
ANGLES = [name for name in SCORED if name not in COARSE["pos"]]
K = 16  # programs: an angle takes two, a position one


def main() -> None:
    settings = tomllib.loads((HERE / "images.toml").read_text())
    store = HERE / "folds" / "images"
    store.mkdir(parents=True, exist_ok=True)
    records = []
    for row in settings["rows"]:
        for seed in range(row["seeds"]):
            kept = store / f"{key(row, settings['frames'], settings['fit'])}_{seed}.parquet"
            if not kept.is_file():
                sequences = rendered(settings["frames"], store, seed)
                started = time.perf_counter()
                found = scored(row, settings["fit"], sequences, seed)
                seconds = time.perf_counter() - started
                found.table().reset_index().assign(seed=seed, seconds=seconds).to_parquet(kept)
            records.append(pd.read_parquet(kept).assign(row=row["name"]))
            print(summary(records[-1]).to_string(header=False), flush=True)
            write(pd.concat(records, ignore_index=True))


def write(results: pd.DataFrame) -> None:
    """The rows so far: numbers, table and picture."""
    results.to_parquet(HERE / "images.parquet")
    (HERE / "images.md").write_text(tabulate(results) + "\n")
    draw(results)


def rendered(frames: dict[str, Any], store: Path, seed: int) -> ImageSequences:
    """The sequences of a seed, rendered if they are not there."""
    folder = store / f"{frames['n_sequences']}x{frames['n_steps']}_{'-'.join(frames['shapes'])}_{seed}"
    if not folder.is_dir():
        drawn = latent_dynamics(**frames, seed=seed, interventions="soft")
        render_parts(folder, {"train": drawn}, render.meshes(), seed=seed)
    return ImageSequences.open(folder)


def scored(row: dict[str, Any], fit: dict[str, Any], sequences: ImageSequences, seed: int) -> FactorRecovery:
    """The matrix of one row from one seed, over the steps that a transition leads into."""
    torch.manual_seed(seed)
    if row["program"] in ("random", "oracle"):
        z = encoded(row["program"], sequences, seed)
    else:
        z = states(row, fit, sequences, seed)
    factors = sequences.latents[:, 1:, COLUMNS].reshape(-1, len(SCORED))
    return factor_recovery(z.reshape(len(factors), -1), factors, SCORED, angles=ANGLES, seed=seed)


def states(row: dict[str, Any], fit: dict[str, Any], sequences: ImageSequences, seed: int) -> np.ndarray:
    """Fitted states, (sequence, step, program)."""
    data = sequences.trajectories()
    if row.get("hidden_perturbations"):
        data = replace(data, condition=np.zeros_like(data.condition))
    kinds = {"citevae": ImageSequence, "ivae": IdentifiableVAE, "slow_vae": SlowVAE, "beta_vae": BetaVAE}
    options = {name: row[name] for name in ("time", "n_invariant") if name in row}
    if row.get("known_targets"):
        options["targets"] = targets(sequences)
    if row["program"] == "beta_vae":
        options["spread"] = 0.1
    model = kinds[row["program"]](data.schema, n_programs=K, hidden=256, **options)
    posterior = cv.fit(model, BackwardSmoother(model), data, progress=False, **{**fit, "seed": seed})
    if row.get("rounds"):
        posterior = unmix(posterior, data, rounds=row["rounds"], progress=False)
    return smoothed_states(posterior, data).swapaxes(0, 1)


def targets(sequences: ImageSequences) -> list[list[int]]:
    """The programs of the factors that each environment changes: an angle has two, a position one."""
    factor = [name for name in SCORED for _ in range(1 + (name in ANGLES))]
    columns = [FACTORS.index(name) for name in factor]
    spare = [0] * (K - len(factor))
    tokens = np.unique(sequences.environments)[1:]  # the first is the control
    changed = [sequences.interventions[sequences.environments == e].any((0, 1)) for e in tokens]
    return [[*one[columns].astype(int).tolist(), *spare] for one in changed]


def encoded(kind: str, sequences: ImageSequences, seed: int) -> np.ndarray:
    """Outputs of a network of random weights, or of one that learns the factors from the first half."""
    data = sequences.trajectories()
    parts = [
        (np.sin(column), np.cos(column)) if name in ANGLES else (column / 2,)
        for name, column in zip(SCORED, np.moveaxis(sequences.latents[..., COLUMNS], -1, 0), strict=True)
    ]
    target = torch.tensor(np.stack([one for part in parts for one in part], -1), dtype=torch.float32)
    network = ImageEncoder(data.schema.image, 0, 256 if kind == "oracle" else K)
    if kind == "oracle":
        network = nn.Sequential(network, nn.ReLU(), nn.Linear(256, target.shape[-1]))
        optimiser = torch.optim.Adam(network.parameters(), 1e-3)
        rng = np.random.default_rng(seed)
        for _ in range(30):
            for rows in np.array_split(rng.permutation(data.n_cells // 2), data.n_cells // 64):
                x = data.batch(rows).x.dense.swapaxes(0, 1)
                loss = (network(x) - target[rows]).square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    with torch.no_grad():
        blocks = np.array_split(np.arange(data.n_cells), max(data.n_cells // 64, 1))
        made = [network(data.batch(rows).x.dense.swapaxes(0, 1)) for rows in blocks]
    return torch.cat(made)[:, 1:].numpy()


def summary(one: pd.DataFrame) -> pd.Series:
    """The two means of one matrix, and each factor by its own block."""
    matrix = one.set_index("block")[SCORED]
    found = FactorRecovery(tuple(SCORED), np.arange(K), matrix.loc[SCORED].to_numpy())
    return pd.Series(
        {
            "row": one.row.iloc[0],
            "seed": one.seed.iloc[0],
            "seconds": one.seconds.iloc[0],
            "diagonal": found.diagonal,
            "off-diagonal": found.off_diagonal,
            **dict(zip(SCORED, found.r2.diagonal(), strict=True)),
        }
    )


def tabulate(results: pd.DataFrame) -> str:
    """A line a row: means over the seeds."""
    rows = pd.DataFrame([summary(one) for _, one in results.groupby(["row", "seed"], sort=False)])
    names = ["diagonal", "off-diagonal", *SCORED]
    lines = [
        f"| R2 | seeds | {' | '.join(names)} | seconds |",
        "|---" * (len(names) + 3) + "|",
    ]
    for row, group in rows.groupby("row", sort=False):
        values = " | ".join(f"{group[name].mean():.2f}" for name in names)
        lines.append(f"| {row} | {len(group)} | {values} | {group.seconds.mean():.0f} |")
    return "\n".join(lines)


def draw(results: pd.DataFrame) -> None:
    """The matrix of each row, from its first seed."""
    first = results[results.seed == 0]
    groups = list(first.groupby("row", sort=False))
    figure, axes = plt.subplots(1, len(groups), figsize=(2.3 * len(groups), 3.2), squeeze=False)
    for axis, (row, one) in zip(axes[0], groups, strict=True):
        axis.imshow(one.set_index("block")[SCORED].to_numpy(), cmap="viridis", vmin=0, vmax=1)
        axis.set_title(row.replace(", ", ",\n"), fontsize=8)
        axis.set_xticks(range(len(SCORED)), SCORED, rotation=90, fontsize=6)
        axis.set_yticks([])
    axes[0, 0].set_yticks(range(len(SCORED)), SCORED, fontsize=6)
    figure.suptitle("R2 of each factor (column) by each block of programs (row)", fontsize=10)
    figure.savefig(HERE / "images.png", dpi=110, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    main()
