"""Another tool's predicted cells, asked as a posterior is, so that they are scored as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, cast, final

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import sparse

from pyro_citevae.analysis.scoring.cells import on_measured_genes
from pyro_citevae.arguments import Names, names
from pyro_citevae.data.anndata_io import predictions
from pyro_citevae.data.interventions import Schedule, do
from pyro_citevae.data.pseudobulk import profile
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError
from pyro_citevae.infer.asked import require_controls, schedules_of, times_of
from pyro_citevae.infer.effect import Effect

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["CellsPredictor"]

_KINDS = ("counts", "log1p")


@final
class CellsPredictor:
    r"""What another tool predicts, from the cells that it wrote: scored as every other predictor is.

    ::

        delta = b(its cells) - b(controls),    b = log(1 + total * sum_n w_n x_ng / sum_ng w_n x_ng)

    on the scale of :func:`~pyro_citevae.analysis.measure`. Counts are summed as they are, ``w_n = 1``. Values
    ``log(1 + c x_g / sum_g x_g)`` have lost their depth, whatever c was: then each cell has the same weight,
    on both sides, ``w_n = 1 / sum_g x_ng``, and a value below zero is none.

    Controls are the cells that the tool predicts under the control's label at a time, and in a context, where
    it does; else training's own. At a time of which training has none they are those of the last time before,
    as they are for a tool that knows no time.

    Args:
        predicted: Cells x genes. ``obs`` has ``perturbation``, members in any order; ``context`` where the
            data name some; ``time``, without which all cells are of the last time of the data; and ``draw``
            where it holds several draws of the cells, each of them whole. Without it there is one draw, and
            no interval.
        train: The training cells.
        name: Name in the tables.
        values: ``"counts"``, integers or expected ones, or ``"log1p"``. Real data are taken as they are.

    Raises:
        DataError: A column is missing, a measured gene was not predicted, a value is no number, or values
            are of no known kind.

    Example:
        >>> import pyro_citevae as cv
        >>> from anndata import AnnData
        >>> data = cv.simulate(n_cells=300, n_genes=8, n_perturbations=2, design="snapshot").data
        >>> some = data.select("gene_1")
        >>> obs = pd.DataFrame({"perturbation": ["gene_1"] * some.n_cells}, index=some.names)
        >>> cells = AnnData(some.values, obs=obs, var=pd.DataFrame(index=list(data.schema.genes)))
        >>> effect = CellsPredictor(cells, data).effect("gene_1")
        >>> measured = cv.analysis.measure(data, "gene_1", data.schema.times[-1])
        >>> bool(np.allclose(effect.values.ravel(), measured.delta)), effect.sizes["draw"]
        (True, 1)
    """

    def __init__(
        self,
        predicted: AnnData,
        train: Trajectories,
        *,
        name: str = "cells",
        values: Literal["counts", "log1p"] = "counts",
    ) -> None:
        if values not in _KINDS:
            raise DataError(f"CellsPredictor(values={values!r}) is neither 'counts' nor 'log1p'.")
        self.train, self.name = train, name
        self._alike = values == "log1p"  # each cell has the same weight
        self._obs = _read(cast(pd.DataFrame, predicted.obs), train.schema)
        x = sparse.csr_matrix(on_measured_genes(predicted, train.schema).X, dtype=float, copy=True)
        if not np.isfinite(x.data).all():
            raise DataError(
                "CellsPredictor(predicted) holds values that are no numbers; leave out their cells."
            )
        if train.schema.values == "counts":
            x.data = np.maximum(np.expm1(x.data) if self._alike else x.data, 0.0)
        self._x = x

    @property
    def schema(self) -> Schema:
        """Names and sizes of the axes."""
        return self.train.schema

    @property
    def n_draws(self) -> int:
        """Draws of the cells; with one there is no interval."""
        return int(self._obs["draw"].nunique())

    def effect(
        self,
        schedules: Schedule | str | Sequence[Schedule | str],
        versus: Schedule | None = None,
        *,
        cells: Trajectories | None = None,
        draws: int = 200,
        time: float | Sequence[float] | None = None,
        seed: int = 0,
        context: Names | None = None,
    ) -> Effect:
        """The effects in the predicted cells, a draw for each of theirs.

        Args:
            schedules: One ``do(...)`` or several, or labels such as ``"A+B"``.
            versus: Reference schedule; None for ``do()``.
            cells: Not used: the cells are those that were predicted.
            draws: Not used: the draws are those that were predicted.
            time: Time or times, in the data's unit; None for the last one of the data.
            seed: Not used.
            context: Contexts to give the effect in; None for the cells of all of them together.

        Returns:
            Dims (chain, draw, perturbation, time, gene), on the natural log scale. Where contexts are named,
            (chain, draw, context, perturbation, time, gene).

        Raises:
            DataError: A schedule was not predicted at a time or in a context, there are no controls to take
                the effect against, or a time is off the grid.
        """
        wanted, times = schedules_of(schedules, self.schema), times_of(time, self.schema)
        reference = do() if versus is None else versus
        asked = [None] if context is None else names(context, "effect(context=...)")
        found = []
        for where in asked:
            levels = np.array([[self._levels(one, at, where) for at in times] for one in wanted])
            less = np.array([self._levels(reference, at, where) for at in times])
            values = np.moveaxis(levels - less, 2, 0)[None]
            found.append(Effect.of(values, wanted, times, self.schema, reference))
        return found[0] if context is None else Effect.in_contexts(found, [str(one) for one in asked])

    def predict(
        self,
        schedules: Schedule | str | Sequence[Schedule | str],
        *,
        cells: Trajectories,
        draws: int = 100,
        time: float | Sequence[float] | None = None,
        seed: int = 0,
    ) -> AnnData:
        """The predicted cells as integer counts, and the given control cells themselves under ``do()``.

        A value c between integers becomes ``floor(c)`` or the next, so that it is c in expectation. Cells
        without a depth of their own take that of the control cells by turns.

        Args:
            schedules: One ``do(...)`` or several, or labels such as ``"A+B"``.
            cells: Control cells: of their contexts the predicted cells are, and as many, at most.
            draws: Not used: cells of all draws are among them.
            time: Time or times, in the data's unit; None for the last one of the data.
            seed: Seed of the rounding.

        Returns:
            A row a cell, with ``perturbation``, ``time`` and, where the data name some, ``context``.

        Raises:
            DataError: A cell was perturbed, a schedule was not predicted, or a time is off the grid.
        """
        require_controls(cells, self.schema)
        wanted, times = schedules_of(schedules, self.schema), times_of(time, self.schema)
        rng = np.random.default_rng(seed)
        depth = np.asarray(cells.stored.sum(1), dtype=float).ravel()
        parts, frames = [], []
        for one in wanted:
            for at in times:
                x, contexts = self._given(cells) if one == do() else self._made(one, at, cells, depth, rng)
                label = one.label(self.schema.control)
                frames.append(pd.DataFrame({"perturbation": label, "time": at, "context": contexts}))
                parts.append(x)
        table = pd.concat(frames, ignore_index=True)
        columns = ["perturbation", "time", *(["context"] if self.schema.contexts else [])]
        obs = {column: table[column].to_numpy() for column in columns}
        joined = sparse.vstack(parts).tocsr().astype(np.float32)
        return predictions(joined, {}, obs, self.schema.genes, {"time_unit": self.schema.time_unit})

    def _given(self, cells: Trajectories) -> tuple[sparse.csr_matrix, np.ndarray]:
        return cells.stored.tocsr(), _contexts(cells)

    def _made(
        self,
        schedule: Schedule,
        time: float,
        cells: Trajectories,
        depth: Float[np.ndarray, " control"],
        rng: np.random.Generator,
    ) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Counts of the predicted cells in the contexts of some controls, and the contexts."""
        rows = self._rows(schedule, time, None) & np.isin(self._obs["context"], np.unique(_contexts(cells)))
        chosen = np.flatnonzero(rows)
        if not len(chosen):
            raise self._lacking(schedule, time, None)
        spread = np.linspace(0, len(chosen) - 1, min(len(chosen), cells.n_observations))
        chosen = chosen[np.unique(spread.astype(int))]
        x = sparse.csr_matrix(self._x[chosen])
        if self.schema.values == "counts":
            if self._alike:
                x = sparse.csr_matrix(sparse.diags(np.resize(depth, len(chosen))) @ _to_one(x))
            x.data = np.floor(x.data + rng.random(len(x.data)))
            x.eliminate_zeros()
        return x, self._obs["context"].to_numpy()[chosen]

    def _levels(self, schedule: Schedule, time: float, context: str | None) -> Float[np.ndarray, "draw gene"]:
        """Profiles of each draw of the predicted cells; of the controls where none were predicted."""
        rows, draws = self._rows(schedule, time, context), np.unique(self._obs["draw"])
        if schedule == do() and not rows.any():
            return np.broadcast_to(self._controls(time, context), (len(draws), self.schema.n_genes))
        found = []
        for draw in draws:
            chosen = np.flatnonzero(rows & (self._obs["draw"] == draw).to_numpy())
            if not len(chosen):
                raise self._lacking(schedule, time, context)
            found.append(self._level(sparse.csr_matrix(self._x[chosen])))
        return np.array(found)

    def _controls(self, time: float, context: str | None) -> Float[np.ndarray, " gene"]:
        """The profile of training's controls of a time, or of the last time before that has some."""
        controls = self.train.select(self.schema.control, context=context)
        earlier = controls.row_times[controls.row_times <= time]
        if not len(earlier):
            where = "" if context is None else f" in '{context}'"
            raise DataError(
                f"'{self.name}' has no controls up to {time:g}{where} to take an effect against; predict "
                f"cells of '{self.schema.control}' too, or keep controls in training."
            )
        return self._level(controls.select(time=float(earlier.max())).stored.tocsr())

    def _level(self, x: sparse.csr_matrix) -> Float[np.ndarray, " gene"]:
        """The profile of some cells."""
        if self.schema.values == "real":
            return np.asarray(x.mean(0)).ravel()
        sums = np.asarray((_to_one(x) if self._alike else x).sum(0), dtype=float).ravel()
        return profile(sums, self.schema.panel_total)

    def _rows(self, schedule: Schedule, time: float, context: str | None) -> Bool[np.ndarray, " cell"]:
        """Which of the predicted cells these are."""
        rows = self._obs["perturbation"] == schedule.label(self.schema.control)
        rows = rows & np.isclose(self._obs["time"], time)
        if context is not None:
            rows = rows & (self._obs["context"] == self.schema.contexts[self.schema.context_of(context)])
        return np.asarray(rows)

    def _lacking(self, schedule: Schedule, time: float, context: str | None) -> DataError:
        where = "" if context is None else f" in '{context}'"
        label = schedule.label(self.schema.control)
        return DataError(
            f"'{self.name}' predicts no cell of '{label}' at {time:g}{where}, or not in each draw; have the "
            "tool predict it."
        )


def _read(obs: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """Labels, times, contexts and draws of predicted cells, as the data have them.

    Raises:
        DataError: A column is missing.
    """
    needed = ["perturbation", *(["context"] if schema.contexts else [])]
    for column in needed:
        if column not in obs:
            raise DataError(
                f"CellsPredictor(predicted) lacks the column '{column}' of obs; write it beside the cells."
            )
    written = obs["perturbation"].astype(str)
    known = {one: schema.label(one) for one in written.unique()}
    return pd.DataFrame(
        {
            "perturbation": written.map(known).to_numpy(),
            "time": (obs["time"] if "time" in obs else pd.Series(schema.times[-1], obs.index)).to_numpy(
                float
            ),
            "context": (
                obs["context"].astype(str) if schema.contexts else pd.Series("", obs.index)
            ).to_numpy(),
            "draw": (obs["draw"] if "draw" in obs else pd.Series(0, obs.index)).to_numpy(),
        }
    )


def _contexts(cells: Trajectories) -> np.ndarray:
    """The name of each observation's context; empty where the data name none."""
    if not cells.schema.contexts:
        return np.full(cells.n_observations, "", dtype=object)
    return np.array(cells.schema.contexts, dtype=object)[cells.context[cells.row_cell]]


def _to_one(x: sparse.csr_matrix) -> sparse.csr_matrix:
    """Rows that sum to one; a row of zeros stays."""
    depth = np.asarray(x.sum(1), dtype=float).ravel()
    return sparse.csr_matrix(
        sparse.diags(np.divide(1.0, depth, out=np.zeros_like(depth), where=depth > 0)) @ x
    )
