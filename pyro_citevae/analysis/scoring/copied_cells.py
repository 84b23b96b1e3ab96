"""Copied cells: which held-out observations are training ones, told by what was counted in them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int, UInt64

from pyro_citevae.data.shared_genes import positions
from pyro_citevae.data.stored_rows import StoredRows
from pyro_citevae.data.trajectories import Trajectories

__all__ = ["of_the_same_counts", "of_the_same_name"]

_MOST_VALUES = 20_000_000  # rows x genes that are looked at together
_BY_CHANCE = 1e-3  # equal rows of different cells that are expected among all pairs, at most


def of_the_same_name(train: Trajectories, truth: Trajectories) -> Int[np.ndarray, "pair side"]:
    """Held-out observations that training has by the same name, at the same time and with the same values.

    Values are compared on the genes that both data sets have. Cells of different lanes may have the same
    barcode by accident, and then other values; where a row has none but zeros, its name alone tells nothing.

    Args:
        train: The training cells.
        truth: The held-out cells.

    Returns:
        Rows of the truth, and the rows of training that they are.
    """
    pairs = _joined(_table(train), _table(truth), ["name", "step"])
    return _equal(train, truth, pairs)


def of_the_same_counts(train: Trajectories, truth: Trajectories) -> Int[np.ndarray, "pair side"]:
    r"""Held-out observations that training has under any name, by the same label, time and counts.

    Given their rates, a Poisson count equals a given one above zero with probability ``1 / e`` at most, and a
    row with k genes above zero equals that of another cell with ``e^-k`` at most; more spread makes it less.
    A row counts where less than 0.001 equal ones are expected among all pairs by this bound,

        n_train n_truth e^-k < 0.001,

    so that none of a small or shallow panel does. Real values have no such bound, and are not looked at.

    Args:
        train: The training cells.
        truth: The held-out cells.

    Returns:
        Rows of the truth, and a row of training for each that has its counts.
    """
    none = np.zeros((0, 2), dtype=np.int64)
    if train.schema.values == "real":
        return none
    sides = _table(train), _table(truth)
    group = ["label", "step"]
    keys = [pd.MultiIndex.from_frame(side[group]) for side in sides]
    rows = [np.flatnonzero(own.isin(other)) for own, other in (keys, keys[::-1])]
    if not len(rows[0]):  # as where a time is held out, or all cells of a label
        return none
    known, held = (
        _hashed(side.iloc[chosen], stored, chosen)
        for side, stored, chosen in zip(sides, _on_shared_genes(train, truth), rows, strict=True)
    )
    enough = held["detected"] > np.log(len(known) * len(held) / _BY_CHANCE)
    pairs = _joined(known.drop_duplicates([*group, "hash"]), held[enough], [*group, "hash"])
    return _equal(train, truth, pairs)


def _table(data: Trajectories) -> pd.DataFrame:
    """Name, label and step of each observation."""
    return pd.DataFrame(
        {
            "name": data.names[data.row_cell].astype(str),
            "label": data.row_labels.astype(str),
            "step": data.row_step,
            "row": np.arange(data.n_observations),
        }
    )


def _joined(train: pd.DataFrame, truth: pd.DataFrame, by: list[str]) -> Int[np.ndarray, "pair side"]:
    """Rows of the truth and of training that agree in some columns."""
    both = truth.merge(train, on=by, suffixes=("_truth", "_train"))
    return both[["row_truth", "row_train"]].to_numpy(dtype=np.int64)


def _on_shared_genes(train: Trajectories, truth: Trajectories) -> tuple[StoredRows, StoredRows]:
    """The values of both sides on the genes that both have, in one order."""
    if train.schema.genes == truth.schema.genes:
        return train.stored, truth.stored
    there = set(truth.schema.genes)
    shared = [gene for gene in train.schema.genes if gene in there]
    known, held = (one.stored.of_columns(positions(one.schema, shared)) for one in (train, truth))
    return known, held


def _equal(
    train: Trajectories, truth: Trajectories, pairs: Int[np.ndarray, "pair side"]
) -> Int[np.ndarray, "equal side"]:
    """The pairs whose values are the same, and not all zero."""
    if not len(pairs):
        return pairs
    known, held = _on_shared_genes(train, truth)
    same: list[Bool[np.ndarray, " block"]] = []
    for block in _blocks(len(pairs), held.shape[1]):
        one, other = held[pairs[block, 0]].tocsr(), known[pairs[block, 1]].tocsr()
        differs = np.asarray((one != other).sum(1)).ravel() > 0
        same.append(~differs & (np.diff(one.indptr) > 0))
    return pairs[np.concatenate(same)]


def _hashed(table: pd.DataFrame, stored: StoredRows, rows: Int[np.ndarray, " row"]) -> pd.DataFrame:
    """The table with a hash of the counts of each row, and the number of genes that have any.

    ``hash = sum_g w_g x_g mod 2^64`` with fixed random weights: equal rows have equal hashes.
    """
    weights = np.random.default_rng(0).integers(2**64, size=stored.shape[1], dtype=np.uint64)
    hashes: list[UInt64[np.ndarray, " block"]] = []
    detected: list[Int[np.ndarray, " block"]] = []
    for block in _blocks(len(rows), stored.shape[1]):
        counts = stored[rows[block]].tocsr()
        hashes.append(counts.astype(np.uint64) @ weights)
        detected.append(np.diff(counts.indptr))
    return table.assign(hash=np.concatenate(hashes), detected=np.concatenate(detected))


def _blocks(n_rows: int, n_values: int) -> Iterator[slice]:
    """Slices of so many rows that fit in memory."""
    size = max(1, _MOST_VALUES // max(n_values, 1))
    for first in range(0, n_rows, size):
        yield slice(first, first + size)
