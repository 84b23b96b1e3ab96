"""Speed and memory: every target of the library, measured on this machine; a second start goes on.

make bench                                                   all rows, with OMP_NUM_THREADS=1
python experiments/speed/run.py --rows likelihood growth     some of them
python experiments/speed/run.py --quick -o /tmp/quick        all, at sizes that say nothing, in a minute

A result is written as soon as it is there, and is measured again only with --again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import gpu
import growth
import likelihood
import machine
import memory_with_perturbations
import pandas as pd
import prediction
import start_up
import throughput
import training_from_disk
import training_step
import two_processes
from case import Case, Result

HERE = Path(__file__).parent
ROWS: Mapping[str, Callable[[bool, Path], list[Case]]] = MappingProxyType(
    {
        "likelihood": lambda quick, work: likelihood.cases(quick),
        "step": training_step.cases,
        "throughput": throughput.cases,
        "growth": growth.cases,
        "perturbations": memory_with_perturbations.cases,
        "disk": training_from_disk.cases,
        "prediction": prediction.cases,
        "processes": two_processes.cases,
        "start": start_up.cases,
        "gpu": gpu.cases,
        "gpu-over-cpu": gpu.over_the_cpu,
    }
)


def main(given: Sequence[str] | None = None) -> int:
    """Measures what is asked for, and writes it; 1 if a target is missed at the real sizes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--quick", action="store_true", help="Sizes that only show that it works.")
    parser.add_argument("--again", action="store_true", help="Measure anew what is already there.")
    parser.add_argument("-o", "--out", type=Path, default=None, help="Folder of the results.")
    parser.add_argument("--work", type=Path, default=Path("runs/speed"), help="Folder of simulated screens.")
    chosen = parser.parse_args(given)
    out = chosen.out or (chosen.work / "quick" if chosen.quick else HERE)
    cases = {row: made(chosen.quick, chosen.work) for row, made in ROWS.items()}
    asked = {(case.row, case.name): str(case.target) for row in cases.values() for case in row}
    # what is no longer a row, or was held to another target, says nothing
    known = {key: one for key, one in read(out).items() if asked.get(key) == one.target}
    for row in chosen.rows:
        for case in cases[row]:
            kept = known.get((case.row, case.name))
            if kept is None or kept.ratio is None or chosen.again:
                found = Result.of_case(case, machine.described())
                if kept is None or kept.ratio is None or found.ratio is not None:
                    kept = found  # what cannot be measured here may have been elsewhere
                known[case.row, case.name] = kept
                write(out, list(known.values()))
            print(kept.line(), flush=True)
    results = list(known.values())
    print(f"\n{tabulated(results)}\nSaved {out}/results.json, results.parquet and results.md.")
    return int(not chosen.quick and any(one.passed is False for one in results))


def read(out: Path) -> dict[tuple[str, str], Result]:
    """The results of earlier starts, by row and case."""
    file = out / "results.json"
    rows = json.loads(file.read_text()) if file.is_file() else []
    return {(row["row"], row["case"]): Result(**row) for row in rows}


def write(out: Path, results: Sequence[Result]) -> None:
    """The results as JSON, as a table for people, and as one number a row (score ``ratio``)."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [asdict(one) for one in results]
    (out / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    (out / "results.md").write_text(tabulated(results) + "\n")
    frame = pd.DataFrame(rows).drop(columns="machine").rename(columns={"ratio": "value"})
    frame.assign(score="ratio").to_parquet(out / "results.parquet")


def tabulated(results: Sequence[Result]) -> str:
    """The table, over the machines that it was measured on."""
    lines = ["| | | ratio of | median (range over rounds) | target | | |", "|---|---|---|---|---|---|---|"]
    lines += [one.line() for one in results]
    moments: dict[str, dict[str, str]] = {}
    for one in results:
        moments.setdefault(machine.sentence(one.machine), {})[one.row] = machine.moment(one.machine)
    for said, rows in moments.items():
        lines += ["", said, *(f"* {row}: {moment}" for row, moment in rows.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
