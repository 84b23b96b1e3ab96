"""Large tables of tokens' own values: when they are large, and draws of the rows of some tokens alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from pyro_citevae.amortization import AmortizedGuide
from pyro_citevae.nn.rows_in_use import RowsInUse
from pyro_citevae.nn.taken_rows import TakenRows
from pyro_citevae.program import LatentDynamics

__all__ = ["drawn_rows", "has_large_tables", "n_own_values"]

_MANY_OWN_VALUES = 2_500_000  # of tokens' own rows, from which on some of them are drawn


def n_own_values(model: LatentDynamics, guide: AmortizedGuide) -> int | None:
    """How many values of their own tokens learn; None where these cannot be drawn for some alone."""
    own: Any = guide.globals
    if not model.local_sites or not hasattr(own, "n_of_rows"):
        return None
    n: int | None = own.n_of_rows([site for site in model.local_sites if site not in model.prior_sites])
    return n


def has_large_tables(model: LatentDynamics, guide: AmortizedGuide) -> bool:
    """Whether tokens have so many values of their own that those of some are drawn, and not of all."""
    n = n_own_values(model, guide)
    return n is not None and n >= _MANY_OWN_VALUES


@contextmanager
def drawn_rows(
    model: LatentDynamics, guide: AmortizedGuide, rows: RowsInUse | None, taken: TakenRows | None = None
) -> Iterator[None]:
    """Lets the model and its guide draw the rows of some tokens; of all if None.

    Args:
        model: The generative program.
        guide: Its guide.
        rows: The tokens; without weights they are all of them, and every row is drawn.
        taken: Where the guide takes the rows' parameters out as leaves; None for gradients of whole tables.
    """
    own: Any = guide.globals
    some = rows is not None and rows.weight is not None
    model.in_use = rows
    try:
        with own.using(rows, model.local_sites, taken) if some else nullcontext():
            yield
    finally:
        model.in_use = None
