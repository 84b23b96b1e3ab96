"""What was read: where a screen's parts came from, what was left out, and what a reader should know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from pyro_citevae.data.columns import Columns

__all__ = ["Reading"]


@final
@dataclass(frozen=True)
class Reading:
    """What was read of a file or an AnnData.

    Attributes:
        columns: Every column, those of the layout among them.
        reason: Why the layout was taken, as a part of a sentence.
        cells: Number of cells there.
        left_out: Cells of each excluded label.
        genes: Number of genes there.
        controls: Cells of each label that means a control.
        library: Where library sizes came from.
        confounded: The batches that cannot be told apart from each perturbation.
        doubts: What a reader should know, a sentence each; each is a warning when the data are read.
        notes: What is worth a line of the summary.
    """

    columns: Columns
    reason: str
    cells: int
    genes: int
    library: str
    left_out: Mapping[str, int] = field(default_factory=dict)
    controls: Mapping[str, int] = field(default_factory=dict)
    confounded: Mapping[str, list[str]] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
