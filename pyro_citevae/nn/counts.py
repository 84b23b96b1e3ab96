"""Laws of counts by log mean: evaluated in full where a count is not zero, and in one pass elsewhere."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias, final

import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all
from torch.nn.functional import softplus

from pyro_citevae.nn.apart import apart
from pyro_citevae.nn.fixed_shapes import shapes_are_fixed
from pyro_citevae.nn.log_gamma import log_factorial, log_rising, rising_slope
from pyro_citevae.nn.sparse_counts import stored

__all__ = ["CountLaw", "NegativeBinomial", "Poisson", "ZeroInflatedNegativeBinomial"]

_LOG_LARGE = 4.0  # of an inverse dispersion from which on mu / theta is small
_SMALL = 0.25  # below which six terms of an exponential are exact in single precision
_LINEAR = 40.0  # from which on log(1 + e^x) is x in double precision
_BLOCK = 1 << 17  # values at a time, so that a block stays in the cache between one operation and the next

_Rows: TypeAlias = Float[Tensor, "row gene"]


class CountLaw(TorchDistribution):
    """A law of independent counts. Subclasses say its logarithm at zero, and at any count.

    Most counts of a cell are zero, where the costly terms of ``log p`` vanish. So ``log_prob`` computes
    ``log p(0)`` of every value in one pass, and the whole of ``log p(x)`` at the stored counts alone, there
    in double precision, since its terms are as large as ``x log x`` and cancel. ``to_event(1)`` sums over
    genes as it goes.

    Args:
        validate_args: Check parameters and values; None for Pyro's setting.
        **parameters: The parameters by name; they broadcast, and need not be of full shape.
    """

    support = constraints.nonnegative_integer

    def __init__(self, validate_args: bool | None, **parameters: Float[Tensor, ...]) -> None:
        self._given = parameters
        shape = torch.broadcast_shapes(*(value.shape for value in parameters.values()))
        self._broadcast(shape)
        super().__init__(shape, torch.Size(), validate_args=validate_args)

    def _broadcast(self, shape: torch.Size) -> None:
        for name, value in self._given.items():
            setattr(self, name, value.expand(shape))

    @abstractmethod
    def _log_prob(self, value: Float[Tensor, ...], shape: torch.Size, summed: bool) -> Tensor:
        """Log probability of values broadcast to a shape: of each, or of each row of the last axis."""

    def expand(self, batch_shape: torch.Size | Sequence[int], _instance: Any = None) -> CountLaw:
        """Broadcasts the parameters."""
        made = type(self).__new__(type(self))
        made._given = self._given
        made._broadcast(torch.Size(batch_shape))
        TorchDistribution.__init__(made, torch.Size(batch_shape), torch.Size(), validate_args=False)
        made._validate_args = self._validate_args
        return made

    def shifted(self, by: Float[Tensor, ...]) -> CountLaw:
        """The law whose mean is ``exp(by)`` times this one's."""
        given = {**self._given, "log_mean": self._given["log_mean"] + by}
        shape = torch.broadcast_shapes(self.batch_shape, by.shape)
        return type(self)(**given, validate_args=False).expand(shape)

    def at(self, index: Any) -> CountLaw:
        """The law of some of the values.

        Args:
            index: What picks them from an array of the values.
        """
        given = {name: value.expand(self.batch_shape)[index] for name, value in self._given.items()}
        return type(self)(**given, validate_args=False)

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> Any:
        """Makes the rightmost axes those of one event."""
        if reinterpreted_batch_ndims == 1:
            return _OverGenes(self, 1)
        return super().to_event(reinterpreted_batch_ndims)

    def log_prob(self, value: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """Log probability of counts.

        Args:
            value: Dense counts, :class:`~pyro_citevae.nn.sparse_counts.SparseCounts`, or a sparse tensor.

        Raises:
            ValueError: Validation is on, and a value is negative or not whole.
        """
        shape = self._checked(value)
        return self._log_prob(value, shape, summed=False).reshape(shape)

    def log_prob_of_rows(self, value: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """Log probability of counts, summed over the last axis; raises as :meth:`log_prob` does."""
        shape = self._checked(value)
        return self._log_prob(value, shape, summed=True).reshape(shape[:-1])

    def _checked(self, value: Float[Tensor, ...]) -> torch.Size:
        """Checks values where validation is on; returns the shape of their log probability."""
        if self._validate_args:
            if value.layout is torch.strided:
                self._validate_sample(value)
            else:
                valid = self.support.check(value.to_sparse_coo().coalesce().values())
                if not valid.all():
                    raise ValueError(f"a stored value is not within the support {self.support}")
        return torch.broadcast_shapes(self.batch_shape, value.shape)

    def _floats(self) -> list[Float[Tensor, ...]]:
        """The parameters as given, in one precision and at least in single."""
        given = list(self._given.values())
        kind = torch.float32
        for one in given:
            kind = torch.promote_types(kind, one.dtype)
        return [one.to(kind) for one in given]


@final
class _OverGenes(dist.Independent):
    """Counts of which the last axis is one event."""

    def log_prob(self, value: Float[Tensor, ...]) -> Float[Tensor, ...]:
        """Log probability summed over the event."""
        summed: Tensor = self.base_dist.log_prob_of_rows(value)
        return summed


@final
class NegativeBinomial(CountLaw):
    r"""Counts with mean ``mu`` and variance ``mu + mu^2 / theta``.

    ``log p(x) = lgamma(x + theta) - lgamma(theta) - lgamma(x + 1)
    + theta (log theta - log(theta + mu)) + x (log mu - log(theta + mu))``

    ``log p(0) = -theta log(1 + mu / theta)``. Of the values' number of tensors, the gradient keeps the
    log means and ``log(1 + mu / theta)``.

    Args:
        log_mean: Logarithm of the mean ``mu``.
        log_inverse_dispersion: Logarithm of ``theta``; large values approach the Poisson.
        validate_args: Check parameters and values; None for Pyro's setting.

    Example:
        >>> import torch
        >>> law = NegativeBinomial(torch.zeros(3), torch.zeros(()))
        >>> law.log_prob(torch.tensor([0.0, 1.0, 2.0])).exp()
        tensor([0.5000, 0.2500, 0.1250])
    """

    arg_constraints = {  # noqa: RUF012 - the attribute torch reads
        "log_mean": constraints.real,
        "log_inverse_dispersion": constraints.real,
    }
    log_mean: Tensor
    log_inverse_dispersion: Tensor

    def __init__(
        self,
        log_mean: Float[Tensor, ...],
        log_inverse_dispersion: Float[Tensor, ...],
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(validate_args, log_mean=log_mean, log_inverse_dispersion=log_inverse_dispersion)

    @property
    def mean(self) -> Float[Tensor, ...]:
        """``mu``."""
        return self.log_mean.exp()

    @property
    def variance(self) -> Float[Tensor, ...]:
        """``mu + mu^2 / theta``."""
        mu = self.mean
        return mu + mu.square() * self.dispersion

    @property
    def dispersion(self) -> Float[Tensor, ...]:
        """``1 / theta``, as it was given: it broadcasts, and need not be of full shape."""
        return torch.exp(-self._given["log_inverse_dispersion"])

    def sample(self, sample_shape: torch.Size | Sequence[int] = torch.Size()) -> Float[Tensor, ...]:  # noqa: B008
        """Draws counts as a gamma mixture of Poissons."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            log_mean, log_theta = broadcast_all(*self._floats())
            log_theta = log_theta.clamp(max=30.0)  # beyond, a Poisson in any precision
            rate = torch._standard_gamma(log_theta.exp().expand(shape)) * (log_mean - log_theta).exp()
            return torch.poisson(rate)

    def _log_prob(self, value: Float[Tensor, ...], shape: torch.Size, summed: bool) -> Tensor:
        n_genes = shape[-1:].numel()
        log_mean, log_theta = self._floats()
        by_gene = log_theta.numel() == log_theta.shape[-1:].numel()  # the same in every row
        log_theta = log_theta.reshape(-1).expand(n_genes) if by_gene else log_theta.expand(shape)
        mean = log_mean.expand(shape).reshape(-1, n_genes).contiguous()
        theta = log_theta.reshape(-1, n_genes)
        learning = torch.is_grad_enabled() and (mean.requires_grad or theta.requires_grad)
        index, x = stored(value, shape)
        found: Tensor = _LogNegativeBinomial.apply(mean, theta, index, x, summed, learning)
        return found


@final
class ZeroInflatedNegativeBinomial(CountLaw):
    r"""``p(x) = pi [x = 0] + (1 - pi) NB(x; mu, theta)``.

    Args:
        log_mean: Logarithm of the mean ``mu`` of the counts that are not lost.
        log_inverse_dispersion: Logarithm of ``theta``.
        gate_logits: Logit of the share ``pi`` of lost counts.
        validate_args: Check parameters and values; None for Pyro's setting.

    Source: D. Risso et al., A General and Flexible Method for Signal Extraction from Single-Cell RNA-seq
    Data (2018).

    Example:
        >>> import torch
        >>> law = ZeroInflatedNegativeBinomial(torch.zeros(3), torch.zeros(()), torch.zeros(()))
        >>> law.log_prob(torch.tensor([0.0, 1.0, 2.0])).exp()
        tensor([0.7500, 0.1250, 0.0625])
    """

    arg_constraints = {  # noqa: RUF012 - the attribute torch reads
        "log_mean": constraints.real,
        "log_inverse_dispersion": constraints.real,
        "gate_logits": constraints.real,
    }
    log_mean: Tensor
    log_inverse_dispersion: Tensor
    gate_logits: Tensor

    def __init__(
        self,
        log_mean: Float[Tensor, ...],
        log_inverse_dispersion: Float[Tensor, ...],
        gate_logits: Float[Tensor, ...],
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(
            validate_args,
            log_mean=log_mean,
            log_inverse_dispersion=log_inverse_dispersion,
            gate_logits=gate_logits,
        )

    @property
    def counts(self) -> NegativeBinomial:
        """The law of the counts that are not lost."""
        return NegativeBinomial(self.log_mean, self.log_inverse_dispersion, validate_args=False)

    @property
    def mean(self) -> Float[Tensor, ...]:
        """``(1 - pi) mu``."""
        return torch.sigmoid(-self.gate_logits) * self.log_mean.exp()

    @property
    def variance(self) -> Float[Tensor, ...]:
        """``(1 - pi) (mu^2 + Var NB) - mean^2``."""
        counts = self.counts
        second = counts.mean.square() + counts.variance
        return torch.sigmoid(-self.gate_logits) * second - self.mean.square()

    def sample(self, sample_shape: torch.Size | Sequence[int] = torch.Size()) -> Float[Tensor, ...]:  # noqa: B008
        """Draws which counts are lost, and then the counts."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            lost = torch.bernoulli(self.gate_logits.sigmoid().expand(shape)).bool()
            return self.counts.expand(shape).sample().masked_fill(lost, 0.0)

    def _log_prob(self, value: Float[Tensor, ...], shape: torch.Size, summed: bool) -> Tensor:
        return _from_parts(_inflated_zero, _log_inflated, self._floats(), value, shape, summed)


@final
class Poisson(CountLaw):
    """Counts with mean and variance ``mu``: ``log p(x) = x log mu - mu - lgamma(x + 1)``.

    Args:
        log_mean: Logarithm of ``mu``.
        validate_args: Check parameters and values; None for Pyro's setting.

    Example:
        >>> import torch
        >>> Poisson(torch.zeros(3)).log_prob(torch.tensor([0.0, 1.0, 2.0])).exp()
        tensor([0.3679, 0.3679, 0.1839])
    """

    arg_constraints = {"log_mean": constraints.real}  # noqa: RUF012 - the attribute torch reads
    log_mean: Tensor

    def __init__(self, log_mean: Float[Tensor, ...], validate_args: bool | None = None) -> None:
        super().__init__(validate_args, log_mean=log_mean)

    @property
    def mean(self) -> Float[Tensor, ...]:
        """``mu``."""
        return self.log_mean.exp()

    @property
    def variance(self) -> Float[Tensor, ...]:
        """``mu``."""
        return self.mean

    @property
    def dispersion(self) -> Float[Tensor, ...]:
        """Zero, since the variance is the mean."""
        return self.log_mean.new_zeros(())

    def sample(self, sample_shape: torch.Size | Sequence[int] = torch.Size()) -> Float[Tensor, ...]:  # noqa: B008
        """Draws counts."""
        with torch.no_grad():
            (log_mean,) = self._floats()
            return torch.poisson(log_mean.exp().expand(self._extended_shape(torch.Size(sample_shape))))

    def _log_prob(self, value: Float[Tensor, ...], shape: torch.Size, summed: bool) -> Tensor:
        return _from_parts(_poisson_zero, _log_poisson, self._floats(), value, shape, summed)


def _from_parts(
    at_zero: Callable[..., Tensor],
    at_count: Callable[..., Tensor],
    parameters: Sequence[Float[Tensor, ...]],
    value: Float[Tensor, ...],
    shape: torch.Size,
    summed: bool,
) -> Tensor:
    """Log probability from ``log p(0)`` of every value and ``log p(x)`` of the stored ones."""
    index, x = stored(value, shape)
    full = [one.expand(shape).reshape(-1, shape[-1:].numel()) for one in parameters]
    zeros = at_zero(*full)
    picked = [one.reshape(-1).index_select(0, index).double() for one in full]
    found = zeros.reshape(-1).index_copy(0, index, at_count(x.double(), *picked).to(zeros.dtype))
    return found.view_as(zeros).sum(-1) if summed else found


class _LogNegativeBinomial(torch.autograd.Function):
    """Log probability of each value or of each row, and its gradient in closed form.

    ``d log p / d log mu = x - (x + theta) q`` with ``q = mu / (theta + mu)``, and ``d log p / d log theta
    = theta (digamma(x + theta) - digamma(theta)) - x + (x + theta) q - theta log(1 + mu / theta)``.

    Both dense tensors are made once and filled in place: making one costs more than a pass over it.
    """

    @staticmethod
    def forward(
        ctx: Any,
        log_mean: _Rows,
        log_theta: Float[Tensor, "row_or_one gene"],
        index: Int[Tensor, " stored"],
        x: Float[Tensor, " stored"],
        summed: bool,
        learning: bool,
    ) -> Tensor:
        """Log probability; ``learning`` says whether its gradient may be asked for."""
        with torch.autocast(log_mean.device.type, enabled=False):
            row = index.div(log_mean.shape[1], rounding_mode="floor")
            picked = _picked(log_theta, index, row)
            mean = log_mean.view(-1).index_select(0, index)
            counts, means, thetas = apart(x.double(), mean.double(), picked.double())
            there, *slopes = apart(*_at_counts(counts, means, thetas, learning))
            log_ratio = _log_ratio(log_mean, log_theta)
            # a stored count has its own terms; among these, log p(0) would only cancel again
            log_ratio.view(-1).index_fill_(0, index, 0.0)
            theta, there = log_theta.exp(), there.to(log_mean.dtype)
            if not summed:
                found = (log_ratio * -theta).view(-1).index_copy_(0, index, there).view_as(log_mean)
            else:
                zeros = log_ratio @ theta[0] if len(theta) == 1 else (log_ratio * theta).sum(-1)
                found = zeros.neg_().index_add_(0, row, there)
            if learning:
                ctx.save_for_backward(log_mean, log_theta, log_ratio, index, row, x, *slopes)
                ctx.summed = summed
            return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        """The gradient in the log mean and in the log inverse dispersion."""
        gradient = gradients[0].contiguous()
        if torch.is_grad_enabled():
            return *_differentiable_gradient(ctx, gradient), None, None, None, None
        log_mean, log_theta, log_ratio, index, row, _, by_mean, by_theta = ctx.saved_tensors
        with torch.autocast(log_mean.device.type, enabled=False):
            weight = gradient[:, None] if ctx.summed else gradient
            of_stored = gradient.view(-1).index_select(0, row if ctx.summed else index)
            share = _share(log_mean, log_theta)
            share.view(-1).index_fill_(0, index, 0.0)
            to_theta = None
            if ctx.needs_input_grad[1]:
                to_theta = _gradient_in_theta(log_theta, log_ratio, share, weight)
                place = index if len(log_theta) > 1 else index - row * log_mean.shape[1]
                to_theta.view(-1).index_add_(0, place, (of_stored * by_theta).to(to_theta.dtype))
            to_mean = share
            for rows in _blocks(log_mean):
                to_mean[rows].mul_(-_of(log_theta, rows).exp()).mul_(weight[rows])
            to_mean.view(-1).index_copy_(0, index, (of_stored * by_mean).to(to_mean.dtype))
        return to_mean, to_theta, None, None, None, None


def _log_ratio(log_mean: _Rows, log_theta: Float[Tensor, "row_or_one gene"]) -> _Rows:
    """``log(1 + mu / theta)``."""
    if shapes_are_fixed():
        return softplus(log_mean - log_theta, threshold=_LINEAR)
    made = torch.empty_like(log_mean)
    for rows in _blocks(log_mean):
        torch.sub(log_mean[rows], _of(log_theta, rows), out=made[rows])
        torch.ops.aten.softplus.out(made[rows], 1, _LINEAR, out=made[rows])
    return made


def _share(log_mean: _Rows, log_theta: Float[Tensor, "row_or_one gene"]) -> _Rows:
    """``mu / (theta + mu)``."""
    if shapes_are_fixed():
        return torch.sigmoid(log_mean - log_theta)
    made = torch.empty_like(log_mean)
    for rows in _blocks(log_mean):
        torch.sub(log_mean[rows], _of(log_theta, rows), out=made[rows]).sigmoid_()
    return made


def _gradient_in_theta(
    log_theta: Float[Tensor, "row_or_one gene"],
    log_ratio: _Rows,
    share: _Rows,
    weight: Float[Tensor, "row gene_or_one"],
) -> Float[Tensor, "row_or_one gene"]:
    """What the zeros add to the gradient in log theta: ``theta (q - log(1 + mu / theta))``, weighted.

    With ``s = log(1 + mu / theta)`` the bracket is ``1 - exp(-s) - s``, which is about ``-s^2 / 2`` and lost
    in single precision where theta is large.
    """
    if len(log_theta) > 1:
        made = torch.empty_like(log_ratio)
        for rows in _blocks(log_ratio):
            made[rows] = _bracket(log_ratio[rows]) * weight[rows]
        return made.mul_(log_theta.exp())
    made = torch.zeros_like(log_theta)
    if shapes_are_fixed():
        return _weighed(_bracket(log_ratio), weight) * log_theta.exp()
    large = log_theta[0].ge(_LOG_LARGE).nonzero()[:, 0]
    precise = torch.zeros_like(made[:, : len(large)])
    for rows in _blocks(log_ratio):
        made += _weighed(share[rows] - log_ratio[rows], weight[rows])
        if len(large):
            heavy = weight[rows] if weight.shape[1] == 1 else weight[rows].index_select(1, large)
            precise += _weighed(_bracket(log_ratio[rows].index_select(1, large)), heavy)
    made[:, large] = precise
    return made.mul_(log_theta.exp())


def _bracket(s: _Rows) -> _Rows:
    """``1 - exp(-s) - s``; where s is small, by its series, since the difference loses all digits."""
    if s.dtype == torch.float64:
        return torch.expm1(-s).add_(s).neg_()
    series = s / 720 - 1 / 120
    for term in (1 / 24, -1 / 6, 1 / 2):
        series = series * s + term
    return torch.where(s < _SMALL, -s * s * series, -torch.expm1(-s) - s)


def _weighed(values: _Rows, weight: Float[Tensor, "row gene_or_one"]) -> Float[Tensor, "1 gene"]:
    """The weighed sum of the rows."""
    return weight.mT @ values if weight.shape[1] == 1 else (values * weight).sum(0, keepdim=True)


def _differentiable_gradient(ctx: Any, gradient: Tensor) -> list[Tensor | None]:
    """The gradient as a graph, for second derivatives: that of the plain formula."""
    log_mean, log_theta, _, index, _, x, *_ = ctx.saved_tensors
    counts = torch.zeros_like(log_mean).view(-1).index_copy(0, index, x.to(log_mean.dtype)).view_as(log_mean)
    found = _log_negative_binomial(counts, log_mean, log_theta)
    learnt = [one for one, asked in zip((log_mean, log_theta), ctx.needs_input_grad, strict=False) if asked]
    made = iter(
        torch.autograd.grad(found.sum(-1) if ctx.summed else found, learnt, gradient, create_graph=True)
    )
    return [next(made) if asked else None for asked in ctx.needs_input_grad[:2]]


def _blocks(values: _Rows) -> Iterator[slice]:
    """Rows at a time, so that on a CPU a block stays in the cache from one operation to the next."""
    whole = values.device.type != "cpu" or shapes_are_fixed()
    n = max(1, len(values) if whole else _BLOCK // max(1, values.shape[1]))
    return (slice(first, first + n) for first in range(0, len(values), n))


def _of(log_theta: Float[Tensor, "row_or_one gene"], rows: slice) -> Float[Tensor, "_ gene"]:
    return log_theta[rows] if len(log_theta) > 1 else log_theta


def _picked(
    log_theta: Float[Tensor, "row_or_one gene"], index: Int[Tensor, " stored"], row: Int[Tensor, " stored"]
) -> Float[Tensor, " stored"]:
    place = index if len(log_theta) > 1 else index - row * log_theta.shape[1]
    return log_theta.reshape(-1).index_select(0, place)


def _at_counts(
    x: Float[Tensor, " stored"],
    log_mean: Float[Tensor, " stored"],
    log_theta: Float[Tensor, " stored"],
    learning: bool,
) -> tuple[Float[Tensor, " stored"], ...]:
    """Log probability of each stored count and, where one learns, its slopes in log mu and in log theta."""
    theta = log_theta.exp()
    log_ratio = softplus(log_mean - log_theta, threshold=_LINEAR)
    value = x * log_mean - (x + theta) * log_ratio
    # log-gammas are the costly part, and what they add is nothing at x = 1, the most common count
    many = None if shapes_are_fixed() else x.ne(1).nonzero().squeeze(-1)
    above, large = (
        (x, log_theta) if many is None else (x.index_select(0, many), log_theta.index_select(0, many))
    )
    value = _plus(value, many, log_rising(above, large) - log_factorial(above))
    if not learning:
        return (value,)
    pulled = (x + theta) * -torch.expm1(-log_ratio)
    by_theta = _plus(pulled - theta * log_ratio, many, rising_slope(above, large))
    return value, x - pulled, by_theta


def _plus(
    value: Float[Tensor, " stored"], place: Int[Tensor, " some"] | None, added: Float[Tensor, " some"]
) -> Float[Tensor, " stored"]:
    """The values with something added at some places; everywhere if None."""
    return value + added if place is None else value.index_add_(0, place, added)


def _log_negative_binomial(
    x: Float[Tensor, ...], log_mean: Float[Tensor, ...], log_theta: Float[Tensor, ...]
) -> Float[Tensor, ...]:
    """``log p(x)`` as it is written."""
    log_ratio = softplus(log_mean - log_theta, threshold=_LINEAR)
    rising = log_rising(x.double(), log_theta.double()) - log_factorial(x.double())
    return rising.to(log_mean.dtype) + x * log_mean - (x + log_theta.exp()) * log_ratio


def _log_zero(log_mean: Float[Tensor, ...], log_theta: Float[Tensor, ...]) -> Float[Tensor, ...]:
    """``-theta log(1 + mu / theta)``."""
    return -log_theta.exp() * softplus(log_mean - log_theta, threshold=_LINEAR)


def _inflated_zero(
    log_mean: Float[Tensor, ...], log_theta: Float[Tensor, ...], gate: Float[Tensor, ...]
) -> Float[Tensor, ...]:
    return softplus(_log_zero(log_mean, log_theta) - gate) - softplus(-gate)


def _log_inflated(
    x: Float[Tensor, ...],
    log_mean: Float[Tensor, ...],
    log_theta: Float[Tensor, ...],
    gate: Float[Tensor, ...],
) -> Float[Tensor, ...]:
    counted = _log_negative_binomial(x, log_mean, log_theta) - softplus(gate)
    return torch.where(x == 0, _inflated_zero(log_mean, log_theta, gate), counted)


def _poisson_zero(log_mean: Float[Tensor, ...]) -> Float[Tensor, ...]:
    return -log_mean.exp()


def _log_poisson(x: Float[Tensor, ...], log_mean: Float[Tensor, ...]) -> Float[Tensor, ...]:
    return x * log_mean - log_mean.exp() - log_factorial(x)
