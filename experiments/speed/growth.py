"""Row 4: how a training step grows with cells, genes and latent steps."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from alternation import seconds
from case import Case, Measured, Target
from open_screen import in_memory
from screen_file import screen_file
from step_times import step_ends

import pyro_citevae as cv
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE

__all__ = ["cases"]

_LINEAR = 1.15  # what a cost a cell or a gene may grow by over a factor of four and still be called linear
_SKIPPED = 2


class Size(NamedTuple):
    """What a fit costs time by."""

    n_cells: int
    batch_size: int
    n_genes: int
    n_steps: int


def cases(quick: bool, work: Path) -> list[Case]:
    """Four times the cells, the cells of a minibatch and the genes, and twice the latent steps."""
    base = Size(16, 8, 30, 3) if quick else Size(2560, 256, 2000, 3)
    rounds, warm_up, least = (1, 0, 4) if quick else (9, 1, 40)
    four = "at four times, over one"
    grown = [
        (
            "cells of the screen",
            base._replace(n_cells=4 * base.n_cells),
            f"epoch time a cell {four}",
            4.0,
            _LINEAR,
        ),
        (
            "cells of a minibatch",
            base._replace(n_cells=4 * base.n_cells, batch_size=4 * base.batch_size),
            f"step time a cell {four}",
            4.0,
            _LINEAR,
        ),
        ("genes", base._replace(n_genes=4 * base.n_genes), f"step time a gene {four}", 4.0, _LINEAR),
        (
            "latent steps",
            base._replace(n_steps=2 * base.n_steps),
            "step time at 6 latent steps over 3",
            1.0,
            1.15,
        ),
    ]
    return [
        Case(
            "growth",
            name,
            Target(of, "at most", bound),
            partial(
                _measured,
                work,
                base,
                larger,
                factor,
                rounds,
                warm_up,
                None if of.startswith("epoch") else least,
            ),
        )
        for name, larger, of, factor, bound in grown
    ]


def _measured(
    work: Path, base: Size, larger: Size, factor: float, rounds: int, warm_up: int, least: int | None
) -> Measured:
    """Ratios of the time of a step, the median of so many at least; or of an epoch, if of none."""
    sizes = (base, larger)
    data = {size: in_memory(screen_file(work, size.n_cells, size.n_genes), size.n_steps) for size in sizes}
    taken: dict[Size, list[float]] = {base: [], larger: []}
    for number in range(warm_up + rounds):
        for size in sizes if number % 2 else sizes[::-1]:
            one = _epoch(data[size], size) if least is None else _step(data[size], size, least)
            if number >= warm_up:
                taken[size].append(one)
    small, large = np.array(taken[base]), np.array(taken[larger])
    note = f"{seconds(small)} at {_said(base)}, {seconds(large)} at {_said(larger)}"
    return Measured((large / small / factor).tolist(), note)


def _ends(data: cv.Trajectories, size: Size, epochs: int) -> np.ndarray:
    model = CiteVAE(data.schema, hidden=128)
    guide = BackwardSmoother(model, hidden=128)
    with step_ends() as ends:
        cv.fit(
            model, guide, data, batch_size=size.batch_size, max_epochs=epochs, validation=0.0, progress=False
        )
    return np.array(ends)


def _step(data: cv.Trajectories, size: Size, least: int) -> float:
    """Median time of a step, over so many at least."""
    epochs = math.ceil((_SKIPPED + least) * size.batch_size / size.n_cells)
    return float(np.median(np.diff(_ends(data, size, epochs))[_SKIPPED:]))


def _epoch(data: cv.Trajectories, size: Size) -> float:
    """Time of the second epoch, from the last step of the first on."""
    ends = _ends(data, size, 2)
    return float(ends[-1] - ends[len(ends) // 2 - 1])


def _said(size: Size) -> str:
    return f"{size.n_cells:,} cells, {size.batch_size} x {size.n_genes:,}, {size.n_steps} latent steps"
