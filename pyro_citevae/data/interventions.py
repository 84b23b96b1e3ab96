"""Schedules of perturbations: which token is dosed, from when, and how strongly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pyro_citevae.errors import ScheduleError

__all__ = ["Dose", "Schedule", "do"]


@dataclass(frozen=True, order=True)
class Dose:
    """One perturbation token, dosed from a time on.

    Attributes:
        token: Name of the perturbation, usually the perturbed gene.
        at: Time from which the dose acts, in the data's unit.
        amount: Strength; 1 for a knock-out, less for a partial knock-down.
    """

    token: str
    at: float = 0.0
    amount: float = 1.0

    def __str__(self) -> str:
        at = "" if self.at == 0 else f"@{_in_full(self.at)}"
        amount = "" if self.amount == 1 else f"*{_in_full(self.amount)}"
        return f"{self.token}{at}{amount}"


@dataclass(frozen=True)
class Schedule:
    """A set of doses, the value of ``do(...)``; no dose at all is the control.

    Schedules combine with ``|``, and print as ``A``, ``A+B`` or ``A+B@24``.

    Attributes:
        doses: The doses, sorted, no token twice.

    Raises:
        ScheduleError: A token appears twice.
    """

    doses: tuple[Dose, ...] = ()

    def __post_init__(self) -> None:
        tokens = [dose.token for dose in self.doses]
        for token in tokens:
            if tokens.count(token) > 1:
                raise ScheduleError(f"do(...) doses '{token}' twice; name each perturbation once.")
        object.__setattr__(self, "doses", tuple(sorted(self.doses)))

    @classmethod
    def parse(cls, text: str, control: str = "control") -> Schedule:
        """Reads ``A``, ``A+B``, ``A@0+B@24``, ``A*0.5`` or the control's name.

        Example:
            >>> Schedule.parse("KLF1@0+MAP2K6@24")
            do('KLF1+MAP2K6@24')
        """
        return cls(_parse(text, control))

    @property
    def tokens(self) -> tuple[str, ...]:
        """The names dosed, sorted."""
        return tuple(dose.token for dose in self.doses)

    @property
    def is_control(self) -> bool:
        """Whether nothing is dosed."""
        return not self.doses

    def label(self, control: str = "control") -> str:
        """The name a data set's perturbation column would hold."""
        return "+".join(str(dose) for dose in self.doses) or control

    def __or__(self, other: Schedule) -> Schedule:
        return Schedule(self.doses + other.doses)

    def __repr__(self) -> str:
        return f"do({self.label('')!r})" if self.doses else "do()"


def _in_full(number: float) -> str:
    """A number that reads back as itself, without an exponent: its '+' would join two doses."""
    return np.format_float_positional(number, trim="-")


def _parse(text: str, control: str = "control", at: float = 0.0, amount: float = 1.0) -> tuple[Dose, ...]:
    members = [part.strip() for part in text.split("+")]
    return tuple(_parse_dose(part, text, at, amount) for part in members if part not in ("", control))


def _parse_dose(part: str, text: str, at: float, amount: float) -> Dose:
    name, _, strength = part.partition("*")
    token, _, time = name.partition("@")
    try:
        dose = Dose(token.strip(), float(time or at), float(strength or amount))
        if not (dose.token and math.isfinite(dose.at) and math.isfinite(dose.amount)):
            raise ValueError
        return dose
    except ValueError:
        raise ScheduleError(
            f"the schedule '{text}' cannot be read at '{part}'; write NAME, NAME@TIME or NAME@TIME*AMOUNT, "
            "joined by '+'."
        ) from None


def do(*names: str, at: float = 0.0, dose: float = 1.0) -> Schedule:
    """The intervention that doses ``names`` from time ``at`` on (Pearl's do-operator on the schedule u).

    Args:
        *names: Perturbation names; ``do()`` is the control. A name may use the whole syntax of
            :meth:`Schedule.parse`, whose own times and amounts win over ``at`` and ``dose``.
        at: Time from which the doses act, in the data's unit.
        dose: Strength of the doses.

    Returns:
        The schedule; join schedules with ``|``.

    Raises:
        ScheduleError: A name is dosed twice or cannot be read.

    Example:
        >>> do("KLF1", at=0) | do("MAP2K6", at=24)
        do('KLF1+MAP2K6@24')
        >>> do("A+B") == do("A", "B")
        True
        >>> do().is_control
        True
    """
    return Schedule(tuple(one for name in names for one in _parse(name, at=at, amount=dose)))
