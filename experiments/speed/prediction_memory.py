"""Row 6: resident memory of a prediction whose draws would not fit."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from case import Case, Measured, Target
from child import answer
from screen_file import screen_file

__all__ = ["cases"]

_MOST_GIB = 2.0


def cases(quick: bool, work: Path) -> list[Case]:
    """20 perturbations x 500 cells x 200 draws x 2,000 genes."""
    n_perturbations, n_cells, n_draws, n_genes = (2, 10, 4, 30) if quick else (20, 500, 200, 2000)
    name = f"{n_perturbations} perturbations x {n_cells} cells x {n_draws} draws x {n_genes:,} genes"
    return [
        Case(
            "prediction",
            name,
            Target(f"peak resident memory over {_MOST_GIB:g} GiB", "at most", 1.0),
            partial(_measured, work, n_perturbations, n_cells, n_draws, n_genes),
        )
    ]


def _measured(work: Path, n_perturbations: int, n_cells: int, n_draws: int, n_genes: int) -> Measured:
    file = screen_file(work, 3 * n_cells, n_genes, n_perturbations=n_perturbations)
    found = answer("predict_citevae.py", file, "--cells", n_cells, "--draws", n_draws)
    note = (
        f"{found['peak_gib']:.2f} GiB, of which {found['before_gib']:.2f} before the call and "
        f"{found['layers_gib']:.2f} in the layers of the result; {found['seconds']:.0f} s"
    )
    return Measured([found["peak_gib"] / _MOST_GIB], note)
