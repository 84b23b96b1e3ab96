"""Confounding: which effects a design cannot tell apart, whatever the number of its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from pyro_citevae.data.interventions import Schedule
from pyro_citevae.errors import few

__all__ = [
    "apart_from_batches",
    "doubts_of_contexts",
    "doubts_of_design",
    "never_alone",
    "times_without_controls",
]

_LARGEST = 2_000  # unknowns whose rank is taken; beyond, what one observation after the other tells counts


def apart_from_batches(schedules: Sequence[Schedule], batches: Sequence[str]) -> dict[str, list[str]]:
    """The perturbations whose effects cannot be told apart from those of batches, and these batches.

    With an effect b of each batch and a of each perturbation, a group of cells says ``b + sum_p u_p a_p``. An
    effect is told apart if its unit vector lies in the row space of the design: a batch with controls says
    its own b, and a perturbation in such a batch its own a, and so on.

    Args:
        schedules: Schedule of each group of cells.
        batches: Batch of each group.

    Example:
        >>> from pyro_citevae.data import do
        >>> apart_from_batches([do(), do("A"), do(), do("B")], ["1", "1", "1", "2"])
        {'B': ['2']}
    """
    unknown = _unresolved(schedules, batches)
    where: dict[str, set[str]] = {}
    for schedule, batch in zip(schedules, batches, strict=True):
        for token in set(schedule.tokens) & unknown:
            where.setdefault(token, set()).add(batch)
    return {token: sorted(where[token]) for token in sorted(where)}


def never_alone(schedules: Sequence[Schedule]) -> list[str]:
    """Perturbations that are seen only together with others, so that the sum of their effects alone is told.

    Example:
        >>> from pyro_citevae.data import do
        >>> never_alone([do(), do("A+B"), do("C")])
        ['A', 'B']
    """
    return sorted(_unresolved([Schedule(), *schedules], [""] * (len(schedules) + 1)))


def times_without_controls(schedules: Sequence[Schedule], times: Sequence[float]) -> list[float]:
    """Times at which perturbed cells were observed and no control was."""
    perturbed = {time for one, time in zip(schedules, times, strict=True) if not one.is_control}
    return sorted(perturbed - {time for one, time in zip(schedules, times, strict=True) if one.is_control})


def doubts_of_design(
    schedules: Sequence[Schedule], batches: Sequence[str], times: Sequence[float] | None, same: bool
) -> tuple[list[str], list[str], Mapping[str, list[str]]]:
    """What a design cannot tell apart, in words.

    Args:
        schedules: Schedule of each group of cells.
        batches: Batch of each group.
        times: Time of each group; None for a snapshot.
        same: Whether the batches are the times, by the user's own word.

    Returns:
        Sentences that warn, sentences to note, and the perturbations that batches stand for.
    """
    doubts: list[str] = []
    notes: list[str] = []
    confounded = apart_from_batches(schedules, batches) if len(set(batches)) > 1 else {}
    if confounded:
        lanes = sorted({batch for found in confounded.values() for batch in found})
        doubts.append(
            f"the effects of {_few(list(confounded))} cannot be told apart from those of the batches "
            f"{_few(lanes)}: no control, and nothing that is known from elsewhere, shares a batch with them. "
            "Only controls in these batches would tell; intervals take both as possible."
        )
    if times is not None:
        apart = _apart(batches, times)
        if len(apart) > 1:
            said = "; ".join(f"{_few([f'{time:g}' for time in one])}" for one in apart)
            sentence = (
                f"changes over time cannot be told apart from batches: the times ({said}) share no batch, "
                "so that "
                "what batches differ by counts as time. Effects against controls of the same time stand."
            )
            (notes if same else doubts).append(sentence)
        lacking = times_without_controls(schedules, times)
        if lacking:
            doubts.append(
                f"no control was observed at {_few([f'{time:g}' for time in lacking])}, where perturbed "
                "cells were: what all perturbations share there cannot be told apart from time, and cannot "
                "be scored. Compare perturbations with each other, as in effect(do('A'), versus=do('B'))."
            )
    together = never_alone(schedules)
    if together:
        notes.append(
            f"{_few(together)} {'is' if len(together) == 1 else 'are'} seen only together with others, so "
            "that their own effects are told by the prior alone."
        )
    return doubts, notes, confounded


def doubts_of_contexts(
    schedules: Sequence[Schedule], batches: Sequence[str], contexts: Sequence[str]
) -> tuple[list[str], list[str]]:
    """What contexts stand for besides themselves, in words.

    Args:
        schedules: Schedule of each group of cells.
        batches: Batch of each group.
        contexts: Context of each group.

    Returns:
        Sentences that warn, and sentences to note.

    Example:
        >>> from pyro_citevae.data import do
        >>> doubts_of_contexts([do(), do("A"), do("A")], ["1", "1", "1"], ["T", "T", "B"])[0][0][:37]
        'no control was observed in context B,'
    """
    doubts: list[str] = []
    notes: list[str] = []
    groups = list(zip(schedules, batches, contexts, strict=True))
    controlled = {context for one, _, context in groups if one.is_control}
    without = sorted(set(contexts) - controlled)
    if without:
        only = sorted(
            {token for one, _, context in groups if context in without for token in one.tokens}
            - {token for one, _, context in groups if context not in without for token in one.tokens}
        )
        said = f"; the effects of {_few(only)} cannot be told apart from that of the context" if only else ""
        doubts.append(
            f"no control was observed in context {_few(without)}, so that effects there cannot be measured"
            f"{said}. Add its controls, or leave its cells out."
        )
    where: dict[str, set[str]] = {}
    for _, batch, context in groups:
        where.setdefault(batch, set()).add(context)
    nested = sorted(batch for batch, found in where.items() if len(found) == 1)
    if nested and len(where) > 1:
        context = next(iter(where[nested[0]]))
        notes.append(
            f"batch {_few(nested)} {'is' if len(nested) == 1 else 'are each'} of one context alone "
            f"('{nested[0]}' of '{context}'): what such a batch differs by counts as context."
        )
    return doubts, notes


def _unresolved(schedules: Sequence[Schedule], batches: Sequence[str]) -> set[str]:
    """Names of the perturbations whose effect the design does not determine."""
    groups = {
        (("batch", batch), *(("token", token) for token in one.tokens))
        for one, batch in zip(schedules, batches, strict=True)
    }
    waiting = [set(group) for group in groups]
    known: set[tuple[str, str]] = set()
    found = True
    while found:  # a group with one unknown tells it
        told = {next(iter(group)) for group in waiting if len(group) == 1}
        found = bool(told - known)
        known |= told
        waiting = [rest for group in waiting if (rest := group - told)]
    unknown = sorted({one for group in waiting for one in group})
    if not unknown:
        return set()
    resolved: set[tuple[str, str]] = set()
    if len(unknown) <= _LARGEST:
        position = {one: i for i, one in enumerate(unknown)}
        design = np.zeros((len(waiting), len(unknown)))
        for row, group in enumerate(waiting):
            design[row, [position[one] for one in group]] = 1.0
        value, vector = np.linalg.eigh(design.T @ design)
        free = vector[:, value < 1e-9 * max(value[-1], 1.0)]
        resolved = {
            one for one, row in zip(unknown, free, strict=True) if np.abs(row).max(initial=0.0) < 1e-6
        }
    return {name for kind, name in set(unknown) - resolved if kind == "token"}


def _apart(batches: Sequence[str], times: Sequence[float]) -> list[list[float]]:
    """The times in groups that are joined by a batch."""
    batch, time = pd.factorize(np.array(batches, dtype=object))[0], pd.factorize(np.array(times), sort=True)
    n = batch.max(initial=-1) + 1
    size = n + len(time[1])
    edges = sparse.coo_array((np.ones(len(batch)), (batch, n + time[0])), shape=(size, size))
    part = connected_components(edges, directed=False)[1][n:]
    return [time[1][part == one].tolist() for one in pd.unique(part)]


def _few(names: Sequence[str]) -> str:
    """Some names, all of them up to four."""
    if len(names) > 4:
        return few(names)
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
