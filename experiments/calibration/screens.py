"""The panel: simulated screens drawn at random from stated ranges, with their true effects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import pyro_citevae as cv
from pyro_citevae.data.simulate import Simulation

SETS = {"development": 0, "final": 1}
N_SCREENS = 24


@dataclass(frozen=True)
class Screen:
    """A simulated screen, what is held out of it, and what the fit sees.

    Attributes:
        name: Set and number.
        arguments: What it was simulated with.
        simulation: The screen with its truth.
        train: What a fit sees.
        pairs: Held-out pairs.
        last: Held-out time; None for a snapshot.
    """

    name: str
    arguments: dict[str, Any]
    simulation: Simulation
    train: cv.Trajectories
    pairs: tuple[str, ...]
    last: float | None


def arguments_of(kind: str, number: int) -> dict[str, Any]:
    """Arguments of :func:`pyro_citevae.simulate`: even screens are snapshots with pairs, odd ones courses.

    =================  =========================================
    cells              500 to 5,000, log-uniform
    genes              20 (or as many as perturbations) to 300
    perturbations      5 to 40, a third without effect
    programs           2 to 8
    library            200 to 5,000
    inverse dispersion 2 to 50
    effect             0.5 to 1.5
    =================  =========================================
    """
    rng = np.random.default_rng((2026, SETS[kind], number))

    def between(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    course = bool(number % 2)
    n_perturbations = int(between(5, 40))
    n_genes, n_cells = int(between(max(20, n_perturbations), 300)), int(between(500, 5000))
    n_programs = int(rng.integers(2, 9))
    library, dispersion = between(200, 5000), between(2, 50)
    n_steps, n_inert = int(rng.integers(3, 5)), n_perturbations // 3
    active = n_perturbations - n_inert
    pairs: tuple[str, ...] = ()
    if not course or rng.random() < 0.4:
        every = [(a, b) for a in range(active) for b in range(a + 1, active)]
        chosen = rng.permutation(len(every))[: max(3, min(len(every), active))]
        pairs = tuple(f"gene_{every[j][0]}+gene_{every[j][1]}" for j in sorted(chosen))
    return {
        "n_cells": n_cells,
        "n_genes": n_genes,
        "n_programs": n_programs,
        "n_perturbations": n_perturbations,
        "n_inert": n_inert,
        "n_steps": n_steps,
        "design": "time course" if course else "snapshot",
        "combinations": pairs,
        "saturating": bool(rng.random() < 0.5),
        "interaction": float(rng.choice([0.0, 0.3])),
        "effect": float(rng.uniform(0.5, 1.5)),
        "library": library,
        "dispersion": dispersion,
        "seed": int(rng.integers(1_000_000)),
    }


def screen(kind: str, number: int) -> Screen:
    """A screen of the panel: a third of its pairs is held out, and of a time course the last time."""
    arguments = arguments_of(kind, number)
    simulation = cv.simulate(**arguments)
    train, last = simulation.data, None
    if arguments["design"] == "time course":
        last = float(arguments["n_steps"])
        train = train.hold_out(times=[last])[0]
    pairs = arguments["combinations"][: max(1, len(arguments["combinations"]) // 3)]
    if pairs:
        train = train.hold_out(combinations=pairs)[0]
    return Screen(f"{kind} {number}", arguments, simulation, train, tuple(pairs), last)
