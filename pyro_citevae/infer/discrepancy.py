"""The discrepancy between a program and its cells, learnt from cells that the fit has not seen."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any, final

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int

from pyro_citevae.data.groups import Groups, grouped
from pyro_citevae.data.pseudobulk import level
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError
from pyro_citevae.hdf5_files import netcdf
from pyro_citevae.infer.across_contexts import AcrossContexts
from pyro_citevae.infer.asked import require_panel
from pyro_citevae.infer.discrepancy_scales import Scales
from pyro_citevae.infer.held_out import HeldOut
from pyro_citevae.infer.left_out import CorrectedGroups, LeftOut
from pyro_citevae.infer.program_levels import Members, program_levels

__all__ = ["Discrepancy", "Scales"]

_FEWEST_GROUPS = 3
_MOST_VALUES = 20_000_000  # groups x genes that are held
_DRAWS = 20
_OF_GROUPS = ("shift", "sd", "profile", "effect")


@final
@dataclass(frozen=True)
class _Beside:
    """A program beside its groups.

    Attributes:
        m: The program's profiles in the groups' own batches, what all groups miss added.
        population: Its profiles on the population.
        y: Profiles of the cells.
        v: Their sampling variances.
        n: Cells of each group.
    """

    m: Float[np.ndarray, "group gene"]
    population: Float[np.ndarray, "group gene"]
    y: Float[np.ndarray, "group gene"]
    v: Float[np.ndarray, "group gene"]
    n: Float[np.ndarray, " group"]

    @classmethod
    def of(cls, members: Members, data: Trajectories, groups: Groups, seed: int) -> _Beside:
        own, population = program_levels(members, data, groups, _DRAWS, seed)
        m = own + _common(groups.level - own, groups)
        return cls(m, population, groups.level, groups.variance(m, groups), groups.n)

    def noise(self, both: Bool[np.ndarray, " group"]) -> Float[np.ndarray, "group gene"]:
        """Log of a cell's sampling variance, its mean over some groups subtracted."""
        found = np.log(self.v * self.n[:, None])
        return np.asarray(found - found[both].mean())

    def posterior(
        self, scales: Scales, alpha: Float[np.ndarray, "group gene"], of_fit: Groups
    ) -> tuple[Float[np.ndarray, "group gene"], Float[np.ndarray, "group gene"]]:
        """Mean of lambda less m, and standard deviation of lambda.

        Args:
            scales: The hyperparameters.
            alpha: Variance of the structural errors.
            of_fit: The cells that the program was fitted to.
        """
        kappa = scales.kappa(of_fit)
        freed, structural = (self.m - kappa * of_fit.level) / (1 - kappa), alpha / (1 - kappa) ** 2
        weight = structural / (structural + self.v)  # of the cells
        return (1 - weight) * freed + weight * self.y - self.m, np.sqrt(weight * self.v)


@final
@dataclass(frozen=True)
class Discrepancy:
    r"""Where the groups of a screen lie, beside where a program puts them.

    Let lambda be the true profile of group p at a time, y that of its measured cells, and m the program's,
    which was fitted to a part of these cells (a) and has not seen the others (b)::

        y_pg = lambda_pg + eps_pg                         eps ~ N(0, v_pg), from the cells' scatter
        m_pg = lambda_pg + D_pg + kappa eps^a_pg          D ~ N(0, alpha_pg),  alpha_pg = size * noise_pg^nu

    D is structural: too few programs, a decoder that bends wrongly, an effect that is shrunk. ``kappa`` says
    which share of its training cells' noise the program takes for signal. Both are learnt from the held-out
    cells, where ``(m - y^b, y^a - y^b)`` are normal with known sampling variances, by maximum a posteriori;
    the posterior of lambda is then a precision-weighted mean of the program, freed of that noise, and of all
    cells::

        m' = (m - kappa y^a) / (1 - kappa)                v' = alpha / (1 - kappa)^2
        lambda | m, y ~ N((m'/v' + y/v) / (1/v' + 1/v),  1 / (1/v' + 1/v))

    A group with many cells is believed to be where they are, and one with few where the program puts it. What
    all groups of a time miss alike (the population from which effects are taken is not these cells) is
    subtracted first: it cancels in effects.

    Attributes:
        schema: Names of the genes.
        labels: Perturbation of each group.
        times: Time of each group.
        contexts: Context of each group.
        shift: Posterior mean of lambda less the program's profile, what all groups miss left out.
        sd: Posterior standard deviation of lambda.
        profile: Posterior mean of lambda itself, in the batches of the group's own cells.
        effect: Posterior mean of the effect against the control of the same time, on the population.
        spread: Square root of alpha, for each gene, of a group without cells.
        scales: The hyperparameters.
        left_out: How well tokens and pairs are forecast when they are left out.
        held_out: How the program lies beside the held-out cells.
        across: What effects in other contexts say of one; None where the data name none.
        part_of: Of which, with all genes, this is a part, and its genes; None where it is whole.

    Source: M. C. Kennedy and A. O'Hagan, Bayesian Calibration of Computer Models (2001); R. DerSimonian and
    N. Laird, Meta-Analysis in Clinical Trials (1986).
    """

    schema: Schema
    labels: tuple[str, ...]
    times: Float[np.ndarray, " group"]
    contexts: Int[np.ndarray, " group"]
    shift: Float[np.ndarray, "group gene"]
    sd: Float[np.ndarray, "group gene"]
    profile: Float[np.ndarray, "group gene"]
    effect: Float[np.ndarray, "group gene"]
    spread: Float[np.ndarray, " gene"]
    scales: Scales
    left_out: LeftOut
    held_out: HeldOut
    across: AcrossContexts | None = None
    part_of: tuple[Discrepancy, Int[np.ndarray, " kept"]] | None = None

    @staticmethod
    def is_too_large(data: Trajectories) -> bool:
        """Whether there are more groups and genes than can be held."""
        return len(grouped(data)[0]) * data.schema.n_genes > _MOST_VALUES

    @classmethod
    def learnt(
        cls,
        members: Members,
        data: Trajectories,
        held_out: Bool[np.ndarray, " observation"],
        seed: int = 0,
        ended: Members | None = None,
    ) -> Discrepancy | None:
        """Learns it from what the program says of groups, and from their cells.

        Args:
            members: The fitted program with its guide.
            data: All cells, those that the fit has not seen among them.
            held_out: Observations that the fit has not seen.
            seed: Seed of the program's draws.
            ended: The program after it has seen all cells; None if it has not.

        Returns:
            None where it cannot be learnt: fewer than three groups have cells on both sides, or there are too
            many groups and genes to be held.
        """
        if data.schema.image or cls.is_too_large(data):
            return None
        seen, unseen = Groups.of(data, ~held_out), Groups.of(data, held_out)
        both = (seen.n > 1) & (unseen.n > 1)
        if both.sum() < _FEWEST_GROUPS:
            return None
        whole, control = seen + unseen, _control_of(seen, data.schema.control)
        first = _Beside.of(members, data, whole, seed)
        y_a, v_a = seen.level, seen.variance(first.m, whole)
        y_b, v_b = unseen.level, unseen.variance(first.m, whole)
        noise = first.noise(both)
        scales = Scales.learnt((first.m - y_b)[both], (y_a - y_b)[both], v_a[both], v_b[both], noise[both])
        typical = float(np.exp(np.log(v_a[both]).mean()))
        alpha = scales.alpha(typical, noise)
        expected = alpha + scales.kappa(seen) ** 2 * v_a + v_b
        says = HeldOut.of(first.m, y_a, y_b, v_a, v_b, expected, control, both)
        last, of_fit = first, seen
        if ended is not None:
            last, of_fit = _Beside.of(ended, data, whole, seed), whole
            alpha = scales.alpha(typical, last.noise(both))
        shift, sd = last.posterior(scales, alpha, of_fit)
        effect = last.population + shift
        effect = np.where(control[:, None] >= 0, effect - effect[control], effect * np.nan)
        spread = np.sqrt(alpha.mean(0))
        schedules = {one.label(data.schema.control): one for one in data.conditions}
        found = CorrectedGroups(
            groups=whole,
            schedules=schedules,
            control_label=data.schema.control,
            control=control,
            population=last.population,
            shift=shift,
            sd=sd,
            sampled=last.v,
            effect=effect,
            spread=spread,
        )
        across = None
        if data.schema.contexts:  # one, too: others may be added
            model = (ended or members)[0][0]
            distance = (model.context_distance / model.context_unit).numpy(force=True).astype(float)
            across = AcrossContexts.of_groups(found, whole.level, last.m + shift, distance, data.schema, seed)
        return cls(
            schema=data.schema,
            labels=whole.labels,
            times=whole.times,
            contexts=whole.contexts,
            shift=shift,
            sd=sd,
            profile=last.m + shift,
            effect=effect,
            spread=spread,
            scales=scales,
            left_out=LeftOut.learnt(ended or members, data, found, seed),
            held_out=says,
            across=across,
        )

    @cached_property
    def _of_label(self) -> dict[tuple[str, int], list[tuple[float, int]]]:
        """Times and groups of each label in each context, in the order of times."""
        found: dict[tuple[str, int], list[tuple[float, int]]] = {}
        for i in np.argsort(self.times, kind="stable").tolist():
            key = self.labels[i], int(self.contexts[i])
            found.setdefault(key, []).append((float(self.times[i]), i))
        return found

    def position(self, label: str, time: float, context: int = 0) -> int | None:
        """The group of a label at a time in a context; None if it has no cells."""
        groups = self._of_label.get((label, context), ())
        return next((i for at, i in groups if np.isclose(at, time)), None)

    def times_of(self, label: str, context: int = 0) -> list[float]:
        """The times at which a label has cells in a context, in their order."""
        return [at for at, _ in self._of_label.get((label, context), ())]

    def on(self, genes: Int[np.ndarray, " kept"] | slice) -> Discrepancy:
        """The same of some genes."""
        if isinstance(genes, slice):
            return self
        schema = replace(self.schema, genes=tuple(self.schema.genes[g] for g in genes), image=())
        of_groups = {name: getattr(self, name)[:, genes] for name in _OF_GROUPS}
        left_out = self.left_out.on(genes)
        spread = self.spread[genes]
        return replace(
            self, schema=schema, spread=spread, left_out=left_out, part_of=(self, genes), **of_groups
        )

    def in_context(
        self, label: str, time: float, context: int
    ) -> tuple[Float[np.ndarray, " gene"], Float[np.ndarray, " gene"]] | None:
        """Mean and variance of an effect by what it is in the other contexts; None where it is in none.

        Args:
            label: Perturbation.
            time: Time; the nearest at which another context measured it counts.
            context: Where.
        """
        if self.part_of is not None:  # shares are of all genes
            whole, genes = self.part_of
            found = whole.in_context(label, time, context)
            return None if found is None else (found[0][genes], found[1][genes])
        times = [] if self.across is None else self.across.times_of(label)
        c = self.position(self.schema.control, time, context)
        if self.across is None or not times or c is None:
            return None
        near = min(times, key=lambda one: abs(one - time))
        return self.across.forecast(label, near, context, self.profile[c])

    def with_contexts(self, members: Members, controls: Trajectories, seed: int = 0) -> Discrepancy:
        """The same with further contexts, of which controls alone are known.

        Args:
            members: The program that knows the contexts, with its guide.
            controls: Their controls.
            seed: Seed of the program's draws.
        """
        model, groups = members[0][0], Groups.of(controls)
        beside = _Beside.of(members, controls, groups, seed)
        alpha = np.broadcast_to(self.spread**2, beside.m.shape)
        shift, sd = beside.posterior(self.scales, alpha, groups)
        effect, profile = np.zeros_like(shift), beside.m + shift
        added = {"shift": shift, "sd": sd, "profile": profile, "effect": effect}
        of_groups: dict[str, Any] = {
            name: np.concatenate([getattr(self, name), value]) for name, value in added.items()
        }
        distance = (model.context_distance / model.context_unit).numpy(force=True).astype(float)
        return replace(
            self,
            schema=model.schema,
            labels=(*self.labels, *groups.labels),
            times=np.concatenate([self.times, groups.times]),
            contexts=np.concatenate([self.contexts, groups.contexts]),
            across=None if self.across is None else self.across.with_distance(distance),
            **of_groups,
        )

    def error_of(
        self, measured: Trajectories, times: Sequence[float], schema: Schema, context: int = 0
    ) -> Float[np.ndarray, "time gene"]:
        """Sampling error of measured controls: how far they lie from the posterior mean of where they are.

        Args:
            measured: Cells, controls of these times among them.
            times: The times.
            schema: Genes and common total of the profiles.
            context: Context of the controls.

        Raises:
            DataError: The cells are of another panel, or there is no control of a time.
        """
        require_panel(measured, schema, "effect(versus=...)")
        error = np.zeros((len(times), schema.n_genes))
        for k, time in enumerate(times):
            where = schema.contexts[context] if schema.contexts else None
            controls = measured.select(schema.control, time, where)
            known = self.position(schema.control, time, context)
            if controls.n_observations == 0 or known is None:
                raise DataError(
                    f"effect(versus=...) has no control at time {time:g} that the fit has seen; give the "
                    "cells of the fit, and times at which they have controls."
                )
            error[k] = level(controls) - self.profile[known]
        return error

    def to_dataset(self) -> xr.Dataset:
        """The values with names of their axes, for the export and the run's folder."""
        group, gene = ("group", "gene"), {"gene": list(self.schema.genes)}
        values = {name: (group, getattr(self, name)) for name in _OF_GROUPS}
        coords = {
            "perturbation": ("group", np.array(self.labels, dtype=object).astype(str)),
            "time": ("group", self.times),
        }
        if self.schema.contexts:
            coords["context_of_group"] = ("group", self.contexts)
        made = xr.Dataset({**values, "spread": ("gene", self.spread)}, coords={**coords, **gene})
        if self.across is not None:
            made = made.merge(self.across.to_dataset(gene))
        return made.merge(self.left_out.to_dataset(gene)).assign_attrs(
            asdict(self.scales) | asdict(self.held_out)
        )

    @classmethod
    def from_dataset(cls, found: xr.Dataset, schema: Schema) -> Discrepancy:
        """What :meth:`to_dataset` wrote."""
        values: dict[str, Any] = {name: found[name].to_numpy() for name in (*_OF_GROUPS, "spread")}
        n_groups = found.sizes["group"]
        numbers = {name: float(value) for name, value in found.attrs.items() if name in _NUMBERS}
        return cls(
            schema,
            tuple(map(str, found.perturbation.to_numpy())),
            found.time.to_numpy(),
            found["context_of_group"].to_numpy() if "context_of_group" in found else np.zeros(n_groups, int),
            **values,
            scales=Scales(**{one.name: numbers[one.name] for one in fields(Scales)}),
            left_out=LeftOut.from_dataset(found),
            held_out=HeldOut(**{one.name: numbers[one.name] for one in fields(HeldOut)}),
            across=AcrossContexts.from_dataset(found),
        )

    def to_netcdf(self) -> bytes:
        """:meth:`to_dataset` as the content of a netCDF file."""
        return netcdf(self.to_dataset())

    @classmethod
    def from_netcdf(cls, content: bytes, schema: Schema) -> Discrepancy:
        """Reads what :meth:`to_netcdf` gave.

        Raises:
            OSError: The content cannot be read.
            KeyError: It holds something else.
            ValueError: It is of other genes.
        """
        with xr.open_dataset(io.BytesIO(content), engine="h5netcdf") as found:
            if tuple(map(str, found["gene"].to_numpy())) != schema.genes:
                raise ValueError("the discrepancy is of other genes")
            return cls.from_dataset(found.load(), schema)


_NUMBERS = {one.name for kind in (Scales, HeldOut) for one in fields(kind)}


def _common(missed: Float[np.ndarray, "group gene"], groups: Groups) -> Float[np.ndarray, "group gene"]:
    """What all groups of a time and context are missed by, in the mean over their cells."""
    found = np.zeros_like(missed)
    for time, context in set(zip(groups.times.tolist(), groups.contexts.tolist(), strict=True)):
        now = (groups.times == time) & (groups.contexts == context)
        weight = groups.n[now] / groups.n[now].sum()
        found[now] = weight @ missed[now]
    return found


def _control_of(groups: Groups, control: str) -> Int[np.ndarray, " group"]:
    """The group of the controls of each group's time and context; -1 where there is none."""
    where = list(zip(groups.times.tolist(), groups.contexts.tolist(), strict=True))
    at = {key: i for i, (label, key) in enumerate(zip(groups.labels, where, strict=True)) if label == control}
    return np.array([at.get(key, -1) for key in where])
