"""Same-step effects: programs move each other within a step, in a given order."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import final

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from pyro_citevae.data.schema import Schema
from pyro_citevae.models.lagged import LaggedExpression
from pyro_citevae.nn.priors import normal
from pyro_citevae.program import Distribution, Mechanism


@final
class Instantaneous(LaggedExpression):
    r"""Lagged effects between programs, and same-step effects from earlier to later ones.

    ::

        W_lkj ~ N(0, 0.3)                                      lagged effect of j on k
        B_kj  ~ N(0, 0.3) for j < k, else 0                    effect of j on k within the step
        a_pk  ~ N(0, s_a)             b_pk ~ N(0, 0.1)         shift and log-scale change of a token

        s_n     ~ N(0, I)             z_{n,0} ~ N(0, I)
        z_{n,t} = B z_t + (1 - decay) z_{t-1} + sum_l W_l tanh(z_{t-l}) + u_t a
                  + sigma exp(u_t b) eps_t,                    eps_t ~ N(0, I)
        x_{n,t} ~ NB(library_n softmax(f(z_t, s_n) + batch_n), theta_g)

    ======  ================================================  =======================
    symbol  meaning                                           shape
    ======  ================================================  =======================
    W       lagged weight of an edge j -> k                   (lag, program, program)
    B       same-step weight of an edge j -> k, site: the     (program, program)
            K (K - 1) / 2 entries below the diagonal, by row
    a, b    shift and log-scale change of a token             (token, program)
    sigma   scale of a program's own noise                    (program,)
    ======  ================================================  =======================

    Solved for z_t, this is the joint normal ``N(M loc, M diag(scale)^2 M^T)`` with ``M = (I - B)^-1``, which
    is lower triangular as ``I - B`` is. A token that shifts one program so moves all those after it at once:
    without the lags, the mean is ``u a M^T``, the layer of the discrepancy VAE. The order of the programs
    is given, which costs nothing, since programs have no names. A guide draws the programs of a step
    independently, unless it is made with ``correlated=True``.

    Args:
        schema: Names and sizes of the screen's axes.
        n_programs: Number K of programs.
        n_invariant: Size S of the invariant state.
        n_lags: Number L of lags.
        hidden: Width of the decoder's hidden layers; 0 makes it linear.
        emission: Family of :class:`Emission`; None for NB, or N(f + batch, scale) where values are real.
        decay: Share of a program's state that a step loses.
        shift_scale: Prior scale s_a of the shifts.

    Source: J. Zhang et al., Identifiability Guarantees for Causal Disentanglement from Soft Interventions
    (2023), for the layer; A. Hyvärinen et al., Estimation of a Structural Vector Autoregression Model Using
    Non-Gaussianity (2010), for lagged beside instantaneous effects.

    Example:
        >>> from pyro_citevae import simulate
        >>> model = Instantaneous(simulate().data.schema, n_programs=3)
        >>> model.mechanism().B.triu().any()
        tensor(False)
    """

    dims = MappingProxyType(
        {
            "W": ("lag", "program", "source"),
            "B": ("edge",),
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
        self.s_a = shift_scale
        into = ((k, j) for k in range(n_programs) for j in range(k))
        self.coords = {"edge": [f"program_{j} -> program_{k}" for k, j in into]}

    def mechanism(self) -> Mechanism:
        """Samples lagged and same-step edges and the tokens' effects."""
        P, K = self.schema.n_tokens, self.n_programs
        W = self.lag_weights()
        below = pyro.sample("B", normal(self.zero, 0.3, K * (K - 1) // 2))
        a = pyro.sample("a", normal(self.zero, self.s_a, P, K))
        b = pyro.sample("b", normal(self.zero, 0.1, P, K))
        row, column = torch.tril_indices(K, K, -1, device=below.device)
        B = below.new_zeros(*below.shape[:-1], K, K)
        B[..., row, column] = below
        return Mechanism(W=W, B=B, a=a, b=b)

    def transition(
        self,
        mechanism: Mechanism,
        history: Sequence[Float[Tensor, "... cell program"]],
        u: Float[Tensor, "cell token"],
    ) -> Distribution:
        """The joint normal of all programs, solved for the effects within the step."""
        loc = self.past(mechanism.W, history) + u @ mechanism.a
        scale = self.sigma * torch.exp(u @ mechanism.b)
        unit = torch.eye(self.n_programs, dtype=loc.dtype, device=loc.device)
        M = torch.linalg.solve_triangular(unit - mechanism.B, unit, upper=False, unitriangular=True)
        # (program, program) or, under a plate of draws, (draw, 1, 1, program, program): a matrix a cell
        return dist.MultivariateNormal((M @ loc[..., None])[..., 0], scale_tril=M * scale[..., None, :])
