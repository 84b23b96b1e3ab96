"""Measured effects context by context, from which simple rules predict in another context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from pyro_citevae.analysis.baselines.effect_table import EffectTable
from pyro_citevae.data import pseudobulk
from pyro_citevae.data.contexts import distances
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError

__all__ = ["ContextTable", "OtherContexts"]


@dataclass(frozen=True, eq=False)
class OtherContexts:
    """What other contexts say of one perturbation at one time.

    Attributes:
        delta: Its effect in each.
        reference: Profile of the controls in each.
        own: Profile of the controls of the context to predict in.
    """

    delta: Float[np.ndarray, "context gene"]
    reference: Float[np.ndarray, "context gene"]
    own: Float[np.ndarray, " gene"]

    @property
    def likeness(self) -> Float[np.ndarray, " context"]:
        """Correlation of each context's controls with those of the context to predict in; 0 if flat."""
        return np.asarray(1 - distances(np.vstack([self.reference, self.own]))[:-1, -1])


@dataclass(frozen=True, eq=False)
class ContextTable:
    """Effects in some contexts, each against its own controls, and the controls of one to predict in.

    Attributes:
        effects: Measured effects of all contexts but that one.
        contexts: Context of each row.
        target: The context to predict in.
        own: Profile of its controls by time.
    """

    effects: EffectTable
    contexts: np.ndarray
    target: str
    own: Mapping[float, Float[np.ndarray, " gene"]]

    @classmethod
    def of(cls, data: Trajectories, target: str) -> ContextTable:
        """Measures every other context; of the target the controls alone are looked at.

        Args:
            data: Measured cells of several contexts.
            target: The context to predict in.

        Raises:
            DataError: The data have no such context, it has no controls, or no other has an effect.

        Example:
            >>> from pyro_citevae import datasets
            >>> table = ContextTable.of(datasets.load("kang"), "B cells")
            >>> table.effects.n_rows, "B cells" in table.contexts
            (4, False)
        """
        data.schema.context_of(target)
        controls = data.select(data.schema.control, context=target)
        if not controls.n_cells:
            raise DataError(
                f"a baseline predicts in the context '{target}' from its controls, and there is none; keep "
                "the context's controls in training."
            )
        own = {t: pseudobulk.level(controls.select(time=t)) for t in np.unique(controls.row_times).tolist()}
        found = {}
        for name in data.schema.contexts:
            if name != target:
                try:
                    found[name] = EffectTable.of(data.select(context=name))
                except DataError:  # a context without an effect to measure says nothing
                    continue
        if not found:
            raise DataError(
                f"a baseline predicts in the context '{target}' from the effects in other contexts, and none "
                "has two perturbed cells and two controls of the same time; give more cells."
            )
        contexts = np.repeat(np.array(list(found), dtype=object), [one.n_rows for one in found.values()])
        return cls(_joined(list(found.values())), contexts, target, own)

    def leaving(self, context: str) -> ContextTable:
        """The other rows, to predict in one of the table's contexts."""
        here = self.contexts == context
        own = dict(zip(self.effects.times[here].tolist(), self.effects.reference[here], strict=True))
        return replace(self.rows(~here), target=context, own=own)

    def without(self, label: str) -> ContextTable:
        """The rows of all other labels."""
        return self.rows(~self.effects.named(label))

    def rows(self, chosen: np.ndarray) -> ContextTable:
        """The rows of a mask."""
        return replace(self, effects=self.effects.rows(chosen), contexts=self.contexts[chosen])

    def has(self, label: str) -> bool:
        """Whether any context measured a perturbation."""
        return bool(self.effects.named(label).any())

    def others(self, schedule: Schedule, time: float) -> OtherContexts:
        """The effect of a schedule in each context that measured it, at the last time that is not later.

        Of a perturbation that no context measured, each context's mean effect of all perturbations.
        """
        named = self.effects.named(schedule.label(self.effects.schema.control))
        table = self.rows(named) if named.any() else self
        times = table.effects.times
        at = _last(times, time)
        now = table.rows(times == at)
        each = [now.contexts == name for name in dict.fromkeys(now.contexts.tolist())]
        delta, reference = (
            np.array([values[here].mean(0) for here in each])
            for values in (now.effects.delta, now.effects.reference)
        )
        return OtherContexts(delta, reference, self.own[_last(np.array(list(self.own)), time)])


def _last(times: Float[np.ndarray, " time"], time: float) -> float:
    """The last of some times that is not after another; the first one if all are after."""
    known = times[times <= time]
    return float(known.max() if known.size else times.min())


def _joined(tables: list[EffectTable]) -> EffectTable:
    """The rows of several tables."""
    arrays = {
        name: np.concatenate([getattr(one, name) for one in tables])
        for name in ("times", "delta", "variance", "reference")
    }
    return EffectTable(tables[0].schema, tuple(s for one in tables for s in one.schedules), **arrays)
