"""Random draws that depend on a seed alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["seeded"]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch within, and gives the caller's random state back after."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
