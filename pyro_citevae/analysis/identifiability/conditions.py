"""Eight conditions that theorems of identifiability ask for, each evaluated at draws of a fitted model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pyro_citevae.analysis.identifiability.dependence import auc, dependence
from pyro_citevae.analysis.identifiability.finding import Finding
from pyro_citevae.analysis.identifiability.lag_moments import lag_jacobian
from pyro_citevae.analysis.identifiability.posterior_points import Points, components
from pyro_citevae.nn.linear_chain import derivative
from pyro_citevae.nn.networks import joined

__all__ = ["CONDITIONS", "same_scales"]

_RELATIVE = 1e-3  # of the largest singular value: below, a direction counts as missing
_INFLUENCE = 0.01
_PVALUE = 0.01
_HISTORIES = 50
_MOST_VALUES = 20_000_000


def natural_parameters(points: Points) -> Finding:
    """``lambda = (loc / scale^2, -1 / (2 scale^2))`` of the conditions, less the reference's, has rank 2K.

    States are measured in the reference's mean and scale, which changes no rank. A direction counts that
    exceeds 0.1 % of the largest one and the posterior's own spread: by Weyl's inequality, a matrix of rank r
    plus a draw's deviation D has at most r singular values above the norm of D.
    """
    quantity, K = "rank of the natural-parameter matrix", points.model.n_programs
    laws = _normal(points.under_schedules, len(points.schedules), points)
    if isinstance(laws, str):
        return Finding.none(quantity, laws)
    loc, scale = laws
    # the reference is the first condition, in whose units it is (0, -1/2)
    loc, scale = (loc - loc[:, :1]) / scale[:, :1], scale / scale[:, :1]
    matrix = torch.cat([loc / scale**2, (1 - scale**-2) / 2], dim=-1)[:, 1:]
    n = len(points.schedules)
    if n < 2:
        return Finding.none(quantity, "cannot be tried, since the cells are all of one condition")
    singular, spread = _singular(matrix, 2 * K), _spread(matrix)
    rank = _rank(singular, spread)
    told = (
        f"{_many(n, 'environment')} of the {2 * K + 1} that are needed; singular values "
        f"{_few(singular.median(0).values)}, condition number {_condition(singular):.3g}; "
        f"{int(_rank(singular).median())} of them are not zero, and those count that exceed the posterior's "
        f"spread, {spread:.2g}"
    )
    return _at_least(quantity, rank, 2 * K, told, also=n >= 2 * K + 1)


def mask_support(points: Points) -> Finding:
    """For each program there are tokens that hit it, and they have that program alone in common."""
    quantity, K, tokens = "share of programs told apart by the masks", points.model.n_programs, points.tokens
    if not tokens:
        return Finding.none(quantity, "cannot be tried, since no token has training cells")
    laws = _normal(points.under_tokens, len(tokens) + 1, points)
    if isinstance(laws, str):
        return Finding.none(quantity, laws)
    loc, scale = laws
    effect = ((loc - loc[:, :1]) / scale[:, :1]).abs() + (scale / scale[:, :1]).log().abs()
    hit = effect[:, 1:] > _RELATIVE
    gate = _gates(points)
    if gate is not None:
        hit &= gate
    # common[k, j]: every token that hits k hits j too
    common = ~((hit[..., :, None] & ~hit[..., None, :]).any(1))
    alone = (common.sum(-1) == 1) & hit.any(1)
    never = [_program(k) for k in range(K) if hit[..., k].any(1).double().mean() < 0.5]
    mixed = [_program(k) for k in range(K) if _program(k) not in never and alone[:, k].double().mean() < 0.5]
    told = "; ".join(
        [
            f"a token hits {hit.double().sum(-1).mean():.1f} of {_many(K, 'program')} on average"
            + ("" if gate is not None else ", with no mask that would close any"),
            *([f"no token hits {_list(never)}"] if never else []),
            *([f"what hits {_list(mixed)} always hits another program too"] if mixed else []),
        ]
    )
    return _at_least(quantity, alone.double().mean(-1), 1.0, told)


def temporal_variability(points: Points) -> Finding:
    r"""The mixed derivatives of ``eta_k = log p(z_tk | history, u)`` are linearly independent functions.

    The 2K columns ``d^2 eta_k / dz_tk dh`` and ``d^3 eta_k / dz_tk^2 dh`` are stacked over the histories h of
    cells, at one z_t a draw. Where the scale does not depend on the history, the K third ones are zero.

    Source: W. Yao, G. Chen, K. Zhang, Temporally Disentangled Representation Learning (2022), theorem 1.
    """
    quantity, K = "rank of the mixed derivatives", points.model.n_programs
    if points.model.enumerated:
        return Finding.none(quantity, _ENUMERATED)
    cells = points.followed[:_HISTORIES]
    history = [state.clone().requires_grad_() for state in points.history(cells)]
    u = points.batch.u[: points.tau + 1, cells]
    law = points.model.transition(points.regime(u), history, u[-1])
    if components(law) is None:
        return Finding.none(quantity, _DEPENDENT)
    z = points.one_cell(points.z[points.tau]).expand(-1, -1, len(cells), -1).clone().requires_grad_()
    score = _gradient(law.log_prob(z), [z])[0]
    scale = law.stddev.detach().expand(z.shape).mean((0, 1, 2))
    columns = []
    for k in range(K):
        curvature, *second = _gradient(score[..., k], [z, *history])
        third = _gradient(curvature[..., k], history)
        columns += [torch.cat(second, -1) * scale[k], torch.cat(third, -1) * scale[k] ** 2]
    matrix = torch.stack(columns, dim=-1) * points.unit.repeat(len(history))[:, None]
    singular = _singular(matrix.detach()[:, 0].flatten(1, 2).double(), 2 * K)
    rank = _rank(singular)
    told = (
        f"singular values {_few(singular.median(0).values)} over {_many(len(cells), 'history', 'histories')}"
    )
    if bool((matrix[..., 1::2] == 0).all()):
        told += "; the scale does not depend on the history, so that all third derivatives are zero"
    return _at_least(quantity, rank, 2 * K, told)


def reference_environment(points: Points) -> Finding:
    """In some condition the past moves neither mean nor scale of any program.

    The influence of program j on k is the derivative of k's mean, in standard deviations of the states, or of
    the logarithm of its scale; the number is the largest one, in the condition where it is smallest.

    Source: Y. Liu et al., Identifying Weight-Variant Latent Causal Models (2022).
    """
    u = points.doses(points.schedules)
    mechanism, n = points.regime(u), len(points.schedules)
    history = torch.stack(points.common_history(n))

    def mean_and_scale(states: Tensor) -> Tensor:
        law = points.model.transition(mechanism, list(states), u[-1])
        return joined(law.mean / points.unit, law.stddev.log()).expand(*states.shape[1:-1], -1)

    with torch.no_grad():
        moved = derivative(mean_and_scale, history, mean_and_scale(history))
    influence = (moved * points.unit).abs().amax((0, -2, -1))[:, 0]
    least, where = influence.min(-1)
    best = points.schedules[int(where.mode().values)].label(points.data.schema.control)
    told = f"the past matters least under {best}"
    return _at_most("smallest influence of the past in any condition", least, _INFLUENCE, told)


def shift_rank(points: Points) -> Finding:
    """The tokens' shifts span all K programs, beyond 0.1 % of the largest and the posterior's spread.

    The sentence also says how much of a left-out token's shift lies outside the span of the others' shifts.
    """
    quantity, K, tokens = "rank of the shift matrix", points.model.n_programs, points.tokens
    if points.model.enumerated:
        return Finding.none(quantity, _ENUMERATED)
    if not tokens:
        return Finding.none(quantity, "cannot be tried, since no token has training cells")
    law = points.under_tokens
    mean, scale = (points.full(value, len(tokens) + 1) for value in (law.mean, law.stddev))
    shift = ((mean - mean[:, :1]) / scale[:, :1])[:, 1:]
    singular, spread = _singular(shift, K), _spread(shift)
    floor = _floor(singular, spread)
    outside = _outside(shift, floor).median(0).values
    told = (
        f"singular values {_few(singular.median(0).values)}, of which {int(_rank(singular).median())} are "
        f"not zero, and those count that exceed the posterior's spread, {spread:.2g}; of a left-out token's "
        f"shift a share of {outside.median():.2f} lies outside the span of the others in the median, and "
        f"{outside.max():.2f} for {tokens[int(outside.argmax())]}"
    )
    return _at_least(quantity, _rank(singular, spread), K, told)


def decoder_rank(points: Points) -> Finding:
    """The Jacobian of the emission's mean by (z, s), in standard deviations, has full column rank K + S."""
    model, n = points.model, points.model.n_programs + points.model.n_invariant
    values = points.n_draws * model.schema.n_genes * n * points.batch.step.shape[0]
    most = min(points.batch.n_cells, max(1, _MOST_VALUES // values))
    cells = torch.linspace(0, points.batch.n_cells - 1, most).round().long().unique()
    batch = points.data.batch(cells.numpy()).to(points.z.device)
    seen = model.observation(
        points.regime(points.batch.u[:, cells]), batch.exposure, batch.step, batch.technical
    )
    state = joined(points.last_states, points.s)[..., cells, :]
    state = state.expand(-1, len(batch.step), -1, -1)

    def emission(at: Tensor) -> Any:
        return model.emission(seen, at[..., : model.n_programs], at[..., model.n_programs :], batch.library)

    with torch.no_grad():
        law = emission(state)
        jacobian = derivative(lambda at: emission(at[0]).mean, state[None], law.mean)[0]
        jacobian = jacobian / law.variance.sqrt()[..., None]
        # the states are those of the last observation, which another slot's own would only repeat
        own = (batch.observed & (batch.step == batch.last))[None].expand(points.n_draws, -1, -1)
        # rows of zeros at other slots, one slot a cell remains
        gram = (jacobian.mT @ jacobian * own[..., None, None]).sum(1).double()
    singular = _roots(gram)
    ratio, smallest = singular[..., -1] / singular[..., 0].clamp(min=1e-300), singular[..., -1].amin(-1)
    told = (
        f"the smallest singular value is {smallest.median():.3g}, that of the worst of {_many(most, 'cell')}"
        f"; a median cell tells its least visible direction to a standard error of "
        f"{1 / singular[..., -1].median().clamp(min=1e-300):.2g}"
    )
    return _at_least("smallest singular value of the decoder by its largest", ratio.amin(-1), _RELATIVE, told)


def invariance(points: Points) -> Finding:
    """A classifier does no better than chance at the perturbation from s, and s and z are independent."""
    quantity = "AUC of the perturbation from the invariant state"
    if not points.model.n_invariant:
        return Finding.none(quantity, "does not apply, since the model has no invariant state")
    s, z = (value[:, 0].double().cpu().numpy() for value in (points.s, points.last_states))
    found = [auc(one, points.data.labels) for one in s]
    if found[0] is None:
        return Finding.none(quantity, "cannot be tried, since fewer than two conditions have five cells")
    score = np.array([one.value for one in found if one])
    threshold = max(0.55, 0.5 + 3 * found[0].chance_error)
    together = [dependence(one, other, seed=i) for i, (one, other) in enumerate(zip(s, z, strict=True))]
    pvalue = np.array([one.pvalue for one in together])
    told = (
        f"over {_many(found[0].n_labels, 'condition')} of five cells or more; HSIC of s and z has the "
        f"permutation p-value {np.median(pvalue):.2g} (above {_PVALUE} passes)"
    )
    passed = (score <= threshold) & (pvalue > _PVALUE)
    return Finding(quantity, score, threshold, False, passed, told)


def lag_graph(points: Points) -> Finding:
    """The lag weights A W all move what is observed: means and covariances of the states.

    A state's law is followed as a normal one (exactly so for linear lags) for each condition up to each step
    that has cells of it; sequences show the covariances between steps too. All else is held fixed.
    """
    quantity = "rank of the lag weights through what is observed"
    if points.model.enumerated:
        return Finding.none(quantity, _ENUMERATED)
    found = lag_jacobian(points)
    if found is None:
        return Finding.none(quantity, "does not apply, since the model has no lag weights W")
    singular, rank = _roots(found.gram), _rank(_roots(found.gram))
    told = f"{_many(found.n_laws, 'observed law')}, condition number {_condition(singular):.3g}"
    share = _null_share(found.gram).mean(0)
    free = [int(i) for i in share.argsort(descending=True)[:3] if share[i] > 0.01]
    if free:
        named = ", ".join(f"{found.edges[i]} ({share[i]:.2f})" for i in free)
        told += f"; the null directions lie mostly in {named}, a share of 1 being an edge that is wholly free"
    return _at_least(quantity, rank, len(found.edges), told)


CONDITIONS: Mapping[str, Callable[[Points], Finding]] = MappingProxyType(
    {
        "natural parameters": natural_parameters,
        "mask support": mask_support,
        "temporal variability": temporal_variability,
        "reference environment": reference_environment,
        "shift rank": shift_rank,
        "decoder rank": decoder_rank,
        "invariance of s": invariance,
        "lag graph": lag_graph,
    }
)


def same_scales(points: Points) -> bool:
    """Whether independent components keep their scales in every condition."""
    laws = _normal(points.under_schedules, len(points.schedules), points)
    return not isinstance(laws, str) and bool(((laws[1] / laws[1][:, :1]).log().abs() < _RELATIVE).all())


_ENUMERATED = "does not apply, since a discrete regime of the cell selects the law of a step"
_DEPENDENT = "does not apply, since programs depend on each other within a step"


def _normal(law: Any, n: int, points: Points) -> tuple[Tensor, Tensor] | str:
    """Means and scales of independent normal components, or why there are none."""
    if points.model.enumerated:
        return _ENUMERATED
    each = components(law)
    if each is None:
        return _DEPENDENT
    if not isinstance(each, dist.Normal):
        return f"does not apply, since a step's law is {type(each).__name__} and not normal"
    return points.full(each.loc, n), points.full(each.scale, n)


def _gates(points: Points) -> Bool[Tensor, "draw token program"] | None:
    """Which targets the drawn masks leave open; None for a model without the site m."""
    if points.gates is None:
        return None
    return (points.gates > 0.5)[:, points.model.seen]


def _gradient(value: Tensor, by: list[Tensor]) -> tuple[Tensor, ...]:
    """The gradient of each row's value, zero where nothing depends on it."""
    if not value.requires_grad:
        return tuple(torch.zeros_like(one) for one in by)
    return torch.autograd.grad(value.sum(), by, create_graph=True, materialize_grads=True)


def _singular(matrix: Float[Tensor, "draw row column"], n: int) -> Float[Tensor, "draw n"]:
    """The n largest singular values, zero where the matrix is too small to have so many."""
    found = torch.linalg.svdvals(matrix)[:, :n]
    return torch.nn.functional.pad(found, (0, n - found.shape[1]))


def _spread(matrix: Float[Tensor, "draw row column"]) -> float:
    """Median norm of a draw's deviation from the mean of the draws."""
    return float(torch.linalg.matrix_norm(matrix - matrix.mean(0), 2).median())


def _floor(singular: Float[Tensor, "draw n"], spread: float = 0.0) -> Float[Tensor, "draw 1"]:
    return (_RELATIVE * singular[:, :1]).clamp(min=spread)


def _rank(singular: Float[Tensor, "draw n"], spread: float = 0.0) -> Float[Tensor, " draw"]:
    return (singular > _floor(singular, spread)).sum(-1).double()


def _condition(singular: Float[Tensor, "draw n"]) -> float:
    return float((singular[:, 0] / singular[:, -1]).median())


def _outside(
    shift: Float[Tensor, "draw token program"], floor: Float[Tensor, "draw 1"]
) -> Float[Tensor, "draw token"]:
    """Share of each token's shift that lies outside the span of the others'; zero for one without a shift."""
    each = shift[..., :, None] * shift[..., None, :]
    values, vectors = torch.linalg.eigh(each.sum(1, keepdim=True) - each)
    free = (values <= floor[..., None] ** 2)[..., None, :] * vectors
    length = shift.norm(dim=-1)
    left = (free.mT @ shift[..., None])[..., 0].norm(dim=-1)
    return torch.where(length > floor, left / length.clamp(min=1e-300), 0.0)


def _roots(gram: Float[Tensor, "*lead column column"]) -> Float[Tensor, "*lead column"]:
    """Singular values, the largest first, of the matrix that a Gram matrix is of."""
    return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(-1)


def _null_share(gram: Float[Tensor, "draw column column"]) -> Float[Tensor, "draw column"]:
    """How much of each column's direction lies in the null space."""
    vectors = torch.linalg.eigh(gram)[1].flip(-1)
    null = _roots(gram) <= _floor(_roots(gram))
    return (vectors.square() * null[:, None, :]).sum(-1)


def _at_least(quantity: str, number: Tensor, threshold: float, told: str, also: bool = True) -> Finding:
    value = number.double().cpu().numpy()
    return Finding(quantity, value, threshold, True, (value >= threshold) & also, told)


def _at_most(quantity: str, number: Tensor, threshold: float, told: str) -> Finding:
    value = number.double().cpu().numpy()
    return Finding(quantity, value, threshold, False, value <= threshold, told)


def _program(k: int) -> str:
    return f"program_{k}"


def _many(n: int, one: str, more: str | None = None) -> str:
    return f"{n} {one if n == 1 else more or one + 's'}"


def _few(values: Float[Tensor, " n"]) -> str:
    """The first and the last of some numbers."""
    text = [f"{value:.3g}" for value in values.tolist()]
    return ", ".join(text if len(text) <= 6 else [*text[:3], "...", *text[-2:]])


def _list(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
