"""Predictors on measured effects: one tidy table, always with baselines and the ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float

from pyro_citevae.analysis.calibration import coverage
from pyro_citevae.data import pseudobulk
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError
from pyro_citevae.infer.prediction import Effect

__all__ = [
    "ALL",
    "REPRODUCIBLE",
    "Measurement",
    "measured_effects",
    "evaluate",
    "markdown",
    "measure",
    "pearson",
    "relative_l2",
    "reproducible",
    "require_unseen",
    "summary",
]

ALL, REPRODUCIBLE = "ALL", "REPRODUCIBLE"
_REPRODUCIBLE_ABOVE = 0.3
_SCORES = ("pearson_delta_control", "relative_l2", "coverage_80")


@dataclass(frozen=True)
class Measurement:
    """A measured effect with what is known of its noise.

    Attributes:
        perturbation: Label of the perturbed group.
        time: Time of the group and of its controls.
        delta: The effect against the controls of the same time.
        variance: Sampling variance of the effect, by the jackknife of both groups.
        keep: Genes that count: all but the perturbed ones.
        split_half: Correlation of the effect between halves of the cells.
    """

    perturbation: str
    time: float
    delta: Float[np.ndarray, " gene"]
    variance: Float[np.ndarray, " gene"]
    keep: Bool[np.ndarray, " gene"]
    split_half: float

    @property
    def reliability(self) -> float:
        """Share of the effect's variance that is no noise, ``R = 2 r / (1 + r)`` (Spearman 1910, Brown)."""
        r = max(self.split_half, 0.0)
        return 2 * r / (1 + r)


def measure(
    data: Trajectories, perturbation: str, time: float, controls: Trajectories | None = None
) -> Measurement:
    """Measures one effect against the controls of the same time.

    Args:
        data: The perturbed cells.
        perturbation: Their label.
        time: Their time.
        controls: Where the controls are; None for ``data`` itself.

    Raises:
        DataError: There are no such cells, or no controls at that time.
    """
    group = data.select(perturbation, time)
    reference = (data if controls is None else controls).select(data.schema.control, time)
    if min(group.n_cells, reference.n_cells) == 0:
        raise DataError(f"no cells of '{perturbation}' and '{data.schema.control}' at {time:g} to measure.")
    own = list(Schedule.parse(perturbation, data.schema.control).tokens)
    keep = ~np.isin(np.array(data.schema.genes), own)
    variance = pseudobulk.jackknife_variance(group) + pseudobulk.jackknife_variance(reference)
    halves = pseudobulk.split_half(group, reference, keep)
    return Measurement(perturbation, time, pseudobulk.effect(group, reference), variance, keep, halves)


def pearson(predicted: Float[np.ndarray, " gene"], measured: Float[np.ndarray, " gene"]) -> float:
    """Pearson correlation; 0 where a side is constant, as for the prediction of no change."""
    if np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return 0.0
    return float(np.corrcoef(predicted, measured)[0, 1])


def relative_l2(predicted: Float[np.ndarray, " gene"], measured: Float[np.ndarray, " gene"]) -> float:
    """``|predicted - measured| / |measured|``; 1 for the prediction of no change."""
    return float(np.linalg.norm(predicted - measured) / np.linalg.norm(measured))


def measured_effects(measurements: Sequence[Measurement], genes: Sequence[str]) -> xr.Dataset:
    """Measured effects side by side, for :func:`coverage` and the like.

    Args:
        measurements: What was measured, each perturbation once a time.
        genes: Names of the genes.

    Returns:
        ``delta`` and ``variance`` with dims (perturbation, time, gene); NaN for the perturbed gene itself,
        and where nothing was measured.
    """
    rows = [
        xr.Dataset({"delta": ("gene", one.delta), "variance": ("gene", one.variance)}, {"gene": list(genes)})
        .where(xr.DataArray(one.keep, dims="gene"))
        .expand_dims(perturbation=[one.perturbation], time=[one.time])
        for one in measurements
    ]
    found: xr.Dataset = xr.combine_by_coords(rows, join="outer")  # type: ignore[assignment]
    return found


def evaluate(
    predicted: Mapping[str, Effect],
    measurements: Sequence[Measurement],
    *,
    headline: Sequence[str],
    protocol: str,
    dataset: str,
    fold: int = 0,
    seed: int = 0,
) -> pd.DataFrame:
    """Scores predicted effects on measured ones.

    Args:
        predicted: Effects by the name of what predicted them, with (chain, draw, perturbation, time, gene).
        measurements: Measured effects; each one's perturbation and time are among the predicted.
        headline: Reproducible perturbations, whose mean is ``REPRODUCIBLE``.
        protocol: Name of the protocol, for the table.
        dataset: Name of the data, for the table.
        fold: Fold of the protocol, for the table.
        seed: Seed of the fits, for the table.

    Returns:
        One row a number: ``protocol, dataset, predictor, perturbation, time, fold, seed, score, value``,
        with the predictor ``ceiling`` and, as perturbations, the means ``ALL`` and ``REPRODUCIBLE``.
    """
    rows = []
    for one in measurements:
        reliability = one.reliability
        scores = {"ceiling": (np.sqrt(reliability), np.sqrt(1 - reliability), np.nan)}
        for name, effect in predicted.items():
            drawn = xr.DataArray(effect).sel(perturbation=one.perturbation, time=one.time)
            mean = drawn.mean(("chain", "draw")).to_numpy()[one.keep]
            truth = one.delta[one.keep]
            scores[name] = (pearson(mean, truth), relative_l2(mean, truth), _coverage_80(drawn, one))
        for name, values in scores.items():
            rows += [(name, one.perturbation, one.time, s, v) for s, v in zip(_SCORES, values, strict=True)]
    columns = ["predictor", "perturbation", "time", "score", "value"]
    frame = pd.DataFrame(rows, columns=columns)
    means = [frame.assign(perturbation=ALL)]
    means.append(frame[frame.perturbation.isin(headline)].assign(perturbation=REPRODUCIBLE))
    keys = ["predictor", "perturbation", "time", "score"]
    frame = pd.concat([frame, *(part.groupby(keys, as_index=False, sort=False).mean() for part in means)])
    frame = frame.assign(protocol=protocol, dataset=dataset, fold=fold, seed=seed)
    order = ["protocol", "dataset", "predictor", "perturbation", "time", "fold", "seed", "score", "value"]
    return frame[order].reset_index(drop=True)


def _coverage_80(drawn: xr.DataArray, one: Measurement) -> float:
    """Share of genes in the 80 % interval of the drawn effect plus the measured groups' sampling noise."""
    truth, variance = (
        xr.DataArray(np.where(one.keep, value, np.nan), dims="gene") for value in (one.delta, one.variance)
    )
    return coverage(drawn, truth, variance=variance, probability=0.8).coverage.item()


def require_unseen(train: Trajectories, truth: Trajectories) -> None:
    """Refuses to score observations that were in training.

    Raises:
        DataError: A held-out observation is among the training ones.
    """
    seen = set(zip(train.names[train.row_cell], train.row_step.tolist(), strict=True))
    for name, step in zip(truth.names[truth.row_cell], truth.row_step.tolist(), strict=True):
        if (name, step) in seen:
            raise DataError(f"cell '{name}' was in training and cannot be scored; hold it out and fit again.")


def reproducible(measurements: Sequence[Measurement]) -> tuple[str, ...]:
    """Perturbations whose halves agree (split-half above 0.3), the most reproducible first."""
    ordered = sorted(measurements, key=lambda one: -one.split_half)
    return tuple(one.perturbation for one in ordered if one.split_half > _REPRODUCIBLE_ABOVE)


def summary(frame: pd.DataFrame, headline: Sequence[str]) -> pd.DataFrame:
    """The scores for people: a row a perturbation and mean, "Pearson / relative L2" by predictor.

    Args:
        frame: What :func:`evaluate` returned.
        headline: Perturbations that get a row of their own.

    Returns:
        Text, with a column a predictor and, for those with intervals, one with their 80 % coverage.
    """
    n_all = frame[~frame.perturbation.isin((ALL, REPRODUCIBLE))].perturbation.nunique()
    titles = {REPRODUCIBLE: f"mean of {len(headline)}", ALL: f"all {n_all}"}
    shown = [*headline, *([REPRODUCIBLE] if headline else []), ALL]
    values = frame.set_index(["predictor", "perturbation", "score"])["value"].sort_index()
    columns: dict[str, list[str]] = {}
    for predictor in frame.predictor.drop_duplicates():
        rows = [values[predictor, name] for name in shown]
        columns[predictor] = [f"{row[_SCORES[0]]:.2f} / {row[_SCORES[1]]:.2f}" for row in rows]
        if not np.isnan(rows[-1][_SCORES[2]]):
            columns["80 % covers"] = [f"{row[_SCORES[2]]:.2f}" for row in rows]
    order = [name for name in columns if name != "ceiling"] + ["ceiling"]
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
