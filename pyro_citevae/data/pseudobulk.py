"""Measured effects: differences of log pseudobulk profiles, with their sampling variance."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import sparse

from pyro_citevae.data.trajectories import Trajectories

__all__ = ["effect", "jackknife_variance", "profile", "split_half"]


def profile(sums: Float[np.ndarray, "... gene"], total: float) -> Float[np.ndarray, "... gene"]:
    """``b = log(1 + total * sum_n x_ng / sum_ng x_ng)``: a group's summed counts at a common total."""
    depth = sums.sum(-1, keepdims=True)
    return np.asarray(np.log1p(total * sums / np.where(depth > 0, depth, 1.0)))


def _sums(data: Trajectories) -> Float[np.ndarray, " gene"]:
    return np.asarray(data.values.sum(0, dtype=float)).ravel()


def effect(group: Trajectories, reference: Trajectories) -> Float[np.ndarray, " gene"]:
    """``delta = b_group - b_reference``, at the schema's common total of the measured genes."""
    total = group.schema.panel_total
    return profile(_sums(group), total) - profile(_sums(reference), total)


def jackknife_variance(data: Trajectories) -> Float[np.ndarray, " gene"]:
    """Sampling variance of a group's profile by the delete-one jackknife (Quenouille 1956, Tukey 1958).

    ``(n - 1) / n * sum_i (b_(i) - mean b_(i))^2``; infinite for a group of fewer than two cells.
    """
    n = data.n_observations
    if n < 2:
        return np.full(data.schema.n_genes, np.inf)
    counts = data.values.toarray().astype(float)
    left_out = profile(counts.sum(0) - counts, data.schema.panel_total)
    return np.asarray((n - 1) * left_out.var(0))


def split_half(
    group: Trajectories,
    reference: Trajectories,
    keep: np.ndarray,
    repeats: int = 20,
    seed: int = 0,
) -> float:
    """Mean Pearson correlation r of an effect between random halves of the group and of its reference.

    Args:
        group: Perturbed cells.
        reference: Control cells.
        keep: Genes that count (the perturbed gene left out).
        repeats: Number of random halvings.
        seed: Seed of the halvings.

    Returns:
        The mean correlation; NaN when a side has fewer than two cells.
    """
    if min(group.n_observations, reference.n_observations) < 2:
        return float("nan")
    rng = np.random.default_rng(seed)
    total = group.schema.panel_total
    found = []
    for _ in range(repeats):
        first, second = zip(_halves(group.values, rng), _halves(reference.values, rng), strict=True)
        deltas = [profile(x, total) - profile(y, total) for x, y in (first, second)]
        found.append(np.corrcoef(deltas[0][keep], deltas[1][keep])[0, 1])
    return float(np.mean(found))


def _halves(
    values: sparse.csr_matrix, rng: np.random.Generator
) -> tuple[Float[np.ndarray, " gene"], Float[np.ndarray, " gene"]]:
    order = rng.permutation(values.shape[0])
    half = len(order) // 2
    first, second = (
        np.asarray(values[rows].sum(0, dtype=float)).ravel() for rows in (order[:half], order[half:])
    )
    return first, second
