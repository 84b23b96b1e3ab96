"""What answers ``predict``, ``effect`` and ``programs``: one posterior, or an ensemble of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import xarray as xr

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.interventions import Schedule, do
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.infer import idata
from pyro_citevae.infer.asked import require_controls, schedules_of, times_of
from pyro_citevae.infer.control_error import control_error
from pyro_citevae.infer.counterfactuals import MOST_VALUES, Counterfactuals
from pyro_citevae.infer.devices import device_of
from pyro_citevae.infer.effect import Effect
from pyro_citevae.infer.ranking import Ranking, candidates_of, rank
from pyro_citevae.program import LatentDynamics

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["Predictive"]

_Asked = TypeVar("_Asked", bound="Predictive")


class Predictive(ABC):
    """Fitted programs that are asked together; every draw is made from a seed, so equal calls agree."""

    @property
    @abstractmethod
    def members(self) -> tuple[tuple[LatentDynamics, AmortizedGuide], ...]:
        """The fitted models, each with its guide; the chains of every answer."""

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

    def predict(
        self,
        schedules: Schedule | Sequence[Schedule],
        *,
        cells: Trajectories,
        draws: int = 100,
        time: float | Sequence[float] | None = None,
        seed: int = 0,
        progress: bool = True,
        most_values: int = MOST_VALUES,
    ) -> AnnData:
        """Counts that control cells would show under other schedules.

        Abduct ``q(s, z_0 | x)`` from the control cells, act by the schedule, and roll the program forward.
        All schedules share the draws of the mechanism, of s and z_0, and of the transition noise. Draws are
        made and summarised a chunk of cells at a time: what is kept is the size of the result.

        Args:
            schedules: One ``do(...)`` or several.
            cells: Control cells, such as ``train.controls()``.
            draws: Number of draws, of each member of an ensemble.
            time: Time or times to predict, in the data's unit; None for the last one of the data.
            seed: Seed of every draw.
            progress: Whether to show a bar when it takes more than two seconds.
            most_values: Draws x times x cells x genes that are held at once, which bounds the memory; another
                number gives other draws of the same law.

        Returns:
            A row for each schedule, time and cell. ``X`` is one draw of integer counts; the layers ``mean``,
            ``sd``, ``q05`` and ``q95`` summarise all draws (counts at the cell's own library size);
            ``obs`` has ``perturbation``, ``time`` and ``source_cell``.

        Raises:
            ScheduleError: A perturbation is unknown.
            DataError: A cell was perturbed, or a time is off the grid.
        """
        require_controls(cells, self.schema)
        wanted, times = schedules_of(schedules), times_of(time, self.schema)
        made = Counterfactuals(self.members, wanted, times, draws, seed, progress, most_values).cells(cells)
        return made.to_anndata(wanted, times, cells, draws=draws, seed=seed)

    def effect(
        self,
        schedules: Schedule | Sequence[Schedule],
        versus: Schedule | Trajectories | None = None,
        *,
        cells: Trajectories | None = None,
        draws: int = 200,
        time: float | Sequence[float] | None = None,
        seed: int = 0,
        progress: bool = True,
        most_values: int = MOST_VALUES,
    ) -> Effect:
        """Paired draws of the difference of log pseudobulk profiles between two schedules.

        ``delta = b(schedule) - b(versus)`` with ``b = log(1 + total * sum_n mu_n / sum_ng mu_ng)``, where
        mu is a cell's mean count and total the measured genes' part of the data's median library size. For
        real values b is the mean.

        Args:
            schedules: One ``do(...)`` or several.
            versus: Reference schedule; None for ``do()``. Or the measured cells that the model was trained
                on, with controls of these times: the effect is then forecast as it will be measured against
                these very controls, whose sampling error all measured groups together show
                (:func:`~pyro_citevae.infer.control_error.control_error`).
            cells: Control cells to act on; None for a population drawn from the prior of s and z_0.
            draws: Number of draws, of each member of an ensemble.
            time: Time or times, in the data's unit; None for the last one of the data.
            seed: Seed of every draw.
            progress: Whether to show a bar when it takes more than two seconds.
            most_values: Draws x times x cells x genes that are held at once, which bounds the memory; another
                number gives other draws of the same law.

        Returns:
            Dims (chain, draw, perturbation, time, gene), on the natural log scale.

        Raises:
            ScheduleError: A perturbation is unknown.
            DataError: A cell to act on was perturbed, a time is off the grid, or versus lacks controls of it.
        """
        if cells is not None:
            require_controls(cells, self.schema)
        wanted, times = schedules_of(schedules), times_of(time, self.schema)
        reference = versus if isinstance(versus, Schedule) else do()
        roll = Counterfactuals(self.members, [*wanted, reference], times, draws, seed, progress, most_values)
        error = control_error(roll, versus, cells) if isinstance(versus, Trajectories) else 0.0
        rolled = roll.pseudobulk(cells)
        delta = np.moveaxis(rolled[:-1] - rolled[-1:], 0, 2) - error
        return Effect.of(delta, wanted, times, self.schema, reference)

    def rank(
        self,
        candidates: Sequence[Schedule | str],
        *,
        by: str = "information",
        n_cells: int = 100,
        draws: int = 200,
        directions: int = 3,
        time: float | None = None,
        seed: int = 0,
        progress: bool = True,
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

        The perturbed genes themselves are left out of all three, and the noise of the measurement is that of
        ``n_cells`` predicted control cells.

        Args:
            candidates: Schedules, or names such as ``"A+B"``; tokens without training cells among them.
            by: What to rank by.
            n_cells: Number of cells that a candidate would be measured in.
            draws: Number of draws, of each member of an ensemble; the bound is at most their logarithm.
            directions: Number of principal components of the effect that count for the information.
            time: Time of the measurement, in the data's unit; None for the last one of the data.
            seed: Seed of every draw.
            progress: Whether to show a bar when it takes more than two seconds.

        Returns:
            The :class:`~pyro_citevae.infer.ranking.Ranking`, with a sentence on each candidate.

        Raises:
            DataError: There is no candidate, the criterion is unknown, or a time is off the grid.
            ScheduleError: A candidate is the control, cannot be read, or is unknown.
        """
        wanted = candidates_of(candidates, self.schema)
        model = self.members[0][0]
        roll = Counterfactuals(
            self.members, [*wanted, do()], times_of(time, self.schema), draws, seed, progress
        )
        return rank(roll, by, n_cells, directions, model.has_features.numpy(force=True))

    def programs(
        self,
        schedules: Schedule | Sequence[Schedule],
        *,
        cells: Trajectories | None = None,
        draws: int = 100,
        time: float | None = None,
        seed: int = 0,
    ) -> xr.DataArray:
        """Mean state of each program over the cells, from step 0 to a time, under each schedule.

        Args:
            schedules: One ``do(...)`` or several.
            cells: Control cells to act on; None for a population drawn from the prior of s and z_0.
            draws: Number of draws, of each member of an ensemble.
            time: Last time, in the data's unit; None for the last one of the data.
            seed: Seed of every draw.

        Returns:
            Dims (chain, draw, perturbation, time, program). Programs of different chains are not matched.
        """
        if cells is not None:
            require_controls(cells, self.schema)
        wanted, times = schedules_of(schedules), times_of(time, self.schema)
        walked = np.moveaxis(Counterfactuals(self.members, wanted, times, draws, seed).programs(cells), 0, 2)
        names = idata.state_dims(self.members[0][0], walked.shape[3] - 1)
        return xr.DataArray(
            walked,
            dims=("chain", "draw", "perturbation", "time", "program"),
            coords={
                "chain": np.arange(len(walked)),
                "draw": np.arange(draws),
                "perturbation": [one.label(self.schema.control) for one in wanted],
                "time": names["time"],
                "program": names["program"],
            },
            name="z",
        )
