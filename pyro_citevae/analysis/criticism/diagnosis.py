"""The diagnosis of a fit: what is looked at, what was found, and what to do about it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from pyro_citevae.analysis.criticism.randomised_pit import randomised_pit, transformed
from pyro_citevae.analysis.criticism.replication import measured, replicates
from pyro_citevae.analysis.scoring.coverage import coverage
from pyro_citevae.analysis.scoring.measurement import Measurement, measure, measured_effects
from pyro_citevae.data.groups import Groups
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.infer.bounds import negative_bound
from pyro_citevae.infer.diagnosis import COVERAGE, Diagnosis, Sign, not_tried
from pyro_citevae.infer.ensemble import Ensemble
from pyro_citevae.infer.posterior import Posterior
from pyro_citevae.infer.seeding import seeded

__all__ = ["diagnose"]

# limits; chosen on the development screens of experiments/calibration
_PIT = 0.08
_MOVED = 2.0
_ACTIVE = 0.01  # variance of a program's posterior means over cells
_FEWEST_CELLS = 8  # of a group whose effect is measured

_CELLS, _DRAWS, _PARTICLES = 500, 60, 8
_MOST_LEVELS = 50
_FEWEST_OF_PAIRS, _MOST_GENES, _REPLICATES, _TOGETHER = 50, 200, 20, 2.0


def diagnose(
    posterior: Posterior | Ensemble, train: Trajectories, test: Trajectories | None = None, *, seed: int = 0
) -> Diagnosis:
    """Looks at a fit for what makes forecasts wrong, and says what to do about it.

    =================  =======================================================================================
    sign               as expected where
    =================  =======================================================================================
    training           the bound had stopped rising, or 1,500 steps were taken
    seen effects       the program explains a third of the held-out cells' effects, or misses them by few
                       sampling errors
    intervals          held-out profiles lie in 80 % intervals in 68 to 92 of 100 cases
    measured effects   the same of the effects in ``test``, two standard errors allowed for
    programs           there are as many as the effects have independent directions
    states             a program differs between cells
    single counts      80 % of new cells' counts lie in 80 % predictive intervals, give or take 8
    emission           the same of one half of a cell's counts, given its states by the other half, or more
    gene pairs         genes of control cells correlate as much as those of new cells, to within a factor of 2
    guide              a guide of the mechanism that is twice as wide makes the bound worse
    columns            no column of the cells that the model does not know moves genes
    seeds              members of an ensemble agree to within their own intervals
    =================  =======================================================================================

    The halves of a cell's counts are drawn by binomial thinning (Neufeld et al., Inference after Latent
    Variable Estimation for Single-Cell RNA Sequencing Data, 2022), so that states cannot explain the noise of
    the counts that they are held against. Pareto k of the mechanism is not among the signs: it is far above
    0.7 in good and in bad fits of more than a few dozen values, and tells nothing there.

    Args:
        posterior: A fitted model, or an ensemble, whose first member stands for all where one is looked at.
        train: The cells that it was fitted to, those that the fit held back included.
        test: Further cells of perturbations that training has, to measure effects in; None for none.
        seed: Seed of every draw.

    Returns:
        The signs, and the verdict.

    Raises:
        DataError: The cells are of another panel than the model.

    Example:
        >>> import pyro_citevae as cv
        >>> data = cv.simulate(n_cells=200, n_genes=12, n_perturbations=3, n_steps=2).data
        >>> model = cv.models.StaticShift(data.schema, n_programs=2, hidden=4)
        >>> guide = cv.guides.MeanField(model, hidden=4)
        >>> found = diagnose(cv.fit(model, guide, data, max_epochs=2, progress=False), data)
        >>> found.failed[0].name, found.failed[0].remedy
        ('training', 'Fit longer: leave out max_epochs, or raise max_steps.')
    """
    one = posterior.posteriors[0] if isinstance(posterior, Ensemble) else posterior
    signs = [
        *one.adequacy.signs,
        _states(one, train, seed),
        _single_counts(one, train, seed),
        _emission(one, train, seed),
        _gene_pairs(one, train, seed),
        _guide(one, train, seed),
        _columns(train),
    ]
    if test is not None:
        signs.insert(3, _measured_effects(posterior, train, test, seed))
    if isinstance(posterior, Ensemble):
        signs.append(_seeds(posterior, seed))
    return Diagnosis(tuple(signs))


def _measured_effects(
    posterior: Posterior | Ensemble, train: Trajectories, test: Trajectories, seed: int
) -> Sign:
    """Whether intervals cover effects that are measured in other cells."""
    control, found = train.schema.control, []
    for label in test.perturbations():
        for time in np.unique(test.select(label).row_times).tolist():
            here = test.select(control, time).n_cells >= _FEWEST_CELLS
            reference = test if here else train
            enough = test.select(label, time).n_cells >= _FEWEST_CELLS
            if enough and reference.select(control, time).n_cells >= _FEWEST_CELLS:
                found.append(measure(test, label, time, reference))
    if not found:
        return not_tried("measured effects", "No group of the test cells has controls of its time.")
    covered = _covered(posterior, found, seed)
    error = float(np.std(covered) / np.sqrt(len(covered))) if len(covered) > 1 else 0.1
    share = float(np.mean(covered))
    return Sign(
        "measured effects",
        share,
        f"0.8 within {COVERAGE:g} and two standard errors",
        abs(share - 0.8) <= COVERAGE + 2 * error,
        f"80 % intervals hold {share:.0%} of the effects in the test cells ({len(found)} groups, standard "
        f"error {error:.2f}).",
        "Believe these forecasts less than they say; compare with the rules that evaluate prints.",
    )


def _covered(posterior: Posterior | Ensemble, found: list[Measurement], seed: int) -> list[float]:
    shares = []
    for time in sorted({one.time for one in found}):
        now = [one for one in found if one.time == time]
        labels = [one.perturbation for one in now]
        effect = posterior.effect(labels, time=time, draws=200, seed=seed, progress=False)
        truth = measured_effects(now, effect.gene.to_numpy().tolist())
        by = coverage(effect, truth.effect, variance=truth.variance, probability=0.8, by=["perturbation"])
        shares += by.coverage.to_numpy().ravel().tolist()
    return shares


def _states(posterior: Posterior, train: Trajectories, seed: int) -> Sign:
    """Whether the programs differ between cells, or have collapsed onto their prior."""
    cells = train.thinned(_CELLS)
    states = posterior.latent(cells, draws=5, seed=seed).filter(like="program")
    active = float((states.var() > _ACTIVE).sum())
    return Sign(
        "states",
        active,
        "1 program in use at least",
        active >= 1,
        f"{active:.0f} of {states.shape[1]} programs differ between cells.",
        "The states collapsed onto their prior: fit with kl_start=0.0, a higher learning_rate, or from "
        "another seed.",
    )


def _single_counts(posterior: Posterior, train: Trajectories, seed: int) -> Sign:
    """Whether the values of single cells scatter as predicted."""
    pit = randomised_pit(posterior, train, draws=_DRAWS, most_cells=_CELLS, seed=seed)
    inside = float(((pit >= 0.1) & (pit <= 0.9)).mean())
    narrow = inside < 0.8
    return Sign(
        "single counts",
        inside,
        f"0.8 within {_PIT:g}",
        abs(inside - 0.8) <= _PIT,
        f"80 % predictive intervals of single values hold {inside:.0%} of them.",
        "The cells scatter more than the emission says: use emission='negative_binomial'."
        if narrow
        else "The cells scatter less than the emission says: fit longer, or use emission='poisson'.",
    )


def _emission(posterior: Posterior, train: Trajectories, seed: int) -> Sign:
    """Whether one half of a cell's counts is as predicted by states that were read off the other half."""
    name = "emission"
    if train.schema.values != "counts":
        return not_tried(name, "Real values cannot be split in halves.")
    cells = train.thinned(_CELLS)
    whole = cells.values.tocsr()
    first = whole.copy()
    first.data = np.random.default_rng(seed).binomial(whole.data.astype(int), 0.5).astype(np.float32)
    first.eliminate_zeros()
    half = replace(cells, values=first, library=cells.library / 2)
    made = replicates(posterior, half, draws=_DRAWS, cells="cells", seed=seed)
    u = transformed(made, whole - first, _DRAWS, seed)
    inside = float(((u >= 0.1) & (u <= 0.9)).mean())
    return Sign(
        name,
        inside,
        f"{0.8 - _PIT:g} at least",
        inside >= 0.8 - _PIT,
        f"80 % intervals of half of a cell's counts, given its states by the other half, hold {inside:.0%}.",
        "Counts scatter more around a cell's states than the emission says: use "
        "emission='negative_binomial', or more programs.",
    )


def _gene_pairs(posterior: Posterior, train: Trajectories, seed: int) -> Sign:
    """Whether genes go together between cells as predicted."""
    name, control = "gene pairs", train.schema.control
    times, n = np.unique(train.select(control).row_times, return_counts=True)
    if not len(n) or n.max() < _FEWEST_OF_PAIRS:
        return not_tried(name, f"There are fewer than {_FEWEST_OF_PAIRS} controls at a time.")
    cells = train.select(control, float(times[n.argmax()])).thinned(_CELLS)
    shown = np.argsort(-cells.stored.sum(0, dtype=float), kind="stable")[:_MOST_GENES]
    found = _together(next(iter(measured(cells))).x[..., shown], train)
    made = replicates(posterior, cells, draws=_REPLICATES, seed=seed)
    of_draw: dict[int, list[torch.Tensor]] = {}
    for block in made:
        for d, x in enumerate(block.x, block.draws.start):
            of_draw.setdefault(d, []).append(x[..., shown])
    expected = float(np.mean([_together(torch.cat(parts)[None], train) for parts in of_draw.values()]))
    ratio = found / max(expected, 1e-6)
    return Sign(
        name,
        ratio,
        f"between {1 / _TOGETHER:.2g} and {_TOGETHER:g}",
        1 / _TOGETHER <= ratio <= _TOGETHER,
        f"Genes of control cells correlate by {found:.2f} in the root mean square, and those of new cells by "
        f"the fit {expected:.2f}.",
        "Raise n_programs or n_invariant: the fit lets genes go together less than they do."
        if ratio > 1
        else "The states explain noise: take emission='negative_binomial' or fewer programs.",
    )


def _together(x: torch.Tensor, data: Trajectories) -> float:
    """Root mean square of the correlations of genes over cells, sampling error left out."""
    values = x[0].double().cpu().numpy()
    if data.schema.values == "counts":
        values = np.log1p(data.schema.panel_total * values / np.maximum(values.sum(1, keepdims=True), 1.0))
    values = values[:, values.std(0) > 0]
    r = np.corrcoef(values.T)
    square = (r[np.triu_indices(len(r), 1)] ** 2).mean() - 1 / (len(values) - 1)
    return float(np.sqrt(max(square, 0.0)))


def _guide(posterior: Posterior, train: Trajectories, seed: int) -> Sign:
    """Whether the guide of the mechanism is too narrow for its own bound."""
    guide = posterior.guide
    if not hasattr(guide.globals, "widen") or posterior.model.enumerated:
        return not_tried("guide", "It is not known how to widen this guide of the mechanism.")
    wider: Any = copy.deepcopy(guide)
    wider.globals.widen(2.0)
    gains = list(_gains(posterior, wider, train.thinned(_CELLS), train.n_cells, seed))
    gain = float(np.mean(gains))
    error = float(np.std(gains, ddof=1) / np.sqrt(len(gains)))
    return Sign(
        "guide",
        gain,
        "no gain",
        gain <= 2 * error,
        f"Twice as wide, the guide of the mechanism changes the bound by {gain:.3g} nats.",
        "The guide is narrower than its own bound asks for: fit longer, or do not hold its scales.",
    )


def _gains(posterior: Posterior, wider: Any, cells: Trajectories, n_cells: int, seed: int) -> Iterator[float]:
    """What widening gains of the bound of all cells, draw by draw with the same noise."""
    batch = replace(cells.batch().to(posterior.model.device), size=n_cells)
    bounds = [
        negative_bound(posterior.model, one, "elbo", alpha=0.5, particles=1)
        for one in (posterior.guide, wider)
    ]
    for particle in range(_PARTICLES):
        losses = []
        for bound in bounds:
            with seeded(seed + particle), torch.no_grad():
                losses.append(float(bound(batch)))
        yield losses[0] - losses[1]


def _columns(train: Trajectories) -> Sign:
    """Whether a column that the model does not know of moves the genes of the controls."""
    name = "columns"
    if train.obs is None or train.schema.values != "counts":
        return not_tried(name, "The cells have no other columns than those that were read.")
    worst, column = 0.0, ""
    controls = train.controls()
    for one, levels in _unread(controls):
        found = _moved(controls, levels)
        if found > worst:
            worst, column = found, one
    if not column:
        return not_tried(name, "The cells have no other columns than those that were read.")
    return Sign(
        name,
        worst,
        f"{_MOVED:g} times the sampling variance at most",
        worst <= _MOVED,
        f"Among controls, the levels of '{column}' differ by {worst:.2g} times their sampling variance.",
        f"Read the screen with batch='{column}', so that the model knows of it.",
    )


def _unread(cells: Trajectories) -> Iterable[tuple[str, np.ndarray]]:
    """Columns of labels that were not read as perturbation, time, dose or batch, with each row's level."""
    columns = cells.reading.columns if cells.reading else None
    read = {value for value in asdict(columns).values() if isinstance(value, str)} if columns else set()
    for name, values in () if cells.obs is None else cells.obs.items():
        if name in read or not (
            isinstance(values.dtype, pd.CategoricalDtype) or pd.api.types.is_string_dtype(values.dtype)
        ):
            continue
        level = values.astype(str).to_numpy()
        if 2 <= len(np.unique(level)) <= _MOST_LEVELS:
            yield str(name), level


def _moved(cells: Trajectories, level: np.ndarray) -> float:
    """Variance between the levels of a column over what sampling explains, in the median over genes.

    The technical batch that was read stays what it is: levels are compared within it.
    """
    ratios, weights = [], []
    technical = cells.technical[cells.row_cell]
    for batch in np.unique(np.stack([technical, cells.row_step], 1), axis=0):
        here = (technical == batch[0]) & (cells.row_step == batch[1])
        names = [one for one in np.unique(level[here]) if (here & (level == one)).sum() >= _FEWEST_CELLS]
        if len(names) < 2:
            continue
        groups = [Groups.of(cells.rows(here & (level == one))) for one in names]
        whole = groups[0]
        for other in groups[1:]:
            whole = whole + other
        mean = whole.level
        squares = [(one.level - mean) ** 2 / one.variance(mean, whole) for one in groups]
        ratios.append(float(np.median(np.sum(squares, 0) / (len(names) - 1))) / 0.455)  # median of chi^2_1
        weights.append(len(names) - 1)
    return float(np.average(ratios, weights=weights)) if ratios else 0.0


def _seeds(posterior: Ensemble, seed: int) -> Sign:
    """Whether the members agree to within their intervals."""
    effect = posterior.effect(posterior.schema.tokens[:10], draws=100, seed=seed, progress=False)
    between = float(effect.mean("draw").var("chain", ddof=1).mean())
    within = float(effect.var("draw").mean())
    return Sign(
        "seeds",
        between / within,
        "1 at most",
        between <= within,
        f"The members' effects differ by {between / within:.2g} times the variance within a member.",
        "Fit longer, so that the members end alike, or believe the ensemble's interval alone.",
    )
