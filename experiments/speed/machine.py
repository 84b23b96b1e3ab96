"""What a timing depends on beside the code: threads, load, processor and versions."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

__all__ = ["described", "moment", "sentence"]

_PACKAGES = ("pyro-citevae", "torch", "pyro-ppl", "lightning", "numpy", "scipy", "anndata")


def described() -> dict[str, Any]:
    """Threads, load average of the last minute, processor, date and versions, now."""
    return {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "not set"),
        "torch_threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "cores": os.cpu_count(),
        "processor": _processor(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
    }


def sentence(machine: dict[str, Any]) -> str:
    """Threads, processor and versions in one line."""
    packages = ", ".join(f"{name} {machine[name]}" for name in ("python", *_PACKAGES))
    threads = f"OMP_NUM_THREADS={machine['OMP_NUM_THREADS']}"
    return f"{threads}, {machine['cores']} cores of {machine['processor']}; {packages}."


def moment(machine: dict[str, Any]) -> str:
    """Date and load in one line."""
    return f"{machine['date']} UTC, load average {machine['load_average']}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
