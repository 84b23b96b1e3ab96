"""A smoother that runs backwards from each cell's last observation: the default guide."""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_citevae.amortization import AmortizedGuide, normal
from pyro_citevae.data.trajectories import Batch
from pyro_citevae.guides.mechanism_posterior import Family, MechanismPosterior
from pyro_citevae.nn.networks import Perceptron, SteppedPerceptron, joined
from pyro_citevae.program import LatentDynamics


@final
class BackwardSmoother(AmortizedGuide):
    """q(s | x) q(z_tau | x, s, u) prod_{t < tau} q(z_t | z_{t+1}, ..., z_{t+L}, x, s, u, t).

    tau is a cell's last observed step; later steps follow the model's own transition. Each factor is a normal
    whose mean and scale a network gives. The exact posterior of a lag-L process factorises so. With
    ``correlated=True`` and ``correction=0`` the family contains that of a linear Gaussian process whose cells
    are observed at every time under constant doses; with diagonal scales it does not, unless the programs
    share no gene.

    Args:
        model: The model whose posterior is approximated.
        hidden: Width of the encoder and of every network.
        correction: Width of the networks' nonlinear part; 0 leaves linear maps, None means ``hidden``.
        correlated: Let the programs of one step depend on each other (lower-triangular scale).
        mechanism: Family of the global sites' posterior: ``"normal"``, ``"low_rank"`` or ``"flow"``.

    Source: H. E. Rauch, F. Tung, C. T. Striebel, Maximum Likelihood Estimates of Linear Dynamic Systems
    (1965), for the backward factorisation.
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
        K, schema = model.n_programs, model.schema
        n_seen = self.n_summary + model.n_invariant + schema.n_tokens + 2
        self.last_head = Perceptron(n_seen, self.n_outputs, self.correction)
        self.back_head = SteppedPerceptron(
            n_seen + model.n_lags * K, self.n_outputs, max(schema.n_steps, 1), self.correction
        )

    def states(
        self,
        batch: Batch,
        summary: Float[Tensor, "cell summary"],
        s: Float[Tensor, "... cell invariant"],
    ) -> None:
        """Draws the last observed step, then each earlier one given the later ones."""
        cells = torch.arange(batch.n_cells, device=summary.device)
        at_last = joined(summary, s, batch.u[batch.last, cells], self.clock(batch, 0))
        last_output = self.last_head(at_last)
        no_state = last_output.new_zeros(batch.n_cells, self.model.n_programs)
        later: list[Tensor] = [no_state] * self.model.n_lags
        for t in range(batch.n_steps, -1, -1):
            output = last_output
            if t < batch.n_steps:
                seen = joined(*later, summary, s, batch.u[t + 1], self.clock(batch, t))
                is_last = (batch.last == t)[:, None]
                output = torch.where(is_last, last_output, self.back_head(seen, t))
            z = self.state(t, normal(output, self.model.n_programs), batch)
            known = torch.where((batch.last >= t)[:, None], z, 0.0)
            later = [known, *later][: self.model.n_lags]
