"""The Kalman smoother of the model itself, linearised at each cell under the drawn mechanism."""

from __future__ import annotations

from functools import partial
from typing import final

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.batch import Batch
from pyro_citevae.errors import ModelError
from pyro_citevae.guides.mechanism_posterior import Family, MechanismPosterior
from pyro_citevae.nn.linear_chain import JointNormal, LinearChain, derivative, times
from pyro_citevae.nn.networks import SteppedPerceptron, joined
from pyro_citevae.program import Distribution, LatentDynamics, Mechanism, observed_states

_LONGEST = 2.0  # a Newton step's longest change of a state, which starts as N(0, 1)
_FAR = 3.0  # standard deviations beyond which a residual widens its own variance
_LEAST = 1e-8


@final
class KalmanSmoother(AmortizedGuide):
    r"""q(s | x) and the iterated extended Kalman smoother of z given s and the drawn mechanism.

    ::

        y            = network(x, s, u, t)                                      reference of each state
        q(z | ...)  \propto  p(z_0)  prod_t N(z_t; f(y) + sum_l F_l (z_{t-l} - y_{t-l}), V_t)
                                   prod_t N(x_t; g(y_t) + J_t (z_t - y_t), diag(v_t))

    ======  ==================================================  ================================
    symbol  meaning                                             shape
    ======  ==================================================  ================================
    y       reference that the model is linearised at           (step, cell, program)
    f, V    mean and variance of the transition at y            (cell, program), and their square
    g, v    mean and variance of the emission at y              (slot, cell, gene)
    F       derivative of f by each earlier state               (lag, cell, program, program)
    J       derivative of g by the state at the slot's step     (slot, cell, gene, program)
    ======  ==================================================  ================================

    All are the model's own, under the drawn mechanism. The mean of this normal law is the next y, and
    after ``iterations`` of them the states are drawn from it, the last one first. So the states move with
    every draw of the mechanism as the model says they must, and the network is only asked for a starting
    point. Where the states ignore the mechanism, its posterior is too narrow and its weights are drawn
    towards zero; here neither need be. With a linear transition and a Gaussian emission it is exact.

    A step costs the derivative of the emission by each program, and a Cholesky factor of (T + 1) K rows a
    cell: this guide is for screens of some hundred genes and tens of programs.

    Args:
        model: The model whose posterior is approximated; its initial law and its transition are normal.
        hidden: Width of the encoder and of every network.
        correction: Width of the networks' nonlinear part; 0 leaves linear maps, None means ``hidden``.
        iterations: Newton steps from the network's reference; each is at most 2 long.
        mechanism: Family of :class:`MechanismPosterior`.

    Raises:
        ModelError: The model sums over discrete sites, or its states are not normal.

    Source: B. M. Bell and F. W. Cathey, The Iterated Kalman Filter Update as a Gauss-Newton Method (1993);
    R. Turner and M. Sahani, Two Problems with Variational Expectation Maximisation for Time-Series Models
    (2011), for what independence of states and mechanism costs.
    """

    def __init__(
        self,
        model: LatentDynamics,
        *,
        hidden: int = 64,
        correction: int | None = None,
        iterations: int = 2,
        mechanism: Family = "normal",
    ) -> None:
        if model.enumerated:
            raise ModelError(
                f"KalmanSmoother(model) draws states under one mechanism, and {type(model).__name__} sums "
                "over the regimes of a cell; use BackwardSmoother."
            )
        if iterations < 1:
            raise ModelError(f"KalmanSmoother(iterations={iterations}) needs one Newton step at least.")
        posterior = MechanismPosterior(model, mechanism)
        super().__init__(model, posterior, hidden=hidden, correction=correction)
        self.iterations = iterations
        schema = model.schema
        n_seen = self.n_summary + model.n_invariant + self.dose_code.n_out + 2
        self.reference = SteppedPerceptron(n_seen, model.n_programs, schema.n_steps + 1, self.correction)

    def states(
        self,
        batch: Batch,
        summary: Float[Tensor, "cell summary"],
        s: Float[Tensor, "... cell invariant"],
        drawn: dict[str, Tensor],
    ) -> None:
        """Newton steps from the reference; then draws the last step, and each earlier one given the later."""
        mechanism = self.model.mechanism_at(drawn, batch)
        steps = range(batch.n_steps + 1)
        doses = self.dose_code(batch.u)
        inputs = [joined(summary, s, doses[max(t, 1)], self.clock(batch, t)) for t in steps]
        shape = (*self._lead(drawn, s), batch.n_cells, self.model.n_programs)
        y = torch.stack([self.reference(seen, t).expand(shape) for t, seen in enumerate(inputs)])
        for left in reversed(range(self.iterations)):
            joint = self.smoothed(batch, s, mechanism, y, robust=left > 0)
            y = joint.loc
        later: list[Tensor] = []
        for t in reversed(steps):
            loc, precision = joint.given_later(t, later)
            law = dist.MultivariateNormal(loc, precision_matrix=precision)
            later = [self.state(t, law, batch), *later]

    def smoothed(
        self,
        batch: Batch,
        s: Float[Tensor, "... cell invariant"],
        mechanism: Mechanism,
        y: Float[Tensor, "step ... cell program"],
        *,
        robust: bool,
    ) -> JointNormal:
        """One Newton step: the exact posterior of the model linearised at y."""
        chain = LinearChain(len(y) - 1)
        mechanism = self._transitions(chain, batch, mechanism, y)
        self._observations(chain, batch, s, mechanism, y, robust=robust)
        joint = chain.joint()
        step = joint.loc - y
        longest = step.abs().amax(dim=(0, -1), keepdim=True).clamp(min=_LONGEST)
        return JointNormal(y + step * (_LONGEST / longest), joint.root)

    def _transitions(
        self,
        chain: LinearChain,
        batch: Batch,
        mechanism: Mechanism,
        y: Float[Tensor, "step ... cell program"],
    ) -> Mechanism:
        """Links the states; returns the mechanism of the last step."""
        unit = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
        initial = self.model.initial(mechanism)
        chain.link({0: unit}, initial.mean, self._precision(initial))
        for t in range(1, len(y)):
            mechanism = self.model.regime(mechanism, t, batch.u[t])
            first = max(t - self.model.n_lags, 0)
            law = self.model.transition(mechanism, list(y[first:t]), batch.u[t])
            F = derivative(partial(self._next, mechanism, batch.u[t]), y[first:t], law.mean)
            F = batch.reached(t)[:, None, None] * F  # what comes after the last observation tells nothing
            G = {first + i: -F_i for i, F_i in enumerate(F)} | {t: unit}
            chain.link(G, law.mean - times(F, y[first:t]).sum(0), self._precision(law))
        return mechanism

    def _next(
        self,
        mechanism: Mechanism,
        u: Float[Tensor, "cell token"],
        past: Float[Tensor, "lag ... cell program"],
    ) -> Float[Tensor, "... cell program"]:
        """The mean of the state that follows."""
        mean: Tensor = self.model.transition(mechanism, list(past), u).mean
        return mean

    def _observations(
        self,
        chain: LinearChain,
        batch: Batch,
        s: Float[Tensor, "... cell invariant"],
        mechanism: Mechanism,
        y: Float[Tensor, "step ... cell program"],
        *,
        robust: bool,
    ) -> None:
        """Adds what each observed slot tells of the state at its step."""
        seen = self.model.observation(mechanism, batch.exposure, batch.step, batch.technical)
        under_draws = y.dim() > 3  # the slots' axis then stays, of size one
        at, s_at = observed_states(batch.step, list(y), s)

        def emission(z: Tensor) -> Distribution:
            return self.model.emission(seen, z, s_at.expand(*z.shape[:-1], -1), batch.library)

        law = emission(at)
        J = derivative(lambda z: emission(z[0]).mean, at[None], law.mean)
        residual, v = self.observations(batch) - law.mean, law.variance
        if robust:
            v = torch.maximum(v, residual.square() / _FAR**2)
        weight = torch.where(batch.observed[..., None], v.clamp(min=_LEAST), torch.inf).reciprocal()
        weighted = J[0].mT * weight[..., None, :]
        precision = weighted @ J[0]
        information = times(precision, at) + times(weighted, residual)
        for t in range(len(y)):
            here = (batch.step == t)[..., None]
            chain.observe(
                t,
                torch.where(here[..., None], precision, 0.0).sum(-4, keepdim=under_draws),
                torch.where(here, information, 0.0).sum(-3, keepdim=under_draws),
            )

    def _lead(self, drawn: dict[str, Tensor], s: Float[Tensor, "... cell invariant"]) -> torch.Size:
        """The axes of a state to the left of its cells: those of a plate of draws, if any."""
        dims = self.globals.event_dims
        plates = [drawn[name].shape[: drawn[name].dim() - n][:-1] for name, n in dims.items()]
        return torch.broadcast_shapes(s.shape[:-2], *plates)

    def _precision(self, law: Distribution) -> Float[Tensor, "... program program"]:
        """The inverse covariance of a state's law."""
        if isinstance(law, dist.MultivariateNormal):
            precision: Tensor = law.precision_matrix
            return precision
        if isinstance(law, dist.Independent) and isinstance(law.base_dist, dist.Normal):
            return torch.diag_embed(law.base_dist.scale.square().reciprocal())
        raise ModelError(
            f"KalmanSmoother(model) needs normal laws of the states, and {type(self.model).__name__} gives "
            f"{law}; use BackwardSmoother."
        )
