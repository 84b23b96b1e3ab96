"""A filter that runs forwards and sees the later observations in a recurrent summary."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_citevae.amortization import AmortizedGuide, normal
from pyro_citevae.data.batch import Batch
from pyro_citevae.guides.mechanism_posterior import Family, MechanismPosterior
from pyro_citevae.nn.networks import BackwardRecurrence, SteppedPerceptron, joined
from pyro_citevae.program import LatentDynamics


@final
class ForwardFilter(AmortizedGuide):
    """q(s | x) prod_t q(z_t | z_{t-1}, ..., z_{t-L}, h_t, s, u_t, t).

    h_t summarises the observations x and doses u at steps t and later: their encodings, slot beside slot, and
    the state of a recurrent network (GRU) that runs over them backwards and skips what was not observed.
    Given the L states before it, z_t depends on nothing else, so the exact posterior of a lag-L process
    factorises so. With ``correlated=True`` and ``correction=0``, which leaves the recurrent network out, the
    family contains that of a linear Gaussian process whose cells are observed at every time under constant
    doses.

    Args:
        model: The model whose posterior is approximated.
        hidden: Width of the encoder and of every network.
        correction: Width of the networks' nonlinear part; 0 leaves linear maps, None means ``hidden``.
        correlated: Let the programs of one step depend on each other (lower-triangular scale).
        mechanism: Family of :class:`MechanismPosterior`.

    Source: R. G. Krishnan, U. Shalit, D. Sontag, Structured Inference Networks for Nonlinear State Space
    Models (2017).
    """

    def __init__(
        self,
        model: LatentDynamics,
        *,
        hidden: int = 64,
        correction: int | None = None,
        correlated: bool = False,
        mechanism: Family = "normal",
    ) -> None:
        posterior = MechanismPosterior(model, mechanism)
        super().__init__(model, posterior, hidden=hidden, correction=correction, correlated=correlated)
        schema = model.schema
        if self.correction:
            self.recurrence = BackwardRecurrence(hidden + self.dose_code.n_out + 1, self.correction)
        n_past = model.n_lags * model.n_programs
        n_seen = self.n_summary + self.correction + model.n_invariant + self.dose_code.n_out + 2
        self.head = SteppedPerceptron(n_past + n_seen, self.n_outputs, schema.n_steps + 1, self.correction)

    def states(
        self,
        batch: Batch,
        summary: Float[Tensor, "cell summary"],
        s: Float[Tensor, "... cell invariant"],
        drawn: dict[str, Tensor],
    ) -> None:
        """Draws each step given the steps before it."""
        n_slots, cells = len(batch.step), torch.arange(batch.n_cells, device=summary.device)
        encoded = summary.unflatten(1, (n_slots, self.hidden)).transpose(0, 1)
        doses = self.dose_code(batch.u)
        recurrent = self._recurrent(batch, encoded, doses)
        earlier = [summary.new_zeros(batch.n_cells, self.model.n_programs)] * self.model.n_lags
        head = self.head  # each look-up tells Pyro of every parameter again
        for t in range(batch.n_steps + 1):
            ahead = batch.observed & (batch.step >= t)
            slots = torch.where(ahead[..., None], encoded, 0.0).transpose(0, 1).flatten(1)
            nearest = torch.where(ahead, torch.arange(n_slots, device=cells.device)[:, None], n_slots).amin(0)
            seen = joined(
                *earlier, slots, recurrent[nearest, cells], s, doses[max(t, 1)], self.clock(batch, t)
            )
            z = self.state(t, normal(head(seen, t), self.model.n_programs), batch)
            earlier = [z, *earlier][: self.model.n_lags]

    def _recurrent(
        self,
        batch: Batch,
        encoded: Float[Tensor, "slot cell hidden"],
        doses: Float[Tensor, "step cell _"],
    ) -> Float[Tensor, "slot+1 cell recurrent"]:
        """The recurrent state after each slot and those behind it; the last row has seen nothing."""
        if not self.correction:
            return encoded.new_zeros(len(encoded) + 1, batch.n_cells, 0)
        cells = torch.arange(batch.n_cells, device=encoded.device)
        time = (batch.step / self.model.schema.n_steps)[..., None].to(encoded.dtype)
        states: Tensor = self.recurrence(
            torch.cat([encoded, doses[batch.step, cells], time], dim=-1), batch.observed
        )
        return states
