r"""Scores of predicted effects, each on one perturbation at one time.

A predicted effect is a vector over genes, the mean of its draws, or the draws themselves, (draw, gene). The
reference is part of a score's name where it has one: the control, or the mean over all perturbations.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import rankdata

__all__ = [
    "area_under_risk_coverage",
    "centroid_accuracy",
    "cosine",
    "crps",
    "differential_weights",
    "discrimination",
    "energy_score",
    "pearson",
    "relative_l2",
    "risk_coverage",
    "scaled",
    "sign_accuracy",
    "skill",
    "weighted_mse",
    "weighted_r2",
]

_FEWEST = 1000
_PAIRED = 300  # draws of which all pairs are taken


def pearson(predicted: Float[np.ndarray, " gene"], measured: Float[np.ndarray, " gene"]) -> float:
    """Pearson correlation, -1 to 1; 0 where a side is constant, as for the prediction of no change.

    Example:
        >>> round(pearson(np.array([1.0, 2, 3]), np.array([2.0, 2, 5])), 3)
        0.866
    """
    if np.ptp(predicted) < 1e-12 or np.ptp(measured) < 1e-12:
        return 0.0
    return float(np.corrcoef(predicted, measured)[0, 1])


def cosine(predicted: Float[np.ndarray, " gene"], measured: Float[np.ndarray, " gene"]) -> float:
    """``<predicted, measured> / (|predicted| |measured|)``, -1 to 1; 0 where a side is zero.

    Example:
        >>> cosine(np.array([1.0, 0]), np.array([3.0, 4]))
        0.6
    """
    norms = float(np.linalg.norm(predicted) * np.linalg.norm(measured))
    return float(predicted @ measured) / norms if norms > 1e-12 else 0.0


def relative_l2(predicted: Float[np.ndarray, " gene"], measured: Float[np.ndarray, " gene"]) -> float:
    """``|predicted - measured| / |measured|``; 0 is perfect, 1 is the prediction of no change."""
    return float(np.linalg.norm(predicted - measured) / np.linalg.norm(measured))


def differential_weights(
    measured: Float[np.ndarray, " gene"], variance: Float[np.ndarray, " gene"]
) -> Float[np.ndarray, " gene"]:
    """``w_g ~ ((t_g - min t) / (max t - min t))^2`` with ``t_g = |delta_g| / sd_g``, summing to one.

    Genes that are differentially expressed against the control count most. Equal weights where all t agree.

    Example:
        >>> differential_weights(np.array([0.0, 1, -2]), np.ones(3)).tolist()
        [0.0, 0.2, 0.8]

    Source: G. M. Mejia et al., Diversity by Design: Addressing Mode Collapse Improves scRNA-seq Perturbation
    Modeling on Well-Calibrated Metrics (2025), with the jackknife's t in place of a t-test's.
    """
    t = np.abs(measured) / np.sqrt(np.maximum(variance, 1e-12))
    t = np.where(np.isfinite(t), t, 0.0)
    weight = (t - t.min()) ** 2
    return np.asarray(weight / weight.sum()) if weight.sum() > 0 else np.full_like(t, 1 / len(t))


def weighted_mse(
    predicted: Float[np.ndarray, " gene"],
    measured: Float[np.ndarray, " gene"],
    weight: Float[np.ndarray, " gene"],
) -> float:
    """``sum_g w_g (predicted_g - measured_g)^2``, with weights that sum to one; 0 is perfect."""
    return float(weight @ (predicted - measured) ** 2)


def weighted_r2(
    predicted: Float[np.ndarray, " gene"],
    measured: Float[np.ndarray, " gene"],
    weight: Float[np.ndarray, " gene"],
) -> float:
    """``1 - sum w (predicted - measured)^2 / sum w (measured - sum w measured)^2``; 1 is perfect.

    NaN where the measured values do not vary.

    Example:
        >>> weighted_r2(np.zeros(2), np.array([-1.0, 1]), np.array([0.5, 0.5]))
        0.0
    """
    spread = float(weight @ (measured - weight @ measured) ** 2)
    return 1 - weighted_mse(predicted, measured, weight) / spread if spread > 0 else float("nan")


def sign_accuracy(
    predicted: Float[np.ndarray, " gene"], measured: Float[np.ndarray, " gene"], strongest: int
) -> float:
    """Share of the n genes with the largest measured ``|delta|`` whose direction is predicted.

    A prediction of exactly zero is half right; 0.5 is chance.

    Example:
        >>> sign_accuracy(np.array([1.0, 1, 0]), np.array([2.0, -3, 0.1]), strongest=2)
        0.5
    """
    chosen = np.argsort(-np.abs(measured), kind="stable")[:strongest]
    return float(0.5 + 0.5 * np.mean(np.sign(predicted[chosen]) * np.sign(measured[chosen])))


def discrimination(
    predicted: Float[np.ndarray, " gene"],
    measured: Float[np.ndarray, " gene"],
    others: Float[np.ndarray, "other gene"],
) -> float:
    """Perturbation discrimination score: share of the others whose truth lies farther than the own truth.

    ``PDS = 1 - (r - 1) / m``, with r the mid-rank of the own truth among all m + 1 truths by their Euclidean
    distance to the prediction. 1 is perfect, 0.5 is chance, and what a prediction that is the same for all
    perturbations scores on average; it is one minus the share of others that lie nearer.

    Args:
        predicted: Predicted effect.
        measured: Its own measured effect.
        others: Measured effects of the other perturbations at the same time.

    Returns:
        The score; NaN without others.

    Example:
        >>> discrimination(np.array([1.0, 0]), np.array([2.0, 0]), np.array([[0.0, 1], [1.0, 0.5], [1, 1]]))
        0.5

    Source: Y. H. Roohani et al., Virtual Cell Challenge: Toward a Turing Test for the Virtual Cell, Cell
    (2025), whose distance is the Manhattan one.
    """
    if not len(others):
        return float("nan")
    distance = np.linalg.norm(np.vstack([measured, others]) - predicted, axis=1)
    return float(1 - (rankdata(distance.round(12))[0] - 1) / len(others))


def centroid_accuracy(
    predicted: Float[np.ndarray, " gene"],
    measured: Float[np.ndarray, " gene"],
    others: Float[np.ndarray, "other gene"],
) -> float:
    """Share of the other perturbations' centroids that lie farther from the prediction than the own one.

    Distances are Euclidean. A centroid at the same distance does not count, which alone tells this score
    from :func:`discrimination`: where all centroids are equally far it is 0 and not 0.5.

    Args:
        predicted: Predicted effect; effects against one control are as far apart as the profiles are.
        measured: Its own measured effect.
        others: Measured effects of the other perturbations at the same time.

    Returns:
        The share, 0 to 1; NaN without others.

    Example:
        >>> centroid_accuracy(np.zeros(2), np.array([2.0, 0]), np.array([[0.0, 3], [1.0, 0.5], [1, 0]]))
        0.3333333333333333

    Source: R. Viñas Torné et al., Systema: a framework for evaluating genetic perturbation response
    prediction beyond systematic variation, Nature Biotechnology (2025).
    """
    if not len(others):
        return float("nan")
    own, *distances = np.linalg.norm(np.vstack([measured, others]) - predicted, axis=1).round(12)
    return float(np.mean(np.array(distances) > own))


def crps(
    draws: Float[np.ndarray, "draw gene"],
    measured: Float[np.ndarray, " gene"],
    variance: Float[np.ndarray, " gene"],
    seed: int = 0,
) -> Float[np.ndarray, " gene"]:
    r"""Continuous ranked probability score of each gene, in the unit of the effect; 0 is perfect.

    ``CRPS = mean_i |x_i - y| - mean_ij |x_i - x_j| / 2``, closed over the draws x, each with the
    measurement's own normal noise. Draws are repeated with fresh noise up to about 1000. A single draw
    without noise scores its absolute error.

    Args:
        draws: Draws of the effect.
        measured: The measured effect y.
        variance: Its sampling variance, by the jackknife of the measured groups.
        seed: Seed of the noise.

    Source: T. Gneiting, A. E. Raftery, Strictly Proper Scoring Rules (2007), by the library scoringrules.

    Example:
        >>> crps(np.array([[1.0], [3.0]]), np.array([2.0]), np.zeros(1)).round(6).tolist()
        [0.5]
    """
    from scoringrules import crps_ensemble  # it compiles for seconds when it is imported

    noisy = _noisy(draws, variance, seed)
    found = crps_ensemble(measured, noisy.T, estimator="qd", backend="numpy")
    return np.asarray(found, dtype=float)


def skill(score: float, baseline: float) -> float:
    """``1 - score / baseline`` of a score that is better when smaller; 1 is perfect, 0 no gain."""
    return 1 - score / baseline if baseline > 0 else float("nan")


def energy_score(
    draws: Float[np.ndarray, "draw gene"],
    measured: Float[np.ndarray, " gene"],
    variance: Float[np.ndarray, " gene"],
    space: Float[np.ndarray, "program gene"],
    seed: int = 0,
) -> float:
    r"""``E|B x - B y| - E|B x - B x'| / 2``: a proper score of the joint law in a space of programs.

    The draws x get the measurement's normal noise, as in :func:`crps`.

    Args:
        draws: Draws of the effect.
        measured: The measured effect y.
        variance: Its sampling variance.
        space: The programs B, such as the leading directions of the training effects.
        seed: Seed of the noise.

    Source: T. Gneiting, A. E. Raftery, Strictly Proper Scoring Rules (2007), by the library scoringrules.
    """
    from scoringrules import es_ensemble  # as above

    noisy = _noisy(draws, variance, seed, fewest=_PAIRED)[:_PAIRED]
    return float(es_ensemble(space @ measured, noisy @ space.T, backend="numpy"))


def risk_coverage(uncertainty: Float[np.ndarray, " item"], error: Float[np.ndarray, " item"]) -> pd.DataFrame:
    """Mean error of what is kept, when the most uncertain items are left out first.

    Args:
        uncertainty: What the predictor says of its own error, such as the draws' standard deviation.
        error: The error made, such as the squared one.

    Returns:
        Columns ``coverage``, the share kept, and ``risk``, their mean error; ties are kept in their order.

    Example:
        >>> risk_coverage(np.array([3.0, 1, 2]), np.array([6.0, 0, 3])).risk.tolist()
        [0.0, 1.5, 3.0]

    Source: R. El-Yaniv, Y. Wiener, On the Foundations of Noise-Free Selective Classification (2010).
    """
    order = np.argsort(uncertainty, kind="stable")
    kept = np.arange(1, len(order) + 1)
    return pd.DataFrame({"coverage": kept / len(order), "risk": np.cumsum(error[order]) / kept})


def area_under_risk_coverage(
    uncertainty: Float[np.ndarray, " item"], error: Float[np.ndarray, " item"]
) -> float:
    """Mean risk over all coverages, in units of the mean error; 1 where the uncertainty tells nothing.

    Tied uncertainties share their mean error, so that a predictor that is equally sure of all scores 1.
    """
    _, tie = np.unique(uncertainty, return_inverse=True)
    shared = (np.bincount(tie, error) / np.bincount(tie))[tie]
    mean = float(np.mean(error))
    return float(risk_coverage(uncertainty, shared).risk.mean()) / mean if mean > 0 else float("nan")


def scaled(model: float, baseline: float, ceiling: float) -> float:
    """``s = (model - baseline) / (ceiling - baseline)``: 0 the baseline, 1 the ceiling; NaN if they agree."""
    return (model - baseline) / (ceiling - baseline) if ceiling != baseline else float("nan")


def _noisy(
    draws: Float[np.ndarray, "draw gene"],
    variance: Float[np.ndarray, " gene"],
    seed: int,
    fewest: int = _FEWEST,
) -> Float[np.ndarray, "noisy gene"]:
    """Draws of what would be measured: each drawn effect several times, with noise."""
    rng = np.random.default_rng(seed)
    repeated = np.tile(draws, (max(1, fewest // len(draws)), 1))
    noisy = repeated + rng.normal(size=repeated.shape) * np.sqrt(variance)
    return noisy[rng.permutation(len(noisy))]
