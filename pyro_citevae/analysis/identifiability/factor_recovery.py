"""Recovery of known factors by blocks of programs: factors that are angles take more than one program."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import optimize, stats
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pyro_citevae.errors import DataError

__all__ = ["FactorRecovery", "factor_recovery"]

_NEIGHBOURS = 25
_HIDDEN = (64, 64)
_PRICE = 0.1  # of what a program tells more of another group: one that nothing shows takes an idle program


@dataclass(frozen=True)
class FactorRecovery:
    """What each block of programs tells of each factor.

    Attributes:
        factors: Names of the factors.
        blocks: Names of the groups of factors that have a block of programs each.
        group: Position of each factor's group among the blocks.
        block: Position of the block that each program belongs to.
        r2: Share of each factor's variance that each block of programs explains, at least 0.
        spearman: Rank correlation of each factor with what each block of programs says of it; for an angle
            the mean over its sine and cosine.
        triplet: Error with which each factor is read where the blocks of two rows are put together: 0 where
            each is read as it should be, 1 for who knows its mean alone.
    """

    factors: tuple[str, ...]
    blocks: tuple[str, ...]
    group: Int[np.ndarray, " factor"]
    block: Int[np.ndarray, " program"]
    r2: Float[np.ndarray, "block factor"]
    spearman: Float[np.ndarray, "block factor"]
    triplet: Float[np.ndarray, " factor"]

    @property
    def own(self) -> Float[np.ndarray, " factor"]:
        """R2 of each factor by its own block."""
        return self.r2[self.group, np.arange(len(self.factors))]

    @property
    def by_block(self) -> Float[np.ndarray, "block block"]:
        """Mean R2 of each group's factors (a column) by each block of programs (a row)."""
        member = np.eye(len(self.blocks))[self.group]
        return self.r2 @ member / member.sum(0)

    @property
    def diagonal(self) -> float:
        """Mean R2 of the factors by their own blocks: 1 where each is known."""
        return float(self.own.mean())

    @property
    def off_diagonal(self) -> float:
        """Mean over the blocks of the largest R2 of another group: 0 where blocks are pure."""
        others = self.by_block - np.diag(np.full(len(self.blocks), np.inf))
        return float(others.max(1).mean())

    def table(self) -> pd.DataFrame:
        """The matrix with names: a row a block, a column a factor."""
        return pd.DataFrame(self.r2, index=pd.Index(self.blocks, name="block"), columns=list(self.factors))


def factor_recovery(
    z: Float[np.ndarray, "row program"],
    factors: Float[np.ndarray, "row factor"],
    names: Sequence[str],
    *,
    angles: Collection[str] = (),
    groups: Mapping[str, Sequence[str]] | None = None,
    seed: int = 0,
) -> FactorRecovery:
    r"""Scores fitted states against known factors.

    ::

        y_f    = f, or (sin f, cos f) where f is an angle
        R2     = 1 - sum |y - g(z)|^2 / sum |y - mean y|^2           on the second half of the rows
        R2_kf of g(z_k), by nearest neighbours                       what a program tells of a factor alone
        r2_bf  = R2 of g(the programs that stand for b), by a perceptron
        triplet_f = mean |y_f - g(z)| / mean |y_f - mean y_f|        where z and y take each block and its
                                                                     factors from one of two rows

    Factors that are always set together (the coordinates of a position) form a group, which has one block of
    programs. Each group has one program of its own, such that the sum of their mean R2_kf is largest, less a
    tenth of what each tells more of another group (Hungarian method); the programs that are left stand for
    the group that they tell most of. Regressors learn from the first half of the rows; give whole sequences
    one after the other, so that none is in both. Rows of independent scenes show what programs mix; in
    sequences factors tell of each other by themselves.
    The mixtures are of rows of the second half, and are read by a perceptron that sees all programs.

    Args:
        z: Fitted states.
        factors: The truth, in the same rows.
        names: Names of the factors.
        angles: Names of those that are angles, in radians.
        groups: Names of the factors of each group; each factor by itself if not given.
        seed: Seed of the regressors.

    Raises:
        DataError: Rows differ, are fewer than 200, a factor is constant, or is not in one group.

    Source: P. Lippe et al., CITRIS: Causal Identifiability from Temporal Intervened Sequences (2022), for the
    matrix, its two summaries and the triplets, which are decoded there and read from the states here.

    Example:
        >>> z = np.random.default_rng(0).uniform(-3, 3, (1000, 2))
        >>> found = factor_recovery(z, z[:, ::-1], ["one", "two"])
        >>> found.block, found.diagonal > 0.95, found.off_diagonal < 0.1
        (array([1, 0]), True, True)
    """
    groups = {name: (name,) for name in names} if groups is None else groups
    _require(z, factors, names, groups)
    group = np.array([next(i for i, some in enumerate(groups.values()) if name in some) for name in names])
    shown = [
        np.column_stack([np.sin(column), np.cos(column)]) if name in angles else column[:, None]
        for name, column in zip(names, factors.T, strict=True)
    ]
    shown = [(y - y.mean(0)) / np.sqrt(y.var(0).sum()) for y in shown]
    half, near = len(z) // 2, KNeighborsRegressor(_NEIGHBOURS)
    single = np.array([_explained(_told(near, column[:, None], shown, half), shown, half) for column in z.T])
    member = np.eye(len(groups))[group]
    told = single @ member / member.sum(0)
    block = told.argmax(1)
    robbed = told.max(1, keepdims=True) - told
    own, of = optimize.linear_sum_assignment(_PRICE * robbed - told)  # type: ignore[attr-defined]
    block[own] = of
    r2, spearman = np.zeros((2, len(groups), len(names)))
    for b in np.unique(block):
        said = _told(_perceptron(seed), z[:, block == b], shown, half)
        r2[b] = _explained(said, shown, half)
        spearman[b] = _ranked(said, shown, half)
    triplet = _triplet(z, shown, block, group, seed)
    return FactorRecovery(tuple(names), tuple(groups), group, block, r2, spearman, triplet)


def _require(
    z: np.ndarray, factors: np.ndarray, names: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> None:
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
    grouped = [name for some in groups.values() for name in some]
    astray = [name for name in {**dict.fromkeys(names), **dict.fromkeys(grouped)} if grouped.count(name) != 1]
    astray += [name for name in grouped if name not in names]
    if astray:
        raise DataError(
            f"factor_recovery(groups=...) has '{astray[0]}' in {grouped.count(astray[0])} groups; put each "
            f"of {', '.join(names)} in one, and nothing else."
        )


def _perceptron(seed: int) -> Any:
    network = MLPRegressor(hidden_layer_sizes=_HIDDEN, early_stopping=True, max_iter=100, random_state=seed)
    return make_pipeline(StandardScaler(), network)


def _told(
    regressor: Any, z: Float[np.ndarray, "row _"], shown: Sequence[np.ndarray], half: int
) -> list[np.ndarray]:
    """What a regressor that learns from the first half of the rows says of each factor on the second."""
    said = regressor.fit(z[:half], np.hstack(shown)[:half]).predict(z[half:])
    return np.split(said.reshape(len(z) - half, -1), np.cumsum([y.shape[1] for y in shown])[:-1], axis=1)


def _explained(
    said: Sequence[np.ndarray], shown: Sequence[np.ndarray], half: int
) -> Float[np.ndarray, " factor"]:
    """R2 of each factor, at least 0."""
    found = [r2_score(y[half:], g, multioutput="variance_weighted") for g, y in zip(said, shown, strict=True)]
    return np.maximum(found, 0.0)


def _ranked(
    said: Sequence[np.ndarray], shown: Sequence[np.ndarray], half: int
) -> Float[np.ndarray, " factor"]:
    """Spearman's correlation of each factor, mean over its columns; 0 where nothing is said."""
    return np.array(
        [
            np.mean(
                [
                    stats.spearmanr(one, other).statistic if np.ptp(one) > 0 else 0.0
                    for one, other in zip(g.T, y[half:].T, strict=True)
                ]
            )
            for g, y in zip(said, shown, strict=True)
        ]
    )


def _triplet(
    z: Float[np.ndarray, "row program"],
    shown: Sequence[np.ndarray],
    block: Int[np.ndarray, " program"],
    group: Int[np.ndarray, " factor"],
    seed: int,
) -> Float[np.ndarray, " factor"]:
    """Error of each factor in mixtures of two rows."""
    half, rng = len(z) // 2, np.random.default_rng(seed)
    one, other = rng.integers(half, len(z), size=(2, len(z) - half))
    second = rng.integers(2, size=(len(one), max(block.max(), group.max()) + 1)).astype(bool)
    mixed = np.where(second[:, block], z[other], z[one])
    said = _told(_perceptron(seed), np.concatenate([z[:half], mixed]), shown, half)
    errors = []
    for of, g, y in zip(group, said, shown, strict=True):
        truth = np.where(second[:, [of]], y[other], y[one])
        errors.append(_distance(g, truth) / _distance(truth.mean(0), truth))
    return np.array(errors)


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(one - other, axis=1).mean())
