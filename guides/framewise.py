"""Each state from its own observation: the guide of sequences whose every step is seen whole."""

from __future__ import annotations

from typing import final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

from pyro_citevae.amortization import AmortizedGuide, loc_scale
from pyro_citevae.data.batch import Batch
from pyro_citevae.guides.mechanism_posterior import Family, MechanismPosterior
from pyro_citevae.nn.networks import Perceptron
from pyro_citevae.program import LatentDynamics


@final
class Framewise(AmortizedGuide):
    """q(s | x) prod_t q(z_t | x_t) where step t was observed, and the model's own transition elsewhere.

    One network reads every observation, whatever its step, dose and neighbours. An image that shows a state
    nearly without noise needs no more, and the network learns from each image alike: a smoother has weights
    for each step instead. A single observation is read as one of a sequence is, so that states of independent
    scenes can be asked for.

    Args:
        model: The model whose posterior is approximated.
        hidden: Width of the encoder and of the network that reads its output.
        correction: Width of the network's nonlinear part; 0 leaves a linear map, None means ``hidden``.
        mechanism: Family of :class:`MechanismPosterior`.

    Source: D. P. Kingma and M. Welling, Auto-Encoding Variational Bayes (2014); P. Lippe et al., CITRIS:
    Causal Identifiability from Temporal Intervened Sequences (2022), for its use on sequences of images.
    """

    def __init__(
        self,
        model: LatentDynamics,
        *,
        hidden: int = 64,
        correction: int | None = None,
        mechanism: Family = "normal",
    ) -> None:
        super().__init__(model, MechanismPosterior(model, mechanism), hidden=hidden, correction=correction)
        self.head = Perceptron(hidden, self.n_outputs, self.correction)

    def states(
        self,
        batch: Batch,
        summary: Float[Tensor, "cell summary"],
        s: Float[Tensor, "... cell invariant"],
        drawn: dict[str, Tensor],
    ) -> None:
        """Draws each observed step from its observation, and each other one from the model's transition."""
        model = self.model
        mechanism, L = model.mechanism_at(drawn, batch), model.n_lags
        encoded = summary.unflatten(-1, (-1, self.hidden)).transpose(0, 1)
        loc, scale = loc_scale(self.head(encoded))
        z: list[Tensor] = []
        for t in range(batch.n_steps + 1):
            law = model.initial(mechanism)
            if t:
                with poutine.block():
                    mechanism = model.regime(mechanism, t, batch.u[t])
                law = model.transition(mechanism, z[-L:], batch.u[t])
            at = batch.observed & (batch.step == t)
            slot, seen = at.int().argmax(0), at.any(0)[:, None]
            cells = torch.arange(batch.n_cells, device=slot.device)
            own = dist.Normal(
                torch.where(seen, loc[slot, cells], law.mean),
                torch.where(seen, scale[slot, cells], law.variance.sqrt()),
            )
            z.append(self.state(t, own.to_event(1), batch))
