"""Profiles of groups by a program: in the groups' own batches, and in the population of all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.groups import Groups, grouped
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.infer.counterfactuals import Counterfactuals
from pyro_citevae.program import LatentDynamics

__all__ = ["POPULATION", "Members", "program_levels"]

Members: TypeAlias = Sequence[tuple[LatentDynamics, AmortizedGuide]]

POPULATION = 128  # cells of the population that profiles are of, less than for what a user asks
_AT_ONCE = 50  # schedules whose draws are held


def program_levels(
    members: Members, data: Trajectories, groups: Groups, draws: int, seed: int
) -> tuple[Float[np.ndarray, "group gene"], Float[np.ndarray, "group gene"]]:
    """The mean profile of each group over draws of the mechanism.

    Args:
        members: One program with its guide.
        data: The cells of the groups.
        groups: Which groups.
        draws: Draws of the mechanism.
        seed: Seed of the draws.

    Returns:
        In the batches of the group's own cells, as they were measured; and in all batches by turns, as
        effects are taken.
    """
    schema = data.schema
    schedules = {one.label(schema.control): one for one in data.conditions}
    own = np.zeros((len(groups.labels), schema.n_genes))
    population = np.zeros_like(own)
    group, technical = grouped(data)[3], data.technical[data.row_cell]
    several = bool(schema.contexts)
    order = np.argsort(group, kind="stable")
    lanes_of = np.split(technical[order], np.searchsorted(group[order], np.arange(1, len(groups.labels))))
    for time, context in sorted(set(zip(groups.times.tolist(), groups.contexts.tolist(), strict=True))):
        now = np.flatnonzero((groups.times == time) & (groups.contexts == context))
        where = context if several else None
        for first in range(0, len(now), _AT_ONCE):
            part = now[first : first + _AT_ONCE]
            asked = [schedules[groups.labels[i]] for i in part]
            population[part] = _levels(members, asked, time, draws, seed, None, where)
            if schema.n_batches == 1:
                own[part] = population[part]
                continue
            lanes = [_dealt(lanes_of[i]) for i in part]
            own[part] = _levels(members, asked, time, draws, seed, lanes, where)
    return own, population


def _levels(
    members: Members,
    schedules: Sequence[Schedule],
    time: float,
    draws: int,
    seed: int,
    batches: Sequence[Sequence[int]] | None,
    context: int | None,
) -> Float[np.ndarray, "schedule gene"]:
    roll = Counterfactuals(
        members,
        schedules,
        [time],
        draws,
        seed,
        batches=batches,
        told=True,
        population=POPULATION,
        context=context,
    )
    return np.asarray(roll.pseudobulk(None)[:, 0, :, 0].mean(1))


def _dealt(technical: np.ndarray) -> list[int]:
    """Batches of so many cells as the population has, in the shares that the group has."""
    position = np.linspace(0, len(technical) - 1, POPULATION).round().astype(int)
    return [int(one) for one in np.random.default_rng(0).permutation(np.sort(technical)[position])]
