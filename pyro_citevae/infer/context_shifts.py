"""What a perturbation shifts in each context, and how far contexts differ there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.errors import DataError, ModelError, few
from pyro_citevae.infer.exchangeability import global_draws
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.infer.site_axes import coordinates
from pyro_citevae.program import LatentDynamics
from pyro_citevae.shown import Shown

__all__ = ["ContextShifts", "context_shifts", "has_context_shifts", "shifts_of"]

_TAIL = 0.1  # of the 80 % intervals


@final
@dataclass(frozen=True, eq=False, repr=False)
class ContextShifts(Shown):
    r"""The shifts ``a_cp`` of perturbations in contexts, and how much of them contexts have apart.

    ::

        shared_p = |mean_c a_cp|      apart_p = sqrt(mean_c |a_cp - mean_c a_cp|^2)
        share_p  = apart_p^2 / (shared_p^2 + apart_p^2)

    in each draw, over the programs: a share of 0 says that all contexts respond alike, one of 1 that nothing
    is shared. Contexts without perturbed cells have no say: what they shift is a forecast.

    Attributes:
        shifts: Draws of a, dims (chain, draw, context, token, program).
        table: A row a perturbation: ``shared``, ``apart``, ``share`` with ``lower`` and ``upper`` (80 %),
            by the share.
    """

    shifts: xr.DataArray
    table: pd.DataFrame

    @classmethod
    def of(cls, drawn: xr.DataArray, measured: Sequence[str] | None = None) -> ContextShifts:
        """The table of some draws.

        Args:
            drawn: Draws of a.
            measured: Contexts that have perturbed cells, over which shares are taken; None for all.
        """
        shifts = drawn if measured is None else drawn.sel(context=list(measured))
        mean = shifts.mean("context")
        shared = (mean**2).sum("program")
        apart = ((shifts - mean) ** 2).sum("program").mean("context")
        share = apart / (shared + apart).clip(min=1e-12)
        sampled = ("chain", "draw")
        lower, middle, upper = share.quantile([_TAIL, 0.5, 1 - _TAIL], dim=sampled).to_numpy()
        columns = {
            "perturbation": shifts.token.to_numpy(),
            "shared": (shared**0.5).mean(sampled).to_numpy(),
            "apart": (apart**0.5).mean(sampled).to_numpy(),
            "share": middle,
            "lower": lower,
            "upper": upper,
        }
        return cls(drawn, pd.DataFrame(columns).sort_values("share", ignore_index=True))

    def facts(self) -> dict[str, str]:
        """Contexts, and the perturbations that differ least and most."""
        first, last = self.table.iloc[0], self.table.iloc[-1]
        return {
            "contexts": ", ".join(map(str, self.shifts.context.to_numpy())),
            "most alike": f"{first.perturbation} (share apart {first.share:.2f})",
            "least alike": f"{last.perturbation} (share apart {last.share:.2f})",
        }


def has_context_shifts(model: LatentDynamics) -> bool:
    """Whether a model has deviations of contexts, ``g``, beside shifts ``a``."""
    return {"a", "g"} <= {*model.dims} and bool(model.schema.contexts)


def shifts_of(
    model: LatentDynamics, values: Mapping[str, Tensor]
) -> Float[np.ndarray, "draw context token program"]:
    """``a_cp = a_p + sum_c' L_cc' g_c'p`` of each draw.

    Args:
        model: The model.
        values: Draws of the global sites, of shape (draw, 1, 1) + event shape.
    """
    mechanism = model.mechanism_at(values)
    shifts: Tensor = mechanism.a[:, 0, None] + mechanism.g[:, 0]
    return shifts.numpy(force=True)


def context_shifts(
    model: LatentDynamics,
    guide: AmortizedGuide,
    measured: Sequence[str],
    draws: int,
    seed: int,
) -> ContextShifts:
    """Draws of the shifts in each context.

    Args:
        model: The model.
        guide: Its guide.
        measured: Contexts that have perturbed cells.
        draws: Number of draws.
        seed: Seed of the draws.

    Raises:
        ModelError: The model has no deviations of contexts.
        DataError: Fewer than two contexts have perturbed cells.
    """
    if not has_context_shifts(model):
        raise ModelError(
            f"posterior.context_shifts() needs deviations of contexts, and {type(model).__name__} has none "
            "here; fit CiteVAE(contexts=('start', 'baseline', 'mechanism')) to data read with context=."
        )
    if len(measured) < 2:
        raise DataError(
            f"posterior.context_shifts() compares contexts with perturbed cells, and the fit has "
            f"{len(measured)} ({few(measured) or 'none'}); fit data that have perturbed cells in two."
        )
    with seeded(seed):
        values = global_draws(guide, draws)
    known = coordinates(model)
    dims = ("context", "token", "program")
    return ContextShifts.of(
        xr.DataArray(
            shifts_of(model, values)[None],
            dims=("chain", "draw", *dims),
            coords={"chain": [0], "draw": np.arange(draws), **{dim: list(known[dim]) for dim in dims}},
            name="a_context",
        ),
        measured,
    )
