"""The scale of the Virtual Cell Challenge: 0 is the mean response, 1 is as good as measuring again."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd

from pyro_citevae.analysis.scoring.tables import ALL, COLUMNS
from pyro_citevae.analysis.scoring.virtual_cell_challenge import (
    PREFIX,
    challenge_rows,
    configured,
    without_advice,
)
from pyro_citevae.data.cell_eval2_files import cells_for_cell_eval2
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import CiteVAEWarning

__all__ = ["MEAN_RESPONSE", "REPLICATE", "SCALED", "challenge_scale", "challenge_scaled"]

MEAN_RESPONSE, REPLICATE = "mean response", "replicate"
SCALED = f"scaled_{PREFIX}"
_AVERAGE = f"{SCALED}average"


def challenge_scale(measured: Trajectories, time: float, preset: str = "vcc2026") -> pd.DataFrame:
    """The two ends of the challenge's scale, from the measured cells alone, by cell-eval2 itself.

    The mean response b (``cell_eval2.build_generic_baseline``) predicts for each perturbation the mean over
    the perturbations of their mean counts, as control cells drawn anew and rescaled gene by gene. It sees
    what it is scored on. The replicate r (``cell_eval2.anchor.compute_replicate_anchor``) scores one half of
    every group's cells on the other half, each with controls of its own, as the mean over five splits; it is
    not corrected for its half depth.

    On the three contexts of 2026 b is published as about .50 (``pds_cosine``), .99
    (``expr_mse_unbiased_capped_norm``), .51 (direction fidelity), .07 (reach), .03 (Jaccard) and 1.0
    (``lfc_nmae``), and r as .93-.98, .03-.05, .80-.83, .96-.98, .38-.42 and .37-.43, with 400 cells a
    perturbation. There the baseline leaves out perturbations that hardly lower their target; here it takes
    all.

    Args:
        measured: Measured cells, controls of the same time among them.
        time: The time to take.
        preset: Settings of cell-eval2.

    Returns:
        Rows as of :func:`~pyro_citevae.analysis.challenge_scores` of the predictors ``mean response``, and
        ``replicate``, which has values over all perturbations only. An end that these cells cannot give, as
        where there is one perturbation, is left out with a warning.

    Raises:
        DataError: cell-eval2 is not installed.
    """
    package, config = configured(measured, preset)
    from cell_eval2 import competition
    from cell_eval2.anchor import compute_replicate_anchor

    now = measured.select(time=time)
    cells = cells_for_cell_eval2(now.stored.tocsr(), now.row_labels, now.schema.genes)
    frames = []
    try:
        with without_advice():
            baseline = package.build_generic_baseline(cells, config=config, allow_degenerate=True)
        frames.append(challenge_rows(baseline.results, MEAN_RESPONSE, time))
        splits = {"base_seed": competition.BASE_SEED, "n_splits": competition.N_SPLITS}
        with without_advice():
            _, anchor = compute_replicate_anchor(cells, config=config, **splits)
        found = pd.DataFrame(anchor.select("metric", "replicate").to_dict(as_series=False))
        found = found.rename(columns={"replicate": "value"}).assign(score=PREFIX + found["metric"])
        frames.append(found.assign(predictor=REPLICATE, perturbation=ALL, time=time))
    except ValueError as error:
        said = str(error).partition(". ")[0]
        warnings.warn(
            f"cell-eval2 finds no {REPLICATE if frames else MEAN_RESPONSE} at {time:g}, so that the "
            f"challenge's scale is left out: {said}.",
            CiteVAEWarning,
            stacklevel=2,
        )
    columns = ["predictor", "perturbation", "time", "score", "value"]
    return pd.concat(frames)[columns] if frames else pd.DataFrame(columns=columns)


def challenge_scaled(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows ``scaled_cell_eval2_<metric>``: ``(u - b) / (r - b)`` of the means over all perturbations.

    Each is scored by ``cell_eval2.scoring.score_one`` with the policy of the challenge, which bounds the
    expression error to 0 to 1 and the fold-change error by -6 from below. Their mean over the metrics of the
    challenge is ``scaled_cell_eval2_average``. A metric without a usable scale has no row, and then there is
    no average.

    Args:
        frame: Tidy rows, the means ``ALL`` of both ends of :func:`challenge_scale` among them.

    Returns:
        The scaled rows of every predictor, of both ends too.
    """
    over_all = frame[frame.perturbation == ALL]
    base, top = (over_all[over_all.predictor == one] for one in (MEAN_RESPONSE, REPLICATE))
    if base.empty or top.empty:
        return frame.iloc[:0]
    from cell_eval2 import competition

    keys = ["time", "fold"]
    members = [PREFIX + one for one in competition.competition_members()]
    rows = over_all[over_all.score.isin(members)]
    for name, end in (("base", base), ("top", top)):
        rows = rows.merge(end[[*keys, "score", "value"]].rename(columns={"value": name}), on=[*keys, "score"])
    values = [_scaled(*row) for row in rows[["score", "value", "base", "top"]].itertuples(index=False)]
    made = rows.assign(value=values, score="scaled_" + rows["score"])[list(COLUMNS)].dropna(subset="value")
    whole = made.groupby(
        [one for one in COLUMNS if one not in ("score", "value")], as_index=False, sort=False
    )
    average = whole["value"].agg(["mean", "count"])
    average = average[average["count"] == len(members)].rename(columns={"mean": "value"})
    return pd.concat([made, average.assign(score=_AVERAGE)])[list(COLUMNS)].reset_index(drop=True)


def _scaled(score: str, value: float, base: float, top: float) -> float:
    """One score on the scale from base to top; NaN where these leave no room."""
    from cell_eval2.catalog import CATALOG
    from cell_eval2.scoring import is_degenerate, score_one

    if not np.isfinite([base, top]).all():
        return float("nan")
    policy = CATALOG[score.removeprefix(PREFIX)].scoring
    try:
        policy = replace(policy, anchor=float(top), allow_negative_baseline=False)
    except ValueError:  # the replicate lies beyond the worst value that the metric can take
        return float("nan")
    return float("nan") if is_degenerate(base, policy) else float(score_one(value, base, policy))
