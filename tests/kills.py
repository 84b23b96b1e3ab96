"""Work in a process of its own that is killed: at a chosen call of the file system, or when it likes."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

__all__ = ["calls_of", "child_of", "ended", "in_child", "killed_at_call"]

_CALLS = {"open", "os.mkdir", "os.rename", "os.rmdir", "os.remove", "os.link", "os.chmod", "os.truncate"}


def child_of(work: Callable[[], object], stderr: Path | None = None) -> int:
    """Starts work in a fork; its process id.

    Args:
        work: What is done; it ends with 0, the code of a SystemExit, or 1 and a traceback on an error.
        stderr: Where it says so.
    """
    child = os.fork()
    if child:
        return child
    code: object = 1
    try:
        if stderr is not None:
            opened = os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(opened, 2)
            sys.stderr = os.fdopen(opened, "w", buffering=1)
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def ended(child: int, most: float = 120.0) -> int:
    """The exit code of a process, that of a signal below zero.

    Args:
        child: Its id.
        most: Seconds after which it is killed, and the test fails.
    """
    until = time.monotonic() + most
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"the process did not end within {most:g} seconds")


def in_child(work: Callable[[], object]) -> int:
    """Runs work in a fork; its exit code, as of :func:`ended`."""
    return ended(child_of(work))


def killed_at_call(number: int, folder: Path, work: Callable[[], object]) -> bool:
    """Runs work in a fork that is killed before a call of the file system within a folder.

    Args:
        number: Which of these calls.
        folder: Where calls count.
        work: What is done.

    Returns:
        Whether there were as many calls.
    """

    def count(seen: int) -> None:
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

    code = in_child(lambda: _watched(folder, work, count))
    assert code in (0, -signal.SIGKILL)
    return code != 0


def calls_of(folder: Path, work: Callable[[], object]) -> int:
    """Runs work in a fork, and counts its calls of the file system within a folder."""
    reading, writing = os.pipe()
    assert in_child(lambda: _watched(folder, work, lambda seen: os.write(writing, b"."))) == 0
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        return len(told.read())


def _watched(folder: Path, work: Callable[[], object], tell: Callable[[int], object]) -> None:
    """Does work, and tells the number of each call of the file system within a folder before it is made."""
    seen = 0

    def watch(event: str, given: tuple) -> None:
        nonlocal seen
        if event in _CALLS and isinstance(given[0], (str, bytes)):
            path = os.fsdecode(given[0])
            if path.startswith(str(folder)) or not path.startswith("/"):  # names below an open folder
                tell(seen)
                seen += 1

    sys.addaudithook(watch)
    work()
