"""Which part of a context is found again: simulated contexts that differ in one part at a time.

python experiments/unseen_context/parts.py [--seeds 2] [--contexts 1] [--jobs 2] [--out parts.parquet]
"""

from __future__ import annotations

import argparse
import multiprocessing
import warnings
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import pyro_citevae as cv
from pyro_citevae.data.groups import Groups
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.infer.program_levels import program_levels
from pyro_citevae.models import CiteVAE

PARTS = {
    "none": {},
    "start": {"context_start": 1.5},
    "baseline": {"context_baseline": 0.8},
    "mechanism": {"context_mechanism": 0.8},
    "baseline and mechanism": {"context_mechanism": 0.8, "context_baseline": 0.8},
}
TERMS = {
    "no contexts": (),
    "start": ("start",),
    "baseline": ("baseline",),
    "mechanism": ("mechanism",),
    "all": ("start", "baseline", "mechanism"),
}
CASES = [(part, terms) for part in PARTS for terms in TERMS if terms in (part, "no contexts", "all")]
HELD_OUT = ("context_2", "context_4", "context_0", "context_1", "context_3")
STEPS = 2000


def simulated(part: str, seed: int) -> cv.Simulation:
    """Five contexts, four perturbations, and low counts."""
    return cv.simulate(
        n_cells=1200,
        n_genes=60,
        n_programs=4,
        n_perturbations=4,
        n_contexts=5,
        n_steps=3,
        design="snapshot",
        library=300.0,
        saturating=True,
        seed=seed,
        **PARTS[part],
    )


def row(part: str, terms: str, held_out: str, seed: int) -> dict[str, object]:
    """One fit: errors of effects in the held-out context and of profiles, and what contexts have apart."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    simulation = simulated(part, seed)
    train, test = simulation.data.hold_out(contexts=held_out)
    model = CiteVAE(train.schema, n_programs=8, contexts=TERMS[terms])
    posterior = cv.fit(model, BackwardSmoother(model), train, max_steps=STEPS, seed=seed, progress=False)
    labels = list(test.perturbations())

    def error(one: cv.Posterior, contexts: list[str]) -> float:
        effect = one.effect(labels, context=contexts, draws=100, progress=False)
        mean = effect.mean(("chain", "draw")).to_numpy()[:, :, 0]
        truth = [simulation.effects(labels, 3, context=context) for context in contexts]
        return float(
            np.mean([np.linalg.norm(m - t) / np.linalg.norm(t) for m, t in zip(mean, truth, strict=True)])
        )

    program_alone = replace(posterior, discrepancy=None)
    measured = [one for one in train.schema.contexts if one != held_out]
    controls = train.controls()
    groups = Groups.of(controls)
    program = program_levels(posterior.members, controls, groups, 20, 0)[0]
    found: dict[str, object] = {
        "part that differs": part,
        "terms": terms,
        "held out": held_out,
        "seed": seed,
        "measured contexts, program alone": error(program_alone, measured),
        "measured contexts": error(posterior, measured),
        "held-out context, program alone": error(program_alone, [held_out]),
        "held-out context": error(posterior, [held_out]),
        "control profiles": float(np.abs(program - groups.level).mean()),
    }
    if "mechanism" in TERMS[terms]:
        found["share apart"] = float(posterior.context_shifts().table["share"].mean())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--contexts", type=int, default=1, choices=range(1, 6))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("parts.parquet"))
    asked = parser.parse_args()
    asking = product(CASES, HELD_OUT[: asked.contexts], range(asked.seeds))
    cases = [(*case, held_out, seed) for case, held_out, seed in asking]
    rows = []
    with ProcessPoolExecutor(asked.jobs, multiprocessing.get_context("spawn")) as pool:
        for one in pool.map(row, *zip(*cases, strict=True)):
            rows.append(one)
            print(
                " ".join(
                    f"{value:.3f}" if isinstance(value, float) else str(value) for value in one.values()
                ),
                flush=True,
            )
            pd.DataFrame(rows).to_parquet(asked.out)
    over = pd.DataFrame(rows).drop(columns=["held out", "seed"])
    print(over.groupby(["part that differs", "terms"], sort=False).mean().round(3).to_markdown())


if __name__ == "__main__":
    main()
