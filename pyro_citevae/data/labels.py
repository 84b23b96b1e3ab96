"""Labels: what the cells of a screen say of their perturbation, read as schedules."""

from __future__ import annotations

import ast
import difflib
import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import pandas as pd

from pyro_citevae.data.interventions import Dose, Schedule, members_of
from pyro_citevae.errors import DataError, ScheduleError

__all__ = [
    "MISSING",
    "Labels",
    "controls_in",
    "doubts_of_labels",
    "joined_by",
    "like_controls",
    "like_no_call",
    "missing",
    "near_control",
]

MISSING = ("", "nan", "NaN", "None", "<NA>", "NaT")
"""Texts that stand for a value that is not there, as pandas, R and spreadsheets write it."""

_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE]-?\d+)?")
_DOSED = re.compile(rf"(?P<name>.+?)(?:@(?P<at>{_NUMBER.pattern}))?(?:\*(?P<amount>{_NUMBER.pattern}))?")
_CONTROL = re.compile(
    r"(non|not)?[-_ ]?target(ing|ed)?([-_ ]?(control|ctrl|guide|sgrna))?|ntc?"
    r"|neg(ative)?[-_ .]?(control|ctrl)|control|ctrl|scrambled?|safe[-_ ]?harbou?r|aavs1"
    r"|untreated|unperturbed|vehicle|dmso|mock|wild[-_ ]?type",
    re.IGNORECASE,
)
_NO_CALL = re.compile(
    r"unassigned|unknown|multiplet|doublet|ambiguous|no[-_ ]?guide|negative|none", re.IGNORECASE
)
_GUIDE = re.compile(r"([-_. ]?(sg|g|guide|sgrna)[-_]?\d+|[-_.]\d+|_P\dP\d)$", re.IGNORECASE)
_DATE = re.compile(
    r"\d{1,2}-(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)|(Mar|Sep|Dec)-\d{1,2}", re.IGNORECASE
)
_SEPARATORS = ("|", ";", ",", "_", "/", "&", ":", "-", " ")
_FEWEST_JOINED = 2


def missing(values: pd.Series) -> pd.Series:
    """Which values are not there: missing ones of any dtype, and the words that stand for them.

    Example:
        >>> missing(pd.Series(["A", None, "nan", " "])).tolist()
        [False, True, True, True]
    """
    return values.isna() | values.astype(str).str.strip().isin(MISSING)


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
    """

    said: str
    control: str
    controls: frozenset[str]
    separator: str | None = None
    known: frozenset[str] = frozenset()
    dosed: frozenset[str] = frozenset()

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
            DataError: A control has a time or a dose, or a perturbation is there twice.
        """
        if text in self.controls:
            return Schedule()
        parts = self.members(text) if members is None else members
        doses = [self._dose(part, text, split=bool(amounts)) for part in parts]
        if amounts:
            doses = [None if one is None else Dose(one.token, one.at, amount)
                     for one, amount in zip(doses, amounts, strict=True)]  # fmt: skip
        try:
            return Schedule(tuple(one for one in doses if one is not None))
        except ScheduleError as error:
            raise DataError(f"{self.said} holds '{text}': {error}") from None

    def _dose(self, part: str, text: str, *, split: bool) -> Dose | None:
        """A member as a dose; None for a control."""
        if part in self.controls:
            return None
        if part in self.known or self.separator == "" or split:
            return Dose(part)
        if part.startswith('"'):
            return Schedule.parse(part).doses[0]
        found = _DOSED.fullmatch(part)
        name, at, amount = (part, None, None) if found is None else found.group("name", "at", "amount")
        if (at or amount) and name in self.controls:
            raise DataError(
                f"{self.said} holds '{text}', a control with a time or a dose; write '{name}', or the "
                "whole in "
                "double quotes if it is a name."
            )
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
        named = control or next((one for one in wanted if one in found), found[0] if found else wanted[0])
        controls = frozenset({*found, named})
        first = cls(f"obs['{column}']", named, controls, separator, frozenset(known))
        return cls(first.said, named, controls, separator, first.known, _dosed_names(first, distinct))


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


def doubts_of_labels(
    labels: Labels,
    cells: Mapping[str, int],
    wanted: Sequence[str],
    genes: Iterable[str],
    whole: Collection[str],
) -> list[str]:
    """What a reader should know of the labels: controls that are not named, members that are not told apart.

    Args:
        labels: How they were read.
        cells: Number of cells of each label.
        wanted: The controls that were named.
        genes: Measured genes: a label that is one is no control.
        whole: Labels that were read as one name.

    Returns:
        A sentence each.
    """
    named, others = set(genes), [one for one in cells if one not in labels.controls]
    said = labels.said
    found = []
    absent = [one for one in wanted if one not in cells and not controls_in(others, [one])]
    absent = [one for one in absent if not controls_in(list(labels.controls & set(cells)), [one])]
    if absent:
        found.append(f"{said} never says '{absent[0]}', which control= names; correct it or leave it out.")
    alike = [one for one in like_controls(others) if one not in named]
    alike += [
        one for one in others if one not in alike and _folded(one) in {_folded(c) for c in labels.controls}
    ]
    if alike:
        listed = ", ".join(repr(one) for one in [*wanted, *alike[:3]])
        found.append(
            f"{said} has labels that look like controls and were read as perturbations: "
            f"{_with_cells(alike, cells)}; name them too, as in control=[{listed}]."
        )
    no_call = [one for one in like_no_call(others) if one not in named]
    if no_call:
        found.append(
            f"{said} has labels that look like cells without a perturbation of their own: "
            f"{_with_cells(no_call, cells)}; leave them out with exclude='{no_call[0]}'."
        )
    if labels.separator is None and (joined := _joined(whole, others, named)):
        separator, examples = joined
        found.append(
            f"{said} has labels such as '{examples[0]}' ({len(examples)} in all) that join names of "
            "others, and "
            f"were read as one perturbation each; read them as combinations with separator='{separator}'."
        )
    held = [one for one in whole if set("@*") & set(one) and not one.startswith('"')]
    if held and labels.separator is None:
        found.append(
            f"{said} has labels such as '{held[0]}' that were read as one name each, since what stands "
            "behind @ or "
            "* is no time or amount; take all labels as names with separator='' if that is right."
        )
    found += _doubts_of_names(said, others, named)
    if labels.dosed:
        name = min(labels.dosed)
        amounts = [one for one in others if one.startswith(f"{name}*")]
        found.append(
            f"{said} has labels such as '{amounts[0]}', which were read as '{name}' at a dose; if they are "
            "names, take all labels as names with separator=''."
        )
    return found


def _doubts_of_names(said: str, names: Sequence[str], genes: set[str]) -> list[str]:
    """Names that may be one perturbation under several, or none that people gave."""
    found = []
    folded: dict[str, list[str]] = {}
    guides: dict[str, list[str]] = {}
    for one in names:
        folded.setdefault(one.casefold(), []).append(one)
        stem = _GUIDE.sub("", one)
        if stem != one and one not in genes and (stem in genes or stem in names):
            guides.setdefault(stem, []).append(one)
    for alike in folded.values():
        if len(alike) > 1:
            listed = " and ".join(f"'{one}'" for one in alike[:2])
            found.append(
                f"{said} says {listed}, which differ by case alone; write both alike if they are one."
            )
            break
    for stem, several in guides.items():
        if len(several) > 1:
            found.append(
                f"{said} has labels such as '{several[0]}' and '{several[1]}', which look like guides of "
                f"'{stem}' and "
                f"were read as perturbations of their own; write '{stem}' for both if they are one."
            )
            break
    dates = [one for one in names if _DATE.fullmatch(one)]
    if dates:
        found.append(
            f"{said} has labels such as '{dates[0]}', which a spreadsheet may have made of a gene "
            "(SEPTIN2, MARCHF1); "
            "write the gene."
        )
    return found


def near_control(labels: Iterable[str], wanted: Sequence[str]) -> str | None:
    """The label that is most like the control that was asked for, or looks like one."""
    distinct = list(labels)
    for one in wanted:
        same = [label for label in distinct if _folded(label) == _folded(one)]
        if same:
            return max(same, key=lambda label: difflib.SequenceMatcher(None, label, one).ratio())
    alike = like_controls(distinct)
    close = difflib.get_close_matches(wanted[0], distinct, n=1, cutoff=0.75)
    return next(iter([*alike, *close]), None)


def like_controls(labels: Iterable[str]) -> list[str]:
    """The labels that look like controls, guides' numbers and all.

    Example:
        >>> like_controls(["STAT1", "non-targeting_00012", "NT-2", "WT1", "DMSO"])
        ['non-targeting_00012', 'NT-2', 'DMSO']
    """
    return [one for one in labels if _looks_like(_CONTROL, one)]


def like_no_call(labels: Iterable[str]) -> list[str]:
    """The labels that look like cells of which no perturbation is known."""
    return [one for one in labels if _NO_CALL.fullmatch(one)]


def joined_by(whole: Collection[str], labels: Sequence[str], genes: set[str]) -> str | None:
    """The separator that divides labels, each read as one name, into names of others.

    Args:
        whole: Labels that were read as one name.
        labels: All labels but the controls'.
        genes: Names of the genes.
    """
    found = _joined(whole, labels, genes)
    return None if found is None else found[0]


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
        for part in [] if text in labels.controls else labels.members(text):
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


def _joined(whole: Collection[str], labels: Sequence[str], genes: set[str]) -> tuple[str, list[str]] | None:
    """A separator that divides labels, each read as one name, into names of others, and these labels."""
    alone = set(labels)
    for separator in _SEPARATORS:
        found = [one for one in whole if separator in one and _are_names(one.split(separator), alone, genes)]
        if found:
            return separator, found
    return None


def _are_names(parts: Sequence[str], alone: set[str], genes: set[str]) -> bool:
    names = [part.strip() for part in parts]
    return len(names) >= _FEWEST_JOINED and all(name in alone or name in genes for name in names)


def _looks_like(pattern: re.Pattern[str], label: str) -> bool:
    """Whether a label fits, with a number or a guide's tail behind it, or not."""
    stem = re.sub(r"([-_ .#](guide|sg|sgrna|g)?\d+|[-_]P\dP\d)+$", "", label, flags=re.IGNORECASE)
    return pattern.fullmatch(stem) is not None


def _folded(label: str) -> str:
    return re.sub(r"[-_ .]", "", label).casefold()


def _with_cells(labels: Sequence[str], cells: Mapping[str, int]) -> str:
    shown = ", ".join(f"'{one}' ({cells[one]} cells)" for one in labels[:3])
    return shown + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")
