"""What each protocol holds out, and which baselines it is fair to put beside a model there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import ClassVar, final

import numpy as np

from pyro_citevae.analysis import (
    Additive,
    Baseline,
    DampedExtrapolation,
    InterpolatedDuplicate,
    LatentAdditive,
    LinearExtrapolation,
    LinearModel,
    MatchingMean,
    MeanOfOthers,
    MeanOfSingles,
    NearestNeighbours,
    NoChange,
    Persistence,
    RidgeOnFeatures,
    ShrunkenPersistence,
    SoftmaxKernel,
    StrongerSingle,
    TechnicalDuplicate,
)
from pyro_citevae.analysis.baselines.on_features import Features
from pyro_citevae.benchmark.fold import Fold
from pyro_citevae.data import Criterion, Schedule, Split, Trajectories, members_seen
from pyro_citevae.errors import DataError

__all__ = ["PROTOCOLS", "Protocol"]

_SEEN = ("NO MEMBER SEEN", "ONE MEMBER SEEN", "ALL MEMBERS SEEN")


class Protocol(ABC):
    """A way to hold out a part of a screen, fold by fold."""

    name: ClassVar[str]

    def folds(self, data: Trajectories, number: int | str, headline: Sequence[str]) -> list[Fold]:
        """The folds that have an effect to score.

        Args:
            data: The screen.
            number: Number of folds, or ``"each"`` for one of the headline at a time.
            headline: Reproducible perturbations.

        Raises:
            DataError: There is nothing to hold out, or nothing to score.
        """
        splits = self.splits(data, number, headline)
        folds = [Fold.of(i, data, split) for i, split in enumerate(splits)]
        found = [self.stratified(fold) for fold in folds if fold.scored]
        if not found:
            raise DataError(f"'{self.name}' finds no held-out group of four cells with controls to score.")
        return found

    @abstractmethod
    def splits(self, data: Trajectories, number: int | str, headline: Sequence[str]) -> list[Split]:
        """What each fold holds out."""

    def stratified(self, fold: Fold) -> Fold:
        """The fold with the strata whose means are of interest; none by default."""
        return fold

    def baselines(
        self, fold: Fold, features: Features | None, *, network_steps: int = 600
    ) -> dict[str, Baseline]:
        """Baselines and ceilings by their name in the tables.

        Args:
            fold: What may be seen, and what is scored.
            features: Features of the genes, if any are known.
            network_steps: Training steps of the latent additive network.
        """
        rules = self.rules(fold.train, features)
        rules.append(LatentAdditive(fold.train, features, steps=network_steps))
        rules.append(TechnicalDuplicate(fold.duplicated))
        rules.append(InterpolatedDuplicate(fold.duplicated, fold.train))
        return {rule.name: rule for rule in rules}

    @abstractmethod
    def rules(self, train: Trajectories, features: Features | None) -> list[Baseline]:
        """The rules on training effects."""


class OfTime(Protocol):
    """A protocol that forecasts."""

    def rules(self, train: Trajectories, features: Features | None) -> list[Baseline]:
        """No change, what is known of the others, and a perturbation's own past, carried on."""
        kinds = (NoChange, MeanOfOthers, Persistence, LinearExtrapolation, DampedExtrapolation)
        return [*(kind(train) for kind in kinds), ShrunkenPersistence(train)]

    @staticmethod
    def last(data: Trajectories) -> float:
        """The last of several times.

        Raises:
            DataError: There is one only.
        """
        times = np.unique(data.row_times)
        if len(times) < 2:
            raise DataError("a time can be held out of a time course alone, and these data have one time.")
        return float(times[-1])


@final
class HeldOutTime(OfTime):
    """Hold out the last time of everything."""

    name = "held-out-time"

    def splits(self, data: Trajectories, number: int | str, headline: Sequence[str]) -> list[Split]:
        """One split."""
        return [Split((Criterion(times=(self.last(data),)),))]

    def baselines(
        self, fold: Fold, features: Features | None, *, network_steps: int = 600
    ) -> dict[str, Baseline]:
        """Those of time, and the mean of the others at the held-out time, which no model sees."""
        sees = {"mean of others (sees the held-out time)": MeanOfOthers(fold.duplicated)}
        return super().baselines(fold, features, network_steps=network_steps) | sees


@final
class HeldOutTimeOfPerturbation(OfTime):
    """Hold out the last time of some perturbations, whose past is known, as are all times of the others."""

    name = "held-out-time-of-perturbation"

    def splits(self, data: Trajectories, number: int | str, headline: Sequence[str]) -> list[Split]:
        """A split a group of perturbations."""
        last = self.last(data)
        labels = [one for one in data.select(time=last).perturbations() if one in data.schema.token_index]
        return [
            Split((Criterion(perturbations=group, times=(last,)),))
            for group in grouped(labels, number, headline)
        ]


@final
class UnseenGene(Protocol):
    """Hold out every cell of some perturbed genes, at all times and in all combinations."""

    name = "unseen-gene"

    def splits(self, data: Trajectories, number: int | str, headline: Sequence[str]) -> list[Split]:
        """A split a group of genes."""
        labels = [one for one in data.perturbations() if one in data.schema.token_index]
        return [Split((Criterion(perturbations=group),)) for group in grouped(labels, number, headline)]

    def rules(self, train: Trajectories, features: Features | None) -> list[Baseline]:
        """The mean, the linear model, and smoothers along the features where there are any."""
        found: list[Baseline] = [NoChange(train), MeanOfOthers(train), LinearModel(train, features)]
        if features is not None:
            found += [kind(train, features) for kind in (RidgeOnFeatures, NearestNeighbours, SoftmaxKernel)]
        return found


@final
class UnseenCombination(Protocol):
    """Hold out combinations; all singles, and the combinations of the other folds, are in training."""

    name = "unseen-combination"

    def splits(self, data: Trajectories, number: int | str, headline: Sequence[str]) -> list[Split]:
        """A split a group of combinations."""
        labels = [
            one for one in data.perturbations() if len(Schedule.parse(one, data.schema.control).doses) > 1
        ]
        if not labels:
            raise DataError("no combination is in the data; 'unseen-combination' needs labels such as 'A+B'.")
        return [Split((Criterion(combinations=group),)) for group in grouped(labels, number, headline)]

    def stratified(self, fold: Fold) -> Fold:
        """Strata by how many of the members were seen alone."""
        control = fold.train.schema.control
        training = [Schedule.parse(one, control) for one in fold.train.perturbations()]
        strata: dict[str, list[str]] = {}
        for label in fold.labels:
            combination = Schedule.parse(label, control)
            known = members_seen(combination, training)
            name = _SEEN[2] if known == len(combination.tokens) else _SEEN[min(known, 1)]
            strata.setdefault(name, []).append(label)
        return replace(fold, strata={name: tuple(labels) for name, labels in strata.items()})

    def rules(self, train: Trajectories, features: Features | None) -> list[Baseline]:
        """The means, what members do alone, and the linear model."""
        kinds = (NoChange, MeanOfOthers, MatchingMean, Additive, StrongerSingle, MeanOfSingles)
        found: list[Baseline] = [*(kind(train) for kind in kinds), LinearModel(train, features)]
        if features is not None:
            found.append(RidgeOnFeatures(train, features))
        return found


def grouped(labels: Sequence[str], number: int | str, headline: Sequence[str]) -> list[tuple[str, ...]]:
    """Groups of nearly equal size in an order that does not depend on the data.

    Args:
        labels: What to divide.
        number: Number of groups, or ``"each"`` for one of the headline (of all, if it names none) at a time.
        headline: The labels that matter most.

    Example:
        >>> grouped(["A", "B", "C"], "each", ["B"])
        [('B',)]
        >>> sorted(map(len, grouped(["A", "B", "C"], 2, [])))
        [1, 2]
    """
    if number == "each":
        chosen = [one for one in headline if one in labels] or list(labels)
        return [(one,) for one in chosen]
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = [sorted(labels)[i] for i in order]
    n = min(int(number), len(labels))
    return [tuple(sorted(shuffled[i::n])) for i in range(n)]


PROTOCOLS = MappingProxyType(
    {one.name: one for one in (HeldOutTime(), HeldOutTimeOfPerturbation(), UnseenGene(), UnseenCombination())}
)
