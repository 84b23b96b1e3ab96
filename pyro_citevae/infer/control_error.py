"""The sampling error of measured controls, which every effect against them shares."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from pyro_citevae.data.interventions import Schedule, do
from pyro_citevae.data.pseudobulk import level
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError
from pyro_citevae.infer.asked import require_panel
from pyro_citevae.infer.counterfactuals import Counterfactuals

__all__ = ["control_error"]

_MOST_GROUPS = 50  # that show the error of the controls
_ENOUGH_DRAWS = 50  # for the mean of their effects, whose own spread is small beside the groups' noise


def control_error(
    roll: Counterfactuals, measured: Trajectories, cells: Trajectories | None
) -> Float[np.ndarray, "time gene"]:
    r"""How far measured controls lie from where all measured groups of their time put them.

    ::

        L = sum_g n_g (b_g - delta_g) / sum_g n_g        error = b_control - L

    over the groups g of n_g cells of the roll-out's context, the control with delta = 0 among them, where b
    is measured and delta the mean of the modelled effect. Every effect that is measured against these
    controls has their sampling error in it, with the opposite sign; one group does not tell it from its own,
    many groups together do.

    Args:
        roll: Members, times and draws of the effects that are forecast.
        measured: Cells of the model's training, controls of these times among them.
        cells: Control cells to act on, or None for a population.

    Raises:
        DataError: The cells are of another panel, or there is no control of a time.
    """
    schema, control = roll.schema, roll.schema.control
    require_panel(measured, schema, "effect(versus=...)")
    where = None if roll.context is None else schema.contexts[roll.context]
    measured = measured.select(context=where)
    groups = [measured.select(time=time) for time in roll.times]
    references = [now.select(control) for now in groups]
    for time, controls in zip(roll.times, references, strict=True):
        if controls.n_observations == 0:
            here = "" if where is None else f" in context {where}"
            raise DataError(
                f"effect(versus=...) has no control at time {time:g}{here}; give some of that time{here}."
            )
    asked = np.isin(measured.row_times, roll.times) & (measured.row_labels != control)
    labels, counts = np.unique(measured.row_labels[asked].astype(str), return_counts=True)
    labels = labels[np.argsort(-counts, kind="stable")][:_MOST_GROUPS]
    error = np.zeros((len(roll.times), schema.n_genes))
    if not len(labels):
        return error
    acted = [Schedule.parse(label, control) for label in labels.tolist()]
    fewer = replace(roll, schedules=[*acted, do()], n_draws=min(roll.n_draws, _ENOUGH_DRAWS))
    made = fewer.pseudobulk(cells).mean((1, 2))
    for k, (now, controls) in enumerate(zip(groups, references, strict=True)):
        b, n = level(controls), controls.n_observations
        for label, delta in zip(labels.tolist(), made[:-1, k] - made[-1, k], strict=True):
            group = now.select(label)
            if group.n_observations:
                error[k] -= group.n_observations * (level(group) - b - delta)
                n += group.n_observations
        error[k] /= n
    return error
