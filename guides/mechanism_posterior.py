"""The approximate posterior of the global sites: what every guide holds besides its states."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from operator import attrgetter
from typing import Any, Literal, final, get_args

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.autoguide import (
    AutoContinuous,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    init_to_median,
)
from pyro.infer.autoguide.initialization import InitMessenger
from pyro.infer.autoguide.utils import deep_setattr
from pyro.nn import PyroModule, PyroParam
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.distributions import biject_to, transform_to

from pyro_citevae.errors import HookError, ModelError
from pyro_citevae.hooks import Hooks, plate_refused
from pyro_citevae.nn.flow import InverseAutoregressiveFlow
from pyro_citevae.nn.networks import joined
from pyro_citevae.nn.normal_array import NormalArray
from pyro_citevae.nn.rows_in_use import RowsInUse
from pyro_citevae.nn.taken_rows import TakenRows
from pyro_citevae.program import Distribution, LatentDynamics

Family = Literal["normal", "low_rank", "full_rank", "flow"]

_SCALE = 0.05
_MOST_FLAT = 100


@final
class MechanismPosterior(PyroModule):
    r"""q(mechanism), the guide of the sites that ``model.mechanism`` draws.

    Let theta be the global values, each on its unconstrained scale. All start at the prior's median with
    standard deviation 0.05.

    ==========  =======================================================================================
    family      q(theta)
    ==========  =======================================================================================
    normal      N(loc, diag(scale^2)): independent
    low_rank    N(loc, D (I + F F^T) D), D = diag(scale), F of shape (value, rank), rank = round(sqrt(
                number of values)): linear dependence of that many directions
    full_rank   N(loc, L L^T), L lower triangular: any linear dependence
    flow        loc + scale f(eps), eps ~ N(0, I), f an inverse autoregressive flow: any dependence
    ==========  =======================================================================================

    The joint families cover the sites of at most ``most`` values; a larger one, such as a change of
    every gene under every token, keeps independent normals.

    Args:
        model: The model whose mechanism is approximated.
        family: ``"normal"``, ``"low_rank"``, ``"full_rank"`` or ``"flow"``.
        most: Values that a site may have at most to be in the joint part.

    Raises:
        ModelError: The family is unknown.
        HookError: ``mechanism`` fails, opens a plate, draws from a discrete law, or draws one of
            ``prior_sites`` in training.

    Source: A. Kucukelbir et al., Automatic Differentiation Variational Inference (2017); for the low rank,
    V. M.-H. Ong, D. J. Nott, M. S. Smith, Gaussian Variational Approximation with a Factor Covariance
    Structure (2018); for the flow, D. P. Kingma et al. (2016).
    """

    def __init__(self, model: LatentDynamics, family: str = "normal", *, most: int = 1000) -> None:
        super().__init__()
        if family not in get_args(Family):
            names = ", ".join(get_args(Family))
            raise ModelError(f"MechanismPosterior(family={family!r}) is not a family; name one of {names}.")
        mechanism = InitMessenger(init_to_median)(Hooks(model).mechanism)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)  # equal constructions start equal
            with _one_row(model):
                trace: Any = poutine.block(poutine.trace(mechanism).get_trace)()
            _require_continuous(model, trace)
            beyond = list(model.prior_sites)  # of which nothing is learnt
            sites = dict(trace.iter_stochastic_nodes())
            local = [name for name in model.local_sites if name in sites]
            n_rows = {name: model.schema.n_tokens if name in local else 1 for name in sites}
            sizes = {name: n_rows[name] * site["value"].numel() for name, site in sites.items()}
            self.event_dims = {name: site["fn"].event_dim for name, site in sites.items()}
            self.small = [name for name in sites if sizes[name] <= _MOST_FLAT]
            self.n_flat = sum(sizes[name] for name in self.small)
            joint = [name for name in sites if sizes[name] <= most and family != "normal"]
            self.independent = _Independent(
                poutine.block(mechanism, hide=joint + beyond), init_loc_fn=init_to_median, init_scale=_SCALE
            )
            self.joint = _JOINT[family](poutine.block(mechanism, expose=joint)) if joint else None
            tables = [] if {*local} & {*joint} else local
            with _one_row(model) if tables else nullcontext():
                _set_up(self.independent)
            for name in tables:
                self.independent.grow(name, model.schema.n_tokens)
            if self.joint is not None:
                _set_up(self.joint)

    def forward(self) -> dict[str, Tensor]:
        """Draws every global site; under plates to the left, each value is (..., 1, 1) + its event shape."""
        drawn: dict[str, Tensor] = self.independent()
        return drawn if self.joint is None else drawn | self.joint()

    def widen(self, factor: float) -> None:
        """Makes the normals so many times as wide, in place."""
        with torch.no_grad():
            own: Any = self.independent.prototype_trace
            for name, _ in own.iter_stochastic_nodes():
                scale = self.independent._get_loc_and_scale(name)[1]
                deep_setattr(self.independent.scales, name, scale * factor)
            if self.joint is not None:
                self.joint.scale = self.joint.scale * factor

    def n_of_rows(self, sites: Sequence[str]) -> int | None:
        """How many values some sites have; None where one of them depends on others."""
        trace: Any = self.independent.prototype_trace
        own = dict(trace.iter_stochastic_nodes())
        if not {*sites} <= own.keys():
            return None
        return sum(attrgetter(name)(self.independent.locs).numel() for name in sites)

    @contextmanager
    def using(
        self, rows: RowsInUse | None, sites: Sequence[str], taken: TakenRows | None = None
    ) -> Iterator[None]:
        """Draws some sites in the rows of some tokens alone, where they are independent.

        Args:
            rows: The tokens; None for all.
            sites: The sites, of real values, with axes (..., token, value).
            taken: Where their parameters are taken out as leaves; None for gradients of whole tables.
        """
        part = self.independent
        part.in_use, part.local_sites, part.taken = rows, sites, taken
        try:
            yield
        finally:
            part.in_use, part.local_sites, part.taken = None, (), None

    def flat(self, drawn: dict[str, Tensor]) -> Float[Tensor, "... flat"]:
        """The drawn values of the sites of at most 100 values, one beside the other."""
        rows = [drawn[name].reshape(*_lead(drawn[name], self.event_dims[name]), -1) for name in self.small]
        return joined(*rows, next(iter(drawn.values())).new_zeros(0))


@contextmanager
def _one_row(model: LatentDynamics) -> Iterator[None]:
    """In training, where the local sites have the row of one token: nothing asked differs between tokens."""
    first = torch.zeros(1, dtype=torch.int64, device=model.device)
    place = torch.zeros(model.schema.n_tokens, dtype=torch.int64, device=model.device)
    was, model.training = model.training, True
    model.in_use = RowsInUse(first, place, torch.ones(1, 1, device=model.device))
    try:
        yield
    finally:
        model.in_use, model.training = None, was


def _set_up(part: Any) -> None:
    """Makes a part's parameters, not at the first draw: an optimiser or a copy may come before."""
    part._setup_prototype()
    # the laws in a trace are views of parameters, which training and loading write to
    own: Any = copy.deepcopy(part.prototype_trace)
    for _, site in own.iter_stochastic_nodes():
        _cut_off(site["fn"])
    part.prototype_trace = own


def _require_continuous(model: LatentDynamics, trace: Any) -> None:
    """Refuses what no family can follow."""
    where = f"{type(model).__name__}.mechanism"
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and site_is_subsample(site):
            raise plate_refused(type(model).__name__, name)
    for name, site in trace.iter_stochastic_nodes():
        if name in model.prior_sites:
            raise HookError(
                f"{where} samples '{name}' in training, and prior_sites says that no cell meets it",
                "sample it if not self.training",
            )
        if site["fn"].support.is_discrete:
            raise HookError(
                f"{where} samples '{name}' from a discrete law, which no guide follows by gradients",
                "give it a continuous law, or let regime() draw it for each cell",
            )


def _cut_off(law: Any) -> None:
    """Lets a law's tensors refer to no parameter of the model, with which they could not be pickled."""
    for name, value in vars(law).items():
        if isinstance(value, Tensor):
            vars(law)[name] = value.detach()
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, torch.distributions.Distribution | torch.distributions.Transform):
                _cut_off(inner)


def _lead(value: Tensor, event_dim: int) -> torch.Size:
    return value.shape[: value.dim() - event_dim]


@final
class _Independent(AutoNormal):
    """Independent normals of the unconstrained values; each site is drawn as itself, with none beside it."""

    in_use: RowsInUse | None = None
    local_sites: Sequence[str] = ()
    taken: TakenRows | None = None

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Draws every site."""
        trace: Any = self.prototype_trace
        sites = trace.iter_stochastic_nodes()
        return {name: pyro.sample(name, self._law(name, site["fn"].support)) for name, site in sites}

    def grow(self, name: str, n_rows: int) -> None:
        """Gives a site so many rows as its first one, along the last axis but one."""
        event_dim = self._event_dims[name]
        for part, constraint in ((self.locs, constraints.real), (self.scales, self.scale_constraint)):
            row = attrgetter(name)(part).detach()
            whole = row.expand(*row.shape[:-2], n_rows, row.shape[-1]).contiguous()
            deep_setattr(part, name, PyroParam(whole, constraint, event_dim))

    def _law(self, name: str, support: Any) -> Distribution:
        if self.in_use is not None and name in self.local_sites:
            return self._of_rows(name, self.in_use)
        loc, scale = self._get_loc_and_scale(name)
        law = NormalArray(loc, scale, loc.shape)
        transform: Any = biject_to(support)
        if transform(loc) is loc:  # the identity
            return law
        return dist.TransformedDistribution(law, [transform.with_cache()])

    def _of_rows(self, name: str, rows: RowsInUse) -> Distribution:
        """The law of some tokens' rows (..., token, value), of real values; of the others nothing is read."""
        loc, raw = attrgetter(name)(self.locs), attrgetter(f"{name}_unconstrained")(self.scales)
        loc, raw = (rows.of(one) if self.taken is None else self.taken.of(one, rows) for one in (loc, raw))
        scale = transform_to(self.scale_constraint)(raw)
        return NormalArray(loc, scale, loc.shape, weight=rows.weight)


@final
class _AutoLowRank(AutoLowRankMultivariateNormal):
    """A normal with low-rank dependence, at our starting scale."""

    def __init__(self, mechanism: Any) -> None:
        super().__init__(mechanism, init_scale=_SCALE)


@final
class _AutoFullRank(AutoMultivariateNormal):
    """A normal with any linear dependence, at our starting scale."""

    def __init__(self, mechanism: Any) -> None:
        super().__init__(mechanism, init_scale=_SCALE)


@final
class _AutoFlow(AutoContinuous):
    """An inverse autoregressive flow that starts as independent normals."""

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        self.loc = nn.Parameter(self._init_loc())
        self.scale = PyroParam(torch.full_like(self.loc, _SCALE), constraints.softplus_positive)
        self.flow = InverseAutoregressiveFlow(self.latent_dim)

    def get_posterior(self, *args: Any, **kwargs: Any) -> Distribution:
        """The law of all values together, unconstrained."""
        law: Distribution = self.flow(self.loc, self.scale)
        return law


_JOINT = {"low_rank": _AutoLowRank, "full_rank": _AutoFullRank, "flow": _AutoFlow}
