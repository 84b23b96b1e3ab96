"""Signals: the first ends a command with what it keeps said on one line, a second one ends it at once."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, final

__all__ = ["Stopped", "heeded", "is_one_of_several", "keeping"]

_HEEDED = (signal.SIGINT, signal.SIGTERM)
_MOMENT = 0.05  # seconds


@final
class Stopped(BaseException):  # no failure, that somebody may catch as one
    """A signal came.

    Attributes:
        number: Which.
        kept: What the command keeps, and how to go on.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number, self.kept = number, "nothing was written"

    @property
    def exit_code(self) -> int:
        """What a shell has for a process that a signal ended."""
        return 128 + self.number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}; {self.kept}."


@contextmanager
def heeded() -> Iterator[None]:
    """Raises :class:`Stopped` at the first signal within the block; a second one does as it does by default.

    A signal that is ignored, as in the background of a shell without job control, stays ignored. One that
    comes while C calls Python, where nothing can be raised, comes again a moment later.
    """
    before = {number: signal.getsignal(number) for number in _HEEDED}
    told_before = sys.unraisablehook

    def heed() -> None:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, stop)

    def stop(number: int, _: Any) -> None:
        for one in _HEEDED:
            signal.signal(one, signal.SIG_DFL)
        raise Stopped(number)

    def again(told: sys.UnraisableHookArgs) -> None:
        if isinstance(told.exc_value, Stopped):
            heed()
            threading.Timer(_MOMENT, os.kill, (os.getpid(), told.exc_value.number)).start()
        else:
            told_before(told)

    heed()
    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = told_before
        for number, handler in before.items():
            signal.signal(number, handler)


def is_one_of_several() -> bool:
    """Whether another process of ours started this one to train together, and speaks for it."""
    return {"TORCHELASTIC_RUN_ID", "CITEVAE_ERRORS"} <= os.environ.keys()


@contextmanager
def keeping(said: Callable[[], str]) -> Iterator[None]:
    """Says what is kept where a signal ends the block.

    Args:
        said: What is kept then, and how to go on; nothing where nothing is.
    """
    try:
        yield
    except Stopped as stop:
        stop.kept = said() or stop.kept
        raise
