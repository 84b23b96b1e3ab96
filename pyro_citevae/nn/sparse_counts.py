"""Counts that remember where they are not zero."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["SparseCounts", "stored"]


@final
class SparseCounts(Tensor):
    """A dense tensor of counts that knows its non-zeros, so that no law need look for them.

    To any operation it is the dense tensor, and what comes out is an ordinary one.

    Attributes:
        place: Positions of the stored values in the flattened tensor.
        value: The stored values; a zero among them does no harm.

    Example:
        >>> import torch
        >>> index, value = torch.tensor([1, 5]), torch.tensor([2.0, 7.0])
        >>> dense = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 7.0]])
        >>> counts = SparseCounts.of(dense, index, value)
        >>> counts.sum(-1), counts.place
        (tensor([2., 7.]), tensor([1, 5]))
    """

    place: Int[Tensor, " stored"]
    value: Float[Tensor, " stored"]

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore

    @classmethod
    def of(
        cls, dense: Float[Tensor, ...], place: Int[Tensor, " stored"], value: Float[Tensor, " stored"]
    ) -> SparseCounts:
        """The same values, with their non-zeros beside them.

        Args:
            dense: The counts with their zeros.
            place: Positions of the non-zeros in the flattened tensor, each once.
            value: The counts there.
        """
        made = dense.as_subclass(cls)
        made.place, made.value = place, value
        return made


def stored(
    counts: Float[Tensor, ...], shape: torch.Size
) -> tuple[Int[Tensor, " stored"], Float[Tensor, " stored"]]:
    """Positions and values of the non-zeros of counts that are broadcast to a shape.

    Args:
        counts: Dense counts, :class:`SparseCounts`, or a sparse tensor of torch's.
        shape: Shape to which the counts broadcast, such as (draw, cell, gene).
    """
    copies = shape[: len(shape) - counts.dim()]
    if shape[len(copies) :] != counts.shape:
        dense = counts if counts.layout is torch.strided else counts.to_dense()
        return _non_zeros(dense.expand(shape))
    if isinstance(counts, SparseCounts):
        index, value = counts.place, counts.value
    else:
        index, value = _non_zeros(counts)
    n = copies.numel()
    if n == 1:
        return index, value
    start = torch.arange(n, device=index.device)[:, None] * counts.numel()
    return (start + index).flatten(), value.repeat(n)


def _non_zeros(counts: Float[Tensor, ...]) -> tuple[Int[Tensor, " stored"], Float[Tensor, " stored"]]:
    if counts.layout is torch.strided:
        flat = counts.reshape(-1)
        index = flat.ne(0).nonzero().squeeze(-1)
        return index, flat.index_select(0, index)
    listed = counts.to_sparse_coo().coalesce()
    strides = torch.tensor([counts.shape[i + 1 :].numel() for i in range(counts.dim())])
    return strides.to(listed.device) @ listed.indices(), listed.values()
