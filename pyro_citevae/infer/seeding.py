"""Random draws that depend on a seed alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pyro_citevae import arguments
from pyro_citevae.nn.default_dtype import default_dtype

__all__ = ["seeded"]


@contextmanager
def seeded(seed: int, dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Seeds torch within, and gives the caller's random state and default type of numbers back after.

    Args:
        seed: The seed.
        dtype: The type of numbers that torch makes within.

    Raises:
        DataError: It is no seed.
    """
    arguments.seed(seed, "seed=...")
    with torch.random.fork_rng(), default_dtype(dtype):
        torch.manual_seed(seed)
        yield
