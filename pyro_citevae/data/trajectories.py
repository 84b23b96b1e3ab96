"""The data set: cells under schedules, observed once or several times; values stay as they are stored."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy import sparse

from pyro_citevae.arguments import Names, Number, Numbers, names, number, numbers
from pyro_citevae.data import screen_reading
from pyro_citevae.data.assembly import Screen, assembled
from pyro_citevae.data.batch import Batch
from pyro_citevae.data.columns import Columns, takes_columns
from pyro_citevae.data.doses import Doses
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.reading import Reading
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.slots import Slots
from pyro_citevae.data.sparse_rows import SparseRows
from pyro_citevae.data.splits import Criterion, Split, matching_rows
from pyro_citevae.data.stored_rows import StoredRows
from pyro_citevae.data.summary import Summary
from pyro_citevae.errors import CiteVAEWarning, DataError, few
from pyro_citevae.shown import Shown

if TYPE_CHECKING:
    pass

__all__ = ["Trajectories"]


@dataclass(frozen=True, eq=False, repr=False)
class Trajectories(Shown):
    """A screen: cells under schedules, observed once or several times.

    Observations are rows sorted by cell and time. In a snapshot or an unpaired time course each cell has
    one row; in sequences it has one a time, and times may be missing.

    Attributes:
        schema: Names and sizes of the axes.
        values: Observed values of shape (observation, gene): a CSR matrix, or rows that stay in a file, or
            images, where a gene is a value of a pixel.
        library: Library size of each observation.
        row_cell: Cell of each observation, not decreasing.
        row_step: Latent step of each observation.
        conditions: The distinct schedules.
        condition: Index into ``conditions`` of each cell.
        technical: Index of each cell's technical batch.
        names: Name of each cell.
        context: Index of each cell's context; None for zeros.
        split: What was held out to make this data set, if anything was.
        obs: What the file says of each observation, if it was read from one.
        var: What it says of each gene.
        reading: What was read, if it was read.
    """

    schema: Schema
    values: sparse.csr_matrix | StoredRows
    library: Float[np.ndarray, " observation"]
    row_cell: Int[np.ndarray, " observation"]
    row_step: Int[np.ndarray, " observation"]
    conditions: tuple[Schedule, ...]
    condition: Int[np.ndarray, " cell"]
    technical: Int[np.ndarray, " cell"]
    names: np.ndarray
    context: Int[np.ndarray, " cell"] = None  # type: ignore[assignment]
    split: Split | None = None
    obs: pd.DataFrame | None = None
    var: pd.DataFrame | None = None
    reading: Reading | None = None

    def __post_init__(self) -> None:
        if self.context is None:
            object.__setattr__(self, "context", np.zeros(len(self.condition), dtype=np.int64))

    @classmethod
    @takes_columns
    def from_anndata(
        cls,
        adata: Any,
        *,
        step: Numbers | None = None,
        n_steps: Number = 3,
        time_unit: str | None = None,
        values: str = "counts",
        schema: Schema | None = None,
        new_batches: str = "refuse",
        expected: Mapping[str, float] | None = None,
        **columns: Any,
    ) -> Trajectories:
        """Reads an AnnData of integer counts, checks it, and keeps it sparse.

        :meth:`summary` says what was read. What a reader should know beyond that is a warning.

        Args:
            adata: Cells x genes; a backed or a lazy one is read into memory.
            step: Length of a latent step in the unit of time; None for the times' common divisor. For steps
                of unequal length ``"observed"``, which ends one at each observed time, or the times at which
                they end. After the last of these, steps have the length of the times' common divisor.
            n_steps: Number of latent steps of a snapshot.
            time_unit: Name of the unit of time; None for what the times say, or ``adata.uns["time_unit"]``.
            values: ``"counts"``, or ``"real"`` for values with a Gaussian emission.
            schema: Genes, tokens and grid of an earlier data set, to which this one is fitted.
            new_batches: With a schema, what becomes of batches that it does not have: ``"refuse"``, or
                ``"spread"`` to deal their cells to the known batches in turn.
            expected: With a schema, the share of the counts that each of its genes is expected to hold: genes
                that are missing get drawn counts. None to refuse; see :meth:`Posterior.read`.
            **columns: Where the AnnData keeps what a screen needs, by the names of
                :class:`~pyro_citevae.data.Columns`: ``perturbation``, ``control``, ``separator``, ``dose``,
                ``time``, ``genes``, ``layer``, ``library``, ``batch``, ``context``, ``sequence``,
                ``exclude``, ``candidates``, ``layout``, ``most_genes``.

        Returns:
            The data set.

        Raises:
            DataError: A column is missing, a value is no count, there is no control, a gene or cell
                appears twice, a time is not a number, a schema's gene is missing, or a candidate is no name.

        Example:
            >>> from pyro_citevae import datasets
            >>> data = Trajectories.from_anndata(datasets.renge(), time="time")
            >>> data.n_cells, data.schema.design, data.schema.n_steps
            (14945, 'time course', 5)
        """
        named = Columns.of("Trajectories.from_anndata", columns)
        grid: dict[str, Any] = {"step": step, "n_steps": n_steps, "time_unit": time_unit}
        fitted: dict[str, Any] = {"schema": schema, "new_batches": new_batches, "expected": expected}
        return cls._told(screen_reading.read(adata, named, **grid, values=values, **fitted))

    @classmethod
    @takes_columns
    def from_disk(
        cls,
        path: str | Path,
        *,
        progress: bool = True,
        step: Numbers | None = None,
        n_steps: Number = 3,
        time_unit: str | None = None,
        values: str = "counts",
        schema: Schema | None = None,
        new_batches: str = "refuse",
        **columns: Any,
    ) -> Trajectories:
        """Reads a screen whose counts stay in their file, for data that are larger than memory.

        Labels are read; counts are checked once, and then read a block at a time whenever they are used.
        :func:`~pyro_citevae.fit` shuffles them by blocks. Rows of one block lie side by side in the file, so
        write the file in a random order of cells if you can.

        Args:
            path: An h5ad file or a zarr folder as AnnData writes it, with counts as CSR or dense.
            progress: Whether to show how far the check is.
            step: As for :meth:`from_anndata`.
            n_steps: As for :meth:`from_anndata`.
            time_unit: As for :meth:`from_anndata`.
            values: As for :meth:`from_anndata`.
            schema: As for :meth:`from_anndata`.
            new_batches: As for :meth:`from_anndata`.
            **columns: As for :meth:`from_anndata`. ``most_genes`` looks at 20,000 controls at most.

        Raises:
            DataError: As for :meth:`from_anndata`; or the file is truncated, lacks an array, or stores its
                counts by column.

        Example:
            >>> from importlib import resources
            >>> with resources.as_file(resources.files("pyro_citevae.data") / "files") as folder:
            ...     data = Trajectories.from_disk(folder / "renge_hipsc_timecourse.h5ad", time="time")
            >>> data.n_cells, type(data.values).__name__
            (14945, 'BackedCounts')
        """
        named = Columns.of("Trajectories.from_disk", columns)
        grid: dict[str, Any] = {"step": step, "n_steps": n_steps, "time_unit": time_unit}
        fitted: dict[str, Any] = {"schema": schema, "new_batches": new_batches}
        screen = screen_reading.read_from_disk(
            path, named, progress=progress, **grid, values=values, **fitted
        )
        return cls._told(screen)

    @classmethod
    def _told(cls, screen: Screen) -> Trajectories:
        """Assembles what was read, and warns of what is doubtful."""
        for doubt in screen.reading.doubts:
            warnings.warn(doubt, CiteVAEWarning, stacklevel=3)
        return cls.of(screen)

    @classmethod
    def of(cls, screen: Screen) -> Trajectories:
        """Assembles what was read, sorted by cell and time.

        Args:
            screen: The parts of a screen.

        Raises:
            DataError: As for :func:`~pyro_citevae.data.assembly.assembled`.
        """
        return cls(**assembled(screen))

    def summary(self) -> Summary:
        """What was read: columns, cells, genes, controls, perturbations, times, batches, and doubts.

        Example:
            >>> from pyro_citevae import datasets
            >>> datasets.load("renge").summary().content["n_perturbations"]
            23
        """
        return Summary.of(self)

    @cached_property
    def stored(self) -> StoredRows:
        """The values by the one protocol of all of their kinds."""
        return self.values if isinstance(self.values, StoredRows) else SparseRows(self.values)

    @property
    def n_cells(self) -> int:
        """Number of cells (trajectories)."""
        return len(self.condition)

    @property
    def n_observations(self) -> int:
        """Number of observed rows."""
        return len(self.row_cell)

    @cached_property
    def labels(self) -> np.ndarray:
        """Label of each cell's schedule."""
        names = np.array([one.label(self.schema.control) for one in self.conditions], dtype=object)
        return names[self.condition]

    @cached_property
    def row_labels(self) -> np.ndarray:
        """Label of each observation's schedule."""
        return self.labels[self.row_cell]

    @cached_property
    def row_times(self) -> Float[np.ndarray, " observation"]:
        """Time of each observation, in the schema's unit."""
        return self.schema.ends(int(self.row_step.max(initial=0)))[self.row_step]

    def perturbations(self) -> tuple[str, ...]:
        """Labels present, the control left out, sorted."""
        return tuple(sorted(set(self.labels.tolist()) - {self.schema.control}))

    @property
    def seen(self) -> Bool[np.ndarray, " token"]:
        """Which tokens act on any of the cells."""
        present = {token for i in np.unique(self.condition) for token in self.conditions[i].tokens}
        return np.isin(np.array(self.schema.tokens), list(present))

    def select(
        self, perturbation: str | None = None, time: Number | None = None, context: str | None = None
    ) -> Trajectories:
        """The observations of one label, time or context; members of a label come in any order."""
        rows = np.ones(self.n_observations, dtype=bool)
        if perturbation is not None:
            rows &= self.row_labels == self.schema.label(perturbation)
        if time is not None:
            rows &= self.row_step == self.schema.step_of(number(time, "Trajectories.select(time=...)"))
        if context is not None:
            rows &= self.context[self.row_cell] == self.schema.context_of(context)
        return self.rows(rows)

    def controls(self) -> Trajectories:
        """The unperturbed cells.

        Raises:
            DataError: There is none.
        """
        chosen = self.select(self.schema.control)
        if chosen.n_cells == 0:
            raise DataError(
                f"no control cell: nothing is labelled '{self.schema.control}'; name the label of the "
                "unperturbed cells with control=, or keep them in this part of the split."
            )
        return chosen

    def rows(self, chosen: Bool[np.ndarray, " observation"]) -> Trajectories:
        """The chosen observations, and the cells that still have one."""
        kept, row_cell = np.unique(self.row_cell[chosen], return_inverse=True)
        return replace(
            self,
            values=self.values[np.flatnonzero(chosen)],
            library=self.library[chosen],
            row_cell=row_cell.astype(np.int64),
            row_step=self.row_step[chosen],
            condition=self.condition[kept],
            technical=self.technical[kept],
            context=self.context[kept],
            names=self.names[kept],
            obs=None if self.obs is None else self.obs.iloc[np.flatnonzero(chosen)],
        )

    def cells(self, index: Int[np.ndarray, " chosen"]) -> Trajectories:
        """The cells at sorted, distinct positions, with all their observations."""
        return self.rows(np.isin(self.row_cell, index))

    def thinned(self, most: int) -> Trajectories:
        """At most so many cells, evenly spread."""
        return self.cells(np.unique(np.linspace(0, self.n_cells - 1, min(most, self.n_cells)).astype(int)))

    def hold_out(
        self,
        *,
        perturbations: Names = (),
        combinations: Names = (),
        times: Numbers = (),
        contexts: Names = (),
    ) -> tuple[Trajectories, Trajectories]:
        """Splits into training and held-out data.

        Args:
            perturbations: Tokens whose every cell is held out, their combinations included; a text is one.
            combinations: Exact combinations, such as ``"A+B"``, that are held out, members in any order.
            times: Times that are held out, of these perturbations and combinations if any are named, else
                of every cell, the controls included.
            contexts: Contexts whose perturbed cells are held out, of these perturbations, combinations and
                times if any are named; their controls stay in training.

        Returns:
            Training and held-out data; both carry the :class:`Split`.

        Raises:
            DataError: A name or a time is not in the data, or one side would be empty.
        """
        said = "Trajectories.hold_out"
        tokens = names(perturbations, f"{said}(perturbations=...)")
        pairs = names(combinations, f"{said}(combinations=...)")
        at = tuple(numbers(times, f"{said}(times=...)"))
        where = names(contexts, f"{said}(contexts=...)")
        return self.divide(Split((Criterion(tokens, pairs, at, where),)))

    def divide(self, split: Split) -> tuple[Trajectories, Trajectories]:
        """Splits into training and held-out data as a :class:`Split` says."""
        held_out = np.zeros(self.n_observations, dtype=bool)
        for criterion in split.criteria:
            held_out |= matching_rows(self, criterion)
        if not held_out.any() or held_out.all():
            raise DataError(
                f"holding out {split} leaves {'no' if held_out.all() else 'every'} observation for training; "
                "name a part of the data."
            )
        rows = zip(self.names[self.row_cell[held_out]], self.row_step[held_out], strict=True)
        named = replace(split, digest=Split.hash_of(split.criteria, [f"{name}@{t}" for name, t in rows]))
        return replace(self.rows(~held_out), split=named), replace(self.rows(held_out), split=named)

    def batch(self, index: Int[np.ndarray, " cell"] | None = None, values: StoredRows | None = None) -> Batch:
        """The minibatch of the cells at these positions; all of them if None.

        Args:
            index: Positions of the cells.
            values: The values of their observations, slot by slot, if they were read already.
        """
        cells = np.arange(self.n_cells) if index is None else np.asarray(index)
        rows = self.slots.rows(cells)
        return self.slots.batch(cells, rows, self.stored[rows[rows >= 0]] if values is None else values)

    def held(self, cells: Int[np.ndarray, " read"]) -> Callable[[Int[np.ndarray, " cell"]], Batch]:
        """Reads the values of some cells together; what is returned makes minibatches of them."""
        observed = self.slots.rows(cells)
        wanted = np.unique(observed[observed >= 0])
        read = self.stored[wanted].in_memory()

        def batch(chosen: Int[np.ndarray, " cell"]) -> Batch:
            rows = self.slots.rows(chosen)
            return self.slots.batch(chosen, rows, read[np.searchsorted(wanted, rows[rows >= 0])])

        return batch

    @property
    def place(self) -> Int[np.ndarray, " cell"]:
        """Where the first observation of each cell lies in the data's file; in memory, if there is none."""
        return np.asarray(self.stored.place[np.searchsorted(self.row_cell, np.arange(self.n_cells))])

    def chunks(self, size: int) -> Iterator[Batch]:
        """All cells in minibatches of consecutive ones, so many at most."""
        for first in range(0, self.n_cells, size):
            yield self.batch(np.arange(first, min(first + size, self.n_cells)))

    def doses(self, cells: Int[np.ndarray, " cell"]) -> Doses:
        """Dose of every token in each step, of the cells at these positions; no value is read."""
        return self.slots.doses(cells)

    @cached_property
    def slots(self) -> Slots:
        """Where the observations of each cell stand in a minibatch."""
        return Slots(self)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the schema, the observations and their labels."""
        digest = hashlib.sha256(self.schema.digest.encode())
        for array in chain(self.stored.arrays(), (self.library, self.row_cell)):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(np.ascontiguousarray(self.row_step).tobytes())
        digest.update(np.ascontiguousarray(self.technical).tobytes())
        if self.schema.contexts:
            digest.update(np.ascontiguousarray(self.context).tobytes())
        digest.update("\n".join(map(str, self.row_labels)).encode())
        digest.update("\n".join(map(str, self.names)).encode())
        return digest.hexdigest()

    def facts(self) -> dict[str, str]:
        """Sizes and design; :meth:`summary` says more."""
        perturbed, several = self.perturbations(), self.n_observations != self.n_cells
        return {
            "cells": f"{self.n_cells:,}",
            **({"observations": f"{self.n_observations:,}"} if several else {}),
            "genes": f"{self.schema.n_genes:,}",
            "design": self.schema.design,
            "perturbations": f"{len(perturbed):,}: {few(perturbed) or 'none'}",
            "times": f"{few([f'{time:g}' for time in self.schema.times], 6)} {self.schema.time_unit}",
            **({} if self.split is None else {"held out": str(self.split)}),
        }
