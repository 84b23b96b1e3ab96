"""Baselines that carry effects from gene to gene along features of the perturbed genes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol, final

import numpy as np
from jaxtyping import Float
from scipy.special import softmax

from pyro_citevae.analysis.baselines.effect_table import EffectTable
from pyro_citevae.analysis.baselines.rules import AcrossPerturbations
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.trajectories import Trajectories

__all__ = ["Features", "LinearModel", "NearestNeighbours", "RidgeOnFeatures", "SoftmaxKernel"]


class Features(Protocol):
    """Numbers that describe genes, such as :class:`pyro_citevae.data.features.GeneFeatures`."""

    @property
    def genes(self) -> Sequence[str]:
        """The genes that are described."""

    @property
    def values(self) -> np.ndarray:
        """Their features, (gene, feature)."""


class OnFeatures(AcrossPerturbations):
    r"""A linear smoother of the training effects over the features of what was perturbed.

    ::

        f_p   = sum of the features of p's tokens (zero for a gene that is not described)
        k_pq  = cos(f_p, f_q)
        delta = mean_q delta_q + sum_q w_q (delta_q - mean_q delta_q)

    The weights w follow from k; where k is zero for every training perturbation, the mean is left.

    Args:
        data: Measured cells from which the rule takes its effects.
        features: Features of the genes.
    """

    def __init__(self, data: Trajectories, features: Features) -> None:
        super().__init__(data)
        rows = {gene: i for i, gene in enumerate(features.genes)}
        values = np.asarray(features.values, dtype=float)
        self.described = {token: values[rows[token]] for token in self.schema.tokens if token in rows}
        self.size = values.shape[1]

    def embedded(self, schedules: Sequence[Schedule]) -> Float[np.ndarray, "schedule feature"]:
        """Unit vectors of the schedules' features; zero where nothing is known."""
        zero = np.zeros(self.size)
        f = np.array([sum((self.described.get(one, zero) for one in p.tokens), zero) for p in schedules])
        f = f.reshape(len(schedules), self.size)
        norm = np.linalg.norm(f, axis=1, keepdims=True)
        return np.asarray(f / np.where(norm > 0, norm, 1.0))

    def rule(self, table: EffectTable, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The mean and the weighted deviations from it."""
        at = table.at(time)
        mean = at.delta.mean(0)
        f, known = self.embedded([schedule]), self.embedded(at.schedules)
        k = known @ f[0]
        if not k.any():
            return np.asarray(mean)
        return np.asarray(mean + self.weights(k, known @ known.T) @ (at.delta - mean))

    @abstractmethod
    def weights(
        self, k: Float[np.ndarray, " row"], K: Float[np.ndarray, "row row"]
    ) -> Float[np.ndarray, " row"]:
        """Weights of the training perturbations, from their likeness to the asked one and to each other."""


@final
class RidgeOnFeatures(OnFeatures):
    """``w = (K + lambda I)^-1 k``: kernel ridge regression on the cosine.

    Args:
        data: Measured cells from which the rule takes its effects.
        features: Features of the genes.
        ridge: The penalty lambda.
    """

    name = "ridge on features"

    def __init__(self, data: Trajectories, features: Features, ridge: float = 0.5) -> None:
        super().__init__(data, features)
        self.ridge = ridge

    def weights(
        self, k: Float[np.ndarray, " row"], K: Float[np.ndarray, "row row"]
    ) -> Float[np.ndarray, " row"]:
        """The ridge solution."""
        return np.asarray(np.linalg.solve(K + self.ridge * np.eye(len(K)), k))


@final
class NearestNeighbours(OnFeatures):
    """``w = 1 / n`` for the n most alike training perturbations.

    Args:
        data: Measured cells from which the rule takes its effects.
        features: Features of the genes.
        neighbours: Their number n.
    """

    name = "nearest neighbours"

    def __init__(self, data: Trajectories, features: Features, neighbours: int = 3) -> None:
        super().__init__(data, features)
        self.neighbours = neighbours

    def weights(
        self, k: Float[np.ndarray, " row"], K: Float[np.ndarray, "row row"]
    ) -> Float[np.ndarray, " row"]:
        """Equal weights of the nearest; ties in the order of the rows."""
        n = min(self.neighbours, len(k))
        found = np.zeros_like(k)
        found[np.argsort(-k, kind="stable")[:n]] = 1 / n
        return found


@final
class SoftmaxKernel(OnFeatures):
    """``w ~ exp(sharpness k)``, summing to one: a kernel smoother (Nadaraya 1964, Watson 1964).

    Args:
        data: Measured cells from which the rule takes its effects.
        features: Features of the genes.
        sharpness: How fast weights fall as the cosine does.
    """

    name = "softmax kernel"

    def __init__(self, data: Trajectories, features: Features, sharpness: float = 12.0) -> None:
        super().__init__(data, features)
        self.sharpness = sharpness

    def weights(
        self, k: Float[np.ndarray, " row"], K: Float[np.ndarray, "row row"]
    ) -> Float[np.ndarray, " row"]:
        """The softmax of the scaled cosine."""
        return np.asarray(softmax(self.sharpness * k))


@final
class LinearModel(AcrossPerturbations):
    r"""``Y = G W P' + mean``: a bilinear model between genes and what was perturbed.

    ::

        W = (G'G + 0.1 I)^-1 G' Y P (P'P + 0.1 I)^-1

    Y holds the centred training effects (gene, perturbation), G the genes' 10 leading principal component
    scores in the training profiles, P the perturbed genes' rows of G or their features, summed over a
    combination's members. A perturbed gene that is neither measured nor described has a row of zeros.

    Args:
        data: Measured cells from which the rule takes its effects.
        features: Features of the genes; None for their rows of G.
        components: Number of components, at most.

    Source: C. Ahlmann-Eltze, W. Huber, S. Anders, Deep-Learning-Based Gene Perturbation Effect Prediction
    Does Not Yet Outperform Simple Linear Baselines, Nature Methods (2025).
    """

    name = "linear model"

    def __init__(self, data: Trajectories, features: Features | None = None, components: int = 10) -> None:
        super().__init__(data)
        self.features, self.components = features, components

    def rule(self, table: EffectTable, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The bilinear prediction."""
        at = table.at(time)
        mean = at.delta.mean(0)
        G = self._scores(at)
        genes, rows = self.schema.genes, G
        if self.features is not None:
            genes, rows = tuple(self.features.genes), np.asarray(self.features.values, dtype=float)
        P = np.array([_summed(one, genes, rows) for one in at.schedules])
        p = _summed(schedule, genes, rows)
        Y = (at.delta - mean).T
        inner = np.linalg.solve(P.T @ P + 0.1 * np.eye(P.shape[1]), p)
        outer = np.linalg.solve(G.T @ G + 0.1 * np.eye(G.shape[1]), G.T @ Y @ P @ inner)
        return np.asarray(mean + G @ outer)

    def _scores(self, table: EffectTable) -> Float[np.ndarray, "gene component"]:
        profiles = (table.reference + table.delta).T
        U, d, _ = np.linalg.svd(profiles - profiles.mean(0), full_matrices=False)
        return np.asarray((U * d)[:, : self.components])


def _summed(
    schedule: Schedule, genes: Sequence[str], rows: Float[np.ndarray, "gene feature"]
) -> Float[np.ndarray, " feature"]:
    chosen = np.isin(np.array(genes), list(schedule.tokens))
    return np.asarray(rows[chosen].sum(0))
