"""Recovery of known factors by blocks of programs: factors that are angles take more than one program."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import optimize
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pyro_citevae.errors import DataError

__all__ = ["FactorRecovery", "factor_recovery"]

_NEIGHBOURS = 25
_HIDDEN = (64, 64)


@dataclass(frozen=True)
class FactorRecovery:
    """What each block of programs tells of each factor.

    Attributes:
        factors: Names of the factors.
        factor: Position of the factor that each program stands for.
        r2: Share of each factor's variance that each factor's block of programs explains, at least 0.
    """

    factors: tuple[str, ...]
    factor: Int[np.ndarray, " program"]
    r2: Float[np.ndarray, "block factor"]

    @property
    def diagonal(self) -> float:
        """Mean R2 of the factors by their own blocks: 1 where each is known."""
        return float(self.r2.diagonal().mean())

    @property
    def off_diagonal(self) -> float:
        """Mean over the blocks of the largest R2 of another factor: 0 where blocks are pure."""
        others = self.r2 - np.diag(np.full(len(self.r2), np.inf))
        return float(others.max(1).mean())

    def table(self) -> pd.DataFrame:
        """The matrix with names: a row a block, a column a factor."""
        return pd.DataFrame(self.r2, index=pd.Index(self.factors, name="block"), columns=list(self.factors))


def factor_recovery(
    z: Float[np.ndarray, "row program"],
    factors: Float[np.ndarray, "row factor"],
    names: Sequence[str],
    *,
    angles: Collection[str] = (),
    seed: int = 0,
) -> FactorRecovery:
    r"""Scores fitted states against known factors.

    ::

        y_f    = f, or (sin f, cos f) where f is an angle
        R2     = 1 - sum |y - g(z)|^2 / sum |y - mean y|^2           on the second half of the rows
        R2_kf of g(z_k), by nearest neighbours                       what a program tells of a factor alone
        r2_bf  = R2 of g(the programs that stand for b), by a perceptron

    Each factor has one program of its own, such that the sum of their R2_kf is largest (Hungarian method);
    the programs that are left stand for the factor that they tell most of. Regressors learn from the first
    half of the rows; give whole sequences one after the other, so that none is in both.

    Args:
        z: Fitted states.
        factors: The truth, in the same rows.
        names: Names of the factors.
        angles: Names of those that are angles, in radians.
        seed: Seed of the regressors.

    Raises:
        DataError: Rows differ, are fewer than 200, or a factor is constant.

    Source: P. Lippe et al., CITRIS: Causal Identifiability from Temporal Intervened Sequences (2022), for the
    matrix and its two summaries.

    Example:
        >>> z = np.random.default_rng(0).uniform(-3, 3, (1000, 2))
        >>> found = factor_recovery(z, z[:, ::-1], ["one", "two"])
        >>> found.factor, found.diagonal > 0.95, found.off_diagonal < 0.1
        (array([1, 0]), True, True)
    """
    n = len(z)
    if len(factors) != n or factors.shape[1] != len(names):
        raise DataError(
            f"factor_recovery(z, factors, names) has {n} and {len(factors)} rows and "
            f"{factors.shape[1]} factors of {len(names)} names; give as many of each."
        )
    if n < 200:
        raise DataError(f"factor_recovery(z) has {n} rows, too few to learn a regression; give 200 or more.")
    constant = [name for name, spread in zip(names, factors.std(0), strict=True) if spread == 0]
    if constant:
        raise DataError(f"factor '{constant[0]}' is constant, so that nothing explains it; leave it out.")
    shown = [
        np.column_stack([np.sin(column), np.cos(column)]) if name in angles else column[:, None]
        for name, column in zip(names, factors.T, strict=True)
    ]
    shown = [(y - y.mean(0)) / np.sqrt(y.var(0).sum()) for y in shown]
    single = np.array(
        [_explained(KNeighborsRegressor(_NEIGHBOURS), column[:, None], shown) for column in z.T]
    )
    factor = single.argmax(1)
    own, of = optimize.linear_sum_assignment(-single)  # type: ignore[attr-defined]
    factor[own] = of
    r2 = np.zeros((len(names), len(names)))
    for b in np.unique(factor):
        network = MLPRegressor(
            hidden_layer_sizes=_HIDDEN, early_stopping=True, max_iter=100, random_state=seed
        )
        r2[b] = _explained(make_pipeline(StandardScaler(), network), z[:, factor == b], shown)
    return FactorRecovery(tuple(names), factor, r2)


def _explained(
    regressor: Any, z: Float[np.ndarray, "row _"], shown: Sequence[np.ndarray]
) -> Float[np.ndarray, " factor"]:
    """R2 of each factor on the second half of the rows, learnt from the first."""
    half = len(z) // 2
    y = np.hstack(shown)
    missed = (y[half:] - regressor.fit(z[:half], y[:half]).predict(z[half:]).reshape(len(z) - half, -1)) ** 2
    total = (y[half:] - y[half:].mean(0)) ** 2
    starts = np.cumsum([0, *(part.shape[1] for part in shown)])
    spans = [slice(a, b) for a, b in pairwise(starts)]
    return np.array([max(0.0, 1 - missed[:, span].sum() / total[:, span].sum()) for span in spans])
