"""Library sizes: all that was counted in a cell, whichever genes of it are modelled."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from pyro_citevae.data.labels import texts
from pyro_citevae.data.schema import Schema
from pyro_citevae.errors import DataError

__all__ = ["at_share_of_training", "floor", "library_sizes"]

_LARGEST = 1e12  # beyond what any cell holds
_ALIKE = 1.25  # shares of the counts that differ by more are of other genes


def floor(library: Float[np.ndarray, " cell"]) -> Float[np.ndarray, " cell"]:
    """Library sizes with empty cells at one count, so that their logarithm is finite."""
    return np.maximum(library, 1.0)


def library_sizes(
    column: pd.Series | None, name: str | None, measured: Float[np.ndarray, " cell"], values: str
) -> tuple[Float[np.ndarray, " cell"], float]:
    """The library size of each cell, and the mean share of it that the measured genes hold.

    Args:
        column: Library sizes; None for the sum over the measured genes.
        name: Name of the column, for messages.
        measured: Sum over the measured genes.
        values: ``"counts"``, or ``"real"``, where there is no library.

    Raises:
        DataError: A value is no library size, or smaller than the sum.
    """
    if values == "real":
        return np.ones(len(measured)), 1.0
    if column is None:
        return floor(measured), 1.0
    library = pd.to_numeric(texts(column), errors="coerce").to_numpy(dtype=float)
    wrong = ~((library >= 0) & (library <= _LARGEST))
    if wrong.any():
        value = column.iloc[int(np.flatnonzero(wrong)[0])]
        raise DataError(f"obs['{name}'] holds '{value}', which is no library size, 0 to {_LARGEST:g}.")
    if (library + 0.5 < measured).any():
        raise DataError(f"obs['{name}'] is smaller than the sum over the genes; name the full library size.")
    library = floor(library)
    return library, float(measured.sum() / library.sum())


def at_share_of_training(
    library: Float[np.ndarray, " cell"],
    panel: Float[np.ndarray, " cell"],
    schema: Schema,
    name: str | None,
) -> tuple[Float[np.ndarray, " cell"], list[str]]:
    """Library sizes that mean what they meant in training, where a panel held a share of them.

    In training the panel held ``panel_share`` of the counts. If it holds another share of these cells'
    library sizes, these are over other genes, and ``panel_n / panel_share`` is taken in their place.

    Args:
        library: Library sizes by the file, or by its column.
        panel: Sum over the schema's genes.
        schema: The schema of the training data.
        name: The column that says library sizes; None if they are sums over the file's genes.

    Returns:
        The library sizes, and what a reader should know of them.
    """
    if schema.values == "real":
        return library, []
    if name is None and schema.panel_share == 1.0:
        return floor(panel), []
    share = float(panel.sum() / library.sum())
    if share == 0 or 1 / _ALIKE < share / schema.panel_share < _ALIKE:
        return library, []
    held = f"the genes of the model hold {share:.0%} of them, and held {schema.panel_share:.0%} in training"
    if name is not None:
        return library, [f"obs['{name}'] has library sizes over other genes than in training: {held}."]
    return floor(panel / schema.panel_share), [
        f"library sizes would be over other genes than in training ({held}); they were taken as the counts "
        f"of these genes divided by {schema.panel_share:.2g}. Name a column with library= if you have one."
    ]
