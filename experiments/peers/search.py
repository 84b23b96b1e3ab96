"""A search of the number of steps on inner folds of the training cells, for every predictor alike."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pieces import Piece, Store
from predictors import RULES, Contender
from task_folder import Case
from tasks import Task

from pyro_citevae.whole_files import aside

__all__ = ["FACTORS", "INNER", "SEARCHED", "Search", "note", "read", "searches"]

FACTORS = (0.5, 1.0, 2.0)
SEARCHED = ("simulated_genes", "simulated_contexts")  # the first that a tool is made for is its
INNER = "inner"
_FILE = "search.json"


@dataclass(frozen=True)
class Search:
    """The search of one predictor, on the first task that it is made for.

    The steps that err least (relative L2) on an inner fold, which the same protocol makes of the training
    cells of the first fold, are taken for a fit on all training cells, scored on the first fold; one seed.

    Attributes:
        contender: Who predicts.
        cases: The first fold of each task, and a fold of its training cells.
    """

    contender: Contender
    cases: Sequence[tuple[Case, Case]]

    def row(self, store: Store) -> dict[str, Any]:
        """What was found, or why there is nothing."""
        for outer, inner in self.cases:
            found = _found(self.contender, outer, inner, store)
            if not found.pop("cannot"):
                break
        return {"task": outer.task.name, "predictor": self.contender.name, **found}


def _found(one: Contender, outer: Case, inner: Case, store: Store) -> dict[str, Any]:
    """Errors by factor on the inner fold, the factor taken, and its error on the outer fold."""
    first = _tried(one, inner, None, store)
    if first["failure"]:
        return {"failure": first["failure"], "cannot": first["cannot"]}
    default = int(first["steps"])
    errors = {1.0: first["error"]}
    for factor in FACTORS:
        if factor != 1.0:
            found = _tried(one, inner, max(1, round(factor * default)), store)
            errors[factor] = found["error"]  # none where it took too long
    chosen = min((value, factor) for factor, value in errors.items() if value is not None)[1]
    by_default = _tried(one, outer, None, store)
    taken = by_default if chosen == 1.0 else _tried(one, outer, round(chosen * default), store)
    return {
        "failure": by_default["failure"] or taken["failure"],
        "cannot": False,
        "steps": default,
        "inner": {f"{factor:g}": errors[factor] for factor in FACTORS},
        "chosen": chosen,
        "default": by_default["error"],
        "searched": taken["error"],
    }


def searches(tasks: Sequence[Task], contenders: Sequence[Contender], out: Path) -> Iterator[Search]:
    """Every predictor; the rules have no steps."""
    cases = [_cases(task, out) for task in tasks]
    yield from (Search(one, cases) for one in contenders if one.name != RULES)


def _cases(task: Task, out: Path) -> tuple[Case, Case]:
    """The first fold of a task, and a fold of its training cells."""
    fold = task.folds_of(task.data)[0]
    place = out / task.name / f"fold_{fold.number}"
    within = replace(task, taken=(0,)).folds_of(fold.train)[0]
    return Case.of(task, fold, place / "case"), Case.of(task, within, place / INNER / "case")


def note(row: Mapping[str, Any], out: Path) -> None:
    """Writes what a search found, in the place of what an earlier start did."""
    known = {one["predictor"]: one for one in read(out)}
    known[row["predictor"]] = dict(row)
    with aside(out / _FILE, overwrite=True) as written:
        written.write_text(json.dumps(list(known.values()), indent=1) + "\n")


def read(out: Path) -> list[dict[str, Any]]:
    """What earlier starts found."""
    file = out / _FILE
    found: list[dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else []
    return found


def _tried(one: Contender, case: Case, steps: int | None, store: Store) -> dict[str, Any]:
    """The error of a predictor on a case, and how long it trained."""
    challenge = case.task.challenge and case.folder.parent.name != INNER  # as in the tables, not fitted anew
    frame, said = store.result(Piece(case, one, 0, steps, challenge))
    if said["failure"]:
        return {"failure": said["failure"], "cannot": said["cannot"], "error": None, "steps": 0}
    error = float(frame[frame.score == "relative_l2"].value.mean())
    return {"failure": "", "cannot": False, "error": error, "steps": said["itself"]["steps"]}
