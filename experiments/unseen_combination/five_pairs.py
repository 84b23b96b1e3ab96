"""The five real pairs whose members are both seen alone: all five held out at once, over seeds.

python experiments/unseen_combination/five_pairs.py --seeds 3
"""

from __future__ import annotations

import argparse

import pandas as pd

import pyro_citevae as cv
from pyro_citevae.analysis import Additive, MatchingMean, MeanOfSingles, StrongerSingle, evaluate, measure
from pyro_citevae.data import members_seen
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    data = cv.datasets.load("norman_subset")
    doubles = [one for one in data.conditions if len(one.tokens) == 2]
    pairs = [one for one in doubles if members_seen(one, data.conditions) == 2]
    train, test = data.hold_out(combinations=[one.label() for one in pairs])
    time, controls = data.schema.times[-1], train.controls()
    measured = [measure(test, one.label(), time, train) for one in pairs]
    rules = (Additive(train), StrongerSingle(train), MeanOfSingles(train), MatchingMean(train))
    predicted = {rule.name: rule.effect(pairs) for rule in rules}
    fits = []
    for seed in seeds:
        model = CiteVAE(train.schema)
        fits.append(cv.fit(model, BackwardSmoother(model), train, batch_size=64, seed=seed, progress=False))
        predicted[f"seed {seed}, against do()"] = fits[-1].effect(pairs)
        predicted[f"seed {seed}, against measured controls"] = fits[-1].effect(pairs, versus=controls)
        print(f"seed {seed} fitted", flush=True)
    if len(fits) > 1:
        predicted["ensemble, against measured controls"] = cv.Ensemble(fits).effect(pairs, versus=controls)
    print(tabulated(evaluate(predicted, measured, headline=(), protocol="", dataset="norman_subset")))


def tabulated(scores: pd.DataFrame) -> str:
    """Relative L2 of each pair and their mean, and the mean Pearson correlation and 80 % coverage."""
    error = scores[scores.score == "relative_l2"]
    table = error.pivot(index="predictor", columns="perturbation", values="value")
    overall = scores[scores.perturbation == "ALL"].set_index(["predictor", "score"])["value"]
    for score, title in (("pearson_delta_control", "Pearson"), ("coverage_80", "80 % covers")):
        table[title] = overall.xs(score, level="score")
    return str(table.rename(columns={"ALL": "mean L2"}).sort_values("mean L2").round(2).to_string())


if __name__ == "__main__":
    main()
