"""A context that training did not have: what is its own is fitted to its controls, with all else fixed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro import poutine
from pyro.infer.autoguide.utils import deep_setattr
from torch import Tensor, nn
from torch.distributions import biject_to

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.data.contexts import batches_of_contexts, control_profiles, distances, mean_distance
from pyro_citevae.data.trajectories import Trajectories
from pyro_citevae.errors import DataError, ModelError, few
from pyro_citevae.infer.bounds import negative_bound
from pyro_citevae.infer.drawn_rows import drawn_rows, has_large_tables
from pyro_citevae.infer.progress import appearing, say
from pyro_citevae.infer.seeding import seeded
from pyro_citevae.nn.rows_in_use import RowsInUse
from pyro_citevae.program import LatentDynamics

if TYPE_CHECKING:
    from pyro_citevae.infer.posterior import Posterior

__all__ = ["adapted"]

_STEPS = 600
_STEP_SIZE = 0.02
_CELLS = 256  # of a minibatch
_PRIOR_DRAWS = 200  # that show the spread of a site
_CLOSER = 0.25  # how much of the mean distance makes a context's start half as good a guess
_CERTAIN = 1e-3  # of a prior's spread: what a fit of one context says of sites that it did not need


def adapted(
    posterior: Posterior, controls: Trajectories, *, seed: int = 0, progress: bool = True
) -> Posterior:
    r"""A posterior that knows the contexts of some controls.

    Model and guide are made again with the further contexts. What is a context's own in the model (its start,
    its baseline) and the guide's weights of its indicator are fitted to the controls by the evidence lower
    bound, with all else fixed; its sites, such as a mechanism's deviation, have no cells and keep their
    prior, which the model's root of likenesses turns into a forecast from the other contexts. No perturbed
    cell is looked at.

    Args:
        posterior: The fit.
        controls: Control cells, read by the posterior, some of them of contexts that it does not know.
        seed: Seed of minibatches and draws.
        progress: Whether to show a bar when it takes more than two seconds.

    Raises:
        DataError: Every context of the cells is known, or cells of a new one are perturbed or without counts.
    """
    known, schema = posterior.schema.n_contexts, controls.schema
    new = controls.cells(np.flatnonzero(controls.context >= known))
    if schema.n_contexts == known or new.n_cells == 0:
        raise DataError(
            f"posterior.adapt(controls) holds no new context; the fit knows {few(schema.contexts)}, "
            "and predicts there as it is."
        )
    if (new.labels != schema.control).any():
        raise DataError("posterior.adapt(controls) holds perturbed cells; give controls alone.")
    _require_counts(new, known)
    model, guide, own = _grown(posterior.model, posterior.guide, new)
    _fit(model, guide, own, new, seed, progress)
    names = schema.contexts[known:]
    say(f"start and baseline of {few(names)} are fitted to {new.n_cells:,} controls.", shown=progress)
    errors = posterior.discrepancy
    counts = {name: int((new.context == known + i).sum()) for i, name in enumerate(names)}
    record = posterior.record | {"adapted": posterior.record.get("adapted", {}) | counts}
    return replace(
        posterior,
        model=model.eval(),
        guide=guide.eval(),
        record=record,
        discrepancy=None if errors is None else errors.with_contexts([(model, guide)], new, seed),
    )


def _require_counts(new: Trajectories, known: int) -> None:
    """Refuses controls of a context none of which has a count: they have no profile."""
    for c in np.unique(new.context[new.context >= known]).tolist():
        cells = new.cells(np.flatnonzero(new.context == c))
        if new.schema.values == "counts" and not cells.values.sum():
            raise DataError(
                f"posterior.adapt(controls) has no count in any of the {cells.n_cells} controls of context "
                f"{new.schema.contexts[c]}; give controls whose genes were counted."
            )


def _grown(
    model: LatentDynamics, guide: AmortizedGuide, new: Trajectories
) -> tuple[LatentDynamics, AmortizedGuide, dict[nn.Parameter, Tensor]]:
    """Model and guide with the new contexts, and which entries of parameters are these contexts' own.

    A program of one context may lack what tells contexts apart, such as deviations: that comes as it is made.
    """
    schema, n = replace(model.schema, contexts=new.schema.contexts), model.schema.n_contexts
    made = type(model)(schema, **model.settings).to(model.device)
    made_guide = type(guide)(made, **guide.settings).to(model.device)
    profiles = torch.cat(
        [model.context_profile.cpu(), torch.from_numpy(control_profiles(new)[n:]).float()]
    ).to(model.device)
    likeness = _likeness(distances(profiles.numpy(force=True))[n:, :n], float(model.context_unit))
    own: dict[nn.Parameter, Tensor] = {}
    parts: list[tuple[nn.Module, nn.Module]] = [(made, model), (made_guide, guide)]
    for grown, was in parts:
        before = was.state_dict()
        after = {
            name: _filled(value, before[name], likeness) if name in before else value
            for name, value in grown.state_dict().items()
        }
        grown.load_state_dict(after)
        for name, parameter in grown.named_parameters():
            if name in before and parameter.shape != before[name].shape:
                there = torch.zeros_like(parameter)
                there[tuple(slice(size) for size in before[name].shape)] = 1.0
                own[parameter] = 1 - there
    made.context_profile.copy_(profiles)
    apart = distances(profiles.numpy(force=True))
    made.context_distance.copy_(torch.from_numpy(apart))
    made.context_unit.fill_(float(model.context_unit) if n > 1 else mean_distance(apart))
    made.batches_of.copy_(
        torch.cat([model.batches_of.cpu(), torch.from_numpy(batches_of_contexts(new)[n:])]).to(model.device)
    )
    _leave_to_prior(made, made_guide, guide, n)
    globals_: Any = made_guide.globals
    of_sites = {id(one) for one in globals_.parameters()}
    return made, made_guide, {one: mask for one, mask in own.items() if id(one) not in of_sites}


def _likeness(distance: np.ndarray, unit: float) -> Tensor:
    """Shares of the known contexts in a first guess of a new one."""
    weight = np.exp(-(distance - distance.min(1, keepdims=True)) / (_CLOSER * unit))
    return torch.from_numpy(weight / weight.sum(1, keepdims=True)).float()


def _filled(fresh: Tensor, before: Tensor, likeness: Tensor) -> Tensor:
    """A parameter of before in the place of a grown one, the new rows as the known contexts' by likeness."""
    if fresh.shape == before.shape:
        return before
    grown = fresh.clone()
    grown[tuple(slice(size) for size in before.shape)] = before
    n_new, n = likeness.shape
    axis, *more = [i for i, (a, b) in enumerate(zip(fresh.shape, before.shape, strict=True)) if a != b]
    if more or not fresh.is_floating_point():  # noted afterwards
        return grown
    if fresh.shape[axis] - before.shape[axis] != n_new:
        raise ModelError(
            f"posterior.adapt() cannot add a context to a parameter that grows from {tuple(before.shape)} to "
            f"{tuple(fresh.shape)} with it; use a guide whose mechanism is 'normal'."
        )
    rows = before.narrow(axis, before.shape[axis] - n, n)
    mixed = torch.tensordot(likeness.to(rows), rows, dims=([1], [axis])).movedim(0, axis)
    grown.narrow(axis, before.shape[axis], n_new).copy_(mixed)
    return grown


def _leave_to_prior(model: LatentDynamics, guide: AmortizedGuide, before: AmortizedGuide, n: int) -> None:
    """Sets what the guide says of sites in new contexts to the mean and the spread of their prior.

    Of a site that the guide before lacked, the known contexts stay at the mean, as they were without it.
    """
    part: Any = getattr(guide.globals, "independent", None)
    if part is None:
        return
    had = dict(getattr(before.globals, "independent", before).named_parameters())
    with torch.no_grad(), poutine.block(), poutine.trace() as tracer:
        model.mechanism()
    for name, _ in part.prototype_trace.iter_stochastic_nodes():
        axes = model.axes(name) or ()
        if "context" not in axes:
            continue
        law: Any = tracer.trace.nodes[name]["fn"]
        transform: Any = biject_to(law.support)
        drawn = transform.inv(law.expand([_PRIOR_DRAWS]).sample())
        loc, scale = part._get_loc_and_scale(name)
        axis = axes.index("context") - len(axes)
        middle = law.mean.expand(loc.shape) if transform(loc) is loc else drawn.mean(0)
        spread = drawn.std(0)
        new = torch.arange(n, loc.shape[axis], device=loc.device)
        known, certain = (loc, scale) if f"locs.{name}" in had else (middle, _CERTAIN * spread)
        with torch.no_grad():
            moved = known.detach().clone().index_copy(axis, new, middle.index_select(axis, new))
            wide = certain.detach().clone().index_copy(axis, new, spread.index_select(axis, new))
            deep_setattr(part.locs, name, moved)
            deep_setattr(part.scales, name, wide)


def _fit(
    model: LatentDynamics,
    guide: AmortizedGuide,
    own: dict[nn.Parameter, Tensor],
    new: Trajectories,
    seed: int,
    progress: bool,
) -> None:
    """Maximises the bound of the new controls over what is their contexts' own."""
    for one in (*model.parameters(), *guide.parameters()):
        one.requires_grad_(one in own)
    optimiser = torch.optim.Adam(own, lr=_STEP_SIZE)
    course = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    bound = negative_bound(model, guide, "elbo", alpha=0.5, particles=1)
    rng, size = np.random.default_rng(seed), min(_CELLS, new.n_cells)
    few = RowsInUse.of_tokens(torch.tensor([0], device=model.device), model.schema.n_tokens)
    rows = few if has_large_tables(model, guide) else None
    model.train(), guide.train()
    with (
        seeded(seed),
        drawn_rows(model, guide, rows),
        appearing("adapting", _STEPS, shown=progress) as advance,
    ):
        for _ in range(_STEPS):
            batch = new.batch(np.sort(rng.choice(new.n_cells, size, replace=False))).to(model.device)
            optimiser.zero_grad()
            (bound(batch) / new.n_cells).backward()
            for one, mask in own.items():
                if one.grad is not None:
                    one.grad *= mask
            optimiser.step()
            course.step()
            advance()
    for one in (*model.parameters(), *guide.parameters()):
        one.requires_grad_(True)
