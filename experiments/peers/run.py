"""Other tools beside ours and the rules, on the same folds, by the same scores; a second start goes on.

python experiments/peers/run.py                                  all tasks, all that is installed, three seeds
python experiments/peers/run.py --peer scgen CiteVAE --task kang --seeds 1
python experiments/peers/run.py --search                         the search of the number of steps

A piece (a predictor, a fold, a seed) is stored as soon as it is scored. What failed is tried again with
--again alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import search
import tables
from pieces import Piece, Store
from predictors import Contender, Peer, contenders
from task_folder import Case
from tasks import TASKS, Task

from pyro_citevae.errors import CiteVAEWarning

DEFAULT = Path("runs/peers")


def main(given: Sequence[str] | None = None) -> int:
    """Runs what is asked for, and writes the tables."""
    known = contenders()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", nargs="+", choices=known, default=list(known), metavar="NAME")
    parser.add_argument("--task", nargs="+", choices=TASKS, default=list(TASKS), metavar="TASK")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=600.0, help="Seconds after which a fit is stopped.")
    parser.add_argument("--again", action="store_true", help="Try again what failed.")
    parser.add_argument("--search", action="store_true", help="Search the number of steps on inner folds.")
    parser.add_argument("--no-tables", action="store_true", help="Leave the tables as they are.")
    parser.add_argument("-o", "--out", type=Path, default=DEFAULT, help="Folder of the pieces.")
    chosen = parser.parse_args(given)
    store = Store(chosen.limit, chosen.again)
    ready = [one for one in (known[name] for name in chosen.peer) if installed(one)]
    logging.getLogger("cell_eval2").setLevel(logging.ERROR)  # it advises those who submit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CiteVAEWarning)  # of the screens, which are the same in every start
        warnings.filterwarnings("ignore", "Observation names are not unique")  # in cell-eval2's own tables
        if chosen.search:
            asked = [one for one in chosen.task if one in search.SEARCHED]
            for row in search.rows([TASKS[one] for one in asked], ready, store, chosen.out):
                print(json.dumps(row), flush=True)
        else:
            for piece in pieces([TASKS[one] for one in chosen.task], ready, chosen.seeds, chosen.out):
                print(line(piece, *store.result(piece)), flush=True)
    if not chosen.no_tables:
        tables.main(["-o", str(chosen.out)])
    return 0


def installed(contender: Contender) -> bool:
    """Whether its environment was made; says how, if not."""
    made = not isinstance(contender, Peer) or contender.python.is_file()
    if not made:
        print(f"{contender.name} is left out; make its environment by: make peers PEER={contender.name}")
    return made


def pieces(tasks: Sequence[Task], asked: Sequence[Contender], seeds: int, out: Path) -> Iterator[Piece]:
    """Every piece, task by task, so that a first seed of all is there before a second."""
    for task in tasks:
        cases = [
            Case.of(task, fold, out / task.name / f"fold_{fold.number}" / "case")
            for fold in task.folds_of(task.data)
        ]
        for case in cases:
            yield Piece(case, None, challenge=task.challenge)
        for seed in range(seeds):
            for contender in asked:
                if seed == 0 or contender.seeded:
                    yield from (Piece(case, contender, seed, challenge=task.challenge) for case in cases)


def line(piece: Piece, frame: pd.DataFrame, said: dict[str, Any]) -> str:
    """What came of a piece."""
    head = f"{piece.case.task.name} {piece.case.fold.number} {piece.name} {piece.seed}:"
    if said["failure"]:
        return f"{head} {'cannot' if said['cannot'] else 'FAILED'}: {said['failure']}"
    if piece.contender is None:
        return f"{head} ceiling {frame[frame.score == 'relative_l2'].value.mean():.3f}"
    errors = frame[frame.score == "relative_l2"].groupby("predictor").value.mean().sort_values()
    named = ", ".join(f"{name} {value:.3f}" for name, value in errors.head(4).items())
    return f"{head} {named}; {said['seconds']:.0f} s, {said['megabytes']:.0f} MB"


if __name__ == "__main__":
    raise SystemExit(main())
