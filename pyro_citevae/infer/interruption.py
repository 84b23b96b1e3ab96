"""Signals while a training runs: they mean what they mean elsewhere, although Lightning takes them over."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import lightning
from lightning.pytorch.callbacks import Callback

from pyro_citevae.errors import InterruptedFit

__all__ = ["OwnSignals", "interrupted", "interruptible"]


def interrupted(so_far: Any, resumes: bool) -> InterruptedFit:
    """The error of a fit that the user interrupts.

    Args:
        so_far: Its posterior, which notes that it was interrupted.
        resumes: Whether its state is kept.
    """
    so_far.record["course"]["interrupted"] = True
    error = InterruptedFit(
        f"the fit was interrupted after {so_far.record['course']['steps']:,} steps; the posterior so far is "
        "the error's last_good, in a notebook sys.last_value.last_good"
        + ("; go on by the same call with resume=True." if resumes else ".")
    )
    error.last_good = so_far
    return error


@final
class _Interrupted(BaseException):
    """What stands for KeyboardInterrupt, at which Lightning would end the process."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Lets the first Ctrl-C within the block end as a KeyboardInterrupt, and a second one too, at once.

    Where SIGINT has a handler other than Python's own, as in the command line, that one stays.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not (ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
        yield
        return

    def interrupt(*_: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise _Interrupted

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except _Interrupted:
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@final
class OwnSignals(Callback):
    """Gives SIGTERM back what it did before; Lightning's handler would end the process with success."""

    def __init__(self) -> None:
        self.handler = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: lightning.Trainer, _: lightning.LightningModule) -> None:
        """Takes the signal back."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.handler)
