"""Continuous time: programs drift between observations that may lie at any distance."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import final

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torchdiffeq import odeint

from pyro_citevae.data.schema import Schema
from pyro_citevae.errors import ModelError
from pyro_citevae.models.expression import ExpressionDynamics
from pyro_citevae.nn.priors import normal
from pyro_citevae.program import Distribution, Mechanism, positive


@final
class ContinuousTime(ExpressionDynamics):
    r"""Programs that drift along an ordinary differential equation, with noise that grows with time.

    ::

        W_kj ~ N(0, 0.3)                                       rate at which j drives k
        a_pk ~ N(0, s_a)              b_pk ~ N(0, 0.1)         rate and log-scale change of a token

        s_n     ~ N(0, I)             z_{n,0} ~ N(0, I)
        dz/dtau = -decay z + W tanh(z) + u_t a                 from tau_{t-1} to tau_t, starting at z_{n,t-1}
        z_{n,t} ~ N(z(tau_t), sigma sqrt(tau_t - tau_{t-1}) exp(u_t b))
        x_{n,t} ~ NB(library_n softmax(f(z_t, s_n) + batch_n), theta_g)

    ======  ================================================  ==================
    symbol  meaning                                           shape
    ======  ================================================  ==================
    tau     end of each latent step, from the schema's grid   (step,)
    W       rate of an edge j -> k                            (program, source)
    a, b    rate and log-scale change of a token              (token, program)
    sigma   noise scale after one unit of time                (program,)
    ======  ================================================  ==================

    Rates are per ``unit``, which is the mean latent step if none is given: so the priors mean the same
    whether the data's times are in hours or in days. A grid that is refined leaves the drift as it is, and a
    time between two observed ones can be predicted once it is in the grid (``step=`` of
    :meth:`Trajectories.from_anndata`). The influence of a program saturates and its state decays, so a
    roll-out stays finite. The integral is taken by a Runge-Kutta method of fourth order (the 3/8 rule) in
    steps of ``solver_step``: the error of a step is of fifth order in it.

    Args:
        schema: Names and sizes of the screen's axes, and the grid.
        n_programs: Number K of programs.
        n_invariant: Size S of the invariant state.
        hidden: Width of the decoder's hidden layers; 0 makes it linear.
        emission: Family of :class:`Emission`; None for NB, or N(f + batch, scale) where values are real.
        decay: Rate at which a state decays.
        shift_scale: Prior scale s_a of the tokens' rates.
        unit: Time that rates refer to, in the schema's unit; None for the mean latent step.
        solver_step: Longest step of the solver, as a share of the unit.

    Raises:
        ModelError: The unit or the solver's step is not positive.

    Source: R. T. Q. Chen et al., Neural Ordinary Differential Equations (2018), for the solver in the
    model; the discretised noise is that of G. Maruyama (1955).

    Example:
        >>> from pyro_citevae import simulate
        >>> ContinuousTime(simulate(times=(1, 2, 9)).data.schema).unit
        3.0
    """

    sigma: Tensor
    dims = MappingProxyType(
        {"W": ("program", "source"), "a": ("token", "program"), "b": ("token", "program")}
    )

    def __init__(
        self,
        schema: Schema,
        *,
        n_programs: int = 16,
        n_invariant: int = 8,
        hidden: int = 64,
        emission: str | None = None,
        decay: float = 0.05,
        shift_scale: float = 0.5,
        unit: float | None = None,
        solver_step: float = 0.25,
    ) -> None:
        super().__init__(
            schema,
            n_programs=n_programs,
            n_invariant=n_invariant,
            hidden=hidden,
            emission=emission,
        )
        self.unit = schema.times[-1] / max(schema.n_steps, 1) if unit is None else unit
        if not (self.unit > 0 and solver_step > 0):
            raise ModelError(
                f"ContinuousTime(unit={self.unit}, solver_step={solver_step}) needs times above 0; give the "
                "time that rates refer to, and a share of it."
            )
        self.decay, self.s_a, self.solver_step = decay, shift_scale, solver_step
        self.sigma = positive(torch.full((n_programs,), 0.3))

    def mechanism(self) -> Mechanism:
        """Samples the rates."""
        P, K = self.schema.n_tokens, self.n_programs
        zero = self.batch_effect.new_zeros(())
        W = pyro.sample("W", normal(zero, 0.3, K, K))
        a = pyro.sample("a", normal(zero, self.s_a, P, K))
        b = pyro.sample("b", normal(zero, 0.1, P, K))
        return Mechanism(W=W, a=a, b=b)

    def regime(self, mechanism: Mechanism, t: int, u: Float[Tensor, "cell token"]) -> Mechanism:
        """Adds how many units of time step t lasts."""
        before, end = self.schema.ends(t)[-2:]
        return mechanism.updated(duration=float(end - before) / self.unit)

    def transition(
        self,
        mechanism: Mechanism,
        history: Sequence[Float[Tensor, "... cell program"]],
        u: Float[Tensor, "cell token"],
    ) -> Distribution:
        """The state that the drift leads to, with noise that grows as the root of time."""
        rate = u @ mechanism.a
        z = history[-1].expand(torch.broadcast_shapes(history[-1].shape, rate.shape))

        def drift(tau: Tensor, z: Tensor) -> Tensor:
            return rate - self.decay * z + torch.tanh(z) @ mechanism.W.mT

        tau = z.new_tensor([0.0, mechanism.duration])
        loc = odeint(drift, z, tau, method="rk4", options={"step_size": self.solver_step})[-1]
        scale = self.sigma * mechanism.duration**0.5 * torch.exp(u @ mechanism.b)
        return dist.Normal(loc, scale).to_event(1)
