"""Calibration of default settings: simulated screens, planted misfits, and shipped screens by halves.

python experiments/calibration/run.py [development] [final] [misfits] [halves] scores what screens/ lacks, and
writes results.md, results.parquet and the figures.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process a core

import halves
import misfits
import pandas as pd
import report
import scored
import screens

HERE = Path(__file__).parent
FOLDER = HERE / "screens"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", help="what to run; all if none")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="fits at a time")
    chosen = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    wanted = {
        name: one for name, one in pieces().items() if not chosen.sets or name.split()[0] in chosen.sets
    }
    left = {name: one for name, one in wanted.items() if not path_of(name).is_file()}
    with ProcessPoolExecutor(chosen.jobs, max_tasks_per_child=1) as pool:
        for name in pool.map(kept, left, left.values()):
            print(name, flush=True)
    report.write(HERE, {name: pd.read_parquet(path_of(name)) for name in pieces() if path_of(name).is_file()})


def pieces() -> dict[str, Callable[[], pd.DataFrame]]:
    """What is run, by name."""
    found: dict[str, Callable[[], pd.DataFrame]] = {
        f"{kind} {number}": partial(scored.of_screen, kind, number)
        for kind in screens.SETS
        for number in range(screens.N_SCREENS)
    }
    found |= {f"misfits {name}": partial(misfits.of, name) for name in misfits.NAMES}
    return found | {f"halves {name}": partial(halves.of, name) for name in halves.NAMES}


def path_of(name: str) -> Path:
    """Where a piece's rows lie."""
    return FOLDER / f"{name.replace(' ', '_')}.parquet"


def kept(name: str, make: Callable[[], pd.DataFrame]) -> str:
    """Makes a piece and writes it."""
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a fit warns of stands in its diagnosis
        rows = make()
    rows.assign(piece=name, total_seconds=time.perf_counter() - started).to_parquet(path_of(name))
    return f"{name}: {time.perf_counter() - started:.0f} s"


if __name__ == "__main__":
    main()
