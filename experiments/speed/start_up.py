"""Row 8: how long a fresh process takes until the command line answers, and until the package is there."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from case import Case, Measured, Target, UnavailableError

__all__ = ["cases"]

_WANTED: Sequence[tuple[str, Sequence[str], float | None]] = (
    ("citevae --help", ("-m", "pyro_citevae", "--help"), 1.5),
    ("import pyro_citevae", ("-c", "import pyro_citevae"), 2.5),
    ("all that a fit needs", ("-c", "import pyro_citevae as cv; cv.fit, cv.models.CiteVAE"), None),
)


def cases(quick: bool, work: Path) -> list[Case]:
    """Each in processes of its own, one after the other."""
    rounds = 1 if quick else 9
    return [
        Case(
            "start-up",
            name,
            Target("seconds" if most is None else f"seconds over {most:g}", "at most", most and 1.0),
            partial(_measured, arguments, most or 1.0, rounds),
        )
        for name, arguments, most in _WANTED
    ]


def _measured(arguments: Sequence[str], most: float, rounds: int) -> Measured:
    _seconds(arguments)  # compiles what was changed, and reads it from the disk
    taken = np.array([_seconds(arguments) for _ in range(rounds)])
    bare = np.median([_seconds(("-c", "pass")) for _ in range(rounds)])
    note = f"{np.median(taken):.2f} s, of which {bare:.2f} s are Python's own"
    return Measured((taken / most).tolist(), note)


def _seconds(arguments: Sequence[str]) -> float:
    """Time from the start of a process to its end.

    Raises:
        UnavailableError: It failed.
    """
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UnavailableError(f"python {' '.join(arguments)} ended with {done.returncode}: {last}")
    return time.perf_counter() - started
