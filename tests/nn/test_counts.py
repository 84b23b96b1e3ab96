"""Laws of counts against their closed forms, lagged mechanisms against loops, and the networks."""

from collections.abc import Callable
from functools import cache

import mpmath
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from torch import Tensor

import pyro_citevae as cv
from pyro_citevae.nn.counts import CountLaw, NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from pyro_citevae.nn.lags import linear, saturating
from pyro_citevae.nn.networks import Decoder, Perceptron, SteppedPerceptron, joined
from pyro_citevae.nn.sparse_counts import SparseCounts


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def law(log_mean: float, log_theta: float, dtype: torch.dtype = torch.float64) -> NegativeBinomial:
    return NegativeBinomial(torch.tensor(log_mean, dtype=dtype), torch.tensor(log_theta, dtype=dtype))


CASES = pytest.mark.parametrize(("log_mean", "log_theta"), [(0.0, 0.0), (1.5, -1.0), (2.0, 3.0), (-2.0, 1.0)])


# Negative binomial


def test_log_prob_is_that_of_torch() -> None:
    log_mean, log_theta = 2 * randn(50, 1, seed=1), 2 * randn(40, seed=2)
    counts = torch.arange(40, dtype=torch.float64)
    reference = torch.distributions.NegativeBinomial(log_theta.exp(), logits=log_mean - log_theta)
    found = NegativeBinomial(log_mean, log_theta).log_prob(counts)
    torch.testing.assert_close(found, reference.log_prob(counts), rtol=1e-9, atol=1e-9)


@CASES
def test_probabilities_sum_to_one(log_mean: float, log_theta: float) -> None:
    counts = torch.arange(5000, dtype=torch.float64)
    assert law(log_mean, log_theta).log_prob(counts).exp().sum().item() == pytest.approx(1, abs=1e-9)


@CASES
def test_mean_and_variance_are_the_moments_of_the_probabilities(log_mean: float, log_theta: float) -> None:
    one = law(log_mean, log_theta)
    counts = torch.arange(5000, dtype=torch.float64)
    p = one.log_prob(counts).exp()
    mean = (p * counts).sum()
    torch.testing.assert_close(one.mean, mean)
    torch.testing.assert_close(one.variance, (p * (counts - mean).square()).sum())


@CASES
def test_the_probability_of_zero_is_closed(log_mean: float, log_theta: float) -> None:
    one = law(log_mean, log_theta)
    theta = torch.tensor(log_theta, dtype=torch.float64).exp()
    expected = -theta * torch.log1p(one.mean / theta)
    torch.testing.assert_close(one.log_prob(torch.zeros((), dtype=torch.float64)), expected)


def test_the_limit_is_the_poisson() -> None:
    counts = torch.arange(30, dtype=torch.float64)
    poisson = torch.distributions.Poisson(torch.tensor(3.0, dtype=torch.float64))
    found = NegativeBinomial(poisson.rate.log(), torch.tensor(16.0, dtype=torch.float64)).log_prob(counts)
    torch.testing.assert_close(found, poisson.log_prob(counts), rtol=0, atol=1e-4)


@pytest.mark.parametrize("log_theta", [-3.0, 0.0, 3.0, 6.0, 9.0, 12.0, 15.0])
def test_single_precision_holds_up_to_the_poisson_limit(log_theta: float) -> None:
    counts = torch.arange(20, dtype=torch.float64)
    exact = law(1.0, log_theta).log_prob(counts)
    found = law(1.0, log_theta, torch.float32).log_prob(counts.float())
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-3)


@pytest.mark.parametrize("log_theta", [-3.0, 0.0, 3.0, 6.0, 9.0, 12.0, 15.0])
def test_the_gradient_in_single_precision_holds_up_to_the_poisson_limit(log_theta: float) -> None:
    found = []
    for dtype in (torch.float32, torch.float64):
        free = torch.tensor(log_theta, dtype=dtype, requires_grad=True)
        counts = torch.arange(20, dtype=dtype)
        NegativeBinomial(torch.ones((), dtype=dtype), free).log_prob(counts).sum().backward()
        found.append(free.grad.item())
    assert found[0] == pytest.approx(found[1], rel=1e-4, abs=0.01)


def test_the_gradient_is_that_of_the_value() -> None:
    log_mean, log_theta = randn(6, seed=3).requires_grad_(), randn(6, seed=4).requires_grad_()
    counts = torch.tensor([0.0, 1.0, 2.0, 5.0, 10.0, 50.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda m, t: NegativeBinomial(m, t).log_prob(counts), (log_mean, log_theta)
    )


@pytest.mark.parametrize("log_mean", [-300.0, -30.0, 30.0])
def test_extreme_means_stay_finite(log_mean: float) -> None:
    one = law(log_mean, 0.0, torch.float32)
    assert one.log_prob(torch.tensor([0.0, 1.0, 1000.0])).isfinite().all()


@CASES
def test_draws_have_the_mean_and_the_variance(log_mean: float, log_theta: float) -> None:
    torch.manual_seed(5)
    one, n = law(log_mean, log_theta), 100_000
    x = one.sample(torch.Size([n]))
    assert x.eq(x.round()).all()
    assert x.ge(0).all()
    assert abs(x.mean() - one.mean) < 5 * (one.variance / n).sqrt()
    spread = (x - one.mean).square()
    assert abs(spread.mean() - one.variance) < 5 * spread.std() / n**0.5


def test_draws_follow_their_seed_and_their_shape() -> None:
    one = NegativeBinomial(randn(4, 1, seed=6), randn(3, seed=7))
    draws = []
    for _ in range(2):
        torch.manual_seed(8)
        draws.append(one.sample(torch.Size([2, 5])))
    assert draws[0].shape == (2, 5, 4, 3)
    assert torch.equal(*draws)
    assert one.sample().shape == one.batch_shape == (4, 3)


def test_expand_repeats_the_law() -> None:
    one = NegativeBinomial(randn(3, seed=9), randn(1, seed=10))
    wide = one.expand(torch.Size([5, 3]))
    counts = torch.arange(15, dtype=torch.float64).view(5, 3)
    assert isinstance(wide, NegativeBinomial)
    assert (wide.batch_shape, wide.event_shape) == ((5, 3), ())
    assert torch.equal(wide.log_prob(counts), one.log_prob(counts))
    assert torch.equal(wide.mean, one.mean.expand(5, 3))


def test_to_event_sums_over_genes() -> None:
    one = NegativeBinomial(randn(2, 3, seed=11), randn(3, seed=12))
    counts = torch.ones(2, 3, dtype=torch.float64)
    torch.testing.assert_close(one.to_event(1).log_prob(counts), one.log_prob(counts).sum(-1))


@pytest.mark.parametrize("value", [-1.0, 0.5, float("nan")])
def test_what_is_no_count_is_refused(value: float) -> None:
    one = NegativeBinomial(torch.zeros(()), torch.zeros(()), validate_args=True)
    with pytest.raises(ValueError, match="support"):
        one.log_prob(torch.tensor(value))


@pytest.mark.parametrize("place", [0, 1])
def test_a_parameter_that_is_no_number_is_refused(place: int) -> None:
    given = [torch.zeros(2), torch.zeros(2)]
    given[place][1] = float("nan")
    with pytest.raises(ValueError, match="log_mean" if place == 0 else "log_inverse_dispersion"):
        NegativeBinomial(*given, validate_args=True)


# Extreme counts, means and dispersions

MEANS = (1e-8, 1e-3, 0.7, 30.0, 1e3, 1e6)
DISPERSIONS = (1e-4, 0.02, 1.0, 40.0, 80.0, 1e4, 1e6)
EXTREME_COUNTS = (0.0, 1.0, 2.0, 9.0, 300.0, 1e6)


def extremes(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Every combination of them: log mean, log inverse dispersion and count, a row each."""
    axes = [torch.tensor(axis, dtype=torch.float64) for axis in (MEANS, DISPERSIONS, EXTREME_COUNTS)]
    mean, theta, x = torch.cartesian_prod(*axes).unbind(1)
    return mean.log().to(dtype), theta.log().to(dtype), x.to(dtype)


@cache
def true_values(dtype: torch.dtype) -> Tensor:
    """Log probability, and its slopes in log mean and log theta, in 60 digits."""
    rows = []
    with mpmath.workdps(60):
        for log_mu, t, x in zip(*(one.double().tolist() for one in extremes(dtype)), strict=True):
            mu, theta, x = mpmath.exp(log_mu), mpmath.exp(t), mpmath.mpf(x)
            s = mpmath.log1p(mu / theta)
            q = mu / (mu + theta)
            rising = mpmath.loggamma(x + theta) - mpmath.loggamma(theta) - x * t
            slope = theta * (mpmath.digamma(x + theta) - mpmath.digamma(theta)) - x
            value = rising - mpmath.loggamma(x + 1) + x * log_mu - (x + theta) * s
            rows.append((value, x - (x + theta) * q, slope + (x + theta) * q - theta * s))
    return torch.tensor([[float(one) for one in row] for row in rows], dtype=torch.float64)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
@pytest.mark.parametrize("by_gene", [False, True])
def test_values_and_gradients_are_exact_at_the_extremes(
    dtype: torch.dtype, rtol: float, by_gene: bool
) -> None:
    log_mean, log_theta, x = extremes(dtype)
    if not by_gene:
        log_mean, log_theta, x = log_mean[:, None], log_theta[:, None], x[:, None]
    free = log_mean.clone().requires_grad_(), log_theta.clone().requires_grad_()
    law = NegativeBinomial(*free)
    found = law.log_prob(x).flatten()
    by_mean, by_theta = (one.flatten().double() for one in torch.autograd.grad(found.sum(), free))
    value, slope, curve = true_values(dtype).unbind(1)
    torch.testing.assert_close(found.detach().double(), value, rtol=rtol, atol=0)
    # where x is near mu the slopes are differences: then the bound is of the terms' size, x and mu
    size = x.double().flatten() + log_mean.double().flatten().exp()
    assert ((by_mean - slope).abs() <= rtol * slope.abs() + rtol * 1e-3 * size).all()
    assert ((by_theta - curve).abs() <= rtol * curve.abs() + rtol * 1e-1 * size).all()


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_a_sum_over_genes_is_exact_at_the_extremes(dtype: torch.dtype, rtol: float) -> None:
    log_mean, log_theta, x = extremes(dtype)
    found = NegativeBinomial(log_mean, log_theta).to_event(1).log_prob(x)
    assert found.double().item() == pytest.approx(true_values(dtype)[:, 0].sum().item(), rel=rtol)


@pytest.mark.parametrize("log_theta", [5.0, 9.0, 13.0])
def test_the_gradient_of_many_zeros_holds_up_to_the_poisson_limit(log_theta: float) -> None:
    found = []
    for dtype in (torch.float32, torch.float64):
        free = torch.full((2,), log_theta, dtype=dtype, requires_grad=True)
        mean = torch.tensor([-1.0, -3.0], dtype=dtype).expand(50, 2)
        NegativeBinomial(mean, free).to_event(1).log_prob(torch.zeros(50, 2, dtype=dtype)).sum().backward()
        found.append(free.grad.double())
    torch.testing.assert_close(*found, rtol=1e-5, atol=0)


# One law, however its counts are stored and its parameters broadcast

LAWS: dict[str, tuple[type[CountLaw], int]] = {
    "negative binomial": (NegativeBinomial, 2),
    "zero-inflated": (ZeroInflatedNegativeBinomial, 3),
    "poisson": (Poisson, 1),
}
LAW = pytest.mark.parametrize("name", LAWS)


def reference(name: str, parameters: list[Tensor]) -> torch.distributions.Distribution:
    """Pyro's own law."""
    if name == "poisson":
        return dist.Poisson(parameters[0].exp())
    log_mean, log_theta = parameters[:2]
    counts = dist.NegativeBinomial(log_theta.exp(), logits=log_mean - log_theta)
    return (
        counts if len(parameters) == 2 else dist.ZeroInflatedDistribution(counts, gate_logits=parameters[2])
    )


def sparse_of(x: Tensor, also: int = 0) -> SparseCounts:
    """Counts with their non-zeros beside them, and so many zeros stored too."""
    flat = x.reshape(-1)
    place = torch.cat([flat.nonzero()[:, 0], flat.eq(0).nonzero()[:also, 0]]).sort().values
    return SparseCounts.of(x, place, flat[place])


@LAW
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_shapes_broadcast_as_in_pyro(name: str, data: st.DataObject) -> None:
    kind, n = LAWS[name]
    full = data.draw(st.lists(st.integers(1, 3), max_size=4), label="shape")

    def part() -> tuple[int, ...]:
        kept = data.draw(st.integers(0, len(full)))
        return tuple(data.draw(st.sampled_from([1, size])) for size in full[kept:])

    seed = data.draw(st.integers(0, 99))
    parameters = [randn(*part(), seed=seed + i).requires_grad_() for i in range(n)]
    x = (3 * randn(*part(), seed=seed + 9)).clamp(min=0).floor()
    expected = reference(name, parameters).log_prob(x)
    shape = expected.shape
    weight = randn(*shape, seed=seed + 10)
    wanted = torch.autograd.grad(expected, parameters, weight, retain_graph=True)
    for given_x in (x, sparse_of(x), sparse_of(x, also=2)):
        law = kind(*parameters)
        found = law.log_prob(given_x)
        assert found.shape == shape
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(torch.autograd.grad(found, parameters, weight), wanted)
        if law.batch_shape:
            summed, weigh = law.to_event(1).log_prob(given_x), weight[..., :1]
            torch.testing.assert_close(summed, expected.sum(-1), rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(
                torch.autograd.grad(summed, parameters, weigh[..., 0]),
                torch.autograd.grad(expected, parameters, weigh.expand(shape), retain_graph=True),
            )


@LAW
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("layout", ["coo", "csr"])
@pytest.mark.parametrize("shape", [(4, 6), (3, 4, 6)])
def test_sparse_tensors_are_taken_as_they_are(name: str, layout: str, shape: tuple[int, ...]) -> None:
    kind, n = LAWS[name]
    law = kind(randn(*shape, seed=40), *(randn(6, seed=41 + i) for i in range(1, n)), validate_args=True)
    x = (3 * randn(4, 6, seed=45)).clamp(min=0).floor()
    stored = x.to_sparse_coo() if layout == "coo" else x.to_sparse_csr()
    torch.testing.assert_close(law.log_prob(stored), law.log_prob(x))
    torch.testing.assert_close(law.to_event(1).log_prob(stored), law.to_event(1).log_prob(x))
    with pytest.raises(ValueError, match="support"):
        law.log_prob(stored * -1)


@LAW
@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("shapes", [((3, 4), (4,)), ((3, 4), ()), ((3, 4), (3, 4)), ((2, 3, 4), (3, 1))])
def test_first_and_second_derivatives_are_those_of_the_value(
    name: str, summed: bool, second: bool, shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    kind, n = LAWS[name]
    parameters = [randn(*shapes[min(i, 1)], seed=50 + i).requires_grad_() for i in range(n)]
    x = sparse_of((4 * randn(3, 4, seed=55)).clamp(min=0).floor())

    def value(*free: Tensor) -> Tensor:
        law = kind(*free)
        return (law.to_event(1) if summed else law).log_prob(x)

    check = torch.autograd.gradgradcheck if second else torch.autograd.gradcheck
    assert check(value, parameters)


def test_one_parameter_alone_may_be_learnt() -> None:
    log_mean, log_theta, x = randn(3, 4, seed=60), randn(4, seed=61), torch.ones(3, 4).double()
    both = [log_mean.clone().requires_grad_(), log_theta.clone().requires_grad_()]
    wanted = torch.autograd.grad(NegativeBinomial(*both).log_prob(x).sum(), both)
    first = NegativeBinomial(both[0], log_theta).log_prob(x).sum()
    torch.testing.assert_close(torch.autograd.grad(first, both[0])[0], wanted[0])
    second = NegativeBinomial(log_mean, both[1]).to_event(1).log_prob(x).sum()
    torch.testing.assert_close(torch.autograd.grad(second, both[1])[0], wanted[1])


def test_the_gradient_keeps_two_dense_tensors() -> None:
    dense, kept = 200 * 50, []
    x = sparse_of((randn(200, 50, seed=62) - 1).clamp(min=0).ceil())
    law = NegativeBinomial(randn(200, 50, seed=63).requires_grad_(), randn(50, seed=64).requires_grad_())
    with torch.autograd.graph.saved_tensors_hooks(
        lambda one: kept.append(one.numel()) or one, lambda one: one
    ):
        law.to_event(1).log_prob(x)
    assert kept.count(dense) == 2
    assert max(size for size in kept if size != dense) < dense / 3


@LAW
def test_a_plate_of_draws_and_a_mask_are_the_loop(name: str) -> None:
    kind, n = LAWS[name]
    wide, others = randn(5, 2, 3, 4, seed=65), [randn(4, seed=66 + i) for i in range(1, n)]
    x = sparse_of((3 * randn(2, 3, 4, seed=69)).clamp(min=0).floor())
    seen = torch.tensor([[True, False, True], [True, True, False]])

    def program(log_mean: Tensor) -> None:
        with pyro.plate("slot", 2, dim=-2), pyro.plate("cell", 3, dim=-1), poutine.mask(mask=seen):
            pyro.sample("x", kind(log_mean, *others).to_event(1), obs=x)

    def density(log_mean: Tensor) -> Tensor:
        return poutine.trace(program).get_trace(log_mean).log_prob_sum()

    torch.testing.assert_close(
        poutine.trace(pyro.plate("draw", 5, dim=-3)(program)).get_trace(wide).log_prob_sum(),
        torch.stack([density(one) for one in wide]).sum(),
    )
    one = reference(name, [wide[0], *others]).log_prob(x).sum(-1)
    torch.testing.assert_close(density(wide[0]), one[seen].sum())


@LAW
def test_to_event_and_expand_keep_the_shapes(name: str) -> None:
    kind, n = LAWS[name]
    law = kind(randn(3, 4, seed=70), *(randn(4, seed=70 + i) for i in range(1, n)))
    wide = law.to_event(1).expand(torch.Size([2, 5, 3]))
    assert (wide.batch_shape, wide.event_shape) == ((2, 5, 3), (4,))
    x = (3 * randn(5, 3, 4, seed=75)).clamp(min=0).floor()
    torch.testing.assert_close(wide.log_prob(x)[1], law.log_prob(x).sum(-1))
    assert law.to_event(2).log_prob(x).shape == (5,)
    torch.testing.assert_close(law.to_event(2).log_prob(x), law.log_prob(x).sum((-1, -2)))
    assert law.expand((2, 3, 4)).to_event(1).sample().shape == (2, 3, 4)


@LAW
def test_draws_have_the_moments_of_the_law(name: str) -> None:
    kind, n = LAWS[name]
    one, draws = kind(*(0.5 * randn(3, seed=80 + i) for i in range(n))), 200_000
    torch.manual_seed(81)
    x = one.sample(torch.Size([draws]))
    expected = reference(name, [0.5 * randn(3, seed=80 + i) for i in range(n)])
    torch.testing.assert_close(one.mean, expected.mean)
    torch.testing.assert_close(one.variance, expected.variance)
    assert ((x.mean(0) - one.mean).abs() < 5 * (one.variance / draws).sqrt()).all()
    spread = (x - one.mean).square()
    assert ((spread.mean(0) - one.variance).abs() < 5 * spread.std(0) / draws**0.5).all()


@pytest.mark.parametrize("name", ["zero-inflated", "poisson"])
def test_a_seed_draws_what_it_draws_in_pyro(name: str) -> None:
    kind, n = LAWS[name]
    parameters = [randn(40, seed=85 + i) for i in range(n)]
    theirs = reference(name, parameters)
    if name == "zero-inflated":  # around our own negative binomial, whose draws are made another way
        theirs = dist.ZeroInflatedDistribution(NegativeBinomial(*parameters[:2]), gate_logits=parameters[2])
    drawn = []
    for one in (kind(*parameters), theirs):
        torch.manual_seed(88)
        drawn.append(one.sample(torch.Size([7])))
    assert torch.equal(*drawn)


@LAW
def test_the_likelihood_is_in_single_precision_whatever_the_layers_are_in(name: str) -> None:
    kind, n = LAWS[name]
    given_ = [randn(6, 50, seed=90).bfloat16(), *(randn(50, seed=90 + i).float() for i in range(1, n))]
    free = [one.requires_grad_() for one in given_]
    x = (3 * randn(6, 50, seed=95)).clamp(min=0).floor().float()
    expected = kind(*(one.detach().float() for one in free)).to_event(1).log_prob(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = kind(*free).to_event(1).log_prob(x)
        gradients = torch.autograd.grad(found.sum(), free)
        assert kind(*free).sample().dtype == torch.float32
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    single = [one.detach().float().requires_grad_() for one in free]
    wanted = torch.autograd.grad(kind(*single).to_event(1).log_prob(x).sum(), single)
    for one, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(one, other.to(one.dtype))


def test_a_training_step_in_mixed_precision_is_that_in_single_precision_but_for_the_layers() -> None:
    data = cv.simulate(n_cells=40, n_genes=30, n_perturbations=2).data
    batch = data.batch()
    torch.manual_seed(96)
    model = cv.models.StaticShift(data.schema, n_programs=2, hidden=4)
    torch.manual_seed(97)
    drawn = poutine.trace(model).get_trace(batch)  # draws of a bfloat16 law are other draws in some torch
    bounds = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            site = poutine.trace(poutine.replay(model, trace=drawn)).get_trace(batch).nodes["x"]
            bounds.append(site["fn"].log_prob(site["value"]))
    assert bounds[1].dtype == torch.float32
    torch.testing.assert_close(*bounds, rtol=0.02, atol=0)


def test_a_minibatch_hands_its_stored_counts_to_the_likelihood() -> None:
    batch = cv.simulate(n_cells=30, n_genes=20, n_perturbations=2, design="sequences").data.batch()
    values = cv.program.observed_values(batch)
    assert isinstance(values, SparseCounts)
    assert torch.equal(values, batch.x.dense)
    assert torch.equal(values.place.sort().values, batch.x.dense.flatten().nonzero()[:, 0])
    assert type(values + 0) is Tensor
    assert cv.program.observed_values(batch.unobserved()) is None


def test_the_logarithm_of_stored_counts_is_that_of_all() -> None:
    x = cv.simulate(n_cells=30, n_genes=20, n_perturbations=2, design="sequences").data.batch().x
    factor = torch.rand(x.dense.shape[:-1]) + 0.1
    torch.testing.assert_close(x.transformed(factor), torch.log1p(factor[..., None] * x.dense))


# Lags


def lag_loop(W: Tensor, history: list[Tensor], shape: Callable[[Tensor], Tensor]) -> Tensor:
    found = torch.zeros_like(history[0])
    for lag in range(1, min(len(W), len(history)) + 1):
        for k in range(W.shape[1]):
            for j in range(W.shape[2]):
                found[:, k] += W[lag - 1, k, j] * shape(history[-lag][:, j])
    return found


LENGTHS = pytest.mark.parametrize(("n_lags", "length"), [(1, 1), (3, 3), (3, 1), (3, 2), (2, 5)])


@LENGTHS
def test_linear_is_the_loop_over_lags(n_lags: int, length: int) -> None:
    W, history = randn(n_lags, 4, 4, seed=13), list(randn(length, 6, 4, seed=14))
    torch.testing.assert_close(linear(W, history), lag_loop(W, history, lambda z: z))


@LENGTHS
def test_saturating_is_the_loop_over_lags(n_lags: int, length: int) -> None:
    W, history = randn(n_lags, 4, 4, seed=15), list(3 * randn(length, 6, 4, seed=16))
    torch.testing.assert_close(saturating(W, history), lag_loop(W, history, torch.tanh))


def test_states_before_the_longest_lag_do_not_matter() -> None:
    W, history = randn(2, 3, 3, seed=17), list(randn(4, 5, 3, seed=18))
    for mechanism in (linear, saturating):
        assert torch.equal(mechanism(W, history), mechanism(W, history[-2:]))


def test_linear_is_linear_in_the_weights_and_in_the_states() -> None:
    W, V = randn(2, 3, 3, seed=19), randn(2, 3, 3, seed=20)
    y, z = list(randn(2, 5, 3, seed=21)), list(randn(2, 5, 3, seed=22))
    torch.testing.assert_close(linear(W + 2 * V, z), linear(W, z) + 2 * linear(V, z))
    both = [one - 3 * other for one, other in zip(y, z, strict=True)]
    torch.testing.assert_close(linear(W, both), linear(W, y) - 3 * linear(W, z))


def test_saturating_is_bounded_and_linear_near_zero() -> None:
    W, history = randn(2, 3, 3, seed=23), list(randn(2, 5, 3, seed=24))
    bound = W.abs().sum((0, 2))
    assert (saturating(W, [1e6 * z for z in history]).abs() <= bound + 1e-9).all()
    small = [1e-5 * z for z in history]
    torch.testing.assert_close(saturating(W, small), linear(W, small), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("mechanism", [linear, saturating])
def test_each_draw_of_the_weights_moves_its_own_states(
    mechanism: Callable[[Tensor, list[Tensor]], Tensor],
) -> None:
    W, history = randn(7, 2, 3, 3, seed=25), list(randn(2, 7, 5, 3, seed=26))
    expected = torch.stack([mechanism(W[s], [z[s] for z in history]) for s in range(7)])
    torch.testing.assert_close(mechanism(W, history), expected)


# Networks


def test_joined_broadcasts_all_but_the_last_axis() -> None:
    parts = randn(3, 1, 2, seed=27), randn(1, 4, 3, seed=28), randn(5, seed=29)
    found = joined(*parts)
    assert found.shape == (3, 4, 10)
    for i in range(3):
        for j in range(4):
            assert torch.equal(found[i, j], torch.cat([parts[0][i, 0], parts[1][0, j], parts[2]]))


def test_joined_of_one_part_is_the_part() -> None:
    part = randn(3, 2, seed=30)
    assert torch.equal(joined(part), part)


def test_a_perceptron_starts_as_its_linear_part() -> None:
    torch.manual_seed(31)
    net, x = Perceptron(4, 3, hidden=8), torch.randn(5, 4)
    assert torch.equal(net(x), net.linear(x))
    assert net.correction is not None


def test_a_perceptron_leaves_its_linear_part_when_trained() -> None:
    torch.manual_seed(32)
    net, x = Perceptron(4, 3, hidden=8), torch.randn(5, 4)
    optimiser = torch.optim.SGD(net.correction.parameters(), lr=0.1)
    net(x).square().sum().backward()
    optimiser.step()
    assert not torch.allclose(net(x), net.linear(x))


def test_a_perceptron_without_hidden_units_is_affine() -> None:
    torch.manual_seed(33)
    net = Perceptron(4, 3, hidden=0)
    x, y = torch.randn(2, 5, 4)
    assert net.correction is None
    torch.testing.assert_close(net(0.3 * x + 0.7 * y), 0.3 * net(x) + 0.7 * net(y))


@pytest.mark.parametrize("hidden", [0, 8])
def test_a_stepped_perceptron_has_weights_of_its_own_at_each_step(hidden: int) -> None:
    torch.manual_seed(34)
    net, x = SteppedPerceptron(4, 3, n_steps=2, hidden=hidden), torch.randn(5, 4)
    assert torch.equal(net(x, 0), net.linear[0](x))
    assert torch.equal(net(x, 1), net.linear[1](x))
    assert not torch.equal(net(x, 0), net(x, 1))
    assert torch.equal(net(x, 7), net(x, 1))


@pytest.mark.parametrize("hidden", [0, 8])
@pytest.mark.parametrize("lead", [(), (3,)])
def test_a_part_of_the_input_may_be_held_over_steps(hidden: int, lead: tuple) -> None:
    """Values and gradients are those of the whole input, with axes to the left of either part."""
    torch.manual_seed(36)
    net = SteppedPerceptron(7, 3, n_steps=2, hidden=hidden)
    if hidden:
        torch.nn.init.normal_(net.correction[-1].weight)
    x, rest = torch.randn(*lead, 5, 4), torch.randn(5, 3)
    held = net.held(x)
    for t in (0, 1, 7):
        found, expected = held(rest, t), net(joined(x, rest), t)
        torch.testing.assert_close(found, expected)
        gradients = [
            torch.autograd.grad(
                one.square().sum(), list(net.linear[min(t, 1)].parameters()), retain_graph=True
            )
            for one in (found, expected)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hidden", [0, 8])
def test_a_decoder_starts_affine_and_keeps_the_leading_axes(hidden: int) -> None:
    torch.manual_seed(35)
    net = Decoder(2, 6, hidden)
    y, z = torch.randn(2, 3, 5, 2)
    assert net(z).shape == (3, 5, 6)
    torch.testing.assert_close(net((y + z) / 2), (net(y) + net(z)) / 2)
