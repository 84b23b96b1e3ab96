"""Tidy tables of scores: their columns, means, skills and scales, and how people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pyro_citevae.analysis.scoring import scores
from pyro_citevae.arguments import names

__all__ = [
    "ALL",
    "CEILING",
    "COLUMNS",
    "REPRODUCIBLE",
    "markdown",
    "means",
    "scaled_scores",
    "skills",
    "summary",
]

ALL, REPRODUCIBLE, CEILING = "ALL", "REPRODUCIBLE", "ceiling"
COLUMNS = ("protocol", "dataset", "predictor", "perturbation", "time", "fold", "seed", "score", "value")
_SHOWN = ("pearson_delta_control", "relative_l2", "coverage_80")


def means(frame: pd.DataFrame, strata: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Adds the means over all perturbations (``ALL``) and over those of each stratum, fold by fold.

    Args:
        frame: Tidy rows of single perturbations. A score that has no value of a single perturbation comes as
            a row of ``ALL``, and its mean is that row.
        strata: Perturbations by the name of their mean; names that were not scored do not count.

    Returns:
        The rows, with those of the means after them.
    """
    keys = [name for name in COLUMNS if name not in ("perturbation", "value")]
    given = frame.perturbation == ALL
    single = frame[~given]
    groups = {ALL: single.perturbation.unique(), **strata}
    members = {group: single[single.perturbation.isin(list(names))] for group, names in groups.items()}
    made = [
        rows.groupby(keys, as_index=False, sort=False)["value"].mean().assign(perturbation=group)
        for group, rows in [*members.items(), (ALL, frame[given])]
    ]
    return pd.concat([single, *(part for part in made if len(part))])[list(COLUMNS)].reset_index(drop=True)


def skills(frame: pd.DataFrame, baselines: Sequence[str], score: str = "crps") -> pd.DataFrame:
    """Rows ``crps_skill_over_<baseline>``: ``1 - score / baseline's score``, for every other predictor.

    Args:
        frame: Tidy rows, those of the baselines among them (one seed, or the same as the predictor's).
        baselines: Names of the predictors to compare with.
        score: A score that is better when smaller.
    """
    baselines = names(baselines, "skills(baselines=...)")
    keys = ["perturbation", "time", "fold"]
    kept = frame[frame.score == score]
    made = []
    for name in baselines:
        base = kept[kept.predictor == name].groupby(keys)["value"].mean().rename("base").reset_index()
        joined = kept[~kept.predictor.isin([name, CEILING])].merge(base, on=keys)
        values = [
            scores.skill(value, base) for value, base in zip(joined["value"], joined["base"], strict=True)
        ]
        made.append(joined.assign(value=values, score=f"{score}_skill_over_{name.replace(' ', '_')}"))
    return pd.concat(made)[list(COLUMNS)] if made else frame.iloc[:0]


def scaled_scores(frame: pd.DataFrame, baseline: str, ceiling: str = CEILING) -> pd.DataFrame:
    """Rows ``scaled_<score>``: ``(model - baseline) / (ceiling - baseline)``, where the ceiling has it.

    Args:
        frame: Tidy rows, those of the baseline and of the ceiling among them.
        baseline: Predictor that scores 0.
        ceiling: Predictor that scores 1.
    """
    keys = ["perturbation", "time", "fold", "score"]
    base, top = (frame[frame.predictor == name].groupby(keys)["value"].mean() for name in (baseline, ceiling))
    both = pd.concat({"base": base, "top": top}, axis=1).dropna().reset_index()
    joined = frame[~frame.predictor.isin([baseline, ceiling])].merge(both, on=keys)
    values = [
        scores.scaled(value, base, top)
        for value, base, top in zip(joined["value"], joined["base"], joined["top"], strict=True)
    ]
    return joined.assign(value=values, score="scaled_" + joined.score)[list(COLUMNS)]


def summary(frame: pd.DataFrame, headline: Sequence[str]) -> pd.DataFrame:
    """The scores for people: a row a perturbation and mean, "Pearson / relative L2" by predictor.

    Args:
        frame: What :func:`evaluate` returned.
        headline: Perturbations that get a row of their own.

    Returns:
        Text, with a column a predictor, and one with the 80 % coverage of the first that has intervals.
    """
    headline = names(headline, "summary(headline=...)")
    n_all = frame[~frame.perturbation.isin((ALL, REPRODUCIBLE))].perturbation.nunique()
    titles = {REPRODUCIBLE: f"mean of {len(headline)}", ALL: f"all {n_all}"}
    shown = [*headline, *([REPRODUCIBLE] if headline else []), ALL]
    values = frame.set_index(["predictor", "perturbation", "score"])["value"].sort_index()
    columns: dict[str, list[str]] = {}
    for predictor in frame.predictor.drop_duplicates():
        rows = [values[predictor, name] for name in shown]
        columns[predictor] = [f"{row[_SHOWN[0]]:.2f} / {row[_SHOWN[1]]:.2f}" for row in rows]
        if predictor != CEILING and "80 % covers" not in columns and np.isfinite(rows[-1][_SHOWN[2]]):
            columns["80 % covers"] = [f"{row[_SHOWN[2]]:.2f}" for row in rows]
    order = [name for name in columns if name != CEILING] + [CEILING]
    return pd.DataFrame(columns, index=[titles.get(name, name) for name in shown])[order]


def markdown(text: pd.DataFrame) -> str:
    """The table of :func:`summary` as markdown."""
    lines = ["Pearson / relative L2 of the effect against control, own gene left out.", ""]
    lines.append("| | " + " | ".join(text.columns) + " |")
    lines.append("|---" * (len(text.columns) + 1) + "|")
    lines += [
        "| " + " | ".join([str(name), *row]) + " |" for name, row in zip(text.index, text.values, strict=True)
    ]
    return "\n".join(lines)
