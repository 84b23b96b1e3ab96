"""What one condition of identifiability came to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

__all__ = ["Finding"]


@dataclass(frozen=True)
class Finding:
    """What one condition came to.

    Attributes:
        quantity: What the number is.
        number: The number in each draw; none where the condition cannot apply.
        threshold: What it is compared with.
        at_least: Whether it has to reach the threshold, or to stay below it.
        passed: Whether each draw passes.
        sentence: What was seen, or why the condition cannot apply.
    """

    quantity: str
    number: Float[np.ndarray, " draw"]
    threshold: float
    at_least: bool
    passed: Bool[np.ndarray, " draw"]
    sentence: str

    @classmethod
    def none(cls, quantity: str, why: str) -> Finding:
        """A condition that cannot apply."""
        return cls(quantity, np.zeros(0), float("nan"), True, np.zeros(0, dtype=bool), why)
