"""Regimes: a discrete state of the cell selects the mechanism."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import final

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from pyro_citevae.data.schema import Schema
from pyro_citevae.errors import ModelError
from pyro_citevae.models.lagged import LaggedExpression
from pyro_citevae.nn.lags import saturating
from pyro_citevae.nn.priors import normal
from pyro_citevae.program import Distribution, Mechanism


@final
class Switching(LaggedExpression):
    r"""Lagged programs whose mechanism switches with a regime of the cell, a Markov chain of R states.

    ::

        pi    ~ Dirichlet(1)          Q_r ~ Dirichlet(1 + 4 [r = r'])     first regime, and the next after r
        v_pr  ~ N(0, 1)                                                   how a token draws cells into r
        W_rlkj ~ N(0, 0.3)            c_rk ~ N(mu_rk, 0.5)                lagged weights and drift in r
        a_pk  ~ N(0, s_a)                                                 shift of a token

        s_n     ~ N(0, I)             z_{n,0} ~ N(0, I)
        r_{n,1} ~ Categorical(softmax(log pi + u_1 v))
        r_{n,t} ~ Categorical(softmax(log Q_{r_{t-1}} + u_t v))
        z_{n,t} ~ N((1 - decay) z_{t-1} + sum_l W_{r_t,l} tanh(z_{t-l}) + c_{r_t} + u_t a, sigma)
        x_{n,t} ~ NB(library_n softmax(f(z_t, s_n) + batch_n), theta_g)

    ======  =============================================  ================================
    symbol  meaning                                        shape
    ======  =============================================  ================================
    pi, Q   law of the first regime, and of the next one   (regime,), (previous, regime)
    v       change of a regime's log odds by a token       (token, regime)
    W       lagged weight of an edge j -> k in a regime    (regime, lag, program, program)
    c       drift of a regime                              (regime, program)
    a       shift of a token                               (token, program)
    r       the cell's regime, as indicators               (cell, regime)
    sigma   noise scale of the transition                  (program,)
    ======  =============================================  ================================

    The regimes have no site in the guide: training sums over them exactly (``TraceEnum_ELBO``), a step at a
    time, at R^2 the cost of a step. Prediction draws them. Their names may be exchanged, so mu starts
    spread out and not at zero, where all regimes would be one.

    Args:
        schema: Names and sizes of the screen's axes.
        n_programs: Number K of programs.
        n_invariant: Size S of the invariant state.
        n_lags: Number L of lags.
        n_regimes: Number R of regimes.
        steered: Let tokens move the regimes (v).
        hidden: Width of the decoder's hidden layers; 0 makes it linear.
        emission: Family of :class:`Emission`; None for NB, or N(f + batch, scale) where values are real.
        decay: Share of a program's state that a step loses.
        shift_scale: Prior scale s_a of the shifts.

    Raises:
        ModelError: There is no regime.

    Source: Z. Ghahramani and G. E. Hinton, Variational Learning for Switching State-Space Models (2000).

    Example:
        >>> from pyro_citevae import simulate
        >>> Switching(simulate().data.schema, n_regimes=3).enumerated
        True
    """

    enumerated = True
    dims: Mapping[str, tuple[str, ...]] = MappingProxyType(
        {
            "pi": ("regime",),
            "Q": ("previous", "regime"),
            "v": ("token", "regime"),
            "W": ("regime", "lag", "program", "source"),
            "c": ("regime", "program"),
            "a": ("token", "program"),
        }
    )

    def __init__(
        self,
        schema: Schema,
        *,
        n_programs: int = 16,
        n_invariant: int = 8,
        n_lags: int = 1,
        n_regimes: int = 2,
        steered: bool = True,
        hidden: int = 64,
        emission: str | None = None,
        decay: float = 0.05,
        shift_scale: float = 0.5,
    ) -> None:
        super().__init__(
            schema,
            n_programs=n_programs,
            n_invariant=n_invariant,
            n_lags=n_lags,
            hidden=hidden,
            emission=emission,
            decay=decay,
        )
        if n_regimes < 1:
            raise ModelError(f"Switching(n_regimes={n_regimes}) needs a regime at least.")
        self.n_regimes, self.steered = n_regimes, steered
        self.s_a = shift_scale
        spread = 0.5 * (torch.arange(n_regimes) - (n_regimes - 1) / 2)
        if not steered:
            self.dims = {site: axes for site, axes in type(self).dims.items() if site != "v"}
        self.mu_c = torch.nn.Parameter(spread[:, None].repeat(1, n_programs))

    def mechanism(self) -> Mechanism:
        """Samples the chain of regimes, the mechanism of each, and the tokens' effects."""
        P, K, R = self.schema.n_tokens, self.n_programs, self.n_regimes
        pi = pyro.sample("pi", dist.Dirichlet(self.zero.new_ones(R)))
        Q = pyro.sample("Q", dist.Dirichlet(1 + 4 * torch.eye(R).to(self.zero)).to_event(1))
        v = pyro.sample("v", normal(self.zero, 1.0, P, R)) if self.steered else self.zero.expand(P, R)
        W = self.lag_weights(R)
        c = pyro.sample("c", normal(self.mu_c, 0.5, R, K))
        a = pyro.sample("a", normal(self.zero, self.s_a, P, K))
        return Mechanism(pi=pi, Q=Q, v=v, W=W, c=c, a=a)

    def regime(self, mechanism: Mechanism, t: int, u: Float[Tensor, "cell token"]) -> Mechanism:
        """Draws each cell's regime in step t, which the next step's depends on."""
        before = mechanism.pi if t == 1 else mechanism.r @ mechanism.Q
        law = dist.Categorical(logits=before.log() + u @ mechanism.v)
        r = pyro.sample(f"r_{t}", law, infer={"enumerate": "parallel"})
        return mechanism.updated(r=one_hot(r, self.n_regimes).to(u.dtype))

    def transition(
        self,
        mechanism: Mechanism,
        history: Sequence[Float[Tensor, "... cell program"]],
        u: Float[Tensor, "cell token"],
    ) -> Distribution:
        """A lagged step by the mechanism of the cell's regime, shifted by the dose."""
        lagged = [saturating(mechanism.W[..., r, :, :, :], history) for r in range(self.n_regimes)]
        each = torch.stack(lagged, dim=-2)
        chosen = (mechanism.r[..., None, :] @ each)[..., 0, :] + mechanism.r @ mechanism.c
        loc = self.kept(history) + chosen + u @ mechanism.a
        return dist.Normal(loc, self.sigma).to_event(1)
