"""The amortised guide: one visible Pyro program for the approximate posterior."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Protocol, cast, runtime_checkable

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor
from torch.nn.functional import softplus

from pyro_citevae import sites
from pyro_citevae.data.batch import Batch
from pyro_citevae.data.observations import Observations
from pyro_citevae.errors import CiteVAEError, HookError, ModelError
from pyro_citevae.hooks import failed
from pyro_citevae.nn.apart import apart
from pyro_citevae.nn.default_dtype import default_dtype
from pyro_citevae.nn.network_parameters import NetworkModule
from pyro_citevae.nn.networks import DoseCode, ImageEncoder, Perceptron, joined
from pyro_citevae.program import Distribution, LatentDynamics, Recorded
from pyro_citevae.shown import ShownModule

__all__ = ["AmortizedGuide", "GlobalGuide", "loc_scale", "normal", "normal_size"]


@runtime_checkable
class GlobalGuide(Protocol):
    """The guide of the global sites, such as ``MechanismPosterior(model)``.

    Attributes:
        event_dims: Number of event axes of each site, by name.
        n_flat: Size of what :meth:`flat` returns.
    """

    event_dims: dict[str, int]
    n_flat: int

    def __call__(self) -> dict[str, Tensor]:
        """Draws every site of ``model.mechanism``, and returns the values by name."""

    def flat(self, drawn: dict[str, Tensor]) -> Float[Tensor, "... flat"]:
        """The drawn values of the small sites, one beside the other."""


class AmortizedGuide(ShownModule, NetworkModule, metaclass=Recorded):  # type: ignore[metaclass]
    """q(global) q(s | x) q(z_0, ..., z_T | x, u, s); subclasses say how the states factorise.

    If ``conditional``, the networks also see what was drawn for the mechanism, so that states and mechanism
    may depend on each other: the values of small sites, and the mean of the model's transition at each step,
    from a point estimate of the states before it. A model whose mechanism changes by step (``regime``)
    shows the values alone.

    The invariant state sees the counts, the technical batch and the context, never the dose or the time.

    Args:
        model: The model whose posterior is approximated.
        mechanism_posterior: q(global), such as ``MechanismPosterior(model)``.
        hidden: Width of the encoder and of every network of the guide.
        correction: Width of the networks' nonlinear part; 0 leaves linear maps. None means ``hidden``.
        correlated: Let the components of a state depend on each other given what its law sees.
        conditional: Let the laws of s and of the states depend on the drawn mechanism.

    Attributes:
        settings: The arguments that the guide was made with, for the run's record.
        globals: The guide of the global sites.
        dose_code: What the networks see of doses.
    """

    settings: dict[str, Any]

    def __init__(
        self,
        model: LatentDynamics,
        mechanism_posterior: GlobalGuide,
        *,
        hidden: int = 64,
        correction: int | None = None,
        correlated: bool = False,
        conditional: bool = False,
    ) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: the guide owns none of the model's parameters
        self.hidden = hidden
        self.correction = hidden if correction is None else correction
        self.n_outputs = normal_size(model.n_programs, correlated)
        schema = model.schema
        self.globals = mechanism_posterior
        n_known = schema.n_batches + len(schema.contexts)
        self.encoder = (
            ImageEncoder(schema.image, n_known, hidden)
            if schema.image
            else Perceptron(schema.n_genes + n_known, hidden, self.correction)
        )
        self.dose_code = DoseCode(schema.n_tokens)
        self.n_summary = hidden * schema.n_slots
        self.conditional = conditional and bool(mechanism_posterior.event_dims)
        if self.conditional:
            n_foreseen = schema.n_steps * model.n_programs
            self.foresees = not model.enumerated
            if self.foresees:
                n_seen = self.n_summary + self.dose_code.n_out
                self.reference_head = Perceptron(n_seen, n_foreseen, self.correction)
            self.n_summary += n_foreseen * self.foresees + mechanism_posterior.n_flat
        if model.n_invariant:
            self.invariant_head = Perceptron(self.n_summary, normal_size(model.n_invariant), self.correction)

    def facts(self) -> dict[str, str]:
        """Its model, the number of its parameters, and its arguments."""
        return {"model": type(self.model).__name__, **super().facts()}

    @property
    def model(self) -> LatentDynamics:
        """The model whose posterior is approximated."""
        return self._model[0]

    def attach(self, model: LatentDynamics) -> None:
        """Makes this the guide of another instance of its model, such as the one that is fitted."""
        self._model = (model,)

    @abstractmethod
    def states(
        self,
        batch: Batch,
        summary: Float[Tensor, "... cell summary"],
        s: Float[Tensor, "... cell invariant"],
        drawn: dict[str, Tensor],
    ) -> None:
        """Draws the states by :meth:`state`, each step once, in any order.

        Args:
            batch: Cells and what was observed of them.
            summary: Encoded observations.
            s: Drawn invariant states.
            drawn: Drawn values of the global sites; ``self.model.mechanism_at(drawn)`` has them by symbol.
        """

    def __call__(self, batch: Batch) -> Any:
        """Runs the guide's program; a number that it writes out has the precision of the batch."""
        with default_dtype(batch.u.dtype):
            return super().__call__(batch)

    def forward(self, batch: Batch) -> None:
        """The guide's program, on the same batch as the model's."""
        drawn = self.mechanism()
        summary = self.summary(batch)
        if self.conditional:
            summary = joined(summary, self.foreseen(batch, summary, drawn), self.globals.flat(drawn))
        with pyro.plate("cell", batch.size, subsample=batch.index, dim=-1):
            s = summary.new_zeros(batch.n_cells, 0)
            if self.model.n_invariant:
                s = pyro.sample(sites.INVARIANT, self.invariant(summary))
            self._draw_states(batch, summary, s, drawn)

    def _draw_states(self, batch: Batch, summary: Tensor, s: Tensor, drawn: dict[str, Tensor]) -> None:
        """Draws the states; a failure inside is told by its line, its cause kept."""
        try:
            self.states(batch, summary, s, drawn)
        except CiteVAEError:
            raise
        except Exception as error:
            raise failed(
                f"{type(self).__name__}.states",
                error,
                "keep the axes of what it is given, and join tensors by pyro_citevae.nn.networks.joined: "
                "states of many draws have two axes more than counts",
            ) from error

    def mechanism(self) -> dict[str, Tensor]:
        """Draws every global site: as learnt, and by the model's own law what no cell of the screen meets."""
        drawn: dict[str, Tensor] = self.globals()
        names = [] if self.model.training else list(self.model.prior_sites)
        if not names:
            return drawn
        with poutine.block(expose=names), poutine.trace() as tracer, poutine.condition(data=drawn):
            self.model.mechanism()
        found: Any = tracer.trace.nodes
        for name in names:
            if name not in found:
                kind = type(self.model).__name__
                raise ModelError(
                    f"{kind}.prior_sites names '{name}', which mechanism() does not sample out of training; "
                    "sample it there, or take the name out."
                )
        return drawn | {name: found[name]["value"] for name in names}

    def invariant(self, summary: Float[Tensor, "... cell summary"]) -> Distribution:
        """The law of s."""
        return normal(self.invariant_head(summary), self.model.n_invariant)

    @staticmethod
    def observations(batch: Batch) -> Float[Tensor, "slot cell gene"]:
        """The observed values, zero where nothing was observed."""
        x: Tensor = _measured(batch).dense
        return x

    def summary(self, batch: Batch) -> Float[Tensor, "cell summary"]:
        """Encodes the observations, one slot beside the other, zero where nothing was observed."""
        if self.model.schema.values == "counts":
            x = _measured(batch).transformed(self.model.schema.total / batch.library, _log1p)
        else:
            x = self.observations(batch)
        batches = torch.arange(self.model.schema.n_batches, device=x.device)
        technical = (batch.technical[:, None] == batches).to(x.dtype)  # one_hot would ask the device
        known = [technical]
        if batch.context is not None:
            contexts = torch.arange(self.model.schema.n_contexts, device=x.device)
            known.append((batch.context[:, None] == contexts).to(x.dtype))
        encoded = self.encoder(torch.cat([x, *(one.expand(*x.shape[:-1], -1) for one in known)], dim=-1))
        encoded = torch.where(batch.observed[..., None], encoded, 0.0)
        return encoded.transpose(0, 1).flatten(1)

    def foreseen(
        self, batch: Batch, summary: Float[Tensor, "cell summary"], drawn: dict[str, Tensor]
    ) -> Float[Tensor, "... cell foreseen"]:
        """Mean of each step's transition under the drawn mechanism, from a point estimate of the states."""
        means = [summary.new_zeros(batch.n_cells, 0)]
        if self.foresees:
            mechanism, K, L = self.model.mechanism_at(drawn, batch), self.model.n_programs, self.model.n_lags
            reference = self.reference_head(joined(summary, self.dose_code(batch.u[-1])))
            states = reference.unflatten(-1, (-1, K)).unbind(-2)
            for t in range(1, len(states) + 1):
                dose = batch.u[min(t, batch.n_steps)]
                with poutine.block():
                    mechanism = self.model.regime(mechanism, t, dose)
                means.append(self.model.transition(mechanism, states[max(t - L, 0) : t], dose).mean)
        return joined(*means)

    def state(self, t: int, law: Distribution, batch: Batch) -> Float[Tensor, "... cell program"]:
        """Draws z_t, which counts only up to a cell's last observation, as in the model.

        Args:
            t: The step.
            law: The law of z_t, with event shape (program,).
            batch: The cells.

        Raises:
            HookError: The law has another event shape.
        """
        event, expected = tuple(law.event_shape), (self.model.n_programs,)
        if event != expected:
            name = f"{type(self).__name__} draws '{sites.state(t)}'"
            raise HookError(
                f"{name} with event shape {event}, expected {expected}",
                "end its law with .to_event(1), and let the program be its parameters' last axis",
            )
        with poutine.mask(mask=cast(torch.BoolTensor, batch.reached(t))):
            value: Tensor = pyro.sample(sites.state(t), law)
        return value

    def clock(self, batch: Batch, t: int) -> Float[Tensor, "cell 2"]:
        """The step t and the steps left to the last observation, as shares of the schema's steps."""
        left = (batch.last - t).to(batch.library.dtype) / self.model.schema.n_steps
        return torch.stack([torch.full_like(left, t / self.model.schema.n_steps), left], dim=-1)


def _log1p(values: Tensor) -> Tensor:
    (given,) = apart(values)
    (found,) = apart(torch.log1p(given))
    return found


def _measured(batch: Batch) -> Observations:
    """The observations of a batch that has some."""
    if batch.x is None:
        raise ValueError("a guide needs observations; run it on a batch of measured cells.")
    return batch.x


def normal_size(n: int, correlated: bool = False) -> int:
    """How many numbers :func:`normal` takes for n components."""
    return 2 * n + (n * (n - 1) // 2 if correlated else 0)


def normal(output: Float[Tensor, "... _"], n: int) -> Distribution:
    """``N(m, S S^T)`` with ``S = diag(d) (I + N)``: a law of n components from a network's output.

    The output holds m and d by :func:`loc_scale`, then the entries of N below the diagonal, if there are any.
    """
    loc, scale = loc_scale(output[..., : 2 * n])
    below = output[..., 2 * n :]
    if below.shape[-1] == 0:
        return dist.Normal(loc, scale).to_event(1)
    unit = torch.diag_embed(torch.ones_like(loc))
    unit[..., *torch.tril_indices(n, n, -1, device=loc.device)] = below
    return dist.MultivariateNormal(loc, scale_tril=scale[..., None] * unit)


def loc_scale(output: Float[Tensor, "... _"]) -> tuple[Float[Tensor, "... _"], Float[Tensor, "... _"]]:
    """A mean and a scale: the halves of a network's output, the second one through a softplus.

    In mixed precision a network's output has few digits, and what is drawn and scored from it has all.
    """
    loc, raw = (output.float() if output.dtype == torch.bfloat16 else output).chunk(2, dim=-1)
    return loc, softplus(raw) + 1e-4
