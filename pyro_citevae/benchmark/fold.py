"""One fold of a benchmark: what may be seen, what is scored, and the scores of one predictor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pyro_citevae.analysis import cell_rows, challenge_scale, challenge_scores, evaluate, measure
from pyro_citevae.analysis.baselines.effect_table import EffectTable
from pyro_citevae.analysis.baselines.rules import Predictor
from pyro_citevae.analysis.baselines.technical_duplicate import Duplicate
from pyro_citevae.analysis.scoring.measurement import Measurement
from pyro_citevae.analysis.scoring.tables import ALL, CEILING, COLUMNS, REPRODUCIBLE
from pyro_citevae.data import Schedule, Split, Trajectories, do
from pyro_citevae.data.splits import matching_rows
from pyro_citevae.errors import DataError
from pyro_citevae.infer.predictive import Predictive

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Fold"]

_FEWEST_CELLS = 4
_CELL_DRAWS = 50  # of the mechanism, which predicted cells take by turns


@dataclass(frozen=True, eq=False)
class Fold:
    """Training cells, held-out cells, and which of their effects are scored.

    The schema of both parts is that of the training cells: also the common total, which every prediction is
    scaled to, is theirs alone.

    Attributes:
        number: Which fold.
        train: What predictors may see.
        truth: What is held out.
        whole: Both, to measure effects against the controls of the same time, wherever these are.
        scored: Labels and times of the held-out effects that are scored.
        strata: Perturbations by the name of a mean of their own.
        context: The context whose perturbed cells are held out. What is scored is then within it, and
            against its own controls, which training has.
    """

    number: int
    train: Trajectories
    truth: Trajectories
    whole: Trajectories
    scored: tuple[tuple[str, float], ...]
    strata: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    context: str | None = None

    @classmethod
    def of(cls, number: int, data: Trajectories, split: Split) -> Fold:
        """Divides the data; an effect is scored where four cells or more and their controls are there.

        Of several criteria, each holds out what it names, and scored is what all of them name.
        """
        train, truth = data.divide(split)
        schema = train.schema
        if schema.values == "counts":
            share = float(train.stored.sum() / train.library.sum()) if schema.panel_share < 1 else 1.0
            schema = replace(schema, total=float(np.median(train.library)), panel_share=share)
        train, truth, whole = (replace(part, schema=schema) for part in (train, truth, data))
        context = next((name for one in split.criteria for name in one.contexts), None)
        controls = whole.select(schema.control, context=context)
        named = whole.rows(np.logical_and.reduce([matching_rows(data, one) for one in split.criteria]))
        scored = []
        for time in np.unique(named.row_times).tolist():
            now = named.select(time=time)
            if controls.select(time=time).n_observations < _FEWEST_CELLS:
                continue
            labels, counts = np.unique(now.row_labels.astype(str), return_counts=True)
            for label, n in zip(labels.tolist(), counts.tolist(), strict=True):
                if n >= _FEWEST_CELLS and label != schema.control:
                    scored.append((label, time))
        return cls(number, train, truth, whole, tuple(scored), context=context)

    @property
    def labels(self) -> tuple[str, ...]:
        """Perturbations that are scored."""
        return tuple(dict.fromkeys(label for label, _ in self.scored))

    @property
    def times(self) -> tuple[float, ...]:
        """Times that are scored."""
        return tuple(sorted({time for _, time in self.scored}))

    @property
    def split(self) -> Split:
        """What is held out, with the hash of the held-out observations."""
        return self.train.split or Split(())

    @cached_property
    def measurements(self) -> tuple[Measurement, ...]:
        """The held-out effects."""
        return self._measured(self._here(self.truth), self._here(self.whole))

    @cached_property
    def others(self) -> tuple[Measurement, ...]:
        """The training effects at the scored times; in a held-out context, its effects not scored."""
        return self._known(self._beside)

    @cached_property
    def half_of_the_others(self) -> tuple[Measurement, ...]:
        """The same from half of the cells: as noisy as what a technical duplicate is scored on."""
        return self._known(Duplicate.halves(self._beside)[1])

    @property
    def _beside(self) -> Trajectories:
        return self.train if self.context is None else self._here(self.whole)

    def _here(self, data: Trajectories) -> Trajectories:
        """The cells of the context, if there is one."""
        return data if self.context is None else data.select(context=self.context)

    def _known(self, data: Trajectories) -> tuple[Measurement, ...]:
        try:
            table = EffectTable.of(data)
        except DataError:  # halves of a small screen
            return ()
        return tuple(
            Measurement(label, time, table.delta[i], table.variance[i], ~table.own[i], float("nan"))
            for i, (label, time) in enumerate(zip(table.labels, table.times.tolist(), strict=True))
            if time in self.times and (label, time) not in self.scored
        )

    @cached_property
    def duplicated(self) -> Trajectories:
        """The scored cells and the controls of their times: what a technical duplicate is made from."""
        wanted = {*self.labels, self.whole.schema.control}
        cells = self._here(self.whole)
        now = np.isin(cells.row_times, self.times)
        return cells.rows(now & np.array([label in wanted for label in cells.row_labels]))

    def _measured(self, truth: Trajectories, controls: Trajectories) -> tuple[Measurement, ...]:
        return tuple(measure(truth, label, time, controls) for label, time in self.scored)

    def scores(
        self,
        name: str,
        predictor: Predictor,
        *,
        draws: int,
        cells: int,
        seed: int = 0,
        challenge: bool = False,
        measured_controls: bool = True,
    ) -> pd.DataFrame:
        """Tidy rows of one predictor, perturbation by perturbation, without the means.

        Args:
            name: Name in the table.
            predictor: A fitted model or a baseline; a duplicate is scored on its other half.
            draws: Draws of effects.
            cells: Control cells of the training data to predict from; 0 leaves out scores of cells.
            seed: Seed of the draws.
            challenge: Whether cell-eval2 scores the cells too.
            measured_controls: Whether a model's effects are forecast as measured against training's controls.
        """
        truth, controls, both = self._here(self.truth), self._here(self.whole), self.duplicated
        measurements, others = self.measurements, self.others
        if isinstance(predictor, Duplicate):
            truth = controls = both = predictor.scored
            measurements, others = self._measured(truth, controls), self.half_of_the_others
        frames = []
        for labels, times in self._grids.items():
            schedules = [Schedule.parse(label, truth.schema.control) for label in labels]
            asked = [one for one in measurements if one.time in times]
            options: dict[str, Any] = {"time": times, "draws": draws, "seed": seed}
            if self.context is not None:
                options["context"] = self.context
            if measured_controls and isinstance(predictor, Predictive) and self._has_controls(times):
                effects = predictor.effect(schedules, self._here(self.train), **options)
            else:
                effects = predictor.effect(schedules, **options)
            if self.context is not None:
                effects = effects.isel(context=0)
            frame = evaluate({name: effects}, asked, headline=(), protocol="", dataset="", others=others)
            frames.append(frame[(frame.predictor == name) & ~frame.perturbation.isin([ALL, REPRODUCIBLE])])
            if cells:
                made = self._cells(predictor, schedules, times, cells, seed)
                frames += [
                    cell_rows(
                        name,
                        made,
                        one,
                        truth.select(one.perturbation, one.time),
                        controls.select(truth.schema.control, one.time),
                    )
                    for one in asked
                ]
            if cells and challenge:
                frames += [challenge_scores(made, both, time, name) for time in times]
        return pd.concat(frames).assign(fold=self.number, seed=seed)[_KEPT].reset_index(drop=True)

    def _has_controls(self, times: Sequence[float]) -> bool:
        """Whether training has controls of all these times."""
        controls = self._here(self.train).select(self.train.schema.control)
        return all(controls.select(time=time).n_observations > 0 for time in times)

    @property
    def _grids(self) -> dict[tuple[str, ...], list[float]]:
        """Times by the labels that are scored at them, so that nothing else is predicted."""
        grids: dict[tuple[str, ...], list[float]] = {}
        for time in self.times:
            grids.setdefault(tuple(label for label, at in self.scored if at == time), []).append(time)
        return grids

    def _cells(
        self,
        predictor: Predictor,
        schedules: Sequence[Schedule],
        times: Sequence[float],
        cells: int,
        seed: int,
    ) -> AnnData:
        """Predicted cells from training controls, each under a draw of its own."""
        base = self._here(self.train).controls().thinned(cells)
        return predictor.predict([do(), *schedules], cells=base, draws=_CELL_DRAWS, time=times, seed=seed)

    def ceiling(self) -> pd.DataFrame:
        """Tidy rows of what a perfect prediction of noisy truth would score."""
        frame = evaluate({}, self.measurements, headline=(), protocol="", dataset="")
        kept = frame[(frame.predictor == CEILING) & ~frame.perturbation.isin([ALL, REPRODUCIBLE])]
        return kept.assign(fold=self.number, seed=0)[_KEPT].reset_index(drop=True)

    def challenge_scale(self) -> pd.DataFrame:
        """Tidy rows of the mean response and of a replicate, between which the challenge scales."""
        frames = [challenge_scale(self.duplicated, time) for time in self.times]
        return pd.concat(frames).assign(fold=self.number, seed=0)[_KEPT].reset_index(drop=True)


_KEPT: Sequence[str] = [name for name in COLUMNS if name not in ("protocol", "dataset")]
