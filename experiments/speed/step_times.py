"""When each optimiser step ended, whoever runs the loop: the time of a whole step lies between two ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook

__all__ = ["step_ends"]


@contextmanager
def step_ends() -> Iterator[list[float]]:
    """Collects the clock at the end of every optimiser step of this process.

    Two neighbours are one step apart: data, forward, backward, clipping, update and the loop's own work.
    """
    ends: list[float] = []

    def note(*_: Any) -> None:
        ends.append(time.perf_counter())

    handle = register_optimizer_step_post_hook(note)
    try:
        yield ends
    finally:
        handle.remove()
