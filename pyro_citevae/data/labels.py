"""Labels: what the cells of a screen say of their perturbation, read as schedules."""

from __future__ import annotations

import ast
import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import pandas as pd

from pyro_citevae.data.interventions import Dose, Schedule, members_of
from pyro_citevae.errors import DataError, ScheduleError

__all__ = ["MISSING", "Labels", "controls_in", "missing", "require_shown", "texts"]

MISSING = ("", "nan", "NaN", "None", "<NA>", "NaT", "[]")
"""Texts that stand for a value that is not there, as pandas, R and spreadsheets write it."""

_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE]-?\d+)?")
_DOSED = re.compile(rf"(?P<name>.+?)(?:@(?P<at>{_NUMBER.pattern}))?(?:\*(?P<amount>{_NUMBER.pattern}))?")
_BELOW = re.compile(rf".*[@*]-{_NUMBER.pattern}([@*].*)?", re.DOTALL)
_BREAKS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_SIGNS = '+@*" '


def texts(values: Any) -> pd.Series:
    """Values of any dtype as texts, without blanks around them; a missing one is a word such as ``nan``.

    Bytes are what they say.

    Example:
        >>> texts(pd.Series([1, None, "A "], dtype=object)).tolist()
        ['1', 'None', 'A']
    """
    found = pd.Series(values)
    return found.astype(object).map(_text).str.strip()


def _text(value: Any) -> str:
    return value.decode("utf8", "backslashreplace") if isinstance(value, bytes) else str(value)


def require_shown(names: Iterable[str], said: str, *, breaks_only: bool = False) -> None:
    """Refuses names with signs that are not shown: no one could type them, and some end a name too soon.

    Args:
        names: The names.
        said: Where they stand, for messages.
        breaks_only: Whether zero-width signs and the like may be there, and only breaks may not.

    Raises:
        DataError: A name has such a sign.

    Example:
        >>> require_shown(["A", "A\u200b"], "obs['guide']")
        Traceback (most recent call last):
        ...
        pyro_citevae.errors.DataError: obs['guide'] holds 'A\u200b', with a sign that is not shown; ...
    """
    for text in set(map(str, names)):
        if not text.isprintable() and (not breaks_only or _BREAKS.search(text)):
            raise DataError(f"{said} holds {text!r}, with a sign that is not shown; write it without.")


def missing(values: pd.Series) -> pd.Series:
    """Which values are not there: missing ones of any dtype, and the words that stand for them.

    Example:
        >>> missing(pd.Series(["A", None, "nan", " "])).tolist()
        [False, True, True, True]
    """
    return values.isna() | texts(values).isin(MISSING)


@final
@dataclass(frozen=True)
class Labels:
    """How the labels of a screen are read.

    A control's label is matched whole and first, then a name that is known. Otherwise a label is divided at
    the separator, and each member may carry a time and an amount, as in ``A@24*0.5``, where that is a
    number. What carries something else is a name as it stands.

    Attributes:
        said: The column, for messages.
        control: Label of the controls in the schema.
        controls: Every label of the file that means a control.
        separator: What joins members; None for ``+`` between names, empty for none.
        known: Names that are taken whole, such as the tokens of an earlier data set.
        dosed: Names X of which ``X*N`` is X at dose N, for N above 1.
        wanted: Names and patterns of controls, which members of a label may be too.
    """

    said: str
    control: str
    controls: frozenset[str]
    separator: str | None = None
    known: frozenset[str] = frozenset()
    dosed: frozenset[str] = frozenset()
    wanted: tuple[str, ...] = ()

    def is_control(self, part: str) -> bool:
        """Whether a label, or a member of one, means a control."""
        return part in self.controls or bool(controls_in([part], self.wanted))

    def names_nothing(self, text: str) -> bool:
        """Whether a label is no control's and holds nothing but what joins names, times and amounts."""
        return (
            self.separator != ""
            and not self.is_control(text)
            and set(text) <= {*_SIGNS, *(self.separator or "")}
        )

    def members(self, text: str) -> list[str]:
        """The members of a label that is no control, in the order they are written."""
        listed = _listed(text)
        if listed is not None:
            return listed
        if self.separator == "" or text in self.known:
            return [text]
        if self.separator is None:
            return members_of(text)
        parts = [part.strip() for part in text.split(self.separator)]
        return parts if all(parts) else [text]

    def schedule(
        self, text: str, members: Sequence[str] | None = None, amounts: Sequence[float] = ()
    ) -> Schedule:
        """What a label says.

        Args:
            text: The label.
            members: Its members, if something else than the separator says them.
            amounts: The amount of each member, if a column holds them.

        Raises:
            DataError: A control has a time or a dose, a dose is out of range, or a perturbation is there
                twice.
        """
        if self.is_control(text):
            return Schedule()
        parts = self.members(text) if members is None else members
        try:
            doses = [self._dose(part, text, split=bool(amounts)) for part in parts]
            if amounts:
                doses = [None if one is None else Dose(one.token, one.at, amount)
                         for one, amount in zip(doses, amounts, strict=True)]  # fmt: skip
        except ScheduleError as error:
            raise DataError(f"{self.said} holds '{text}': {error}") from None
        try:
            return Schedule(tuple(one for one in doses if one is not None))
        except ScheduleError as error:
            once = next((one for one in parts if list(parts).count(one) > 1), parts[0])
            raise DataError(
                f"{self.said} holds '{text}': {str(error).partition('; ')[0]}; write '{once}' once, where "
                "two guides are of one gene."
            ) from None

    def _dose(self, part: str, text: str, *, split: bool) -> Dose | None:
        """A member as a dose; None for a control."""
        if self.is_control(part):
            return None
        if part in self.known or self.separator == "" or split:
            return Dose(part)
        if part.startswith('"'):
            return Schedule.parse(part).doses[0]
        before = re.split(r"[@*]", part, maxsplit=1)[0].strip()
        if before != part and self.is_control(before):
            raise DataError(
                f"{self.said} holds '{text}', a control with a time or a dose; write '{before}', or the "
                "whole in double quotes if it is a name."
            )
        if _BELOW.fullmatch(part):
            raise DataError(
                f"{self.said} holds '{text}', a time or a dose below zero; write the whole in double quotes "
                "if it is a name."
            )
        found = _DOSED.fullmatch(part)
        name, at, amount = (part, None, None) if found is None else found.group("name", "at", "amount")
        name = name.strip()
        if amount and float(amount) > 1 and name not in self.dosed | self.known:
            return Dose(part)
        return Dose(name, float(at or 0), float(amount or 1))

    @classmethod
    def of(
        cls,
        column: str,
        labels: Iterable[str],
        wanted: Sequence[str],
        *,
        separator: str | None,
        known: Iterable[str] = (),
        control: str | None = None,
    ) -> Labels:
        """How the labels of a column are read.

        Args:
            column: Name of the column.
            labels: The distinct labels.
            wanted: Names and patterns of the controls.
            separator: As the attribute.
            known: Tokens of an earlier data set.
            control: Label of the controls there; None to choose it among these.
        """
        distinct = list(dict.fromkeys(labels))
        found = controls_in(distinct, wanted)
        named = control or next((one for one in wanted if one in found), _stem(wanted[0], distinct))
        whole = [one for one in wanted if one in found or one == control]
        parts = {part for one in whole for part in one.split(separator or "+")}
        controls = frozenset({*found, named, *(part.strip() for part in parts)} - {""})
        first = cls(f"obs['{column}']", named, controls, separator, frozenset(known), wanted=tuple(wanted))
        return replace(first, dosed=_dosed_names(first, distinct))


def controls_in(labels: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The labels that name a control: those wanted, and those that fit a pattern with ``*``, ``?`` or ``[]``.

    Example:
        >>> controls_in(["A", "NT_1", "NT_2", "ctrl*"], ["NT_*", "ctrl*"])
        ['NT_1', 'NT_2', 'ctrl*']
    """
    found: dict[str, None] = {}
    for one in wanted:
        if one in labels:
            found[one] = None
        elif set("*?[") & set(one):
            found |= dict.fromkeys(label for label in labels if fnmatch.fnmatchcase(label, one))
    return list(found)


def _stem(pattern: str, labels: Sequence[str]) -> str:
    """The name of all controls that fit a pattern: what it says itself, if no other label is called so."""
    stem = re.sub(r"[-_ .]*[*?\[].*$", "", pattern)
    return stem if stem and stem not in labels else "control"


def _listed(text: str) -> list[str] | None:
    """The members of a label that is a list as Python writes it, such as ``['A', 'B']``."""
    if text[:1] not in "[({" or not set("'\"") & set(text):
        return None
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return None
    listed = isinstance(value, list | tuple | set) and all(isinstance(one, str) and one for one in value)
    return sorted(value) if listed and value else None


def _dosed_names(labels: Labels, distinct: Sequence[str]) -> frozenset[str]:
    """Names that stand alone, or at two amounts, beside ``NAME*AMOUNT`` with an amount above 1."""
    amounts: dict[str, set[str]] = {}
    for text in distinct:
        for part in [] if labels.is_control(text) else labels.members(text):
            found = None if part in labels.known else _DOSED.fullmatch(part)
            if found is not None and not part.startswith('"'):
                amounts.setdefault(found["name"], set()).add(found["amount"] or "")
    return frozenset(
        name
        for name, given in amounts.items()
        if len(given) > 1
        and any(one and float(one) > 1 for one in given)
        and not any(re.match(r"0\d", one) for one in given)
    )
