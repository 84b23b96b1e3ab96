"""Baselines that take a perturbation's effect in one context from its effects in others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import product
from typing import final

import numpy as np
from jaxtyping import Float

from pyro_citevae.analysis.baselines.context_table import ContextTable, OtherContexts
from pyro_citevae.analysis.baselines.rules import Baseline, left_over
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.pseudobulk import counts, profile
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError, few

__all__ = [
    "ACROSS_CONTEXTS",
    "ContextRule",
    "MeanOfContexts",
    "NearestContext",
    "NoChangeInContext",
    "PooledLogRatio",
    "ShrunkenMeanOfContexts",
    "SimilarContexts",
]

_SHARPNESS = (0.0, 5.0, 10.0, 20.0, 40.0, 80.0)  # of the softmax of correlations
_SHRINKING = (0.6, 0.7, 0.8, 0.9, 1.0)
_LEAST_COUNT = 0.1  # at the common total, beside which ratios of counts are taken


class ContextRule(Baseline):
    r"""A rule that predicts in one context, of which it sees the controls alone.

    It is tried by leaving out each other context in turn, and has the residuals of these trials as
    :class:`EffectRule` does. A perturbation that no context measured has each context's mean effect, and
    its trials leave out the perturbation too.

    Args:
        data: Measured cells of several contexts.
        context: The context to predict in; a perturbed cell of it is not looked at.

    Raises:
        DataError: There is no such context, it has no controls, or no other has an effect to measure.
    """

    def __init__(self, data: Trajectories, context: str) -> None:
        super().__init__(data)
        self.context = context
        self.table = ContextTable.of(data, context)
        self._residuals: dict[tuple[float, int, bool], np.ndarray] = {}

    @abstractmethod
    def rule(self, table: ContextTable, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The prediction in a table's target."""

    def delta(self, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The rule on the whole table."""
        return self.rule(self.table, schedule, time)

    def residuals(self, schedule: Schedule, time: float) -> Float[np.ndarray, "residual gene"]:
        """The residuals of the trials, less the noise of the rows that they were measured on."""
        seen = self.table.has(schedule.label(self.schema.control))
        key = (time, len(schedule.doses), seen)
        if key not in self._residuals:
            effects = self.table.effects
            tried = [
                (i, effects.delta[i] - self.rule(smaller, effects.schedules[i], float(effects.times[i])))
                for i, smaller in self.trials(time, seen=seen)
            ]
            self._residuals[key] = left_over(effects, tried, len(schedule.doses))
        return self._residuals[key]

    def trials(self, time: float, *, seen: bool = True) -> Iterator[tuple[int, ContextTable]]:
        """Rows of the last known time to try the rule on, each with the table to predict it from."""
        return _trials(self.table, time, seen=seen)

    def require(self, contexts: Sequence[str]) -> None:
        """Refuses other contexts than the rule's own."""
        other = [one for one in contexts if one != self.context]
        if other:
            raise DataError(
                f"the baseline '{self.name}' predicts in the context '{self.context}', and is asked of "
                f"{few(other)}; make one by {type(self).__name__}(data, '{other[0]}')."
            )


@final
class NoChangeInContext(ContextRule):
    """``delta = 0``; its residuals are the effects measured in the other contexts."""

    name = "no change"

    def rule(self, table: ContextTable, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """Zero."""
        return np.zeros(self.schema.n_genes)


@final
class MeanOfContexts(ContextRule):
    """Mean of the perturbation's effects in the other contexts."""

    name = "mean of other contexts"

    def rule(self, table: ContextTable, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The mean."""
        return np.asarray(table.others(schedule, time).delta.mean(0))


@final
class ShrunkenMeanOfContexts(ContextRule):
    r"""``delta = a m``: the mean m of the effects in the other contexts, by a factor from 0 to 1.

    The factor has the least ``sum_i |delta_i - a m_i|^2 / |delta_i|^2`` over the effects delta_i of the other
    contexts, each with the mean m_i of those that remain; it is 1 where none remains.
    """

    name = "shrunken mean of other contexts"

    def rule(self, table: ContextTable, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The mean times the factor."""
        return np.asarray(self.factor(table, time) * table.others(schedule, time).delta.mean(0))

    def factor(self, table: ContextTable, time: float) -> float:
        """What leaving contexts out supports."""
        along, length = 0.0, 0.0
        for truth, others, keep in _left_out(table, time):
            y, m = truth[keep], others.delta.mean(0)[keep]
            size = max(float(y @ y), 1e-12)
            along, length = along + float(y @ m) / size, length + float(m @ m) / size
        return min(max(along / length, 0.0), 1.0) if length > 0 else 1.0


@final
class NearestContext(ContextRule):
    """The effect in the context whose controls have the profile that correlates most with the own one."""

    name = "nearest context"

    def rule(self, table: ContextTable, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """That context's effect."""
        others = table.others(schedule, time)
        return np.asarray(others.delta[others.likeness.argmax()])


@final
class PooledLogRatio(ContextRule):
    r"""``m' = m exp(r)``: the ratio of all other contexts' counts, on the context's own control counts m.

    ::

        r_g = log(sum_c m'_cg + C eps) - log(sum_c m_cg + C eps)        over the C other contexts

    with counts at the common total, ``m = exp(b) - 1`` of a profile b, and eps = 0.1. The effect is that of
    the profile of m'. Real values have no ratio: it is then the mean of the effects.
    """

    name = "pooled log ratio"

    def rule(self, table: ContextTable, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The effect of the pooled ratio."""
        others = table.others(schedule, time)
        if self.schema.values == "real":
            return np.asarray(others.delta.mean(0))
        before, after = (counts(one).mean(0) for one in (others.reference, others.reference + others.delta))
        ratio = np.log(after + _LEAST_COUNT) - np.log(before + _LEAST_COUNT)
        return _multiplied(others.own, ratio, self.schema)


@final
class SimilarContexts(ContextRule):
    r"""Effects in the other contexts, weighted by how alike their controls look, and shrunken.

    ::

        w_c ~ exp(k corr(b_c, b))        b the controls' profiles
        delta = a sum_c w_c delta_c              added, or
        m' = m exp(a sum_c w_c r_c)      r_c = log((m'_c + eps) / (m_c + eps))

    Sharpness k (0 to 80), shrinking a (0.6 to 1) and form are those with the least mean relative L2 over the
    effects of the other contexts, each predicted from those that remain; where none remains they are 0, 1
    and added. Counts m are those of :class:`PooledLogRatio`. Real values are added.
    """

    name = "similar contexts"

    def __init__(self, data: Trajectories, context: str) -> None:
        super().__init__(data, context)
        self._chosen: dict[tuple[object, ...], tuple[float, float, bool]] = {}

    def rule(self, table: ContextTable, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The weighted effect."""
        sharpness, shrinking, ratio = self.chosen(table, time)
        return self._predicted(table.others(schedule, time), sharpness, (shrinking,), ratio)[0]

    def chosen(self, table: ContextTable, time: float) -> tuple[float, float, bool]:
        """Sharpness, shrinking, and whether effects multiply counts."""
        key = (time, table.target, *table.contexts.tolist(), *table.effects.labels)
        if key not in self._chosen:
            self._chosen[key] = self._choice(table, time)
        return self._chosen[key]

    def _choice(self, table: ContextTable, time: float) -> tuple[float, float, bool]:
        forms = (False,) if self.schema.values == "real" else (False, True)
        grid = list(product(_SHARPNESS, forms))
        error, n = np.zeros((len(grid), len(_SHRINKING))), 0
        for truth, others, keep in _left_out(table, time):
            size = max(float(np.linalg.norm(truth[keep])), 1e-12)
            for j, (sharpness, ratio) in enumerate(grid):
                missed = truth - self._predicted(others, sharpness, _SHRINKING, ratio)
                error[j] += np.linalg.norm(missed[:, keep], axis=1) / size
            n += 1
        if not n:
            return 0.0, 1.0, False
        j, a = divmod(int(error.argmin()), len(_SHRINKING))
        return grid[j][0], _SHRINKING[a], grid[j][1]

    def _predicted(
        self, others: OtherContexts, sharpness: float, shrinking: Sequence[float], ratio: bool
    ) -> Float[np.ndarray, "shrinking gene"]:
        """Predictions by each shrinking."""
        weight = np.exp(sharpness * (others.likeness - others.likeness.max()))
        weight /= weight.sum()
        a = np.asarray(shrinking)[:, None]
        if not ratio:
            return np.asarray(a * (weight @ others.delta))
        before, after = (counts(one) for one in (others.reference, others.reference + others.delta))
        log_ratio = weight @ (np.log(after + _LEAST_COUNT) - np.log(before + _LEAST_COUNT))
        return _multiplied(others.own, a * log_ratio, self.schema)


ACROSS_CONTEXTS: tuple[type[ContextRule], ...] = (
    NoChangeInContext,
    MeanOfContexts,
    ShrunkenMeanOfContexts,
    NearestContext,
    PooledLogRatio,
    SimilarContexts,
)
"""The rules that stand beside a model in a context of which controls alone are known."""


def _trials(table: ContextTable, time: float, *, seen: bool = True) -> Iterator[tuple[int, ContextTable]]:
    """Rows of the last known time, each with the table of the contexts that remain to predict it from."""
    effects = table.effects
    now = np.flatnonzero(np.isin(effects.times, effects.at(time).times))
    smaller = {name: table.leaving(name) for name in dict.fromkeys(table.contexts[now].tolist())}
    for i in now.tolist():
        left, label = smaller[table.contexts[i]], effects.labels[i]
        if not seen:
            left = left.without(label)
        if left.effects.n_rows and left.has(label) == seen:
            yield i, left


def _left_out(
    table: ContextTable, time: float
) -> Iterator[tuple[Float[np.ndarray, " gene"], OtherContexts, np.ndarray]]:
    """Effects with what the contexts that remain say of them, and the genes that count."""
    effects = table.effects
    for i, left in _trials(table, time):
        others = left.others(effects.schedules[i], float(effects.times[i]))
        yield effects.delta[i], others, ~effects.own[i]


def _multiplied(
    b: Float[np.ndarray, " gene"], ratio: Float[np.ndarray, "*many gene"], schema: Schema
) -> Float[np.ndarray, "*many gene"]:
    """What multiplying the counts of a profile does to it."""
    return profile(counts(b) * np.exp(ratio), schema.panel_total) - b
