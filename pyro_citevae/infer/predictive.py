"""What answers ``predict``, ``effect`` and ``programs``: one posterior, or an ensemble of them."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.arguments import Names, Number, Numbers, count
from pyro_citevae.arguments import seed as a_seed
from pyro_citevae.data.anndata_io import joined_cells
from pyro_citevae.data.interventions import Schedule, do
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.shared_genes import on_panel
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import CiteVAEWarning, DataError, few
from pyro_citevae.infer import idata
from pyro_citevae.infer.asked import Asked, require_controls, schedules_of, times_of
from pyro_citevae.infer.confounded_effects import undecided
from pyro_citevae.infer.contexts_asked import contexts_asked, named, of_context, one_context
from pyro_citevae.infer.corrected_effects import corrected_effects, corrected_laws, error_of_controls
from pyro_citevae.infer.counterfactuals import MOST_VALUES, Counterfactuals
from pyro_citevae.infer.devices import device_of
from pyro_citevae.infer.discrepancy import Discrepancy
from pyro_citevae.infer.effect import Effect
from pyro_citevae.infer.interactions import Interactions, interactions, members_of
from pyro_citevae.infer.program_genes import strongest_genes
from pyro_citevae.infer.ranking import Ranking, candidates_of, rank
from pyro_citevae.program import LatentDynamics
from pyro_citevae.shown import Shown

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Predictive"]

_Asked = TypeVar("_Asked", bound="Predictive")
_MEAN_DRAWS = 20  # of which the expected profile of a control cell is the mean


class Predictive(Shown, ABC):
    """Fitted programs that are asked together; every draw is made from a seed, so equal calls agree."""

    @property
    @abstractmethod
    def members(self) -> tuple[tuple[LatentDynamics, AmortizedGuide], ...]:
        """The fitted models, each with its guide; the chains of every answer."""

    @property
    @abstractmethod
    def discrepancies(self) -> tuple[Discrepancy | None, ...]:
        """What was learnt of each member's errors from cells that it has not seen; None for nothing."""

    @abstractmethod
    def adapt(self: _Asked, controls: Trajectories | AnnData, *, progress: bool = True) -> _Asked:
        """The same posterior with a context that training did not have, from its controls."""

    def _adapted(self: _Asked, controls: Trajectories, progress: bool) -> _Asked:
        """The same with the new contexts of the cells, and a sentence that says so."""
        new = controls.schema.contexts[self.schema.n_contexts :]
        n_cells = int((controls.context >= self.schema.n_contexts).sum())
        warnings.warn(
            f"training had no context {few(new)}: its start and baseline are fitted to the "
            f"{n_cells:,} controls of it; keep posterior.adapt(controls) to do it once.",
            CiteVAEWarning,
            stacklevel=4,
        )
        return self.adapt(controls, progress=progress)

    @property
    def schema(self) -> Schema:
        """Names and sizes of the axes."""
        return self.members[0][0].schema

    @property
    def name(self) -> str:
        """Model and guide, for tables."""
        model, guide = self.members[0]
        return f"{type(model).__name__}/{type(guide).__name__}"

    def to(self: _Asked, device: str) -> _Asked:
        """Moves the models and the guides to a device, where everything asked of them is then computed.

        A fit on a GPU leaves them on the CPU. Another kind of device makes other draws of the same law.

        Args:
            device: ``"cpu"``, ``"gpu"``, ``"auto"`` for a GPU where there is one, or torch's name, such as
                ``"cuda:1"``.

        Returns:
            Itself.

        Raises:
            FitError: There is no such device.

        Example:
            >>> import pyro_citevae as cv
            >>> data = cv.simulate(n_cells=30).data
            >>> model = cv.models.StaticShift(data.schema, n_programs=2, hidden=4)
            >>> guide = cv.guides.MeanField(model, hidden=4)
            >>> posterior = cv.fit(model, guide, data, max_epochs=1, progress=False)
            >>> posterior.to("cpu").effect(cv.do("gene_0"), draws=5).sizes["draw"]
            5
        """
        found = device_of(device)
        for model, guide in self.members:
            model.to(found)
            guide.to(found)
        return self

    def read(
        self, adata: AnnData, *, missing: str = "refuse", new_batches: str = "refuse", **columns: Any
    ) -> Trajectories:
        """Reads more cells by the columns that the run remembers, to the model's genes and perturbations.

        Args:
            adata: Cells x genes.
            missing: What becomes of genes that are not there: ``"refuse"``, or ``"mask"`` to let counts that
                a control cell is expected to have stand in for them, so that they say nothing of a cell.
            new_batches: What becomes of batches that training did not have: ``"refuse"``, or ``"spread"`` to
                deal their cells, of a new donor, say, to the known ones in turn.
            **columns: Columns that are called otherwise here, as for :meth:`Trajectories.from_anndata`.

        Raises:
            DataError: As for :meth:`Trajectories.from_anndata`.

        Example:
            >>> import pyro_citevae as cv
            >>> renge = cv.datasets.renge()[::20]
            >>> data = cv.Trajectories.from_anndata(renge, time="time")
            >>> model = cv.models.StaticShift(data.schema, n_programs=2, hidden=4)
            >>> guide = cv.guides.MeanField(model, hidden=4)
            >>> posterior = cv.fit(model, guide, data, max_epochs=1, progress=False)
            >>> posterior.read(renge[:, ::-1]).digest == data.digest
            True
        """
        if missing not in ("refuse", "mask"):
            raise DataError(f"read(missing={missing!r}) is neither 'refuse' nor 'mask'.")
        named = {**self.columns, **columns}
        expected = self._expected_shares() if missing == "mask" else None
        options: dict[str, Any] = {"values": self.schema.values, "schema": self.schema}
        return Trajectories.from_anndata(
            adata, **options, new_batches=new_batches, expected=expected, **named
        )

    @property
    def columns(self) -> dict[str, Any]:
        """Where the training data had what a screen needs, to read more cells; none if nothing says it."""
        record: Mapping[str, Any] = getattr(self, "record", {})
        noted = record.get("columns") or (record.get("source") or {}).get("columns") or {}
        return {name: one for name, one in noted.items() if name not in ("candidates", "most_genes")}

    @property
    def confounded(self) -> Mapping[str, Sequence[str]]:
        """The batches that the training data cannot tell from each of some perturbations."""
        found: Mapping[str, Sequence[str]] = getattr(self, "record", {}).get("confounded") or {}
        return found

    def _expected_shares(self) -> dict[str, float]:
        """The share of the counts that each gene is expected to hold in a control cell."""
        roll = Counterfactuals(self.members, [do()], times_of(None, self.schema), _MEAN_DRAWS, 0)
        level = np.expm1(roll.pseudobulk(None)).mean((0, 1, 2, 3)) / self.schema.total
        return dict(zip(self.schema.genes, level.tolist(), strict=True))

    def _taken(self, cells: Trajectories | AnnData) -> Trajectories:
        """Cells as they are, or the controls of an AnnData."""
        return cells if isinstance(cells, Trajectories) else self.read(cells).controls()

    def _controls(self, cells: Trajectories | AnnData) -> Trajectories:
        """Control cells to act on."""
        given = self._taken(cells)
        return require_controls(given, self.schema)

    def predict(
        self,
        schedules: Asked,
        *,
        cells: Trajectories | AnnData,
        draws: Number = 100,
        time: Numbers | None = None,
        seed: Number = 0,
        progress: bool = True,
        most_values: int = MOST_VALUES,
    ) -> AnnData:
        """Counts that control cells would show under other schedules.

        Abduct ``q(s, z_0 | x)`` from the control cells, act by the schedule, and roll the program forward.
        All schedules share the draws of the mechanism, of s and z_0, and of the transition noise. Draws are
        made and summarised a chunk of cells at a time: what is kept is the size of the result.

        Args:
            schedules: One ``do(...)`` or several, or labels such as ``"A+B"``.
            cells: Control cells, such as ``train.controls()``; or an AnnData, whose controls are taken as
                :meth:`read` reads it.
            draws: Number of draws, of each member of an ensemble.
            time: Time or times to predict, in the data's unit; None for the last one of the data.
            seed: Seed of every draw.
            progress: Whether to show a bar when it takes more than two seconds.
            most_values: Draws x times x cells x genes that are held at once, which bounds the memory; another
                number gives other draws of the same law.

        Returns:
            A row for each schedule, time and cell. ``X`` is a draw of integer counts, of cell i with draw
            i of the mechanism: rows together are draws of the posterior predictive, to be used as cells
            are. The layers ``mean``, ``sd``, ``q05`` and ``q95`` summarise all draws of a row (counts at the
            cell's own library size), of negative binomials without the noise of drawing counts; for the mean
            of many cells take ``mean``. Where the fit held cells
            back, the cells' laws are moved so that their profiles have the effects of :meth:`effect`;
            ``obs`` has ``perturbation``, ``time`` and ``source_cell``.

        Raises:
            ScheduleError: A perturbation is unknown.
            DataError: A cell was perturbed, or a time is off the grid.
        """
        controls = self._controls(cells)
        if controls.schema.n_contexts > self.schema.n_contexts:
            known = self._adapted(controls, progress)
            options: dict[str, Any] = {"draws": draws, "time": time, "seed": seed, "progress": progress}
            return known.predict(schedules, cells=controls, most_values=most_values, **options)
        wanted, times = schedules_of(schedules, self.schema), times_of(time, self.schema)
        asked = (count(draws, "predict(draws=...)"), a_seed(seed, "predict(seed=...)"))
        found = []
        for where in contexts_asked(None, self.schema, controls, "predict"):
            roll = Counterfactuals(self.members, wanted, times, *asked, progress, most_values, context=where)
            chosen = of_context(controls, where) or controls
            made = roll.cells(chosen, corrected_laws(roll, self.discrepancies))
            found.append(made.to_anndata(wanted, times, chosen, draws=roll.n_draws, seed=roll.seed))
        return joined_cells(found)

    def effect(
        self,
        schedules: Asked,
        versus: Schedule | str | Trajectories | None = None,
        *,
        cells: Trajectories | AnnData | None = None,
        draws: Number = 200,
        time: Numbers | None = None,
        seed: Number = 0,
        progress: bool = True,
        most_values: int = MOST_VALUES,
        panel: Schema | None = None,
        context: Names | None = None,
    ) -> Effect:
        """Paired draws of the difference of log pseudobulk profiles between two schedules.

        ``delta = b(schedule) - b(versus)`` with ``b = log(1 + total * sum_n mu_n / sum_ng mu_ng)``, where
        mu is a cell's mean count and total the measured genes' part of the data's median library size. For
        real values b is the mean. Where the fit held cells back, the draws are those of the program with what
        these cells say of its errors (:mod:`~pyro_citevae.infer.corrected_effects`). An effect that the
        design cannot tell from that of a batch is laid on the one or on the other by each draw
        (:mod:`~pyro_citevae.infer.confounded_effects`).

        Args:
            schedules: One ``do(...)`` or several, or labels such as ``"A+B"``.
            versus: Reference schedule; None for ``do()``. Or the measured cells that the model was trained
                on, with controls of these times: the effect is then forecast as it will be measured against
                these very controls, whose sampling error all measured groups together show
                (:func:`~pyro_citevae.infer.control_error.control_error`).
            cells: Control cells to act on, or an AnnData that holds some; None for a population drawn from
                the prior of s and z_0.
            draws: Number of draws, of each member of an ensemble.
            time: Time or times, in the data's unit; None for the last one of the data.
            seed: Seed of every draw.
            progress: Whether to show a bar when it takes more than two seconds.
            most_values: Draws x times x cells x genes that are held at once, which bounds the memory; another
                number gives other draws of the same law.
            panel: Genes that the effect is of, where what it is compared with lacks some:
                ``shared_panel(train, genes)`` of :mod:`pyro_citevae.data.shared_genes`. Sums over genes and
                the total are then of these genes alone. None for all genes of the model.
            context: Contexts that the effect is asked in, where the data name some; None for those of the
                cells, or all.

        Returns:
            Dims (chain, draw, perturbation, time, gene), on the natural log scale; with a panel, gene is its.
            Where the data name contexts, (chain, draw, context, perturbation, time, gene).

        Raises:
            ScheduleError: A perturbation is unknown.
            DataError: A cell to act on was perturbed, a time is off the grid, versus lacks controls of it, or
                the model lacks a gene of the panel.
        """
        controls = None if cells is None else self._controls(cells)
        if controls is not None and controls.schema.n_contexts > self.schema.n_contexts:
            known = self._adapted(controls, progress)
            options: dict[str, Any] = {"draws": draws, "time": time, "seed": seed, "progress": progress}
            options |= {"most_values": most_values, "panel": panel, "context": context}
            return known.effect(schedules, versus, cells=controls, **options)
        wanted, times = schedules_of(schedules, self.schema), times_of(time, self.schema)
        reference = schedules_of(versus, self.schema)[0] if isinstance(versus, Schedule | str) else do()
        asked = (count(draws, "effect(draws=...)"), a_seed(seed, "effect(seed=...)"))
        acting = [*wanted, reference]
        found: list[Effect] = []
        contexts = contexts_asked(context, self.schema, controls, "effect")
        for where in contexts:
            roll = Counterfactuals(
                self.members, acting, times, *asked, progress, most_values, panel, context=where
            )
            delta = self._difference(roll, versus, of_context(controls, where), panel)
            found.append(Effect.of(delta, wanted, times, roll.schema, reference))
        return Effect.in_contexts(found, named(contexts, self.schema)) if self.schema.contexts else found[0]

    def _difference(
        self,
        roll: Counterfactuals,
        versus: Schedule | str | Trajectories | None,
        controls: Trajectories | None,
        panel: Schema | None,
    ) -> Float[np.ndarray, "chain draw perturbation time gene"]:
        """Draws of the effect of a roll-out's schedules, in its context."""
        error: Float[np.ndarray, "#chain #draw #perturbation time gene"] | float = 0.0
        if isinstance(versus, Trajectories):
            measured = versus if panel is None else on_panel(versus, panel)
            error = error_of_controls(roll, self.discrepancies, measured, controls)
        delta = corrected_effects(roll, self.discrepancies, controls)
        return np.asarray(undecided(delta, roll, controls, self.confounded) - error)

    def rank(
        self,
        candidates: Sequence[Schedule | str],
        *,
        by: str = "information",
        n_cells: int = 100,
        draws: Number = 200,
        directions: int = 3,
        time: Number | None = None,
        seed: Number = 0,
        progress: bool = True,
        context: str | None = None,
    ) -> Ranking:
        """Which perturbation to measure next, and why.

        ============  ====================================================================================
        by            what is ranked first
        ============  ====================================================================================
        information   a lower bound on the information, in nats, that the effect measured in ``n_cells``
                      cells is expected to give on the mechanism:
                      :func:`~pyro_citevae.infer.ranking.expected_information`
        spread        ``sqrt(sum_g var delta_g)`` over the posterior: where the prediction is least sure
        effect        ``|E delta|``: where most is expected to change
        ============  ====================================================================================

        The draws are those of :meth:`effect`, so that what was measured already is known as well as its cells
        tell. The perturbed genes themselves are left out of all three, and the noise of the measurement is
        that of ``n_cells`` predicted control cells.

        Args:
            candidates: Schedules, or names such as ``"A+B"``; tokens without training cells among them.
            by: What to rank by.
            n_cells: Number of cells that a candidate would be measured in.
            draws: Number of draws, of each member of an ensemble; the bound is at most their logarithm.
            directions: Number of principal components of the effect that count for the information.
            time: Time of the measurement, in the data's unit; None for the last one of the data.
            seed: Seed of every draw.
            progress: Whether to show a bar when it takes more than two seconds.
            context: Context of the measurement, where the data name several.

        Returns:
            The :class:`~pyro_citevae.infer.ranking.Ranking`, with a sentence on each candidate.

        Raises:
            DataError: There is no candidate, the criterion is unknown, or a time is off the grid.
            ScheduleError: A candidate is the control, cannot be read, or is unknown.
        """
        wanted = candidates_of(candidates, self.schema)
        model = self.members[0][0]
        asked = (count(draws, "rank(draws=...)"), a_seed(seed, "rank(seed=...)"))
        roll = Counterfactuals(self.members, [*wanted, do()], times_of(time, self.schema), *asked, progress)
        roll = replace(roll, context=one_context(context, self.schema, "rank"), told=True)
        delta = undecided(corrected_effects(roll, self.discrepancies, None), roll, None, self.confounded)
        return rank(roll, delta, by, n_cells, directions, model.has_features.numpy(force=True))

    def interactions(
        self,
        pairs: Asked,
        *,
        draws: Number = 200,
        time: Numbers | None = None,
        seed: Number = 0,
        probability: float = 0.8,
        progress: bool = True,
        context: str | None = None,
    ) -> Interactions:
        """What pairs do beside the sum of their members, and of which kind that is.

        The three effects share their draws. :func:`~pyro_citevae.infer.interactions.interactions` has the
        equations and the kinds: synergy, buffering, dominance, additive.

        Args:
            pairs: One pair or several, as ``do("A+B")`` or ``"A+B"``.
            draws: Number of draws, of each member of an ensemble.
            time: Time or times, in the data's unit; None for the last one of the data.
            seed: Seed of every draw.
            probability: How probable a kind must be to be named, and the mass of the intervals.
            progress: Whether to show a bar when it takes more than two seconds.
            context: Context that the pairs are asked in, where the data name several.

        Returns:
            ``table``, a row a pair and time, and ``surplus``, draws of what is beyond the sum, gene by gene.

        Raises:
            ScheduleError: A schedule has not exactly two members, or one is unknown.
            DataError: A number is out of range, or a time is off the grid.

        Example:
            >>> import pyro_citevae as cv
            >>> data = cv.simulate(n_cells=60, n_perturbations=3).data
            >>> model = cv.models.StaticShift(data.schema, n_programs=2, hidden=4)
            >>> posterior = cv.fit(model, cv.guides.MeanField(model), data, max_epochs=1, progress=False)
            >>> found = posterior.interactions("gene_0+gene_1", draws=20, progress=False)
            >>> found.table["pair"].tolist(), found.surplus.sizes["draw"]
            (['gene_0+gene_1'], 20)
        """
        wanted = [self.schema.require(one) for one in schedules_of(pairs, self.schema)]
        members = members_of(wanted)
        asked = (wanted, [one for one, _ in members], [other for _, other in members])
        every = list(dict.fromkeys(schedule for some in asked for schedule in some))  # a member of many, once
        where = one_context(context, self.schema, "interactions")
        chosen = None if where is None else self.schema.contexts[where]
        effect = self.effect(every, draws=draws, time=time, seed=seed, progress=progress, context=chosen)
        effect = effect if where is None else effect.isel(context=0)
        both, first, second = (effect.isel(perturbation=[every.index(one) for one in some]) for some in asked)
        found = interactions(both, first, second, probability)
        known = [one for one in self.discrepancies if one is not None]
        if not known or any(len(self.schema.schedule(label).doses) > 1 for label in known[0].labels):
            return found
        warnings.warn(
            f"no pair has cells, so that what {few([str(one) for one in wanted])} does beside its members is "
            "what the program assumes; its kind is called unclear until a pair is measured.",
            CiteVAEWarning,
            stacklevel=2,
        )
        return replace(found, table=found.table.assign(kind="unclear"))

    def programs(
        self,
        schedules: Asked,
        *,
        cells: Trajectories | AnnData | None = None,
        draws: Number = 100,
        time: Number | None = None,
        seed: Number = 0,
        context: Names | None = None,
    ) -> xr.DataArray:
        """Mean state of each program over the cells, from step 0 to a time, under each schedule.

        Args:
            schedules: One ``do(...)`` or several, or labels such as ``"A+B"``.
            cells: Control cells to act on, or an AnnData that holds some; None for a population drawn from
                the prior of s and z_0.
            draws: Number of draws, of each member of an ensemble.
            time: Last time, in the data's unit; None for the last one of the data.
            seed: Seed of every draw.
            context: Contexts, as for :meth:`effect`.

        Returns:
            Dims (chain, draw, perturbation, time, program), with context after draw where there are some, and
            the coordinate ``top_genes``: the three strongest genes of each program. Programs of different
            chains are not matched, and have none.
        """
        controls = None if cells is None else self._controls(cells)
        wanted, times = schedules_of(schedules, self.schema), times_of(time, self.schema)
        asked = (count(draws, "programs(draws=...)"), a_seed(seed, "programs(seed=...)"))
        found = []
        contexts = contexts_asked(context, self.schema, controls, "programs")
        for where in contexts:
            roll = Counterfactuals(self.members, wanted, times, *asked, context=where)
            found.append(self._walked(roll, of_context(controls, where)))
        if not self.schema.contexts:
            return found[0]
        names = pd.Index(named(contexts, self.schema), name="context")
        return xr.concat(found, names).transpose("chain", "draw", "context", ...)

    def _walked(self, roll: Counterfactuals, controls: Trajectories | None) -> xr.DataArray:
        """Mean states of a roll-out, in its context."""
        walked = np.moveaxis(roll.programs(controls), 0, 2)
        names = idata.state_dims(self.members[0][0], walked.shape[3] - 1)
        alone = len(self.members) == 1
        return xr.DataArray(
            walked,
            dims=("chain", "draw", "perturbation", "time", "program"),
            coords={
                "chain": np.arange(len(walked)),
                "draw": np.arange(roll.n_draws),
                "perturbation": [one.label(self.schema.control) for one in roll.schedules],
                "time": names["time"],
                "program": names["program"],
                **(strongest_genes(*self.members[0], roll.seed) if alone else {}),
            },
            name="z",
            attrs={"time_unit": self.schema.time_unit},
        )
