"""Counterfactuals: abduct what a control cell is, act by another schedule, predict by the same program."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from scipy import sparse
from torch import Tensor

from pyro_citevae import sites
from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.arguments import whole
from pyro_citevae.data.batch import Batch
from pyro_citevae.data.doses import Doses
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.pseudobulk import profile
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.shared_genes import at_panel, positions
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import CiteVAEWarning
from pyro_citevae.infer.drawn_rows import drawn_rows, has_large_tables
from pyro_citevae.infer.exchangeability import global_draws
from pyro_citevae.infer.predicted_cells import PredictedCells
from pyro_citevae.infer.progress import appearing
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.infer.substitute import Shifted, Substitute
from pyro_citevae.infer.summaries import summarised
from pyro_citevae.nn.rows_in_use import RowsInUse
from pyro_citevae.program import LatentDynamics, Rollout

__all__ = ["MOST_VALUES", "Abduction", "Counterfactuals"]

MOST_VALUES = 8_000_000  # tensors of 32 MB, whose memory the allocator keeps for the next one
_POPULATION = 256
_MOST_OWN_VALUES = 200_000_000  # of tokens, over draws, that are held at once
_CHAINS_APART = 1_000_003  # between the seeds of two members
_COUNTS_APART = 500_009  # between those of a chunk's states and of its counts


@dataclass(frozen=True)
class Abduction:
    """What is held fixed under every schedule: the mechanism, and each cell's s and z_0.

    Attributes:
        values: Values of the fixed sites over draws.
        cells: The cells, with their library sizes and technical batches.
        n_draws: Number of draws.
        seed: Seed of the transition noise, shared by all schedules.
        rows: Tokens whose own rows were drawn; None for all.
    """

    values: dict[str, Tensor]
    cells: Batch
    n_draws: int
    seed: int
    rows: RowsInUse | None = None

    @classmethod
    def of(
        cls, guide: AmortizedGuide, cells: Batch, mechanism: dict[str, Tensor], n_draws: int, seed: int
    ) -> Abduction:
        """Draws s and z_0 of observed control cells from the guide."""
        with torch.no_grad(), Substitute(mechanism, mean=False), pyro.plate("draw", n_draws, dim=-3):
            trace = poutine.trace(guide).get_trace(cells)
        local: dict[str, Any] = {
            name: trace.nodes[name]["value"]
            for name in (sites.INVARIANT, sites.state(0))
            if name in trace.nodes
        }
        return cls({**mechanism, **local}, cells, n_draws, seed)

    @classmethod
    def of_population(
        cls,
        model: LatentDynamics,
        part: range,
        mechanism: dict[str, Tensor],
        n_draws: int,
        seed: int,
        context: int | None = None,
    ) -> Abduction:
        """Leaves s and z_0 to their prior: part of a population of cells of median library size.

        Cells of a context have its batches by turns.
        """
        n, schema = len(part), model.schema
        lanes = torch.arange(schema.n_batches)
        if context is not None:
            lanes = model.batches_of[context].cpu().nonzero()[:, 0]
        cells = Batch(
            size=n,
            index=torch.arange(n),
            u=torch.zeros(1, n, schema.n_tokens, dtype=torch.float32),
            step=torch.zeros(1, n, dtype=torch.int64),
            observed=torch.zeros(1, n, dtype=torch.bool),
            library=torch.full((1, n), float(schema.total), dtype=torch.float32),
            technical=lanes[torch.arange(part.start, part.stop) % len(lanes)],
            x=None,
            context=None if context is None else torch.full((n,), context),
        )
        return cls(mechanism, cells, n_draws, seed)


@dataclass(frozen=True)
class Counterfactuals:
    """Runs the program forward under schedules, for the same abducted cells and the same noise.

    Attributes:
        members: The programs, each with its guide for the abduction; one chain each.
        schedules: Schedules to act by.
        times: Times to predict, in the schema's unit.
        n_draws: Number of draws of each member's mechanism, and of each cell's states.
        seed: Seed of every draw.
        progress: Whether to show a bar when it takes long.
        most_values: Draws x times x cells x genes that are held at once; a chunk of cells has a random stream
            of its own, so that another size gives other draws of the same law.
        panel: Genes that profiles are of, and their common total; None for all genes of the model.
        batches: Technical batches that cells under each schedule are taken to be of; None for their own.
        told: Whether what is doubtful of the schedules was told before.
        population: Cells of the population that profiles are of, where no control cells are given.
        context: Context of the population; None where there are none.
    """

    members: Sequence[tuple[LatentDynamics, AmortizedGuide]]
    schedules: Sequence[Schedule]
    times: Sequence[float]
    n_draws: int
    seed: int
    progress: bool = False
    most_values: int = MOST_VALUES
    panel: Schema | None = None
    batches: Sequence[Sequence[int]] | None = None
    told: bool = False
    population: int = _POPULATION
    context: int | None = None

    def __post_init__(self) -> None:
        if self.told:
            return
        object.__setattr__(self, "most_values", whole(self.most_values, "predict(most_values=...)"))
        model = self.members[0][0]
        known = (model.seen | model.has_features).tolist()
        for one in self.schedules:
            for doubt in model.schema.doubts(model.schema.require(one), max(self.times)):
                warnings.warn(doubt, CiteVAEWarning, stacklevel=4)
            for token in one.tokens:
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
        """Names and sizes of the axes, with the genes that profiles are of."""
        return self._whole if self.panel is None else at_panel(self._whole, self.panel)

    @property
    def _whole(self) -> Schema:
        """The schema of the programs, whose cells have all genes."""
        return self.members[0][0].schema

    def run(
        self,
        model: LatentDynamics,
        abduction: Abduction,
        schedule: Schedule,
        *,
        mean: bool,
        batches: Sequence[int] | None = None,
        shift: Float[np.ndarray, "draw time gene"] | None = None,
    ) -> tuple[Rollout, Tensor]:
        """One roll-out: what the program walked through, and the values at the times.

        With a shift the values, and the law that the roll-out notes of them, are moved by so much.
        """
        schema = self.schema
        steps = torch.tensor([schema.step_of(time) for time in self.times])
        n, own = abduction.cells.n_cells, abduction.cells.technical
        u = Doses.each([schema.doses(schedule, int(steps.max()))])
        cells = replace(
            abduction.cells.unobserved(),
            size=n,
            index=torch.arange(n),
            u=u.cells(torch.zeros(n, dtype=torch.int64)),
            step=steps[:, None].expand(-1, n),
            observed=torch.zeros(len(steps), n, dtype=torch.bool),
            library=abduction.cells.library[-1:].expand(len(steps), n),
            technical=own if batches is None else torch.tensor(batches)[torch.arange(n) % len(batches)],
        ).to(model.device)
        guide = next(guide for one, guide in self.members if one is model)
        with (
            seeded(abduction.seed),
            torch.no_grad(),
            drawn_rows(model, guide, abduction.rows),
            Substitute(abduction.values, mean=mean),
            nullcontext() if shift is None else Shifted(shift),
            pyro.plate("draw", self.n_draws, dim=-3),
            poutine.trace() as tracer,
        ):
            walked = model(cells)
        observed: Any = tracer.trace.nodes[sites.VALUES]
        return walked if shift is None else replace(walked, emission=observed["fn"]), observed["value"]

    def abductions(self, chain: int, controls: Trajectories | None) -> Iterator[Abduction]:
        """A member's abducted cells, in chunks that fit in memory, with the same draws of the mechanism."""
        model, guide = self.members[chain]
        seed = self.seed + chain * _CHAINS_APART
        rows = self._rows(model, guide)
        with seeded(seed), drawn_rows(model, guide, rows):
            mechanism = global_draws(guide, self.n_draws)
        for part in self._parts(controls):
            own = seed + part.start
            if controls is None:
                made = Abduction.of_population(model, part, mechanism, self.n_draws, own, self.context)
                yield replace(made, rows=rows)
                continue
            chunk = controls.batch(np.arange(part.start, part.stop)).to(model.device)
            with seeded(own), drawn_rows(model, guide, rows):
                abducted = Abduction.of(guide, chunk, mechanism, self.n_draws, own)
            yield replace(abducted, rows=rows)

    def _rows(self, model: LatentDynamics, guide: AmortizedGuide) -> RowsInUse | None:
        """The tokens of the schedules, where the own rows of all would be too many to draw."""
        index = self._whole.token_index
        tokens = sorted({index[token] for schedule in self.schedules for token in schedule.tokens})
        seen = model.seen[tokens].all() if tokens else True
        if not has_large_tables(model, guide) or not seen:  # rows of unseen tokens follow from all others
            return None
        chosen = torch.tensor(tokens or [0], device=model.device)
        return RowsInUse.of_tokens(chosen, self._whole.n_tokens)

    def _parts(self, controls: Trajectories | None) -> list[range]:
        """Positions of the cells of each chunk."""
        a_cell = self.n_draws * len(self.times) * self._whole.n_genes
        if controls is None:
            n, size = self.population, self.most_values * 3 // 2 // a_cell  # of which no counts are drawn
        else:
            n, size = controls.n_cells, self.most_values // (len(self.members) * a_cell)
        size = max(1, size)
        return [range(first, min(first + size, n)) for first in range(0, n, size)]

    def _bar(self, controls: Trajectories | None) -> AbstractContextManager[Callable[[], None]]:
        """A bar with a step for each roll-out of a member."""
        total = len(self.members) * len(self._parts(controls)) * len(self.schedules)
        return appearing("predicting", total, shown=self.progress)

    def pseudobulk(self, controls: Trajectories | None) -> Float[np.ndarray, "schedule chain draw time gene"]:
        """Log pseudobulk profile of the cells' mean counts, for each draw of the mechanism.

        With a panel, the counts of its genes alone are summed up and scaled to its total.
        """
        blocks = self._blocks()
        if len(blocks) > 1:
            parts = [replace(self, schedules=one, told=True, batches=lanes) for one, lanes in blocks]
            return np.concatenate([part.pseudobulk(controls) for part in parts])
        shape = (len(self.members), self.n_draws, len(self.times), self._whole.n_genes)
        sums = np.zeros((len(self.schedules), *shape))
        with self._bar(controls) as advance:
            for chain, (model, _) in enumerate(self.members):
                for abduction in self.abductions(chain, controls):
                    for p, schedule in enumerate(self.schedules):
                        lanes = None if self.batches is None else self.batches[p]
                        values = self.run(model, abduction, schedule, mean=True, batches=lanes)[1]
                        sums[p, chain] += values.sum(-2).cpu().numpy()
                        advance()
        if self.panel is not None:
            sums = sums[..., positions(self._whole, self.panel.genes)]
        if self.schema.values == "real":
            n = self.population if controls is None else controls.n_cells
            return sums / n
        return profile(sums, self.schema.panel_total)

    def _blocks(self) -> list[tuple[Sequence[Schedule], Sequence[Sequence[int]] | None]]:
        """The schedules by turns, so many that the own rows of their tokens fit in memory."""
        model, guide = self.members[0]
        a_token = self.n_draws * self._whole.n_genes * (self._whole.n_steps + 1)
        size = max(1, _MOST_OWN_VALUES // a_token) if has_large_tables(model, guide) else len(self.schedules)
        firsts = range(0, len(self.schedules), max(1, size))
        batches = self.batches
        return [
            (self.schedules[i : i + size], None if batches is None else batches[i : i + size]) for i in firsts
        ]

    def programs(
        self, controls: Trajectories | None
    ) -> Float[np.ndarray, "schedule chain draw step program"]:
        """Mean state of the programs over the cells, at every step from 0, for each draw."""
        n = self.population if controls is None else controls.n_cells
        chains = []
        for chain, (model, _) in enumerate(self.members):
            total: np.ndarray | float = 0.0
            for abduction in self.abductions(chain, controls):
                walks = [self.run(model, abduction, one, mean=True)[0].z for one in self.schedules]
                summed = [[state.sum(-2)[:, 0].cpu().numpy() for state in z] for z in walks]
                total = total + np.stack([np.stack(walk, axis=1) for walk in summed])
            chains.append(np.asarray(total) / n)
        return np.stack(chains, axis=1)

    def cells(
        self,
        controls: Trajectories,
        shifts: Sequence[Float[np.ndarray, "draw schedule time gene"] | None] = (),
    ) -> PredictedCells:
        """Counts of every control cell under every schedule at every time, summarised over all draws.

        The draws of a chunk of cells under one schedule are held at a time, and only their summaries kept.

        Args:
            controls: The cells.
            shifts: How far each member's laws of the values are moved, if they are.
        """
        P, T, n = len(self.schedules), len(self.times), controls.n_cells
        layers: dict[str, np.ndarray] = {}
        drawn: dict[tuple[int, int], list[sparse.csr_matrix]] = {}
        members = [self.abductions(chain, controls) for chain in range(len(self.members))]
        with self._bar(controls) as advance:
            for part, *chunk in zip(self._parts(controls), *members, strict=True):
                for p, schedule in enumerate(self.schedules):
                    moved = [None if one is None else one[:, p] for one in shifts or [None] * len(members)]
                    draw, summaries = self._summarised(chunk, schedule, moved, part.start, advance)
                    for name, value in summaries.items():
                        if name not in layers:
                            layers[name] = np.empty((P, T, n, self._whole.n_genes), dtype=value.dtype)
                        layers[name][p, :, part.start : part.stop] = value
                    for t, counts in enumerate(draw):
                        drawn.setdefault((p, t), []).append(sparse.csr_matrix(counts))
        rows = [one for key in sorted(drawn) for one in drawn[key]]
        flat = {name: value.reshape(P * T * n, -1) for name, value in layers.items()}
        return PredictedCells(sparse.vstack(rows, format="csr"), flat, *np.indices((P, T, n)).reshape(3, -1))

    def _summarised(
        self,
        chunk: Sequence[Abduction],
        schedule: Schedule,
        shifts: Sequence[Float[np.ndarray, "draw time gene"] | None],
        first: int,
        advance: Callable[[], None],
    ) -> tuple[Float[np.ndarray, "time cell gene"], dict[str, Float[np.ndarray, "time cell gene"]]]:
        """A draw of each cell of a chunk, and summaries over the draws of all members together.

        Cell i has draw i, members by turns, and begins again after the last: cells together are then draws of
        the posterior predictive, which one draw of the mechanism for all of them is not.
        """
        cell = np.arange(chunk[0].cells.n_cells)
        draw, member = np.divmod(first + cell, len(chunk))
        laws, means = [], []
        for (model, _), abduction, shift in zip(self.members, chunk, shifts, strict=True):
            walked, mean = self.run(model, abduction, schedule, mean=True, shift=shift)
            laws.append(walked.emission)
            means.append(mean)
            advance()
        with seeded(chunk[0].seed + _COUNTS_APART), torch.no_grad():
            return summarised(laws, means, draw % self.n_draws, member)
