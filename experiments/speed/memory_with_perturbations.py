"""Row 5: resident memory of a fit to a screen of many perturbations, each of which has parameters."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from case import Case, Measured, Target
from child import answer
from screen_file import screen_file

__all__ = ["cases"]

_MOST_GIB = 8.0


def cases(quick: bool, work: Path) -> list[Case]:
    """10,000 perturbations x 8,000 genes, and two cells a perturbation: cells cost but their counts."""
    n_cells, n_genes, n_perturbations = (60, 40, 20) if quick else (20_480, 8_000, 10_000)
    some, n_draws = (2, 4) if quick else (20, 200)
    over = f"peak resident memory over {_MOST_GIB:g} GiB"
    return [
        Case(
            "memory with perturbations",
            f"training, {n_perturbations:,} perturbations x {n_genes:,} genes",
            Target(over, "at most", 1.0),
            partial(_measured, work, n_cells, n_genes, n_perturbations),
        ),
        Case(
            "memory with perturbations",
            f"predicting {some} of {n_perturbations:,} perturbations x {n_genes:,} genes, {n_draws} draws",
            Target(over),
            partial(_predicting, work, n_cells, n_genes, n_perturbations, some, n_draws),
        ),
    ]


def _measured(work: Path, n_cells: int, n_genes: int, n_perturbations: int) -> Measured:
    """A whole fit of two epochs, whose ends keep the last good weights too."""
    file = screen_file(work, n_cells, n_genes, n_perturbations=n_perturbations)
    found = answer("train_citevae.py", file, "--batch-size", 256, "--epochs", 2)
    table = n_perturbations * n_genes * 4 / 2**30
    note = (
        f"{found['peak_gib']:.2f} GiB, of which {found['before_gib']:.2f} before the fit; one number a "
        f"perturbation and gene is {table:.2f} GiB; {found['cells_per_second']:,.0f} cells a second"
    )
    return Measured([found["peak_gib"] / _MOST_GIB], note)


def _predicting(
    work: Path, n_cells: int, n_genes: int, n_perturbations: int, some: int, n_draws: int
) -> Measured:
    """Of 50 cells."""
    file = screen_file(work, n_cells, n_genes, n_perturbations=n_perturbations)
    options = ("--perturbations", some, "--cells", 50, "--draws", n_draws)
    found = answer("predict_citevae.py", file, *options)
    note = (
        f"{found['peak_gib']:.2f} GiB, of which {found['before_gib']:.2f} before the call; "
        f"{found['seconds']:.3g} s"
    )
    return Measured([found["peak_gib"] / _MOST_GIB], note)
