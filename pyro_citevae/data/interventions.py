"""Schedules of perturbations: which token is dosed, from when, and how strongly."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pyro_citevae.arguments import Number, number
from pyro_citevae.errors import ScheduleError

__all__ = ["AMOUNTS", "Dose", "Schedule", "do", "members_of"]

AMOUNTS = (1e-30, 1e30)
"""Amounts other than 0 lie between these: single precision holds their shares and products."""

_QUOTED = re.compile(r'"(?P<name>(?:[^"]|"")+)"(?P<rest>.*)', re.DOTALL)
_BRACKETS = {")": "(", "]": "[", "}": "{"}


@dataclass(frozen=True, order=True)
class Dose:
    """One perturbation token, dosed from a time on.

    It prints as ``A``, ``A@24`` or ``A*0.5``. A name that would read as something else is printed in double
    quotes, as in ``"HLA-DRB1*15"``; a quote within is doubled.

    Attributes:
        token: Name of the perturbation, usually the perturbed gene.
        at: Time from which the dose acts, in the data's unit.
        amount: Strength; 1 for a knock-out, less for a partial knock-down.

    Raises:
        ScheduleError: The time is not between 0 and 1e30, or the amount neither 0 nor between 1e-30 and 1e30.
    """

    token: str
    at: float = 0.0
    amount: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.at <= AMOUNTS[1]:
            raise ScheduleError(
                f"the dose of '{self.token}' begins at {self.at:g}; give a time from 0 to {AMOUNTS[1]:g}."
            )
        if self.amount != 0 and not AMOUNTS[0] <= self.amount <= AMOUNTS[1]:
            raise ScheduleError(
                f"the dose of '{self.token}' is {self.amount:g}; doses are 0, or between {AMOUNTS[0]:g} and "
                f"{AMOUNTS[1]:g} in one unit."
            )

    def __str__(self) -> str:
        return self.text()

    def text(self, quoted: bool = False) -> str:
        """The dose as a schedule is written.

        Args:
            quoted: Write the name in quotes, whether it needs them or not.
        """
        at = "" if self.at == 0 else f"@{_in_full(self.at)}"
        amount = "" if self.amount == 1 else f"*{_in_full(self.amount)}"
        plain = not quoted and members_of(self.token) == [self.token] and not set('"@*') & set(self.token)
        name = self.token if plain else '"' + self.token.replace('"', '""') + '"'
        return f"{name}{at}{amount}"


@dataclass(frozen=True)
class Schedule:
    """A set of doses, the value of ``do(...)``; no dose at all is the control.

    Schedules combine with ``|``, and print as ``A``, ``A+B`` or ``A+B@24``. A text is divided at ``+`` only
    where every member can be a name: ``(+)-JQ1`` and ``CD4+`` are one name each. A name that holds ``+``,
    ``@`` or ``*`` otherwise is written in double quotes.

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
        """Reads ``A``, ``A+B``, ``A@0+B@24``, ``A*0.5``, a name in double quotes, or the control's name.

        Raises:
            ScheduleError: A time or an amount is no number, or a name is dosed twice.

        Example:
            >>> Schedule.parse("KLF1@0+MAP2K6@24")
            do('KLF1+MAP2K6@24')
            >>> Schedule.parse("(+)-JQ1").tokens, Schedule.parse('A+"HLA-DRB1*15"').tokens
            (('(+)-JQ1',), ('A', 'HLA-DRB1*15'))
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
        if len(self.doses) < 2:
            return "".join(one.text(quoted=one.token == control) for one in self.doses) or control
        numbers = all(token.isdigit() for token in self.tokens)
        among = {token: "+" in token or not (numbers or _can_be_a_name(token)) for token in self.tokens}
        return "+".join(one.text(quoted=among[one.token] or one.token == control) for one in self.doses)

    def __or__(self, other: Schedule) -> Schedule:
        return Schedule(self.doses + other.doses)

    def __repr__(self) -> str:
        return f"do({self.label('')!r})" if self.doses else "do()"


def _in_full(number: float) -> str:
    """A number that reads back as itself, without an exponent: its '+' would join two doses."""
    return np.format_float_positional(number, trim="-")


def members_of(text: str, separator: str = "+") -> list[str]:
    """The parts of a label that are joined by a separator, each a name with what stands behind it.

    A label is divided only where all parts can be names: they hold a letter (or are numbers, all of them),
    begin and end with one or with a bracket, and their brackets are closed. Quotes hide what they hold.

    Args:
        text: The label.
        separator: What joins members.

    Returns:
        The parts without the blanks around them, or the whole text.

    Example:
        >>> members_of("A+B@24"), members_of("(+)-JQ1"), members_of("17+beta-estradiol")
        (['A', 'B@24'], ['(+)-JQ1'], ['17+beta-estradiol'])
    """
    parts = [part.strip() for part in _outside_quotes(text, separator)]
    names = [re.split(r"[@*]", part, maxsplit=1)[0].strip() for part in parts]
    numbers = all(name.isdigit() for name in names)
    if len(parts) > 1 and all(numbers or _can_be_a_name(name) for name in names):
        return parts
    return [text.strip()]


def _outside_quotes(text: str, separator: str) -> Iterable[str]:
    """The parts of a text between separators that stand in no quotes."""
    if '"' not in text:
        return text.split(separator)
    return re.split(re.escape(separator) + r'(?=(?:[^"]*"[^"]*")*[^"]*$)', text)


def _can_be_a_name(text: str) -> bool:
    """Whether a text can be a name that stands alone."""
    if text.startswith('"'):
        return True
    open_: list[str] = []
    for letter in text:
        if letter in _BRACKETS.values():
            open_.append(letter)
        elif letter in _BRACKETS and (not open_ or open_.pop() != _BRACKETS[letter]):
            return False
    ends = (text[:1].isalnum() or text[:1] in "([{_'") and (text[-1:].isalnum() or text[-1:] in ")]}_'")
    return bool(text) and not open_ and ends and any(letter.isalpha() for letter in text)


def _parse(text: str, control: str = "control", at: float = 0.0, amount: float = 1.0) -> tuple[Dose, ...]:
    if text.strip() in ("", control):
        return ()
    members = members_of(text)
    return tuple(_parse_dose(part, text, at, amount) for part in members if part not in ("", control))


def _parse_dose(part: str, text: str, at: float, amount: float) -> Dose:
    quoted = _QUOTED.fullmatch(part)
    token, rest = (quoted["name"].replace('""', '"'), quoted["rest"]) if quoted else ("", part)
    name, _, strength = rest.partition("*")
    before, _, time = name.partition("@")
    token = token or before.strip()
    try:
        begins, given = float(time or at), float(strength or amount)
        if not token or (quoted and before.strip()) or not (math.isfinite(begins) and math.isfinite(given)):
            raise ValueError
        return Dose(token, begins, given)
    except ValueError:
        raise ScheduleError(
            f"the schedule '{text}' cannot be read at '{part}'; write NAME, NAME@TIME or NAME@TIME*AMOUNT, "
            "joined by '+', and a name that holds + @ or * in double quotes."
        ) from None


def do(*names: str, at: Number = 0.0, dose: Number = 1.0) -> Schedule:
    """The intervention that doses ``names`` from time ``at`` on (Pearl's do-operator on the schedule u).

    Args:
        *names: Perturbation names; ``do()`` is the control. A name may use the whole syntax of
            :meth:`Schedule.parse`, whose own times and amounts win over ``at`` and ``dose``.
        at: Time from which the doses act, in the data's unit.
        dose: Strength of the doses.

    Returns:
        The schedule; join schedules with ``|``.

    Raises:
        ScheduleError: A name is dosed twice or cannot be read, or a time or a dose is below zero.
        DataError: ``at`` or ``dose`` is no number.

    Example:
        >>> do("KLF1", at=0) | do("MAP2K6", at=24)
        do('KLF1+MAP2K6@24')
        >>> do("A+B") == do("A", "B")
        True
        >>> do().is_control
        True
    """
    begins, amount = number(at, "do(at=...)"), number(dose, "do(dose=...)")
    for name in names:
        if not isinstance(name, str):
            raise ScheduleError(f"do({name!r}) is no name of a perturbation; give texts, as in do('A', 'B').")
    return Schedule(tuple(one for name in names for one in _parse(name, at=begins, amount=amount)))
