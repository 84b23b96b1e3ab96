"""The type of numbers that torch makes of its own accord: ours within, the caller's again after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["default_dtype"]


@contextmanager
def default_dtype(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Lets torch make numbers of a type within, whatever ``torch.set_default_dtype`` was given outside.

    Args:
        dtype: The type: single precision, that of screens and weights, unless said otherwise.

    Example:
        >>> with default_dtype(torch.float64):
        ...     torch.zeros(1).dtype
        torch.float64
        >>> torch.zeros(1).dtype
        torch.float32
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
