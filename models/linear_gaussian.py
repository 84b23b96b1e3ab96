"""A linear Gaussian state-space model with perturbed shifts: the case with an exact posterior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pyro_citevae.data.schema import Schema
from pyro_citevae.errors import ModelError
from pyro_citevae.nn.lags import linear
from pyro_citevae.program import Distribution, LatentDynamics, Mechanism, positive, share


@final
class LinearGaussian(LatentDynamics):
    """Linear lags and a linear Gaussian emission.

    ::

        z_{n,0} ~ N(0, I)
        z_{n,t} ~ N((1 - decay) z_{t-1} + sum_l W_l z_{t-l} + u_t a, sigma)
        x_{n,t} ~ N(C z_t + e, r)

    ======  ===================  =======================
    symbol  meaning              shape
    ======  ===================  =======================
    W       lag weights j -> k   (lag, program, program)
    a       shift of a token     (token, program)
    C, e    loading, intercept   (gene, program), (gene,)
    ======  ===================  =======================

    Every global value is a parameter, so given them the posterior of the states is Gaussian and the
    evidence is exact by Kalman filtering: the oracle of the tests.

    Args:
        schema: Names and sizes of the screen's axes.
        n_programs: Number K of programs.
        n_lags: Number L of lags.

    Raises:
        ModelError: The data are counts.

    Source: R. E. Kalman, A New Approach to Linear Filtering and Prediction Problems (1960).
    """

    decay: Tensor
    sigma: Tensor
    r: Tensor

    def __init__(self, schema: Schema, *, n_programs: int = 3, n_lags: int = 1) -> None:
        super().__init__(schema, n_programs=n_programs, n_lags=n_lags)
        if schema.values != "real":
            raise ModelError("LinearGaussian(schema) needs real values; read the data with values='real'.")
        K, G = n_programs, schema.n_genes
        self.W = nn.Parameter(torch.zeros(n_lags, K, K))
        self.a = nn.Parameter(torch.zeros(schema.n_tokens, K))
        self.loading = nn.Linear(K, G)
        self.decay = share(torch.full((K,), 0.2))
        self.sigma = positive(torch.full((K,), 0.5))
        self.r = positive(torch.full((G,), 0.7))

    def mechanism(self) -> Mechanism:
        """The lag weights and the shifts: parameters, no site."""
        return Mechanism(W=self.W, a=self.a)

    def initial(self, mechanism: Mechanism) -> Distribution:
        """Standard normal."""
        return dist.Normal(torch.zeros_like(self.sigma), 1.0).to_event(1)

    def transition(
        self,
        mechanism: Mechanism,
        history: Sequence[Float[Tensor, "... cell program"]],
        u: Float[Tensor, "cell token"],
    ) -> Distribution:
        """A linear lagged step, shifted by the dose."""
        loc = (1 - self.decay) * history[-1] + linear(mechanism.W, history) + u @ mechanism.a
        return dist.Normal(loc, self.sigma).to_event(1)

    def emission(
        self,
        mechanism: Mechanism,
        z: Float[Tensor, "... slot cell program"],
        s: Float[Tensor, "... slot cell invariant"],
        library: Float[Tensor, "slot cell"],
    ) -> Distribution:
        """Gaussian around a linear map of the states."""
        return dist.Normal(self.loading(z), self.r).to_event(1)
