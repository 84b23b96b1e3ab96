"""Assembly: the parts of a screen, sorted by cell and time, as a data set keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.reading import Reading
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.stored_rows import StoredRows
from pyro_citevae.errors import DataError

__all__ = ["Screen", "assembled"]


@final
@dataclass(frozen=True)
class Screen:
    """The parts of a screen, an entry an observation in the order of the file.

    Attributes:
        schema: Names and sizes of the axes.
        values: Observed values of the schema's genes.
        library: Library size of each observation.
        schedules: What the distinct labels say; two may say the same.
        schedule: Which of these each observation's cell has.
        times: Time of each observation; None for a snapshot.
        batches: Technical batch of each observation.
        contexts: Context of each observation; None where the data name none.
        cells: Name of the cell of each observation.
        obs: What the AnnData says of each observation.
        var: What it says of each gene.
        reading: What was read.
    """

    schema: Schema
    values: StoredRows
    library: Float[np.ndarray, " observation"]
    schedules: list[Schedule]
    schedule: Int[np.ndarray, " observation"]
    times: Float[np.ndarray, " observation"] | None
    batches: np.ndarray
    contexts: np.ndarray | None
    cells: np.ndarray
    obs: pd.DataFrame
    var: pd.DataFrame
    reading: Reading

    @property
    def steps(self) -> Int[np.ndarray, " observation"]:
        """The latent step of each observation.

        Raises:
            DataError: A sequence was observed at a time that the schema does not have.
        """
        schema, times = self.schema, self.times
        if times is None:
            return np.full(self.values.shape[0], schema.n_steps)
        distinct, index = np.unique(times, return_inverse=True)
        steps = np.array([schema.step_of(time) for time in distinct])[index]
        absent = ~np.isin(steps, [schema.step_of(time) for time in schema.times])
        if schema.design == "sequences" and absent.any():
            raise DataError(
                f"time {times[absent][0]:g} is not among the known {schema.times}; drop those rows."
            )
        return steps


def assembled(screen: Screen) -> dict[str, Any]:
    """The attributes of a data set: rows sorted by cell and time, and each cell's schedule and batch.

    Args:
        screen: The parts of a screen.

    Raises:
        DataError: A time is not the schema's, or a cell of a sequence is observed twice at one time, under
            two schedules, or in two batches or contexts.
    """
    row_step = screen.steps
    names, first, row_cell = np.unique(screen.cells, return_index=True, return_inverse=True)
    order = np.lexsort((row_step, row_cell))
    pairs = np.stack([row_cell[order], row_step[order]])
    if (pairs[:, 1:] == pairs[:, :-1]).all(0).any():
        raise DataError("a cell of the sequence column is observed twice at one time; keep one of the rows.")
    conditions = tuple(sorted(set(screen.schedules), key=lambda one: one.doses))
    index = {one: i for i, one in enumerate(conditions)}
    row_condition = np.array([index[one] for one in screen.schedules])[screen.schedule]
    if (row_condition != row_condition[first][row_cell]).any():
        raise DataError("a cell of the sequence column changes its perturbation; write it as 'A@0+B@24'.")
    technical = np.searchsorted(np.array(screen.schema.batches), screen.batches)
    if (technical != technical[first][row_cell]).any():
        raise DataError(
            "a cell of the sequence column changes its batch; give each cell one, or leave batch= out."
        )
    context = np.zeros(len(screen.cells), dtype=np.int64)
    if screen.contexts is not None:
        context = np.array(screen.schema.contexts)[:, None] == screen.contexts
        context = context.argmax(0).astype(np.int64)
        if (context != context[first][row_cell]).any():
            raise DataError("a cell of the sequence column changes its context; give each cell one.")
    return {
        "schema": screen.schema,
        "values": screen.values[order].plain(),
        "library": screen.library[order].astype(np.float32),
        "row_cell": row_cell[order].astype(np.int64),
        "row_step": row_step[order].astype(np.int64),
        "conditions": conditions,
        "condition": row_condition[first].astype(np.int64),
        "technical": technical[first].astype(np.int64),
        "context": context[first],
        "names": names,
        "obs": screen.obs.iloc[order],
        "var": screen.var,
        "reading": screen.reading,
    }
