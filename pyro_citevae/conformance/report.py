"""What was seen of each law, and what to mend where one is broken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from pyro_citevae.errors import ConformanceError

__all__ = ["Report", "Row"]


@final
@dataclass(frozen=True)
class Row:
    """How one law stands.

    Attributes:
        law: Its name.
        sentence: What it says.
        passed: Whether it holds; None if it could not be tried because an earlier one does not.
        seen: What was seen.
        mend: What to do where it is broken.
        advice: Whether it may be broken: what it asks for makes a class faster, and not more right.
    """

    law: str
    sentence: str
    passed: bool | None
    seen: str
    mend: str
    advice: bool = False


@final
@dataclass(frozen=True)
class Report:
    """What was seen of every law.

    Attributes:
        subject: The class that was checked.
        partner: The guide or the model that it was checked with.
        rows: A row for each law, in the order in which they were tried.
    """

    subject: str
    partner: str
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Whether every law holds that has to."""
        return all(row.passed or row.advice for row in self.rows)

    def require(self) -> Report:
        """Returns the report if every law holds.

        Raises:
            ConformanceError: A law is broken; the sentence says what was seen of the first and what to mend.
        """
        broken = [row for row in self.rows if row.passed is False and not row.advice]
        if broken:
            first, more = broken[0], len(broken) - 1
            others = f" ({more} more {'laws are' if more > 1 else 'law is'} broken)" if more else ""
            raise ConformanceError(
                f"{self.subject} with {self.partner} breaks the law '{first.law}': {first.seen}; "
                f"{first.mend}{others}."
            )
        return self

    def __str__(self) -> str:
        held = sum(row.passed is True for row in self.rows)
        lines = [f"{self.subject} with {self.partner}: {held} of {len(self.rows)} laws hold."]
        for row in self.rows:
            broken = "advice" if row.advice else "BROKEN"
            word = {True: "holds", False: broken, None: "not tried"}[row.passed]
            lines.append(f"{word:10}{row.law:13}{row.sentence}")
            if not row.passed:
                lines.append(f"{'':23}seen: {row.seen}.")
            if row.passed is False:
                lines.append(f"{'':23}mend: {row.mend}.")
        return "\n".join(lines)
