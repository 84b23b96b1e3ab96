"""Adam that moves of a large table the rows that a step had to do with."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pyro_citevae.nn.rows_in_use import RowsInUse
from pyro_citevae.nn.taken_rows import TakenRows

__all__ = ["moves_rows"]


def moves_rows(adam: torch.optim.Adam, taken: TakenRows) -> torch.optim.Adam:
    r"""Lets Adam move the rows that were taken out of tables too, each by the steps that it was taken in.

    ::

        m_p <- b1 m_p + (1 - b1) g_p        v_p <- b2 v_p + (1 - b2) g_p^2        n_p <- n_p + 1
        row_p <- row_p - lr (m_p / (1 - b1^n_p)) / (sqrt(v_p / (1 - b2^n_p)) + eps)

    for the rows p that a step took and that count in it; all others stay. A table whose rows are all taken in
    every step is optimised as by Adam itself. The moments are part of Adam's state.

    Args:
        adam: Adam of all that is learnt, tables included.
        taken: Rows that the steps take; emptied after each.

    Source: D. P. Kingma and J. Ba, Adam (2015); lazily for rows, as in TensorFlow's LazyAdam, and with a
    count of steps for each row.
    """

    def move(*_: Any) -> None:
        # anew each time: a state that is taken up brings groups of its own
        groups = {id(one): group for group in adam.param_groups for one in group["params"]}
        with torch.no_grad():
            for table, rows, leaf in taken.parts:
                if leaf.grad is not None:
                    failed = getattr(adam, "found_inf", None)
                    _move(adam.state[table], table, rows, leaf.grad, groups[id(table)], failed)
        taken.parts.clear()

    adam.register_step_post_hook(move)
    return adam


def _move(
    state: dict[str, Tensor],
    table: nn.Parameter,
    rows: RowsInUse,
    gradient: Tensor,
    group: dict[str, Any],
    failed: Tensor | None,
) -> None:
    """One step of the rows of a table, and of their moments; none where it failed."""
    first, second = group["betas"]
    if not state:
        state["step"] = table.new_zeros(table.shape[-2], 1)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(table), torch.zeros_like(table)
    tables = (state["step"], state["exp_avg"], state["exp_avg_sq"], table.detach())
    taken = [rows.of(one) for one in tables]
    # rows that make up a minibatch's usual number stay as they are
    stand_in = rows.weight <= 0 if rows.padded and rows.weight is not None else None
    if failed is not None:
        stand_in = failed > 0 if stand_in is None else stand_in | (failed > 0)
    before = taken if stand_in is None else [one.clone() for one in taken]
    n, m, v, moved = taken
    n.add_(1)
    m.lerp_(gradient, 1 - first)
    v.mul_(second).addcmul_(gradient, gradient, value=1 - second)
    # each row's own correction of the moments, on the few numbers that a row has one of
    first_left, second_left = (-torch.expm1(n * math.log(beta)) for beta in (first, second))
    root = second_left.sqrt()
    by = v.sqrt().add_(group["eps"] * root)
    moved.sub_((m * (group["lr"] * root / first_left)).div_(by))
    for held, old, new in zip(tables, before, taken, strict=True):
        made = new if stand_in is None else torch.where(stand_in, old, new)
        held.index_copy_(-2, rows.tokens, made)
