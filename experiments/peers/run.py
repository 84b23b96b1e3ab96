"""Other tools beside ours and the rules, on the same folds, by the same scores; a second start goes on.

python experiments/peers/run.py                                  all tasks, all that is installed, three seeds
python experiments/peers/run.py --peer scgen CiteVAE --task kang --seeds 1
python experiments/peers/run.py --search                         and the search of the number of steps

A piece (a predictor, a fold, a seed) is stored as soon as it is scored. What failed is tried again with
--again alone.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import search
import tables
from pieces import Piece, Store, stored
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
    parser.add_argument("--jobs", type=int, default=2, help="Pieces at once, a core each.")
    parser.add_argument("--limit", type=float, default=1800.0, help="Seconds after which a fit is stopped.")
    parser.add_argument("--again", action="store_true", help="Try again what failed.")
    parser.add_argument("--anew", action="store_true", help="Make all that is asked for anew.")
    parser.add_argument("--search", action="store_true", help="Search the number of steps, too.")
    parser.add_argument("--no-tables", action="store_true", help="Leave the tables as they are.")
    parser.add_argument("-o", "--out", type=Path, default=DEFAULT, help="Folder of the pieces.")
    chosen = parser.parse_args(given)
    if chosen.search and not set(chosen.task) & set(search.SEARCHED):
        parser.error(f"--search is of {' and '.join(search.SEARCHED)}; name one of them by --task")
    store = Store(chosen.limit, chosen.again, chosen.anew)
    ready = [one for one in (known[name] for name in chosen.peer) if installed(one)]
    tables.restored(chosen.out)
    parallel = joblib.Parallel(chosen.jobs, return_as="generator_unordered", pre_dispatch="n_jobs")
    asked = [TASKS[one] for one in chosen.task]
    every = (joblib.delayed(made)(one, store) for one in pieces(asked, ready, chosen.seeds, chosen.out))
    # one after the other in one pool, so that no core waits where the tables end
    more = searches(asked, ready, chosen.out, store) if chosen.search else ()
    with quiet():
        for found in parallel(chain(every, more)):
            if isinstance(found, dict):
                search.note(found, chosen.out)
                found = json.dumps(found)
            print(found, flush=True)
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
    """Every piece, seed by seed, so that a first seed of all is there before a second."""
    cases = [
        Case.of(task, fold, out / task.name / f"fold_{fold.number}" / "case")
        for task in tasks
        for fold in task.folds_of(task.data)
    ]
    yield from (Piece(case, None, challenge=case.task.challenge) for case in cases)
    for seed in range(seeds):
        for case in cases:
            for one in asked:
                if seed == 0 or one.seeded:
                    yield Piece(case, one, seed, challenge=case.task.challenge)


def searches(
    tasks: Sequence[Task], asked: Sequence[Contender], out: Path, store: Store
) -> Iterator[tuple[Any, ...]]:
    """The searches, those that take longest first, so that the cores end together."""
    took: Counter[str] = Counter()
    for _, said in stored(out, {one.name: one for one in asked}):
        took[said["predictor"]] += said.get("processor", 0)
    longest = sorted(asked, key=lambda one: -took[one.name])
    found = search.searches([one for one in tasks if one.name in search.SEARCHED], longest, out)
    yield from (joblib.delayed(searched)(one, store) for one in found)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what is said of the screens, which are the same in every start."""
    logging.getLogger("cell_eval2").setLevel(logging.ERROR)  # it advises those who submit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CiteVAEWarning)
        # of genes that are alike in all cells
        warnings.filterwarnings("ignore", "invalid value encountered", RuntimeWarning, "scanpy")
        warnings.filterwarnings("ignore", "Observation names are not unique")  # in cell-eval2's own tables
        yield


def made(piece: Piece, store: Store) -> str:
    """Makes a piece, in a process of its own, and says what came of it."""
    with quiet():
        return line(piece, *store.result(piece))


def searched(one: search.Search, store: Store) -> dict[str, Any]:
    """Searches, in a process of its own."""
    with quiet():
        return one.row(store)


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
