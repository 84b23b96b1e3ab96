"""Hard interventions: a perturbation cuts its target programs from their past."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import final

import pyro
from jaxtyping import Float
from torch import Tensor

from pyro_citevae.data.schema import Schema
from pyro_citevae.models.lagged import LaggedExpression
from pyro_citevae.nn.lags import kept
from pyro_citevae.nn.priors import gate, normal
from pyro_citevae.program import Distribution, Mechanism


@final
class TargetedLag(LaggedExpression):
    r"""Lagged programs whose incoming edges a perturbation cuts: Pearl's do(.) on a program.

    ::

        A_lkj ~ RelaxedBernoulli(0.2)     W_lkj ~ N(0, 0.3)       lag graph: gate and weight of j -> k
        m_pk  ~ RelaxedBernoulli(0.5)                             which programs a token sets
        a_pk  ~ N(0, s_a)                 b_pk  ~ N(0, 0.1)       to what value, and how loosely

        g_tk     = 1 - prod_p (1 - m_pk)^u_tp                     how far program k is cut off
        s_n      ~ N(0, I)                z_{n,0} ~ N(0, I)
        z_{n,tk} ~ N((1 - g_tk) [(1 - decay) z_{t-1} + sum_l (A_l W_l) tanh(z_{t-l})]_k + (u_t (m a))_k,
                     sigma_k exp((u_t (m b))_k))
        x_{n,t}  ~ NB(library_n softmax(f(z_t, s_n) + batch_n), theta_g)

    ======  ==================================================  =======================
    symbol  meaning                                             shape
    ======  ==================================================  =======================
    A, W    gate in [0, 1] and weight of an edge j -> k         (lag, program, program)
    m, a    target mask, and the value that a target is set to  (token, program)
    b       log-scale change of a target                        (token, program)
    g       share of its past that a program has lost           (cell, program)
    sigma   noise scale of the transition                       (program,)
    ======  ==================================================  =======================

    With m = 1 a program forgets its past and is set by the shift; with m = 0 it is left alone. In between,
    and for a partial dose, it is loosened. Programs downstream go on as before: they feel the
    intervention through the graph alone.

    Args:
        schema: Names and sizes of the screen's axes.
        n_programs: Number K of programs.
        n_invariant: Size S of the invariant state.
        n_lags: Number L of lags.
        hidden: Width of the decoder's hidden layers; 0 makes it linear.
        emission: Family of :class:`Emission`; None for NB, or N(f + batch, scale) where values are real.
        decay: Share of a program's state that a step loses.
        shift_scale: Prior scale s_a of the values that targets are set to.

    Source: J. Pearl, Causality (2009), section 3.2, for the intervention; the lagged process is CiteVAE's.

    Example:
        >>> from pyro_citevae import simulate
        >>> TargetedLag(simulate().data.schema, n_programs=4).dims["m"]
        ('token', 'program')
    """

    dims = MappingProxyType(
        {
            "A": ("lag", "program", "source"),
            "W": ("lag", "program", "source"),
            "m": ("token", "program"),
            "a": ("token", "program"),
            "b": ("token", "program"),
        }
    )

    def __init__(
        self,
        schema: Schema,
        *,
        n_programs: int = 16,
        n_invariant: int = 8,
        n_lags: int = 1,
        hidden: int = 64,
        emission: str | None = None,
        decay: float = 0.05,
        shift_scale: float = 1.0,
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
        self.s_a = shift_scale

    def mechanism(self) -> Mechanism:
        """Samples the lag graph, the targets, and what they are set to."""
        P, K, L = self.schema.n_tokens, self.n_programs, self.n_lags
        A = pyro.sample("A", gate(self.zero + 0.2, L, K, K))
        W = self.lag_weights()
        m = pyro.sample("m", gate(self.zero + 0.5, P, K))
        a = pyro.sample("a", normal(self.zero, self.s_a, P, K))
        b = pyro.sample("b", normal(self.zero, 0.1, P, K))
        return Mechanism(W=A * W, m=m, a=m * a, b=m * b)

    def transition(
        self,
        mechanism: Mechanism,
        history: Sequence[Float[Tensor, "... cell program"]],
        u: Float[Tensor, "cell token"],
    ) -> Distribution:
        """A lagged step, from which the dosed tokens cut their targets."""
        loc = kept(mechanism.m, u) * self.past(mechanism.W, history) + u @ mechanism.a
        return self.step(loc, u @ mechanism.b)
