"""Adam by rows: Adam itself where all rows are taken, and nothing where none is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_citevae.infer.row_adam import moves_rows
from pyro_citevae.nn.rows_in_use import RowsInUse
from pyro_citevae.nn.taken_rows import TakenRows

P, SHAPE = 5, (2, 5, 3)


def rows(*tokens: int, weight: list[float] | None = None) -> RowsInUse:
    weights = torch.ones(len(tokens), 1) if weight is None else torch.tensor(weight)[:, None]
    return RowsInUse(torch.tensor(tokens), torch.zeros(P, dtype=torch.int64), weights, weight is not None)


def loss(row: Tensor, target: Tensor) -> Tensor:
    return (row - target).square().sum() + row.abs().sum() / 3


def optimised(steps: list[RowsInUse], table: nn.Parameter, target: Tensor) -> torch.optim.Adam:
    taken = TakenRows()
    optimiser = moves_rows(torch.optim.Adam([table], lr=0.1), taken)
    for used in steps:
        optimiser.zero_grad()
        loss(taken.of(table, used), used.of(target)).backward()
        optimiser.step()
    return optimiser


def table() -> tuple[nn.Parameter, Tensor]:
    torch.manual_seed(0)
    return nn.Parameter(torch.randn(SHAPE)), torch.randn(SHAPE)


def test_with_all_rows_in_every_step_it_is_adam() -> None:
    made, target = table()
    plain = nn.Parameter(made.detach().clone())
    adam = torch.optim.Adam([plain], lr=0.1)
    optimised([rows(3, 0, 1, 4, 2)] * 20, made, target)
    for _ in range(20):
        adam.zero_grad()
        loss(plain, target).backward()
        adam.step()
    torch.testing.assert_close(made, plain, rtol=1e-5, atol=1e-6)


def test_a_row_moves_by_its_own_steps_alone() -> None:
    """A row that is taken in every third step ends where as many steps in a row would lead it."""
    made, target = table()
    before = made.detach().clone()
    optimised([rows(0), rows(0, 1), rows(2)] * 10, made, target)
    for row, n in ((0, 20), (1, 10), (2, 10)):
        alone = nn.Parameter(before.clone())
        optimised([rows(row)] * n, alone, target)
        torch.testing.assert_close(made[:, row], alone[:, row])
    assert torch.equal(made[:, 3:], before[:, 3:])


def test_rows_that_stand_in_stay_and_so_do_their_moments() -> None:
    made, target = table()
    other = nn.Parameter(made.detach().clone())
    padded = rows(0, 1, 2, weight=[1.0, 0.0, 2.0])
    with_stand_in = optimised([rows(0, 1, 2), padded, rows(1)], made, target)
    without = optimised([rows(0, 1, 2), rows(0, 2), rows(1)], other, target)
    torch.testing.assert_close(made, other)
    for name in ("step", "exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(with_stand_in.state[made][name], without.state[other][name])


def test_its_state_goes_on_where_it_was_saved() -> None:
    made, target = table()
    whole = nn.Parameter(made.detach().clone())
    optimised([rows(0, 1), rows(1)] * 4, whole, target)
    first = optimised([rows(0, 1), rows(1)] * 2, made, target)
    taken = TakenRows()
    second = moves_rows(torch.optim.Adam([made], lr=0.1), taken)
    second.load_state_dict(first.state_dict())
    for used in [rows(0, 1), rows(1)] * 2:
        loss(taken.of(made, used), used.of(target)).backward()
        second.step()
    torch.testing.assert_close(made, whole)


def test_other_parameters_move_as_by_adam() -> None:
    made, target = table()
    beside = nn.Parameter(torch.ones(3))
    taken = TakenRows()
    optimiser = moves_rows(torch.optim.Adam([made, beside], lr=0.1), taken)
    (loss(taken.of(made, rows(1)), rows(1).of(target)) + beside.sum()).backward()
    optimiser.step()
    torch.testing.assert_close(beside, torch.full((3,), 0.9))
    assert not taken.parts
