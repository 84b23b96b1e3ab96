"""More cells for an earlier schema: its genes, its batches and its unit of time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from pyro_citevae.data import values as matrices
from pyro_citevae.data.columns import Columns
from pyro_citevae.data.schema import Schema
from pyro_citevae.data.stored_rows import StoredRows
from pyro_citevae.errors import DataError, few

__all__ = ["known_batches", "on_panel", "require_fitting", "with_contexts"]


def known_batches(
    batches: np.ndarray, schema: Schema, columns: Columns, new_batches: str, order: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Batches of the schema: new ones are refused, or their cells are dealt to the known ones in turn.

    Args:
        batches: Batch of each observation.
        schema: The schema of the training data.
        columns: The columns of these cells.
        new_batches: ``"refuse"`` or ``"spread"``.
        order: Observations by label and name: the order in which they are dealt.

    Returns:
        Batches that the schema has, and what a reader should know of them.

    Raises:
        DataError: A batch is new and refused.
    """
    # whole numbers are written 1 or 1.0, by what else their column held
    distinct, index = np.unique(batches, return_inverse=True)
    written = [next((one for one in _writings(name) if one in schema.batches), name) for name in distinct]
    batches = np.array(written, dtype=str)[index]
    unknown = ~np.isin(batches, schema.batches)
    if not unknown.any():
        return batches, []
    names = sorted(set(batches[unknown].tolist()))
    known = ", ".join(schema.batches[:4]) + (" ..." if len(schema.batches) > 4 else "")
    what = (
        f"batch '{names[0]}' is not among those of training ({known})"
        if columns.batch is not None
        else f"the model knows the batches {known}, and no column says which these cells are of"
    )
    if new_batches == "refuse":
        raise DataError(
            f"{what}; name the right column with batch=, or take cells of a new donor or lane with "
            "posterior.read(adata, new_batches='spread'), which deals them to the known batches in turn."
        )
    dealt = batches.copy().astype(object)
    new = order[unknown[order]]
    dealt[new] = np.array(schema.batches, dtype=object)[np.arange(len(new)) % schema.n_batches]
    return dealt.astype(str), [
        f"{what}: {int(unknown.sum())} cells were dealt to the known batches in turn, so that predictions "
        "are an average over these."
    ]


def with_contexts(contexts: np.ndarray | None, schema: Schema, columns: Columns) -> tuple[Schema, list[str]]:
    """The schema of the training data with the contexts of these cells, and the names of the new ones.

    Args:
        contexts: Context of each observation; None where none is named.
        schema: The schema of the training data.
        columns: The columns of these cells.

    Raises:
        DataError: The model knows contexts and these cells name none, or the other way round.
    """
    if contexts is None and not schema.contexts:
        return schema, []
    if contexts is None:
        raise DataError(
            f"the model knows the contexts {few(schema.contexts)}, and no column says which these cells are "
            "of; name it with context=."
        )
    if not schema.contexts:
        raise DataError(
            f"context='{columns.context}' names contexts, and the model was fitted without any; leave it "
            "out, or fit with context=."
        )
    new = sorted(set(contexts.tolist()) - set(schema.contexts))
    return replace(schema, contexts=(*schema.contexts, *new)), new


def _writings(name: str) -> tuple[str, ...]:
    """A name as it stands, and the other way of writing it if it is a whole number."""
    return name, name.removesuffix(".0"), f"{name}.0"


def require_fitting(columns: Columns, schema: Schema, unit: str | None, dose_unit: str) -> None:
    """Refuses columns that say what an earlier data set's schema says already, or say it otherwise.

    Args:
        columns: The columns of these cells.
        schema: The schema of the training data.
        unit: Unit of these cells' times, where they say it.
        dose_unit: Unit of their doses, where it is said.

    Raises:
        DataError: Candidates are named, or the sequences, the times or the doses are of another kind.
    """
    if dose_unit and schema.dose_unit and dose_unit != schema.dose_unit:
        raise DataError(
            f"obs['{columns.dose}'] has doses in {dose_unit}, and the model's are in {schema.dose_unit}; "
            "bring them to that."
        )
    if columns.candidates:
        raise DataError("candidates= names new tokens, and schema= has its own; name them where it is made.")
    if columns.sequence is not None and schema.design != "sequences":
        raise DataError(
            f"sequence='{columns.sequence}' does not fit the schema of a {schema.design}; leave it out."
        )
    if unit is not None and unit != schema.time_unit:
        raise DataError(
            f"obs['{columns.time}'] has times in the unit '{unit}', and the model's is "
            f"'{schema.time_unit}'; bring "
            "them to that."
        )


def on_panel(
    rows: StoredRows,
    genes: pd.Index,
    schema: Schema,
    expected: Mapping[str, float] | None,
    order: np.ndarray,
) -> tuple[StoredRows, list[str]]:
    """The rows with the genes of a schema, in its order; others are refused, or stood in for.

    Args:
        rows: Rows with the genes of the file.
        genes: Names of these.
        schema: The schema of the training data.
        expected: Share of the counts that each gene is expected to hold; None to refuse.
        order: Cells by name: the order in which counts are drawn.

    Returns:
        The rows, and what a reader should know of them.

    Raises:
        DataError: Genes are missing.
    """
    position = {str(gene): g for g, gene in enumerate(genes)}
    lacking = [gene for gene in schema.genes if gene not in position]
    if not lacking:
        return rows.of_columns(np.array([position[gene] for gene in schema.genes])), []
    if expected is None or len(lacking) == schema.n_genes:
        raise DataError(
            f"{len(lacking)} of the {schema.n_genes} genes are missing, such as '{lacking[0]}'; give data "
            "with the genes that the model was trained on, name the column of var that holds their names "
            "with genes=, or stand in for some by posterior.read(adata, missing='mask')."
        )
    there = [gene for gene in schema.genes if gene in position]
    filled = matrices.with_expected(
        rows.of_columns(np.array([position[gene] for gene in there])).tocsr(),
        np.isin(np.array(schema.genes), there),
        np.array([expected[gene] for gene in schema.genes]),
        order,
    )
    return matrices.as_rows(filled, "X", schema.values), [
        f"{len(lacking)} of the {schema.n_genes} genes are missing, such as '{lacking[0]}'; counts that a "
        "control cell is expected to have stand in for them."
    ]
