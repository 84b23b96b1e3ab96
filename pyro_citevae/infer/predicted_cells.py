"""Predicted cells: one draw of counts for each, and summaries over all draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from scipy import sparse

from pyro_citevae.data.anndata_io import predictions
from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.trajectories import Trajectories

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["PredictedCells"]


@dataclass(frozen=True)
class PredictedCells:
    """Predicted cells, a row for each schedule, time and source cell, with summaries over draws.

    Attributes:
        draw: A draw of integer counts of each row, with cell i that of draw i.
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
        """The cells under their labels, times and the names of their source cells.

        What the source cells' file says of them, and of the genes, is kept beside; our columns come first.
        """
        schema = cells.schema
        labels = np.array([one.label(schema.control) for one in schedules], dtype=object)
        obs = {
            "perturbation": labels[self.schedule],
            "time": np.array(times)[self.time],
            "source_cell": cells.names[self.cell].astype(str),
        }
        if schema.contexts:
            obs["context"] = np.array(schema.contexts, dtype=object)[cells.context[self.cell]]
        more = uns | {"time_unit": schema.time_unit}
        made = predictions(self.draw, self.layers, obs, schema.genes, more)
        if cells.obs is not None:
            first = np.searchsorted(cells.row_cell, self.cell)
            columns = cells.reading.columns if cells.reading else None
            said = (
                [one for one in (columns.perturbation, columns.time, columns.dose) if one] if columns else []
            )
            kept = cells.obs.iloc[first].set_axis(made.obs_names).drop(columns=said, errors="ignore")
            ours = cast(pd.DataFrame, made.obs)
            made.obs = pd.concat([ours, kept.drop(columns=list(obs), errors="ignore")], axis=1)
        if cells.var is not None:
            made.var = cells.var.set_axis(made.var_names)
        return made
