"""The generative process: four hooks and one visible Pyro program."""

from __future__ import annotations

import inspect
from abc import ABCMeta, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, cast

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float, Int
from pyro import poutine
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_citevae import sites
from pyro_citevae.data.batch import Batch
from pyro_citevae.data.contexts import batches_of_contexts, control_profiles, distances, mean_distance
from pyro_citevae.data.observations import SparseObservations
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import ModelError
from pyro_citevae.hooks import Distribution, Hooks, Mechanism, axes_refused, plate_refused
from pyro_citevae.nn.default_dtype import default_dtype
from pyro_citevae.nn.network_parameters import NetworkModule
from pyro_citevae.nn.rows_in_use import RowsInUse
from pyro_citevae.nn.sparse_counts import SparseCounts
from pyro_citevae.renamed import warn_of_name
from pyro_citevae.shown import ShownModule

# Pyro reads this when a module is made: parameters live in their modules, never in the global store.
pyro.settings.set(module_local_params=True)

__all__ = [
    "Distribution",
    "LatentDynamics",
    "Mechanism",
    "Recorded",
    "Rollout",
    "correlations",
    "observed_states",
    "observed_values",
    "positive",
    "share",
]


_OF_DRAWS = 3  # axes of a plate of draws: (draw, 1, 1)


class Recorded(type(PyroModule), ABCMeta):  # type: ignore[misc]
    """Makes abstract Pyro modules that remember the arguments they were made with, in ``settings``.

    An argument whose values are kept among the weights says by ``recorded`` what the settings hold of it.
    """

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Makes an instance, and notes its arguments by name, the first (schema or model) left out.

        A model is made in single precision, and a guide in that of its model.
        """
        of = [one._like.dtype for one in (*args, *kwargs.values()) if isinstance(one, LatentDynamics)]
        with default_dtype(*of[:1]):
            made = super().__call__(*args, **kwargs)
        bound = inspect.signature(cls.__init__).bind(made, *args, **kwargs)  # type: ignore[misc]
        bound.apply_defaults()
        made.settings = {
            name: getattr(value, "recorded", value)
            for argument, given in list(bound.arguments.items())[2:]
            for name, value in (given.items() if _is_keywords(bound, argument) else [(argument, given)])
        }
        return made


def _is_keywords(bound: inspect.BoundArguments, argument: str) -> bool:
    return bound.signature.parameters[argument].kind is inspect.Parameter.VAR_KEYWORD


def positive(value: Float[Tensor, ...]) -> Any:
    """A parameter of the model that stays positive, such as a scale."""
    return PyroParam(value, constraints.positive)


def share(value: Float[Tensor, ...]) -> Any:
    """A parameter of the model that stays between 0 and 1, such as a decay."""
    return PyroParam(value, constraints.unit_interval)


def correlations(n: int) -> Any:
    """A parameter of the model that is the triangular root of a correlation matrix, at first the identity."""
    return PyroParam(torch.eye(n), constraints.corr_cholesky)


@dataclass(frozen=True)
class Rollout:
    """What one run of the program walked through.

    Attributes:
        mechanism: The global values.
        s: Invariant states.
        z: States of the programs at steps 0..T.
        emission: Law of the observed values in each slot.
    """

    mechanism: Mechanism
    s: Float[Tensor, "... cell invariant"]
    z: Sequence[Float[Tensor, "... cell program"]]
    emission: Distribution


class LatentDynamics(ShownModule, NetworkModule, metaclass=Recorded):  # type: ignore[metaclass]
    r"""A latent dynamical process under perturbations; subclasses say its four laws.

    ::

        global sites          from mechanism()
        for each cell n
          s_n     ~ N(0, I)                                  invariant state
          z_{n,0} ~ initial(mechanism)                       the same law for every perturbation
          for t = 1..T
            z_{n,t} ~ transition(mechanism, history, u_{n,t})
          x_{n,t} ~ emission(mechanism, z_{n,t}, s_n, library_n)         where observed

    What a subclass says of itself:

    ===============  ========  ==============================================================================
    name             required  what it is
    ===============  ========  ==============================================================================
    ``mechanism``    yes       samples the global sites and returns them as a :class:`Mechanism`
    ``initial``      yes       law of z_0
    ``transition``   yes       law of z_t
    ``emission``     yes       law of x
    ``regime``       no        mechanism that holds in a step; the same in all steps
    ``observation``  no        mechanism as the emission sees it; the same
    ``invariant``    no        law of s; standard normal
    ``unseen``       no        rows of tokens without training cells; those of the seen ones by turns
    ``dims``         no        names of the axes of global sites, ``{"a": ("token", "program")}``
    ``coords``       no        names along axes of one's own, ``{"phase": ("early", "late")}``
    ``enumerated``   no        whether cells have discrete sites that inference sums over; False
    ===============  ========  ==============================================================================

    The axes that ``dims`` may name without ``coords`` are gene, token, program, source (a program that drives
    another), lag, step (from 1 to the one after the last observation), context and feature. A site without
    ``dims`` is exported with axes numbered ``NAME_dim_0``, ``NAME_dim_1``, ..., and what it says of a token
    without training cells is what the guide says; of a site whose ``dims`` have ``token`` it is what a seen
    token deviates by. Names of sites that the program or the export uses are refused
    (:mod:`~pyro_citevae.sites`).

    Hooks receive doses and library sizes, never counts. Tensors are indexed from the right: a state is
    ``(..., cell, program)``, a dose ``(cell, token)``, and a global value broadcasts against them (a vector
    as ``(..., gene)``, a matrix as ``(..., token, program)`` for ``u @ a``), so that every program runs on
    many draws at once. Where the data name contexts, ``mechanism.context`` is the position of each cell's own
    in ``schema.contexts``, of shape (cell,), for every hook but ``mechanism`` and ``invariant``: rows of a
    (context, program) value are ``value[..., mechanism.context, :]``. Else it is None.
    Steps after a cell's last observation are masked: they integrate to one. In step t
    ``history`` holds the last ``min(t, n_lags)`` states: at step 1 that is z_0 alone.

    Args:
        schema: Names and sizes of the screen's axes.
        n_programs: Number K of programs.
        n_invariant: Size S of the invariant state.
        n_lags: Number L of past states that a transition sees.

    Attributes:
        settings: The arguments that the model was made with, for the run's record.
        dims: Names of the axes of global sites.
        coords: Names along the axes of one's own.
        seen: Which tokens have training cells; :func:`~pyro_citevae.fit` notes it by :meth:`note`.
        context_profile: Log pseudobulk profile of each context's controls, where there are contexts; noted.
        context_distance: How far the controls of two contexts lie apart; noted.
        context_unit: Its mean over the contexts of a fit; noted.
        batches_of: Which technical batches have cells of a context; noted.
        enumerated: Whether cells have discrete sites that inference sums over (``TraceEnum_ELBO``).
        local_sites: Sites of axes (..., token, value) whose rows of a token meet the data in its cells alone:
            in training on a large screen they are drawn for the tokens of a minibatch, ``in_use.tokens``.
        in_use: Those tokens, and what their rows count; None where all rows are drawn.
        prior_sites: Global sites that no cell of a screen meets, such as what happens after the last
            observation. Their posterior is their prior: ``mechanism`` samples them out of training alone, and
            no guide has parameters of them.
    """

    settings: dict[str, Any]
    enumerated: ClassVar[bool] = False
    dims: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    local_sites: Sequence[str] = ()
    prior_sites: Sequence[str] = ()
    in_use: RowsInUse | None = None
    coords: Mapping[str, Sequence[Any]] = MappingProxyType({})
    seen: Tensor
    context_profile: Tensor
    context_distance: Tensor
    context_unit: Tensor
    batches_of: Tensor

    def __init__(self, schema: Schema, *, n_programs: int = 8, n_invariant: int = 0, n_lags: int = 1) -> None:
        super().__init__()
        if n_programs < 1 or n_invariant < 0 or n_lags < 1:
            raise ModelError(
                f"{type(self).__name__}(n_programs={n_programs}, n_invariant={n_invariant}, n_lags={n_lags}) "
                "needs a program and a lag at least."
            )
        self.schema = schema
        self.n_programs = n_programs
        self.n_invariant = n_invariant
        self.n_lags = n_lags
        self.register_buffer("seen", torch.ones(schema.n_tokens, dtype=torch.bool))
        if schema.contexts:
            C = schema.n_contexts
            self.register_buffer("context_profile", torch.zeros(C, schema.n_genes))
            self.register_buffer("context_distance", 1 - torch.eye(C))
            self.register_buffer("batches_of", torch.ones(C, schema.n_batches, dtype=torch.bool))
            self.register_buffer("context_unit", torch.ones(()))

    def note(self, data: Trajectories) -> None:
        """Notes what a fit's cells are of: which tokens act, how contexts differ and which batches they have.

        Args:
            data: Training cells.
        """
        self.seen.copy_(torch.from_numpy(data.seen))
        if self.schema.contexts:
            profiles = control_profiles(data)
            distance = distances(profiles)
            self.context_profile.copy_(torch.from_numpy(profiles))
            self.context_distance.copy_(torch.from_numpy(distance))
            self.context_unit.fill_(mean_distance(distance))
            self.batches_of.copy_(torch.from_numpy(batches_of_contexts(data)))

    def axes(self, site: str) -> tuple[str, ...] | None:
        """The names of a site's axes by ``dims``; None where it does not name the site."""
        named = self.dims.get(site)
        if named is None:
            return None
        axes = (named,) if isinstance(named, str) else tuple(named)
        for axis in axes:
            if not sites.is_exportable(axis):
                where = f"{type(self).__name__}.dims['{site}']"
                raise ModelError(f"{where} names the axis {axis!r}; give it a name without '/'.")
        return axes

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Takes a subclass's ``informed`` for ``has_features``, which it was called before."""
        super().__init_subclass__(**kwargs)
        if "informed" in vars(cls):
            warn_of_name(f"{cls.__name__}.informed", f"{cls.__name__}.has_features")
            cls.has_features = vars(cls)["informed"]  # type: ignore[method-assign]

    @property
    def has_features(self) -> Bool[Tensor, " token"]:
        """Tokens that features say something of; none, unless a model has features."""
        return torch.zeros_like(self.seen)

    def unseen(self, values: Mapping[str, Tensor], donor: Int[Tensor, "draw token"]) -> Mapping[str, Tensor]:
        """Draws of sites whose rows of tokens without cells follow from the other rows; none by default.

        For the other sites with rows of tokens, a token without cells is one more of the seen ones. A model
        with features says here what they tell of it.

        Args:
            values: Draws of the global sites, each of shape (draw, 1, 1) + event shape.
            donor: For each draw and token, the seen token that it deviates like, or -1 for none.
        """
        return {}

    @abstractmethod
    def mechanism(self) -> Mechanism:
        """Samples the global sites and returns them by their symbols."""

    @abstractmethod
    def initial(self, mechanism: Mechanism) -> Distribution:
        """The law of z_0, with event shape (program,)."""

    @abstractmethod
    def transition(
        self,
        mechanism: Mechanism,
        history: Sequence[Float[Tensor, "... cell program"]],
        u: Float[Tensor, "cell token"],
    ) -> Distribution:
        """The law of z_t given the states before and the dose in this step.

        Args:
            mechanism: What :meth:`regime` returned for this step.
            history: The last ``min(t, n_lags)`` states, ``[..., z_{t-2}, z_{t-1}]``: ``[z_0]`` at step 1.
            u: Dose of each token.
        """

    @abstractmethod
    def emission(
        self,
        mechanism: Mechanism,
        z: Float[Tensor, "... slot cell program"],
        s: Float[Tensor, "... slot cell invariant"],
        library: Float[Tensor, "slot cell"],
    ) -> Distribution:
        """The law of the observed values, with event shape (gene,)."""

    def regime(self, mechanism: Mechanism, t: int, u: Float[Tensor, "cell token"]) -> Mechanism:
        """The mechanism that holds in step t: what the transition sees, and the next step's regime after it.

        The default changes nothing. A model whose mechanism varies with time or with a discrete state of the
        cell says so here; a site drawn here lies in the plate of cells, and is not masked.
        """
        return mechanism

    def observation(
        self,
        mechanism: Mechanism,
        exposure: Float[Tensor, "slot cell token"],
        step: Int[Tensor, "slot cell"],
        technical: Int[Tensor, " cell"],
    ) -> Mechanism:
        """The mechanism as the emission sees it: what doses and batches change beside the programs.

        The default changes nothing. A model with direct effects adds them here, as values of its own.

        Args:
            mechanism: What :meth:`mechanism` returned.
            exposure: Dose of each token summed over the steps up to the observation.
            step: Latent step of the observation.
            technical: Technical batch of each cell.
        """
        return mechanism

    def __call__(self, batch: Batch) -> Any:
        """Runs the program; a number that a hook writes out has the precision of the batch."""
        with default_dtype(batch.u.dtype):
            return super().__call__(batch)

    def forward(self, batch: Batch) -> Rollout:
        """The generative program, for training and for prediction alike.

        Raises:
            ModelError: A hook fails, or returns a law of another shape than it should.
        """
        hooks = Hooks(self, batch.n_cells, batch.step.shape[0])
        with self._aligned():
            mechanism = hooks.mechanism()
        if batch.context is not None:
            mechanism = mechanism.updated(context=batch.context)
        with pyro.plate("cell", batch.size, subsample=batch.index, dim=-1):
            s = (
                pyro.sample(sites.INVARIANT, hooks.invariant())
                if self.n_invariant
                else self._no_invariant(batch)
            )
            z = [pyro.sample(sites.state(0), hooks.initial(mechanism))]
            for t in pyro.markov(range(1, batch.n_steps + 1), history=self.n_lags):
                mechanism = hooks.regime(mechanism, t, batch.u[t])
                with poutine.mask(mask=cast(torch.BoolTensor, batch.reached(t))):
                    law = hooks.transition(mechanism, z[-self.n_lags :], batch.u[t])
                    z.append(pyro.sample(sites.state(t), law))
            with (
                pyro.plate("slot", batch.step.shape[0], dim=-2),
                poutine.mask(mask=cast(torch.BoolTensor, batch.observed)),
            ):
                emission = hooks.emission(
                    hooks.observation(mechanism, batch.exposure, batch.step, batch.technical),
                    *observed_states(batch.step, z, s),
                    batch.library,
                )
                pyro.sample(sites.VALUES, emission, obs=observed_values(batch))
        return Rollout(mechanism, s, z, emission)

    def mechanism_at(self, values: Mapping[str, Tensor], batch: Batch | None = None) -> Mechanism:
        """The mechanism whose sites have these values, as the other hooks see it; draws no site.

        Args:
            values: Values of the global sites.
            batch: Cells whose contexts count; None for cells of no context in particular.
        """
        with poutine.block(), poutine.condition(data=dict(values)):
            found = self.aligned_mechanism()
        known = batch is not None and batch.context is not None
        return found.updated(context=batch.context) if batch is not None and known else found

    def aligned_mechanism(self) -> Mechanism:
        """The mechanism as the other hooks see it: under a plate of draws it broadcasts against cells."""
        with default_dtype(self._like.dtype), self._aligned():
            return Hooks(self).mechanism()

    def invariant(self) -> Distribution:
        """The law of the invariant state s, which sees neither perturbation nor time."""
        return dist.Normal(self._like.new_zeros(self.n_invariant), 1.0).to_event(1)

    @property
    def device(self) -> torch.device:
        """Where the model's parameters are."""
        return self._like.device

    @property
    def _like(self) -> Tensor:
        """A tensor with the model's device and type."""
        return next(iter(self.parameters()), torch.zeros(()))

    def _aligned(self) -> _Aligned:
        return _Aligned(type(self).__name__)

    def _no_invariant(self, batch: Batch) -> Float[Tensor, "cell 0"]:
        return batch.library.new_zeros(batch.n_cells, 0)


def observed_values(batch: Batch) -> Float[Tensor, "slot cell gene"] | None:
    """The observed values; where they came sparse, a law of counts finds their non-zeros beside them."""
    x = batch.x
    if isinstance(x, SparseObservations):
        return SparseCounts.of(x.dense, x.index, x.value)
    return None if x is None else x.dense


def observed_states(
    step: Int[Tensor, "slot cell"],
    z: Sequence[Float[Tensor, "... cell program"]],
    s: Float[Tensor, "... cell invariant"],
) -> tuple[Float[Tensor, "... slot cell program"], Float[Tensor, "... slot cell invariant"]]:
    """The program states at each observation's step, and the invariant state beside them."""
    walked = torch.cat([state if state.dim() > 2 else state[None] for state in _broadcast(z)], dim=-3)
    index = step[..., None].expand(*walked.shape[:-3], *step.shape, walked.shape[-1])
    observed = walked.gather(-3, index)
    return observed, s.expand(*observed.shape[:-1], s.shape[-1])


def _broadcast(z: Sequence[Tensor]) -> Sequence[Tensor]:
    shape = torch.broadcast_shapes(*(state.shape for state in z))
    return [state.expand(shape) for state in z]


class _Aligned(Messenger):
    """Hands the hooks global draws that broadcast against (cell, component) tensors.

    Under a plate of draws a global site of event shape E has shape (draw, 1, 1) + E, where the ones stand
    for the plates "slot" and "cell" it does not belong to. A matrix then needs one of them less, for
    ``u @ a``, and a scalar one more. What the trace records is left alone. A name that the program keeps for
    itself is refused.

    Args:
        model: Name of the model's class.
    """

    def __init__(self, model: str) -> None:
        super().__init__()
        self.model = model

    def _pyro_sample(self, message: dict[str, Any]) -> None:
        if site_is_subsample(cast(Any, message)):
            raise plate_refused(self.model, message["name"])
        sites.require_exportable(message["name"], self.model)
        if 0 < len(axes := tuple(message["fn"].batch_shape)) < _OF_DRAWS:
            raise axes_refused(self.model, message["name"], axes, message["fn"].event_dim)

    def _pyro_post_sample(self, message: dict[str, Any]) -> None:
        value, event_dim = message["value"], message["fn"].event_dim
        batch = value.shape[: value.dim() - event_dim]
        if len(batch) < _OF_DRAWS:
            return
        event = value.shape[value.dim() - event_dim :]
        ones = {0: (1, 1, 1), 1: (1, 1)}.get(event_dim, (1,))
        message["value"] = value.reshape(*batch[:-2], *ones, *event)
