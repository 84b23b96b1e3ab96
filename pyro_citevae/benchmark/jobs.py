"""Pieces of a benchmark made by several processes at once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol

import torch

from pyro_citevae.errors import RunError
from pyro_citevae.process_pools import process_pool

__all__ = ["Plan", "made_at_once"]


class Plan(Protocol):
    """What can make its pieces, each by its number."""

    def make(self, number: int) -> None:
        """Makes one piece, and stores it."""


_plans: list[Plan] = []  # of a process that makes pieces


def made_at_once(
    said: Mapping[int, str],
    plan: Callable[[], Plan],
    jobs: int,
    progress: Callable[[str, int, int], None],
) -> None:
    """Makes pieces in processes of one thread each.

    Args:
        said: What each piece is, by its number.
        plan: Makes the plan, once a process.
        jobs: Number of processes.
        progress: Called at the end of each piece with what it is, the number of pieces done and of all.

    Raises:
        RunError: A process was killed; the pieces that were stored are kept.
    """
    context = multiprocessing.get_context("spawn")
    try:
        with process_pool(min(jobs, len(said)), context, _start, plan) as pool:
            asked = {pool.submit(_make, number): name for number, name in said.items()}
            for done, one in enumerate(as_completed(asked), start=1):
                one.result()
                progress(asked[one], done, len(said))
    except BrokenProcessPool as error:
        raise RunError(
            "a process of the benchmark was killed, for want of memory perhaps; begin again with fewer jobs, "
            "and it goes on with the pieces that are not made."
        ) from error


def _start(plan: Callable[[], Plan]) -> None:
    torch.set_num_threads(1)
    _plans.append(plan())


def _make(number: int) -> None:
    _plans[-1].make(number)
