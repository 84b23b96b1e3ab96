"""Effects: draws of what a schedule changes in the profile of a population."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float

from pyro_citevae.data.interventions import Schedule
from pyro_citevae.data.schema import Schema

__all__ = ["Effect"]


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
