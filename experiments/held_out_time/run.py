"""Held-out time on RENGE: train on days 2-4, forecast day 5 of all knock-outs, over seeds.

python experiments/held_out_time/run.py --seeds 3
"""

from __future__ import annotations

import argparse
import time
import tomllib
from pathlib import Path

import pandas as pd

import pyro_citevae as cv
from pyro_citevae.analysis import forecast
from pyro_citevae.guides import BackwardSmoother, MeanField
from pyro_citevae.models import CiteVAE, StaticShift

HERE = Path(__file__).parent
MODELS = {"CiteVAE": CiteVAE, "StaticShift": StaticShift}
GUIDES = {"BackwardSmoother": BackwardSmoother, "MeanField": MeanField}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    settings = tomllib.loads((HERE / "config.toml").read_text())
    train, truth = cv.datasets.load("renge").hold_out(times=[5])
    headline = cv.datasets.CATALOGUE["renge"].headline
    frames, seconds = [], []
    for predictor in settings["predictors"]:
        for seed in seeds:
            started = time.perf_counter()
            model = MODELS[predictor["model"]](train.schema)
            posterior = cv.fit(model, GUIDES[predictor["guide"]](model), train, seed=seed, progress=False)
            found = forecast(posterior, train, truth, dataset="renge", headline=headline, seed=seed)
            seconds.append(time.perf_counter() - started)
            frames.append(found.scores)
            print(f"{predictor['model']}/{predictor['guide']} seed {seed}: {seconds[-1]:.0f} s", flush=True)
    results = pd.concat(frames).drop_duplicates(["predictor", "perturbation", "time", "seed", "score"])
    results = results.assign(split=train.split.digest)
    results.to_parquet(HERE / "results.parquet")
    table = tabulate(results)
    (HERE / "results.md").write_text(table + "\n")
    print(table)


def tabulate(results: pd.DataFrame) -> str:
    """Means over the reproducible and over all perturbations: mean over seeds, and the spread."""
    kept = results[results.perturbation.isin(["REPRODUCIBLE", "ALL"])]
    groups = kept.groupby(["predictor", "perturbation", "score"], sort=False)["value"]
    lines = [
        "| predictor | over | Pearson | relative L2 | 80 % coverage | seeds |",
        "|---|---|---|---|---|---|",
    ]
    names = ("pearson_delta_control", "relative_l2", "coverage_80")
    for predictor in results.predictor.drop_duplicates():
        for over in ("REPRODUCIBLE", "ALL"):
            values = [groups.get_group((predictor, over, name)) for name in names]
            spread = [f"{v.mean():.3f} ({v.min():.3f}-{v.max():.3f})" for v in values]
            lines.append(f"| {predictor} | {over.lower()} | " + " | ".join(spread) + f" | {len(values[0])} |")
    return "\n".join(lines).replace("nan (nan-nan)", "none claimed")


if __name__ == "__main__":
    main()
