"""Recovery of a scene's factors from rendered sequences: CITE-VAE beside programs that see less.

python experiments/causal3dident/images.py goes on where it was cut off: frames and rows are in folds/.
Given names of rows and ``--seeds N``, it runs a part.
"""

from __future__ import annotations

import argparse
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
from pyro import poutine
from run import key
from sklearn.metrics import roc_auc_score
from slow_vae import SlowVAE
from torch import nn

import pyro_citevae as cv
from pyro_citevae.analysis.identifiability.factor_recovery import FactorRecovery, factor_recovery
from pyro_citevae.guides import Framewise
from pyro_citevae.infer import unmix
from pyro_citevae.infer.exchangeability import global_draws
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.infer.transition_unmixing import likeliest_states
from pyro_citevae.infer.unmixing import smoothed_states
from pyro_citevae.models import ImageSequence
from pyro_citevae.nn.networks import ImageEncoder
from pyro_citevae.scenes import render
from pyro_citevae.scenes.dynamics import COARSE, FACTORS, adjacency
from pyro_citevae.scenes.rendered import c3d_parts, render_parts
from pyro_citevae.scenes.sequences import ImageSequences
from pyro_citevae.sites import state

HERE = Path(__file__).parent
SCORED = [name for name in FACTORS[:10] if name != "rot-gamma"]
COLUMNS = [FACTORS.index(name) for name in SCORED]
ANGLES = [name for name in SCORED if name not in COARSE["pos"]]
GROUPS = {
    group: [name for name in members if name in SCORED]
    for group, members in COARSE.items()
    if set(members) & set(SCORED)
}
STORE = HERE / "folds" / "images"
PROGRAMS: dict[str, Any] = {
    "citevae": ImageSequence,
    "beta_vae": BetaVAE,
    "ivae": IdentifiableVAE,
    "slow_vae": SlowVAE,
}
PARTS = ("train", "val_indep", "test_indep")  # to fit, to learn the scores' regressions, to score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", help="names of the rows to run; all if none")
    parser.add_argument("--seeds", type=int, help="at most so many seeds a row")
    asked = parser.parse_args()
    settings = tomllib.loads((HERE / "images.toml").read_text())
    STORE.mkdir(parents=True, exist_ok=True)
    records = []
    for row in settings["rows"]:
        for seed in range(row["seeds"]):
            piece = piece_of(row, settings, seed)
            wanted = not asked.rows or row["name"] in asked.rows
            if not piece.is_file() and wanted and seed < (asked.seeds or row["seeds"]):
                parts = rendered(settings["frames"], seed)
                found = piece.with_suffix(".npz")
                if not found.is_file():
                    z, seconds = states(row, settings, parts, seed)
                    np.savez(found, z=z, seconds=seconds)
                with np.load(found) as made:
                    table = scored(made["z"], parts, seed)
                    table.assign(seed=seed, seconds=made["seconds"].item()).to_parquet(piece)
            if piece.is_file():
                records.append(pd.read_parquet(piece).assign(row=row["name"]))
                print(summary(records[-1]).to_string(header=False), flush=True)
                write(pd.concat(records, ignore_index=True))
    draw_graphs(settings)


def piece_of(row: dict[str, Any], settings: dict[str, Any], seed: int) -> Path:
    """Where the scores of a row and seed are kept; states lie beside them, and the fit in a folder."""
    shared = {name: settings[name] for name in ("frames", "programs", "fit", "epochs")}
    return STORE / f"{key(row, shared)}_{seed}.parquet"


def rendered(frames: dict[str, Any], seed: int) -> dict[str, ImageSequences]:
    """The parts of a seed, rendered if they are not there."""
    folder = STORE / f"{frames['n_frames']}_{'-'.join(frames['shapes'])}_{seed}"
    if not folder.is_dir():
        drawn = c3d_parts(frames["n_frames"], frames["shapes"], seed=seed)
        render_parts(folder, {part: drawn[part] for part in PARTS}, render.meshes(), seed=seed)
    return {part: ImageSequences.open(folder, part=part) for part in PARTS}


def states(
    row: dict[str, Any], settings: dict[str, Any], parts: dict[str, ImageSequences], seed: int
) -> tuple[np.ndarray, float]:
    """States of the independent scenes, those of ``val_indep`` first, and the seconds that training took."""
    torch.manual_seed(seed)
    started = time.perf_counter()
    if row["program"] in ("random", "oracle"):
        z = encoded(row["program"], parts, sum(settings["programs"].values()), seed)
        return z, time.perf_counter() - started
    data = pairs(parts)
    scenes = [parts[part].trajectories("interventions", data.schema) for part in PARTS[1:]]
    if row.get("hidden"):
        data = replace(data, condition=np.full_like(data.condition, data.conditions.index(cv.do())))
    run = run_of(row, settings, seed)
    clock = run.with_suffix(".seconds")
    if not clock.is_file():
        fitted(row, settings, data, seed).save(run, overwrite=True)
        clock.write_text(f"{time.perf_counter() - started}\n")
    posterior = kept(row, settings, seed)
    z = np.concatenate([first_states(posterior, scene) for scene in scenes])
    if row.get("unmixed"):  # what training mixed again, by the same map as before, without training on
        M = likeliest_states(posterior.model, data, smoothed_states(posterior, data, first=0), seed=seed)
        z = z @ M.T
    return z, float(clock.read_text())


def run_of(row: dict[str, Any], settings: dict[str, Any], seed: int) -> Path:
    """The folder of a row's fit."""
    return piece_of(row, settings, seed).with_suffix("")


def pairs(parts: dict[str, ImageSequences]) -> cv.Trajectories:
    """The series to train on, as overlapping pairs of frames."""
    return parts["train"].windows(2, stride=1).trajectories("interventions")


def kept(row: dict[str, Any], settings: dict[str, Any], seed: int) -> cv.Posterior:
    """The fit of a row that was run."""
    return cv.Posterior.load(run_of(row, settings, seed), PROGRAMS[row["program"]], Framewise)


def fitted(row: dict[str, Any], settings: dict[str, Any], data: cv.Trajectories, seed: int) -> cv.Posterior:
    """A row's fit: all have the same epochs, some with the states held in between."""
    fit, epochs = {**settings["fit"], "seed": seed, "progress": False}, settings["epochs"]
    model = program(row, settings["programs"], data.schema)
    guide = Framewise(model, hidden=256)
    if not row.get("unmixed"):
        return cv.fit(model, guide, data, max_epochs=sum(epochs.values()), **fit)
    first = cv.fit(model, guide, data, max_epochs=epochs["first"], **fit)
    return unmix(
        first,
        data,
        by="transitions",
        rounds=1,
        clamped=epochs["held"],
        progress=False,
        max_epochs=epochs["second"],
    )


def program(row: dict[str, Any], programs: dict[str, int], schema: cv.Schema) -> cv.LatentDynamics:
    """The program of a row."""
    K = sum(programs.values())
    if row["program"] != "citevae":
        more = {"spread": 0.1} if row["program"] == "beta_vae" else {}
        made: cv.LatentDynamics = PROGRAMS[row["program"]](schema, n_programs=K, hidden=256, **more)
        return made
    owner = np.repeat(list(programs), list(programs.values()))
    targets = [(owner == token).astype(int).tolist() for token in schema.tokens]
    return ImageSequence(
        schema,
        n_programs=K,
        n_invariant=row.get("n_invariant", 2),
        hidden=256,
        time=row.get("time", True),
        targets=None if row.get("unknown_targets") or row.get("hidden") else targets,
        perfect=True,
    )


def first_states(posterior: cv.Posterior, scenes: cv.Trajectories) -> np.ndarray:
    """Posterior mean of each scene's state, (scene, program)."""
    found = []
    with torch.no_grad():
        for batch in scenes.chunks(256):
            law = poutine.trace(posterior.guide).get_trace(batch).nodes[state(0)]["fn"]
            found.append(law.mean.numpy())
    return np.concatenate(found)


def encoded(kind: str, parts: dict[str, ImageSequences], n: int, seed: int) -> np.ndarray:
    """Outputs of a network of random weights, or of one that learns the factors of the frames to train on."""
    train = parts["train"]
    image = train.images.shape[1:]
    network: nn.Module = ImageEncoder(image, 0, n if kind == "random" else 256)
    if kind == "oracle":
        target = torch.tensor(coordinates(train), dtype=torch.float32)
        network = nn.Sequential(network, nn.SiLU(), nn.Linear(256, target.shape[-1]))
        n_epochs, size = 20, 64
        optimiser = torch.optim.Adam(network.parameters(), 2e-3)
        steps = n_epochs * -(-len(target) // size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.1)
        rng = np.random.default_rng(seed)
        for _ in range(n_epochs):
            for rows in np.array_split(rng.permutation(len(target)), steps // n_epochs):
                loss = (network(pixels(train, rows)) - target[rows]).square().mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
    with torch.no_grad():
        made = [
            network(pixels(parts[part], rows))
            for part in PARTS[1:]
            for rows in np.array_split(np.arange(parts[part].n_sequences), 16)
        ]
    return torch.cat(made).numpy()


def pixels(sequences: ImageSequences, rows: np.ndarray) -> torch.Tensor:
    """Images as networks take them."""
    return torch.from_numpy(np.asarray(sequences.images[rows])).flatten(1).float() / 255


def coordinates(sequences: ImageSequences) -> np.ndarray:
    """The factors of every frame, angles as points on the circle."""
    latents = sequences.latents.reshape(-1, 10)
    parts = [
        [np.sin(column), np.cos(column)] if name in ANGLES else [column / 2]
        for name, column in zip(SCORED, latents[:, COLUMNS].T, strict=True)
    ]
    return np.stack([one for part in parts for one in part], axis=-1)


def scored(z: np.ndarray, parts: dict[str, ImageSequences], seed: int) -> pd.DataFrame:
    """The scores of one row: a line a block of programs and score, a column a factor."""
    truth = np.concatenate([parts[part].latents[:, 0, COLUMNS] for part in PARTS[1:]])
    found = factor_recovery(z, truth, SCORED, angles=ANGLES, groups=GROUPS, seed=seed)
    blocks = {"r2": found.r2, "spearman": found.spearman}
    tables = [
        pd.DataFrame(matrix, columns=SCORED).assign(block=list(GROUPS), score=score)
        for score, matrix in blocks.items()
    ]
    triplet = pd.DataFrame([found.triplet], columns=SCORED).assign(block="", score="triplet")
    return pd.concat([*tables, triplet], ignore_index=True)


def recovery(one: pd.DataFrame) -> FactorRecovery:
    """The scores of one row and seed."""
    group = np.array([list(GROUPS).index(g) for name in SCORED for g in GROUPS if name in GROUPS[g]])
    scores = {score: table.set_index("block")[SCORED] for score, table in one.groupby("score")}
    return FactorRecovery(
        tuple(SCORED),
        tuple(GROUPS),
        group,
        np.arange(len(GROUPS)),
        scores["r2"].loc[list(GROUPS)].to_numpy(),
        scores["spearman"].loc[list(GROUPS)].to_numpy(),
        scores["triplet"].to_numpy()[0],
    )


def summary(one: pd.DataFrame) -> pd.Series:
    """The means of one row and seed, and R2 of each factor by its own block."""
    found = recovery(one)
    return pd.Series(
        {
            "row": one.row.iloc[0],
            "seed": one.seed.iloc[0],
            "seconds": one.seconds.iloc[0],
            "diagonal": found.diagonal,
            "off-diagonal": found.off_diagonal,
            "Spearman": found.spearman[found.group, np.arange(len(SCORED))].mean(),
            "triplet": found.triplet.mean(),
            **dict(zip(SCORED, found.own, strict=True)),
        }
    )


def write(results: pd.DataFrame) -> None:
    """The rows so far: numbers, table and picture."""
    results.to_parquet(HERE / "images.parquet")
    (HERE / "images.md").write_text(tabulate(results) + "\n")
    draw(results)


def tabulate(results: pd.DataFrame) -> str:
    """A line a row: means over the seeds."""
    rows = pd.DataFrame([summary(one) for _, one in results.groupby(["row", "seed"], sort=False)])
    names = ["diagonal", "off-diagonal", "Spearman", "triplet", *SCORED]
    lines = [
        f"| R2 | seeds | {' | '.join(names)} | seconds |",
        "|---" * (len(names) + 3) + "|",
    ]
    for row, group in rows.groupby("row", sort=False):
        values = " | ".join(f"{group[name].mean():.2f}" for name in names)
        lines.append(f"| {row} | {len(group)} | {values} | {group.seconds.mean():.0f} |")
    return "\n".join(lines)


def draw(results: pd.DataFrame) -> None:
    """The matrix of each row, from the first seed that it has."""
    first = results[results.seed == results.groupby("row").seed.transform("min")]
    matrices = {
        str(row).replace(", ", ",\n"): recovery(one).by_block for row, one in first.groupby("row", sort=False)
    }
    heatmaps(matrices, "R2 of each factor (column) by each block of programs (row)", "images.png", most=1.0)


def heatmaps(matrices: dict[str, np.ndarray], title: str, file: str, most: float | None = None) -> None:
    """Matrices between groups side by side, on one scale if the largest value is given."""
    figure, axes = plt.subplots(1, len(matrices), figsize=(2.3 * len(matrices), 2.8), squeeze=False)
    for axis, (name, matrix) in zip(axes[0], matrices.items(), strict=True):
        axis.imshow(matrix, cmap="viridis", vmin=0, vmax=most)
        axis.set_title(name, fontsize=8)
        axis.set_xticks(range(len(GROUPS)), list(GROUPS), rotation=90, fontsize=6)
        axis.set_yticks([])
    axes[0, 0].set_yticks(range(len(GROUPS)), list(GROUPS), fontsize=6)
    figure.suptitle(title, fontsize=10)
    figure.savefig(HERE / file, dpi=110, bbox_inches="tight")
    plt.close(figure)


def draw_graphs(settings: dict[str, Any]) -> None:
    """The lag graph between groups in each fit of CITE-VAE that was kept, beside the true one."""
    row = next(row for row in settings["rows"] if row["name"] == "CITE-VAE")
    seeds = [
        seed for seed in range(row["seeds"]) if run_of(row, settings, seed).with_suffix(".seconds").is_file()
    ]
    order = list(COARSE)
    among = [order.index(group) for group in GROUPS]
    true = adjacency(settings["frames"]["shapes"], coarse=True)[1][np.ix_(among, among)]
    between = ~np.eye(len(GROUPS), dtype=bool)
    lines = ["| CITE-VAE | AUROC of edges between groups | true among as many strongest |", "|---|---|---|"]
    shown = {"true": true * between}
    for seed in seeds:
        found = strength(kept(row, settings, seed), settings["programs"])
        auroc = roc_auc_score(true[between], found[between])
        strongest = np.argsort(-found[between])[: true[between].sum()]
        hits = true[between][strongest].sum()
        lines.append(f"| seed {seed} | {auroc:.2f} | {hits} of {len(strongest)} |")
        shown[f"seed {seed}: AUROC {auroc:.2f}"] = found * between
    title = "Lag graph: how much the group of a column drives that of a row"
    heatmaps(shown, title, "images_lag_graph.png")
    (HERE / "images_lag_graph.md").write_text("\n".join(lines) + "\n")


def strength(posterior: cv.Posterior, programs: dict[str, int]) -> np.ndarray:
    """Root mean square weight between the programs of two groups, of a row by a column."""
    with seeded(0), torch.no_grad():
        W = global_draws(posterior.guide, 200)["W"].mean(0)[0, 0, 0].numpy()
    sizes = list(programs.values())
    member = np.repeat(np.eye(len(sizes)), sizes, axis=0) / sizes
    return np.sqrt(member.T @ W**2 @ member)


if __name__ == "__main__":
    main()
