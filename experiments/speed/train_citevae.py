"""Trains CiteVAE on a screen in this process, and prints throughput and memory as JSON.

python experiments/speed/train_citevae.py runs/speed/screen_5000x2000x20.h5ad --batch-size 128
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from case import UnavailableError
from open_screen import from_disk, in_memory
from step_times import step_ends

import pyro_citevae as cv
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3, help="Two at least: the first one is not counted.")
    parser.add_argument(
        "--steps", type=int, help="Leave after so many steps, of which a fifth is not counted."
    )
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--from", dest="source", choices=("memory", "disk"), default="memory")
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--compile", default="never", help="Whether a step on a CPU is compiled.")
    chosen = parser.parse_args(given)
    started = time.perf_counter()
    try:
        data = (in_memory if chosen.source == "memory" else from_disk)(chosen.file)
    except UnavailableError as error:
        raise SystemExit(str(error)) from None
    opened, before = time.perf_counter() - started, _peak_gib()
    speed = cells_per_second(
        data,
        batch_size=chosen.batch_size,
        epochs=chosen.epochs,
        steps=chosen.steps,
        hidden=chosen.hidden,
        accelerator=chosen.accelerator,
        precision=chosen.precision,
        compile=chosen.compile,
    )
    found = {
        "open_seconds": opened,
        "cells_per_second": speed,
        "before_gib": before,
        "peak_gib": _peak_gib(),
    }
    print(json.dumps(found))


def _peak_gib() -> float:
    # ru_maxrss would begin at what the process that started this one had
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak[1]) / 2**20 if peak else float("nan")


def cells_per_second(
    data: cv.Trajectories,
    *,
    batch_size: int,
    epochs: int = 3,
    steps: int | None = None,
    hidden: int = 128,
    **settings: Any,
) -> float:
    """Throughput of a fit: of its epochs after the first one, or of its steps after the first fifth."""
    model = CiteVAE(data.schema, hidden=hidden)
    options: dict[str, Any] = {"batch_size": batch_size, "max_epochs": epochs, "validation": 0.0}
    with step_ends(steps) as ends:
        cv.fit(model, BackwardSmoother(model, hidden=hidden), data, progress=False, **options, **settings)
    if steps is None:
        first, cells = math.ceil(data.n_cells / batch_size) - 1, data.n_cells * (epochs - 1)
    else:
        first = len(ends) // 5
        cells = (len(ends) - 1 - first) * min(batch_size, data.n_cells)
    return cells / (ends[-1] - ends[first])


if __name__ == "__main__":
    main()
