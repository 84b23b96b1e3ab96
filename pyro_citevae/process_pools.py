"""Processes that work side by side, and end with the block that they work for."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing.context import BaseContext
from typing import Any

__all__ = ["process_pool"]


@contextmanager
def process_pool(
    jobs: int, context: BaseContext, start: Callable[..., None], *given: Any
) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes, which an interrupt of the block ends at once, whatever they do.

    An error lets what is being done come to its end. The processes leave signals to the one that asks them.

    Args:
        jobs: Number of processes.
        context: How they are started.
        start: Called in each process first.
        *given: What it is given.
    """
    others = {child.pid for child in multiprocessing.active_children()}
    pool = ProcessPoolExecutor(jobs, context, initializer=_start, initargs=(start, *given))
    try:
        yield pool
    except Exception:
        raise
    except BaseException:
        for child in multiprocessing.active_children():
            if child.pid not in others:
                child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _start(start: Callable[..., None], *given: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to every process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    start(*given)
