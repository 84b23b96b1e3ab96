"""Rows that a step takes out of large tables: what it learns of them, and nothing of a table's size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from pyro_citevae.nn.rows_in_use import RowsInUse

__all__ = ["TakenRows"]


@final
@dataclass
class TakenRows:
    """Rows of tables, as leaves of their own: the gradient of a step is that of its rows.

    Attributes:
        parts: Of each table that was asked for: itself, which rows, and the rows.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> table, taken = nn.Parameter(torch.zeros(4, 2)), TakenRows()
        >>> used = RowsInUse(torch.tensor([3, 1]), torch.zeros(4, dtype=torch.int64), torch.ones(2, 1))
        >>> taken.of(table, used).sum().backward()
        >>> table.grad is None, taken.parts[0][2].grad.shape
        (True, torch.Size([2, 2]))
    """

    parts: list[tuple[nn.Parameter, RowsInUse, Tensor]] = field(default_factory=list)

    def of(self, table: nn.Parameter, rows: RowsInUse) -> Float[Tensor, "... used value"]:
        """The rows of a table with axes (..., token, value)."""
        taken = rows.of(table.detach()).requires_grad_()
        self.parts.append((table, rows, taken))
        return taken
