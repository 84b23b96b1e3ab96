"""The diagnosis of a fit: signs of what makes its forecasts wrong, and a verdict on one line."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
import pandas as pd

from pyro_citevae.infer.discrepancy import Discrepancy
from pyro_citevae.shown import Shown

__all__ = ["COVERAGE", "Diagnosis", "Sign", "adequacy_of", "in_a_word", "not_tried"]

# limits; chosen on the development screens of experiments/calibration
_FEW_STEPS = 1500
_ERROR = 8.0  # times the sampling variance, below which nothing need be explained
_EXPLAINED = 0.3
COVERAGE = 0.12


@final
@dataclass(frozen=True)
class Sign:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        number: What was found; NaN where it could not be looked at.
        limit: What is expected, in words.
        passed: Whether it is as expected; None where it could not be looked at.
        sentence: What that means.
        remedy: What to do where it is not as expected.
    """

    name: str
    number: float
    limit: str
    passed: bool | None
    sentence: str
    remedy: str

    @property
    def verdict(self) -> str:
        """In a word."""
        return in_a_word(self.passed)

    def __str__(self) -> str:
        if self.passed is None:
            return f"{self.name}: not tried. {self.sentence}"
        found = f"{self.name}: {self.verdict} ({self.number:.3g}; {self.limit}). {self.sentence}"
        return found if self.passed else f"{found} {self.remedy}"


@final
@dataclass(frozen=True, repr=False)
class Diagnosis(Shown):
    """What was looked at of a fit, and what came of it.

    Attributes:
        signs: What was looked at.
    """

    signs: tuple[Sign, ...]

    def record(self) -> dict[str, Any]:
        """The verdict and the signs as JSON holds them."""
        signs = [
            {name: None if value != value else value for name, value in asdict(one).items()}
            for one in self.signs
        ]
        return {"verdict": self.verdict, "signs": signs}

    @property
    def failed(self) -> tuple[Sign, ...]:
        """What is not as expected."""
        return tuple(one for one in self.signs if one.passed is False)

    @property
    def passed(self) -> bool:
        """Whether all that could be looked at is as expected."""
        return not self.failed

    @property
    def verdict(self) -> str:
        """The outcome on one line, with the first remedy."""
        tried = sum(one.passed is not None for one in self.signs)
        if self.passed:
            return f"adequacy: passed, {tried} of {len(self.signs)} signs looked at."
        names = ", ".join(one.name for one in self.failed)
        return f"adequacy: failed by {len(self.failed)} of {tried} signs ({names}). {self.failed[0].remedy}"

    def table(self) -> pd.DataFrame:
        """A row a sign, by its name."""
        return pd.DataFrame([asdict(one) for one in self.signs]).set_index("name")

    def facts(self) -> dict[str, str]:
        """The outcome of each sign, and the verdict."""
        said = {one.name: one.verdict for one in self.signs}
        return said | {"verdict": self.verdict}

    def report(self) -> str:
        """The verdict and a sentence for each sign."""
        lines = [self.verdict, "", *(f"{i}. {one}" for i, one in enumerate(self.signs, 1))]
        return "\n".join(textwrap.fill(line, 110, subsequent_indent="   ") for line in lines)

    def __str__(self) -> str:
        return self.report()


def adequacy_of(course: Mapping[str, Any], known: Discrepancy | None, n_programs: int) -> Diagnosis:
    """What a fit can say of itself: how it ended, and how it lies beside the cells that it held back.

    Args:
        course: Steps of the fit, and whether its bound still rose.
        known: What was learnt from held-out cells.
        n_programs: Programs of the model.
    """
    return Diagnosis(
        (_training(course), _seen_effects(known), _intervals(known), _programs(known, n_programs))
    )


def in_a_word(passed: bool | None) -> str:
    """Whether a check passes; None for one that was not tried."""
    return {True: "pass", False: "fail", None: "not tried"}[passed]


def not_tried(name: str, why: str) -> Sign:
    """A sign that could not be looked at."""
    return Sign(name, float("nan"), "", None, why, "")


def _training(course: Mapping[str, Any]) -> Sign:
    """Whether the fit was long enough."""
    steps, rising = course.get("steps", float("nan")), course.get("rising")
    stopped = bool(course.get("interrupted"))
    enough = rising is None and not stopped and not steps < _FEW_STEPS
    return Sign(
        "training",
        float(steps),
        f"{_FEW_STEPS:,} steps at least, and a bound that rises no more",
        enough,
        f"The fit took {steps:,} steps"
        + (" and was interrupted" if stopped else "")
        + (f", and its bound still rose by {rising:.2g} nats a cell in 500." if rising else "."),
        "Fit longer: leave out max_epochs, or raise max_steps.",
    )


def _seen_effects(known: Discrepancy | None) -> Sign:
    """Whether the program has the effects of the cells that it has not seen."""
    if known is None:
        return not_tried("seen effects", "The fit held no cells back; leave validation= at its default.")
    found = known.held_out
    if not np.isfinite(found.error):
        return not_tried("seen effects", "No perturbation has held-out cells beside controls of its time.")
    return Sign(
        "seen effects",
        found.explained,
        f"{_EXPLAINED:g} explained at least, unless the error is below {_ERROR:g} sampling errors",
        found.explained >= _EXPLAINED or found.error < _ERROR,
        f"The program explains {found.explained:.0%} of the effects in held-out cells beyond their noise, "
        f"and misses them by {found.error:.2g} times their sampling variance.",
        "Raise n_programs or hidden, or read the screen's batches; until then effects of seen perturbations "
        "lean on their own cells, and forecasts of others are not to be believed.",
    )


def _intervals(known: Discrepancy | None) -> Sign:
    """Whether held-out profiles lie where they are expected."""
    if known is None:
        return not_tried("intervals", "The fit held no cells back; leave validation= at its default.")
    found = known.held_out
    return Sign(
        "intervals",
        found.coverage_80,
        f"0.8 within {COVERAGE:g}",
        abs(found.coverage_80 - 0.8) <= COVERAGE,
        f"Held-out profiles lie in {found.coverage_50:.0%}, {found.coverage_80:.0%} and "
        f"{found.coverage_95:.0%} of their 50, 80 and 95 % intervals.",
        "Look at which groups lie outside (posterior.discrepancy); a group of another kind of cells does so.",
    )


def _programs(known: Discrepancy | None, K: int) -> Sign:
    """Whether there are as many programs as the effects ask for."""
    if known is None or not np.isfinite(known.held_out.directions):
        return not_tried("programs", "There are no held-out effects to count directions of.")
    found = known.held_out.directions
    return Sign(
        "programs",
        found,
        f"{K} programs or fewer",
        found <= K,
        f"The effects have {found:.0f} independent direction{'' if found == 1 else 's'} that held-out cells "
        f"show too, and the model has {K} programs.",
        f"Make the model with n_programs={int(2 * found)}.",
    )
