"""Moved laws: the means that were asked for, the law's own kind, and none where it is not known how."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import pytest
import torch

from pyro_citevae import counts
from pyro_citevae.nn.counts import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from pyro_citevae.nn.shifted_laws import shifted

N_GENES = 5
LOG_MEAN = torch.linspace(-1.0, 3.0, N_GENES).expand(4, N_GENES)
BY = torch.linspace(-0.7, 1.2, N_GENES)

COUNTS: dict[str, Any] = {
    "our negative binomial": lambda: NegativeBinomial(LOG_MEAN, torch.full((N_GENES,), 0.5)),
    "our zero-inflated": lambda: ZeroInflatedNegativeBinomial(
        LOG_MEAN, torch.zeros(()), torch.full((N_GENES,), -1.0)
    ),
    "our Poisson": lambda: Poisson(LOG_MEAN),
    "Poisson": lambda: dist.Poisson(LOG_MEAN.exp()),
    "negative binomial": lambda: dist.NegativeBinomial(torch.full((N_GENES,), 2.0), logits=LOG_MEAN - 1),
    "gamma-Poisson": lambda: dist.GammaPoisson(torch.full((N_GENES,), 2.0), LOG_MEAN.exp()),
}


@pytest.mark.parametrize("event", [False, True])
@pytest.mark.parametrize("name", COUNTS)
def test_means_of_counts_are_multiplied(name: str, event: bool) -> None:
    law = COUNTS[name]().to_event(1) if event else COUNTS[name]()
    moved = shifted(law, BY)
    torch.testing.assert_close(moved.mean, law.mean * BY.exp())
    assert type(moved) is type(law)
    assert moved.event_shape == law.event_shape
    assert moved.batch_shape == law.batch_shape


@pytest.mark.parametrize("name", COUNTS)
def test_draws_have_the_mean_of_the_moved_law(name: str) -> None:
    """The mean over 20,000 draws within five standard errors."""
    torch.manual_seed(0)
    moved = shifted(COUNTS[name](), BY)
    drawn = moved.sample((5000,)).flatten(0, 1)
    error = moved.variance[0].sqrt() / len(drawn) ** 0.5
    assert ((drawn.mean(0) - moved.mean[0]).abs() < 5 * error).all()


@pytest.mark.parametrize("name", ["our negative binomial", "negative binomial", "gamma-Poisson"])
def test_the_dispersion_stays(name: str) -> None:
    """``(variance - mean) / mean^2`` of the law and of the moved one."""

    def excess(law: Any) -> torch.Tensor:
        return (law.variance - law.mean) / law.mean**2

    law = COUNTS[name]()
    torch.testing.assert_close(excess(shifted(law, BY)), excess(law), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("event", [0, 1])
def test_a_normal_is_moved_by_the_difference(event: int) -> None:
    law = dist.Normal(LOG_MEAN, 0.3).to_event(event)
    moved = shifted(law, BY)
    torch.testing.assert_close(moved.mean, law.mean + BY)
    torch.testing.assert_close(moved.variance, law.variance)


@pytest.mark.parametrize("name", COUNTS)
def test_nothing_changes_by_nothing_and_two_moves_are_one(name: str) -> None:
    law = COUNTS[name]()
    torch.testing.assert_close(shifted(law, torch.zeros(())).mean, law.mean)
    twice = shifted(shifted(law, BY), -2 * BY)
    torch.testing.assert_close(twice.mean, shifted(law, -BY).mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", COUNTS)
def test_a_move_of_each_draw_is_broadcast(name: str) -> None:
    by = torch.stack([BY, 0 * BY])[:, None]
    moved = shifted(COUNTS[name](), by)
    assert moved.mean.shape == (2, 4, N_GENES)
    torch.testing.assert_close(moved.mean[1], COUNTS[name]().mean)


@pytest.mark.parametrize("name", COUNTS)
def test_an_expanded_law_is_moved_too(name: str) -> None:
    law = COUNTS[name]().expand((3, 4, N_GENES)).to_event(1)
    torch.testing.assert_close(shifted(law, BY).mean, law.mean * BY.exp())


@pytest.mark.parametrize(
    "law",
    [
        dist.Laplace(LOG_MEAN, 1.0),
        dist.Laplace(LOG_MEAN, 1.0).to_event(1),
        dist.MultivariateNormal(torch.zeros(N_GENES), torch.eye(N_GENES)),
    ],
    ids=lambda law: type(law).__name__,
)
def test_an_unknown_law_gives_none(law: Any) -> None:
    assert shifted(law, BY) is None


def test_every_law_of_counts_that_is_offered_can_be_moved() -> None:
    offered = {
        one for one in vars(counts).values() if isinstance(one, type) and one.__module__ == counts.__name__
    }
    laws = {one for one in offered if issubclass(one, counts.CountLaw)} - {counts.CountLaw}
    assert laws == {type(make()) for make in COUNTS.values()} & laws
