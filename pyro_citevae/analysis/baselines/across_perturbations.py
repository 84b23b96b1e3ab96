"""Baselines that take a perturbation's effect from those of others, or of its members."""

from __future__ import annotations

from abc import abstractmethod
from typing import final

import numpy as np
from jaxtyping import Float

from pyro_citevae.analysis.baselines.effect_table import EffectTable
from pyro_citevae.analysis.baselines.rules import AcrossPerturbations
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.errors import DataError

__all__ = ["Additive", "MatchingMean", "MeanOfOthers", "MeanOfSingles", "StrongerSingle"]


@final
class MeanOfOthers(AcrossPerturbations):
    """Mean measured effect of all other perturbations at the last known time.

    Given held-out cells it sees the time that the model forecasts: an advantage that no other row has.
    """

    name = "mean of others"

    def rule(self, table: EffectTable, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The mean over the other perturbations."""
        others = table.without(schedule.label(self.schema.control)).at(time)
        if not others.n_rows:
            raise DataError(f"the baseline '{self.name}' finds no other perturbation at {time:g}.")
        return others.delta.mean(0)


@final
class MatchingMean(AcrossPerturbations):
    """Mean effect of the other perturbations that share a token; of all others where none does.

    Source: Y. Viñas Torné et al., Systema: A Framework for Evaluating Genetic Perturbation Response
    Prediction (2025).
    """

    name = "matching mean"

    def rule(self, table: EffectTable, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The mean over those that share a token."""
        others = table.without(schedule.label(self.schema.control)).at(time)
        shares = np.array([bool(set(one.tokens) & set(schedule.tokens)) for one in others.schedules])
        chosen = others.delta[shares] if shares.any() else others.delta
        return chosen.mean(0) if len(chosen) else np.zeros(self.schema.n_genes)


class OfMembers(AcrossPerturbations):
    """A rule on the single effects of a combination's members.

    A member without cells of its own stands at the mean of the singles. The trials are on training
    combinations of as many tokens alone, since a single has no members to be predicted from.
    """

    def rule(self, table: EffectTable, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The members' single effects, combined."""
        at = table.at(time)
        singles = at.rows(at.orders == 1)
        mean = singles.delta.mean(0) if singles.n_rows else np.zeros(self.schema.n_genes)
        found = [singles.delta[singles.named(token)] for token in schedule.tokens]
        seen = np.array([len(one) > 0 for one in found])
        members = np.array([one[0] if len(one) else mean for one in found])
        return self.combined(members, seen)

    @abstractmethod
    def combined(
        self, members: Float[np.ndarray, "member gene"], seen: np.ndarray
    ) -> Float[np.ndarray, " gene"]:
        """The effect of a combination, from those of its members and whether each was measured."""

    def alike(self, rows: np.ndarray, order: int) -> np.ndarray:
        """The rows of the same order."""
        return rows[self.table.orders[rows] == order]


@final
class Additive(OfMembers):
    """``delta_AB = delta_A + delta_B``, that is ``y_AB = y_A + y_B - y_control``."""

    name = "additive"

    def combined(
        self, members: Float[np.ndarray, "member gene"], seen: np.ndarray
    ) -> Float[np.ndarray, " gene"]:
        """The sum."""
        return np.asarray(members.sum(0))


@final
class StrongerSingle(OfMembers):
    """The effect of the member with the larger one, by its Euclidean norm, among those measured."""

    name = "stronger single"

    def combined(
        self, members: Float[np.ndarray, "member gene"], seen: np.ndarray
    ) -> Float[np.ndarray, " gene"]:
        """The stronger member."""
        strength = np.where(seen | ~seen.any(), np.linalg.norm(members, axis=1), -1.0)
        return np.asarray(members[strength.argmax()])


@final
class MeanOfSingles(OfMembers):
    """``delta_AB = (delta_A + delta_B) / 2``."""

    name = "mean of singles"

    def combined(
        self, members: Float[np.ndarray, "member gene"], seen: np.ndarray
    ) -> Float[np.ndarray, " gene"]:
        """The mean."""
        return np.asarray(members.mean(0))
