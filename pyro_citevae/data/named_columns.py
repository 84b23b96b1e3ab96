"""Named columns: what a column of ``obs`` says of each cell, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pyro_citevae.data.labels import missing, require_shown, texts
from pyro_citevae.data.published_layouts import LAYOUTS
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.times import times_in, unit_of
from pyro_citevae.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["batches_in", "cells_in", "names_in", "obs_column", "times_of", "unit_named"]


def obs_column(adata: AnnData, name: str, argument: str) -> pd.Series:
    """A column of ``obs``.

    Args:
        adata: The cells.
        name: Its name.
        argument: What names it, for messages.

    Raises:
        DataError: There is no such column, or there are two.
    """
    if name not in adata.obs:
        columns = ", ".join(map(str, adata.obs.columns)) or "none"
        way_out = f"; name the right one, or the file's layout= ({', '.join(LAYOUTS)})"
        raise DataError(
            f"{argument}='{name}' is not a column of obs; its columns are {columns}"
            f"{way_out if argument == 'perturbation' else ''}."
        )
    if np.ndim(adata.obs[name]) != 1:
        raise DataError(f"obs has the column '{name}' twice; keep one of them.")
    return pd.Series(adata.obs[name])


def names_in(adata: AnnData, name: str, argument: str) -> np.ndarray:
    """The names of a column, none of them missing.

    Args:
        adata: The cells.
        name: The column.
        argument: What names it, for messages.

    Raises:
        DataError: There is no such column, a name is missing, or has a sign that is not shown.
    """
    column = obs_column(adata, name, argument)
    if missing(column).any():
        raise DataError(f"obs['{name}'] has missing values; fill them or drop those cells.")
    named = texts(column)
    require_shown(named, f"obs['{name}']")
    return named.to_numpy(dtype=str)


def batches_in(adata: AnnData, name: str | None) -> np.ndarray:
    """The batch of each cell; one for all where no column names them."""
    return np.full(adata.n_obs, "all") if name is None else names_in(adata, name, "batch")


def cells_in(adata: AnnData, name: str | None) -> np.ndarray:
    """The cell of each row; each row its own where no column joins them."""
    return adata.obs_names.to_numpy(dtype=str) if name is None else names_in(adata, name, "sequence")


def times_of(adata: AnnData, name: str | None, schema: Schema | None) -> tuple[np.ndarray | None, str | None]:
    """The times of a column, and the unit that it says; None where no column has them.

    Args:
        adata: The cells.
        name: The column.
        schema: An earlier data set's, into whose unit durations are brought.
    """
    if name is None:
        return None, None
    return times_in(obs_column(adata, name, "time"), name, None if schema is None else schema.time_unit)


def unit_named(adata: AnnData, given: str | None, found: str | None, times: np.ndarray | None) -> str:
    """The unit of time: the one given, or that of the times, or that of the file.

    Args:
        adata: The cells.
        given: What the user names.
        found: What the times say.
        times: Time of each observation; None for a snapshot.

    Raises:
        DataError: What is given is no text.
    """
    if given is not None:
        if not isinstance(given, str):
            raise DataError(f"time_unit={given!r} is no text; name the unit, such as 'day'.")
        require_shown([given], "time_unit=...")
        return unit_of(given)
    if times is None:
        return "step"
    written = adata.uns.get("time_unit")
    of_file = written if isinstance(written, str) and written.isprintable() and written else "time unit"
    return unit_of(found or of_file)
