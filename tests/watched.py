"""A function in a process of its own, where a crash and a hang are answers as any other."""

from __future__ import annotations

import multiprocessing
import os
import resource
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["Watched", "watched"]

SECONDS = 30.0  # longer is a hang, on a machine that does nothing else
STARTING = 120.0  # the first call imports the library
_BYTES = 8 * 2**30  # what the process may take, so that a test takes no machine down


class Watched:
    """Calls one function in a process that is begun anew when it dies.

    Args:
        function: A module's function, of arguments and with an answer that can be pickled.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._process: Any = None
        self._ours: Connection | None = None

    def __call__(self, *given: Any) -> Any:
        """What the function answers, or ``("crash", ...)``, ``("hang", ...)`` or ``("raised", ...)``."""
        seconds = SECONDS
        if self._process is None or not self._process.is_alive():
            self._begin()
            seconds = STARTING
        connection = self._ours
        assert connection is not None
        connection.send(given)
        try:
            seconds *= max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
            if connection.poll(seconds):
                return connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            return "crash", f"the process ended with {self._process.exitcode}"
        self.end()
        return "hang", f"no answer in {seconds:g} s"

    def end(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()

    def _begin(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_answer, args=(self.function, theirs), daemon=True)
        self._process.start()
        theirs.close()


@contextmanager
def watched(function: Callable[..., Any]) -> Iterator[Watched]:
    """A function in a process of its own, which ends with the block."""
    made = Watched(function)
    try:
        yield made
    finally:
        made.end()


def _answer(function: Callable[..., Any], connection: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (_BYTES, _BYTES))
    while True:
        given = connection.recv()
        try:
            answer = function(*given)
        except BaseException:
            answer = ("raised", traceback.format_exc())
        connection.send(answer)
