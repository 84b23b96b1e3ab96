"""Numbers and names that a user hands in: of any usual kind, or refused in one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, SupportsFloat, TypeAlias, TypeVar

import numpy as np

from pyro_citevae.errors import DataError

__all__ = ["Names", "Number", "Numbers", "count", "names", "number", "numbers", "plain", "seed", "whole"]

Number: TypeAlias = SupportsFloat | str
Numbers: TypeAlias = Number | Iterable[Any]
Names: TypeAlias = str | Iterable[Any]

_SEEDS = 2**63  # what random generators count from, with room for what is added

_Read = TypeVar("_Read", float, str)


def plain(value: Any) -> Any:
    """A number, truth value or text without the array, tensor or scalar around it; anything else as it is.

    Example:
        >>> plain(np.float64(0.5)), plain(np.array("A")), plain([1])
        (0.5, 'A', [1])
    """
    if getattr(value, "ndim", None) != 0 or np.ma.is_masked(value):
        return value
    kind = getattr(value.dtype, "kind", None)  # a tensor's dtype has none
    if kind == "f":
        return float(value)
    # of dates and durations, a number would be that of their unit
    return value.item() if kind is None or kind in "biuUO" else value


def number(value: object, said: str) -> float:
    """One number: of Python or NumPy, a 0-d array or tensor, or a text that reads as one.

    Args:
        value: What was given.
        said: The public expression that took it, such as ``"predict(time=...)"``.

    Raises:
        DataError: It is anything else, a truth value, NaN or infinite.

    Example:
        >>> number(np.int64(5), "predict(time=...)"), number("2.5", "predict(time=...)")
        (5.0, 2.5)
    """
    found = _finite(value)
    if found is None:
        raise DataError(f"{said} is {_shown(value)}, which is no finite number; give one, such as 24.")
    return found


def numbers(value: object, said: str) -> list[float]:
    """One number or several, each as :func:`number` takes it; those of a set come sorted.

    Args:
        value: A number, or an iterable of them.
        said: The public expression that took it.

    Raises:
        DataError: It is neither, or one of them is no finite number.

    Example:
        >>> numbers(24, "hold_out(times=...)"), numbers(np.array([4, 8]), "hold_out(times=...)")
        ([24.0], [4.0, 8.0])
    """
    return _all(value, _finite, said, "finite number", "numbers, such as (4, 24)")


def whole(value: object, said: str) -> int:
    """One whole number; ``5.0`` and ``"5"`` are 5.

    Args:
        value: What was given.
        said: The public expression that took it.

    Raises:
        DataError: It is no number, or has a fraction.

    Example:
        >>> whole(5.0, "predict(draws=...)"), whole(np.int64(5), "predict(draws=...)")
        (5, 5)
    """
    one = plain(value)
    if isinstance(one, int) and not isinstance(one, bool):
        return one
    found = _finite(one)
    if found is None or not found.is_integer():
        raise DataError(f"{said} is {_shown(value)}, which is no whole number; give one, such as 3.")
    return int(found)


def count(value: object, said: str) -> int:
    """A whole number, 1 or more.

    Args:
        value: What was given.
        said: The public expression that took it, with dots for the value.

    Raises:
        DataError: It is no whole number, or below 1.

    Example:
        >>> count("7", "predict(draws=...)")
        7
    """
    found = whole(value, said)
    if found < 1:
        raise DataError(f"{said.replace('...', str(found))} must be 1 or more.")
    return found


def seed(value: object, said: str) -> int:
    """A seed: a whole number from 0 up to below 2**63.

    Args:
        value: What was given.
        said: The public expression that took it.

    Raises:
        DataError: It is no whole number, or out of range.

    Example:
        >>> seed("7", "predict(seed=...)")
        7
    """
    found = whole(value, said)
    if not 0 <= found < _SEEDS:
        raise DataError(
            f"{said} is {_shown(value)}, which is no seed; give a whole number, 0 or more and below 2**63."
        )
    return found


def names(value: object, said: str) -> tuple[str, ...]:
    """One name, or several in their order; those of a set come sorted.

    Args:
        value: A text, which is one name, or an iterable of texts, such as a list, a pandas Series or Index,
            or an array.
        said: The public expression that took it.

    Raises:
        DataError: It is neither, or one of them is no text.

    Example:
        >>> names("KLF1", "hold_out(perturbations=...)"), names({"B", "A"}, "hold_out(perturbations=...)")
        (('KLF1',), ('A', 'B'))
    """
    return tuple(_all(value, _text, said, "name", "texts, such as ['A', 'B']"))


def _all(
    value: object, read: Callable[[object], _Read | None], said: str, kind: str, such: str
) -> list[_Read]:
    """One thing of a kind, or several; those of a set come sorted."""
    one = read(value)
    if one is not None:
        return [one]
    several = _several(value)
    if several is None:
        example = such.partition(", ")[2]
        raise DataError(f"{said} is {_shown(value)}, which is no {kind}; give one or several, {example}.")
    found = []
    for each in several:
        one = read(each)
        if one is None:
            raise DataError(f"{said} holds {_shown(each)}, which is no {kind}; give {such}.")
        found.append(one)
    return sorted(found) if isinstance(value, Set) else found


def _text(value: object) -> str | None:
    """The text, or None if it is none."""
    one = plain(value)
    return str(one) if isinstance(one, str) else None


def _finite(value: object) -> float | None:
    """The number, or None if it is none."""
    one = plain(value)
    if isinstance(one, bool) or not isinstance(one, int | float | str):
        return None
    try:
        found = float(one)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _several(value: Any) -> Iterable[Any] | None:
    """What an iterable holds, or None: a table or a mapping is no list of what it is indexed by."""
    lists = isinstance(value, Iterable) and not isinstance(value, str | bytes | bytearray | Mapping)
    return value if lists and getattr(value, "ndim", 1) == 1 else None


def _shown(value: object) -> str:
    """A value for a sentence: on one line, and short."""
    said = " ".join(repr(value).split())
    return said if len(said) <= 60 else f"{said[:57]}..."
