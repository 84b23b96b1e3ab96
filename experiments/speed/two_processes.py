"""Row 8: two processes (DDP, gloo): their gradients, and throughput by ``citevae fit --devices 2``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from case import Case, Measured, Target, UnavailableError
from safetensors.numpy import load_file
from screen_file import screen_file

__all__ = ["cases"]

_CITEVAE = ("-m", "pyro_citevae")
_NOTES_GRADIENTS = Path(__file__).parents[2] / "tests/gradient_of_processes.py"


def cases(quick: bool, work: Path) -> list[Case]:
    """Gradients on a small screen whose draws are fixed; cells a second at 5,000 x 2,000."""
    sizes, epochs, rounds = ((60, 40), 2, 1) if quick else ((5000, 2000), 6, 3)
    return [
        Case(
            "two processes",
            "gradients",
            Target("largest difference to one process on the union, over the largest", "at most", 1e-4),
            _gradients,
        ),
        Case(
            "two processes",
            f"{sizes[0]:,} x {sizes[1]:,}",
            Target("cells a second of two processes over one"),
            partial(_measured, work, sizes, epochs, rounds),
        ),
    ]


def _gradients() -> Measured:
    """Of every parameter in every step of a short fit."""
    with tempfile.TemporaryDirectory() as folder:
        alone, together = Path(folder) / "alone", Path(folder) / "together"
        _ran("gradients of one process", str(_NOTES_GRADIENTS), str(alone), "16")
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
        _ran("gradients of two processes", *torchrun, str(_NOTES_GRADIENTS), str(together), "16")
        one = load_file(alone / "0" / "gradients.safetensors")
        two = [load_file(together / rank / "gradients.safetensors") for rank in ("0", "1")]
    worst = [
        max(float(np.abs(found[name] - whole).max() / max(np.abs(whole).max(), 1e-7)) for found in two)
        for name, whole in one.items()
    ]
    steps = {name.partition(".")[0] for name in one}
    note = f"{len(one):,} gradients of {len(steps)} steps, the median {np.median(worst):.0e}"
    return Measured([max(worst)], note, holds=all(found.keys() == one.keys() for found in two))


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
    return _ran(f"citevae {arguments[0]}", *_CITEVAE, *arguments)


def _ran(what: str, *arguments: str) -> str:
    """What Python says to these arguments, in one thread a process."""
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UnavailableError(f"{what} ended with {done.returncode}: {last}")
    return done.stdout
