"""How objects show themselves: three short lines in a terminal, a small table in a notebook."""

from __future__ import annotations

import reprlib
import textwrap
from collections.abc import Mapping
from html import escape
from typing import Any

__all__ = ["Shown", "ShownModule", "as_html", "as_text"]

_WIDTH = 110
_LINES = 3
_LENGTHS = (300, 150, 100, 75, 60, 48, 36, 24)  # of a single fact, tried in turn


class Shown:
    """An object that shows itself by its facts; a subclass says them by :meth:`facts`.

    A dataclass needs ``repr=False``, since it would write a ``repr`` of its own.

    Example:
        >>> class Fit(Shown):
        ...     def facts(self):
        ...         return {"cells": f"{14945:,}", "best gene": "<script>"}
        >>> Fit()
        Fit(cells: 14,945; best gene: <script>)
        >>> "<script>" in Fit()._repr_html_()
        False
    """

    __slots__ = ()

    def facts(self) -> Mapping[str, str]:
        """What the object is, in a few words for each thing."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return as_text(type(self).__name__, self.facts())

    def _repr_html_(self) -> str:
        return as_html(type(self).__name__, self.facts())


class ShownModule(Shown):
    """A torch module that shows itself by the arguments that it was made with, its ``settings``."""

    parameters: Any
    settings: dict[str, Any]

    def facts(self) -> dict[str, str]:
        """The number of its parameters, and its arguments."""
        said = {"parameters": f"{sum(one.numel() for one in self.parameters()):,}"}
        return said | {name: reprlib.repr(value) for name, value in vars(self).get("settings", {}).items()}


def as_text(title: str, facts: Mapping[str, str]) -> str:
    """A title and facts on at most three lines of 110 characters; the longest facts are cut first.

    Args:
        title: What the object is called.
        facts: What is said of it, by what it is of.

    Example:
        >>> as_text("Split", {"held out": "time=5"})
        'Split(held out: time=5)'
    """
    lines: list[str] = []
    for length in _LENGTHS:
        said = "; ".join(f"{name}: {_short(value, length)}" for name, value in facts.items())
        lines = textwrap.wrap(f"{title}({said})", _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
        if len(lines) <= _LINES:
            return "\n".join(lines)
    return "\n".join([*lines[: _LINES - 1], f"  {_short(lines[_LINES - 1], _WIDTH - 6)} ..."])


def as_html(title: str, facts: Mapping[str, str]) -> str:
    """The same as a table, each name and fact as text."""
    rows = "".join(
        f'<tr><th style="text-align: left">{escape(name)}</th>'
        f'<td style="text-align: left">{escape(value)}</td></tr>'
        for name, value in facts.items()
    )
    return f'<table class="citevae"><caption>{escape(title)}</caption>{rows}</table>'


def _short(value: str, length: int) -> str:
    """The beginning of a text, on one line."""
    said = " ".join(value.split())
    return said if len(said) <= length else f"{said[: length - 4].rstrip(' ,;')} ..."
