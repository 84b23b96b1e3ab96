"""Columns: where an AnnData keeps what a screen needs, each named once for Python and the command line."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, final

import numpy as np

from pyro_citevae.arguments import whole
from pyro_citevae.errors import DataError

__all__ = ["Columns", "takes_columns"]

_Taker = TypeVar("_Taker", bound=Callable[..., Any])


def _column(what: str, default: object = None) -> Any:
    """A column with the line that the command line shows."""
    return field(default=default, metadata={"help": what})


@final
@dataclass(frozen=True, kw_only=True)
class Columns:
    """Where an AnnData keeps what a screen needs.

    Attributes:
        perturbation: Column of ``obs`` with ``"A"``, ``"A+B"`` or ``"A+B@24"`` (B from time 24 on); None for
            ``"perturbation"``, or the column of a published layout.
        control: Label of the unperturbed cells in that column, or several, or patterns such as
            ``"non-targeting*"``; none for ``"control"``, or the layout's. All of them become one control.
        separator: What joins the members of a combination; None for ``+`` where all members can be names
            (``(+)-JQ1`` is one), and ``""`` if every label is one name as it stands.
        dose: Column of ``obs`` with the amount of each perturbation, in one unit, such as ``10`` or
            ``"1+0.5"``; None where labels say it.
        time: Column of ``obs`` with times since the perturbation: numbers, or ``"D4"``, ``"24h"``, durations;
            None for a snapshot.
        genes: Column of ``var`` with the names of the genes; None for its index.
        layer: Layer that holds the counts, or ``"raw"`` for ``.raw``; None for ``X``.
        library: Column of ``obs`` with library sizes; None for the sum over the genes given.
        batch: Column of ``obs`` with technical batches.
        context: Column of ``obs`` with what kind of cell it is (type, line, donor), which no perturbation
            changes; each context has a start, a baseline and mechanisms of its own.
        sequence: Column of ``obs`` that says which rows are the same cell at several times.
        exclude: Labels whose cells are left out, such as ``"unassigned"``.
        candidates: Perturbations without cells that a model shall predict; see :mod:`features`.
        layout: ``"plain"``, or a published layout that says what is not named here: ``"gears"``,
            ``"scperturb"``, ``"vcc"`` or ``"cpa"``, see :mod:`pyro_citevae.data.published_layouts`. None
            takes the one that the file is surely in, unless ``perturbation`` is named.
        most_genes: Number of genes to keep; None for all. Kept are the perturbed genes, and those whose
            counts vary most beyond Poisson among the controls: no perturbed cell has a say. Library sizes
            go on counting all genes.

    Example:
        >>> Columns(time="day").time
        'day'
    """

    perturbation: str | None = _column("Column of obs with labels A, A+B.")
    control: tuple[str, ...] = _column("Label of unperturbed cells, or a pattern; may be repeated.", ())
    separator: str | None = _column("What joins a combination's members; '+' if not given, '' for none.")
    dose: str | None = _column("Column of obs with doses.")
    time: str | None = _column("Column of obs with times.")
    genes: str | None = _column("Column of var with the genes' names; its index if not given.")
    layer: str | None = _column("Layer with counts, or raw; X if not given.")
    library: str | None = _column("Column of obs with library sizes.")
    batch: str | None = _column("Column of obs with technical batches.")
    context: str | None = _column("Column of obs with contexts: cell types, lines or donors.")
    sequence: str | None = _column("Column of obs that joins a cell's rows.")
    exclude: tuple[str, ...] = _column("Label to leave out; may be repeated.", ())
    candidates: tuple[str, ...] = _column("Perturbations without cells, to be predicted.", ())
    layout: str | None = _column("plain, gears, scperturb, vcc or cpa; what the file surely is if not given.")
    most_genes: int | None = _column("Keep the perturbed and the most variable genes; all if not given.")

    @classmethod
    def of(cls, said: str, given: Mapping[str, Any]) -> Columns:
        """The columns that a call names; a single text where names are listed is one name.

        Args:
            said: The call, for the message.
            given: Values by name; None is as not given.

        Raises:
            DataError: A name is none of a column.

        Example:
            >>> Columns.of("f", {"exclude": "unassigned", "time": None}).exclude
            ('unassigned',)
        """
        defaults = {one.name: one.default for one in fields(cls)}
        for name in given.keys() - defaults.keys():
            near = difflib.get_close_matches(name, defaults, n=1)
            way_out = f"did you mean {near[0]}=" if near else f"the columns are {', '.join(defaults)}"
            raise DataError(f"{said}({name}=...) is not an argument; {way_out}.")
        named = {name: value for name, value in given.items() if value is not None}
        listed = {name for name, default in defaults.items() if default == ()}
        for name in listed & named.keys():
            one = isinstance(named[name], str) or np.ndim(named[name]) == 0
            named[name] = tuple(str(each) for each in ([named[name]] if one else named[name]))
        for name in named.keys() - listed - {"most_genes"}:
            if not isinstance(named[name], str):
                raise DataError(f"{said}({name}={named[name]!r}) is no text; give the name of a column.")
        if "most_genes" in named:
            named["most_genes"] = whole(named["most_genes"], f"{said}(most_genes=...)")
        return cls(**named)


def takes_columns(function: _Taker) -> _Taker:
    """Shows the columns in the signature of a function that takes them as ``**columns``."""
    signature = inspect.signature(function)
    kept = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    columns = [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type)
        for one in fields(Columns)
    ]
    function.__signature__ = signature.replace(parameters=[*kept, *columns])  # type: ignore[attr-defined]
    return function
