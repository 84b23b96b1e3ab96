"""Doubts of labels: what looks like a control, a pair, a guide or a date and was read as a perturbation."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from pyro_citevae.data.labels import Labels, controls_in
from pyro_citevae.errors import few

__all__ = ["doubts_of_labels", "joined_by", "like_controls", "like_no_call", "near_control"]

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
    named, others = set(genes), [one for one in cells if not labels.is_control(one)]
    said = labels.said
    found = []
    parts = [*cells, *(part for one in cells for part in labels.members(one))]
    absent = [one for one in wanted if not controls_in(parts, [one])]
    genes_taken = [one for one in cells if labels.is_control(one) and one in named and one not in wanted]
    if genes_taken:
        found.append(
            f"{said} says '{genes_taken[0]}', a measured gene that control= takes for a control by its "
            "pattern; make the pattern longer."
        )
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
            f"{said} has labels such as '{examples[0]}' ({len(examples)} in all) that join names of others, "
            f"and were read as one perturbation each; read them as combinations with separator='{separator}'."
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
        amounts = [one for one in others if f"{name}*" in one]
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
            f"{said} has labels such as '{dates[0]}', which a spreadsheet may have made of a gene (SEPTIN2, "
            "MARCHF1); write the gene."
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
    """The first of some labels with their cells."""
    return few([f"'{one}' ({cells[one]} cells)" for one in labels])
