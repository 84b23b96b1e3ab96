"""Variants timed in alternation in one process, so that a busy machine slows them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

__all__ = ["alternated", "seconds"]


def alternated(
    variants: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 2
) -> dict[str, np.ndarray]:
    """Seconds of each variant in each round; every other round runs them in the opposite order.

    Args:
        variants: What to time.
        rounds: Number of rounds.
        warm_up: Rounds before them that are not counted.
    """
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(warm_up + rounds):
        names = list(variants) if number % 2 == 0 else list(variants)[::-1]
        for name in names:
            started = time.perf_counter()
            variants[name]()
            if number >= warm_up:
                taken[name].append(time.perf_counter() - started)
    return {name: np.array(values) for name, values in taken.items()}


def seconds(values: np.ndarray) -> str:
    """A median in milliseconds, or in seconds where it is one or more."""
    middle = float(np.median(values))
    return f"{middle:.2f} s" if middle >= 1 else f"{1e3 * middle:.1f} ms"
