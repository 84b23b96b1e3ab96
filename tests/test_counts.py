"""The negative binomial against its closed forms, lagged mechanisms against loops, and the networks."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyro_citevae.nn.counts import NegativeBinomial
from pyro_citevae.nn.lags import linear, saturating
from pyro_citevae.nn.networks import Decoder, Perceptron, SteppedPerceptron, joined


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
def test_a_decoder_starts_affine_and_keeps_the_leading_axes(hidden: int) -> None:
    torch.manual_seed(35)
    net = Decoder(2, 6, hidden)
    y, z = torch.randn(2, 3, 5, 2)
    assert net(z).shape == (3, 5, 6)
    torch.testing.assert_close(net((y + z) / 2), (net(y) + net(z)) / 2)
