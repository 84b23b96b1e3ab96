"""Slots: where the observations of a cell stand in a minibatch, one for each time that it may be seen at."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import numpy as np
import torch
from jaxtyping import Int

from pyro_citevae.data.batch import Batch
from pyro_citevae.data.doses import Doses
from pyro_citevae.data.stored_rows import StoredRows

if TYPE_CHECKING:
    from pyro_citevae.data.trajectories import Trajectories

__all__ = ["Slots"]


@final
class Slots:
    """The slots of a data set's cells: one, or in sequences one a time.

    Args:
        data: The cells.

    Attributes:
        steps: Step that each slot stands for where nothing is observed in it.
        doses_of_conditions: Doses of a cell under each condition.
    """

    def __init__(self, data: Trajectories) -> None:
        self.data, schema = data, data.schema
        self.last = int(data.row_step.max(initial=1))
        self.steps: Int[np.ndarray, " slot"] = np.zeros(1, dtype=np.int64)
        slot = np.zeros(data.n_observations, dtype=np.int64)
        if schema.design == "sequences":
            steps = np.array([schema.step_of(time) for time in schema.times])
            self.steps = np.minimum(steps, self.last)
            slot = np.searchsorted(steps, data.row_step)
        self._rows = np.full((data.n_cells, schema.n_slots), -1, dtype=np.int64)
        self._rows[data.row_cell, slot] = np.arange(data.n_observations)
        self.doses_of_conditions = Doses.each(schema.doses(one, self.last) for one in data.conditions)

    def rows(self, cells: Int[np.ndarray, " cell"]) -> Int[np.ndarray, "slot cell"]:
        """Row of each cell's observation in each slot, or -1."""
        return self._rows[cells].T

    def doses(self, cells: Int[np.ndarray, " cell"]) -> Doses:
        """Dose of every token in each step, from step 0 to the last observed one."""
        return self.doses_of_conditions.cells(torch.from_numpy(self.data.condition[cells]))

    def batch(
        self, cells: Int[np.ndarray, " cell"], rows: Int[np.ndarray, "slot cell"], values: StoredRows
    ) -> Batch:
        """The minibatch of these cells, whose observations are these rows with these values."""
        data, observed = self.data, rows >= 0
        steps = np.where(observed, data.row_step[rows], self.steps[:, None])
        library = np.where(observed, data.library[rows], data.schema.total)
        return Batch(
            size=data.n_cells,
            index=torch.as_tensor(cells, dtype=torch.int64),
            u=self.doses(cells),
            step=torch.from_numpy(steps),
            observed=torch.from_numpy(observed),
            library=torch.from_numpy(library.astype(np.float32)),
            technical=torch.from_numpy(data.technical[cells]),
            context=torch.from_numpy(data.context[cells]) if data.schema.contexts else None,
            x=values.observations(np.flatnonzero(observed), (*rows.shape, data.schema.n_genes)),
        )
