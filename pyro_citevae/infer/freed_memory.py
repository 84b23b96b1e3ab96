"""Memory that a step frees, kept for the step that follows."""

from __future__ import annotations

import torch

__all__ = ["keep_freed_memory"]

_LARGEST = 33_500_000  # bytes: glibc follows a freed block of up to 32 MiB


def keep_freed_memory() -> None:
    """Lets glibc keep blocks of up to 32 MiB that are freed, and hand them out again.

    At first it maps a block of 128 KiB or more from the system, and gives it back; each is cleared anew, a
    page at a time. It stops doing so for blocks no larger than one that was freed, so one is made and freed
    here. Elsewhere nothing happens.

    Source: the manual of malloc, mallopt(3), of the dynamic mmap threshold.

    Example:
        >>> keep_freed_memory()
    """
    torch.empty(_LARGEST, dtype=torch.uint8)
