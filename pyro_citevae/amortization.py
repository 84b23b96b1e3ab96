"""The amortised guide: one visible Pyro program for the approximate posterior."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro import poutine
from pyro.nn import PyroModule
from torch import Tensor
from torch.nn.functional import softplus

from pyro_citevae.data.trajectories import Batch
from pyro_citevae.nn.networks import Perceptron
from pyro_citevae.program import Distribution, LatentDynamics, Recorded

__all__ = ["AmortizedGuide", "normal", "normal_size"]


class AmortizedGuide(PyroModule, metaclass=Recorded):  # type: ignore[metaclass]
    """q(global) q(s | x) q(z_0, ..., z_T | x, u, s); subclasses say how the states factorise.

    The invariant state sees the counts and the technical batch, never the dose or the time.

    Args:
        model: The model whose posterior is approximated.
        mechanism_posterior: q(global), such as ``MechanismPosterior(model)``: draws every site of
            ``model.mechanism`` and returns the values by name.
        hidden: Width of the encoder and of every network of the guide.
        correction: Width of the networks' nonlinear part; 0 leaves linear maps. None means ``hidden``.
        correlated: Let the components of a state depend on each other given what its law sees.

    Attributes:
        settings: The arguments that the guide was made with, for the run's record.
        globals: The guide of the global sites.
    """

    settings: dict[str, Any]

    def __init__(
        self,
        model: LatentDynamics,
        mechanism_posterior: PyroModule,
        *,
        hidden: int = 64,
        correction: int | None = None,
        correlated: bool = False,
    ) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: the guide owns none of the model's parameters
        self.hidden = hidden
        self.correction = hidden if correction is None else correction
        self.n_outputs = normal_size(model.n_programs, correlated)
        schema = model.schema
        self.globals = mechanism_posterior
        self.encoder = Perceptron(schema.n_genes + schema.n_batches, hidden, self.correction)
        self.n_summary = hidden * schema.n_slots
        if model.n_invariant:
            self.invariant_head = Perceptron(self.n_summary, normal_size(model.n_invariant), self.correction)

    @property
    def model(self) -> LatentDynamics:
        """The model whose posterior is approximated."""
        return self._model[0]

    @abstractmethod
    def states(
        self,
        batch: Batch,
        summary: Float[Tensor, "cell summary"],
        s: Float[Tensor, "... cell invariant"],
    ) -> None:
        """Draws the states by :meth:`state`, each step once, in any order."""

    def forward(self, batch: Batch) -> None:
        """The guide's program, on the same batch as the model's."""
        self.globals()
        summary = self.summary(batch)
        with pyro.plate("cell", batch.size, subsample=batch.index, dim=-1):
            s = summary.new_zeros(batch.n_cells, 0)
            if self.model.n_invariant:
                s = pyro.sample("s", normal(self.invariant_head(summary), self.model.n_invariant))
            self.states(batch, summary, s)

    def summary(self, batch: Batch) -> Float[Tensor, "cell summary"]:
        """Encodes the observations, one slot beside the other, zero where nothing was observed."""
        if batch.x is None:
            raise ValueError("a guide needs observations; run it on a batch of measured cells.")
        x = batch.x.dense
        if self.model.schema.values == "counts":
            x = torch.log1p(self.model.schema.total * x / batch.library[..., None])
        technical = torch.nn.functional.one_hot(batch.technical, self.model.schema.n_batches).to(x.dtype)
        encoded = self.encoder(torch.cat([x, technical.expand(*x.shape[:-1], -1)], dim=-1))
        encoded = torch.where(batch.observed[..., None], encoded, 0.0)
        return encoded.transpose(0, 1).flatten(1)

    def state(self, t: int, law: Distribution, batch: Batch) -> Float[Tensor, "... cell program"]:
        """Draws z_t, which counts only up to a cell's last observation, as in the model."""
        with poutine.mask(mask=batch.reached(t)):
            value: Tensor = pyro.sample(f"z_{t}", law)
        return value

    def clock(self, batch: Batch, t: int) -> Float[Tensor, "cell 2"]:
        """The step t and the steps left to the last observation, as shares of the schema's steps."""
        left = (batch.last - t).to(batch.library.dtype) / self.model.schema.n_steps
        return torch.stack([torch.full_like(left, t / self.model.schema.n_steps), left], dim=-1)


def normal_size(n: int, correlated: bool = False) -> int:
    """How many numbers :func:`normal` takes for n components."""
    return 2 * n + (n * (n - 1) // 2 if correlated else 0)


def normal(output: Float[Tensor, "... _"], n: int) -> Distribution:
    """``N(m, S S^T)`` with ``S = diag(d) (I + N)``: a law of n components from a network's output.

    The output holds m, then d before a softplus, then the entries of N below the diagonal, if there are any.
    """
    loc, raw, below = output.split([n, n, output.shape[-1] - 2 * n], dim=-1)
    scale = softplus(raw) + 1e-4
    if below.shape[-1] == 0:
        return dist.Normal(loc, scale).to_event(1)
    unit = torch.diag_embed(torch.ones_like(loc))
    unit[..., *torch.tril_indices(n, n, -1)] = below
    return dist.MultivariateNormal(loc, scale_tril=scale[..., None] * unit)
