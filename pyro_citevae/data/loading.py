"""Minibatches for a training loop: from memory one at a time, from a file many at once and ahead."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from pyro_citevae.data.batch import Batch
from pyro_citevae.data.samplers import BUFFER
from pyro_citevae.data.trajectories import Trajectories

__all__ = ["Places", "loader", "places"]


def loader(
    data: Trajectories,
    chosen: Int[np.ndarray, " chosen"],
    batches: Sampler[list[int]],
    *,
    weight: Float[np.ndarray, " chosen"] | None = None,
    pin_memory: bool = False,
) -> DataLoader[Batch]:
    """A loader of minibatches.

    Args:
        data: The cells.
        chosen: Positions of those that are loaded.
        batches: Minibatches of positions within ``chosen``.
        weight: What each of them counts in the bound; None for one each.
        pin_memory: Copy minibatches to where a GPU can fetch them while it computes.
    """
    weights = None if weight is None else torch.from_numpy(weight)
    if data.stored.in_file:
        ahead = _ReadAhead(data, chosen, batches, weights)
        return DataLoader(ahead, batch_size=None, num_workers=0, pin_memory=pin_memory)
    cells = _Cells(data, chosen, weights)
    return DataLoader(cells, sampler=batches, batch_size=None, num_workers=0, pin_memory=pin_memory)


@final
@dataclass(frozen=True)
class Places:
    """Which cells make a minibatch, for a screen that lies on the device.

    Attributes:
        cells: Their positions.
        weight: What each counts in the bound; None for one each.
    """

    cells: Int[np.ndarray, " cell"]
    weight: Float[np.ndarray, " cell"] | None = None


def places(
    chosen: Int[np.ndarray, " chosen"],
    batches: Sampler[list[int]],
    *,
    weight: Float[np.ndarray, " chosen"] | None = None,
) -> DataLoader[Places]:
    """A loader of minibatches by their places alone.

    Args:
        chosen: Positions of the cells.
        batches: Minibatches of positions within ``chosen``.
        weight: What each of them counts in the bound; None for one each.
    """
    return DataLoader(_Places(chosen, weight), sampler=batches, batch_size=None, num_workers=0)


@final
class _Places(Dataset[Places]):
    """Places by their positions."""

    def __init__(self, chosen: Int[np.ndarray, " chosen"], weight: np.ndarray | None) -> None:
        self.chosen, self.weight = chosen, weight

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: list[int]) -> Places:
        return Places(self.chosen[index], None if self.weight is None else self.weight[index])


@final
class _Cells(Dataset[Batch]):
    """Minibatches by their positions."""

    def __init__(
        self, data: Trajectories, chosen: Int[np.ndarray, " chosen"], weights: torch.Tensor | None
    ) -> None:
        self.data, self.chosen, self.weights = data, chosen, weights

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: list[int]) -> Batch:
        return _weighted(self.data.batch(self.chosen[index]), index, self.weights)


@final
class _ReadAhead(IterableDataset[Batch]):
    """Minibatches from a file: as many as fill a buffer are read together, while the last ones are used."""

    def __init__(
        self,
        data: Trajectories,
        chosen: Int[np.ndarray, " chosen"],
        batches: Sampler[list[int]],
        weights: torch.Tensor | None,
    ) -> None:
        self.data, self.chosen, self.batches, self.weights = data, chosen, batches, weights

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Batch]:
        waiting = iter(self.batches)
        with ThreadPoolExecutor(1) as reader:
            following = reader.submit(self._read, _together(waiting))
            while found := following.result():
                following = reader.submit(self._read, _together(waiting))
                yield from found

    def _read(self, together: list[list[int]]) -> list[Batch]:
        if not together:
            return []
        batch = self.data.held(self.chosen[np.concatenate(together)])
        return [_weighted(batch(self.chosen[index]), index, self.weights) for index in together]


def _together(waiting: Iterator[list[int]]) -> list[list[int]]:
    """The next minibatches, as many as fill a buffer."""
    first = list(islice(waiting, 1))
    return first + list(islice(waiting, max(0, BUFFER // len(first[0]) - 1) if first else 0))


def _weighted(batch: Batch, index: list[int], weights: torch.Tensor | None) -> Batch:
    return batch if weights is None else replace(batch, weight=weights[index])
