"""The recursion that runs backwards from each cell's last observation."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.batch import Batch
from pyro_citevae.guides.mechanism_posterior import MechanismPosterior
from pyro_citevae.nn.networks import Perceptron, SteppedPerceptron, joined
from pyro_citevae.program import Distribution, LatentDynamics


class Smoother(AmortizedGuide):
    """q(s | x) q(z_tau | x, s, u) prod_{t < tau} q(z_t | z_{t+1}, ..., z_{t+L}, x, s, u, t).

    tau is a cell's last observed step. Given enough capacity this is how the exact posterior of a lag-L
    process factorises; subclasses say which law a network's output stands for.

    Args:
        model: The model whose posterior is approximated.
        mechanism_posterior: q(global).
        **options: Those of :class:`AmortizedGuide`.

    Source: H. E. Rauch, F. Tung, C. T. Striebel, Maximum Likelihood Estimates of Linear Dynamic Systems
    (1965), for the backward factorisation.
    """

    def __init__(
        self, model: LatentDynamics, mechanism_posterior: MechanismPosterior, **options: Any
    ) -> None:
        super().__init__(model, mechanism_posterior, **options)
        schema = model.schema
        n_seen = self.n_summary + model.n_invariant
        n_moving = self.dose_code.n_out + 2
        self.n_given = n_seen + model.n_lags * model.n_programs + n_moving
        self.last_head = Perceptron(n_seen + n_moving, self.n_outputs, self.correction)
        self.back_head = SteppedPerceptron(
            self.n_given, self.n_outputs, max(schema.n_steps, 1), self.correction
        )

    @abstractmethod
    def law(
        self,
        output: Float[Tensor, "... cell output"],
        seen: Float[Tensor, "... cell seen"],
        moving: Float[Tensor, "... cell moving"],
    ) -> Distribution:
        """The law of a state from its head's output, and from all that it is conditioned on.

        Args:
            output: Output of the head.
            seen: What the laws of all steps see: the encoded observations, and the invariant state.
            moving: What this one sees besides: later states, dose and clock.
        """

    def states(
        self,
        batch: Batch,
        summary: Float[Tensor, "... cell summary"],
        s: Float[Tensor, "... cell invariant"],
        drawn: dict[str, Tensor],
    ) -> None:
        """Draws the last observed step, then each earlier one given the later ones."""
        cells = torch.arange(batch.n_cells, device=summary.device)
        seen, doses = joined(summary, s), self.dose_code(batch.u)
        last_output = self.last_head(joined(seen, doses[batch.last, cells], self.clock(batch, 0)))
        no_state = last_output.new_zeros(batch.n_cells, self.model.n_programs)
        later: list[Tensor] = [no_state] * self.model.n_lags
        back_head = self.back_head.held(seen)
        for t in range(batch.n_steps, -1, -1):
            moving = joined(*later, doses[min(t + 1, batch.n_steps)], self.clock(batch, t))
            is_last = (batch.last == t)[:, None]
            output = torch.where(is_last, last_output, back_head(moving, t))
            z = self.state(t, self.law(output, seen, moving), batch)
            known = torch.where((batch.last >= t)[:, None], z, 0.0)
            later = [known, *later][: self.model.n_lags]
