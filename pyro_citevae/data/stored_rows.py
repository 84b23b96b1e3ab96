"""Stored rows: what the values of a screen can be asked, wherever they are kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float32, Int
from scipy import sparse

from pyro_citevae.data.observations import Observations

__all__ = ["StoredRows"]


class StoredRows(ABC):
    """Rows of values, one an observation; subclasses say where they are kept and how they are read.

    Attributes:
        in_file: Whether a row is read from a file each time, so that neighbours are best read together.
    """

    in_file: bool = False

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Rows and values of a row."""

    @abstractmethod
    def __getitem__(self, rows: Int[np.ndarray, " chosen"] | slice) -> StoredRows:
        """Some of the rows."""

    @abstractmethod
    def of_columns(self, columns: Int[np.ndarray, " chosen"]) -> StoredRows:
        """All rows, with some of their values."""

    @abstractmethod
    def toarray(self) -> Float32[np.ndarray, "row value"]:
        """The rows with their zeros."""

    @abstractmethod
    def tocsr(self) -> sparse.csr_matrix:
        """The rows as a sparse matrix in memory."""

    @abstractmethod
    def sum(self, axis: int | None = None, dtype: Any = None) -> np.ndarray:
        """The sum over the rows (axis 0), of each row (axis 1), or of all values (None)."""

    @abstractmethod
    def observations(self, row: Int[np.ndarray, " row"], shape: tuple[int, int, int]) -> Observations:
        """The rows as a minibatch has them.

        Args:
            row: Where each row stands among the minibatch's rows (slot, cell), flattened.
            shape: (slot, cell, gene) of the minibatch.
        """

    @abstractmethod
    def arrays(self) -> Iterator[np.ndarray]:
        """The arrays that a digest of the rows is made of."""

    def plain(self) -> Any:
        """What people are handed: a sparse matrix where that is all there is to the rows, else the rows."""
        return self

    def in_memory(self) -> StoredRows:
        """The rows, read."""
        return self

    @property
    def place(self) -> Int[np.ndarray, " row"]:
        """Where each row lies in its file; in memory, its own position."""
        return np.arange(self.shape[0])

    def __len__(self) -> int:
        return self.shape[0]
