"""Measured effects: differences of log pseudobulk profiles, with their sampling variance."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError

__all__ = ["counts", "effect", "jackknife_variance", "level", "profile", "split_half"]


def profile(sums: Float[np.ndarray, "... gene"], total: float) -> Float[np.ndarray, "... gene"]:
    """``b = log(1 + total * sum_n x_ng / sum_ng x_ng)``: a group's summed counts at a common total."""
    depth = sums.sum(-1, keepdims=True)
    return np.asarray(np.log1p(total * sums / np.where(depth > 0, depth, 1.0)))


def counts(b: Float[np.ndarray, "... gene"]) -> Float[np.ndarray, "... gene"]:
    """``m = exp(b) - 1``: the counts at the common total that a profile stands for, none below zero."""
    return np.asarray(np.maximum(np.expm1(b), 0.0))


def level(data: Trajectories) -> Float[np.ndarray, " gene"]:
    """A group's profile b at the common total of the measured genes; the mean where values are real."""
    sums = data.stored.sum(0, dtype=float)
    if data.schema.values == "real":
        return np.asarray(sums / max(data.n_observations, 1))
    return profile(sums, data.schema.panel_total)


def effect(group: Trajectories, reference: Trajectories) -> Float[np.ndarray, " gene"]:
    """``delta = b_group - b_reference``, at the schema's common total of the measured genes.

    Raises:
        DataError: There are no cells on a side.
    """
    for side, data in (("group", group), ("reference", reference)):
        if data.n_observations == 0:
            raise DataError(f"effect({side}=...) holds no cell; select a label that the data have.")
    return level(group) - level(reference)


def jackknife_variance(data: Trajectories) -> Float[np.ndarray, " gene"]:
    """Sampling variance of a group's profile by the delete-one jackknife (Quenouille 1956, Tukey 1958).

    ``(n - 1) / n * sum_i (b_(i) - mean b_(i))^2``; infinite for a group of fewer than two cells.
    """
    n = data.n_observations
    if n < 2:
        return np.full(data.schema.n_genes, np.inf)
    counts = data.values.toarray().astype(float)
    if data.schema.values == "real":
        return np.asarray(counts.var(0) / (n - 1))
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
    found = []
    for _ in range(repeats):
        first, second = zip(_halves(group, rng), _halves(reference, rng), strict=True)
        deltas = [x - y for x, y in (first, second)]
        found.append(np.corrcoef(deltas[0][keep], deltas[1][keep])[0, 1])
    return float(np.mean(found))


def _halves(
    data: Trajectories, rng: np.random.Generator
) -> tuple[Float[np.ndarray, " gene"], Float[np.ndarray, " gene"]]:
    """Profiles of two random halves of a group."""
    first = np.zeros(data.n_observations, dtype=bool)
    first[rng.permutation(data.n_observations)[: data.n_observations // 2]] = True
    return level(data.rows(first)), level(data.rows(~first))
