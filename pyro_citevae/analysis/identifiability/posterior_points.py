"""Where a fitted model is looked at: states, mechanisms and laws of a step at draws of its posterior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, final

import numpy as np
import pyro
import torch
from jaxtyping import Float, Int
from pyro import poutine
from torch import Tensor

from pyro_citevae.data.batch import Batch
from pyro_citevae.data.interventions import Dose, Schedule, do
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.infer.exchangeability import global_draws
from pyro_citevae.infer.posterior import Posterior
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.infer.substitute import Substitute
from pyro_citevae.program import Distribution, LatentDynamics, Mechanism
from pyro_citevae.sites import INVARIANT, states_to

__all__ = ["Points", "components"]


@final
@dataclass(frozen=True)
class Points:
    """Draws of the mechanism and of cells' states, and the laws of a step that they lead to.

    A step's law is asked of the model's own hooks: ``regime`` for the steps 1..tau in turn, then
    ``transition`` at tau, the last step that was observed.

    Attributes:
        model: The fitted model.
        data: The cells.
        batch: The same cells as the program sees them.
        mechanism: Drawn global values, as the hooks see them.
        s: Drawn invariant states.
        z: Drawn states at steps 0..tau; those after a cell's last observation are no draws of the posterior.
        gates: Drawn target masks m, if the model has that site.
    """

    model: LatentDynamics
    data: Trajectories
    batch: Batch
    mechanism: Mechanism
    s: Float[Tensor, "draw 1 cell invariant"]
    z: Float[Tensor, "step draw 1 cell program"]
    gates: Float[Tensor, "draw token program"] | None

    @classmethod
    def of(cls, posterior: Posterior, data: Trajectories, draws: int, most_cells: int, seed: int) -> Points:
        """Draws at most so many cells, evenly spread."""
        model, guide = posterior.model, posterior.guide
        shown = data.thinned(most_cells)
        batch = shown.batch().to(model.device)
        with seeded(seed), torch.no_grad():
            values = global_draws(guide, draws)
            with Substitute(values, mean=False), pyro.plate("draw", draws, dim=-3):
                nodes: Any = poutine.trace(guide).get_trace(batch).nodes
            mechanism = model.mechanism_at(values)
        z = torch.stack([nodes[name]["value"] for name in states_to(int(batch.last.max()))])
        s = nodes[INVARIANT]["value"] if model.n_invariant else z[0][..., :0]
        masked = model.axes("m") == ("token", "program")
        return cls(
            model, shown, batch, mechanism, s, z, values["m"][:, 0, 0] if masked and "m" in values else None
        )

    @property
    def n_draws(self) -> int:
        """Number of draws."""
        return self.z.shape[1]

    @property
    def tau(self) -> int:
        """The last observed step."""
        return len(self.z) - 1

    @cached_property
    def followed(self) -> Int[Tensor, " followed"]:
        """Positions of the cells whose states up to tau are draws of the posterior."""
        return (self.batch.last == self.tau).nonzero()[:, 0]

    @cached_property
    def unit(self) -> Float[Tensor, " program"]:
        """Standard deviation of each program's state: what its size is measured by."""
        return self.z[:, ..., self.followed, :].flatten(0, -2).std(0).clamp(min=1e-12)

    @cached_property
    def last_states(self) -> Float[Tensor, "draw 1 cell program"]:
        """Each cell's states at its last observation."""
        cells = torch.arange(self.batch.n_cells, device=self.z.device)
        return self.z[self.batch.last, :, :, cells].movedim(0, 2)

    @cached_property
    def schedules(self) -> tuple[Schedule, ...]:
        """The conditions that have cells, the control first if it is one of them."""
        found = [self.data.conditions[i] for i in np.unique(self.data.condition)]
        return tuple(sorted(found, key=lambda one: not one.is_control))

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """The perturbation tokens that have training cells."""
        known = zip(self.data.schema.tokens, self.model.seen.tolist(), strict=True)
        return tuple(token for token, seen in known if seen)

    def doses(self, schedules: Sequence[Schedule]) -> Float[Tensor, "step schedule token"]:
        """What each schedule doses up to tau, a cell each."""
        u = np.stack([self.data.schema.doses(one, self.tau) for one in schedules], axis=1)
        return torch.from_numpy(u).to(self.z.device)

    def regime(self, u: Float[Tensor, "step cell token"]) -> Mechanism:
        """The mechanism in step tau, after the regimes of the steps before it."""
        mechanism = self.mechanism
        for t in range(1, self.tau + 1):
            with poutine.block():
                mechanism = self.model.regime(mechanism, t, u[t])
        return mechanism

    def history(self, cells: Int[Tensor, " cell"]) -> list[Float[Tensor, "draw 1 cell program"]]:
        """What the transition to tau sees of some cells."""
        return list(self.z[max(self.tau - self.model.n_lags, 0) : self.tau, ..., cells, :])

    def one_cell(self, states: Float[Tensor, "draw 1 cell program"]) -> Float[Tensor, "draw 1 1 program"]:
        """The states of one of the followed cells, another one in each draw."""
        draws = torch.arange(self.n_draws, device=states.device)
        return states[draws, :, self.followed[draws % len(self.followed)]][:, :, None]

    def common_history(self, n: int) -> list[Float[Tensor, "draw 1 n program"]]:
        """One cell's history in each draw, n times."""
        everyone = torch.arange(self.batch.n_cells, device=self.z.device)
        return [self.one_cell(state).expand(-1, -1, n, -1) for state in self.history(everyone)]

    def law(self, schedules: Sequence[Schedule]) -> Distribution:
        """The law of the state at tau under each schedule, from the same history."""
        u = self.doses(schedules)
        return self.model.transition(self.regime(u), self.common_history(len(schedules)), u[-1])

    @cached_property
    def under_schedules(self) -> Distribution:
        """The law under each of the schedules."""
        return self.law(self.schedules)

    @cached_property
    def under_tokens(self) -> Distribution:
        """The law under the control, then under the largest dose of each token alone."""
        largest = self.model.schema.largest_dose
        return self.law([do(), *(Schedule((Dose(token, amount=largest(token)),)) for token in self.tokens)])

    def full(self, value: Tensor, n: int) -> Float[Tensor, "draw n program"]:
        """A value of n laws in double precision, with the axis of the draws."""
        return value.detach().expand(self.n_draws, 1, n, -1)[:, 0].double()


def components(law: Distribution) -> Any:
    """The law of each component apart, or None where components depend on each other within a step."""
    independent = isinstance(law, torch.distributions.Independent)
    return law.base_dist if independent and not law.base_dist.event_shape else None
