"""Independent steps: the simplest guide."""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor

from pyro_citevae.amortization import AmortizedGuide, normal
from pyro_citevae.data.batch import Batch
from pyro_citevae.guides.mechanism_posterior import Family, MechanismPosterior
from pyro_citevae.nn.networks import SteppedPerceptron, joined
from pyro_citevae.program import LatentDynamics


@final
class MeanField(AmortizedGuide):
    """q(s | x) prod_t q(z_t | x, s, u_t, t), each step a diagonal normal.

    Too narrow where steps depend on each other; kept as the plain comparison.

    Args:
        model: The model whose posterior is approximated.
        hidden: Width of the encoder and of every network.
        correction: Width of the networks' nonlinear part; 0 leaves linear maps, None means ``hidden``.
        mechanism: Family of :class:`MechanismPosterior`.

    Source: D. P. Kingma and M. Welling, Auto-Encoding Variational Bayes (2014).
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
        n_in = self.n_summary + model.n_invariant + self.dose_code.n_out + 2
        self.head = SteppedPerceptron(n_in, self.n_outputs, model.schema.n_steps + 1, self.correction)

    def states(
        self,
        batch: Batch,
        summary: Float[Tensor, "cell summary"],
        s: Float[Tensor, "... cell invariant"],
        drawn: dict[str, Tensor],
    ) -> None:
        """Draws each step from its own head."""
        head = self.head  # each look-up tells Pyro of every parameter again
        for t in range(batch.n_steps + 1):
            seen = joined(summary, s, self.dose_code(batch.u[max(t, 1)]), self.clock(batch, t))
            self.state(t, normal(head(seen, t), self.model.n_programs), batch)
