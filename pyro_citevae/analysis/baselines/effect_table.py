"""The measured effects of a screen as a table, from which simple rules predict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Shaped

from pyro_citevae.data import pseudobulk
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError

__all__ = ["EffectTable"]

_FEWEST_CELLS = 2


@dataclass(frozen=True, eq=False)
class EffectTable:
    """Measured effects ``delta_p(t) = b_p(t) - b_control(t)``, a row a perturbation and time.

    Attributes:
        schema: Names and sizes of the axes.
        schedules: Schedule of each row.
        times: Time of each row.
        delta: Effect against the controls of the same time.
        variance: Its sampling variance, by the jackknife of both groups.
        reference: Profile of the controls of the same time.
    """

    schema: Schema
    schedules: tuple[Schedule, ...]
    times: Float[np.ndarray, " row"]
    delta: Float[np.ndarray, "row gene"]
    variance: Float[np.ndarray, "row gene"]
    reference: Float[np.ndarray, "row gene"]

    @classmethod
    def of(cls, data: Trajectories) -> EffectTable:
        """Measures every group that has two cells or more, and as many controls of its time.

        Raises:
            DataError: There is no such group.

        Example:
            >>> from pyro_citevae import simulate
            >>> EffectTable.of(simulate(n_steps=2, n_perturbations=3).data).delta.shape
            (6, 30)
        """
        schema = data.schema
        found = []
        for time in np.unique(data.row_times).tolist():
            control = data.select(schema.control, time)
            if control.n_observations < _FEWEST_CELLS:
                continue
            noise, level = pseudobulk.jackknife_variance(control), pseudobulk.level(control)
            now = data.select(time=time)
            for label in now.perturbations():
                group = now.select(label)
                if group.n_observations >= _FEWEST_CELLS:
                    variance = pseudobulk.jackknife_variance(group) + noise
                    found.append((label, time, pseudobulk.effect(group, control), variance, level))
        if not found:
            raise DataError(
                "no perturbation has two cells and two controls of the same time, and a baseline takes its "
                "effects from such groups; give more cells, or keep the controls in training."
            )
        labels, times, delta, variance, reference = zip(*found, strict=True)
        schedules = tuple(Schedule.parse(label, schema.control) for label in labels)
        parts = (np.array(one) for one in (delta, variance, reference))
        return cls(schema, schedules, np.array(times, dtype=float), *parts)

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.times)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Label of each row's schedule."""
        return tuple(one.label(self.schema.control) for one in self.schedules)

    @cached_property
    def orders(self) -> np.ndarray:
        """Number of tokens of each row's schedule."""
        return np.array([len(one.doses) for one in self.schedules])

    @cached_property
    def own(self) -> Bool[np.ndarray, "row gene"]:
        """Which genes are a row's own perturbed ones."""
        genes = np.array(self.schema.genes)
        return np.array([np.isin(genes, list(one.tokens)) for one in self.schedules])

    def rows(self, chosen: Shaped[np.ndarray, " chosen"]) -> EffectTable:
        """The rows of a mask, or those at some positions in their order."""
        return replace(
            self,
            schedules=tuple(np.array(self.schedules, dtype=object)[chosen].tolist()),
            times=self.times[chosen],
            delta=self.delta[chosen],
            variance=self.variance[chosen],
            reference=self.reference[chosen],
        )

    def named(self, label: str) -> Bool[np.ndarray, " row"]:
        """Which rows are of one label."""
        return np.array([one == label for one in self.labels], dtype=bool)

    def without(self, label: str) -> EffectTable:
        """The rows of all other labels."""
        return self.rows(~self.named(label))

    def before(self, time: float) -> EffectTable:
        """The rows of earlier times."""
        return self.rows(self.times < time)

    def at(self, time: float) -> EffectTable:
        """The rows of the last measured time that is not after a time; of the first one if all are after."""
        known = self.times[self.times <= time]
        at = known.max() if known.size else self.times.min(initial=np.inf)
        return self.rows(self.times == at)

    def past(self, label: str, time: float) -> EffectTable:
        """The rows of one label before a time, in the order of time."""
        own = self.rows(self.named(label) & (self.times < time))
        return own.rows(np.argsort(own.times))
