"""Tokens and pairs that are left out: how much of their forecast to believe, and how far it misses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from scipy.optimize import nnls  # type: ignore[attr-defined]

from pyro_citevae.data.groups import Groups
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.infer.counterfactuals import Counterfactuals
from pyro_citevae.infer.program_levels import POPULATION, Members
from pyro_citevae.program import LatentDynamics

__all__ = ["CorrectedGroups", "LeftOut"]

_DRAWS = 40  # of the seen tokens that a left-out one is taken to be like
_MOST_TOKENS = 60
_FEWEST_TOKENS = 3  # of fewer, none is left that a program could forecast one from
_FEWEST_OF_SHARES = 5
_STEP = 0.05  # of the shares
_MOST_BY_SIZE = 1.5  # of their sum
_HALVES = (0.25, 0.5, 0.75, 0.9)  # quantiles of the sizes of forecasts

# of the variance of a pair's forecast; chosen on the development screens of experiments/calibration
_PAIR_PRIOR = np.array([1.0, 0.25, 0.05])


@final
@dataclass(frozen=True)
class CorrectedGroups:
    """The groups of a screen with their corrected effects.

    Attributes:
        groups: The groups.
        schedules: Schedule of each label.
        control_label: Label of the unperturbed cells.
        control: The group of the controls of each group's time; -1 where there is none.
        population: The program's profiles.
        shift: Correction of the profiles.
        sd: Standard deviation of the corrected profiles.
        sampled: Sampling variance of the measured profiles.
        effect: Corrected effects against the control.
        spread: How far a group without cells lies from the program.
    """

    groups: Groups
    schedules: Mapping[str, Schedule]
    control_label: str
    control: Int[np.ndarray, " group"]
    population: Float[np.ndarray, "group gene"]
    shift: Float[np.ndarray, "group gene"]
    sd: Float[np.ndarray, "group gene"]
    sampled: Float[np.ndarray, "group gene"]
    effect: Float[np.ndarray, "group gene"]
    spread: Float[np.ndarray, " gene"]

    @property
    def at(self) -> dict[tuple[str, float, int], int]:
        """The group of each label, time and context."""
        groups = self.groups
        keys = zip(groups.labels, groups.times.tolist(), groups.contexts.tolist(), strict=True)
        return {key: i for i, key in enumerate(keys)}

    def variance(self, i: int) -> Float[np.ndarray, " gene"]:
        """Variance of a group's effect."""
        return np.asarray(self.sd[i] ** 2 + self.sd[self.control[i]] ** 2)


@final
@dataclass(frozen=True)
class LeftOut:
    r"""Forecasts of what was seen, as if it had not been.

    A token q without cells is forecast from the other tokens, by the program with ``seen[q]`` off, f_q, and
    by their mean effect, mu_q. Which shares of the two to believe is learnt from the tokens that have cells::

        rho = argmin mean_q sqrt((|delta_q - rho_0 mu_q - rho_1(f_q) f_q|^2 + V_q) / (|delta_q|^2 + V_q))
        rho_1(f) = rho_1 |f|^2 / (|f|^2 + s^2)

    where V_q is the sampling variance of the measured effect: the mean relative error that a measurement
    would show. Every token counts alike there, so that nothing is left of a forecast where most perturbations
    act on one gene alone, and no token decides whose effect is large. Of fewer than five tokens nothing is
    believed. A forecast is believed by its size, s > 0, where the error falls by more than the standard error
    of its fall over tokens. The sum of rho is 1 at most, and 1.5 where s > 0.
    What an unseen token misses this by is what a seen one does, in a random direction along it:
    ``delta_u = rho_0 mu + rho_1(f_u) f_u +- (delta_q - forecast_q)`` for a random q.

    A program whose rows of tokens are parameters, and no drawn site, cannot forget one: f_q is zero there.

    A pair's forecast F is the program's with half of its members' corrections. Its variance is learnt from
    pairs that have cells: ``c_0 spread_g^2 + c_1 (F - A)^2 + c_2 h_g`` with the additive forecast A, and the
    mean squared effect h_g of a gene.

    Attributes:
        tokens: Labels of the tokens that were left out in turn.
        times: Time of each occasion on which they have cells.
        contexts: Context of each occasion.
        residual: What each misses its forecast by; NaN where it was not measured.
        residual_sd: Standard deviation of its measured effect.
        mean: Mean effect of the tokens, mu.
        shares: rho.
        half: s, the size of a forecast of which half is left; zero where size does not matter.
        pair: c of pairs.
        size: h, the mean squared effect of a gene.

    Source: D. H. Wolpert, Stacked Generalization (1992); R. F. Barber et al., Predictive Inference with the
    Jackknife+ (2021).
    """

    tokens: tuple[str, ...]
    times: Float[np.ndarray, " occasion"]
    contexts: Int[np.ndarray, " occasion"]
    residual: Float[np.ndarray, "left_out occasion gene"]
    residual_sd: Float[np.ndarray, "left_out occasion gene"]
    mean: Float[np.ndarray, "occasion gene"]
    shares: Float[np.ndarray, " forecast"]
    half: float
    pair: Float[np.ndarray, " part"]
    size: Float[np.ndarray, " gene"]

    def expected(
        self, occasion: int, forecast: Float[np.ndarray, " gene"], size: float
    ) -> Float[np.ndarray, " gene"]:
        """What is believed of an unseen token's effect.

        Args:
            occasion: Number of the occasion.
            forecast: f, the program's.
            size: The norm of f over all genes, less those of the tokens themselves.
        """
        return np.asarray(
            self.shares[0] * self.mean[occasion]
            + self.shares[1] * _believed(np.array(size), self.half) * forecast
        )

    @classmethod
    def learnt(cls, members: Members, data: Trajectories, found: CorrectedGroups, seed: int) -> LeftOut:
        """Learns it from the effects of the groups.

        Args:
            members: The program with its guide.
            data: The cells.
            found: The groups with their effects.
            seed: Seed of the draws.
        """
        at, chosen = found.at, found.control >= 0
        times_of, contexts_of = found.groups.times[chosen].tolist(), found.groups.contexts[chosen].tolist()
        occasions = sorted(set(zip(times_of, contexts_of, strict=True)))
        singles = [
            label
            for label, one in found.schedules.items()
            if len(one.tokens) == 1 and any((label, *occasion) in at for occasion in occasions)
        ]
        picked = np.sort(np.random.default_rng(seed).permutation(len(singles))[:_MOST_TOKENS])
        tokens = tuple(singles[i] for i in picked) if members[0][0].seen.sum() >= _FEWEST_TOKENS else ()
        delta = np.full((len(tokens), len(occasions), data.schema.n_genes), np.nan)
        error, forecast, noise = delta.copy(), delta.copy(), delta.copy()
        forgets = _forgets(members)
        for q, label in enumerate(tokens):
            program = _without(members, found.schedules[label], occasions, seed) if forgets else None
            for k, occasion in enumerate(occasions):
                i = at.get((label, *occasion))
                if i is not None:
                    delta[q, k], error[q, k] = found.effect[i], np.sqrt(found.variance(i))
                    c = found.control[i]
                    forecast[q, k] = 0.0 if program is None else program[k] - found.population[c]
                    noise[q, k] = found.sampled[i] + found.sampled[found.control[i]]
        _leave_out_own_genes(data, found.schedules, tokens, (delta, error, forecast, noise))
        others = _mean_of_others(delta)
        _leave_out_own_genes(data, found.schedules, tokens, (others,))
        shares, half = _shares(delta, others, forecast, noise)
        believed = _believed(np.linalg.norm(forecast, axis=-1, keepdims=True), half)
        residual = delta - shares[0] * others - shares[1] * believed * forecast
        finite = found.effect[
            np.isfinite(found.effect).all(1) & (np.array(found.groups.labels) != found.control_label)
        ]
        size = (finite**2).mean(0) if len(finite) else np.zeros(data.schema.n_genes)
        times, contexts = (np.array([one[i] for one in occasions]) for i in (0, 1))
        mean, pair = _mean_of_rows(delta), _pair_scales(found, size)
        return cls(tokens, times, contexts.astype(int), residual, error, mean, shares, half, pair, size)

    def on(self, genes: Int[np.ndarray, " kept"]) -> LeftOut:
        """The same of some genes."""
        of_genes = {
            name: getattr(self, name)[..., genes] for name in ("residual", "residual_sd", "mean", "size")
        }
        return replace(self, **of_genes)

    def to_dataset(self, gene: Mapping[str, Any]) -> xr.Dataset:
        """The values with names of their axes."""
        values = {
            "residual": (("left_out", "occasion", "gene"), self.residual),
            "residual_sd": (("left_out", "occasion", "gene"), self.residual_sd),
            "mean_effect": (("occasion", "gene"), self.mean),
            "mean_squared_effect": ("gene", self.size),
            "share_believed": ("forecast", self.shares),
            "size_of_half_belief": self.half,
            "pair_variance": ("part", self.pair),
        }
        coords = {
            "left_out": np.array(self.tokens, dtype=object).astype(str),
            "occasion": np.arange(len(self.times)),
            "time_of_occasion": ("occasion", self.times),
            "context_of_occasion": ("occasion", self.contexts),
            "forecast": ["mean of others", "program"],
            "part": ["spread", "additive", "size"],
        }
        return xr.Dataset(values, coords={**coords, **gene})

    @classmethod
    def from_dataset(cls, found: xr.Dataset) -> LeftOut:
        """What :meth:`to_dataset` wrote."""
        tokens = tuple(map(str, found.left_out.to_numpy())) if found.sizes["left_out"] else ()
        if "time_of_occasion" in found:
            times, contexts = (found[f"{of}_of_occasion"].to_numpy() for of in ("time", "context"))
        else:  # a run of before contexts
            times = found.occasion.to_numpy()
            contexts = np.zeros(len(times), dtype=int)
        half = float(found["size_of_half_belief"]) if "size_of_half_belief" in found else 0.0
        values = {
            "residual": "residual",
            "residual_sd": "residual_sd",
            "mean": "mean_effect",
            "shares": "share_believed",
            "pair": "pair_variance",
            "size": "mean_squared_effect",
        }
        arrays = {name: found[stored].to_numpy() for name, stored in values.items()}
        return cls(tokens=tokens, times=times, contexts=contexts, half=half, **arrays)


@contextmanager
def _unseen(model: LatentDynamics, tokens: tuple[str, ...]) -> Iterator[None]:
    """The model as if some tokens had no cells."""
    kept = model.seen.clone()
    model.seen[[model.schema.token_index[token] for token in tokens]] = False
    try:
        yield
    finally:
        model.seen.copy_(kept)


def _forgets(members: Members) -> bool:
    """Whether a program can be asked without a token: a drawn site has rows of tokens, no parameter alone."""
    model, guide = members[0]
    return any("token" in (model.axes(site) or ()) for site in guide.globals.event_dims)


def _without(
    members: Members, schedule: Schedule, occasions: list[tuple[float, int]], seed: int
) -> Float[np.ndarray, "occasion gene"]:
    """The program's mean profiles under a schedule whose tokens it has not seen."""
    model = members[0][0]
    found = np.zeros((len(occasions), model.schema.n_genes))
    of = np.array([context for _, context in occasions])
    with _unseen(model, schedule.tokens):
        for context in np.unique(of):
            now = np.flatnonzero(of == context)
            where = int(context) if model.schema.contexts else None
            times = [occasions[k][0] for k in now]
            roll = Counterfactuals(
                members, [schedule], times, _DRAWS, seed, told=True, population=POPULATION, context=where
            )
            found[now] = roll.pseudobulk(None)[0, 0].mean(0)
    return found


def _leave_out_own_genes(
    data: Trajectories, schedules: Mapping[str, Schedule], tokens: tuple[str, ...], of: tuple[np.ndarray, ...]
) -> None:
    """Sets what a token does to its own transcript to zero: other tokens say nothing of it."""
    own = data.schema.own_gene
    for q, label in enumerate(tokens):
        for token in schedules[label].tokens:
            gene = own[data.schema.token_index[token]]
            if gene >= 0:
                for values in of:
                    values[q, :, gene] = np.where(np.isnan(values[q, :, gene]), np.nan, 0.0)


def _mean_of_rows(delta: Float[np.ndarray, "left_out occasion gene"]) -> Float[np.ndarray, "occasion gene"]:
    known = np.isfinite(delta)
    return np.asarray(np.where(known, delta, 0.0).sum(0) / np.maximum(known.sum(0), 1))


def _mean_of_others(
    delta: Float[np.ndarray, "left_out occasion gene"],
) -> Float[np.ndarray, "left_out occasion gene"]:
    known = np.isfinite(delta)
    filled = np.where(known, delta, 0.0)
    return np.asarray((filled.sum(0) - filled) / np.maximum(known.sum(0) - known, 1))


def _believed(size: Float[np.ndarray, "*any"], half: float) -> Float[np.ndarray, "*any"]:
    """The part of a forecast that is left by its size."""
    return np.asarray(size**2 / np.maximum(size**2 + half**2, 1e-300)) if half > 0 else np.ones_like(size)


def _shares(
    delta: Float[np.ndarray, "left_out occasion gene"],
    others: Float[np.ndarray, "left_out occasion gene"],
    forecast: Float[np.ndarray, "left_out occasion gene"],
    noise: Float[np.ndarray, "left_out occasion gene"],
) -> tuple[Float[np.ndarray, " forecast"], float]:
    """The shares of the two forecasts that leaving tokens out supports, and the size of half belief."""
    n = len(delta)
    if n < _FEWEST_OF_SHARES:
        return np.zeros(2), 0.0
    known = np.isfinite(delta)
    y, v, mean, f = (np.where(known, one, 0.0) for one in (delta, noise, others, forecast))
    size = np.linalg.norm(f, axis=-1, keepdims=True)
    scale = np.maximum((y**2 + v).sum((1, 2)), 1e-12)

    def best(half: float, most: float) -> tuple[np.ndarray, np.ndarray]:
        """The shares that err least in the mean, and the error of each token under them."""
        steps = np.linspace(0.0, most, 1 + round(most / _STEP))
        grid = np.array([(a, b) for a in steps for b in steps if a + b <= most + 1e-9])
        x = mean, _believed(size, half) * f
        cross = np.stack([(one * y).sum((1, 2)) for one in x], 1)
        gram = np.stack([[(one * other).sum((1, 2)) for other in x] for one in x])
        missed = scale[:, None] - 2 * cross @ grid.T + np.einsum("gi,ijq,gj->qg", grid, gram, grid)
        error = np.sqrt(np.maximum(missed, 0.0) / scale[:, None])
        chosen = int(error.mean(0).argmin())
        return grid[chosen], error[:, chosen]

    shares, error = best(0.0, 1.0)
    by_size = [
        (*best(half, _MOST_BY_SIZE), half)
        for half in np.quantile(size[known.any(-1)], _HALVES).tolist()
        if half > 0
    ]
    if by_size:
        others_shares, others_error, half = min(by_size, key=lambda one: float(one[1].mean()))
        gain = error - others_error
        if gain.mean() > gain.std(ddof=1) / np.sqrt(n):
            return others_shares, half
    return shares, 0.0


def _pair_scales(found: CorrectedGroups, size: Float[np.ndarray, " gene"]) -> Float[np.ndarray, " part"]:
    """What pairs with cells miss their forecast by, in parts of its variance; the prior counts as a pair."""
    at, parts, targets = found.at, [], []
    for (label, time, context), i in at.items():
        doses, c = found.schedules[label].doses, found.control[i]
        members = [at.get((Schedule((one,)).label(found.control_label), time, context)) for one in doses]
        of = [m for m in members if m is not None]
        if len(doses) < 2 or len(of) < len(doses) or c < 0:
            continue
        corrected = sum((found.shift[m] - found.shift[c] for m in of), np.zeros_like(size))
        program = found.population[i] - found.population[c]
        additive = found.effect[of].sum(0)
        missed = found.effect[i] - (program + 0.5 * corrected)
        parts.append([found.spread**2, (program + corrected - additive) ** 2, size])
        targets.append(missed**2 + found.variance(i))
    if not parts:
        return _PAIR_PRIOR.copy()
    x, y = np.array(parts), np.array(targets)  # (pair, part, gene), (pair, gene)
    # by the mean of each pair, so that a pair counts once and no gene of large variance decides
    mean, target = x.mean(2), y.mean(1)
    weight = 1.0 / np.maximum(mean @ _PAIR_PRIOR, 1e-12)
    rows = np.vstack([mean * weight[:, None], np.diag(1.0 / np.maximum(_PAIR_PRIOR, 0.05)) / np.sqrt(3)])
    aim = np.concatenate([target * weight, np.ones(3) / np.sqrt(3)])
    return np.asarray(nnls(rows, aim)[0])
