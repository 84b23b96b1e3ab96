"""A screen whose counts lie on the device: minibatches are gathered there, all of one shape."""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor, nn

from pyro_citevae.data.batch import Batch
from pyro_citevae.data.doses import Doses
from pyro_citevae.data.observations import SparseObservations
from pyro_citevae.data.sparse_rows import SparseRows
from pyro_citevae.data.trajectories import Trajectories

__all__ = ["ResidentScreen"]


@final
class ResidentScreen(nn.Module):
    r"""The cells of a screen as tensors of one device.

    A minibatch has a place for each of B cells and one place more. A place without a cell holds nothing and
    counts nothing, and the last one, which never holds a cell, takes what is left of the room for stored
    counts. So every minibatch has the same shapes, whichever cells it is of, and nothing of it is read by the
    host.

    Args:
        data: The cells, with sparse counts in memory.
        size: Most cells of a minibatch.

    Example:
        >>> from pyro_citevae import simulate
        >>> screen = ResidentScreen(simulate(n_cells=20).data, size=4)
        >>> batch = screen(*screen.places(np.array([3, 1])))
        >>> batch.n_cells, batch.weight.tolist(), batch.index[:2].tolist()
        (5, [2.5, 2.5, 0.0, 0.0, 0.0], [3, 1])
    """

    condition: Tensor
    row: Tensor
    start: Tensor
    gene: Tensor
    value: Tensor
    token: Tensor
    amount: Tensor
    row_step: Tensor
    library: Tensor
    technical: Tensor
    context: Tensor
    slot_step: Tensor

    def __init__(self, data: Trajectories, size: int) -> None:
        super().__init__()
        self.n_cells, self.n_genes, self.size = data.n_cells, data.schema.n_genes, size
        self.has_contexts = bool(data.schema.contexts)
        self.total, self.n_tokens = float(data.schema.total), data.schema.n_tokens
        matrix, slots = data.stored.tocsr(), data.slots
        doses = slots.doses_of_conditions
        held = {
            "condition": data.condition.astype(np.int64),
            "row": slots.rows(np.arange(data.n_cells)),
            "start": matrix.indptr.astype(np.int64),
            "gene": matrix.indices.astype(np.int32),
            "value": _narrow(matrix),
            "row_step": data.row_step.astype(np.int64),
            "library": data.library.astype(np.float32),
            "technical": data.technical.astype(np.int64),
            "context": data.context.astype(np.int64),
            "slot_step": slots.steps.astype(np.int64),
        }
        for name, array in held.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(array)), persistent=False)
        self.register_buffer("token", doses.token, persistent=False)
        self.register_buffer("amount", doses.amount, persistent=False)
        stored = np.sort(np.diff(matrix.indptr))[::-1]
        self.room = int(stored[: size * len(slots.steps)].sum()) or 1  # of the cells that take most

    @staticmethod
    def holds(data: Trajectories) -> bool:
        """Whether a screen can be held so: sparse counts in memory."""
        return data.schema.values == "counts" and isinstance(data.stored, SparseRows)

    def bytes_of(self) -> int:
        """Bytes that the screen takes."""
        return sum(one.numel() * one.element_size() for one in self.buffers())

    def places(
        self, cells: Int[np.ndarray, " cell"], weight: Float[np.ndarray, " cell"] | None = None
    ) -> tuple[Int[Tensor, " place"], Float[Tensor, " place"]]:
        """The places of a minibatch, and what each counts: as much as the cells that there are.

        Args:
            cells: Positions of the cells, no more than the size.
            weight: What each counts beside; None for one each.
        """
        index = torch.full((self.size + 1,), -1)
        index[: len(cells)] = torch.from_numpy(np.asarray(cells, dtype=np.int64))
        counted = torch.zeros(self.size + 1)
        each = 1.0 if weight is None else torch.from_numpy(np.asarray(weight, dtype=np.float32))
        counted[: len(cells)] = each * ((self.size + 1) / max(1, len(cells)))
        return index, counted

    def forward(self, index: Int[Tensor, " place"], weight: Float[Tensor, " place"]) -> Batch:
        """The minibatch of the cells at these places, -1 where there is none."""
        there, cells = index >= 0, index.clamp(min=0)
        row = self.row.index_select(1, cells)
        observed = (row >= 0) & there
        row = row.clamp(min=0)
        flat = row.reshape(-1)

        def of_rows(values: Tensor) -> Tensor:
            return values.index_select(0, flat).view_as(row)

        condition = self.condition.index_select(0, cells)
        token, amount = self.token.index_select(0, condition), self.amount.index_select(1, condition)
        return Batch(
            size=self.n_cells,
            index=cells,
            u=Doses(token, amount, self.n_tokens),
            step=torch.where(observed, of_rows(self.row_step), self.slot_step[:, None]),
            observed=observed,
            library=torch.where(observed, of_rows(self.library), self.total),
            technical=self.technical.index_select(0, cells),
            context=self.context.index_select(0, cells) if self.has_contexts else None,
            x=self._observations(row, observed),
            weight=weight,
        )

    def _observations(
        self, row: Int[Tensor, "slot place"], observed: Float[Tensor, "slot place"]
    ) -> SparseObservations:
        """The stored counts, one row behind the other, and behind them zeros of the last place."""
        flat = row.reshape(-1)
        start = self.start.index_select(0, flat)
        n = torch.where(observed.reshape(-1), self.start.index_select(0, flat + 1) - start, 0)
        end = n.cumsum(0)
        position = torch.arange(self.room, device=flat.device)
        holder = torch.searchsorted(end, position, right=True)
        stored = holder < len(flat)
        holder = holder.clamp(max=len(flat) - 1)
        source = start.index_select(0, holder) + position - (end - n).index_select(0, holder)
        source = source.clamp(min=0, max=max(0, len(self.gene) - 1))
        gene = torch.where(
            stored, self.gene.index_select(0, source).to(position.dtype), position % self.n_genes
        )
        value = self.value.index_select(0, source).to(self.library.dtype)
        return SparseObservations(
            torch.where(stored, holder, row.shape[1] - 1),
            torch.where(stored, gene, position % self.n_genes),
            torch.where(stored, value, 0.0),
            (*row.shape, self.n_genes),
        )


def _narrow(matrix: sparse.csr_matrix) -> np.ndarray:
    """The counts in 16 bits where these hold them."""
    most = matrix.data.max(initial=0)
    return matrix.data.astype(np.int16 if most < 2**15 else np.float32)
