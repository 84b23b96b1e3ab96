"""Row 8: training on a CUDA device, against the CPU beside it and against scvi-tools on the same device."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from case import Case, Measured, Target, UnavailableError
from child import answer, peers
from open_screen import in_memory
from screen_file import screen_file
from train_citevae import cells_per_second

__all__ = ["cases"]


def cases(quick: bool, work: Path) -> list[Case]:
    """16,384 cells x 2,000 genes, networks 128 wide."""
    sizes, rounds = ((64, 40), 1) if quick else ((16_384, 2000), 3)
    over_cpu = [
        Case(
            "GPU",
            f"{precision}, batch {batch_size:,}",
            Target("cells a second on the GPU over the CPU"),
            partial(_over_the_cpu, work, sizes, precision, batch_size, rounds),
        )
        for batch_size in (256, 1024, 4096)
        for precision in ("32-true", "bf16-mixed")
    ]
    over_peer = [
        Case(
            "GPU",
            f"SCVI, batch {batch_size:,}",
            Target("our cells a second over theirs on the GPU"),
            partial(_over_scvi, work, sizes, batch_size, rounds),
        )
        for batch_size in (256, 4096)
    ]
    return over_cpu + over_peer


def _require_gpu() -> str:
    if not torch.cuda.is_available():
        raise UnavailableError("torch finds no CUDA device here")
    return torch.cuda.get_device_name()


def _over_the_cpu(
    work: Path, sizes: tuple[int, int], precision: str, batch_size: int, rounds: int
) -> Measured:
    name = _require_gpu()
    data = in_memory(screen_file(work, *sizes))
    on_gpu = {"accelerator": "gpu", "precision": precision}
    gpu, cpu = [], []
    for _ in range(rounds):
        gpu.append(cells_per_second(data, batch_size=batch_size, steps=25, epochs=25, **on_gpu))
        cpu.append(cells_per_second(data, batch_size=batch_size, steps=5, epochs=5))
    note = f"cells a second: {name} {np.median(gpu):,.0f}, CPU {np.median(cpu):,.0f}"
    return Measured((np.array(gpu) / np.array(cpu)).tolist(), note)


def _over_scvi(work: Path, sizes: tuple[int, int], batch_size: int, rounds: int) -> Measured:
    name, python = _require_gpu(), peers()
    file = screen_file(work, *sizes)
    data = in_memory(file)
    options = ("--batch-size", batch_size, "--accelerator", "gpu")
    ours, theirs, versions = [], [], ""
    for _ in range(rounds):
        ours.append(cells_per_second(data, batch_size=batch_size, steps=25, epochs=25, accelerator="gpu"))
        found = answer("train_scvi.py", file, *options, python=python)
        theirs.append(found["cells_per_second"])
        versions = found["versions"]
    note = (
        f"cells a second on {name}: ours {np.median(ours):,.0f}, SCVI {np.median(theirs):,.0f} ({versions})"
    )
    return Measured((np.array(ours) / np.array(theirs)).tolist(), note)
