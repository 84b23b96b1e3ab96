"""Times: what a column says of when a cell was observed, and the grid of latent steps that holds it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from fractions import Fraction
from functools import reduce

import numpy as np
import pandas as pd
from jaxtyping import Float

from pyro_citevae.arguments import Numbers, number
from pyro_citevae.data.labels import missing, texts
from pyro_citevae.data.schema import OFF_GRID, Schema
from pyro_citevae.errors import DataError

__all__ = ["check_grid", "steps_of", "time_of", "times_in", "unit_of"]

_MOST_STEPS = 64
_FINEST = 1000  # denominators up to here are told from rounding
_LARGEST = 1e30  # beyond, lengths of steps are no numbers in single precision

_WAY_OUT = (
    "end one at each time with step='observed', or set step= to a length that all times are multiples of, "
    "such as step='1/3'"
)

_UNITS = {
    "minute": ("min", "mins", "minute", "minutes"),
    "hour": ("h", "hr", "hrs", "hour", "hours"),
    "day": ("d", "day", "days"),
    "week": ("w", "wk", "wks", "week", "weeks"),
    "month": ("mo", "month", "months"),
}
_IN_HOURS = {"minute": 1 / 60, "hour": 1.0, "day": 24.0, "week": 168.0}
_UNIT_OF = {said: unit for unit, names in _UNITS.items() for said in names}
_BEFORE = re.compile(r"([a-z]+)[_ ]*(\d+\.?\d*|\.\d+)", re.IGNORECASE)
_BEHIND = re.compile(r"(\d+\.?\d*|\.\d+)[-_ ]*([a-z]+)", re.IGNORECASE)
_PLAIN = ("t", "time", "timepoint", "tp")


def unit_of(said: str) -> str:
    """A unit of time by the name that it has here.

    Example:
        >>> unit_of("days"), unit_of("passage")
        ('day', 'passage')
    """
    return _UNIT_OF.get(said.casefold(), said)


def times_in(
    column: pd.Series, name: str, wanted: str | None = None
) -> tuple[Float[np.ndarray, " observation"], str | None]:
    """The times of a column, and their unit where the column says it.

    Numbers are taken as they are, and so are texts such as ``"4"``. ``"D4"``, ``"day 4"``, ``"24h"`` and
    durations (Timedelta) say their unit, which is one for all.

    Args:
        column: The column.
        name: Its name, for messages.
        wanted: Unit into which durations are brought; None for the largest that all are multiples of.

    Raises:
        DataError: A time is missing, no number, negative, a date, or of another unit than the others.

    Example:
        >>> times, unit = times_in(pd.Series(["D2", "D4"]), "day")
        >>> times.tolist(), unit
        ([2.0, 4.0], 'day')
    """
    if pd.api.types.is_datetime64_any_dtype(column):
        raise DataError(f"obs['{name}'] holds dates; give the time since the perturbation as numbers.")
    if pd.api.types.is_timedelta64_dtype(column):
        return _durations(column, name, wanted)
    text = texts(column)
    distinct = pd.unique(text)
    numbers = pd.to_numeric(pd.Series(distinct, dtype=object), errors="coerce").to_numpy(dtype=float)
    units: set[str | None] = set()
    values: dict[str, float] = {}
    for word, found in zip(distinct, numbers, strict=True):
        value, unit = (float(found), None) if math.isfinite(found) else _with_unit(word)
        values[word] = value
        if math.isfinite(value):
            units.add(unit)
    times = text.map(values).to_numpy(dtype=float)
    wrong = ~((times >= 0) & (times < _LARGEST)) | missing(column).to_numpy()
    if wrong.any():
        value = column.iloc[int(np.flatnonzero(wrong)[0])]
        raise DataError(
            f"obs['{name}'] holds '{value}'; times are numbers, zero or more, in one unit, or such as 'D4' "
            "and '24h'."
        )
    if len(units) > 1:
        named = ", ".join(sorted(str(unit or "without a unit") for unit in units))
        raise DataError(f"obs['{name}'] has times in several units ({named}); bring them to one.")
    return times, next(iter(units), None)


def steps_of(
    step: Numbers | None, times: Float[np.ndarray, " observation"] | None
) -> tuple[float, tuple[float, ...]]:
    """The length of a latent step, and the times at which steps end if they are not equally long.

    Args:
        step: As for :meth:`~pyro_citevae.Trajectories.from_anndata`.
        times: Time of each observation; None for a snapshot.

    Raises:
        DataError: It is no length, no list of times, or there are no times after 0.
    """
    if times is not None and not (times > 0).any():
        raise DataError(
            "every time is 0, and a perturbation acts after 0; give the time since the perturbation, or "
            "leave time= out for a snapshot."
        )
    if isinstance(step, str) and step != "observed":
        step = _listed(step)
    if isinstance(step, str):
        if times is None:
            raise DataError("step='observed' needs the times of observation; name their column with time=.")
        step = [time for time in np.unique(times).tolist() if time > 0]
    if step is None:
        return _divisor(times), ()
    if not isinstance(step, Iterable) or np.ndim(step) == 0:  # type: ignore[arg-type]
        length = number(step, "step")
        if not 1 / _LARGEST < length < _LARGEST:
            raise DataError(f"step={length:g} is not positive; give the length of a latent step.")
        return length, ()
    try:
        ends = tuple(float(end) for end in step)
    except (TypeError, ValueError):
        raise DataError(f"step={step!r} holds what is no time; give the times at which steps end.") from None
    if not ends:
        raise DataError("step=[] names no time; give the times at which the latent steps end.")
    return _divisor(np.array(ends)), ends


def check_grid(schema: Schema) -> None:
    """Refuses a grid that does not hold the times, or has too many steps.

    Raises:
        DataError: The sentence names the grid.
    """
    for time in schema.times:
        try:
            schema.step_of(time)
        except DataError as error:
            way_out = "name it in step=" if schema.grid else _WAY_OUT
            raise DataError(f"{str(error).partition('; ')[0]}; {way_out}.") from None
    if not 1 <= schema.n_steps <= _MOST_STEPS:
        length = f"{schema.step:g} {schema.time_unit}" if not schema.grid else f"{len(schema.grid)} times"
        way_out = "set n_steps=" if schema.design == "snapshot" else _WAY_OUT
        raise DataError(
            f"a grid of {length} makes {schema.n_steps} latent steps, and 1 to {_MOST_STEPS} are practical; "
            f"{way_out}."
        )


def time_of(text: str, unit: str) -> str | float:
    """A time as a file writes it, such as ``72h``, in a unit; the text itself if it says none.

    Args:
        text: The time.
        unit: The unit that is wanted.

    Raises:
        DataError: It is in another unit.

    Example:
        >>> time_of("72h", "hour"), time_of("3", "day")
        (72.0, '3')
    """
    value, said = _with_unit(text.strip())
    if math.isfinite(value) and said not in (None, unit):
        raise DataError(
            f"time {text!r} is in another unit than the data, whose times are in the unit '{unit}'."
        )
    return value if math.isfinite(value) else text


def _with_unit(word: str) -> tuple[float, str | None]:
    """The number and the unit of a text such as ``D4`` or ``24h``; NaN if it is neither."""
    for pattern, digits, letters in ((_BEFORE, 2, 1), (_BEHIND, 1, 2)):
        found = pattern.fullmatch(word)
        if found is not None:
            said = found[letters].casefold()
            if said in _UNIT_OF or said in _PLAIN:
                return float(found[digits]), _UNIT_OF.get(said)
    return math.nan, None


def _durations(
    column: pd.Series, name: str, wanted: str | None
) -> tuple[Float[np.ndarray, " observation"], str]:
    """Durations in the largest unit of which all are whole multiples, or in hours."""
    if column.isna().any() or (column < pd.Timedelta(0)).any():
        raise DataError(f"obs['{name}'] holds a missing or negative duration; times are zero or more.")
    hours = column.dt.total_seconds().to_numpy(dtype=float) / 3600
    if wanted in _IN_HOURS:
        return hours / _IN_HOURS[wanted], wanted
    for unit in ("day", "hour", "minute"):
        times = hours / _IN_HOURS[unit]
        if (times == np.rint(times)).all():
            return times, unit
    return hours, "hour"


def _listed(step: str) -> float | list[float]:
    """A length, such as ``1/3``, or ends joined by commas, as the command line gives them."""
    try:
        numbers = [float(Fraction(part.strip())) for part in step.split(",")]
    except (ValueError, ZeroDivisionError, OverflowError):
        raise DataError(f"step='{step}' is neither a length, nor a list of times, nor 'observed'.") from None
    return numbers if "," in step else numbers[0]


def _divisor(times: np.ndarray | None) -> float:
    """The greatest common divisor of the times.

    Times are taken as fractions of small denominators; otherwise as multiples of a part of the last time, up
    to rounding; and otherwise to four digits of the first.
    """
    if times is None:
        return 1.0
    known = [float(time) for time in np.unique(times) if 0 < time < math.inf]
    if not known:
        return 1.0
    exact = [Fraction(time).limit_denominator(_FINEST) for time in known]
    if any(abs(float(one) - time) > 1e-9 * max(known) for one, time in zip(exact, known, strict=True)):
        parts = known[-1] / np.arange(1, _MOST_STEPS + 1)
        steps = np.array(known) / parts[:, None]
        fits = (np.abs(steps - np.rint(steps)) <= OFF_GRID).all(1)
        if fits.any():
            return float(parts[fits.argmax()])
        unit = min(1e-4, 10.0 ** (math.floor(math.log10(known[0])) - 3))
        return reduce(math.gcd, [round(time / unit) for time in known]) * unit
    common = math.lcm(*(one.denominator for one in exact))
    return reduce(math.gcd, [int(one * common) for one in exact]) / common
