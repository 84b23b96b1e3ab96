"""Row 3: cells trained on a second, against scvi-tools on the same file, each run in a process of its own."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
from case import Case, Measured, Target, UnavailableError
from child import answer, peers
from screen_file import screen_file

__all__ = ["cases"]


def cases(quick: bool, work: Path) -> list[Case]:
    """5,000 cells x 2,000 genes, networks 128 wide; Decipher, which is a Pyro program too, beside SCVI."""
    sizes = (60, 40) if quick else (5000, 2000)
    epochs, rounds = (2, 1) if quick else (4, 3)
    wanted = [
        *(("SCVI", size, bound, "never") for size, bound in ((128, 0.9), (256, 1.2), (1024, 1.5))),
        *(("SCVI", size, bound, "always") for size, bound in ((128, 1.3), (256, 1.7), (1024, 2.0))),
        ("Decipher", 128, None, "never"),
    ]
    return [
        Case(
            "throughput",
            f"{peer}, batch {batch_size}" + ", compiled" * (compiling == "always"),
            Target("our cells a second over theirs", "at least", bound),
            partial(_measured, work, sizes, peer, batch_size, compiling, epochs, rounds),
        )
        for peer, batch_size, bound, compiling in wanted
    ]


def _measured(
    work: Path, sizes: tuple[int, int], peer: str, batch_size: int, compiling: str, epochs: int, rounds: int
) -> Measured:
    if compiling == "always" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        raise UnavailableError("there is no C++ compiler")
    python = peers()
    file = screen_file(work, *sizes)
    options = ("--batch-size", batch_size, "--epochs", epochs)
    ours, theirs, versions = [], [], ""
    for _ in range(rounds):
        ours.append(answer("train_citevae.py", file, *options, "--compile", compiling)["cells_per_second"])
        found = answer("train_scvi.py", file, "--model", peer, *options, python=python)
        theirs.append(found["cells_per_second"])
        versions = found["versions"]
    note = f"cells a second: ours {np.median(ours):,.0f}, {peer} {np.median(theirs):,.0f} ({versions})"
    return Measured((np.array(ours) / np.array(theirs)).tolist(), note)
