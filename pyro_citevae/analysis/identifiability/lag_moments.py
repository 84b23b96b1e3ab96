"""What the lag weights change of the observed laws: derivatives of means and covariances of the states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor

from pyro_citevae.analysis.identifiability.posterior_points import Points
from pyro_citevae.program import Mechanism

__all__ = ["LagJacobian", "lag_jacobian"]

_MOST_CONDITIONS = 20
_MOST_VALUES = 20_000_000


@dataclass(frozen=True)
class LagJacobian:
    """The Gram matrix ``J^T J`` of the Jacobian J of the observed moments by the lag weights.

    Attributes:
        gram: Gram matrix in each draw; a moment is measured in standard deviations of the states.
        edges: Name of each weight.
        n_laws: Number of laws, each of a condition and a step, that were looked at.
    """

    gram: Float[Tensor, "draw edge edge"]
    edges: tuple[str, ...]
    n_laws: int


def lag_jacobian(points: Points) -> LagJacobian | None:
    """Differentiates what is observed of the states by each lag weight W of the mechanism, gates included.

    ::

        m_t, P_t    mean and covariance of (z_{t-L+1}, ..., z_t), from z_0 on, under each condition
        m_{t+1}     the mean of the transition over 2 L K points m_t +- sqrt(L K) chol(P_t)
        P_{t+1}     their covariance, and the mean variance of the transition

    That is exact for a linear transition, and assumes normal states for another. With a decoder of full
    rank, what is observed has no more moments than these up to second order. Of more than 20 conditions,
    that many are looked at, evenly spread.

    Returns:
        The derivatives, or None for a model whose mechanism has no W.

    Source: I. Arasaratnam and S. Haykin, Cubature Kalman Filters (2009), for the points.
    """
    W = vars(points.mechanism).get("W")
    if not isinstance(W, Tensor) or W.dim() not in (2, 3, 4, 5):
        return None
    event = W.shape[-(W.dim() if W.dim() <= 3 else W.dim() - 2) :]
    lead = W.shape[: W.dim() - len(event)] or (1, 1)
    W = W.detach().reshape(1, *lead, *event)
    moments = _Moments(points)
    n_edges = event.numel()
    unit = torch.eye(n_edges, device=W.device).reshape(n_edges, *[1] * len(lead), *event)
    chunk = max(1, _MOST_VALUES // moments.n_values)
    with torch.no_grad():
        columns = [
            torch.func.jvp(
                moments,
                (W.expand(len(part), *W.shape[1:]).contiguous(),),
                (part.expand(-1, *W.shape[1:]).contiguous(),),
            )[1]
            for part in unit.split(chunk)
        ]
    jacobian = torch.cat(columns)
    gram = torch.stack([jacobian[:, i].double() @ jacobian[:, i].double().T for i in range(points.n_draws)])
    return LagJacobian(gram, _names(event), moments.n_laws)


class _Moments:
    """The observed moments as a function of the lag weights, for all draws and conditions at once."""

    def __init__(self, points: Points) -> None:
        self.points = points
        data, K = points.data, points.model.n_programs
        observed = np.unique(np.stack([data.condition[data.row_cell], data.row_step]), axis=1)
        present = np.unique(observed[0])
        shown = np.linspace(0, len(present) - 1, min(len(present), _MOST_CONDITIONS)).round().astype(int)
        kept = present[np.unique(shown)]
        at = observed[:, np.isin(observed[0], kept)]
        self.n_laws = at.shape[1]
        self.rows = [
            torch.from_numpy(np.searchsorted(kept, at[0, at[1] == t])) for t in range(points.tau + 1)
        ]
        self.n_sides = 2 * points.model.n_lags * K
        u = points.doses([data.conditions[i] for i in kept])
        self.u = u.repeat_interleave(self.n_sides, dim=1)
        self.n_conditions = len(kept)
        self.joint = data.schema.design == "sequences"
        self.n_values = points.n_draws * self.u.shape[1] * K * points.model.n_lags

    def __call__(self, W: Tensor) -> Float[Tensor, "direction draw moment"]:
        """The moments under each direction's weights."""
        points, K = self.points, self.points.model.n_programs
        mechanism = points.mechanism.updated(W=W)
        initial = points.model.initial(mechanism)
        lead = (W.shape[0], points.n_draws, 1, self.n_conditions)
        mean, covariance = initial.mean.expand(*lead, K), _covariance(initial).expand(*lead, K, K)
        found = []
        for t in range(1, points.tau + 1):
            with poutine.block():
                mechanism = points.model.regime(mechanism, t, self.u[t])
            mean, covariance = self._step(mechanism, mean, covariance, t)
            seen = mean.shape[-1] if self.joint else K
            found.append(self._observed(mean[..., -seen:], covariance[..., -seen:, -seen:], t))
            kept = min(mean.shape[-1], points.model.n_lags * K)
            mean, covariance = mean[..., -kept:], covariance[..., -kept:, -kept:]
        return torch.cat(found, dim=-1)

    def _step(self, mechanism: Mechanism, mean: Tensor, covariance: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the states that the transition sees and of the one that follows."""
        K, half = self.points.model.n_programs, self.n_sides // 2
        root = torch.linalg.cholesky(covariance)
        root = torch.nn.functional.pad(root, (0, half - root.shape[-1]))
        sides = half**0.5 * torch.cat([root, -root], dim=-1).mT
        past = (mean[..., None, :] + sides).flatten(-3, -2)
        law = self.points.model.transition(mechanism, list(past.split(K, dim=-1)), self.u[t])
        shape = (*mean.shape[:-1], self.n_sides)
        after = law.mean.expand(*past.shape[:-1], K).unflatten(-2, shape[-2:])
        centre = after.mean(-2)
        both = torch.cat([sides, after - centre[..., None, :]], dim=-1)
        joint = both.mT @ both / self.n_sides
        noise = _covariance(law).expand(*past.shape[:-1], K, K).unflatten(-3, shape[-2:]).mean(-3)
        wide = torch.nn.functional.pad(noise, (mean.shape[-1], 0, mean.shape[-1], 0))
        return torch.cat([mean, centre], dim=-1), joint + wide

    def _observed(self, mean: Tensor, covariance: Tensor, t: int) -> Tensor:
        """The entries of the conditions that have cells at this step, in units of the states."""
        unit = self.points.unit.repeat(mean.shape[-1] // self.points.model.n_programs)
        row, column = torch.tril_indices(len(unit), len(unit))
        covariance = (covariance / unit / unit[:, None])[..., row, column]
        moments = torch.cat([mean / unit, covariance], dim=-1)[..., self.rows[t], :]
        return moments.flatten(-3)


def _covariance(law: Any) -> Tensor:
    """The covariance of a law's components."""
    full = getattr(law, "covariance_matrix", None)
    return torch.diag_embed(law.variance) if full is None else full


def _names(event: torch.Size) -> tuple[str, ...]:
    """``program_0 -> program_1 at lag 1``, in the order of the entries [lag, program, source]."""
    lags = event[0] if len(event) == 3 else 1
    K = event[-1]
    after = [f" at lag {lag + 1}" if len(event) == 3 else "" for lag in range(lags)]
    return tuple(
        f"program_{j} -> program_{k}{after[lag]}" for lag in range(lags) for k in range(K) for j in range(K)
    )
