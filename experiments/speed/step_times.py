"""When each optimiser step ended, whoever runs the loop: the time of a whole step lies between two ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook

__all__ = ["step_ends"]


class _Enough(Exception):  # noqa: N818 - nothing went wrong
    """So many steps were taken as were asked for."""


@contextmanager
def step_ends(most: int | None = None) -> Iterator[list[float]]:
    """Collects the clock at the end of every optimiser step of this process.

    Two neighbours are one step apart: data, forward, backward, clipping, update and the loop's own work.

    Args:
        most: Steps after which the training within is left, wherever it is; None to let it end.
    """
    ends: list[float] = []

    def note(*_: Any) -> None:
        ends.append(time.perf_counter())
        if len(ends) == most:
            raise _Enough

    handle = register_optimizer_step_post_hook(note)
    try:
        yield ends
    except _Enough:
        pass
    finally:
        handle.remove()
