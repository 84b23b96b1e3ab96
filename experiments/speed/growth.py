"""Row 4: how a training step grows with cells, genes, latent steps and perturbations."""

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
    n_perturbations: int = 20


class Compared(NamedTuple):
    """Two sizes, and what the larger one may cost."""

    name: str
    of: str
    base: Size
    larger: Size
    factor: float
    bound: float | None
    epochs: bool = False  # whether epochs are timed, and not steps


class Rounds(NamedTuple):
    """How often each size is timed."""

    counted: int
    warm_up: int
    least_steps: int


def cases(quick: bool, work: Path) -> list[Case]:
    """Four times the cells, the minibatch and the genes; twice the latent steps; many perturbations."""
    base = Size(16, 8, 30, 3, 4) if quick else Size(2560, 256, 2000, 3)
    rounds = Rounds(1, 0, 4) if quick else Rounds(9, 1, 40)
    n_cells, some, many = (96, 12, 40) if quick else (20_480, 1_461, 10_000)
    four, few = "at four times, over one", base._replace(n_cells=n_cells)
    over_few = f"step time over that at {few.n_perturbations}"
    compared = [
        Compared(
            "cells of the screen",
            f"epoch time a cell {four}",
            base,
            base._replace(n_cells=4 * base.n_cells),
            4.0,
            _LINEAR,
            epochs=True,
        ),
        Compared(
            "cells of a minibatch",
            f"step time a cell {four}",
            base,
            base._replace(n_cells=4 * base.n_cells, batch_size=4 * base.batch_size),
            4.0,
            _LINEAR,
        ),
        Compared(
            "genes",
            f"step time a gene {four}",
            base,
            base._replace(n_genes=4 * base.n_genes),
            4.0,
            _LINEAR,
        ),
        Compared(
            "latent steps",
            "step time at 6 latent steps over 3",
            base,
            base._replace(n_steps=2 * base.n_steps),
            1.0,
            1.15,
        ),
        *(
            Compared(f"{n:,} perturbations", over_few, few, few._replace(n_perturbations=n), 1.0, bound)
            for n, bound in ((some, None), (many, 1.3))
        ),
    ]
    return [
        Case("growth", one.name, Target(one.of, "at most", one.bound), partial(_measured, work, one, rounds))
        for one in compared
    ]


def _measured(work: Path, compared: Compared, rounds: Rounds) -> Measured:
    """Ratios of the time of a step or of an epoch, a round each."""
    sizes = (compared.base, compared.larger)
    data = {size: _screen(work, size) for size in sizes}
    taken: dict[Size, list[float]] = {size: [] for size in sizes}
    for number in range(rounds.warm_up + rounds.counted):
        for size in sizes if number % 2 else sizes[::-1]:
            one = _epoch(data[size], size) if compared.epochs else _step(data[size], size, rounds.least_steps)
            if number >= rounds.warm_up:
                taken[size].append(one)
    small, large = (np.array(taken[size]) for size in sizes)
    note = f"{seconds(small)} at {_said(compared.base)}, {seconds(large)} at {_said(compared.larger)}"
    return Measured((large / small / compared.factor).tolist(), note)


def _screen(work: Path, size: Size) -> cv.Trajectories:
    file = screen_file(work, size.n_cells, size.n_genes, n_perturbations=size.n_perturbations)
    return in_memory(file, size.n_steps)


def _ends(data: cv.Trajectories, size: Size, epochs: int, most: int | None = None) -> np.ndarray:
    model = CiteVAE(data.schema, hidden=128)
    guide = BackwardSmoother(model, hidden=128)
    options = {"batch_size": size.batch_size, "max_epochs": epochs, "compile": "never"}
    with step_ends(most) as ends:
        cv.fit(model, guide, data, validation=0.0, progress=False, **options)
    return np.array(ends)


def _step(data: cv.Trajectories, size: Size, least: int) -> float:
    """Median time of a step, over so many."""
    most = _SKIPPED + least
    epochs = math.ceil(most * size.batch_size / size.n_cells)
    return float(np.median(np.diff(_ends(data, size, epochs, most))[_SKIPPED:]))


def _epoch(data: cv.Trajectories, size: Size) -> float:
    """Time of the second epoch, from the last step of the first on."""
    ends = _ends(data, size, 2)
    return float(ends[-1] - ends[len(ends) // 2 - 1])


def _said(size: Size) -> str:
    return (
        f"{size.n_cells:,} cells, {size.batch_size} x {size.n_genes:,}, {size.n_steps} latent steps, "
        f"{size.n_perturbations:,} perturbations"
    )
