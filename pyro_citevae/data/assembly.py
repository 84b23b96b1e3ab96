"""Assembly: the parts of a screen, sorted by cell and time, as a data set keeps them."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyro_citevae.data.screen_reading import Screen
from pyro_citevae.errors import DataError

__all__ = ["assembled"]


def assembled(screen: Screen) -> dict[str, Any]:
    """The attributes of a data set: rows sorted by cell and time, and each cell's schedule and batch.

    Args:
        screen: The parts of a screen.

    Raises:
        DataError: A time is not the schema's, or a cell of a sequence is observed twice at one time or under
            two schedules.
    """
    row_step = screen.steps
    names, first, row_cell = np.unique(screen.cells, return_index=True, return_inverse=True)
    order = np.lexsort((row_step, row_cell))
    pairs = np.stack([row_cell[order], row_step[order]])
    if (pairs[:, 1:] == pairs[:, :-1]).all(0).any():
        raise DataError("a cell of the sequence column is observed twice at one time; keep one of the rows.")
    conditions = tuple(sorted(set(screen.schedules), key=lambda one: one.doses))
    index = {one: i for i, one in enumerate(conditions)}
    row_condition = np.array([index[one] for one in screen.schedules])
    if (row_condition != row_condition[first][row_cell]).any():
        raise DataError("a cell of the sequence column changes its perturbation; write it as 'A@0+B@24'.")
    technical = np.searchsorted(np.array(screen.schema.batches), screen.batches)
    return {
        "schema": screen.schema,
        "values": screen.values[order].plain(),
        "library": screen.library[order].astype(np.float32),
        "row_cell": row_cell[order].astype(np.int64),
        "row_step": row_step[order].astype(np.int64),
        "conditions": conditions,
        "condition": row_condition[first].astype(np.int64),
        "technical": technical[first].astype(np.int64),
        "names": names,
        "obs": screen.obs.iloc[order],
        "var": screen.var,
        "reading": screen.reading,
    }
