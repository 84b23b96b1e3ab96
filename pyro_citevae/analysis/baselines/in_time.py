"""Baselines that extrapolate a perturbation's own past."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import final

import numpy as np
from jaxtyping import Float

from pyro_citevae.analysis.baselines.effect_table import EffectTable
from pyro_citevae.analysis.baselines.rules import EffectRule
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.trajectories import Trajectories

__all__ = ["DampedExtrapolation", "LinearExtrapolation", "Persistence", "ShrunkenPersistence"]

_RIDGE = 0.01


class InTime(EffectRule):
    """A rule on a perturbation's past, tried on the training times from what came before.

    Where the others' effects at the time to predict are known, as when one perturbation's last time alone is
    held out, they are known in the trials too.
    """

    def trials(self, schedule: Schedule, time: float) -> Iterator[tuple[int, EffectTable]]:
        """Each row that has a past, predicted without its perturbation's present and future."""
        table = self.table
        others_known = bool((table.times == time).any())
        for i, (label, at) in enumerate(zip(table.labels, table.times.tolist(), strict=True)):
            if table.past(label, at).n_rows:
                later = table.times >= at
                hidden = later & table.named(label) if others_known else later
                yield i, table.rows(~hidden)


@final
class Persistence(InTime):
    """``delta(t) = delta(t')``: the effect at the last time measured; zero if there is none."""

    name = "persistence"

    def rule(self, table: EffectTable, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The last measured effect."""
        return _last(table, schedule, time)


@final
class LinearExtrapolation(InTime):
    """``delta(t) = delta(t') + (t - t') (delta(t') - delta(t'')) / (t' - t'')`` from the last two times."""

    name = "linear extrapolation"

    def rule(self, table: EffectTable, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The line through the last two measured effects; the last one if there is only one."""
        return _last(table, schedule, time) + _change(table, schedule, time)


@final
class DampedExtrapolation(InTime):
    """``delta(t) = delta(t') + phi (t - t') (delta(t') - delta(t'')) / (t' - t'')``.

    One phi in [0, 1] for all, by least squares over the training rows that have two earlier times; 0.5 where
    there is none. Source: E. S. Gardner, E. McKenzie, Forecasting Trends in Time Series (1985).
    """

    name = "damped extrapolation"

    def rule(self, table: EffectTable, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The last measured effect and a share of its change."""
        return _last(table, schedule, time) + self.phi * _change(table, schedule, time)

    @cached_property
    def phi(self) -> float:
        """The share of the last change that goes on."""
        both = squares = 0.0
        for one, at, delta in zip(
            self.table.schedules, self.table.times.tolist(), self.table.delta, strict=True
        ):
            change = _change(self.table, one, at)
            both += float(change @ (delta - _last(self.table, one, at)))
            squares += float(change @ change)
        return float(np.clip(both / squares, 0.0, 1.0)) if squares > 0 else 0.5


@final
class ShrunkenPersistence(InTime):
    r"""``delta_p(t) = alpha delta_p(t') + beta m_{-p}``, m the mean of the others at the last time known.

    ::

        (alpha, beta) = argmin sum_i |delta_i - alpha own_i - beta m_i|^2 + 0.01 s ((alpha - 1)^2 + beta^2)

    over the trials on the training times, with s half the trace of the squares: a ridge toward persistence.
    """

    name = "shrunken persistence"

    def __init__(self, data: Trajectories) -> None:
        super().__init__(data)
        self._weights: dict[bool, tuple[float, float]] = {}

    def rule(self, table: EffectTable, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The mix of the own past and the others' mean."""
        known = bool((self.table.times == time).any())
        if known not in self._weights:
            self._weights[known] = self.weights(known)
        alpha, beta = self._weights[known]
        return alpha * _last(table, schedule, time) + beta * self._others(table, schedule, time)

    def weights(self, others_known: bool) -> tuple[float, float]:
        """The weights of the own past and of the others' mean, fitted on training times."""
        table = self.table
        asked = float(table.times[0]) if others_known else np.inf
        squares, product = np.zeros((2, 2)), np.zeros(2)
        for i, smaller in self.trials(table.schedules[0], asked):
            one, at = table.schedules[i], float(table.times[i])
            design = np.stack([_last(smaller, one, at), self._others(smaller, one, at)], axis=1)
            squares += design.T @ design
            product += design.T @ table.delta[i]
        ridge = _RIDGE * max(np.trace(squares) / 2, 1e-12)
        alpha, beta = np.linalg.solve(squares + ridge * np.eye(2), product + ridge * np.array([1.0, 0.0]))
        return float(alpha), float(beta)

    def _others(self, table: EffectTable, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        others = table.without(schedule.label(self.schema.control)).at(time)
        return others.delta.mean(0) if others.n_rows else np.zeros(self.schema.n_genes)


def _last(table: EffectTable, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
    past = table.past(schedule.label(table.schema.control), time)
    return past.delta[-1] if past.n_rows else np.zeros(table.schema.n_genes)


def _change(table: EffectTable, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
    """What the line through the last two effects would add; zero if there are not two."""
    past = table.past(schedule.label(table.schema.control), time)
    if past.n_rows < 2:
        return np.zeros(table.schema.n_genes)
    slope = (past.delta[-1] - past.delta[-2]) / (past.times[-1] - past.times[-2])
    return np.asarray((time - past.times[-1]) * slope)
