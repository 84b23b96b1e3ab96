"""Simple rules that a model must beat, with a posterior's own ``effect`` interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol, final

import numpy as np
from jaxtyping import Float

from pyro_citevae.data import pseudobulk
from pyro_citevae.data.interventions import Schedule, do
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError
from pyro_citevae.infer.prediction import Effect, schedules_of, times_of

__all__ = ["Baseline", "LinearExtrapolation", "MeanOfOthers", "NoChange", "Persistence", "Predictor"]


class Predictor(Protocol):
    """What is scored: a posterior, a baseline, or anything that predicts effects."""

    @property
    def schema(self) -> Schema:
        """Names and sizes of the axes."""

    def effect(
        self, schedules: Schedule | Sequence[Schedule], *, time: float | Sequence[float] | None = None
    ) -> Effect:
        """Draws of the effect, with dims (chain, draw, perturbation, time, gene)."""


class Baseline(ABC):
    """A rule on measured effects ``delta_p(t) = b_p(t) - b_control(t)``.

    Args:
        data: Measured cells from which the rule takes its effects.
    """

    name: ClassVar[str]

    def __init__(self, data: Trajectories) -> None:
        self.data = data

    @property
    def schema(self) -> Schema:
        """Names and sizes of the axes."""
        return self.data.schema

    @abstractmethod
    def delta(self, label: str, time: float) -> Float[np.ndarray, " gene"]:
        """The predicted effect of one perturbation at one time."""

    def effect(
        self, schedules: Schedule | Sequence[Schedule], *, time: float | Sequence[float] | None = None
    ) -> Effect:
        """The rule's effects, as one draw, with dims (chain, draw, perturbation, time, gene)."""
        wanted, times = schedules_of(schedules), times_of(time, self.schema)
        labels = [one.label(self.schema.control) for one in wanted]
        values = np.array([[self.delta(label, t) for t in times] for label in labels])
        return Effect.of(values[None, None], wanted, times, self.schema, do())

    def measured(self, label: str, time: float) -> Float[np.ndarray, " gene"]:
        """The measured effect of a perturbation against the controls of the same time.

        Raises:
            DataError: There are no such cells, or no controls.
        """
        group = self.data.select(label, time)
        reference = self.data.select(self.schema.control, time)
        if min(group.n_cells, reference.n_cells) == 0:
            raise DataError(f"the baseline '{self.name}' needs cells of '{label}' and controls at {time:g}.")
        return pseudobulk.effect(group, reference)

    def times_before(self, label: str, time: float) -> list[float]:
        """Times before ``time`` at which a perturbation was measured, sorted."""
        measured = np.unique(self.data.select(label).row_times)
        return [float(one) for one in measured if one < time]


@final
class NoChange(Baseline):
    """``delta = 0``."""

    name = "no change"

    def delta(self, label: str, time: float) -> Float[np.ndarray, " gene"]:
        """Zero."""
        return np.zeros(self.schema.n_genes)


@final
class Persistence(Baseline):
    """``delta(t) = delta(t')``: the effect at the last time measured."""

    name = "persistence"

    def delta(self, label: str, time: float) -> Float[np.ndarray, " gene"]:
        """The last measured effect; zero for a perturbation never measured before."""
        times = self.times_before(label, time)
        return self.measured(label, times[-1]) if times else np.zeros(self.schema.n_genes)


@final
class LinearExtrapolation(Baseline):
    """``delta(t) = delta(t') + (t - t') (delta(t') - delta(t'')) / (t' - t'')`` from the last two times."""

    name = "linear extrapolation"

    def delta(self, label: str, time: float) -> Float[np.ndarray, " gene"]:
        """The line through the last two measured effects; the last one if there is only one."""
        times = self.times_before(label, time)
        if len(times) < 2:
            return self.measured(label, times[-1]) if times else np.zeros(self.schema.n_genes)
        before, last = times[-2:]
        slope = (self.measured(label, last) - self.measured(label, before)) / (last - before)
        return self.measured(label, last) + (time - last) * slope


@final
class MeanOfOthers(Baseline):
    """Mean measured effect of all other perturbations at the same time.

    Given the held-out cells it sees the time that the model forecasts: an advantage that no other row has.
    """

    name = "mean of others"

    def delta(self, label: str, time: float) -> Float[np.ndarray, " gene"]:
        """The mean over the other perturbations."""
        others = [one for one in self.data.select(time=time).perturbations() if one != label]
        if not others:
            raise DataError(f"the baseline '{self.name}' finds no other perturbation at {time:g}.")
        return np.asarray(np.mean([self.measured(one, time) for one in others], axis=0))
