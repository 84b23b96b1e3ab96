"""The same perturbation in another context: what effects in the other contexts say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from pyro_citevae.data.pseudobulk import counts
from pyro_citevae.data.schema import Schema
from pyro_citevae.infer.left_out import CorrectedGroups

__all__ = ["AcrossContexts"]

_REACHES = (
    0.0,
    0.0625,
    0.125,
    0.25,
    0.5,
    1.0,
    2.0,
    4.0,
    8.0,
    np.inf,
)  # of likeness, in mean distances of controls
_N_SIZES = 10  # of effects, on a logarithmic scale
_MOST_ROWS = 5_000  # genes of perturbations that the weights are learnt from
_STEPS = 200  # of expectation maximisation
_LEAST_COUNT = 0.1  # at the common total, beside which ratios of counts are taken
_MOST_LEFT_OUT = 40  # measured effects that are forecast from the other contexts
_FACTOR_PRIOR = 0.1  # of what a forecast misses the common factor by; counts as one measured effect
_OF_NOTHING = 10.0  # rows without any effect that the prior counts


@final
@dataclass(frozen=True)
class AcrossContexts:
    r"""Effects of a perturbation over contexts: adaptive shrinkage, gene by gene.

    ::

        y_c = delta_c + eps_c                  eps_c ~ N(0, v_c)             measured in context c
        delta ~ sum_jk w_jk N(0, size_j^2 R_k)                               over all contexts together
        R_k,cc' = exp(-d_cc' / reach_k)

    for each gene, where counts are first freed of their composition. With b the profile of the controls,
    ``m = exp(b) - 1`` and ``m' = exp(b + effect) - 1`` counts at the common total, shares sum to one: what
    some genes gain all others lose, by a common factor exp(kappa)::

        kappa_c = median_g log m'_cg / m_cg, by the weight (m / (1 + m))^2   y_c = log(1 + m' exp(-kappa)) - b

    A forecast brings the sum of the counts back to the total, so that its own composition follows from the
    genes that it moves, and misses kappa by what it misses that of a measured context, left out, by. No count
    falls below zero. Real values have no composition.

    d_cc' is how far the controls of two contexts lie apart, and a reach runs from 0 (each context for itself)
    to infinity (all alike). The weights w are learnt from all genes of all perturbations by expectation
    maximisation; a spike at zero stands for what changes nothing. So a gene that answers alike everywhere is
    believed everywhere, one that answers in contexts of one kind is believed where the controls look like
    them, and one whose effect is noise is not believed. In a context without perturbed cells the effect is
    the posterior mean of its entry, and its variance that of the mixture.

    Attributes:
        labels: Perturbation of each measured effect.
        times: Time of each.
        contexts: Context of each.
        measured: The effects y against the controls of the same context and time, freed of composition.
        variance: Their sampling variances v.
        distance: How far the controls of two contexts lie apart, over the mean of all pairs in training.
        size: Standard deviation of each component.
        reach: Reach of each component.
        weight: Weight of each component.
        total: Common total of the counts; 0 for real values.
        factor_sd: Standard deviation of what a forecast misses kappa by.

    Source: S. M. Urbut, G. Wang, P. Carbonetto, M. Stephens, Flexible Statistical Methods for Estimating and
    Testing Effects in Genomic Studies with Multiple Conditions (2019), whose covariances are here those that
    the controls show.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> truth = rng.normal(size=400) * (rng.random(400) < 0.5)
        >>> y = truth + 0.1 * rng.normal(size=(3, 400))
        >>> known = AcrossContexts.learnt(
        ...     ("A",) * 3, np.ones(3), np.arange(3), y, np.full_like(y, 0.01), 1 - np.eye(4), y * 0
        ... )
        >>> mean, variance = known.forecast("A", 1.0, 3, np.zeros(400))
        >>> bool(np.corrcoef(mean, truth)[0, 1] > 0.99), bool((variance < 0.1).all())
        (True, True)
    """

    labels: tuple[str, ...]
    times: Float[np.ndarray, " measured"]
    contexts: Int[np.ndarray, " measured"]
    measured: Float[np.ndarray, "measured gene"]
    variance: Float[np.ndarray, "measured gene"]
    distance: Float[np.ndarray, "context context"]
    size: Float[np.ndarray, " component"]
    reach: Float[np.ndarray, " component"]
    weight: Float[np.ndarray, " component"]
    total: float = 0.0
    factor_sd: float = 0.0

    @classmethod
    def learnt(
        cls,
        labels: tuple[str, ...],
        times: Float[np.ndarray, " measured"],
        contexts: Int[np.ndarray, " measured"],
        measured: Float[np.ndarray, "measured gene"],
        variance: Float[np.ndarray, "measured gene"],
        distance: Float[np.ndarray, "context context"],
        controls: Float[np.ndarray, "measured gene"],
        total: float = 0.0,
        seed: int = 0,
    ) -> AcrossContexts:
        """Learns the weights from measured effects.

        Args:
            labels: Perturbation of each.
            times: Time of each.
            contexts: Context of each.
            measured: The effects.
            variance: Their sampling variances.
            distance: How far the controls of two contexts lie apart, over the mean of all pairs.
            controls: Profile of the controls that each is an effect against.
            total: Common total of the counts; 0 for real values.
            seed: Seed of the genes that are looked at, where there are many.
        """
        factors = np.zeros(len(measured))
        if total:
            factors = np.array([_factor(b, effect) for b, effect in zip(controls, measured, strict=True)])
            after = counts(controls + measured)
            measured = np.log1p(after * np.exp(-factors[:, None])) - controls
        least = np.sqrt(np.median(variance)) / 4
        most = max(2 * np.abs(measured).max(initial=0.0), 4 * least)
        sizes = np.geomspace(least, most, _N_SIZES)
        size = np.concatenate([[0.0], np.repeat(sizes, len(_REACHES))])
        reach = np.concatenate([[0.0], np.tile(_REACHES, _N_SIZES)])
        weight = np.full(len(size), 1 / len(size))
        found = cls(labels, times, contexts, measured, variance, distance, size, reach, weight, total)
        rng = np.random.default_rng(seed)
        found = replace(found, weight=found._weights(rng))
        return found if not total else replace(found, factor_sd=found._missed(factors, controls, rng))

    @classmethod
    def of_groups(
        cls,
        found: CorrectedGroups,
        level: Float[np.ndarray, "group gene"],
        profile: Float[np.ndarray, "group gene"],
        distance: Float[np.ndarray, "context context"],
        schema: Schema,
        seed: int,
    ) -> AcrossContexts | None:
        """What effects say of each other over contexts.

        Args:
            found: The groups with their corrected effects.
            level: Measured profiles.
            profile: Corrected ones.
            distance: How far the controls of contexts lie apart.
            schema: The common total of the counts.
            seed: Seed of the genes that are looked at.
        """
        control, labels = found.control, np.array(found.groups.labels, dtype=object)
        rows = np.flatnonzero((control >= 0) & (labels != found.control_label))
        if not len(rows):
            return None
        c, beside = control[rows], level - profile
        measured = found.effect[rows] + beside[rows] - beside[c]
        variance = found.sampled[rows] + found.sampled[c]
        chosen = np.isfinite(measured).all(1) & np.isfinite(variance).all(1)
        if not chosen.any():
            return None
        rows = rows[chosen]
        return cls.learnt(
            tuple(labels[rows].tolist()),
            found.groups.times[rows],
            found.groups.contexts[rows],
            measured[chosen],
            variance[chosen],
            distance,
            profile[c[chosen]],
            schema.panel_total if schema.values == "counts" else 0.0,
            seed,
        )

    def with_distance(self, distance: Float[np.ndarray, "context context"]) -> AcrossContexts:
        """The same with a further context.

        Args:
            distance: As the attribute, the new context last.
        """
        return replace(self, distance=distance)

    def times_of(self, label: str) -> list[float]:
        """The times at which a perturbation was measured in any context."""
        return sorted(
            {time for one, time in zip(self.labels, self.times.tolist(), strict=True) if one == label}
        )

    def rows(self, label: str, time: float) -> Int[np.ndarray, " row"]:
        """The measured effects of a perturbation at a time, one a context."""
        return np.flatnonzero((np.array(self.labels, dtype=object) == label) & np.isclose(self.times, time))

    def forecast(
        self, label: str, time: float, context: int, controls: Float[np.ndarray, " gene"]
    ) -> tuple[Float[np.ndarray, " gene"], Float[np.ndarray, " gene"]] | None:
        """Mean and variance of the effect in a context, from those in the others.

        Args:
            label: Perturbation.
            time: Time.
            context: Where; its own effect, if it was measured, does not count.
            controls: Profile of the controls there.

        Returns:
            None where no other context measured it.
        """
        found = self._shrunken(label, time, context)
        if found is None or not self.total:
            return found
        mean = found[0] + _composition(controls, found[0], self.total)
        slope = -np.expm1(-np.maximum(controls + mean, 0.0))  # of a profile, by the logarithm of counts
        return mean, found[1] + (slope * self.factor_sd) ** 2

    def _shrunken(
        self, label: str, time: float, context: int
    ) -> tuple[Float[np.ndarray, " gene"], Float[np.ndarray, " gene"]] | None:
        """Mean and variance of an effect without composition."""
        rows = self.rows(label, time)
        rows = rows[self.contexts[rows] != context]
        if not len(rows):
            return None
        given, y, v = self.contexts[rows], self.measured[rows].T, self.variance[rows].T
        log_weight = np.full((len(y), len(self.size)), -np.inf)
        mean, var = np.zeros(log_weight.shape), np.zeros(log_weight.shape)
        for j in np.flatnonzero(self.weight > 1e-8).tolist():
            log_weight[:, j], covariance = self._density(j, given, y, v)
            log_weight[:, j] += np.log(self.weight[j])
            k = self.size[j] ** 2 * self._likeness(j)[context, given]
            solved = np.linalg.solve(covariance, np.stack([y, np.broadcast_to(k, y.shape)], -1))
            mean[:, j] = solved[..., 0] @ k
            var[:, j] = self.size[j] ** 2 - solved[..., 1] @ k
        share = np.exp(log_weight - log_weight.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        middle = (share * mean).sum(1)
        return middle, (share * (np.maximum(var, 0.0) + mean**2)).sum(1) - middle**2

    def _missed(
        self,
        factors: Float[np.ndarray, " measured"],
        controls: Float[np.ndarray, "measured gene"],
        rng: np.random.Generator,
    ) -> float:
        """What forecasts of measured contexts, left out in turn, miss the common factor by."""
        squares = [_FACTOR_PRIOR**2]
        for i in rng.permutation(len(factors))[:_MOST_LEFT_OUT].tolist():
            found = self._shrunken(self.labels[i], float(self.times[i]), int(self.contexts[i]))
            if found is not None:
                after = counts(controls[i] + found[0]).sum()
                squares.append((factors[i] - np.log(self.total / max(after, _LEAST_COUNT))) ** 2)
        return float(np.sqrt(np.mean(squares)))

    def _likeness(self, j: int) -> Float[np.ndarray, "context context"]:
        """R of a component."""
        if self.reach[j] == 0:
            return np.eye(len(self.distance))
        return np.asarray(np.exp(-self.distance / self.reach[j]))

    def _density(
        self,
        j: int,
        given: Int[np.ndarray, " context"],
        y: Float[np.ndarray, "row context"],
        v: Float[np.ndarray, "row context"],
    ) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, "row context context"]]:
        """Log-density of effects under a component, and their covariance."""
        covariance = self.size[j] ** 2 * self._likeness(j)[np.ix_(given, given)] + v[..., None] * np.eye(
            len(given)
        )
        root = np.linalg.cholesky(covariance)
        scaled = np.linalg.solve(root, y[..., None])[..., 0]
        log_scale = np.log(np.diagonal(root, axis1=-2, axis2=-1)).sum(-1)
        return -0.5 * (scaled**2).sum(-1) - log_scale, covariance

    def _weights(self, rng: np.random.Generator) -> Float[np.ndarray, " component"]:
        """The weights by expectation maximisation, over genes of perturbations."""
        n_genes, tables = self.measured.shape[1], []
        asked = sorted({(label, time) for label, time in zip(self.labels, self.times.tolist(), strict=True)})
        share = min(1.0, _MOST_ROWS / max(1, len(asked) * n_genes))
        for label, time in asked:
            rows = self.rows(label, time)
            chosen = np.flatnonzero(rng.random(n_genes) < share)
            if not len(chosen):
                continue
            y, v = (one[np.ix_(rows, chosen)].T for one in (self.measured, self.variance))
            known = [self._density(j, self.contexts[rows], y, v)[0] for j in range(len(self.size))]
            tables.append(np.stack(known, 1))
        density = np.concatenate(tables)
        density = np.exp(density - density.max(1, keepdims=True))
        weight, prior = self.weight, np.zeros(len(self.size))
        prior[0] = _OF_NOTHING
        for _ in range(_STEPS):
            share_of = density * weight
            share_of /= share_of.sum(1, keepdims=True)
            weight = (share_of.sum(0) + prior) / (len(density) + _OF_NOTHING)
        return np.asarray(weight)

    def to_dataset(self, gene: Mapping[str, Any]) -> xr.Dataset:
        """The values with names of their axes."""
        rows, pair = ("measured_effect", "gene"), ("context", "other_context")
        return xr.Dataset(
            {
                "measured": (rows, self.measured),
                "measured_variance": (rows, self.variance),
                "control_distance": (pair, self.distance),
                "component_size": ("component", self.size),
                "component_reach": ("component", self.reach),
                "component_weight": ("component", self.weight),
                "common_total": self.total,
                "factor_sd": self.factor_sd,
            },
            coords={
                "measured_perturbation": ("measured_effect", np.array(self.labels, dtype=object).astype(str)),
                "measured_time": ("measured_effect", self.times),
                "measured_context": ("measured_effect", self.contexts),
                **gene,
            },
        )

    @classmethod
    def from_dataset(cls, found: xr.Dataset) -> AcrossContexts | None:
        """What :meth:`to_dataset` wrote; None where there is nothing of it."""
        if "component_weight" not in found:
            return None
        names = ("measured_time", "measured_context", "measured", "measured_variance", "control_distance")
        components = ("component_size", "component_reach", "component_weight")
        values: list[Any] = [found[name].to_numpy() for name in (*names, *components)]
        values += [float(found["common_total"]), float(found["factor_sd"])]
        return cls(tuple(map(str, found.measured_perturbation.to_numpy())), *values)


def _factor(controls: Float[np.ndarray, " gene"], effect: Float[np.ndarray, " gene"]) -> float:
    """kappa, the logarithm of the factor that genes share."""
    before, after = counts(controls), counts(controls + effect)
    ratio = np.log(after + _LEAST_COUNT) - np.log(before + _LEAST_COUNT)
    order = np.argsort(ratio)
    weight = np.cumsum((before / (1 + before))[order] ** 2)
    return float(ratio[order][np.searchsorted(weight, weight[-1] / 2)]) if weight[-1] > 0 else 0.0


def _composition(
    controls: Float[np.ndarray, " gene"], effect: Float[np.ndarray, " gene"], total: float
) -> Float[np.ndarray, " gene"]:
    """What an effect gains where its counts, none below zero, are brought to the total."""
    after = counts(controls + effect)
    return np.asarray(np.log1p(after * (total / max(after.sum(), _LEAST_COUNT))) - controls - effect)
