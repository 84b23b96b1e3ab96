"""Would a kernel chosen without the held-out knock-out be the one that is shipped?

python experiments/unseen_gene/kernel_choice.py

The measured effects of the knock-outs are forecast by a Gaussian process on the gene ontology, one left out
at a time. Its kernel (sharpness, specificity, evidence) and its noise are chosen by leaving one out among
the others, and compared with the shipped kernel, whose noise alone is chosen so. No fit of a model is
needed.
"""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np

import pyro_citevae as cv
from pyro_citevae.data import pseudobulk
from pyro_citevae.data.features import gene_ontology

SCREENS = {"papalexi": None, "renge": 5}  # and the time that is forecast
SHIPPED = (4.0, 2.0, ("IEA", "ND"))
KERNELS = list(product((None, 2.0, 4.0, 8.0), (1.0, 2.0, 3.0), (("IEA", "ND"), ("ND",))))
NOISES = (0.1, 0.3, 1.0, 3.0, 10.0)

Choice = tuple[float | None, float, tuple[str, ...]]
Kernels = dict[Choice, np.ndarray]


def main() -> None:
    print("| relative L2 | knock-outs | mean of others | shipped kernel | chosen without it | most often |")
    print("|---|---|---|---|---|---|")
    for name, at in SCREENS.items():
        tokens, effects = measured(name, at)
        kernels = {one: kernel(tokens, one) for one in KERNELS}
        scores, choices = nested(kernels, effects)
        most = "; ".join(f"{choice} {times}" for choice, times in choices.most_common(3))
        strong = np.isin(tokens, cv.datasets.CATALOGUE[name].headline)
        for label, rows in (("all", np.ones_like(strong)), ("reproducible", strong)):
            means = " | ".join(f"{np.array(one)[rows].mean():.3f}" for one in scores.values())
            print(f"| {name}, {label} | {rows.sum()} | {means} | {most} |")


def nested(kernels: Kernels, effects: np.ndarray) -> tuple[dict[str, list[float]], Counter[Choice]]:
    """Errors of three rules with one token left out in turn, and what was chosen without it."""
    scores: dict[str, list[float]] = {"mean of others": [], "shipped": [], "chosen": []}
    choices: Counter[Choice] = Counter()
    everything = np.arange(len(effects))
    for p in everything:
        rest = everything[everything != p]
        choice, noise = best(kernels, rest, effects)
        choices[choice] += 1
        _, usual = best({SHIPPED: kernels[SHIPPED]}, rest, effects)
        scores["mean of others"].append(error(np.nanmean(effects[rest], 0), effects[p]))
        scores["shipped"].append(error(forecast(kernels[SHIPPED], usual, p, rest, effects), effects[p]))
        scores["chosen"].append(error(forecast(kernels[choice], noise, p, rest, effects), effects[p]))
    return scores, choices


def measured(name: str, at: float | None) -> tuple[list[str], np.ndarray]:
    """Tokens, and their measured effects NaN for the own gene: (token, gene)."""
    data = cv.datasets.load(name)
    data = data if at is None else data.select(time=at)
    controls = data.controls()
    tokens = [one for one in data.schema.tokens if data.select(one).n_cells]
    rows = []
    for token in tokens:
        effect = np.asarray(pseudobulk.effect(data.select(token), controls)).ravel().copy()
        effect[np.array(data.schema.genes) == token] = np.nan
        rows.append(effect)
    return tokens, np.stack(rows)


def kernel(tokens: list[str], choice: Choice) -> np.ndarray:
    """What all knock-outs share, and what the ontology says of each."""
    sharpness, specificity, without = choice
    asked = {"sharpness": sharpness, "specificity": specificity, "without": without, "rank": len(tokens)}
    return 1.0 + gene_ontology(tokens, **asked).kernel


def best(kernels: Kernels, rest: np.ndarray, effects: np.ndarray) -> tuple[Choice, float]:
    """The kernel and the noise of least mean error with each of the rest left out in turn."""
    Y = np.nan_to_num(effects[rest])
    tried = {}
    for choice, K in kernels.items():
        for noise in NOISES:
            inverse = np.linalg.inv(K[np.ix_(rest, rest)] + noise * np.eye(len(rest)))
            left_out = Y - inverse @ Y / np.diag(inverse)[:, None]
            errors = [error(one, x) for one, x in zip(left_out, effects[rest], strict=True)]
            tried[choice, noise] = np.mean(errors)
    return min(tried, key=tried.__getitem__)


def forecast(K: np.ndarray, noise: float, p: int, rest: np.ndarray, effects: np.ndarray) -> np.ndarray:
    """Mean of the Gaussian process at a token, given the others."""
    weights = np.linalg.solve(K[np.ix_(rest, rest)] + noise * np.eye(len(rest)), K[rest, p])
    return weights @ np.nan_to_num(effects[rest])


def error(predicted: np.ndarray, effect: np.ndarray) -> float:
    """Relative L2 over the genes that are measured, the own one left out."""
    kept = ~np.isnan(effect)
    return float(np.linalg.norm((predicted - effect)[kept]) / np.linalg.norm(effect[kept]))


if __name__ == "__main__":
    main()
