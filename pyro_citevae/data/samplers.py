"""Which cells make a minibatch, and in which order: uniform, by blocks, balanced over conditions.

All of them leave the objective as it is: the expectation of ``N / B`` times a minibatch's (weighted) sum over
its cells is the sum over all N cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import cast, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.utils.data import BatchSampler, RandomSampler, Sampler, SequentialSampler

__all__ = ["BUFFER", "Balanced", "Blocks", "Passes", "Share", "balance", "in_order", "uniform"]

BUFFER = 16_384  # cells that are read together from a file, and shuffled
_BLOCK = 64  # cells that lie side by side in the file


def uniform(n_cells: int, size: int, generator: torch.Generator) -> BatchSampler:
    """Minibatches of all cells in a new random order each epoch.

    Args:
        n_cells: Number of cells.
        size: Cells in a minibatch; the last of an epoch may have fewer.
        generator: Where the order is drawn from.
    """
    return BatchSampler(RandomSampler(range(n_cells), generator=generator), size, drop_last=False)


def in_order(n_cells: int, size: int) -> BatchSampler:
    """Minibatches of consecutive cells."""
    return BatchSampler(SequentialSampler(range(n_cells)), size, drop_last=False)


@final
class Passes(Sampler[list[int]]):
    """Several passes over the cells in a row, so that what is done once a round is done seldom.

    Args:
        batches: The minibatches of a pass.
        n: Number of passes.

    Example:
        >>> len(Passes(in_order(10, 4), 3)), list(Passes(in_order(3, 2), 2))
        (9, [[0, 1], [2], [0, 1], [2]])
    """

    def __init__(self, batches: Sampler[list[int]], n: int) -> None:
        self.batches, self.n = batches, n

    def __len__(self) -> int:
        return self.n * len(cast(Sized, self.batches))

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.n):
            yield from self.batches


@final
class Blocks(Sampler[list[int]]):
    """Minibatches from a buffer of random blocks: a shuffle for files, where only neighbours are read fast.

    Each epoch, blocks of cells that lie side by side in the file come in a new random order. So many of them
    as fill a buffer are read together, and the buffer's cells are shuffled and cut into minibatches.

    Args:
        place: Where each cell lies in the file.
        size: Cells in a minibatch.
        generator: Where the order is drawn from.
        shares: Number of processes. Each takes its share of every minibatch from blocks of its own, so that
            no block is read twice; up to ``shares - 1`` cells are left out of an epoch.
        block: Cells in a block.
        buffer: Cells in a buffer.

    Source: D. D'Ascenzo and S. Cultrera di Montesano, scDataset: Scalable Data Loading for Deep Learning on
    Large-Scale Single-Cell Omics (2025).

    Example:
        >>> batches = Blocks(np.arange(8), 4, torch.Generator().manual_seed(0), block=2, buffer=4)
        >>> first = next(iter(batches))
        >>> len(first), len({cell // 2 for cell in first})  # two whole blocks
        (4, 2)
    """

    def __init__(
        self,
        place: Int[np.ndarray, " cell"],
        size: int,
        generator: torch.Generator,
        *,
        shares: int = 1,
        block: int = _BLOCK,
        buffer: int = BUFFER,
    ) -> None:
        self.order = np.argsort(place, kind="stable")
        self.size, self.generator, self.shares, self.block = size, generator, shares, block
        self.buffer = max(1, buffer // size) * size

    def __len__(self) -> int:
        whole, rest = divmod(len(self.order), self.buffer)
        return whole * (self.buffer // self.size) + -(-(rest - rest % self.shares) // self.size)

    def __iter__(self) -> Iterator[list[int]]:
        n = len(self.order)
        blocks = torch.randperm(-(-n // self.block), generator=self.generator).numpy()
        walked = (blocks[:, None] * self.block + np.arange(self.block)).ravel()
        stream = self.order[walked[walked < n]]
        for first in range(0, n, self.buffer):
            yield from self._shuffled(stream[first : first + self.buffer])

    def _shuffled(self, buffer: Int[np.ndarray, " buffered"]) -> Iterator[list[int]]:
        parts = buffer[: len(buffer) - len(buffer) % self.shares].reshape(self.shares, -1)
        drawn = np.stack(
            [part[torch.randperm(len(part), generator=self.generator).numpy()] for part in parts]
        )
        each = self.size // self.shares
        for first in range(0, drawn.shape[1], each):
            yield drawn[:, first : first + each].ravel().tolist()


@final
class Balanced(Sampler[list[int]]):
    """Minibatches in which every condition is equally often, whatever the number of its cells.

    Conditions come in rounds, each a new random order of all; within a condition, cells do. A draw is then
    cell n of condition c with probability ``p_n = 1 / (C n_c)``. :func:`balance` has the weights
    ``1 / (N p_n)`` that keep the objective: without them the posterior would believe that a rare condition
    had as many cells as a common one, and its intervals would be too narrow.

    The bound's gradient is then less noisy for what concerns rare conditions, and noisier for what all cells
    share: the weighted minibatch is worth ``(sum w)^2 / sum w^2`` equally weighted cells.

    Args:
        condition: Condition of each cell.
        size: Cells in a minibatch.
        generator: Where the order is drawn from.

    Example:
        >>> batches = Balanced(np.array([0] * 90 + [1] * 10), 50, torch.Generator().manual_seed(0))
        >>> [sum(cell >= 90 for cell in batch) for batch in batches]
        [25, 25]
    """

    def __init__(self, condition: Int[np.ndarray, " cell"], size: int, generator: torch.Generator) -> None:
        self.members = [np.flatnonzero(condition == one) for one in np.unique(condition)]
        self.size, self.generator, self.n_cells = size, generator, len(condition)

    def __len__(self) -> int:
        return -(-self.n_cells // self.size)

    def __iter__(self) -> Iterator[list[int]]:
        C = len(self.members)
        rounds = -(-self.n_cells // C)
        drawn = np.stack([self._drawn(cells, rounds) for cells in self.members], axis=1)  # (round, condition)
        orders = torch.stack([torch.randperm(C, generator=self.generator) for _ in range(rounds)]).numpy()
        flat = np.take_along_axis(drawn, orders, axis=1).ravel()[: self.n_cells]
        for first in range(0, self.n_cells, self.size):
            yield flat[first : first + self.size].tolist()

    def _drawn(self, cells: Int[np.ndarray, " member"], n: int) -> Int[np.ndarray, " drawn"]:
        """So many of a condition's cells: all of them in a random order, again and again."""
        times = -(-n // len(cells))
        orders = [torch.randperm(len(cells), generator=self.generator).numpy() for _ in range(times)]
        return np.asarray(cells[np.concatenate(orders)[:n]])


def balance(condition: Int[np.ndarray, " cell"]) -> Float[np.ndarray, " cell"]:
    """``w_n = 1 / (N p_n) = C n_c / N``: what a cell of a balanced minibatch counts.

    Example:
        >>> balance(np.array([0, 0, 0, 1]))
        array([1.5, 1.5, 1.5, 0.5], dtype=float32)
    """
    _, index, n = np.unique(condition, return_inverse=True, return_counts=True)
    return np.asarray(len(n) * n[index] / len(condition), dtype=np.float32)


@final
class Share(Sampler[list[int]]):
    """One process's share of every minibatch, so that all processes together see the whole one.

    A minibatch that does not divide evenly repeats up to ``n - 1`` of its cells.

    Args:
        batches: The minibatches, in the same order in every process.
        rank: Which process this is.
        n: Number of processes.

    Example:
        >>> [list(Share(in_order(5, 4), rank, 2)) for rank in (0, 1)]
        [[[0, 1], [4]], [[2, 3], [4]]]
    """

    def __init__(self, batches: Sampler[list[int]], rank: int, n: int) -> None:
        self.batches, self.rank, self.n = batches, rank, n

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            whole = np.resize(batch, -(-len(batch) // self.n) * self.n)
            yield whole.reshape(self.n, -1)[self.rank].tolist()
