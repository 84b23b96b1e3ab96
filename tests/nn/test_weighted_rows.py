"""Sums of a few rows of a table, beside the product with the whole design matrix."""

import pytest
import torch

from pyro_citevae.nn.weighted_rows import weighted_rows

N_ROWS, N_GENES, N_CHOSEN = 6, 5, 3


def design(index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The matrix of which most is zero: a row a cell, and a column a row of the table."""
    at = torch.nn.functional.one_hot(index, N_ROWS)
    return (weight[..., None] * at).sum(-2)


@pytest.mark.parametrize("table_draws", [(), (4, 1)])
@pytest.mark.parametrize("weight_draws", [(), (4,)])
def test_it_is_the_product_with_the_design(table_draws: tuple, weight_draws: tuple) -> None:
    """Values and gradients, with and without draws of either; a row may be named twice in a cell."""
    torch.manual_seed(0)
    cells = (2, 8)
    index = torch.randint(N_ROWS, (*cells, N_CHOSEN))
    rows = torch.randn(*table_draws, N_ROWS, N_GENES, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(*weight_draws, *cells, N_CHOSEN, dtype=torch.float64, requires_grad=True)
    found = weighted_rows(rows, index, weight)
    expected = design(index, weight) @ rows
    torch.testing.assert_close(found, expected)
    upstream = torch.randn_like(expected)
    gradients = [torch.autograd.grad((upstream * one).sum(), [rows, weight]) for one in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_the_order_of_what_is_chosen_does_not_matter() -> None:
    torch.manual_seed(1)
    index = torch.randint(N_ROWS, (8, N_CHOSEN))
    rows, weight = torch.randn(N_ROWS, N_GENES), torch.randn(8, N_CHOSEN)
    turned = [one.flip(-1) for one in (index, weight)]
    torch.testing.assert_close(weighted_rows(rows, *turned), weighted_rows(rows, index, weight))
