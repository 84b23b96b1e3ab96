"""Would settings chosen without the held-out pairs be those of norman.toml?

python experiments/unseen_combination/settings_choice.py

For each fold of the benchmark a third of the pairs is put aside; among the rest a half at a time is held
out, and the batch size and the weight of the latent terms at the start are chosen by the error on these.
The choice is then compared, on the pairs put aside, with the settings of norman.toml.
"""

from __future__ import annotations

import tomllib
from itertools import product
from pathlib import Path

import pandas as pd

import pyro_citevae as cv
from pyro_citevae.benchmark.fold import Fold
from pyro_citevae.benchmark.protocols import PROTOCOLS
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE

HERE = Path(__file__).parent
GRID = [
    {"batch_size": batch_size, "kl_start": kl_start}
    for batch_size, kl_start in product((64, 128, 256), (0.1, 1.0))
]
BY = ["batch_size", "kl_start"]
SEEDS = 2


def main() -> None:
    settings = tomllib.loads((HERE / "norman.toml").read_text())
    protocol = PROTOCOLS["unseen-combination"]
    rows = []
    for fold in protocol.folds(cv.datasets.load(settings["dataset"]), settings["folds"], ()):
        inner = protocol.folds(fold.train, 2, ())
        for chosen in GRID:
            rows += [
                {"fold": fold.number, "pairs": "inner", **chosen, **errors(one, chosen)} for one in inner
            ]
            rows.append({"fold": fold.number, "pairs": "outer", **chosen, **errors(fold, chosen)})
            pd.DataFrame(rows).to_parquet(HERE / "settings_choice.parquet")
    (HERE / "settings_choice.md").write_text(tabulate(pd.DataFrame(rows), settings["fit"]) + "\n")


def errors(fold: Fold, chosen: dict[str, float]) -> dict[str, float]:
    """Relative L2 of the held-out pairs, all of them and those with both members seen; mean of the seeds."""
    found = []
    for seed in range(SEEDS):
        model = CiteVAE(fold.train.schema)
        posterior = cv.fit(model, BackwardSmoother(model), fold.train, progress=False, seed=seed, **chosen)
        found.append(fold.scores("CiteVAE", posterior, draws=100, cells=0, seed=seed))
    scores = pd.concat(found).query("score == 'relative_l2'")
    both = scores.perturbation.isin(fold.strata.get("ALL MEMBERS SEEN", ()))
    return {
        "all": scores.value.mean(),
        "both seen": scores[both].value.mean(),
        "n both": int(both.sum() / SEEDS),
    }


def tabulate(rows: pd.DataFrame, shipped: dict[str, float]) -> str:
    """A line a setting: its error on each fold's inner pairs and on the outer ones; then the rule itself."""
    inner = rows[rows.pairs == "inner"].pivot_table("all", BY, "fold")
    folds = " | ".join(f"inner, fold {fold}" for fold in inner.columns)
    lines = [
        f"| batch size, kl_start | {folds} | outer, all 15 | outer, five |",
        "|---" * (len(inner.columns) + 3) + "|",
    ]
    for at in inner.index:
        mark = " (norman.toml)" if dict(zip(BY, at, strict=True)) == shipped else ""
        errors_within = " | ".join(f"{value:.3f}" for value in inner.loc[at])
        lines.append(
            f"| {at[0]:g}, {at[1]:g}{mark} | {errors_within} | {outer(rows, [at] * len(inner.columns))} |"
        )
    lines.append(f"| chosen without the outer pairs | {chosen(rows, inner)} |")
    whole = inner[inner.index.get_level_values("kl_start") == 1.0]
    lines.append(f"| the same, kl_start 1 (the higher training bound) | {chosen(rows, whole)} |")
    return "\n".join(lines)


def chosen(rows: pd.DataFrame, inner: pd.DataFrame) -> str:
    """The setting with the least inner error in each fold, and the outer errors of these."""
    best = list(inner.idxmin())
    named = " | ".join(f"{size:g}, {weight:g}" for size, weight in best)
    return f"{named} | {outer(rows, best)}"


def outer(rows: pd.DataFrame, settings: list[tuple[float, float]]) -> str:
    """Mean errors of the pairs put aside, each fold under its own setting."""
    table = rows[rows.pairs == "outer"].set_index(["fold", *BY])
    under = table.loc[[(fold, *at) for fold, at in enumerate(settings)]]
    five = (under["both seen"] * under["n both"]).sum() / under["n both"].sum()
    return f"{under['all'].mean():.3f} | {five:.3f}"


if __name__ == "__main__":
    main()
