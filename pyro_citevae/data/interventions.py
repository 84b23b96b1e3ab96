"""Schedules of perturbations: which token is dosed, from when, and how strongly."""

from __future__ import annotations

from dataclasses import dataclass

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
        at = "" if self.at == 0 else f"@{self.at:g}"
        amount = "" if self.amount == 1 else f"*{self.amount:g}"
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
        members = [part.strip() for part in text.split("+")]
        return cls(tuple(_parse_dose(part, text) for part in members if part not in ("", control)))

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


def _parse_dose(part: str, text: str) -> Dose:
    name, _, amount = part.partition("*")
    token, _, at = name.partition("@")
    try:
        return Dose(token.strip(), float(at or 0), float(amount or 1))
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
    parsed = [member for name in names for member in Schedule.parse(name).doses]
    return Schedule(
        tuple(
            Dose(one.token, one.at if one.at != 0 else at, one.amount if one.amount != 1 else dose)
            for one in parsed
        )
    )
