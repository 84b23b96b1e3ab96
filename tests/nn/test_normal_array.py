"""Arrays of normals: the same law as one normal an entry, whichever of them share a mean or a scale."""

import math

import pyro.distributions as dist
import pytest
import torch

from pyro_citevae.nn.normal_array import NormalArray

# shapes of mean and scale, of the array, and of a batch of arrays
SHAPES = [
    ((), (), (), ()),
    ((), (), (3,), ()),
    ((), (2, 1), (4, 2, 3), ()),
    ((3,), (2, 3), (2, 3), ()),
    ((2, 3), (2, 3), (2, 3), ()),
    ((), (2, 1), (2, 3), (5, 1, 1)),
    ((5, 1, 1, 2, 1), (2, 3), (2, 3), ()),
    ((), (5, 1, 1, 2, 1), (4, 2, 3), ()),
]


def both(loc: tuple, scale: tuple, shape: tuple, batch: tuple) -> tuple[NormalArray, dist.Independent, list]:
    """The law, one normal an entry, and the mean and scale of both."""
    torch.manual_seed(0)
    of = [torch.randn(loc, dtype=torch.float64), torch.rand(scale, dtype=torch.float64) + 0.1]
    of = [one.requires_grad_() for one in of]
    whole = torch.broadcast_shapes(loc, scale, (*batch, *shape))
    plain = dist.Normal(*of).expand(whole).to_event(len(shape))
    return NormalArray(*of, shape, batch), plain, of


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("copies", [(), (7,)])
def test_it_is_one_normal_an_entry(shapes: tuple, copies: tuple) -> None:
    """Shapes, densities and their gradients; both add up the same numbers, in double precision."""
    law, plain, of = both(*shapes)
    assert (law.batch_shape, law.event_shape) == (plain.batch_shape, plain.event_shape)
    value = plain.sample(copies).requires_grad_()
    found, expected = law.log_prob(value), plain.log_prob(value)
    torch.testing.assert_close(found, expected)
    weight = torch.rand_like(found)
    gradients = [torch.autograd.grad((weight * one).sum(), [value, *of]) for one in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_equal_seeds_draw_equal_arrays(shapes: tuple) -> None:
    law, plain, _ = both(*shapes)
    drawn = []
    for one in (law, plain):
        torch.manual_seed(1)
        drawn.append(one.rsample((3,)))
    torch.testing.assert_close(*drawn, rtol=1e-15, atol=1e-15)  # one of them rounds once, the other twice


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_the_density_of_a_draw_is_that_of_its_value(shapes: tuple, weighted: bool) -> None:
    """With the gradients that flow through the draw, which a law of another draw takes the long way."""
    law, _, of = both(*shapes)
    if weighted and law.event_shape:
        law.weight = torch.rand((*law.event_shape[-2:-1], 1), dtype=torch.float64)
    drawn = law.rsample()
    again = drawn * 1.0
    found, expected = law.log_prob(drawn), law.log_prob(again)
    torch.testing.assert_close(found, expected)
    gradients = [
        torch.autograd.grad(one.sum() + (drawn**3).sum(), of, retain_graph=True) for one in (found, expected)
    ]
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        fixed = law.rsample()
    (score,) = torch.autograd.grad(law.log_prob(fixed).sum(), of[0])
    (wanted,) = torch.autograd.grad(law.log_prob(fixed * 1.0).sum(), of[0])
    assert wanted.abs().sum() > 0
    torch.testing.assert_close(score, wanted)


def test_a_mean_of_zero_is_not_taken_off() -> None:
    scale, value = torch.tensor([[0.5], [2.0]]), torch.randn(4, 2, 3)
    law, plain = (NormalArray(loc, scale, (4, 2, 3)) for loc in (0.0, torch.zeros(())))
    torch.testing.assert_close(law.log_prob(value), plain.log_prob(value))
    assert law.expand((5,)).log_prob(value).shape == (5,)


def test_expanded_it_is_as_many_arrays_and_each_has_its_density() -> None:
    law = NormalArray(torch.zeros(()), torch.tensor([[0.5], [2.0]]), (2, 3))
    many = law.expand((5, 1, 1))
    assert (many.batch_shape, many.event_shape) == ((5, 1, 1), (2, 3))
    value = torch.randn(5, 1, 1, 2, 3)
    torch.testing.assert_close(many.log_prob(value)[:, 0, 0], law.log_prob(value[:, 0, 0]))
    assert many.log_prob(value[0, 0, 0]).shape == (5, 1, 1)  # one array, which each law scores


def test_its_entries_are_a_normal_to_whoever_asks() -> None:
    law = NormalArray(torch.tensor(1.0), 2.0, (2, 3))
    assert torch.equal(law.base_dist.loc, torch.ones(2, 3))
    assert torch.equal(law.variance, torch.full((2, 3), 4.0))
    entropy = 6 * (math.log(2) + math.log(2 * math.pi * math.e) / 2)
    assert law.entropy().item() == pytest.approx(entropy)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: NormalArray(torch.zeros(2), -torch.ones(2), (2,)), "scale"),
        (lambda: NormalArray(torch.full((2,), torch.nan), 1.0, (2,)), "loc"),
        (lambda: NormalArray(torch.zeros(2), 1.0, (2,)).log_prob(torch.full((2,), torch.nan)), "support"),
        (lambda: NormalArray(torch.zeros(2), 1.0, (3,)), "2|broadcast"),
    ],
)
def test_values_out_of_range_are_refused_where_laws_are_checked(made: object, said: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=said):
        made()
