"""Linked normal states in information form: what a Kalman smoother sums up, and the joint law it leads to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_citevae.nn.networks import joined

__all__ = ["JointNormal", "LinearChain", "derivative", "times"]


@dataclass(frozen=True)
class JointNormal:
    """``N(loc, (R R^T)^-1)`` of all states of a cell, step beside step.

    Attributes:
        loc: Mean of each state.
        root: R, the lower Cholesky factor of the joint precision.
    """

    loc: Float[Tensor, "step ... program"]
    root: Float[Tensor, "... state state"]

    def given_later(
        self, t: int, later: list[Float[Tensor, "... program"]]
    ) -> tuple[Float[Tensor, "... program"], Float[Tensor, "... program program"]]:
        """Mean and precision of ``z_t`` given ``later = [z_{t+1}, ..., z_T]``.

        With the precision's factor R that is ``m_t - R_tt^-T sum_{i > t} R_it^T (z_i - m_i)`` and
        ``R_tt R_tt^T``.
        """
        K = self.loc.shape[-1]
        here, after = slice(t * K, (t + 1) * K), slice((t + 1) * K, None)
        R = self.root[..., here, here]
        loc = self.loc[t]
        if later:
            apart = joined(*(z - m for z, m in zip(later, self.loc[t + 1 :], strict=True)))
            pull = self.root[..., after, here].mT @ apart[..., None]
            loc = loc - torch.linalg.solve_triangular(R.mT, pull, upper=True)[..., 0]
        return loc, R @ R.mT


class LinearChain:
    """Sums the terms ``-(sum_i G_i z_i - c)^T P (sum_i G_i z_i - c) / 2`` of a log density over z_0..z_T.

    Args:
        n_steps: The last step T.
    """

    def __init__(self, n_steps: int) -> None:
        self._steps = range(n_steps + 1)
        self._precision: dict[tuple[int, int], Tensor] = {}
        self._information: dict[int, Tensor] = {}

    def link(
        self,
        G: Mapping[int, Float[Tensor, "... program program"]],
        c: Float[Tensor, "... program"],
        P: Float[Tensor, "... program program"],
    ) -> None:
        """Adds the term that ties the states ``G`` names."""
        for i, G_i in G.items():
            self._information[i] = self._information.get(i, 0) + times(G_i.mT @ P, c)
            for j, G_j in G.items():
                if j <= i:
                    self._precision[i, j] = self._precision.get((i, j), 0) + G_i.mT @ P @ G_j

    def observe(
        self,
        t: int,
        precision: Float[Tensor, "... program program"],
        information: Float[Tensor, "... program"],
    ) -> None:
        """Adds ``-z_t^T precision z_t / 2 + information^T z_t``."""
        self._information[t] = self._information.get(t, 0) + information
        self._precision[t, t] = self._precision.get((t, t), 0) + precision

    def joint(self) -> JointNormal:
        """The normal law whose log density is the sum."""
        K = self._information[0].shape[-1]
        blocks = self._precision
        lead = torch.broadcast_shapes(*(block.shape[:-2] for block in blocks.values()))
        zero = blocks[0, 0].new_zeros(K, K)

        def block(i: int, j: int) -> Tensor:
            found = blocks.get((i, j), zero) if j <= i else blocks.get((j, i), zero).mT
            return found.expand(*lead, K, K)

        rows = [torch.cat([block(i, j) for j in self._steps], dim=-1) for i in self._steps]
        root = torch.linalg.cholesky(torch.cat(rows, dim=-2))
        information = joined(*(self._information[t].expand(*lead, K) for t in self._steps))
        loc = torch.cholesky_solve(information[..., None], root)[..., 0]
        return JointNormal(torch.stack(loc.split(K, dim=-1)), root)


def derivative(
    mean: Callable[[Float[Tensor, "input ... n"]], Float[Tensor, "... m"]],
    at: Float[Tensor, "input ... n"],
    value: Float[Tensor, "... m"],
) -> Float[Tensor, "input ... m n"]:
    """The derivative by each input of a function that acts on each row apart.

    All ``input * n`` directions lie beside each other on a new axis at the left, so that one call has them.

    Args:
        mean: The function.
        at: Where.
        value: ``mean(at)``, which the caller has.

    Example:
        >>> import torch
        >>> at = torch.tensor([[[2.0, 3.0]], [[5.0, 7.0]]])
        >>> derivative(lambda x: x[0] * x[1], at, at[0] * at[1])[0].tolist()
        [[[5.0, 0.0], [0.0, 7.0]]]
    """
    n_inputs, n = len(at), at.shape[-1]
    lead = (1,) * (value.dim() - at.dim() + 1)
    wide = (n_inputs * n, n_inputs, *lead, *at.shape[1:])
    unit = torch.eye(n_inputs * n, dtype=at.dtype, device=at.device)
    unit = unit.reshape(n_inputs * n, n_inputs, *lead, *(1,) * (at.dim() - 2), n)

    def by_direction(states: Tensor) -> Tensor:
        return mean(states.movedim(1, 0)).expand(n_inputs * n, *value.shape)

    point = at.reshape(n_inputs, *lead, *at.shape[1:]).expand(wide).contiguous()
    tangents = unit.expand(wide).contiguous()
    columns: Tensor = torch.func.jvp(by_direction, (point,), (tangents,))[1]
    return columns.unflatten(0, (n_inputs, n)).movedim(1, -1)


def times(matrix: Float[Tensor, "... m n"], vector: Float[Tensor, "... n"]) -> Float[Tensor, "... m"]:
    """A matrix times a vector, on the last axes."""
    return (matrix @ vector[..., None])[..., 0]
