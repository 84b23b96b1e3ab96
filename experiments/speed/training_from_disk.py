"""Row 5: training on a screen larger than memory, against the same screen read into memory."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from case import Case, Measured, Target
from child import answer
from screen_file import screen_file

__all__ = ["cases"]

_MOST_GIB = 4.0


def cases(quick: bool, work: Path) -> list[Case]:
    """1,000,000 cells x 5,000 genes as h5ad and as zarr: throughput, and resident memory."""
    sizes, n_steps, rounds = ((60, 40), 10, 1) if quick else ((1_000_000, 5000), 400, 2)
    found: dict[str, list[dict[str, Any]]] = {}
    return [
        case
        for kind in ("h5ad", "zarr")
        for case in (
            Case(
                "training from disk",
                f"{kind}, {sizes[0]:,} x {sizes[1]:,}, throughput",
                Target("cells a second from disk over in memory", "at least", 0.8),
                partial(_throughput, work, sizes, kind, n_steps, rounds, found),
            ),
            Case(
                "training from disk",
                f"{kind}, {sizes[0]:,} x {sizes[1]:,}, memory",
                Target(f"peak resident memory over {_MOST_GIB:g} GiB", "at most", 1.0),
                partial(_memory, work, sizes, kind, n_steps, found),
            ),
        )
    ]


def _throughput(
    work: Path,
    sizes: tuple[int, int],
    kind: str,
    n_steps: int,
    rounds: int,
    found: dict[str, list[dict[str, Any]]],
) -> Measured:
    file = screen_file(work, *sizes, kind=kind)
    disk, memory = [], []
    for _ in range(rounds):
        disk.append(_trained(file, "disk", n_steps))
        memory.append(_trained(file, "memory", n_steps))
    found[kind] = disk
    one, two = ([run["cells_per_second"] for run in runs] for runs in (disk, memory))
    note = f"cells a second: from disk {np.median(one):,.0f}, in memory {np.median(two):,.0f}"
    return Measured((np.array(one) / np.array(two)).tolist(), note)


def _memory(
    work: Path, sizes: tuple[int, int], kind: str, n_steps: int, found: dict[str, list[dict[str, Any]]]
) -> Measured:
    """From the runs that the throughput was taken from, or from one of its own."""
    runs = found.get(kind) or [_trained(screen_file(work, *sizes, kind=kind), "disk", n_steps)]
    peaks = np.array([run["peak_gib"] for run in runs])
    return Measured((peaks / _MOST_GIB).tolist(), f"{np.median(peaks):.2f} GiB")


def _trained(file: Path, source: str, n_steps: int) -> dict[str, Any]:
    """So many steps through cells in random order; a whole epoch of a million cells would take long."""
    options = ("--batch-size", 256, "--epochs", n_steps, "--steps", n_steps)
    return answer("train_citevae.py", file, "--from", source, *options)
