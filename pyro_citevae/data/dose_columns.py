"""Doses of a column: the amount of each perturbation, in its own unit, and the range that was given."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from pyro_citevae.data.interventions import AMOUNTS, Schedule
from pyro_citevae.data.labels import texts
from pyro_citevae.errors import DataError

__all__ = ["DOSES", "amounts", "dose_ranges", "dose_unit", "varies_within_labels"]

DOSES = ("dose", "dose_value", "dose_val", "concentration", "conc")
"""Columns of ``obs`` that may hold doses."""

UNITS = ("dose_unit", "dose_units")
"""Columns of ``obs`` that name the unit of a dose."""

_AMOUNT = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\d\s+]*)\s*")
_KEPT = (0.1, 1.0)  # amounts up to here are strengths as they stand


def amounts(text: str, members: Sequence[str], label: str, column: str) -> tuple[float, ...]:
    """The amount of each member of a label; one amount holds for all.

    Args:
        text: What the column says, such as ``10``, ``"1.0+0.5"`` or ``"10 nM"``.
        members: The members.
        label: The label, for messages.
        column: Name of the column, for messages.

    Raises:
        DataError: It is no amount, or there are more or fewer than members.
    """
    found = [_AMOUNT.fullmatch(part) for part in _parts(str(text))]
    # six digits: what single precision holds of a decimal number
    values = [float(f"{float(one[1]):.6g}") if one else math.nan for one in found]
    if not all(value == 0 or AMOUNTS[0] <= value <= AMOUNTS[1] for value in values):
        raise DataError(
            f"obs['{column}'] holds '{text}' for cells of '{label}'; doses are 0, or numbers between "
            f"{AMOUNTS[0]:g} and {AMOUNTS[1]:g} in one unit."
        )
    if len(values) == 1:
        values *= len(members)
    if len(values) != len(members):
        raise DataError(f"the dose '{text}' does not fit '{label}'; give one dose a member, joined by '+'.")
    return tuple(values)


def _parts(text: str) -> list[str]:
    """The doses of a combination's members; the '+' of an exponent joins nothing."""
    return re.split(r"(?<![eE])\+", text)


def dose_unit(obs: pd.DataFrame, column: str) -> str:
    """The unit of the doses; empty if nothing says it.

    Raises:
        DataError: There are several units.
    """
    beside = next((name for name in UNITS if name in obs), None)
    said: set[str] = set()
    if beside is not None:
        said = set(texts(obs[beside].dropna())) - {"", "nan", "None"}
    within = {
        found[2]
        for text in pd.unique(texts(obs[column].dropna()))
        for part in _parts(text)
        if (found := _AMOUNT.fullmatch(part)) and float(found[1]) > 0
    }
    said |= within if within != {""} else set()
    if len(said) > 1:
        named = ", ".join(one or "without a unit" for one in sorted(said))
        raise DataError(f"obs['{column}'] has doses in several units ({named}); bring them to one.")
    return next(iter(said), "")


def varies_within_labels(labels: pd.Series, column: Any) -> dict[str, list[str]]:
    """The labels under which a column of numbers has several values, and these values.

    Example:
        >>> varies_within_labels(pd.Series(["A", "A", "B"]), pd.Series([1, 10, 1]))
        {'A': ['1', '10']}
    """
    values = pd.to_numeric(texts(column), errors="coerce")
    frame = pd.DataFrame({"label": texts(labels).to_numpy(), "value": values.to_numpy()}).dropna()
    several = frame.drop_duplicates().groupby("label")["value"].apply(lambda one: sorted(one))
    return {str(label): [f"{v:g}" for v in found] for label, found in several.items() if len(found) > 1}


def dose_ranges(schedules: Iterable[Schedule], tokens: Sequence[str]) -> tuple[tuple[float, float], ...]:
    """The smallest and the largest amount of each token, where amounts are no strengths between 0 and 1.

    A token whose largest amount lies between 0.1 and 1 keeps its amounts as they stand: its range is that of
    a strength, ``(0, 1)``.

    Args:
        schedules: What the cells were given.
        tokens: The perturbations, in their order.

    Returns:
        A range a token; none at all where every amount is a strength.

    Example:
        >>> from pyro_citevae.data import do
        >>> dose_ranges([do("A*10"), do("A*1000"), do("B*0.5")], ("A", "B"))
        ((10.0, 1000.0), (0.0, 1.0))
    """
    given: dict[str, set[float]] = {}
    for one in schedules:
        for dose in one.doses:
            if dose.amount > 0:
                given.setdefault(dose.token, set()).add(dose.amount)
    ranges = tuple(
        (min(given[token]), max(given[token]))
        if token in given and not _KEPT[0] <= max(given[token]) <= _KEPT[1]
        else (0.0, 1.0)
        for token in tokens
    )
    return () if all(one == (0.0, 1.0) for one in ranges) else ranges
