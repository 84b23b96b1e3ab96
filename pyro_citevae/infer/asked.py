"""What a user asks a prediction of: schedules, times and control cells, checked."""

from __future__ import annotations

from collections.abc import Sequence

from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError

__all__ = ["require_controls", "require_panel", "schedules_of", "times_of"]


def schedules_of(given: Schedule | Sequence[Schedule]) -> list[Schedule]:
    """One schedule or several, as a list."""
    return [given] if isinstance(given, Schedule) else list(given)


def times_of(given: float | Sequence[float] | None, schema: Schema) -> list[float]:
    """One time, several, or the schema's last, as a list.

    Raises:
        DataError: A time is not on the grid or not after step 0.
    """
    if given is None:
        return [schema.times[-1]]
    times = [float(given)] if isinstance(given, (int, float)) else [float(time) for time in given]
    for time in times:
        if schema.step_of(time) < 1:
            raise DataError(f"time {time:g} is not after the start of the dynamics; predict a later one.")
    return times


def require_panel(cells: Trajectories, schema: Schema, said: str) -> None:
    """Refuses cells of other genes or tokens; ``said`` is the public expression that gave them."""
    if cells.schema.genes != schema.genes or cells.schema.tokens != schema.tokens:
        raise DataError(f"{said} has other genes or tokens than the model; read it with schema=.")


def require_controls(cells: Trajectories, schema: Schema) -> Trajectories:
    """Returns the cells if none was perturbed.

    Raises:
        DataError: A cell is perturbed, or the cells are of another panel.
    """
    require_panel(cells, schema, "predict(cells=...)")
    if cells.n_cells == 0:
        raise DataError("predict(cells=...) is empty; give control cells.")
    wrong = cells.labels != schema.control
    if wrong.any():
        raise DataError(
            f"predict(cells=...) holds cells of '{cells.labels[wrong][0]}'; abduction takes control "
            "cells only, so pass data.controls()."
        )
    return cells
