"""Devices that a user names: there, or one sentence that says what is."""

from __future__ import annotations

import torch

from pyro_citevae.errors import FitError

__all__ = ["device_of", "n_gpus"]


def n_gpus() -> int:
    """Number of CUDA devices on this machine."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def device_of(name: str) -> torch.device:
    """The device of a name.

    Args:
        name: ``"cpu"``, ``"gpu"``, ``"auto"`` for a GPU where there is one, or torch's name, such as
            ``"cuda:1"``.

    Raises:
        FitError: The name is none, or there is no such device.
    """
    there = n_gpus()
    known = {"gpu": "cuda", "auto": "cuda" if there else "cpu"}
    try:
        found = torch.device(known.get(name, name))
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise FitError(f"to('{name}') names no device; use 'cpu', 'gpu', 'auto' or 'cuda:0'.")
    if found.type == "cuda" and (found.index or 0) >= there:
        counted = f"{there} CUDA device{'s' * (there > 1)}" if there else "no CUDA device"
        raise FitError(f"to('{name}') finds {counted} on this machine; use one that is there, or 'cpu'.")
    return found
