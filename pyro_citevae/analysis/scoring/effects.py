"""Predicted effects scored on measured ones: one tidy table, always with the ceiling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float

from pyro_citevae.analysis.scoring import scores
from pyro_citevae.analysis.scoring.coverage import coverage
from pyro_citevae.analysis.scoring.measurement import Measurement
from pyro_citevae.analysis.scoring.scores import pearson, relative_l2
from pyro_citevae.analysis.scoring.tables import CEILING, REPRODUCIBLE, means
from pyro_citevae.arguments import names
from pyro_citevae.errors import DataError
from pyro_citevae.infer.effect import Effect

__all__ = ["evaluate"]

_NOMINAL = (0.5, 0.8, 0.9, 0.95)
_STRONG = 20
_PROGRAMS = 10


def evaluate(
    predicted: Mapping[str, Effect],
    measurements: Sequence[Measurement],
    *,
    headline: Sequence[str],
    protocol: str,
    dataset: str,
    fold: int = 0,
    seed: int = 0,
    others: Sequence[Measurement] = (),
    strata: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """Scores predicted effects on measured ones.

    =========================  ==========================================================================
    score                      of an effect, own gene left out
    =========================  ==========================================================================
    pearson_delta_control      correlation of the effects against the control
    cosine_delta_control       cosine of the same
    pearson_delta_mean         correlation of what differs from the mean effect of all perturbations
    cosine_delta_mean          cosine of the same
    pearson_delta_perturbed    correlation of what differs from the mean effect of those not scored
    centroid_accuracy          share of other perturbations farther from the prediction than the right one
    relative_l2                ``|predicted - measured| / |measured|``
    weighted_mse               squared error, weighted to differentially expressed genes
    weighted_r2_delta_control  the same weights, as share of explained variance
    weighted_r2_delta_mean     the same of what differs from the mean effect of all perturbations
    sign_accuracy_20, _100     directions of the strongest genes
    pds                        perturbation discrimination: 1 is perfect, 0.5 is chance
    crps                       mean over the genes
    energy_score               in the space of the ten leading directions of the others' effects
    coverage_50 to _95         share of genes in the interval of the effect plus the noise of measurement
    coverage_80_strong, _weak  the 20 genes with the largest measured ``|delta| / sd``, and the others
    sharpness_80               mean width of the 80 % interval
    risk_coverage_area         1 where the draws' spread does not tell which genes are wrong
    =========================  ==========================================================================

    ``centroid_accuracy`` and ``pearson_delta_perturbed`` are those of Systema (R. Viñas Torné et al. 2025).
    The latter takes effects against the mean of the centroids of ``others`` in place of the controls, or of
    the other scored perturbations where there are no ``others``: a prediction of that mean scores 0.

    What compares perturbations is NaN where there is only one; means over perturbations leave it out.

    Args:
        predicted: Effects by the name of what predicted them, with (chain, draw, perturbation, time, gene).
        measurements: Measured effects; each one's perturbation and time are among the predicted.
        headline: Reproducible perturbations, whose mean is ``REPRODUCIBLE``.
        protocol: Name of the protocol, for the table.
        dataset: Name of the data, for the table.
        fold: Fold of the protocol, for the table.
        seed: Seed of the fits, for the table.
        others: Measured effects of perturbations that are not scored, among which a prediction is to be told
            apart, and which count in the mean of all perturbations.
        strata: Further groups of perturbations, such as ``"BOTH SEEN"``, whose mean is quoted by their name.

    Returns:
        One row a number: ``protocol, dataset, predictor, perturbation, time, fold, seed, score, value``,
        with the predictor ``ceiling`` and, as perturbations, the means ``ALL`` and ``REPRODUCIBLE``.

    Raises:
        DataError: An effect has another number of genes than what was measured.
    """
    headline = names(headline, "evaluate(headline=...)")
    rows = []
    for one in measurements:
        context = _Context.of(one, measurements, others)
        found = {CEILING: _ceiling(one)}
        for name, effect in predicted.items():
            drawn = xr.DataArray(effect).sel(perturbation=one.perturbation, time=one.time)
            draws = drawn.transpose("chain", "draw", "gene").to_numpy()
            if draws.shape[-1] != len(one.keep):
                raise DataError(
                    f"evaluate(...) has effects of {draws.shape[-1]} genes by '{name}', and "
                    f"'{one.perturbation}' was measured on {len(one.keep)}; ask for effects of the same "
                    "genes by effect(panel=...)."
                )
            found[name] = _effect_scores(draws.reshape(-1, draws.shape[-1]), context)
        for name, values in found.items():
            rows += [(name, one.perturbation, one.time, score, value) for score, value in values.items()]
    frame = pd.DataFrame(rows, columns=["predictor", "perturbation", "time", "score", "value"])
    frame = frame.assign(protocol=protocol, dataset=dataset, fold=fold, seed=seed)
    return means(frame, {REPRODUCIBLE: headline} | dict(strata or {}))


@dataclass(frozen=True)
class _Context:
    """A measurement among the others of its time, on the genes that count."""

    truth: Float[np.ndarray, " gene"]
    variance: Float[np.ndarray, " gene"]
    keep: Bool[np.ndarray, " all"]
    others: Float[np.ndarray, "other gene"]
    mean: Float[np.ndarray, " gene"]
    perturbed: Float[np.ndarray, " gene"]
    weight: Float[np.ndarray, " gene"]
    programs: Float[np.ndarray, "program gene"]

    @classmethod
    def of(cls, one: Measurement, scored: Sequence[Measurement], known: Sequence[Measurement]) -> _Context:
        truth, variance = one.delta[one.keep], one.variance[one.keep]
        others = cls._beside(one, [*scored, *known])
        mean = np.vstack([others, truth]).mean(0)
        unscored = cls._beside(one, known)
        reference = unscored if len(unscored) else others
        perturbed = reference.mean(0) if len(reference) else np.full(len(truth), np.nan)
        programs = np.linalg.svd(others, full_matrices=False)[2][:_PROGRAMS]
        weight = scores.differential_weights(truth, variance)
        return cls(truth, variance, one.keep, others, mean, perturbed, weight, programs)

    @staticmethod
    def _beside(one: Measurement, among: Sequence[Measurement]) -> Float[np.ndarray, "other gene"]:
        """Effects of the other perturbations at the time, on the genes that count."""
        now = {other.perturbation: other.delta[one.keep] for other in among if other.time == one.time}
        effects = [delta for name, delta in now.items() if name != one.perturbation]
        return np.array(effects).reshape(-1, int(one.keep.sum()))


def _ceiling(one: Measurement) -> dict[str, float]:
    """What a perfect prediction of noisy truth would score."""
    r = one.reliability
    return {"pearson_delta_control": float(np.sqrt(r)), "relative_l2": float(np.sqrt(1 - r))}


def _effect_scores(draws: Float[np.ndarray, "draw all"], context: _Context) -> dict[str, float]:
    """All scores of the draws of one effect."""
    draws = draws[:, context.keep]
    mean, truth, weight = draws.mean(0), context.truth, context.weight
    beyond, beyond_truth = mean - context.mean, truth - context.mean
    alone = len(context.others) == 0
    found = {
        "pearson_delta_control": pearson(mean, truth),
        "cosine_delta_control": scores.cosine(mean, truth),
        "pearson_delta_mean": np.nan if alone else pearson(beyond, beyond_truth),
        "cosine_delta_mean": np.nan if alone else scores.cosine(beyond, beyond_truth),
        "pearson_delta_perturbed": (
            np.nan if alone else pearson(mean - context.perturbed, truth - context.perturbed)
        ),
        "centroid_accuracy": scores.centroid_accuracy(mean, truth, context.others),
        "relative_l2": relative_l2(mean, truth),
        "weighted_mse": scores.weighted_mse(mean, truth, weight),
        "weighted_r2_delta_control": scores.weighted_r2(mean, truth, weight),
        "weighted_r2_delta_mean": np.nan if alone else scores.weighted_r2(beyond, beyond_truth, weight),
        "sign_accuracy_20": scores.sign_accuracy(mean, truth, 20),
        "sign_accuracy_100": scores.sign_accuracy(mean, truth, 100),
        "pds": scores.discrimination(mean, truth, context.others),
        "crps": float(scores.crps(draws, truth, context.variance).mean()),
    }
    if not alone:
        found["energy_score"] = scores.energy_score(draws, truth, context.variance, context.programs)
    if len(draws) > 1:
        found["risk_coverage_area"] = scores.area_under_risk_coverage(draws.std(0), (mean - truth) ** 2)
    return found | _interval_scores(draws, context)


def _interval_scores(draws: Float[np.ndarray, "draw gene"], context: _Context) -> dict[str, float]:
    """Coverage and width of the intervals of the effect plus the measured groups' sampling noise."""
    truth, variance = (xr.DataArray(value, dims="gene") for value in (context.truth, context.variance))
    drawn = xr.DataArray(draws[None], dims=("chain", "draw", "gene"))
    by_gene = coverage(drawn, truth, variance=variance, probability=_NOMINAL, by=["gene"])
    covers = by_gene.coverage.mean("gene").to_numpy()
    found = {f"coverage_{round(100 * p)}": float(c) for p, c in zip(_NOMINAL, covers, strict=True)}
    at_80 = by_gene.sel(probability=0.8)
    t = np.abs(context.truth) / np.sqrt(np.maximum(context.variance, 1e-12))
    strong = np.isin(np.arange(len(t)), np.argsort(-t, kind="stable")[:_STRONG])
    inside = at_80.coverage.to_numpy()
    found["coverage_80_strong"] = float(inside[strong].mean())
    found["coverage_80_weak"] = float(inside[~strong].mean()) if (~strong).any() else np.nan
    return found | {"sharpness_80": float(at_80.width.mean())}
