"""Simple rules that a model must beat, with a posterior's own ``predict`` and ``effect`` interface."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, final

import numpy as np
from jaxtyping import Float
from scipy import sparse

from pyro_citevae.analysis.baselines.effect_table import EffectTable
from pyro_citevae.arguments import Names, names
from pyro_citevae.data.interventions import Schedule, do
from pyro_citevae.data.pseudobulk import profile
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.infer.asked import require_controls, schedules_of, times_of
from pyro_citevae.infer.effect import Effect
from pyro_citevae.infer.predicted_cells import PredictedCells

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["AcrossPerturbations", "Baseline", "EffectRule", "NoChange", "Predictor"]

_MOST_VALUES = 5_000_000
_LAYERS = ("mean", "sd", "q05", "q95")


class Predictor(Protocol):
    """What is scored: a posterior, a baseline, or anything that predicts effects and cells."""

    @property
    def name(self) -> str:
        """Name in the tables."""

    @property
    def schema(self) -> Schema:
        """Names and sizes of the axes."""

    def effect(
        self,
        schedules: Schedule | Sequence[Schedule],
        versus: Schedule | None = None,
        *,
        cells: Trajectories | None = None,
        draws: int = 200,
        time: float | Sequence[float] | None = None,
        seed: int = 0,
        context: Names | None = None,
    ) -> Effect:
        """Draws of the effect, with dims (chain, draw, perturbation, time, gene); of named contexts, context.

        The dim context follows draw. Where the data have no contexts, none is named.
        """

    def predict(
        self,
        schedules: Schedule | Sequence[Schedule],
        *,
        cells: Trajectories,
        draws: int = 100,
        time: float | Sequence[float] | None = None,
        seed: int = 0,
    ) -> AnnData:
        """Counts that control cells would show under other schedules."""


class Baseline(ABC):
    r"""A rule for effects, whose intervals come from its own errors on the data that it was given.

    ::

        delta^(d)_g = delta_g + sum_i w_di rho_ig / sqrt(n),    w_di ~ N(0, 1)

    so that the draws of a gene have the variance ``mean_i rho_ig^2``, and those of two genes the covariance
    of the residuals rho: see :meth:`residuals`. The sampling noise of a new measurement is not part of it;
    the scores add that to every predictor alike.

    Args:
        data: Measured cells from which the rule is made.
    """

    name: ClassVar[str]

    def __init__(self, data: Trajectories) -> None:
        self.data = data

    @property
    def schema(self) -> Schema:
        """Names and sizes of the axes."""
        return self.data.schema

    @abstractmethod
    def delta(self, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The predicted effect of a schedule against the control at one time."""

    @abstractmethod
    def residuals(self, schedule: Schedule, time: float) -> Float[np.ndarray, "residual gene"]:
        """Vectors rho_i, whose mean outer product is the covariance of the rule's error."""

    def require(self, contexts: Sequence[str]) -> None:  # noqa: B027
        """Refuses contexts that the rule cannot predict in; by default none."""

    def effect(
        self,
        schedules: Schedule | Sequence[Schedule],
        versus: Schedule | None = None,
        *,
        cells: Trajectories | None = None,
        draws: int = 200,
        time: float | Sequence[float] | None = None,
        seed: int = 0,
        context: Names | None = None,
    ) -> Effect:
        """Draws of the rule's effects; their mean is the rule's own prediction.

        Args:
            schedules: One ``do(...)`` or several.
            versus: Reference schedule; None for ``do()``.
            cells: Not used: a rule predicts one effect for all cells.
            draws: Number of draws.
            time: Time or times, in the data's unit; None for the last one of the data.
            seed: Seed of the draws.
            context: Contexts to give the effect in; it is the same in all of them.

        Returns:
            Dims (chain, draw, perturbation, time, gene), on the natural log scale. Where contexts are named,
            (chain, draw, context, perturbation, time, gene).

        Raises:
            ScheduleError: A perturbation is unknown.
            DataError: A time is off the grid, or a context is unknown.
        """
        asked = () if context is None else names(context, "effect(context=...)")
        self.require(asked)
        wanted, times = schedules_of(schedules, self.schema), times_of(time, self.schema)
        reference = do() if versus is None else versus
        for one in (*wanted, reference):
            self.schema.require(one)
        rng = np.random.default_rng(seed)
        values = np.empty((1, draws, len(wanted), len(times), self.schema.n_genes))
        for j, at in enumerate(times):
            less = self._drawn(reference, at, draws, rng)
            for i, one in enumerate(wanted):
                values[0, :, i, j] = self._drawn(one, at, draws, rng) - less
        found = Effect.of(values, wanted, times, self.schema, reference)
        if context is None:
            return found
        contexts = [self.schema.contexts[self.schema.context_of(one)] for one in asked]
        return Effect.in_contexts([found] * len(contexts), contexts)

    def _drawn(
        self, schedule: Schedule, time: float, draws: int, rng: np.random.Generator
    ) -> Float[np.ndarray, "draw gene"]:
        """Draws of one effect, centred on the rule's prediction."""
        if schedule.is_control:
            return np.zeros((draws, self.schema.n_genes))
        rho = self.residuals(schedule, time)
        w = rng.normal(size=(draws, len(rho)))
        w -= w.mean(0) if draws > 1 else w
        w *= np.sqrt(draws / max(draws - 1, 1) / max(len(rho), 1))
        return np.asarray(self.delta(schedule, time) + w @ rho)

    def predict(
        self,
        schedules: Schedule | Sequence[Schedule],
        *,
        cells: Trajectories,
        draws: int = 100,
        time: float | Sequence[float] | None = None,
        seed: int = 0,
    ) -> AnnData:
        """Control cells with the rule's effect on them, as integer counts; see :meth:`moved`.

        ``X`` has the effect that the rule predicts, and the layers sum up cells under draws of it.

        Args:
            schedules: One ``do(...)`` or several.
            cells: Control cells, such as ``train.controls()``.
            draws: Number of draws.
            time: Time or times to predict, in the data's unit; None for the last one of the data.
            seed: Seed of every draw.

        Returns:
            A row for each schedule, time and cell, with the layers and columns of
            :meth:`pyro_citevae.Posterior.predict`.

        Raises:
            ScheduleError: A perturbation is unknown.
            DataError: A cell was perturbed, or a time is off the grid.
        """
        self.require(
            [cells.schema.contexts[c] for c in np.unique(cells.context)] if cells.schema.contexts else []
        )
        require_controls(cells, self.schema)
        wanted, times = schedules_of(schedules, self.schema), times_of(time, self.schema)
        effects = self.effect(wanted, draws=draws, time=times, seed=seed).to_numpy()[0]
        rng = np.random.default_rng([seed, 1])
        last = np.searchsorted(cells.row_cell, np.arange(cells.n_cells), side="right") - 1
        x = cells.values[last].toarray().astype(float)
        parts: dict[str, list[np.ndarray]] = {name: [] for name in ("draw", *_LAYERS)}
        for i, one in enumerate(wanted):
            for j, at in enumerate(times):
                for block in self._blocks(one, at, x, effects[:, i, j], rng):
                    for name, value in block.items():
                        parts[name].append(value)
        made = {name: np.concatenate(blocks).astype(np.float32) for name, blocks in parts.items()}
        grid = np.indices((len(wanted), len(times), cells.n_cells)).reshape(3, -1)
        draw = sparse.csr_matrix(made.pop("draw"))
        return PredictedCells(draw, made, *grid).to_anndata(wanted, times, cells, draws=draws, seed=seed)

    def _blocks(
        self,
        schedule: Schedule,
        time: float,
        x: Float[np.ndarray, "cell gene"],
        delta: Float[np.ndarray, "draw gene"],
        rng: np.random.Generator,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Summaries over the draws, for blocks of cells that fit in memory."""
        level = x.sum(0)
        size = max(1, _MOST_VALUES // delta.size)
        for first in range(0, len(x), size):
            made, mean = self.moved(schedule, time, x[first : first + size], level, delta, rng)
            shown, _ = self.moved(schedule, time, x[first : first + size], level, delta.mean(0)[None], rng)
            values = (shown[0], mean.mean(0), made.std(0), *np.quantile(made, (0.05, 0.95), axis=0))
            yield dict(zip(("draw", *_LAYERS), values, strict=True))

    def moved(
        self,
        schedule: Schedule,
        time: float,
        x: Float[np.ndarray, "cell gene"],
        level: Float[np.ndarray, " gene"],
        delta: Float[np.ndarray, "draw gene"],
        rng: np.random.Generator,
    ) -> tuple[Float[np.ndarray, "draw cell gene"], Float[np.ndarray, "draw cell gene"]]:
        r"""Control cells moved by an effect, and their expectation.

        ::

            q   = level / sum level,      q'_g ~ expm1(log1p(total q_g) + delta_g), summing to one
            x'_ng ~ Binomial(x_ng, min(1, q'_g / q_g)) + Poisson(N_n max(0, q'_g - q_g)),   N_n = sum_g x_ng

        Counts are thinned where a gene falls and added to where it rises, so that a cell keeps its depth in
        expectation and the spread of a real cell, and an effect of zero changes nothing. Real values are
        shifted by delta.

        Args:
            schedule: What was done.
            time: When.
            x: The control cells' values.
            level: Summed counts of all the control cells.
            delta: Draws of the effect.
            rng: Source of the randomness.
        """
        if self.schema.values == "real":
            both = x + delta[:, None]
            return both, both
        q = level / max(level.sum(), 1.0)
        target = np.expm1(profile(level, self.schema.panel_total) + delta).clip(min=0.0)
        target /= np.maximum(target.sum(-1, keepdims=True), 1e-12)
        kept = np.divide(target, q, out=np.zeros_like(target), where=q > 0).clip(max=1.0)[:, None]
        added = x.sum(-1)[:, None] * (target - q).clip(min=0.0)[:, None]
        counts = rng.binomial(x.astype(np.int64), kept) + rng.poisson(added)
        return counts.astype(float), x * kept + added


class EffectRule(Baseline):
    r"""A rule that takes its prediction from the table of measured effects.

    It is tried on rows of that table, each predicted from what a smaller table holds. With r_i the residuals
    of those trials and v_i the sampling variances of the rows,

        rho_ig = r_ig sqrt(max(0, 1 - mean_i v_ig / mean_i r_ig^2))

    is what is left of a residual without the noise of the row that it was measured on; a row's own perturbed
    gene does not count. A rule that cannot be tried has the sampling variance of what it sums up,
    ``n mean_i v_i`` for a schedule of n tokens.

    Args:
        data: Measured cells from which the rule takes its effects.

    Raises:
        DataError: The data has no effect to measure.
    """

    def __init__(self, data: Trajectories) -> None:
        super().__init__(data)
        self.table = EffectTable.of(data)
        self._residuals: dict[tuple[float, int], np.ndarray] = {}

    @abstractmethod
    def rule(self, table: EffectTable, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The prediction from a table."""

    @abstractmethod
    def trials(self, schedule: Schedule, time: float) -> Iterator[tuple[int, EffectTable]]:
        """Rows to try the rule on, each with the smaller table to predict it from."""

    def delta(self, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """The rule on the whole table."""
        return self.rule(self.table, schedule, time)

    def residuals(self, schedule: Schedule, time: float) -> Float[np.ndarray, "residual gene"]:
        """The residuals of the trials, less the noise of the rows that they were measured on."""
        key = (time, len(schedule.doses))
        if key not in self._residuals:
            self._residuals[key] = self._tried(schedule, time)
        return self._residuals[key]

    def _tried(self, schedule: Schedule, time: float) -> Float[np.ndarray, "residual gene"]:
        table = self.table
        tried = [
            (i, table.delta[i] - self.rule(smaller, table.schedules[i], float(table.times[i])))
            for i, smaller in self.trials(schedule, time)
        ]
        return left_over(table, tried, len(schedule.doses))


class AcrossPerturbations(EffectRule):
    """A rule from perturbation to perturbation, tried by leaving one out at the same time.

    The trials are on the training perturbations of as many tokens as the one to predict, where there are two
    or more, and otherwise on all.
    """

    def trials(self, schedule: Schedule, time: float) -> Iterator[tuple[int, EffectTable]]:
        """Each row of the time, predicted without its perturbation."""
        at = self.table.at(time)
        now = np.flatnonzero(self.table.times == at.times[0]) if at.n_rows else np.zeros(0, dtype=int)
        for i in self.alike(now, len(schedule.doses)):
            smaller = self.table.without(self.table.labels[i])
            if smaller.at(time).n_rows:
                yield int(i), smaller

    def alike(self, rows: np.ndarray, order: int) -> np.ndarray:
        """The rows to try a rule on that is asked for a schedule of so many tokens."""
        same = rows[self.table.orders[rows] == order]
        return same if len(same) > 1 else rows


@final
class NoChange(AcrossPerturbations):
    """``delta = 0``; its residuals are the measured effects."""

    name = "no change"

    def rule(self, table: EffectTable, schedule: Schedule, time: float) -> Float[np.ndarray, " gene"]:
        """Zero."""
        return np.zeros(self.schema.n_genes)


def independent(variance: Float[np.ndarray, " gene"]) -> Float[np.ndarray, "residual gene"]:
    """Residuals with these variances and no covariance between genes: one a gene.

    Example:
        >>> independent(np.array([2.0, 8.0])).tolist()
        [[2.0, 0.0], [0.0, 4.0]]
    """
    return np.diag(np.sqrt(len(variance) * variance))


def left_over(
    table: EffectTable, tried: Sequence[tuple[int, np.ndarray]], order: int
) -> Float[np.ndarray, "residual gene"]:
    """Residuals of trials without the noise of the rows that they were measured on.

    Args:
        table: The measured effects.
        tried: Row of each trial, and the measured less the predicted effect.
        order: Number of tokens of what is predicted, whose sampling variance stands in where nothing was
            tried.
    """
    if not tried:
        return independent(max(order, 1) * table.variance.mean(0))
    rows = np.array([i for i, _ in tried])
    return without_noise(np.array([r for _, r in tried]), table.variance[rows], ~table.own[rows])


def without_noise(
    residuals: Float[np.ndarray, "residual gene"],
    variance: Float[np.ndarray, "residual gene"],
    counts: np.ndarray,
) -> Float[np.ndarray, "residual gene"]:
    """Residuals shrunk gene by gene, so that their mean square is what exceeds their sampling variance.

    Args:
        residuals: Measured less predicted effects.
        variance: Sampling variance of the measured ones.
        counts: Which entries count.

    Example:
        >>> r = np.array([[2.0], [-2.0]])
        >>> without_noise(r, np.full((2, 1), 3.0), np.full((2, 1), True)).ravel().tolist()
        [1.0, -1.0]
    """
    n = np.maximum(counts.sum(0), 1)
    kept = np.where(counts, residuals, 0.0)
    square = (kept**2).sum(0) / n
    noise = np.where(counts, variance, 0.0).sum(0) / n
    share = np.divide(noise, square, out=np.ones_like(noise), where=square > 0)
    return np.asarray(kept * np.sqrt(len(residuals) / n * (1 - share).clip(min=0.0)))
