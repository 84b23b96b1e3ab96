"""Row 8: the same training on a CUDA device, in single and in mixed precision."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from case import Case, Measured, Target, UnavailableError
from child import answer
from screen_file import screen_file

__all__ = ["cases"]


def cases(quick: bool, work: Path) -> list[Case]:
    """5,000 cells x 2,000 genes in minibatches of 256."""
    sizes = (60, 40) if quick else (5000, 2000)
    return [
        Case(
            "GPU",
            precision,
            Target("cells a second on the GPU over the CPU"),
            partial(_measured, work, sizes, precision, 1 if quick else 3),
        )
        for precision in ("32-true", "bf16-mixed")
    ]


def _measured(work: Path, sizes: tuple[int, int], precision: str, rounds: int) -> Measured:
    if not torch.cuda.is_available():
        raise UnavailableError("torch finds no CUDA device here")
    file = screen_file(work, *sizes)
    gpu, cpu = [], []
    for _ in range(rounds):
        on_gpu = answer("train_citevae.py", file, "--accelerator", "gpu", "--precision", precision)
        gpu.append(on_gpu["cells_per_second"])
        cpu.append(answer("train_citevae.py", file)["cells_per_second"])
    note = f"cells a second: GPU {np.median(gpu):,.0f}, CPU {np.median(cpu):,.0f}"
    return Measured((np.array(gpu) / np.array(cpu)).tolist(), note)
