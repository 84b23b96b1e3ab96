"""Cells a second of whole fits, by the wall clock: what further epochs add to the time of the call.

What happens once cancels: initial weights, compiling, capturing. It holds however a step is run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

import pyro_citevae as cv
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE

__all__ = ["cells_a_second", "fitted", "seconds_an_epoch"]


def fitted(data: cv.Trajectories, epochs: int, *, hidden: int = 128, **settings: Any) -> float:
    """Seconds of a whole fit, from the call to its return."""
    model = CiteVAE(data.schema, hidden=hidden)
    guide = BackwardSmoother(model, hidden=hidden)
    started = time.perf_counter()
    cv.fit(model, guide, data, max_epochs=epochs, validation=0.0, progress=False, **settings)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def seconds_an_epoch(taken: Callable[[int], float], short: int, long: int) -> float:
    """What an epoch adds to a time that depends on the number of epochs.

    Example:
        >>> seconds_an_epoch(lambda epochs: 5 + 2 * epochs, 1, 4)
        2.0
    """
    before = taken(short)
    return (taken(long) - before) / (long - short)


def cells_a_second(data: cv.Trajectories, short: int, long: int, **settings: Any) -> float:
    """Throughput of the epochs by which one fit is longer than another."""
    return data.n_cells / seconds_an_epoch(lambda epochs: fitted(data, epochs, **settings), short, long)
