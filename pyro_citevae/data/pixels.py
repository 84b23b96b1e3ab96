"""Images as rows of values: what a sparse matrix is to counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float32, Int, UInt8
from scipy import sparse

from pyro_citevae.data.observations import ImageObservations
from pyro_citevae.data.stored_rows import StoredRows

__all__ = ["Pixels"]

_CHUNK = 256  # images that are held at once


@final
class Pixels(StoredRows):
    """Rows of images, shared and memory-mapped: only what is asked for is read.

    A row is an image flattened to (height, width, channel), each value in [0, 1].

    Args:
        images: The stored images.
        frames: Which of them each row shows.

    Example:
        >>> pixels = Pixels(np.full((5, 2, 2, 3), 51, dtype=np.uint8), np.array([4, 0]))
        >>> pixels.shape, pixels[np.array([1])].toarray()[0, :2].round(1)
        ((2, 12), array([0.2, 0.2], dtype=float32))
    """

    def __init__(
        self, images: UInt8[np.ndarray, "frame height width channel"], frames: Int[np.ndarray, " row"]
    ) -> None:
        self.images, self.frames = images, frames

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and values."""
        return len(self.frames), int(np.prod(self.images.shape[1:]))

    def __getitem__(self, rows: Int[np.ndarray, " chosen"] | slice) -> Pixels:
        """Some of the rows, on the same images."""
        return Pixels(self.images, self.frames[rows])

    def stored(self) -> UInt8[np.ndarray, "row value"]:
        """The rows as they are stored, in 0..255."""
        # a sorted read of each image once: frames of a sequence often lie side by side
        distinct, place = np.unique(self.frames, return_inverse=True)
        return np.asarray(self.images[distinct]).reshape(len(distinct), -1)[place]

    def blocks(self) -> Iterator[Pixels]:
        """All rows in order, a few hundred at a time."""
        for first in range(0, len(self.frames), _CHUNK):
            yield self[slice(first, first + _CHUNK)]

    def toarray(self) -> Float32[np.ndarray, "row value"]:
        """The rows in [0, 1]."""
        return self.stored().astype(np.float32) / np.float32(255)

    def of_columns(self, columns: Int[np.ndarray, " chosen"]) -> Pixels:
        """All rows, with some of their values, in memory."""
        kept = self.stored()[:, columns]
        return Pixels(kept[:, None, :, None], np.arange(len(kept)))

    def tocsr(self) -> sparse.csr_matrix:
        """The rows as a sparse matrix, though few of their values are zero."""
        return sparse.csr_matrix(self.toarray())

    def sum(self, axis: int | None = None, dtype: Any = None) -> np.ndarray:
        """The sum over the rows (axis 0), of each row (axis 1), or of all values (None)."""
        if axis == 1:
            parts = [block.stored().sum(1, dtype=np.int64) for block in self.blocks()]
            return np.asarray(np.concatenate([*parts, np.zeros(0)]) / 255, dtype=dtype)
        total = np.zeros(self.shape[1], dtype=np.int64)
        for block in self.blocks():
            total += block.stored().sum(0, dtype=np.int64)
        return np.asarray((total.sum() if axis is None else total) / 255, dtype=dtype)

    def observations(self, row: Int[np.ndarray, " row"], shape: tuple[int, int, int]) -> ImageObservations:
        """The images, a byte a value."""
        return ImageObservations(torch.from_numpy(row), torch.from_numpy(self.stored()), shape)

    def arrays(self) -> Iterator[np.ndarray]:
        """The bytes of the rows, a few hundred rows at a time."""
        yield from (block.stored() for block in self.blocks())
