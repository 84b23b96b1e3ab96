"""A screen's fit by defaults, scored against the truth: a row a group of cells or held-out forecast."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
import screens

import pyro_citevae as cv
from pyro_citevae.analysis import diagnose
from pyro_citevae.data.pseudobulk import effect as measured
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.models import CiteVAE

NOMINAL = (0.5, 0.8, 0.95)
FEWEST = 4  # cells of a group whose own pseudobulk is compared with
_DRAWS = 400


def of_screen(kind: str, number: int) -> pd.DataFrame:
    """Fits a screen with default settings and scores what it saw and what it forecasts."""
    screen = screens.screen(kind, number)
    started = time.perf_counter()
    model = CiteVAE(screen.train.schema)
    posterior = cv.fit(model, BackwardSmoother(model), screen.train, seed=0, progress=False)
    seconds = time.perf_counter() - started
    adequacy = diagnose(posterior, screen.train)
    rows = [*_seen(screen, posterior), *_unseen(screen, posterior)]
    size = {name: screen.arguments[name] for name in ("n_cells", "n_genes", "n_perturbations", "n_programs")}
    whole: dict[str, Any] = {
        "seconds": seconds,
        "steps": posterior.record["course"]["steps"],
        "adequate": adequacy.passed,
    }
    whole |= {f"sign: {one.name}": one.number for one in adequacy.signs}
    return pd.DataFrame(rows).assign(screen=screen.name, set=kind, **size, **whole, verdict=adequacy.verdict)


def _seen(screen: screens.Screen, posterior: cv.Posterior) -> list[dict[str, Any]]:
    train, rows = screen.train, []
    for at in np.unique(train.row_times).tolist():
        now = train.select(time=at)
        controls = now.select(train.schema.control)
        labels = [one for one in now.perturbations() if now.select(one).n_cells >= FEWEST]
        if controls.n_cells < FEWEST or not labels:
            continue
        truth = screen.simulation.effects(labels, at)
        drawn = (
            posterior.effect(labels, time=at, draws=_DRAWS, progress=False).isel(chain=0, time=0).to_numpy()
        )
        for p, label in enumerate(labels):
            inert = not np.abs(truth[p]).max() > 0
            own = measured(now.select(label), controls)
            row = _row(drawn[:, p], truth[p]) | {
                "kind": "inert" if inert else "seen",
                "label": label,
                "time": at,
            }
            rows.append(row | {"rule": np.linalg.norm(own - truth[p]), "rule_name": "own pseudobulk"})
    return rows


def _unseen(screen: screens.Screen, posterior: cv.Posterior) -> list[dict[str, Any]]:
    """Held-out pairs of a snapshot, and the last time of a course, beside the rules that see the same."""
    train, control = screen.train, screen.train.schema.control
    kind = "time" if screen.last is not None else "pair"
    labels = list(train.perturbations()) if screen.last is not None else list(screen.pairs)
    at = screen.last if screen.last is not None else float(train.row_times.max())
    before = float(train.row_times.max())
    if not labels:
        return []

    def own(label: str) -> np.ndarray:
        group = train.select(label, before)
        none = group.n_cells == 0
        return np.zeros(train.schema.n_genes) if none else measured(group, train.select(control, before))

    truth = screen.simulation.effects(labels, at)
    drawn = posterior.effect(labels, time=at, draws=_DRAWS, progress=False).isel(chain=0, time=0).to_numpy()
    rows = []
    for p, label in enumerate(labels):
        rules = {"no change": np.zeros_like(truth[p])}
        if kind == "time":
            rules["persistence"] = own(label)
        else:
            members = [own(one) for one in label.split("+")]
            rules["additive"] = np.sum(members, axis=0)
            rules["stronger single"] = max(members, key=lambda one: float(np.linalg.norm(one)))
            rules["mean of singles"] = np.mean(members, axis=0)
        errors = {f"rule: {name}": np.linalg.norm(one - truth[p]) for name, one in rules.items()}
        rows.append(_row(drawn[:, p], truth[p]) | {"kind": kind, "label": label, "time": at, **errors})
    return rows


def _row(drawn: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Error, coverage and width of the draws of one effect, and the share of genes that are called."""
    mean = drawn.mean(0)
    found = {"error": float(np.linalg.norm(mean - truth)), "size": float(np.linalg.norm(truth))}
    for nominal in NOMINAL:
        lower, upper = np.quantile(drawn, [(1 - nominal) / 2, (1 + nominal) / 2], axis=0)
        found[f"coverage_{nominal * 100:.0f}"] = float(((lower <= truth) & (truth <= upper)).mean())
        if nominal == 0.8:
            found["width"] = float((upper - lower).mean())
            found["miss"] = float(np.abs(mean - truth).mean())
    positive = (drawn > 0).mean(0)
    return found | {"called": float(((positive > 0.975) | (positive < 0.025)).mean())}
