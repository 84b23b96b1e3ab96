"""One family of errors: each is a user's mistake, said in one sentence that names the way out."""

from collections.abc import Sequence
from typing import Any

__all__ = [
    "CiteVAEError",
    "CiteVAEWarning",
    "ConformanceError",
    "DataError",
    "DivergenceError",
    "FitError",
    "HookError",
    "InterruptedFit",
    "ModelError",
    "OutOfRangeError",
    "RunError",
    "ScheduleError",
]


class CiteVAEError(Exception):
    """A mistake that the user can mend; the command line prints it and exits with 2."""


class DataError(CiteVAEError):
    """The data cannot be read as a screen: a column, a value, a gene or a cell is wrong."""


class ScheduleError(CiteVAEError):
    """A schedule names an unknown perturbation, or doses one twice."""


class ModelError(CiteVAEError):
    """A model or a guide cannot be found, built, or used as written."""


class HookError(ModelError):
    """A hook of a model fails, or returns something else than it should.

    Attributes:
        mend: What to do, as a part of a sentence.
    """

    def __init__(self, said: str, mend: str) -> None:
        super().__init__(f"{said}; {mend}.")
        self.said, self.mend = said, mend

    def __reduce__(self) -> tuple[Any, ...]:
        """What a copy is made of; an error's own way is its sentence alone."""
        return type(self), (self.said, self.mend), vars(self)


class OutOfRangeError(HookError):
    """A hook gives a law a parameter out of its range, such as a scale below zero, or not a number."""


class ConformanceError(ModelError):
    """A model or a guide breaks a law that fitting and predicting rely on."""


class FitError(CiteVAEError):
    """Training cannot start or go on: a setting is out of range or the bound is not a number."""


class DivergenceError(FitError):
    """The bound or its gradient is not a number.

    Attributes:
        last_good: The posterior as it stood after the last epoch that went well.
    """

    last_good: Any = None


class InterruptedFit(KeyboardInterrupt):  # as Python's own is called
    """The user interrupts a fit; it ends what an interrupt ends, and has what was trained so far.

    Attributes:
        last_good: The posterior as it stood after the last whole epoch.
    """

    last_good: Any = None


class RunError(CiteVAEError):
    """A run folder cannot be written or read."""


class CiteVAEWarning(UserWarning):
    """What the user should know although it stops nothing; the command line prints it on one line."""


def reason(error: Exception) -> str:
    r"""The first line of another library's error, for our sentence; its class where it says nothing.

    Example:
        >>> reason(OSError("no such device\nand more")), reason(KeyError())
        ('no such device', 'KeyError')
    """
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def few(names: Sequence[str], most: int = 3, joint: str = ", ") -> str:
    """The first of some names, and how many more there are.

    Args:
        names: The names, as a sentence has them.
        most: How many are said.
        joint: What stands between them.

    Example:
        >>> few(["A", "B", "C", "D"], most=2)
        'A, B and 2 more'
    """
    return joint.join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
