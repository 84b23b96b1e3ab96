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
    MeanOfContexts,
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
from pyro_citevae.analysis.baselines.across_contexts import ACROSS_CONTEXTS
from pyro_citevae.analysis.baselines.on_features import Features
from pyro_citevae.benchmark.fold import Fold
from pyro_citevae.data import Criterion, Schedule, Split, Trajectories, members_seen
from pyro_citevae.errors import DataError, few

__all__ = ["PROTOCOLS", "Protocol"]

_SEEN = ("NO MEMBER SEEN", "ONE MEMBER SEEN", "ALL MEMBERS SEEN")


class Protocol(ABC):
    """A way to hold out a part of a screen, fold by fold."""

    name: ClassVar[str]
    reference: ClassVar[str] = MeanOfOthers.name
    """The rule that a scale puts at 0, unless the settings name another."""

    def folds(self, data: Trajectories, number: int | str, headline: Sequence[str]) -> list[Fold]:
        """The folds that have an effect to score.

        Args:
            data: The screen.
            number: Number of folds, or ``"each"`` for one of the headline at a time.
            headline: Reproducible perturbations.

        Raises:
            DataError: There is nothing to hold out, or nothing to score.
        """
        self.require(data)
        splits = self.splits(data, number, headline)
        folds = [self.stratified(Fold.of(i, data, split)) for i, split in enumerate(splits)]
        found = [fold for fold in folds if fold.scored]
        if not found:
            raise DataError(f"'{self.name}' finds no held-out group of four cells with controls to score.")
        return found

    def require(self, data: Trajectories) -> None:
        """Refuses data that the protocol cannot score.

        Raises:
            DataError: They name contexts, and the effect of all contexts together is no one's.
        """
        if data.schema.contexts:
            raise DataError(
                f"'{self.name}' scores an effect over all cells, and these data have the contexts "
                f"{few(data.schema.contexts)}; read them without context=, or take 'unseen-context'."
            )

    @abstractmethod
    def splits(self, data: Trajectories, number: int | str, headline: Sequence[str]) -> list[Split]:
        """What each fold holds out."""

    def stratified(self, fold: Fold) -> Fold:
        """The fold with the strata whose means are of interest, and less what is not to be scored."""
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


class OfContext(Protocol):
    """A protocol that predicts in a context whose perturbed cells are all held out, from its controls."""

    reference = MeanOfContexts.name

    def require(self, data: Trajectories) -> None:
        """Any data; :meth:`contexts` refuses those without."""

    @staticmethod
    def contexts(data: Trajectories) -> list[str]:
        """Contexts with controls and with perturbed cells of a perturbation that another such has.

        Raises:
            DataError: There is none.
        """
        found: dict[str, set[str]] = {}
        for name in data.schema.contexts:
            here = data.select(context=name)
            if here.select(data.schema.control).n_cells:
                found[name] = set(here.perturbations())
        shared = [
            name
            for name, labels in found.items()
            if any(labels & others for other, others in found.items() if other != name)
        ]
        if not shared:
            raise DataError(
                "a context can be held out where two have controls and cells of one perturbation, and these "
                f"data have {few(data.schema.contexts) or 'no context'}; name the column of cell types, "
                'lines or donors, as in columns = { context = "cell_type" }.'
            )
        return shared

    def baselines(
        self, fold: Fold, features: Features | None, *, network_steps: int = 600
    ) -> dict[str, Baseline]:
        """The rules in the fold's context, the network on its controls, and its other half."""
        context = str(fold.context)
        rules: list[Baseline] = [kind(fold.train, context) for kind in ACROSS_CONTEXTS]
        rules.append(LatentAdditive(fold.train, features, steps=network_steps, context=context))
        rules.append(TechnicalDuplicate(fold.duplicated))
        return {rule.name: rule for rule in rules}

    def rules(self, train: Trajectories, features: Features | None) -> list[Baseline]:
        """None without a context; see :meth:`baselines`."""
        return []


@final
class UnseenContext(OfContext):
    """Hold out the perturbed cells of one context at a time; its controls stay in training."""

    name = "unseen-context"

    def splits(self, data: Trajectories, number: int | str, headline: Sequence[str]) -> list[Split]:
        """A split a context."""
        return [Split((Criterion(contexts=(name,)),)) for name in self.contexts(data)]

    def stratified(self, fold: Fold) -> Fold:
        """The fold with the perturbations alone that training has in another context."""
        known = fold.train.perturbations()
        return replace(fold, scored=tuple(one for one in fold.scored if one[0] in known))


@final
class UnseenGeneInUnseenContext(OfContext):
    """Hold out some genes in all contexts, and score them in one whose perturbed cells are all held out."""

    name = "unseen-gene-in-unseen-context"

    def splits(self, data: Trajectories, number: int | str, headline: Sequence[str]) -> list[Split]:
        """A split a context and group of genes."""
        found: list[Split] = []
        for name in self.contexts(data):
            here = data.select(context=name).perturbations()
            labels = [one for one in here if one in data.schema.token_index]
            if len(labels) < 2:
                raise DataError(
                    f"'{self.name}' holds out some genes of several, and the context '{name}' has "
                    f"{len(labels)}; take 'unseen-context' for these data."
                )
            where = Criterion(contexts=(name,))
            found += [
                Split((Criterion(perturbations=group), where)) for group in grouped(labels, number, headline)
            ]
        return found

    def baselines(
        self, fold: Fold, features: Features | None, *, network_steps: int = 600
    ) -> dict[str, Baseline]:
        """Those of contexts, and what features of genes say from the cells of all other contexts."""
        found = super().baselines(fold, features, network_steps=network_steps)
        if features is not None:
            train = fold.train
            here = train.schema.context_of(str(fold.context))
            elsewhere = train.rows(train.context[train.row_cell] != here)
            kinds = (RidgeOnFeatures, NearestNeighbours, SoftmaxKernel)
            found |= {kind.name: kind(elsewhere, features) for kind in kinds}
        return found

    def stratified(self, fold: Fold) -> Fold:
        """The fold, with nothing to score where no perturbation is left in training."""
        return fold if fold.train.perturbations() else replace(fold, scored=())


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
    {
        one.name: one
        for one in (
            HeldOutTime(),
            HeldOutTimeOfPerturbation(),
            UnseenGene(),
            UnseenCombination(),
            UnseenContext(),
            UnseenGeneInUnseenContext(),
        )
    }
)
