"""Names of genes: the column that holds them, and whether perturbations are called by the same names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pyro_citevae.data.labels import missing, texts
from pyro_citevae.errors import DataError

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["doubts_of_genes", "gene_names", "require_unique"]

_IDENTIFIER = re.compile(r"ENS[A-Z]*G\d{6,}(\.\d+)?")
_ENOUGH = 0.2  # share of the perturbations that a column names, for it to be the one that is meant


def gene_names(adata: AnnData, column: str | None) -> pd.Index:
    """The name of each gene: that of the column, or of the index where the column has none.

    Args:
        adata: Cells x genes.
        column: Column of ``var``; None for the index.

    Raises:
        DataError: There is no such column.
    """
    if column is None:
        return pd.Index(adata.var_names)
    if column not in adata.var:
        known = ", ".join(map(str, adata.var.columns)) or "none"
        raise DataError(f"genes='{column}' is not a column of var; its columns are {known}.")
    if np.ndim(adata.var[column]) != 1:
        raise DataError(f"var has the column '{column}' twice; keep one of them.")
    named = pd.Series(adata.var[column])
    return pd.Index(np.where(missing(named), adata.var_names.astype(str), texts(named)).astype(object))


def require_unique(names: pd.Index, what: str, mend: str) -> None:
    """Refuses names of which one appears twice.

    Args:
        names: Names of the genes or of the cells.
        what: ``"gene"`` or ``"cell"``.
        mend: A call that makes them unique.

    Raises:
        DataError: A name appears twice.
    """
    if not names.is_unique:
        twice = names[names.duplicated()][0]
        raise DataError(f"{what} '{twice}' appears twice; make the names unique, for example with {mend}.")


def doubts_of_genes(adata: AnnData, genes: Iterable[str], tokens: Sequence[str]) -> list[str]:
    """What a reader should know where no perturbation is called as a gene is.

    Args:
        adata: Cells x genes.
        genes: Names of the genes.
        tokens: Names of the perturbations.

    Returns:
        A sentence, or none.
    """
    names = set(map(str, genes))
    if names & set(tokens) or not tokens:
        return []
    said = f"no perturbation, such as '{tokens[0]}', is among the genes, such as '{min(names)}'"
    known = {str(name): _named(pd.Series(adata.var[name]), tokens) for name in adata.var.columns}
    known["the index of var"] = _named(pd.Series(adata.var_names), tokens)
    best = max(known, key=lambda name: known[name])
    if known[best] >= _ENOUGH * len(tokens):
        way_out = "leave genes= out" if best == "the index of var" else f"name it with genes='{best}'"
        where = best if best == "the index of var" else f"var['{best}']"
        return [f"{said}; {where} names {known[best]} of the {len(tokens)} perturbations: {way_out}."]
    alike = {_folded(name) for name in names} & {_folded(token) for token in tokens}
    if alike:
        return [
            f"{said}; {len(alike)} of the {len(tokens)} perturbations are genes when upper and lower case "
            "and versions are let alone: write both alike."
        ]
    if all(_IDENTIFIER.fullmatch(name) for name in list(names)[:20]) and not any(
        _IDENTIFIER.fullmatch(token) for token in tokens
    ):
        return [
            f"{said}; the genes are Ensembl identifiers: name the column of var with symbols by genes=, so "
            "that a perturbed gene's own counts are known."
        ]
    return []


def _named(column: pd.Series, tokens: Sequence[str]) -> int:
    """How many perturbations a column names."""
    return len(set(tokens) & set(texts(pd.Series(column).dropna())))


def _folded(name: str) -> str:
    return re.sub(r"(?<=\d)\.\d+$", "", name).casefold()
