"""The data set (Trajectories) and one minibatch of it (Batch); values stay as they are stored in both."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import sparse
from torch import Tensor

from pyro_citevae.data.backed import BackedCounts
from pyro_citevae.data.interventions import Dose, Schedule
from pyro_citevae.data.layouts import Columns
from pyro_citevae.data.observations import Observations, Stored, arrays_of, observations_of
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.splits import Criterion, Split
from pyro_citevae.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Batch", "Trajectories"]


@dataclass(frozen=True)
class Batch:
    """What a program sees of a minibatch of cells.

    Attributes:
        size: Number N of cells in the data set that the minibatch stands for.
        index: Position of each cell in the data set.
        u: Dose of every token in the step that ends at t; row 0 is zero.
        step: Latent step of each observation slot.
        observed: Which slots hold an observation.
        library: Library size of each slot (any positive number where nothing is observed).
        technical: Index of each cell's technical batch.
        x: Observed values, or None when the program only predicts.
        weight: What each cell's terms count in the bound; None for one each.
    """

    size: int
    index: Int[Tensor, " cell"]
    u: Float[Tensor, "step cell token"]
    step: Int[Tensor, "slot cell"]
    observed: Bool[Tensor, "slot cell"]
    library: Float[Tensor, "slot cell"]
    technical: Int[Tensor, " cell"]
    x: Observations | None
    weight: Float[Tensor, " cell"] | None = None

    @property
    def n_cells(self) -> int:
        """Number of cells in the minibatch."""
        return self.index.shape[0]

    @property
    def n_steps(self) -> int:
        """Number of latent steps to walk."""
        return self.u.shape[0] - 1

    @cached_property
    def last(self) -> Int[Tensor, " cell"]:
        """Step of each cell's last observation; 0 for a cell without one."""
        return torch.where(self.observed, self.step, 0).amax(0)

    def reached(self, t: int) -> Bool[Tensor, " cell"]:
        """Which cells have an observation at step t or later."""
        return self.last >= t

    @cached_property
    def exposure(self) -> Float[Tensor, "slot cell token"]:
        """Dose summed over the steps up to each observation: dose times time, in steps."""
        cells = torch.arange(self.n_cells, device=self.step.device)
        return self.u.cumsum(0)[self.step, cells]

    def unobserved(self) -> Batch:
        """The same cells with nothing to condition on: what prediction runs the program on."""
        return replace(self, x=None, observed=torch.zeros_like(self.observed))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Copies to a device."""
        x = None if self.x is None else self.x.to(device, non_blocking)
        return self._mapped(lambda one: one.to(device, non_blocking=non_blocking), x)

    def pin_memory(self) -> Batch:
        """Copies to memory that a GPU can read while the CPU goes on."""
        return self._mapped(Tensor.pin_memory, None if self.x is None else self.x.pin_memory())

    def _mapped(self, copy: Callable[[Tensor], Tensor], x: Observations | None) -> Batch:
        names = ("index", "u", "step", "observed", "library", "technical")
        copies: dict[str, Any] = {name: copy(getattr(self, name)) for name in names}
        weight = None if self.weight is None else copy(self.weight)
        return Batch(size=self.size, x=x, weight=weight, **copies)


@dataclass(frozen=True, eq=False)
class Trajectories:
    """A screen: cells under schedules, observed once or several times.

    Observations are rows sorted by cell and time. In a snapshot or an unpaired time course each cell has
    one row; in sequences it has one a time, and times may be missing.

    Attributes:
        schema: Names and sizes of the axes.
        values: Observed values of shape (observation, gene): CSR, or images, where a gene is a
            value of a pixel.
        library: Library size of each observation.
        row_cell: Cell of each observation, not decreasing.
        row_step: Latent step of each observation.
        conditions: The distinct schedules.
        condition: Index into ``conditions`` of each cell.
        technical: Index of each cell's technical batch.
        names: Name of each cell.
        split: What was held out to make this data set, if anything was.
    """

    schema: Schema
    values: Stored
    library: Float[np.ndarray, " observation"]
    row_cell: Int[np.ndarray, " observation"]
    row_step: Int[np.ndarray, " observation"]
    conditions: tuple[Schedule, ...]
    condition: Int[np.ndarray, " cell"]
    technical: Int[np.ndarray, " cell"]
    names: np.ndarray
    split: Split | None = None

    @classmethod
    def from_anndata(
        cls,
        adata: AnnData,
        *,
        perturbation: str | None = None,
        control: str | None = None,
        time: str | None = None,
        layer: str | None = None,
        library: str | None = None,
        batch: str | None = None,
        sequence: str | None = None,
        exclude: Sequence[str] = (),
        layout: str | None = None,
        most_genes: int | None = None,
        step: float | str | Sequence[float] | None = None,
        n_steps: int = 3,
        time_unit: str | None = None,
        values: str = "counts",
        candidates: Sequence[str] = (),
        schema: Schema | None = None,
    ) -> Trajectories:
        """Reads an AnnData of integer counts, checks it, and keeps it sparse.

        Args:
            adata: Cells x genes.
            perturbation: Column of ``obs`` with ``"A"``, ``"A+B"`` or ``"A+B@24"`` (B from time 24 on); None
                for ``"perturbation"``, or the column of a published layout.
            control: Label of the unperturbed cells in that column; None for ``"control"``, or the layout's.
            time: Column of ``obs`` with numeric times since the perturbation; None for a snapshot.
            layer: Layer that holds the counts; None for ``X``.
            library: Column of ``obs`` with library sizes; None for the sum over the genes given.
            batch: Column of ``obs`` with technical batches.
            sequence: Column of ``obs`` that says which rows are the same cell at several times.
            exclude: Labels whose cells are left out, such as ``"unassigned"``.
            layout: ``"plain"``, or a published layout that says what is not named here: ``"gears"``,
                ``"scperturb"``, ``"vcc"`` or ``"cpa"``, see :mod:`pyro_citevae.data.layouts`. None takes the
                one that the file is surely in, unless ``perturbation`` is named.
            most_genes: Number of genes to keep; None for all. Kept are the perturbed genes, and those whose
                counts vary most beyond Poisson among the controls: no perturbed cell has a say. Library sizes
                go on counting all genes.
            step: Length of a latent step in the unit of time; None for the times' common divisor. For steps
                of unequal length ``"observed"``, which ends one at each observed time, or the times at which
                they end. After the last of these, steps have the length of the times' common divisor.
            n_steps: Number of latent steps of a snapshot.
            time_unit: Name of the unit of time; None for ``adata.uns["time_unit"]`` if there is one.
            values: ``"counts"``, or ``"real"`` for values with a Gaussian emission.
            candidates: Perturbations without cells that a model shall predict; see :mod:`features`.
            schema: Genes, tokens and grid of an earlier data set, to which this one is fitted.

        Returns:
            The data set.

        Raises:
            DataError: A column is missing, a value is no count, there is no control, a gene or cell
                appears twice, a time is not a number, a schema's gene is missing, or a candidate is no name.

        Example:
            >>> from pyro_citevae import datasets
            >>> data = Trajectories.from_anndata(datasets.renge(), time="time")
            >>> data.n_cells, data.schema.layout, data.schema.n_steps
            (14945, 'time course', 5)
        """
        from pyro_citevae.data import anndata_io

        return anndata_io.read(
            adata,
            Columns(
                perturbation=perturbation,
                control=control,
                time=time,
                layer=layer,
                library=library,
                batch=batch,
                sequence=sequence,
                exclude=tuple(exclude),
                candidates=tuple(candidates),
                layout=layout,
                most_genes=most_genes,
            ),
            step=step,
            n_steps=n_steps,
            time_unit=time_unit,
            values=values,
            schema=schema,
        )

    @classmethod
    def from_disk(cls, path: str | Path, *, progress: bool = True, **reading: Any) -> Trajectories:
        """Reads a screen whose counts stay in their file, for data that are larger than memory.

        Labels are read; counts are checked once, and then read a block at a time whenever they are used.
        :func:`~pyro_citevae.fit` shuffles them by blocks. Rows of one block lie side by side in the file, so
        write the file in a random order of cells if you can.

        Args:
            path: An h5ad file or a zarr folder as AnnData writes it, with counts as CSR or dense.
            progress: Whether to show how far the check is.
            **reading: As for :meth:`from_anndata`. ``most_genes`` looks at 20,000 controls at most.

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
        from pyro_citevae.data import anndata_io

        names = {field.name for field in fields(Columns)}
        given = {name: reading[name] for name in names & reading.keys()}
        lists = {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
        columns = Columns(**{**given, **lists})
        options = {"step": None, "n_steps": 3, "time_unit": None, "values": "counts", "schema": None}
        rest = {name: value for name, value in reading.items() if name not in names}
        return anndata_io.read_from_disk(path, columns, progress=progress, **{**options, **rest})

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

    def select(self, perturbation: str | None = None, time: float | None = None) -> Trajectories:
        """The observations of one label, one time, or both."""
        rows = np.ones(self.n_observations, dtype=bool)
        if perturbation is not None:
            rows &= self.row_labels == perturbation
        if time is not None:
            rows &= self.row_step == self.schema.step_of(time)
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
            names=self.names[kept],
        )

    def cells(self, index: Int[np.ndarray, " chosen"]) -> Trajectories:
        """The cells at sorted, distinct positions, with all their observations."""
        return self.rows(np.isin(self.row_cell, index))

    def thinned(self, most: int) -> Trajectories:
        """At most so many cells, evenly spread."""
        shown = np.linspace(0, self.n_cells - 1, min(most, self.n_cells)).astype(int)
        return self.cells(np.unique(shown))

    def hold_out(
        self,
        *,
        perturbations: Sequence[str] = (),
        combinations: Sequence[str] = (),
        times: Sequence[float] = (),
    ) -> tuple[Trajectories, Trajectories]:
        """Splits into training and held-out data.

        Args:
            perturbations: Tokens whose every cell is held out, their combinations included.
            combinations: Exact combinations, such as ``"A+B"``, that are held out.
            times: Times that are held out, of these perturbations and combinations if any are named, else
                of every cell, the controls included.

        Returns:
            Training and held-out data; both carry the :class:`Split`.

        Raises:
            DataError: A name or a time is not in the data, or one side would be empty.
        """
        numbers = tuple(float(time) for time in times)
        return self.divide(Split((Criterion(tuple(perturbations), tuple(combinations), numbers),)))

    def divide(self, split: Split) -> tuple[Trajectories, Trajectories]:
        """Splits into training and held-out data as a :class:`Split` says."""
        held_out = np.zeros(self.n_observations, dtype=bool)
        for criterion in split.criteria:
            held_out |= self._matches(criterion)
        if not held_out.any() or held_out.all():
            raise DataError(
                f"holding out {split} leaves {'no' if held_out.all() else 'every'} observation for training; "
                "name a part of the data."
            )
        rows = zip(self.names[self.row_cell[held_out]], self.row_step[held_out], strict=True)
        named = replace(split, digest=Split.hash_of(split.criteria, [f"{name}@{t}" for name, t in rows]))
        return replace(self.rows(~held_out), split=named), replace(self.rows(held_out), split=named)

    def _matches(self, criterion: Criterion) -> Bool[np.ndarray, " observation"]:
        for token in criterion.perturbations:
            self.schema.require(Schedule((Dose(token),)))
        wanted = {Schedule.parse(name).tokens for name in criterion.combinations}
        present = {one.tokens for one in self.conditions}
        for tokens in wanted - present:
            raise DataError(f"combination '{'+'.join(tokens)}' is not in the data; name one that is.")
        chosen = np.array(
            [
                bool(set(one.tokens) & set(criterion.perturbations)) or one.tokens in wanted
                for one in self.conditions
            ]
        )
        rows = np.asarray(chosen[self.condition[self.row_cell]])
        if not criterion.times:
            return rows
        steps = np.array([self.schema.step_of(time) for time in criterion.times])
        missing = [time for time, t in zip(criterion.times, steps, strict=True) if t not in self.row_step]
        if missing:
            raise DataError(f"time {missing[0]:g} is not in the data; its times are {self.schema.times}.")
        at = np.isin(self.row_step, steps)
        return at & rows if criterion.perturbations or criterion.combinations else at

    @cached_property
    def _slot_rows(self) -> Int[np.ndarray, "cell slot"]:
        """Row of each cell's observation in each slot, or -1."""
        rows = np.full((self.n_cells, self.schema.n_slots), -1, dtype=np.int64)
        slot = np.zeros(self.n_observations, dtype=np.int64)
        if self.schema.layout == "sequences":
            steps = np.array([self.schema.step_of(time) for time in self.schema.times])
            slot = np.searchsorted(steps, self.row_step)
        rows[self.row_cell, slot] = np.arange(self.n_observations)
        return rows

    @cached_property
    def _dose_table(self) -> Float[np.ndarray, "condition step token"]:
        """Doses of the conditions, from step 0 to the last observed one."""
        last = int(self.row_step.max(initial=1))
        return np.stack([self.schema.doses(one, last) for one in self.conditions])

    def batch(
        self, index: Int[np.ndarray, " cell"] | None = None, values: sparse.csr_matrix | None = None
    ) -> Batch:
        """The minibatch of the cells at these positions; all of them if None.

        Args:
            index: Positions of the cells.
            values: The values of their observations, slot by slot, if they were read already.
        """
        cells = np.arange(self.n_cells) if index is None else np.asarray(index)
        rows = self._slot_rows[cells].T
        return self._batch(cells, rows, self.values[rows[rows >= 0]] if values is None else values)

    def held(self, cells: Int[np.ndarray, " read"]) -> Callable[[Int[np.ndarray, " cell"]], Batch]:
        """Reads the values of some cells together; what is returned makes minibatches of them."""
        observed = self._slot_rows[cells]
        wanted = np.unique(observed[observed >= 0])
        read: Any = self.values[wanted]
        read = read.in_memory() if isinstance(read, BackedCounts) else read

        def batch(chosen: Int[np.ndarray, " cell"]) -> Batch:
            rows = self._slot_rows[chosen].T
            return self._batch(chosen, rows, read[np.searchsorted(wanted, rows[rows >= 0])])

        return batch

    def _batch(
        self, cells: Int[np.ndarray, " cell"], rows: Int[np.ndarray, "slot cell"], values: Stored
    ) -> Batch:
        """The minibatch of these cells, whose observations are these rows with these values."""
        observed = rows >= 0
        steps = np.where(observed, self.row_step[rows], self._slot_steps[:, None])
        library = np.where(observed, self.library[rows], self.schema.total)
        return Batch(
            size=self.n_cells,
            index=torch.as_tensor(cells, dtype=torch.int64),
            u=self.doses(cells),
            step=torch.from_numpy(steps),
            observed=torch.from_numpy(observed),
            library=torch.from_numpy(library.astype(np.float32)),
            technical=torch.from_numpy(self.technical[cells]),
            x=observations_of(values, np.flatnonzero(observed), (*rows.shape, self.schema.n_genes)),
        )

    @property
    def place(self) -> Int[np.ndarray, " cell"]:
        """Where the first observation of each cell lies in the data's file; in memory, if there is none."""
        first = np.searchsorted(self.row_cell, np.arange(self.n_cells))
        return np.asarray(self.values.rows[first] if isinstance(self.values, BackedCounts) else first)

    def chunks(self, size: int) -> Iterator[Batch]:
        """All cells in minibatches of consecutive ones, so many at most."""
        for first in range(0, self.n_cells, size):
            yield self.batch(np.arange(first, min(first + size, self.n_cells)))

    def doses(self, cells: Int[np.ndarray, " cell"]) -> Float[Tensor, "step cell token"]:
        """Dose of every token in each step, of the cells at these positions; no value is read."""
        return torch.from_numpy(self._dose_table[self.condition[cells]].swapaxes(0, 1).copy())

    @cached_property
    def _slot_steps(self) -> Int[np.ndarray, " slot"]:
        """Step that a slot stands for when nothing is observed in it."""
        horizon = int(self.row_step.max(initial=1))
        if self.schema.layout != "sequences":
            return np.zeros(1, dtype=np.int64)
        return np.minimum([self.schema.step_of(time) for time in self.schema.times], horizon)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the schema, the observations and their labels."""
        digest = hashlib.sha256(self.schema.digest.encode())
        for array in chain(arrays_of(self.values), (self.library, self.row_cell)):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(np.ascontiguousarray(self.row_step).tobytes())
        digest.update(np.ascontiguousarray(self.technical).tobytes())
        digest.update("\n".join(map(str, self.row_labels)).encode())
        digest.update("\n".join(map(str, self.names)).encode())
        return digest.hexdigest()

    def __repr__(self) -> str:
        schema = self.schema
        return (
            f"Trajectories({self.n_cells} cells x {schema.n_genes} genes, {schema.layout}, "
            f"{len(self.perturbations())} perturbations, times {schema.times} {schema.time_unit})"
        )
