"""A normalising flow on top of the smoother: for posteriors that are no normal."""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor

from pyro_citevae.amortization import loc_scale
from pyro_citevae.guides.mechanism_posterior import Family, MechanismPosterior
from pyro_citevae.guides.smoother import Smoother
from pyro_citevae.nn.flow import InverseAutoregressiveFlow
from pyro_citevae.nn.networks import joined
from pyro_citevae.program import Distribution, LatentDynamics


@final
class Flow(Smoother):
    """q(theta) q(s | x, theta) prod_t q(z_t | z_{t+1}, ..., z_{t+L}, x, s, u, theta, t), backwards in t.

    theta is the mechanism, so states and mechanism may depend on each other. Each factor is the smoother's,
    ``loc + scale * eps``, with a flow f in between that sees the same: ``loc + scale * f(eps)``. f starts at
    the identity, and the mechanism's own flow too, so that training starts at the smoother.

    Args:
        model: The model whose posterior is approximated.
        hidden: Width of the encoder and of every network.
        correction: Width of the networks' nonlinear part; 0 leaves linear maps, None means ``hidden``.
        mechanism: Family of :class:`MechanismPosterior`.

    Source: D. P. Kingma et al., Improved Variational Inference with Inverse Autoregressive Flow (2016).
    """

    def __init__(
        self,
        model: LatentDynamics,
        *,
        hidden: int = 64,
        correction: int | None = None,
        mechanism: Family = "flow",
    ) -> None:
        posterior = MechanismPosterior(model, mechanism)
        super().__init__(model, posterior, hidden=hidden, correction=correction, conditional=True)
        self.state_flow = InverseAutoregressiveFlow(model.n_programs, self.n_given, hidden=hidden)
        if model.n_invariant:
            self.invariant_flow = InverseAutoregressiveFlow(model.n_invariant, self.n_summary, hidden=hidden)

    def invariant(self, summary: Float[Tensor, "... cell summary"]) -> Distribution:
        """The smoother's normal law of s, pushed through the flow."""
        return self.invariant_flow(*loc_scale(self.invariant_head(summary)), summary)

    def law(
        self,
        output: Float[Tensor, "... cell output"],
        seen: Float[Tensor, "... cell seen"],
        moving: Float[Tensor, "... cell moving"],
    ) -> Distribution:
        """The smoother's normal law of a state, pushed through the flow."""
        return self.state_flow(*loc_scale(output), joined(seen, moving))
