"""Row 7: throughput of two processes (DDP, gloo) by ``citevae fit --devices 2``."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
from case import Case, Measured, Target, UnavailableError
from screen_file import screen_file

__all__ = ["cases"]

_CITEVAE = (sys.executable, "-m", "pyro_citevae.cli")


def cases(quick: bool, work: Path) -> list[Case]:
    """5,000 cells x 2,000 genes; that gradients agree is what the tests say."""
    sizes, epochs, rounds = ((60, 40), 2, 1) if quick else ((5000, 2000), 6, 3)
    return [
        Case(
            "two processes",
            f"{sizes[0]:,} x {sizes[1]:,}",
            Target("cells a second of two processes over one"),
            partial(_measured, work, sizes, epochs, rounds),
        )
    ]


def _measured(work: Path, sizes: tuple[int, int], epochs: int, rounds: int) -> Measured:
    if "--devices" not in _said("fit", "--help"):
        raise UnavailableError("citevae fit has no --devices in this version")
    file = screen_file(work, *sizes)
    one, two = [], []
    for _ in range(rounds):
        one.append(_cells_a_second(file, sizes[0], 1, epochs, work))
        two.append(_cells_a_second(file, sizes[0], 2, epochs, work))
    note = f"cells a second: one process {np.median(one):,.0f}, two {np.median(two):,.0f}"
    return Measured((np.array(two) / np.array(one)).tolist(), note)


def _cells_a_second(file: Path, n_cells: int, devices: int, epochs: int, work: Path) -> float:
    """From what further epochs add to the time of the command, so that starting it does not count."""
    short, long = (_seconds(file, devices, many, work) for many in (1, 1 + epochs))
    return n_cells * epochs / (long - short)


def _seconds(file: Path, devices: int, epochs: int, work: Path) -> float:
    out = work / f"fit_on_{devices}"
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    _said("fit", str(file), "--epochs", str(epochs), "--devices", str(devices), "--quiet", "-o", str(out))
    return time.perf_counter() - started


def _said(*arguments: str) -> str:
    """What the command line answers.

    Raises:
        UnavailableError: It failed.
    """
    done = subprocess.run([*_CITEVAE, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UnavailableError(f"citevae {arguments[0]} ended with {done.returncode}: {last}")
    return done.stdout
