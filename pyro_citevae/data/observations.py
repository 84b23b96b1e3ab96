"""What is observed in a minibatch: stored as it came, and dense once where it is needed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

__all__ = ["ImageObservations", "Observations", "SparseObservations", "moved"]


class Observations(ABC):
    """Values of one minibatch, densified once where they are needed.

    Attributes:
        shape: (slot, cell, gene).
    """

    shape: tuple[int, int, int]

    @property
    @abstractmethod
    def dense(self) -> Float[Tensor, "slot cell gene"]:
        """The values with their zeros."""

    def transformed(
        self, factor: Float[Tensor, "slot cell"], function: Callable[[Tensor], Tensor] = torch.log1p
    ) -> Float[Tensor, "slot cell gene"]:
        """``function(factor x)``, such as ``log(1 + factor x)``, for a function that is zero at zero."""
        return function(factor[..., None] * self.dense)

    @abstractmethod
    def to(
        self, device: torch.device | str, non_blocking: bool = False, dtype: torch.dtype | None = None
    ) -> Observations:
        """Copies to a device, with real values of a type; as they are if None."""

    @abstractmethod
    def pin_memory(self) -> Observations:
        """Copies to memory that a GPU can read while the CPU goes on."""


@final
@dataclass(frozen=True)
class SparseObservations(Observations):
    """Sparse values: CSR over rows (slot, cell).

    Attributes:
        row: Row of each stored value.
        gene: Gene of each stored value.
        value: The stored values.
        shape: (slot, cell, gene).
    """

    row: Int[Tensor, " stored"]
    gene: Int[Tensor, " stored"]
    value: Float[Tensor, " stored"]
    shape: tuple[int, int, int]

    @cached_property
    def index(self) -> Int[Tensor, " stored"]:
        """Position of each stored value among all values, flattened."""
        return self.row * self.shape[-1] + self.gene

    @cached_property
    def dense(self) -> Float[Tensor, "slot cell gene"]:
        """The values with their zeros."""
        return self._with_zeros(self.value)

    def transformed(
        self, factor: Float[Tensor, "slot cell"], function: Callable[[Tensor], Tensor] = torch.log1p
    ) -> Float[Tensor, "slot cell gene"]:
        """``function(factor x)``, evaluated at each stored value alone."""
        return self._with_zeros(function(factor.reshape(-1)[self.row] * self.value))

    def _with_zeros(self, value: Float[Tensor, " stored"]) -> Float[Tensor, "slot cell gene"]:
        slots, cells, genes = self.shape
        flat = value.new_zeros(slots * cells * genes)
        return flat.scatter_(0, self.index, value).view(slots, cells, genes)

    def to(
        self, device: torch.device | str, non_blocking: bool = False, dtype: torch.dtype | None = None
    ) -> SparseObservations:
        """Copies to a device, with values of a type; as they are if None."""
        return SparseObservations(
            self.row.to(device, non_blocking=non_blocking),
            self.gene.to(device, non_blocking=non_blocking),
            moved(self.value, device, non_blocking, dtype),
            self.shape,
        )

    def pin_memory(self) -> SparseObservations:
        """Copies to memory that a GPU can read while the CPU goes on."""
        pinned = (self.row.pin_memory(), self.gene.pin_memory(), self.value.pin_memory())
        return SparseObservations(*pinned, self.shape)


@final
@dataclass(frozen=True)
class ImageObservations(Observations):
    """Images: a byte a value until they are used, on the device that uses them.

    Attributes:
        row: Row (slot, cell) of each image.
        value: The images, 0..255.
        shape: (slot, cell, gene), where a gene is a value of a pixel.
        dtype: Type of the values as they are used.
    """

    row: Int[Tensor, " image"]
    value: UInt8[Tensor, "image gene"]
    shape: tuple[int, int, int]
    dtype: torch.dtype = torch.float32

    @cached_property
    def dense(self) -> Float[Tensor, "slot cell gene"]:
        """The values in [0, 1], zero where no image is."""
        slots, cells, genes = self.shape
        rows = torch.zeros(slots * cells, genes, dtype=self.dtype, device=self.value.device)
        rows[self.row] = self.value.to(self.dtype) / 255
        return rows.view(slots, cells, genes)

    def to(
        self, device: torch.device | str, non_blocking: bool = False, dtype: torch.dtype | None = None
    ) -> ImageObservations:
        """Copies to a device; the values have a type once they are used, and stay a byte each until then."""
        return ImageObservations(
            self.row.to(device, non_blocking=non_blocking),
            self.value.to(device, non_blocking=non_blocking),
            self.shape,
            dtype or self.dtype,
        )

    def pin_memory(self) -> ImageObservations:
        """Copies to memory that a GPU can read while the CPU goes on."""
        return ImageObservations(self.row.pin_memory(), self.value.pin_memory(), self.shape, self.dtype)


def moved(
    one: Tensor, device: torch.device | str, non_blocking: bool = False, dtype: torch.dtype | None = None
) -> Tensor:
    """A tensor on a device, its real numbers of a type; whole numbers and truth values stay what they are."""
    kind = dtype if one.is_floating_point() else None
    return one.to(device, kind, non_blocking=non_blocking)
