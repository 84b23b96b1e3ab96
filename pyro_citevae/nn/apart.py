"""Values that a compiler computes once, apart from what is made of them."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_citevae.nn.fixed_shapes import shapes_are_fixed

__all__ = ["apart"]


def apart(*values: Tensor) -> tuple[Tensor, ...]:
    """The values; a compiled step on a CPU keeps them, and runs no operation of theirs within a later one.

    A compiler inlines what makes a value into the loop that adds it to places of a table. That loop takes one
    value at a time, and costly functions with it, which by themselves take sixteen at a time.

    Example:
        >>> import torch
        >>> apart(torch.ones(2))[0]
        tensor([1., 1.])
    """
    if not shapes_are_fixed() or values[0].device.type != "cpu":
        return values
    return tuple(_copied(one) for one in values)


@torch.library.custom_op("pyro_citevae::copied", mutates_args=())
def _copied(value: Tensor) -> Tensor:
    return value.clone()


@_copied.register_fake
def _(value: Tensor) -> Tensor:
    return torch.empty_like(value)
