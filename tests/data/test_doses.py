"""Doses held by what each cell was given: to any operation they are the dense matrix."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_citevae.data.doses import Doses

N_STEPS, N_CELLS, N_TOKENS = 3, 4, 5
CELLS = torch.arange(N_CELLS)


@pytest.fixture
def dense() -> Tensor:
    u = torch.zeros(N_STEPS, N_CELLS, N_TOKENS)
    u[1:, 0, 2], u[2, 1, 4], u[1, 1, 0], u[1, 3, 1] = 1.0, 0.5, 0.3, 2.0
    return u


def value(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) + 0.5


SPARSE: dict[str, Callable[[Tensor], Tensor]] = {
    "a value a token": lambda u: value(N_TOKENS) * u,
    "and on the other side": lambda u: u * value(N_TOKENS),
    "over a value a token": lambda u: u / value(N_TOKENS),
    "a value a cell": lambda u: u * value(N_CELLS, 1),
    "a number": lambda u: 3 * u / 2.0,
    "a value a cell and token": lambda u: u[1] * value(N_CELLS, N_TOKENS),
    "a value a draw and token": lambda u: value(2, 1, 1, N_TOKENS) * u[1],
    "a sum of doses": lambda u: u + 2 * u,
    "a product of doses": lambda u: u * u,
    "nothing added": lambda u: 0.0 + u,
    "the share that has set in": lambda u: -torch.expm1(-value(N_TOKENS) * u),
    "squares": lambda u: u.square(),
    "at most one": lambda u: u.clamp(max=1.0),
    "at least none": lambda u: torch.clamp(u, min=0.0),
    "a step": lambda u: u[1],
    "the last step": lambda u: u[-1],
    "steps": lambda u: u[1:],
    "cells": lambda u: u[:, [2, 0, 2]],
    "cells by an array": lambda u: u[:, np.array([1, 3])],
    "a step of some cells": lambda u: u[2, CELLS[1:3]],
    "each cell's step": lambda u: u[torch.tensor([2, 0, 1, 1]), CELLS],
    "exposures": lambda u: u.cumsum(0)[torch.tensor([[2, 0, 1, 1], [1, 1, 1, 1]]), CELLS],
    "in double precision": lambda u: u.double(),
    "of another type": lambda u: u.to(torch.float64),
    "cut off": lambda u: u.detach(),
}
REDUCED: dict[str, Callable[[Tensor], Tensor]] = {
    "product": lambda u: u @ value(N_TOKENS, 2),
    "product as a function": lambda u: torch.matmul(u, value(N_TOKENS, 2)),
    "product by a matrix a draw": lambda u: u[1] @ value(7, 1, N_TOKENS, 2),
    "total": lambda u: u.sum(-1),
    "total kept": lambda u: u.sum(dim=-1, keepdim=True),
    "most": lambda u: u.amax(-1, keepdim=True),
    "most of negative doses": lambda u: (-u).amax(-1),
}
DENSE: dict[str, Callable[[Tensor], Tensor]] = {
    "which act": lambda u: u != 0,
    "exponentials": torch.exp,
    "one less": lambda u: 1 - u,
    "beside states": lambda u: torch.cat([value(N_STEPS, N_CELLS, 3), u], -1),
    "further steps": lambda u: torch.cat([u, u[-1:]]),
    "a token": lambda u: u[..., 2],
    "tokens first": lambda u: u.mT,
    "a copy": lambda u: u.clone(),
    "sums over cells": lambda u: u.sum(1),
    "sums up over tokens": lambda u: u.cumsum(-1),
    "at least a half": lambda u: u.clamp(min=0.5),
    "times a matrix of the last axis": lambda u: torch.einsum("tcp,pk->tck", u, value(N_TOKENS, 2)),
    "repeated": lambda u: u.repeat_interleave(2, dim=1),
    "a vector": lambda u: u @ value(N_TOKENS),
    "divided and rounded": lambda u: torch.div(u, 0.4, rounding_mode="floor"),
    "at most a tensor": lambda u: u.clamp(max=torch.tensor(1.0)),
    "total of another type": lambda u: u.sum(-1, dtype=torch.float64),
    "zeros": lambda u: u.new_zeros(3),
}


def same(found: Any, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found.dense if isinstance(found, Doses) else found, expected)


@pytest.mark.parametrize("most", [2, None])
@pytest.mark.parametrize("name", [*SPARSE, *REDUCED, *DENSE])
def test_they_are_the_dense_matrix(dense: Tensor, name: str, most: int | None) -> None:
    """And stay few numbers a cell where they can; an ordinary tensor comes out elsewhere."""
    function = (SPARSE | REDUCED | DENSE)[name]
    found = function(Doses.of(dense, most))
    same(found, function(dense))
    assert isinstance(found, Doses) == (name in SPARSE)


@pytest.mark.parametrize("name", [*SPARSE, *REDUCED])
def test_gradients_flow_through_the_amounts(dense: Tensor, name: str) -> None:
    if name == "cut off":
        return
    function = (SPARSE | REDUCED)[name]
    sparse, plain = Doses.of(dense, 2), dense.clone().requires_grad_()
    amount = sparse.amount.clone().requires_grad_()
    found = function(Doses(sparse.token, amount, N_TOKENS))
    found = found.dense if isinstance(found, Doses) else found
    weight = value(*found.shape).to(found.dtype)
    (by_amount,) = torch.autograd.grad((weight * found).sum(), amount)
    (by_dose,) = torch.autograd.grad((weight * function(plain)).sum(), plain)
    given = sparse.amount != 0
    wanted = by_dose.gather(-1, sparse.token.expand(by_dose.shape[0], -1, -1))
    torch.testing.assert_close(by_amount[given], wanted[given])


def test_values_a_token_learn_from_the_cells_that_were_given_it(dense: Tensor) -> None:
    kappa, matrix = value(N_TOKENS).requires_grad_(), value(N_TOKENS, 2).requires_grad_()
    found = [
        torch.autograd.grad(((kappa * u) @ matrix).square().sum(), [kappa, matrix])
        for u in (Doses.of(dense, 2), dense)
    ]
    torch.testing.assert_close(*found)
    assert found[0][0][3] == 0  # nobody was given token 3


def test_schedules_are_cells_of_their_own() -> None:
    matrices = [np.zeros((3, 6), np.float32), np.eye(3, 6, dtype=np.float32), np.ones((3, 6), np.float32)]
    u = Doses.each(matrices)
    np.testing.assert_array_equal(u.dense.numpy(), np.stack(matrices, axis=1))
    np.testing.assert_array_equal(u.cells(torch.tensor([1, 1, 0])).dense.numpy()[:, 0], matrices[1])
    assert Doses.each(matrices[:1]).token.shape == (1, 1)


def test_they_are_copied_as_tensors_are(dense: Tensor) -> None:
    u = Doses.of(dense, 2)
    for copied in (pickle.loads(pickle.dumps(u)), copy.deepcopy(u)):
        assert isinstance(copied, Doses)
        same(copied, dense)
    assert Doses.of(u) is u
    assert (len(u), u.dim(), u.dtype, u.shape) == (N_STEPS, 3, torch.float32, dense.shape)
    assert "given=2" in repr(u)
    np.testing.assert_array_equal(u.numpy(), dense.numpy())


@pytest.mark.parametrize(
    "write",
    [lambda u: u.mul_(2), lambda u: u.__setitem__(0, 1.0), lambda u: u.__iadd__(1.0), lambda u: u.zero_()],
)
def test_they_are_not_written_to(dense: Tensor, write: Callable[[Tensor], Any]) -> None:
    with pytest.raises(NotImplementedError, match=r"u.clone\(\)"):
        write(Doses.of(dense, 2))
