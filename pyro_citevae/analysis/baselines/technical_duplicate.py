"""Ceilings that see the truth: half of the held-out cells predicts the other half."""

from __future__ import annotations

from typing import final

import numpy as np
from jaxtyping import Float

from pyro_citevae.analysis.baselines.effect_table import EffectTable
from pyro_citevae.analysis.baselines.rules import Baseline, independent
from pyro_citevae.data import pseudobulk
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError

__all__ = ["InterpolatedDuplicate", "TechnicalDuplicate"]


class Duplicate(Baseline):
    """A prediction by one half of each group's cells, to be scored on :attr:`scored`, the other half.

    Args:
        data: The held-out cells, and controls of the same times.
        seed: Seed of the halving.

    Attributes:
        half: The cells that predict.
        scored: The cells to score on.
    """

    def __init__(self, data: Trajectories, seed: int = 0) -> None:
        super().__init__(data)
        self.half, self.scored = self.halves(data, seed)

    @staticmethod
    def halves(data: Trajectories, seed: int = 0) -> tuple[Trajectories, Trajectories]:
        """Random halves of the rows of every label and time."""
        first = np.zeros(data.n_observations, dtype=bool)
        names = [f"{label}@{t}" for label, t in zip(data.row_labels, data.row_step, strict=True)]
        _, group = np.unique(np.array(names), return_inverse=True)
        rng = np.random.default_rng(seed)
        for one in range(group.max() + 1):
            rows = rng.permutation(np.flatnonzero(group == one))
            first[rows[: len(rows) // 2]] = True
        return data.rows(first), data.rows(~first)

    def residuals(self, schedule: Schedule, time: float) -> Float[np.ndarray, "residual gene"]:
        """The half's own sampling variance, by the jackknife, genes taken as independent."""
        group, control = self._groups(schedule, time)
        return independent(pseudobulk.jackknife_variance(group) + pseudobulk.jackknife_variance(control))

    def measured(self, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The effect in the half that predicts."""
        return pseudobulk.effect(*self._groups(schedule, time))

    def _groups(self, schedule: Schedule, time: float) -> tuple[Trajectories, Trajectories]:
        control = self.schema.control
        groups = self.half.select(schedule.label(control), time), self.half.select(control, time)
        if min(one.n_observations for one in groups) < 2:
            raise DataError(
                f"'{self.name}' needs two cells of '{schedule.label(control)}' and two controls at {time:g} "
                "in each half."
            )
        return groups


@final
class TechnicalDuplicate(Duplicate):
    """``delta`` of half of the held-out cells, and those cells as its predicted ones, with replacement."""

    name = "technical duplicate"

    def delta(self, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The half's effect."""
        return self.measured(schedule, time)

    def moved(
        self,
        schedule: Schedule,
        time: float,
        x: Float[np.ndarray, "cell gene"],
        level: Float[np.ndarray, " gene"],
        delta: Float[np.ndarray, "draw gene"],
        rng: np.random.Generator,
    ) -> tuple[Float[np.ndarray, "draw cell gene"], Float[np.ndarray, "draw cell gene"]]:
        """Cells of the half, as many as there are controls."""
        values = self.half.select(schedule.label(self.schema.control), time).values.toarray().astype(float)
        if not len(values):
            raise DataError(f"'{self.name}' holds no cell of {schedule!r} at {time:g} to duplicate.")
        drawn = values[rng.integers(len(values), size=(len(delta), len(x)))]
        return drawn, np.broadcast_to(values.mean(0), drawn.shape)


@final
class InterpolatedDuplicate(Duplicate):
    r"""The technical duplicate, shrunk toward the mean m of the training perturbations.

    ``delta = m + alpha (d - m)`` with ``alpha = max(0, 1 - sum_g v_g / |d - m|^2)``, d the half's effect and
    v its sampling variance: the positive-part estimator of James and Stein (1961).

    Args:
        data: The held-out cells, and controls of the same times.
        train: The training data, which has the mean.
        seed: Seed of the halving.
    """

    name = "interpolated duplicate"

    def __init__(self, data: Trajectories, train: Trajectories, seed: int = 0) -> None:
        super().__init__(data, seed)
        self.table = EffectTable.of(train)

    def delta(self, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The shrunken effect."""
        mean, alpha = self._shrinkage(schedule, time)
        return mean + alpha * (self.measured(schedule, time) - mean)

    def residuals(self, schedule: Schedule, time: float) -> Float[np.ndarray, "residual gene"]:
        """What the shrinkage leaves of the sampling variance: ``alpha v``."""
        _, alpha = self._shrinkage(schedule, time)
        return np.sqrt(alpha) * super().residuals(schedule, time)

    def _shrinkage(self, schedule: Schedule, time: float) -> tuple[Float[np.ndarray, " gene"], float]:
        mean = self.table.at(time).delta.mean(0)
        noise = sum(pseudobulk.jackknife_variance(one).sum() for one in self._groups(schedule, time))
        distance = float(((self.measured(schedule, time) - mean) ** 2).sum())
        return mean, max(0.0, 1 - float(noise) / max(distance, 1e-12))
