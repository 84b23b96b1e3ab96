"""Counterfactuals: abduct what a control cell is, act by another schedule, predict by the same program."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
import xarray as xr
from jaxtyping import Float
from pyro import poutine
from pyro.poutine.messenger import Messenger
from scipy import sparse
from torch import Tensor

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.anndata_io import predictions
from pyro_citevae.data.interventions import Schedule, do
from pyro_citevae.data.pseudobulk import level, profile
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.trajectories import Batch, Trajectories
from pyro_citevae.errors import CiteVAEWarning, DataError
from pyro_citevae.infer.exchangeability import global_draws
from pyro_citevae.infer.progress import appearing
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.program import LatentDynamics, Rollout

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "Abduction",
    "Effect",
    "PredictedCells",
    "RollOut",
    "Substitute",
    "global_draws",
    "control_error",
]

_MOST_VALUES = 20_000_000  # draws x times x cells x genes that are held at once, for given cells
_MOST_OF_POPULATION = 30_000_000  # the same, for a population; a chunk has a random stream of its own
_MOST_GROUPS = 50  # that show the error of the controls
_ENOUGH_DRAWS = 50  # for the mean of their effects, whose own spread is small beside the groups' noise
_POPULATION = 256
_CHAINS_APART = 1_000_003  # between the seeds of two members


class Effect(xr.DataArray):
    """Paired draws of an effect, an ``xarray.DataArray`` with (chain, draw, perturbation, time, gene)."""

    __slots__ = ()

    @classmethod
    def of(
        cls,
        values: Float[np.ndarray, "chain draw perturbation time gene"],
        schedules: Sequence[Schedule],
        times: Sequence[float],
        schema: Schema,
        versus: Schedule,
    ) -> Effect:
        """Names the axes of the draws."""
        return cls(
            values,
            dims=("chain", "draw", "perturbation", "time", "gene"),
            coords={
                "chain": np.arange(values.shape[0]),
                "draw": np.arange(values.shape[1]),
                "perturbation": [one.label(schema.control) for one in schedules],
                "time": list(times),
                "gene": list(schema.genes),
            },
            name="effect",
            attrs={"versus": versus.label(schema.control), "unit": "log(1 + count)"},
        )

    def interval(self, probability: float = 0.9) -> xr.DataArray:
        """Equal-tailed credible interval over chains and draws.

        Args:
            probability: Mass inside the interval.

        Returns:
            Dims (bound, ...), where ``bound`` is ``"lower"`` or ``"upper"``.
        """
        tail = (1 - probability) / 2
        bounds = xr.DataArray(self).quantile([tail, 1 - tail], dim=("chain", "draw"))
        return bounds.rename(quantile="bound").assign_coords(bound=["lower", "upper"])


@dataclass(frozen=True)
class PredictedCells:
    """Predicted cells, a row for each schedule, time and source cell, with summaries over draws.

    Attributes:
        draw: One draw of integer counts.
        layers: ``mean``, ``sd``, ``q05`` and ``q95`` over the draws.
        schedule: Position of each row's schedule.
        time: Position of each row's time.
        cell: Position of each row's source cell.
    """

    draw: sparse.csr_matrix
    layers: dict[str, np.ndarray]
    schedule: np.ndarray
    time: np.ndarray
    cell: np.ndarray

    def to_anndata(
        self, schedules: Sequence[Schedule], times: Sequence[float], cells: Trajectories, **uns: Any
    ) -> AnnData:
        """The cells under their labels, times and the names of their source cells."""
        schema = cells.schema
        labels = np.array([one.label(schema.control) for one in schedules], dtype=object)
        obs = {
            "perturbation": labels[self.schedule],
            "time": np.array(times)[self.time],
            "source_cell": cells.names[self.cell].astype(str),
        }
        return predictions(self.draw, self.layers, obs, schema.genes, uns | {"time_unit": schema.time_unit})


class Substitute(Messenger):
    """Gives sites fixed values; what is not named is drawn, and counts stand at their mean unless asked."""

    def __init__(self, values: dict[str, Tensor], *, mean: bool) -> None:
        super().__init__()
        self.values, self.mean = values, mean

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        if message["name"] in self.values:
            message["value"], message["done"] = self.values[message["name"]], True
        elif message["name"] == "x" and self.mean:
            message["value"], message["done"] = message["fn"].mean.detach(), True


@dataclass(frozen=True)
class Abduction:
    """What is held fixed under every schedule: the mechanism, and each cell's s and z_0.

    Attributes:
        values: Values of the fixed sites over draws.
        cells: The cells, with their library sizes and technical batches.
        n_draws: Number of draws.
        seed: Seed of the transition noise, shared by all schedules.
    """

    values: dict[str, Tensor]
    cells: Batch
    n_draws: int
    seed: int

    @classmethod
    def of(
        cls, guide: AmortizedGuide, cells: Batch, mechanism: dict[str, Tensor], n_draws: int, seed: int
    ) -> Abduction:
        """Draws s and z_0 of observed control cells from the guide."""
        with torch.no_grad(), Substitute(mechanism, mean=False), pyro.plate("draw", n_draws, dim=-3):
            trace = poutine.trace(guide).get_trace(cells)
        local: dict[str, Any] = {
            name: trace.nodes[name]["value"] for name in ("s", "z_0") if name in trace.nodes
        }
        return cls({**mechanism, **local}, cells, n_draws, seed)

    @classmethod
    def of_population(
        cls, schema: Schema, part: range, mechanism: dict[str, Tensor], n_draws: int, seed: int
    ) -> Abduction:
        """Leaves s and z_0 to their prior: part of a population of cells of median library size."""
        n = len(part)
        cells = Batch(
            size=n,
            index=torch.arange(n),
            u=torch.zeros(1, n, schema.n_tokens),
            step=torch.zeros(1, n, dtype=torch.int64),
            observed=torch.zeros(1, n, dtype=torch.bool),
            library=torch.full((1, n), float(schema.total)),
            technical=torch.arange(part.start, part.stop) % schema.n_batches,
            x=None,
        )
        return cls(mechanism, cells, n_draws, seed)


@dataclass(frozen=True)
class RollOut:
    """Runs the program forward under schedules, for the same abducted cells and the same noise.

    Attributes:
        members: The programs, each with its guide for the abduction; one chain each.
        schedules: Schedules to act by.
        times: Times to predict, in the schema's unit.
        n_draws: Number of draws of each member's mechanism, and of each cell's states.
        seed: Seed of every draw.
        progress: Whether to show a bar when it takes long.
    """

    members: Sequence[tuple[LatentDynamics, AmortizedGuide]]
    schedules: Sequence[Schedule]
    times: Sequence[float]
    n_draws: int
    seed: int
    progress: bool = False

    def __post_init__(self) -> None:
        model = self.members[0][0]
        known = (model.seen | model.informed).tolist()
        for one in self.schedules:
            for token in self.schema.require(one).tokens:
                if not known[self.schema.token_index[token]]:
                    warnings.warn(
                        f"do({token!r}) has neither training cells nor features, so that it is predicted as "
                        "one more of the other perturbations, with a wide interval; make the model with "
                        "features= of it.",
                        CiteVAEWarning,
                        stacklevel=4,
                    )

    @property
    def schema(self) -> Schema:
        """Names and sizes of the axes."""
        return self.members[0][0].schema

    def run(
        self, model: LatentDynamics, abduction: Abduction, schedule: Schedule, *, mean: bool
    ) -> tuple[Rollout, Tensor]:
        """One roll-out: what the program walked through, and the values at the times."""
        schema = self.schema
        steps = torch.tensor([schema.step_of(time) for time in self.times])
        n = abduction.cells.n_cells
        u = torch.from_numpy(schema.doses(schedule, int(steps.max())))
        cells = replace(
            abduction.cells.unobserved(),
            size=n,
            index=torch.arange(n),
            u=u[:, None].expand(-1, n, -1),
            step=steps[:, None].expand(-1, n),
            observed=torch.zeros(len(steps), n, dtype=torch.bool),
            library=abduction.cells.library[-1:].expand(len(steps), n),
        ).to(model._like.device)
        with (
            seeded(abduction.seed),
            torch.no_grad(),
            Substitute(abduction.values, mean=mean),
            pyro.plate("draw", self.n_draws, dim=-3),
            poutine.trace() as tracer,
        ):
            walked = model(cells)
        x: Any = tracer.trace.nodes["x"]["value"]
        return walked, x

    def abductions(self, chain: int, controls: Trajectories | None) -> Iterator[Abduction]:
        """A member's abducted cells, in chunks that fit in memory, with the same draws of the mechanism."""
        model, guide = self.members[chain]
        seed = self.seed + chain * _CHAINS_APART
        with seeded(seed):
            mechanism = global_draws(guide, self.n_draws)
        for part in self._parts(controls):
            own = seed + part.start
            if controls is None:
                yield Abduction.of_population(self.schema, part, mechanism, self.n_draws, own)
                continue
            chunk = controls.batch(np.arange(part.start, part.stop)).to(model._like.device)
            with seeded(own):
                abducted = Abduction.of(guide, chunk, mechanism, self.n_draws, own)
            yield abducted

    def _parts(self, controls: Trajectories | None) -> list[range]:
        """Positions of the cells of each chunk."""
        a_cell = self.n_draws * len(self.times) * self.schema.n_genes
        if controls is None:
            n, size = _POPULATION, _MOST_OF_POPULATION // a_cell
        else:
            n, size = controls.n_cells, _MOST_VALUES // (len(self.members) * a_cell)
        size = max(1, size)
        return [range(first, min(first + size, n)) for first in range(0, n, size)]

    def _bar(self, controls: Trajectories | None) -> AbstractContextManager[Callable[[], None]]:
        """A bar with a step for each roll-out of a member."""
        total = len(self.members) * len(self._parts(controls)) * len(self.schedules)
        return appearing("predicting", total, shown=self.progress)

    def pseudobulk(self, controls: Trajectories | None) -> Float[np.ndarray, "schedule chain draw time gene"]:
        """Log pseudobulk profile of the cells' mean counts, for each draw of the mechanism."""
        shape = (len(self.members), self.n_draws, len(self.times), self.schema.n_genes)
        sums = np.zeros((len(self.schedules), *shape))
        with self._bar(controls) as advance:
            for chain, (model, _) in enumerate(self.members):
                for abduction in self.abductions(chain, controls):
                    for p, schedule in enumerate(self.schedules):
                        sums[p, chain] += (
                            self.run(model, abduction, schedule, mean=True)[1].sum(-2).cpu().numpy()
                        )
                        advance()
        if self.schema.values == "real":
            n = _POPULATION if controls is None else controls.n_cells
            return sums / n
        return profile(sums, self.schema.panel_total)

    def programs(
        self, controls: Trajectories | None
    ) -> Float[np.ndarray, "schedule chain draw step program"]:
        """Mean state of the programs over the cells, at every step from 0, for each draw."""
        n = _POPULATION if controls is None else controls.n_cells
        chains = []
        for chain, (model, _) in enumerate(self.members):
            total: np.ndarray | float = 0.0
            for abduction in self.abductions(chain, controls):
                walks = [self.run(model, abduction, one, mean=True)[0].z for one in self.schedules]
                summed = [[state.sum(-2)[:, 0].cpu().numpy() for state in z] for z in walks]
                total = total + np.stack([np.stack(walk, axis=1) for walk in summed])
            chains.append(np.asarray(total) / n)
        return np.stack(chains, axis=1)

    def cells(self, controls: Trajectories) -> PredictedCells:
        """Counts of every control cell under every schedule at every time, summarised over all draws.

        The draws of a chunk of cells under one schedule are held at a time, and only their summaries kept.
        """
        P, T, n = len(self.schedules), len(self.times), controls.n_cells
        layers: dict[str, np.ndarray] = {}
        drawn: dict[tuple[int, int], list[sparse.csr_matrix]] = {}
        members = [self.abductions(chain, controls) for chain in range(len(self.members))]
        with self._bar(controls) as advance:
            for part, *chunk in zip(self._parts(controls), *members, strict=True):
                for p, schedule in enumerate(self.schedules):
                    draw, summaries = self._summarised(chunk, schedule, advance)
                    for name, value in summaries.items():
                        if name not in layers:
                            layers[name] = np.empty((P, T, n, self.schema.n_genes), dtype=value.dtype)
                        layers[name][p, :, part.start : part.stop] = value
                    for t, counts in enumerate(draw):
                        drawn.setdefault((p, t), []).append(sparse.csr_matrix(counts))
        rows = [one for key in sorted(drawn) for one in drawn[key]]
        flat = {name: value.reshape(P * T * n, -1) for name, value in layers.items()}
        return PredictedCells(sparse.vstack(rows, format="csr"), flat, *np.indices((P, T, n)).reshape(3, -1))

    def _summarised(
        self, chunk: Sequence[Abduction], schedule: Schedule, advance: Callable[[], None]
    ) -> tuple[Float[np.ndarray, "time cell gene"], dict[str, Float[np.ndarray, "time cell gene"]]]:
        """One draw of a chunk of cells, and summaries over the draws of all members together."""
        drawn, means = [], []
        for (model, _), abduction in zip(self.members, chunk, strict=True):
            walked, x = self.run(model, abduction, schedule, mean=False)
            means.append(walked.emission.mean.mean(0))
            drawn.append(x)
            del walked  # the law of every draw, as large as the draws
            advance()
        x = torch.cat(drawn) if len(drawn) > 1 else drawn[0]
        drawn.clear()
        summaries = {"mean": torch.stack(means).mean(0), "sd": x.std(0, correction=0)}
        made = {name: value.detach().cpu().numpy() for name, value in summaries.items()}
        values = x.detach().cpu().numpy()
        return values[0].copy(), made | dict(zip(("q05", "q95"), _quantiles(values), strict=True))


def control_error(
    roll: RollOut, measured: Trajectories, cells: Trajectories | None
) -> Float[np.ndarray, "time gene"]:
    r"""How far measured controls lie from where all measured groups of their time put them.

    ::

        L = sum_g n_g (b_g - delta_g) / sum_g n_g        error = b_control - L

    over the groups g of n_g cells, the control with delta = 0 among them, where b is measured and delta the
    mean of the modelled effect. Every effect that is measured against these controls has their sampling error
    in it, with the opposite sign; one group tells it from its own, many groups together do.

    Args:
        roll: Members, times and draws of the effects that are forecast.
        measured: Cells of the model's training, controls of these times among them.
        cells: Control cells to act on, or None for a population.

    Raises:
        DataError: The cells are of another panel, or there is no control of a time.
    """
    schema, control = roll.schema, roll.schema.control
    _require_panel(measured, schema, "effect(versus=...)")
    groups = [measured.select(time=time) for time in roll.times]
    references = [now.select(control) for now in groups]
    for time, controls in zip(roll.times, references, strict=True):
        if controls.n_observations == 0:
            raise DataError(f"effect(versus=...) has no control at time {time:g}; give some of that time.")
    asked = np.isin(measured.row_times, roll.times) & (measured.row_labels != control)
    labels, counts = np.unique(measured.row_labels[asked].astype(str), return_counts=True)
    labels = labels[np.argsort(-counts, kind="stable")][:_MOST_GROUPS]
    error = np.zeros((len(roll.times), schema.n_genes))
    if not len(labels):
        return error
    acted = [Schedule.parse(label, control) for label in labels.tolist()]
    fewer = replace(roll, schedules=[*acted, do()], n_draws=min(roll.n_draws, _ENOUGH_DRAWS))
    made = fewer.pseudobulk(cells).mean((1, 2))
    for k, (now, controls) in enumerate(zip(groups, references, strict=True)):
        b, n = level(controls), controls.n_observations
        for label, delta in zip(labels.tolist(), made[:-1, k] - made[-1, k], strict=True):
            group = now.select(label)
            if group.n_observations:
                error[k] -= group.n_observations * (level(group) - b - delta)
                n += group.n_observations
        error[k] /= n
    return error


def _quantiles(x: Float[np.ndarray, "draw ..."]) -> Float[np.ndarray, "2 ..."]:
    """5 % and 95 % quantiles over the first axis, which NumPy sorts ten times faster than torch does."""
    ordered = np.sort(x, axis=0)
    position = np.array([0.05, 0.95], dtype=np.float32) * np.float32(len(x) - 1)
    below, above = np.floor(position).astype(int), np.ceil(position).astype(int)
    weight = (position - below).astype(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
    tails: np.ndarray = ordered[below] * (1 - weight) + ordered[above] * weight
    return tails


def schedules_of(given: Schedule | Sequence[Schedule]) -> list[Schedule]:
    """One schedule or several, as a list."""
    return [given] if isinstance(given, Schedule) else list(given)


def times_of(given: float | Sequence[float] | None, schema: Schema) -> list[float]:
    """One time, several, or the schema's last, as a list.

    Raises:
        DataError: A time is not on the grid or not after step 0.
    """
    if given is None:
        return [schema.times[-1]]
    times = [float(given)] if isinstance(given, (int, float)) else [float(time) for time in given]
    for time in times:
        if schema.step_of(time) < 1:
            raise DataError(f"time {time:g} is not after the start of the dynamics; predict a later one.")
    return times


def _require_panel(cells: Trajectories, schema: Schema, said: str) -> None:
    """Refuses cells of other genes or tokens; ``said`` is the public expression that gave them."""
    if cells.schema.genes != schema.genes or cells.schema.tokens != schema.tokens:
        raise DataError(f"{said} has other genes or tokens than the model; read it with schema=.")


def require_controls(cells: Trajectories, schema: Schema) -> Trajectories:
    """Returns the cells if none was perturbed.

    Raises:
        DataError: A cell is perturbed, or the cells are of another panel.
    """
    _require_panel(cells, schema, "predict(cells=...)")
    if cells.n_cells == 0:
        raise DataError("predict(cells=...) is empty; give control cells.")
    wrong = cells.labels != schema.control
    if wrong.any():
        raise DataError(
            f"predict(cells=...) holds cells of '{cells.labels[wrong][0]}'; abduction takes control "
            "cells only, so pass data.controls()."
        )
    return cells
