"""The rows of a benchmark's pieces, completed by means over perturbations, skills and scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pandas as pd

from pyro_citevae.analysis import TechnicalDuplicate, challenge_scaled, scaled_scores, skills
from pyro_citevae.analysis.scoring.tables import ALL, CEILING, means
from pyro_citevae.analysis.scoring.virtual_cell_challenge import PREFIX

__all__ = ["IN_CONTEXT", "completed"]

IN_CONTEXT = "context "
"""What the name of a mean within a held-out context begins with."""

_OWN_SCALE = ("coverage", "sharpness", "risk_coverage", PREFIX)  # more is not better, or the challenge's
_RULES = (
    "no change",
    "mean of others",
    "mean of other contexts",
    "similar contexts",
    "matching mean",
    "additive",
    "persistence",
    "shrunken persistence",
    "linear model",
    "softmax kernel",
)


def completed(
    single: pd.DataFrame,
    strata: Mapping[str, Sequence[str]],
    reference: str,
    n_folds: int,
    contexts: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> pd.DataFrame:
    """Adds means over the perturbations of all folds (fold -1 where there are several), skills and scales.

    The ceiling of a scale is a perfect prediction where its score is known, and else the technical duplicate;
    scores of the challenge are on its own scale.

    Args:
        single: Tidy rows of single perturbations.
        strata: Perturbations by the name of their mean.
        reference: The predictor that scores 0 on a scale.
        n_folds: Number of folds.
        contexts: Folds by the name of the mean over all that was scored in one context.
    """
    timed = single[single.score == "seconds"]
    scored = single[single.score != "seconds"]
    numbered = scored.assign(fold=-1) if n_folds > 1 else scored
    over = means(numbered, strata)
    pooled = [over[over.perturbation.isin([ALL, *strata])]]
    for name, folds in contexts.items():
        within = means(numbered[scored.fold.isin(list(folds))], {})
        pooled.append(within[within["perturbation"] == ALL].assign(perturbation=name))
    frame = pd.concat([scored[scored.perturbation != ALL], *pooled], ignore_index=True)
    rules = frame[frame.predictor.isin(_RULES)].predictor.unique().tolist()
    closed = frame.score.isin(frame[frame.predictor == CEILING].score.unique())
    aimed = ~frame.score.str.startswith(_OWN_SCALE)
    scaled = [
        scaled_scores(frame[closed], reference),
        scaled_scores(frame[~closed & aimed], reference, TechnicalDuplicate.name),
        challenge_scaled(frame),
    ]
    return pd.concat([frame, skills(frame, rules), *scaled, timed], ignore_index=True)
