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

__all__ = ["AmortizedGuide"]


class AmortizedGuide(PyroModule, metaclass=Recorded):  # type: ignore[metaclass]
    """q(global) q(s | x) q(z_0, ..., z_T | x, u, s); subclasses say how the states factorise.

    The invariant state sees the counts and the technical batch, never the dose or the time.

    Args:
        model: The model whose posterior is approximated.
        mechanism_posterior: q(global), such as ``MechanismPosterior(model)``: draws every site of
            ``model.mechanism`` and returns the values by name.
        hidden: Width of the encoder and of every network of the guide.
        correction: Width of the networks' nonlinear part; 0 leaves linear maps, which hold the exact
            posterior of a linear Gaussian model. None means ``hidden``.

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
    ) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: the guide owns none of the model's parameters
        self.hidden = hidden
        self.correction = hidden if correction is None else correction
        schema = model.schema
        self.globals = mechanism_posterior
        self.encoder = Perceptron(schema.n_genes + schema.n_batches, hidden, self.correction)
        self.n_summary = hidden * schema.n_slots
        if model.n_invariant:
            self.invariant_head = Perceptron(self.n_summary, 2 * model.n_invariant, self.correction)

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
                s = pyro.sample("s", diagonal_normal(self.invariant_head(summary)))
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


def diagonal_normal(output: Float[Tensor, "... _"]) -> Distribution:
    """A normal whose mean and softplus scale are the two halves of a network's output."""
    loc, raw = output.chunk(2, dim=-1)
    return dist.Normal(loc, softplus(raw) + 1e-4).to_event(1)
