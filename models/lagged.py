"""Programs with a memory: what a state keeps of its past, and the noise of a step."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from pyro_citevae.data.schema import Schema
from pyro_citevae.models.context_rows import CONTEXT_TERMS
from pyro_citevae.models.expression import ExpressionDynamics
from pyro_citevae.nn.lags import saturating
from pyro_citevae.nn.priors import normal
from pyro_citevae.program import Distribution, positive


class LaggedExpression(ExpressionDynamics):
    r"""Programs that decay, drive each other with a lag, and are read as gene expression.

    ::

        W_lkj   ~ N(0, 0.3)                                        weight of an edge j -> k
        past_t  = (1 - decay) z_{t-1} + sum_l W_l tanh(z_{t-l})
        z_{n,t} ~ N(mean, sigma exp(change))                       from the subclass

    ======  ================================  =======================
    symbol  meaning                           shape
    ======  ================================  =======================
    W       lagged weight of an edge j -> k   (lag, program, program)
    sigma   noise scale of the transition     (program,)
    ======  ================================  =======================

    At step t the lags reach back to step 0 and no further: a state before it is not known, and its term is
    left out of the sum.

    Args:
        schema: Names and sizes of the screen's axes.
        n_programs: Number K of programs.
        n_invariant: Size S of the invariant state.
        n_lags: Number L of lags.
        hidden: Width of the decoder's hidden layers; 0 makes it linear.
        emission: Family of :class:`Emission`; None for NB, or N(f + offset, scale) where values are real.
        decay: Share of a program's state that a step loses.
        contexts: What a context changes, of ``"start"`` and ``"baseline"``, where there are contexts.
    """

    sigma: Tensor

    def __init__(
        self,
        schema: Schema,
        *,
        n_programs: int,
        n_invariant: int,
        n_lags: int,
        hidden: int,
        emission: str | None,
        decay: float,
        contexts: Sequence[str] = CONTEXT_TERMS,
    ) -> None:
        super().__init__(
            schema,
            n_programs=n_programs,
            n_invariant=n_invariant,
            n_lags=n_lags,
            hidden=hidden,
            emission=emission,
            contexts=contexts,
        )
        self.decay = decay
        self.sigma = positive(torch.full((n_programs,), 0.3))

    def lag_weights(self, *lead: int) -> Float[Tensor, "... lag program program"]:
        """Samples W, with further axes to the left if any are named."""
        K = self.n_programs
        W: Tensor = pyro.sample("W", normal(self.zero, 0.3, *lead, self.n_lags, K, K))
        return W

    def kept(self, history: Sequence[Float[Tensor, "... program"]]) -> Float[Tensor, "... program"]:
        """``(1 - decay) z_{t-1}``."""
        return (1 - self.decay) * history[-1]

    def past(
        self,
        W: Float[Tensor, "... lag program program"],
        history: Sequence[Float[Tensor, "... program"]],
    ) -> Float[Tensor, "... program"]:
        """``(1 - decay) z_{t-1} + sum_l W_l tanh(z_{t-l})``."""
        return self.kept(history) + saturating(W, history)

    def step(self, mean: Float[Tensor, "... program"], change: Float[Tensor, ...]) -> Distribution:
        """``N(mean, sigma exp(change))``, independent over programs."""
        return dist.Normal(mean, self.sigma * torch.exp(change)).to_event(1)
