"""The held-out-time protocol: forecast what was held out at its last time, or in a context, and score it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pyro_citevae.analysis.baselines.across_contexts import ACROSS_CONTEXTS
from pyro_citevae.analysis.baselines.across_perturbations import (
    Additive,
    MeanOfOthers,
    MeanOfSingles,
    StrongerSingle,
)
from pyro_citevae.analysis.baselines.in_time import (
    DampedExtrapolation,
    LinearExtrapolation,
    Persistence,
    ShrunkenPersistence,
)
from pyro_citevae.analysis.baselines.on_features import (
    LinearModel,
    NearestNeighbours,
    RidgeOnFeatures,
    SoftmaxKernel,
)
from pyro_citevae.analysis.baselines.rules import Baseline, NoChange
from pyro_citevae.analysis.scoring.effects import evaluate
from pyro_citevae.analysis.scoring.measurement import Measurement, measure, reproducible, require_unseen
from pyro_citevae.analysis.scoring.tables import ALL, CEILING
from pyro_citevae.arguments import names
from pyro_citevae.data.features import GeneFeatures
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.shared_genes import on_panel, shared_panel
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError, few
from pyro_citevae.infer.effect import Effect
from pyro_citevae.infer.predictive import Predictive

__all__ = ["Forecast", "forecast"]

_IN_TIME = (Persistence, LinearExtrapolation, DampedExtrapolation, ShrunkenPersistence)
_OF_MEMBERS = (Additive, StrongerSingle, MeanOfSingles)


@dataclass(frozen=True)
class Forecast:
    """A scored forecast.

    Attributes:
        effects: Draws of every perturbation's effect at the held-out time.
        measurements: What was measured then.
        headline: Reproducible perturbations, whose mean is quoted first.
        scores: Tidy table of the model, the baselines and the ceiling.
        name: Name of the model in the table.
        context: Context of the effects, where the data name some.
    """

    effects: Effect
    measurements: tuple[Measurement, ...]
    headline: tuple[str, ...]
    scores: pd.DataFrame
    name: str = ""
    context: str | None = None

    @property
    def verdict(self) -> str:
        """Whether a rule errs less than the model, on one line."""
        rows = self.scores
        errors = rows[(rows.score == "relative_l2") & (rows.perturbation == ALL)].set_index("predictor").value
        errors = errors.drop(CEILING, errors="ignore").dropna()
        rules = errors.drop(self.name)
        if not len(rules):
            return "no rule to compare with."
        best = str(rules.idxmin())
        against = f"relative L2 {errors[self.name]:.2f}, and {rules[best]:.2f} by {best}"
        if errors[self.name] <= rules[best]:
            return f"beside the rules: the model errs less than the best of them ({against})."
        return (
            f"beside the rules: {best} errs less than the model ({against}); take the rule's forecast here, "
            "or see what citevae evaluate --licence says of the fit."
        )


def forecast(
    posterior: Predictive,
    train: Trajectories,
    truth: Trajectories,
    *,
    dataset: str,
    headline: Sequence[str] = (),
    draws: int = 200,
    seed: int = 0,
    genes: Sequence[str] | None = None,
    features: GeneFeatures | None = None,
    context: str | None = None,
) -> Forecast:
    """Forecasts the last time of the held-out data, and scores it beside baselines and ceiling.

    Effects are those on a population drawn from the model, so no cell of the held-out time is used. Where the
    held-out cells lack genes, model, rules and measurement are all brought to the genes that remain before a
    profile is taken (:func:`~pyro_citevae.data.shared_genes.shared_panel` of the training cells).

    Where the data name contexts, a forecast is one within a context: effects are against its own controls,
    and what is held out in it and measured in others is forecast by the rules across contexts too.

    Args:
        posterior: Fitted on ``train``.
        train: What the posterior and the baselines saw.
        truth: Held-out cells. Where a time is held out its controls are among them; where perturbations
            are, the effects are measured against the controls in training.
        dataset: Name of the data, for the table.
        headline: Reproducible perturbations; those whose split-half correlation is above 0.3 if empty.
        draws: Number of draws.
        seed: Seed of the fit, for the table.
        genes: Genes that the held-out cells have; None for all.
        features: What is known of the perturbed genes, for the rules of genes without cells.
        context: Context to forecast in; None for the one that has held-out perturbed cells.

    Raises:
        DataError: A held-out observation was in training, there is nothing to score, the training controls
            have no count of the genes, or several contexts are held out and none is named.
    """
    panel = None if genes is None else shared_panel(train, genes)
    if panel is not None:
        train, truth = on_panel(train, panel), on_panel(truth, panel)
    headline = names(headline, "forecast(headline=...)")
    require_unseen(train, truth)
    where = _context(truth, context)
    known = train if where is None else train.select(context=where)
    truth = truth if where is None else truth.select(context=where)
    time = float(truth.row_times.max())
    labels = truth.select(time=time).perturbations()
    if not labels:
        raise DataError(f"no perturbed cell is held out at {time:g}; hold out a time, as in time=5.")
    reference = _where_controls_are(truth, known, time)
    measurements = tuple(measure(truth, label, time, reference) for label in labels)
    schedules = [Schedule.parse(label, posterior.schema.control) for label in labels]
    effects = posterior.effect(schedules, time=time, draws=draws, panel=panel, context=where)
    if where is not None:
        effects = effects.isel(context=0)
    rules: list[Baseline] = [] if where is None else _across_contexts(labels, train, known, where)
    if known.perturbations():
        rules += [kind(known) for kind in _rules(schedules, known)]
        if any(not known.seen[known.schema.token_index[one]] for each in schedules for one in each.tokens):
            rules += _of_unseen_genes(known, features)
    if reference.perturbations():
        rules.append(MeanOfOthers(reference))
    chosen = tuple(name for name in headline if name in labels) or reproducible(measurements)
    predicted = {posterior.name: effects}
    predicted |= {rule.name: rule.effect(schedules, time=time, draws=draws) for rule in rules}
    scores = evaluate(
        predicted, measurements, headline=chosen, protocol="held-out-time", dataset=dataset, seed=seed
    )
    return Forecast(effects, measurements, chosen, scores, posterior.name, where)


def _rules(schedules: Sequence[Schedule], train: Trajectories) -> list[type[Baseline]]:
    """Rules in time for what training has, and of members for combinations that it lacks."""
    seen = {train.conditions[i] for i in np.unique(train.condition)}
    in_time = any(one in seen for one in schedules)
    unseen_pair = any(one not in seen and len(one.tokens) > 1 for one in schedules)
    return [NoChange, *(_IN_TIME if in_time else ()), *(_OF_MEMBERS if unseen_pair else ())]


def _of_unseen_genes(train: Trajectories, features: GeneFeatures | None) -> list[Baseline]:
    """Rules for genes without cells, along their features where there are any."""
    found: list[Baseline] = [LinearModel(train, features)]
    if features is not None:
        found += [kind(train, features) for kind in (RidgeOnFeatures, NearestNeighbours, SoftmaxKernel)]
    return found


def _context(truth: Trajectories, named: str | None) -> str | None:
    """The context to forecast in; None where the data have none.

    Raises:
        DataError: It is unknown, or it is one of several and not named.
    """
    if named is not None:
        truth.schema.context_of(named)
        return named
    if not truth.schema.contexts:
        return None
    perturbed = truth.labels != truth.schema.control
    held_out = [truth.schema.contexts[c] for c in np.unique(truth.context[perturbed]).tolist()]
    if len(held_out) != 1:
        raise DataError(
            "a forecast is scored in one context at a time, and perturbed cells are held out of "
            f"{few(held_out) or 'none'}; name one with context=."
        )
    return held_out[0]


def _across_contexts(
    labels: Sequence[str], train: Trajectories, known: Trajectories, context: str
) -> list[Baseline]:
    """Rules from other contexts, where these have a perturbation that is not in training's own context."""
    elsewhere = set(train.perturbations()) - set(known.perturbations())
    return [kind(train, context) for kind in ACROSS_CONTEXTS] if elsewhere & set(labels) else []


def _where_controls_are(truth: Trajectories, train: Trajectories, time: float) -> Trajectories:
    """The held-out data if its time was held out, controls and all; else the training data."""
    return truth if truth.select(truth.schema.control, time).n_cells else train
