"""The tree of a fit: draws of its sites beside their prior, and of some cells, with the groups of ArviZ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import pyro
import torch
import xarray as xr
from pyro import poutine
from torch import Tensor

from pyro_citevae import sites
from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.infer import idata
from pyro_citevae.infer.context_shifts import has_context_shifts, shifts_of
from pyro_citevae.infer.exchangeability import global_draws
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.infer.substitute import RolledOn, Substitute
from pyro_citevae.program import LatentDynamics, Rollout

__all__ = ["FitTree"]

Groups = dict[str, xr.Dataset]


@final
@dataclass(frozen=True)
class FitTree:
    """What a fit's groups are drawn from.

    Attributes:
        model: The fitted program.
        guide: Its guide.
        draws: Number of draws.
    """

    model: LatentDynamics
    guide: AmortizedGuide
    draws: int

    def groups(self, data: Trajectories | None, seed: int) -> Groups:
        """``posterior`` and ``prior``, and the groups on cells where there are some.

        Args:
            data: The cells.
            seed: Seed of the draws.
        """
        with seeded(seed), torch.no_grad():
            mechanism = global_draws(self.guide, self.draws)
            with pyro.plate("draw", self.draws, dim=-3):
                trace = poutine.trace(self.model.aligned_mechanism).get_trace()
            prior: dict[str, Any] = {name: trace.nodes[name]["value"] for name in mechanism}
            made = {
                "posterior": idata.global_dataset(self.model, mechanism, self.draws),
                "prior": idata.global_dataset(self.model, prior, self.draws),
            }
            if has_context_shifts(self.model):
                for name, values in (("posterior", mechanism), ("prior", prior)):
                    shifts = shifts_of(self.model, values)[None]
                    dims = ("chain", "draw", "context", "token", "program")
                    made[name] = made[name].assign(a_context=(dims, shifts))
            return made if data is None else self._with_cells(made, data, mechanism, prior)

    def _with_cells(
        self, made: Groups, data: Trajectories, mechanism: dict[str, Tensor], prior: dict[str, Tensor]
    ) -> Groups:
        """Adds states, predicted values and likelihoods of cells."""
        batch = data.batch().to(self.model.device)
        with Substitute(mechanism, mean=False), pyro.plate("draw", self.draws, dim=-3):
            abducted = poutine.trace(self.guide).get_trace(batch)
        local: dict[str, Any] = {
            name: abducted.nodes[name]["value"] for name in sites.cell_states(abducted.nodes)
        }
        with RolledOn(mechanism | local, batch.last), pyro.plate("draw", self.draws, dim=-3):
            walked = self.model(batch)
        with Substitute(prior, mean=False), pyro.plate("draw", self.draws, dim=-3):
            imagined = self.model(batch)
        slots = batch.observed.T.cpu()

        def rows(value: Tensor) -> np.ndarray:
            return value.transpose(1, 2)[:, slots].cpu().numpy()[None]

        z = torch.stack([state[:, 0] for state in walked.z], dim=2)
        s = walked.s[:, 0] if self.model.n_invariant else None
        states = idata.states_dataset(self.model, data, z, s)
        observed = idata.observed_groups(data)
        pointwise = idata.pointwise(walked.emission, batch.x.dense)  # type: ignore[union-attr]
        # importance weights 1 / p(x) overflow in single precision, and arviz.loo would be NaN or wrong
        values: dict[str, np.ndarray] = {"log_likelihood": rows(pointwise).astype(np.float64)}
        drawn: Mapping[str, Rollout] = {"posterior_predictive": walked, "prior_predictive": imagined}
        for name, one in drawn.items():
            x = rows(one.emission.sample())
            values[name] = idata.as_counts(x) if data.schema.values == "counts" else x.astype(np.float32)
        coords = dict(observed["observed_data"].coords) | idata.sampled(self.draws)
        dims = ("chain", "draw", "cell", "gene")
        of_values = {
            name: xr.Dataset(
                {"x": (dims[: value.ndim], value)}, {dim: coords[dim] for dim in dims[: value.ndim]}
            )
            for name, value in values.items()
        }
        return made | {"posterior": made["posterior"].merge(states)} | of_values | observed
