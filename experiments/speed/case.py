"""One line of the table: what is compared, the ratio it must reach, and what was measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

__all__ = ["Case", "Measured", "Result", "Target", "UnavailableError"]


class UnavailableError(Exception):
    """Why a case cannot be measured here, in one sentence with the way out."""


@dataclass(frozen=True)
class Target:
    """What a ratio must reach; a figure without a bound is printed, and neither passes nor misses.

    Attributes:
        of: What the ratio is of.
        kind: Which side of the bound is good.
        bound: The bound.
    """

    of: str
    kind: Literal["at least", "at most"] = "at least"
    bound: float | None = None

    def reached(self, ratio: float) -> bool | None:
        """Whether a ratio is on the good side."""
        if self.bound is None:
            return None
        return ratio >= self.bound if self.kind == "at least" else ratio <= self.bound

    def __str__(self) -> str:
        return "printed" if self.bound is None else f"{self.kind} {self.bound:g}"


@dataclass(frozen=True)
class Measured:
    """What a case gave.

    Attributes:
        ratios: The ratio in each round.
        note: Medians in units, and whatever else belongs beside the ratio.
        holds: False where something that must hold beside the ratio does not, such as an accuracy.
    """

    ratios: Sequence[float]
    note: str
    holds: bool = True


@dataclass(frozen=True)
class Case:
    """A comparison that can be measured.

    Attributes:
        row: Name of the row of the table.
        name: What is varied within the row, such as the sizes.
        target: What its ratio must reach.
        measure: Measures it; raises :class:`UnavailableError` where it cannot be.
    """

    row: str
    name: str
    target: Target
    measure: Callable[[], Measured]


@dataclass(frozen=True)
class Result:
    """A measured case, as it is written.

    Attributes:
        row: As in the case.
        case: Its name.
        of: What the ratio is of.
        target: What it must reach, in words.
        ratio: Median over the rounds; None where it could not be measured.
        low: Smallest ratio of a round.
        high: Largest ratio of a round.
        rounds: Number of rounds.
        passed: Whether the target is reached; None without a bound or a measurement.
        note: Medians in units, or why it was not measured.
        machine: Threads, load and versions when it was measured.
    """

    row: str
    case: str
    of: str
    target: str
    ratio: float | None
    low: float | None
    high: float | None
    rounds: int
    passed: bool | None
    note: str
    machine: dict[str, Any]

    @classmethod
    def of_case(cls, case: Case, machine: dict[str, Any]) -> Result:
        """Measures a case."""
        said = (case.row, case.name, case.target.of, str(case.target))
        try:
            found = case.measure()
        except UnavailableError as error:
            return cls(*said, None, None, None, 0, None, f"not measured: {error}", machine)
        ratio = float(np.median(found.ratios))
        reached = case.target.reached(ratio)
        passed = reached if found.holds else False
        low, high = float(min(found.ratios)), float(max(found.ratios))
        return cls(*said, ratio, low, high, len(found.ratios), passed, found.note, machine)

    def line(self) -> str:
        """The line of the table."""
        mark = {True: "pass", False: "**miss**", None: ""}[self.passed]
        ratio = "" if self.ratio is None else f"{self.ratio:.3g} ({self.low:.3g}-{self.high:.3g})"
        return f"| {self.row} | {self.case} | {self.of} | {ratio} | {self.target} | {mark} | {self.note} |"
