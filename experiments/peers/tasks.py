"""The tasks: a question each, asked by the library's own protocols of a screen that all predictors get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

import pyro_citevae as cv
from pyro_citevae.analysis import Measurement
from pyro_citevae.benchmark import PROTOCOLS, Fold
from pyro_citevae.data.datasets import CATALOGUE
from pyro_citevae.data.features import gene_ontology
from pyro_citevae.data.simulate import Simulation

__all__ = ["TASKS", "Task", "simulated"]

_ONTOLOGY = "gene-ontology"


@dataclass(frozen=True)
class Task:
    """A question to all predictors.

    Attributes:
        name: Its name in files.
        question: Its name for people.
        protocol: The library's protocol that says what is held out.
        screen: Makes the cells, with the truth where they were simulated.
        folds: Into how many groups the protocol divides what it may hold out.
        taken: Which of the folds are run.
        stratum: The protocol's group of perturbations that is scored; None for all.
        headline: Reproducible perturbations, whose mean is quoted first; none for all.
        features: What ours and the rules know of genes: ``"none"``, ``"gene-ontology"``, or ``"table"`` for
            the table that all peers get.
        challenge: Whether cell-eval2 scores the cells too.
        note: What else people should know of it.
    """

    name: str
    question: str
    protocol: str
    screen: Callable[[], cv.Trajectories | Simulation]
    folds: int = 1
    taken: tuple[int, ...] = (0,)
    stratum: str | None = None
    headline: tuple[str, ...] = ()
    features: str = "none"
    challenge: bool = True
    note: str = ""

    @cached_property
    def made(self) -> cv.Trajectories | Simulation:
        """The screen, made once."""
        return self.screen()

    @property
    def data(self) -> cv.Trajectories:
        """All cells."""
        return self.made.data if isinstance(self.made, Simulation) else self.made

    def folds_of(self, data: cv.Trajectories) -> list[Fold]:
        """The folds that are run, each with what is scored."""
        found = PROTOCOLS[self.protocol].folds(data, self.folds, self.headline)
        return [self._scored(one) for one in found if one.number in self.taken]

    def _scored(self, fold: Fold) -> Fold:
        if self.stratum is None:
            return fold
        kept = fold.strata[self.stratum]
        return replace(fold, scored=tuple(one for one in fold.scored if one[0] in kept))

    @property
    def dataset(self) -> str:
        """Whether the cells were measured or simulated, in one word."""
        return "simulated" if isinstance(self.made, Simulation) else "measured"

    def truth(self, fold: Fold) -> list[Measurement]:
        """The true effects of what is scored, without noise; none where cells were measured."""
        if not isinstance(self.made, Simulation):
            return []
        known = replace(self.made, data=fold.train)  # at the common total of the training cells
        found = []
        for measured in fold.measurements:
            delta = known.effects([measured.perturbation], measured.time, context=fold.context)[0]
            found.append(replace(measured, delta=delta, variance=np.zeros_like(delta), split_half=1.0))
        return found

    def table(self, fold: Fold) -> pd.DataFrame | None:
        """Features of genes that peers get: of all perturbed genes, and of measured ones where known."""
        if isinstance(self.made, Simulation):
            return self.made.features() if self.features == "table" else None
        genes = tuple(dict.fromkeys((*fold.train.schema.tokens, *fold.train.schema.genes)))
        known = gene_ontology(genes)
        return pd.DataFrame(known.values, index=pd.Index(known.genes, name="gene"), columns=list(known.names))


def simulated(**arguments: Any) -> Callable[[], Simulation]:
    """A snapshot of 60 genes, made when it is asked for."""
    common: dict[str, Any] = {"n_genes": 60, "n_programs": 4, "n_steps": 3, "design": "snapshot"}
    return lambda: cv.simulate(**(common | arguments))


def day_5() -> cv.Trajectories:
    """The last day of the time course by itself, as a snapshot."""
    renge = cv.datasets.renge()
    last = renge[(renge.obs["time"] == 5).to_numpy()].copy()
    return cv.Trajectories.from_anndata(last, time=None)


_MEMBERS = ((0, 1), (0, 2), (0, 7), (1, 2), (1, 3), (2, 4), (3, 4), (3, 5), (4, 6), (5, 6), (5, 7), (6, 7))
_PAIRS = tuple(f"gene_{one}+gene_{other}" for one, other in _MEMBERS)

_EVERY = (
    Task(
        "papalexi",
        "a knock-out never seen (Papalexi)",
        "unseen-gene",
        lambda: cv.datasets.load("papalexi"),
        folds=3,
        headline=CATALOGUE["papalexi"].headline,
        features=_ONTOLOGY,
    ),
    Task(
        "renge_day_5",
        "a knock-out never seen (RENGE, day 5 alone)",
        "unseen-gene",
        day_5,
        folds=3,
        headline=CATALOGUE["renge"].headline,
        features=_ONTOLOGY,
    ),
    Task(
        "norman",
        "a pair never seen (Norman)",
        "unseen-combination",
        lambda: cv.datasets.load("norman_subset"),
        stratum="ALL MEMBERS SEEN",
        challenge=False,
        note="All pairs are held out at once; scored are those of which both members were seen alone. "
        "cell-eval2 finds no effect in counts of this depth, so that its scores are left out.",
    ),
    Task(
        "kang",
        "interferon in a cell type of which controls alone are seen (Kang)",
        "unseen-context",
        lambda: cv.datasets.load("kang"),
        taken=(0, 1),
        note="Two of the five cell types, the first two by name, each held out by itself.",
        headline=CATALOGUE["kang"].headline,
    ),
    Task(
        "renge_time",
        "day 5 from days 2-4 (RENGE)",
        "held-out-time",
        lambda: cv.datasets.load("renge"),
        headline=CATALOGUE["renge"].headline,
        note="A peer that knows no time gives the effect of the last training day, day 4.",
    ),
    Task(
        "simulated_pairs",
        "a pair never seen, of programs that saturate (simulated)",
        "unseen-combination",
        simulated(
            n_cells=2100,
            n_programs=6,
            n_perturbations=8,
            combinations=_PAIRS,
            saturating=True,
            effect=1.5,
            edge_share=0.4,
            edge_weight=(0.4, 0.8),
            library=2000.0,
        ),
        folds=3,
        note="The screen of `unseen_combination/config.toml`, with 2,100 cells in place of 6,000.",
    ),
    Task(
        "simulated_genes",
        "a knock-out never seen, with features (simulated)",
        "unseen-gene",
        simulated(n_cells=2600, n_perturbations=25, library=1000.0, seed=4),
        folds=5,
        features="table",
    ),
    Task(
        "simulated_contexts",
        "a context of which controls alone are seen (simulated)",
        "unseen-context",
        simulated(
            n_cells=2000,
            n_perturbations=4,
            n_contexts=4,
            context_start=0.5,
            context_baseline=0.6,
            context_mechanism=0.4,
            library=1000.0,
            seed=5,
        ),
    ),
)

TASKS: Mapping[str, Task] = MappingProxyType({one.name: one for one in _EVERY})
