"""The licence report: up to which changes a fit's conditions would let its latent states be known."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd
import torch

from pyro_citevae.analysis.identifiability.conditions import CONDITIONS, same_scales
from pyro_citevae.analysis.identifiability.finding import Finding
from pyro_citevae.analysis.identifiability.posterior_points import Points
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError, ModelError
from pyro_citevae.infer.diagnosis import in_a_word
from pyro_citevae.infer.posterior import Posterior
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.shown import Shown

__all__ = ["Check", "Licence", "licence"]

_MEANING: Mapping[str, str] = MappingProxyType(
    {
        "component-wise": "each program, up to their order and a one-to-one change of each",
        "orthogonal": "the programs together, up to a rotation and a shift in units of their noise scales",
        "affine": "the programs together, up to one invertible affine map that may mix them",
        "block": "the programs as a whole, apart from the invariant state, but mixed with each other",
        "none": "no part of the latent state",
    }
)
_CAVEAT = (
    "These are necessary conditions, evaluated on the fitted model; they are no proof about the data. A "
    "licence says what could be known if the data followed this model, and not that this fit has found it."
)


@dataclass(frozen=True)
class Check:
    """One condition, over draws of the posterior.

    Attributes:
        name: Name of the condition.
        quantity: What the number is.
        number: Its median over draws; NaN where the condition cannot apply.
        threshold: What it is compared with.
        at_least: Whether it has to reach the threshold, or to stay below it.
        share: Share of the draws that pass.
        passed: Whether enough of them do; None where the condition cannot apply.
        sentence: What was seen, or why the condition cannot apply.
    """

    name: str
    quantity: str
    number: float
    threshold: float
    at_least: bool
    share: float
    passed: bool | None
    sentence: str

    @classmethod
    def of(cls, name: str, found: Finding, share: float) -> Check:
        """Sums up the draws."""
        applies = len(found.number) > 0
        number = float(np.median(found.number)) if applies else float("nan")
        passing = float(found.passed.mean()) if applies else float("nan")
        return cls(
            name,
            found.quantity,
            number,
            found.threshold,
            found.at_least,
            passing,
            passing >= share if applies else None,
            found.sentence,
        )

    @property
    def verdict(self) -> str:
        """Whether it passes, in a word."""
        return in_a_word(self.passed)

    def __str__(self) -> str:
        if self.passed is None:
            return f"{self.name}: {self.verdict}. It {self.sentence}."
        bound = f"{'at least' if self.at_least else 'at most'} {self.threshold:.3g}"
        return (
            f"{self.name}: {self.verdict}. The {self.quantity} is {self.number:.3g} ({bound} is needed; "
            f"{self.share:.0%} of the draws pass): {self.sentence}."
        )


@dataclass(frozen=True, repr=False)
class Licence(Shown):
    """What :func:`licence` found.

    Attributes:
        equivalence: ``"component-wise"``, ``"orthogonal"``, ``"affine"``, ``"block"`` or ``"none"``.
        why: The conditions that led to it, and those that a finer class lacks.
        checks: The eight conditions.
        draws: Number of draws.
        n_cells: Number of cells.
        adequacy: What the fit says of itself, on one line.
        adequate: Whether that is as expected.
    """

    equivalence: str
    why: str
    checks: tuple[Check, ...]
    draws: int
    n_cells: int
    adequacy: str = ""
    adequate: bool = True

    def table(self) -> pd.DataFrame:
        """A row a check, by its name."""
        return pd.DataFrame(self.checks).set_index("name")

    def facts(self) -> dict[str, str]:
        """The class, whether the fit is adequate, and why."""
        said = {
            "equivalence": self.equivalence
            if self.adequate
            else f"none, since the fit is not adequate (would be {self.equivalence})",
            "draws": str(self.draws),
            "cells": f"{self.n_cells:,}",
            "why": self.why,
        }
        return said | ({"fit": self.adequacy} if self.adequacy else {})

    def report(self) -> str:
        """The class, why, and a sentence for each check."""
        so = "" if self.adequate else " So nothing below is licensed."
        lines = [
            *([f"{self.adequacy}{so}", ""] if self.adequacy else []),
            f"Licence: {self.equivalence}",
            f"Would be known: {_MEANING[self.equivalence]}. {self._graph}",
            f"Why: {self.why}",
            "",
            *(f"{i}. {one}" for i, one in enumerate(self.checks, 1)),
            "",
            f"From {self.draws} draws of the posterior at {self.n_cells} cells. {_CAVEAT}",
        ]
        return "\n".join(textwrap.fill(line, 110, subsequent_indent="   ") for line in lines)

    @property
    def _graph(self) -> str:
        """What the last check says of the lag graph, in a sentence."""
        shows = self.checks[-1].passed
        if shows is None:
            return "There is no lag graph to speak of."
        if not shows:
            return (
                "The lag graph would not: some directions of its weights leave no trace in what is observed."
            )
        if self.equivalence != "component-wise":
            return "The lag graph would not, since its programs are not known one by one."
        return "So would the lag graph, up to the same changes."

    def __str__(self) -> str:
        return self.report()


def licence(
    posterior: Posterior,
    data: Trajectories,
    *,
    draws: int = 20,
    most_cells: int = 400,
    share: float = 0.9,
    seed: int = 0,
) -> Licence:
    """Which equivalence class of latent states the fitted model's conditions would license, and why.

    ==============  ==========================================================================================
    class           licensed where the decoder has full rank (6), s is invariant if there is one (7), and
    ==============  ==========================================================================================
    component-wise  the natural parameters span 2K directions (1), or the transitions vary enough (3), or the
                    shifts span all programs (5) and the masks tell them apart (2)
    orthogonal      the shifts span all programs (5), components are independent and normal, and no
                    condition changes their scales
    affine          the shifts span all programs (5)
    block           there is an invariant state
    none            nothing of these holds
    ==============  ==========================================================================================

    (8) says whether the lag graph would be determined too, and (4), a condition in which the past has no
    influence, is what theorems for effects within a step ask for: it opens no class here. All are necessary
    conditions on the fitted model and no proof about the data: that the model is right is assumed.

    A rank counts the singular values that a draw cannot owe to the posterior's own spread, since a matrix of
    noise has full rank: effects that the data left at their prior license nothing.

    Args:
        posterior: A fitted model.
        data: Cells that the states are drawn for, such as the training cells.
        draws: Number of draws.
        most_cells: Cells beyond this number are thinned evenly.
        share: Share of the draws that have to pass for a check to pass.
        seed: Seed of the draws.

    Returns:
        The class, and the eight checks, after the verdict on the fit: a fit that is not adequate licenses
        nothing.

    Raises:
        ModelError: The posterior is an ensemble, or an argument is out of range.
        DataError: The data has another schema than the model, or no cell.

    Source: I. Khemakhem et al., Variational Autoencoders and Nonlinear ICA (2020), for (1) and the affine
    class; S. Lachapelle et al., Disentanglement via Mechanism Sparsity Regularization (2022), for (2);
    W. Yao, G. Chen, K. Zhang, Temporally Disentangled Representation Learning (2022), for (3); Y. Liu et al.,
    Identifying Weight-Variant Latent Causal Models (2022), for (4); J. von Kügelgen et al., Self-Supervised
    Learning with Data Augmentations Provably Isolates Content from Style (2021), for blocks.

    Example:
        >>> import pyro_citevae as cv
        >>> from pyro_citevae.guides import MeanField
        >>> from pyro_citevae.models import StaticShift
        >>> data = cv.simulate(n_cells=30).data
        >>> model = StaticShift(data.schema, n_programs=2, hidden=4)
        >>> posterior = cv.fit(model, MeanField(model, hidden=4), data, max_epochs=1, progress=False)
        >>> licence(posterior, data, draws=4).table().index[5]
        'decoder rank'
    """
    _require(posterior, data, draws, most_cells, share)
    with torch.inference_mode(False):
        points = Points.of(posterior, data, draws, most_cells, seed)
    with seeded(seed), torch.inference_mode(False):  # a regime is drawn, and laws are differentiated
        checks = tuple(Check.of(name, condition(points), share) for name, condition in CONDITIONS.items())
        same = same_scales(points)
    equivalence, why = _licensed({one.name: one.passed for one in checks}, same)
    adequacy = posterior.adequacy
    return Licence(equivalence, why, checks, draws, points.batch.n_cells, adequacy.verdict, adequacy.passed)


def _licensed(passed: Mapping[str, bool | None], same: bool) -> tuple[str, str]:
    """The finest class whose conditions hold, and why it is no finer."""
    if not passed["decoder rank"]:
        return "none", "the decoder lacks full rank, so that some change of the states leaves no trace."
    if passed["invariance of s"] is False:
        return (
            "none",
            "the invariant state depends on the perturbation or on the programs, as no class allows.",
        )
    premise = "the decoder has full rank" + (" and s is invariant" if passed["invariance of s"] else "")
    routes = {
        "the natural parameters span enough directions": passed["natural parameters"],
        "the transitions vary enough in time": passed["temporal variability"],
        "the shifts span all programs and the masks tell them apart": (
            passed["shift rank"] and passed["mask support"]
        ),
    }
    open_ones = [what for what, holds in routes.items() if holds]
    if open_ones:
        return "component-wise", f"{premise}, and {'; and '.join(open_ones)}."
    finer = "No route to single programs is open: " + ", ".join(
        f"{name} {'fails' if passed[name] is False else 'was not tried'}"
        for name in ("natural parameters", "mask support", "temporal variability")
        if not passed[name]
    )
    if passed["shift rank"]:
        scales = "no condition changes the noise scales" if same else "conditions may change the noise scales"
        return (
            "orthogonal" if same else "affine",
            f"{premise}, the shifts span all programs, and {scales}. {finer}.",
        )
    if passed["invariance of s"]:
        return "block", f"{premise}, but the shifts do not span all programs. {finer}."
    return "none", f"{premise}, but the shifts do not span all programs, and there is no invariant state."


def _require(posterior: Posterior, data: Trajectories, draws: int, most_cells: int, share: float) -> None:
    """Refuses what the report cannot be made of."""
    if len(posterior.members) != 1:
        raise ModelError(
            "licence(posterior) is an ensemble, whose programs have no common order; ask for the licence of "
            "each of its posteriors."
        )
    if draws < 2 or most_cells < 1 or not 0 < share <= 1:
        raise ModelError(
            f"licence(draws={draws}, most_cells={most_cells}, share={share}) needs two draws and a cell at "
            "least, and a share of the draws above 0 and up to 1."
        )
    if data.schema != posterior.schema:
        raise DataError(
            "licence(data) has another schema than the model; read it with schema=posterior.schema."
        )
    if data.n_cells == 0:
        raise DataError("licence(data) is empty; give the training cells.")
