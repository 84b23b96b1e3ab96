"""A benchmark's results for people: one table of means, and under which conditions they were made."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from pyro_citevae.analysis.scoring.challenge_scale import SCALED
from pyro_citevae.analysis.scoring.tables import ALL, CEILING, REPRODUCIBLE
from pyro_citevae.analysis.scoring.virtual_cell_challenge import PREFIX
from pyro_citevae.benchmark.completed import IN_CONTEXT
from pyro_citevae.benchmark.runner import Results

__all__ = ["report"]

_SHOWN = {
    "pearson_delta_control": "Pearson",
    "relative_l2": "relative L2",
    "cosine_delta_mean": "cosine beyond the mean",
    "pearson_delta_perturbed": "Pearson beyond the perturbed",
    "pds": "PDS",
    "centroid_accuracy": "centroid accuracy",
    "crps": "CRPS",
    "coverage_80": "80 % covers",
    "energy_distance": "energy distance",
    "de_overlap": "DE overlap",
}
_CHALLENGE = {
    PREFIX: "Predicted cells by cell-eval2, mean over all",
    SCALED: "The same on the challenge's scale: 0 is the mean response, 1 is as good as measuring again",
}


def report(results: Results, command: str) -> str:
    """Markdown: a row a predictor and a mean, over folds, times and seeds, with the range over seeds.

    Args:
        results: What :func:`run` returned.
        command: The command that made them.
    """
    frame = results.scores
    order = list(dict.fromkeys(frame.predictor))
    order = [name for name in order if name == CEILING] + [name for name in order if name != CEILING]
    parts = [f"```sh\n{command}\n```\n"]
    for over in (REPRODUCIBLE, ALL, *results.strata):
        rows = frame[frame.perturbation == over]
        if len(rows[rows.score.isin(_SHOWN)]):
            parts.append(f"{_said(over, results)}\n\n{_table(rows, order)}\n")
        last = rows.time.max()
        if over in (REPRODUCIBLE, ALL) and (rows.time < last).any():
            parts.append(f"The same at time {last:g} alone:\n\n{_table(rows[rows.time == last], order)}\n")
    scaled = frame[frame.score.isin(["scaled_pearson_delta_control", "scaled_relative_l2"])]
    scaled = scaled[scaled.perturbation == (REPRODUCIBLE if results.headline else ALL)]
    if len(scaled):
        titles = {"scaled_pearson_delta_control": "Pearson", "scaled_relative_l2": "relative L2"}
        parts.append(
            "Scaled, so that the reference baseline is 0 and a perfect prediction of noisy truth is 1:\n\n"
            f"{_table(scaled, order, titles)}\n"
        )
    for prefix, said in _CHALLENGE.items():
        rows = frame[frame.score.str.startswith(prefix) & (frame.perturbation == ALL)]
        if len(rows):
            titles = {score: score.removeprefix(prefix) for score in dict.fromkeys(rows.score)}
            parts.append(f"{said}:\n\n{_table(rows, order, titles)}\n")
    if len(results.splits) > 1:
        parts.append(_fold_by_fold(results, order))
    parts.append(_conditions(results))
    return "\n".join(parts)


def _said(over: str, results: Results) -> str:
    if over == REPRODUCIBLE:
        return f"Mean over the reproducible perturbations ({', '.join(results.headline)}):"
    if over == ALL:
        return "Mean over all perturbations that were scored:"
    if over.startswith(IN_CONTEXT):
        return f"Mean in the {over}:"
    return f"Mean over combinations, {over.lower()}:"


def _table(rows: pd.DataFrame, order: Sequence[str], titles: dict[str, str] | None = None) -> str:
    defined = set(rows.score[rows["value"].notna()])
    shown = {score: title for score, title in (titles or _SHOWN).items() if score in defined}
    rows = rows[rows.score.isin(shown)]
    by_seed = rows.groupby(["predictor", "score", "seed"])["value"].mean()
    lines = ["| predictor | " + " | ".join(shown.values()) + " |", "|---" * (len(shown) + 1) + "|"]
    for name in order:
        if not (rows.predictor == name).any():
            continue
        cells = []
        for score in shown:
            found = by_seed.get((name, score))
            cells.append("" if found is None else _spread(by_seed.loc[name, score].dropna()))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(values: pd.Series) -> str:
    if not len(values):
        return ""
    if len(values) == 1:
        return f"{values.iloc[0]:.3f}"
    return f"{values.mean():.3f} ({values.min():.3f}-{values.max():.3f})"


def _fold_by_fold(results: Results, order: Sequence[str]) -> str:
    """Relative L2 of each fold: that of the reference, and by how much each model differs."""
    frame = results.scores
    reference = frame.attrs["settings"]["reference"]
    contexts = {
        split.digest: [name for one in split.criteria for name in one.contexts] for split in results.splits
    }
    scored = frame[(frame.score == "relative_l2") & (frame.fold >= 0) & frame.time.notna()]
    scored = scored[~scored.perturbation.isin(frame[frame.fold < 0].perturbation)]
    known = scored[scored.predictor == reference].set_index(["fold", "perturbation", "time"]).value
    models = [name for name in order if name in set(frame[frame.score == "seconds"].predictor)]
    if known.empty:
        return ""
    lines = [
        f"Relative L2 fold by fold: that of '{reference}', and the models' mean difference from it with its "
        "standard error over perturbations, times and seeds:\n",
        f"| held out | {reference} | " + " | ".join(models) + " |",
        "|---" * (len(models) + 2) + "|",
    ]
    for _, rows in scored[scored.predictor.isin(models)].groupby("fold"):
        keys = pd.MultiIndex.from_frame(rows[["fold", "perturbation", "time"]])
        apart = rows.assign(value=rows.value - known.loc[keys].to_numpy()).groupby("predictor").value
        mean, error = apart.mean(), apart.sem()  # of a single value there is no error
        cells = [
            f"{mean[name]:+.3f}" + ("" if pd.isna(error[name]) else f" ({error[name]:.3f})")
            for name in models
        ]
        held_out = ", ".join(dict.fromkeys(rows.perturbation))
        where = contexts.get(rows.split.iloc[0])
        held_out += f" in {', '.join(where)}" if where else ""
        lines.append(f"| {held_out} | {known.loc[keys].mean():.3f} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _conditions(results: Results) -> str:
    seeds = sorted({int(one) for one in results.scores.seed})
    versions = ", ".join(f"{name} {number}" for name, number in results.versions.items())
    splits = ", ".join(split.digest[:12] for split in results.splits)
    folds = "1 fold" if len(results.splits) == 1 else f"{len(results.splits)} folds"
    return (
        f"{folds} (split {splits}), seeds {seeds[0]}-{seeds[-1]}, "
        f"{results.seconds / 60:.1f} minutes in all; {versions}.\n"
    )
