"""Row 7: resident memory and time of a prediction whose draws would not fit, with all its layers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from case import Case, Measured, Target
from child import answer
from screen_file import screen_file

__all__ = ["SIZES", "Sizes", "cases", "predicted"]

_MOST_GIB = 2.0
_MOST_SECONDS = 60.0


class Sizes(NamedTuple):
    """What a prediction costs by."""

    n_perturbations: int
    n_cells: int
    n_draws: int
    n_genes: int

    def __str__(self) -> str:
        return (
            f"{self.n_perturbations} perturbations x {self.n_cells} cells x {self.n_draws} draws "
            f"x {self.n_genes:,} genes"
        )


SIZES = Sizes(20, 500, 200, 2000)


def cases(quick: bool, work: Path) -> list[Case]:
    """20 perturbations x 500 cells x 200 draws x 2,000 genes."""
    sizes, rounds = (Sizes(2, 10, 4, 30), 1) if quick else (SIZES, 3)
    found: list[dict[str, Any]] = []
    return [
        Case(
            "prediction",
            f"{sizes}, {name}",
            Target(of, "at most", 1.0),
            partial(_measured, work, sizes, rounds, found, quantity, most),
        )
        for name, of, quantity, most in (
            ("memory", f"peak resident memory over {_MOST_GIB:g} GiB", "peak_gib", _MOST_GIB),
            ("time", f"seconds over {_MOST_SECONDS:g}, all layers", "seconds", _MOST_SECONDS),
        )
    ]


def predicted(work: Path, sizes: Sizes, accelerator: str = "cpu") -> dict[str, Any]:
    """What a process says that makes one prediction of these sizes."""
    file = screen_file(work, 3 * sizes.n_cells, sizes.n_genes, n_perturbations=sizes.n_perturbations)
    options = ("--cells", sizes.n_cells, "--draws", sizes.n_draws, "--accelerator", accelerator)
    return answer("predict_citevae.py", file, *options)


def _measured(
    work: Path, sizes: Sizes, rounds: int, found: list[dict[str, Any]], quantity: str, most: float
) -> Measured:
    """From the same runs for every quantity."""
    while len(found) < rounds:
        found.append(predicted(work, sizes))
    peak, before, layers, took = (
        np.median([run[name] for run in found])
        for name in ("peak_gib", "before_gib", "layers_gib", "seconds")
    )
    note = (
        f"{peak:.2f} GiB, of which {before:.2f} before the call and {layers:.2f} in the layers "
        f"{', '.join(found[0]['layers'])}; {took:.3g} s"
    )
    return Measured([run[quantity] / most for run in found], note)
