"""The page of the peers' results: what is ahead of ours first, then the headline, then a table a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pandas as pd
from predictors import OURS, RULES, contenders
from search import FACTORS
from tasks import TASKS, Task

from pyro_citevae.analysis import challenge_scaled

__all__ = ["TASK_BY_TASK", "page"]

TASK_BY_TASK = "<!-- task by task -->"
"""Up to here the page of the comparison shows it."""

_SEES = ("technical duplicate", "interpolated duplicate", "mean of others (sees the held-out time)")
_ENDS = ("ceiling", "mean response", "replicate")
_TRUE = "true_"
_AVERAGE = "scaled_cell_eval2_average"
_SHOWN = MappingProxyType(
    {
        "pearson_delta_control": "Pearson",
        "relative_l2": "relative L2",
        "crps": "CRPS",
        "coverage_80": "80 % covers",
        "cosine_delta_mean": "cosine beyond the mean",
        "pds": "PDS",
        "energy_distance": "energy distance",
        "de_overlap": "DE overlap",
        _AVERAGE: "challenge, scaled",
    }
)
_BETTER_SMALLER = ("relative_l2", "crps")


def page(
    scores: pd.DataFrame,
    fits: Sequence[Mapping[str, Any]],
    searched: Sequence[Mapping[str, Any]],
    lacking: Mapping[str, str],
) -> str:
    """Markdown of all tables.

    Args:
        scores: Tidy rows, with the column ``task``.
        fits: What is noted of each fit: seconds, megabytes, failures.
        searched: What the search of the number of steps found.
        lacking: Why a peer cannot be installed, by its name.
    """
    tasks = [one for name, one in TASKS.items() if name in set(scores.task)]
    of = {task.name: scores[scores.task == task.name] for task in tasks}
    over = {task.name: averaged(of[task.name], task) for task in tasks}
    selective = [task for task in tasks if task.headline and not alike(of[task.name], task)]
    over_all = {task.name: averaged(of[task.name], replace(task, headline=())) for task in selective}
    noted = pd.DataFrame(fits)
    parts = [
        "# Results\n",
        "By `make peers-tables`; what is asked, of whom and how is in [README.md](README.md).\n",
        "<!-- results -->\n",
        made_of(noted),
        "## Where ours is behind\n",
        "Over perturbations with a reproducible effect, and all of a simulated screen:\n",
        behind(tasks, over),
        "Over all perturbations of these tasks, those without a reproducible effect too:\n",
        behind(selective, over_all),
        "## The headline\n",
        headline(tasks, over, "relative_l2"),
        headline(tasks, over, "crps"),
        "### Over all perturbations, those without a reproducible effect too\n",
        headline(selective, over_all, "relative_l2"),
        headline(selective, over_all, "crps"),
        "## What a fit costs\n",
        costs(noted, lacking),
        f"{TASK_BY_TASK}\n",
        *(
            f"## {task.question[0].upper()}{task.question[1:]}\n\n{of_task(task, over[task.name], noted)}"
            for task in tasks
        ),
    ]
    if searched:
        parts += ["## The number of steps, searched\n", search_table(searched)]
    return "\n".join(parts)


def made_of(noted: pd.DataFrame) -> str:
    """How much of the whole the tables hold."""
    seeds = ", ".join(map(str, sorted(noted.seed.unique())))
    failed = int(((noted.failure != "") & ~noted.cannot).sum())
    return (
        f"Made of {len(noted)} fits of {noted.predictor.nunique()} predictors from the seeds {seeds}; "
        f"{int(noted.cannot.sum())} were of a tool that is not made for the task, and {failed} failed. A "
        "range is that of the seeds, and a value without one is of one seed.\n"
    )


def alike(rows: pd.DataFrame, task: Task) -> bool:
    """Whether the perturbations that are quoted are all that are scored."""
    return set(rows.perturbation) - {"ALL"} <= set(task.headline)


def averaged(rows: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Means over the perturbations that are quoted, by predictor, score and seed; true effects where known.

    A score against the true effect takes the place of the one against the measured effect.
    """
    true = rows.score.str.startswith(_TRUE)
    replaced = set(rows.score[true].str.removeprefix(_TRUE))
    rows = pd.concat([rows[true].assign(score=rows.score[true].str.removeprefix(_TRUE)),
                      rows[~true & ~(rows.score.isin(replaced) & bool(len(replaced)))]])  # fmt: skip
    labels = [one for one in task.headline if one in set(rows.perturbation)]
    quoted = rows[rows.perturbation.isin(labels)] if labels else rows[rows.perturbation != "ALL"]
    whole = _challenge(rows)
    found = pd.concat([quoted, whole]) if len(whole) else quoted
    return found.groupby(["predictor", "score", "seed"], as_index=False)["value"].mean()


def _challenge(rows: pd.DataFrame) -> pd.DataFrame:
    """The challenge's scaled average, fold by fold."""
    made = rows[rows.score.str.startswith("cell_eval2_")]
    if made.empty:
        return made
    keys = ["predictor", "time", "fold", "seed", "score"]
    single = made[made.perturbation != "ALL"].groupby(keys, as_index=False)["value"].mean()
    given = made[made.perturbation == "ALL"][[*keys, "value"]]
    means = pd.concat([single, given]).assign(perturbation="ALL", protocol="", dataset="")
    scaled = challenge_scaled(means)
    return scaled[scaled.score == _AVERAGE]


def _spread(rows: pd.DataFrame, predictor: str, score: str) -> tuple[float, str]:
    """The mean over seeds, and it in words with the range."""
    values = rows[(rows.predictor == predictor) & (rows.score == score)].value.dropna()
    if not len(values):
        return float("nan"), ""
    said = f"{values.mean():.3f}"
    return float(values.mean()), said + (
        f" ({values.min():.3f}-{values.max():.3f})" if len(values) > 1 else ""
    )


def _kinds(rows: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Peers, and rules, by their names."""
    peers = [one for one in contenders() if one not in (OURS, RULES)]
    there = list(dict.fromkeys(rows.predictor))
    rules = [one for one in there if one not in (*peers, OURS, *_ENDS, *_SEES)]
    return [one for one in peers if one in there], rules


def _best_rule(rows: pd.DataFrame, score: str) -> str | None:
    """The rule with the lowest error, known after the fact."""
    values = {name: _spread(rows, name, score)[0] for name in _kinds(rows)[1]}
    return min(values, key=lambda name: values[name]) if values else None


def behind(tasks: Sequence[Task], over: Mapping[str, pd.DataFrame]) -> str:
    """Peers and rules with a lower error than ours, task by task."""
    lines = []
    for task in tasks:
        rows = over[task.name]
        if OURS not in set(rows.predictor):
            lines.append(f"* {task.question}: CiteVAE is not measured yet.")
            continue
        peers, rules = _kinds(rows)
        for score in _BETTER_SMALLER:
            ours, said = _spread(rows, OURS, score)
            if not said:
                lines.append(f"* {task.question}, {_SHOWN[score]}: CiteVAE is not measured yet.")
                continue
            ahead = [(name, *_spread(rows, name, score)) for name in (*peers, *rules)]
            named = [
                f"{name} {text}"
                for name, value, text in sorted(ahead, key=lambda one: one[1])
                if value < ours
            ]
            if named:
                lines.append(f"* {task.question}, {_SHOWN[score]}: {'; '.join(named)}. CiteVAE {said}.")
    return ("\n".join(lines) or "Nowhere, by relative L2 or CRPS.") + "\n"


def headline(tasks: Sequence[Task], over: Mapping[str, pd.DataFrame], score: str) -> str:
    """A row a predictor and a column a task."""
    names = list(dict.fromkeys(name for rows in over.values() for name in _kinds(rows)[0]))
    lines = [f"{_SHOWN[score]}: the mean over seeds, and their range; in bold the lowest of a task.\n"]
    lines += ["| | " + " | ".join(task.question for task in tasks) + " |", "|---" * (len(tasks) + 1) + "|"]
    table: dict[str, list[tuple[float, str]]] = {
        name: [_spread(over[task.name], name, score) for task in tasks] for name in (OURS, *names)
    }
    best = [_best_rule(over[task.name], score) for task in tasks]
    table["best rule (named after the fact)"] = [
        (float("nan"), "") if name is None else (_spread(over[task.name], name, score)[0],
                                                f"{_spread(over[task.name], name, score)[1]} {name}")
        for task, name in zip(tasks, best, strict=True)
    ]  # fmt: skip
    lowest = [
        min((row[i][0] for row in table.values() if row[i][1]), default=None) for i in range(len(tasks))
    ]
    for name, row in table.items():
        cells = [
            f"**{text}**" if text and value == low else text or "-"
            for (value, text), low in zip(row, lowest, strict=True)
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    if score == "relative_l2":
        ends = [_spread(over[task.name], "ceiling", score)[1] or "-" for task in tasks]
        lines.append("| a perfect prediction of noisy truth | " + " | ".join(ends) + " |")
    return "\n".join(lines) + "\n"


def costs(noted: pd.DataFrame, lacking: Mapping[str, str]) -> str:
    """Time, memory and intervals of each predictor, over all fits that ended well."""
    lines = [
        "| | version | fits | seconds, median (most) | of processor time | MB, most | intervals | settings |",
        "|---" * 8 + "|",
    ]
    for name, rows in noted.groupby("predictor", sort=False):
        well = rows[rows.failure == ""]
        if well.empty:
            lines.append(f"| {name} | | 0 of {len(rows)} | | | | | {rows.failure.iloc[-1]} |")
            continue
        itself = well.itself.iloc[-1]
        lines.append(
            f"| {name} | {itself['package']} {itself['version']} | {len(well)} of {len(rows)} | "
            f"{well.seconds.median():.0f} ({well.seconds.max():.0f}) | {well.processor.median():.0f} | "
            f"{well.megabytes.max():.0f} | {itself['intervals']} | {itself['settings']} |"
        )
    lines += [f"| {name} | | does not install | | | | | {said} |" for name, said in lacking.items()]
    return "\n".join(lines) + "\n"


def of_task(task: Task, rows: pd.DataFrame, noted: pd.DataFrame) -> str:
    """All scores of a task, a row a predictor, and who could not."""
    peers, rules = _kinds(rows)
    there = [one for one in (OURS, *peers, *rules, *_SEES, *_ENDS) if one in set(rows.predictor)]
    shown = {score: title for score, title in _SHOWN.items() if score in set(rows.score)}
    lines = [task.note + "\n"] if task.note else []
    lines += ["| | " + " | ".join(shown.values()) + " |", "|---" * (len(shown) + 1) + "|"]
    for name in there:
        cells = {score: _spread(rows, name, score)[1] for score in shown}
        if name in peers and cells.get("coverage_80") == "":
            cells["coverage_80"] = "none"
        if any(cells.values()):
            lines.append(f"| {name} | " + " | ".join(cells.values()) + " |")
    failed = noted[(noted.task == task.name) & (noted.failure != "")]
    for (name, why), some in failed.groupby(["predictor", "failure"]):
        kind = "cannot" if bool(some.cannot.iloc[0]) else "failed"
        lines.append(f"| {name} | {kind}: {why}" + " |" * len(shown))
    return "\n".join(lines) + "\n"


def search_table(searched: Sequence[Mapping[str, Any]]) -> str:
    """What each predictor gained by a search of its number of steps."""
    lines = [
        "Relative L2 against what was measured: on an inner fold of the training cells at three lengths of "
        "training, and on the held-out fold by the default length and by the one that erred least within; "
        "seed 0.\n",
        "| | | steps | "
        + " | ".join(f"x {factor:g}" for factor in FACTORS)
        + " | taken | default | searched |",
        "|---" * (len(FACTORS) + 6) + "|",
    ]
    for row in searched:
        head = f"| {TASKS[row['task']].question} | {row['predictor']} | "
        if row["failure"]:
            lines.append(f"{head}{row['failure']}" + " |" * (len(FACTORS) + 4))
            continue
        inner = ["-" if one is None else f"{one:.3f}" for one in row["inner"].values()]
        ends = f"x {row['chosen']:g} | {row['default']:.3f} | {row['searched']:.3f}"
        lines.append(f"{head}{row['steps']} | {' | '.join(inner)} | {ends} |")
    return "\n".join(lines) + "\n"
