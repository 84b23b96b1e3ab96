"""A search of the number of steps on inner folds of the training cells, for every predictor alike."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pieces import Piece, Store
from predictors import RULES, Contender
from task_folder import Case
from tasks import Task

from pyro_citevae.whole_files import aside

__all__ = ["FACTORS", "SEARCHED", "read", "rows"]

FACTORS = (0.3, 1.0, 3.0)
SEARCHED = ("simulated_genes", "simulated_pairs", "kang", "renge_time")  # one of each kind
_FILE = "search.json"


def rows(
    tasks: Sequence[Task], contenders: Sequence[Contender], store: Store, out: Path
) -> Iterator[dict[str, Any]]:
    """What each predictor's search found, written as soon as it is known.

    The steps that err least (relative L2) on an inner fold, which the same protocol makes of the training
    cells of the first fold, are taken for a fit on all training cells, scored on the first fold; one seed.
    """
    known = {(row["task"], row["predictor"]): row for row in read(out)}
    for task in tasks:
        fold = task.folds_of(task.data)[0]
        place = out / task.name / f"fold_{fold.number}"
        outer = Case.of(task, fold, place / "case")
        within = replace(task, taken=(0,)).folds_of(fold.train)[0]
        inner = Case.of(task, within, place / "inner" / "case")
        for one in contenders:
            if one.name != RULES:
                row = {"task": task.name, "predictor": one.name, **_searched(one, outer, inner, store)}
                known[task.name, one.name] = row
                with aside(out / _FILE, overwrite=True) as written:
                    written.write_text(json.dumps(list(known.values()), indent=1) + "\n")
                yield row


def read(out: Path) -> list[dict[str, Any]]:
    """What earlier starts found."""
    file = out / _FILE
    found: list[dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else []
    return found


def _searched(one: Contender, outer: Case, inner: Case, store: Store) -> dict[str, Any]:
    """Errors by factor on the inner fold, the factor taken, and its error on the outer fold."""
    first = _tried(one, inner, None, store)
    if first["failure"]:
        return {"failure": first["failure"]}
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
        "steps": default,
        "inner": {f"{factor:g}": errors[factor] for factor in FACTORS},
        "chosen": chosen,
        "default": by_default["error"],
        "searched": taken["error"],
    }


def _tried(one: Contender, case: Case, steps: int | None, store: Store) -> dict[str, Any]:
    """The error of a predictor on a case, and how long it trained."""
    challenge = (
        case.task.challenge and case.folder.parent.name != "inner"
    )  # as in the tables, not fitted anew
    frame, said = store.result(Piece(case, one, 0, steps, challenge))
    if said["failure"]:
        return {"failure": said["failure"], "error": None, "steps": 0}
    error = float(frame[frame.score == "relative_l2"].value.mean())
    return {"failure": "", "error": error, "steps": said["itself"]["steps"]}
