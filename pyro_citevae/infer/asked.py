"""What a user asks a prediction of: schedules, times and control cells, checked."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TypeAlias

from pyro_citevae.arguments import Numbers, numbers
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.times import time_of
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import CiteVAEWarning, DataError

__all__ = ["Asked", "require_controls", "require_panel", "schedules_of", "times_of"]

Asked: TypeAlias = Schedule | str | Iterable[Schedule | str]
"""A schedule, a label that reads as one, or several."""


def schedules_of(given: Asked, schema: Schema) -> list[Schedule]:
    """One schedule or several, as a list; a text is read as a label of the data, members in any order.

    Raises:
        DataError: There is none, or what was given is no schedule.
        ScheduleError: A text cannot be read.
    """
    listed = [given] if isinstance(given, Schedule | str) else list(given)
    if not listed:
        raise DataError("predict([]) names no schedule; give one, such as do('A').")
    for one in listed:
        if not isinstance(one, Schedule | str):
            raise DataError(f"predict([{one!r}]) holds no schedule; give do('A'), or a label such as 'A+B'.")
    return [one if isinstance(one, Schedule) else schema.schedule(one) for one in listed]


def times_of(given: Numbers | None, schema: Schema) -> list[float]:
    """One time, several, or the schema's last, as a list.

    Raises:
        DataError: There is none, or a time is no number, not on the grid or not after step 0.
    """
    if given is None:
        return [schema.times[-1]]
    said = time_of(given, schema.time_unit) if isinstance(given, str) else given
    times = numbers(said, "predict(time=...)")
    if not times:
        raise DataError("predict(time=[]) names no time; give one, or leave it out for the last of the data.")
    for time in times:
        if schema.step_of(time) < 1:
            raise DataError(f"time {time:g} is not after the start of the dynamics; predict a later one.")
        if schema.design == "snapshot" and time > schema.times[-1]:
            warnings.warn(
                f"the data are a snapshot, seen at {schema.times[-1]:g}, and say nothing of time {time:g}: "
                "the program goes on as its prior has it; leave time out.",
                CiteVAEWarning,
                stacklevel=3,
            )
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
