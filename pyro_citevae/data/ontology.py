"""Gene ontology as shipped: which terms a gene is annotated with, and how alike two genes' terms are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from types import MappingProxyType

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import sparse

from pyro_citevae.arguments import names
from pyro_citevae.errors import DataError

__all__ = [
    "ALIASES",
    "ASPECTS",
    "ELECTRONIC",
    "annotated",
    "in_capitals_alone",
    "names_of",
    "shared_terms",
    "similarity",
    "symbol",
]

ASPECTS = MappingProxyType({"bp": "biological process", "mf": "molecular function", "cc": "component"})
ELECTRONIC = ("IEA", "ND")
"""Evidence that no curator has looked at: inferred from electronic annotation, and no data."""

# symbols that the nomenclature committee renamed since spreadsheets take them for dates
_DATES = ((r"MARCH(\d+)", r"MARCHF\1"), (r"SEPT(\d+)", r"SEPTIN\1"), (r"MARC([12])", r"MTARC\1"))
ALIASES = MappingProxyType(
    {
        "BLIMP1": "PRDM1",
        "DEC1": "DELEC1",
        "LSD1": "KDM1A",
        "MLL": "KMT2A",
        "MLL2": "KMT2D",
        "MLL3": "KMT2C",
        "OCT4": "POU5F1",
        "PDL1": "CD274",
        "PU.1": "SPI1",
    }
)
"""Earlier names that screens still use, beside the renamed dates."""


def annotated(*, aspects: Sequence[str] = ("bp",), without: Sequence[str] = ELECTRONIC) -> pd.DataFrame:
    """Annotated pairs of a human gene and a term, each once.

    Args:
        aspects: Parts of the ontology: ``"bp"``, ``"mf"``, ``"cc"``.
        without: Evidence codes that do not count, such as ``"IEA"``.

    Returns:
        Columns ``symbol`` and ``go_id``.

    Raises:
        DataError: An aspect or a code is unknown, or nothing is left.

    Source: The Gene Ontology Consortium, release of July 2022.

    Example:
        >>> len(annotated(aspects=("bp",), without=()))
        140934
    """
    table = _table()
    aspects, without = names(aspects, "annotated(aspects=...)"), names(without, "annotated(without=...)")
    for argument, named, known in (
        ("aspects", aspects, tuple(ASPECTS)),
        ("without", without, tuple(sorted(table["evidence"].unique()))),
    ):
        for name in named:
            if name not in known:
                raise DataError(f"{argument} names {name!r}; name some of {', '.join(known)}.")
    chosen = table[table["ontology"].isin(list(aspects)) & ~table["evidence"].isin(list(without))]
    if chosen.empty:
        raise DataError(f"aspects={tuple(aspects)} without={tuple(without)} leaves no annotation; drop less.")
    return chosen[["symbol", "go_id"]].drop_duplicates().reset_index(drop=True)


def symbol(gene: str, known: frozenset[str] | None = None) -> str | None:
    """The present symbol of a gene in the ontology, or None if it is not there under any name.

    Args:
        gene: A symbol, or an earlier name of one.
        known: Symbols to look among; None for all of the ontology.

    Example:
        >>> symbol("MARCH8"), symbol("IFNGR1"), symbol("no such gene")
        ('MARCHF8', 'IFNGR1', None)
    """
    known = frozenset(_table()["symbol"]) if known is None else known
    renamed = (re.sub(f"^{old}$", new, gene) for old, new in _DATES)
    return next((name for name in (gene, ALIASES.get(gene, gene), *renamed) if name in known), None)


def names_of(terms: Sequence[str]) -> list[str]:
    """The names of some terms.

    Example:
        >>> names_of(["GO:0008150"])
        ['biological_process']
    """
    named = _terms().set_index("go_id")["term"]
    return [str(named.get(term, term)) for term in terms]


def in_capitals_alone(genes: Sequence[str]) -> list[str]:
    """Those of some genes that the ontology has in capitals and not as they are, as symbols of mice.

    Example:
        >>> in_capitals_alone(["Stat1", "STAT1", "no such gene"])
        ['Stat1']
    """
    known = frozenset(_table()["symbol"])
    return [gene for gene in genes if symbol(gene, known) is None and symbol(gene.upper(), known)]


def similarity(
    genes: Sequence[str],
    *,
    aspects: Sequence[str] = ("bp",),
    without: Sequence[str] = ELECTRONIC,
    term_size: tuple[int, int] = (2, 2000),
    specificity: float = 2.0,
) -> tuple[Bool[np.ndarray, " gene"], Float[np.ndarray, "found found"]]:
    r"""Cosine of two genes' terms, each weighted by a power of its information content.

    ``c_pq = sum_t w_t^2 [t in p] [t in q] / (|w_p| |w_q|)`` with ``w_t = log(N / n_t)^specificity``, where
    n_t of the N annotated genes have term t.

    Args:
        genes: Symbols, or earlier names of them.
        aspects: As for :func:`annotated`.
        without: As for :func:`annotated`.
        term_size: Fewest and most genes that a term may have.
        specificity: Power of the information content: above 1, a shared rare term outweighs many common ones.

    Returns:
        Which genes have a term at all, and the cosines between those.

    Raises:
        DataError: An aspect or a code is unknown, or no term is left.

    Source: P. Resnik, Using Information Content to Evaluate Semantic Similarity (1995), for the content.

    Example:
        >>> found, cosine = similarity(["IFNGR1", "IFNGR2", "CUL3", "no such gene"])
        >>> found.tolist(), bool(cosine[0, 1] > 0.4 > cosine[0, 2])
        ([True, True, True, False], True)
    """
    pairs = annotated(aspects=aspects, without=without)
    n_genes = pairs["symbol"].nunique()
    size = pairs.groupby("go_id")["symbol"].size()
    fewest, most = term_size
    size = size[(size >= fewest) & (size <= most)]
    if size.empty:
        raise DataError(f"term_size={term_size} leaves no term; widen it.")
    known = frozenset(pairs["symbol"])
    rows = pd.DataFrame({"row": range(len(genes)), "symbol": [symbol(gene, known) for gene in genes]})
    has = rows.merge(pairs[pairs["go_id"].isin(size.index)], on="symbol")
    weight = np.log(n_genes / size.loc[has["go_id"]].to_numpy()) ** specificity
    term = pd.factorize(has["go_id"], sort=True)[0]
    terms = sparse.csr_matrix((weight, (has["row"], term)), shape=(len(genes), int(term.max(initial=-1)) + 1))
    length = np.sqrt(np.asarray(terms.multiply(terms).sum(1)).ravel())
    found = length > 0
    unit = sparse.diags(1 / length[found]) @ terms[found]
    return found, np.asarray((unit @ unit.T).toarray())


def shared_terms(first: str, second: str, *, without: Sequence[str] = ELECTRONIC) -> pd.DataFrame:
    """The terms that two genes share, the most specific first: why they count as alike.

    Args:
        first: A gene.
        second: Another.
        without: Evidence codes that do not count.

    Returns:
        Columns ``go_id``, ``term`` and ``genes`` (how many genes have it).

    Raises:
        DataError: A gene is not in the ontology.

    Example:
        >>> shared_terms("IFNGR1", "STAT1")["term"].iloc[0]
        'interferon-gamma-mediated signaling pathway'
    """
    pairs = annotated(aspects=tuple(ASPECTS), without=without)
    known = frozenset(pairs["symbol"])
    terms = []
    for gene in (first, second):
        if symbol(gene, known) is None:
            raise DataError(f"the ontology has no gene {gene!r}; give its present symbol.")
        terms.append(set(pairs.loc[pairs["symbol"] == symbol(gene, known), "go_id"]))
    size = pairs.groupby("go_id")["symbol"].size().rename("genes")
    shared = size.loc[sorted(terms[0] & terms[1])].sort_values(kind="stable").reset_index()
    return shared.merge(_terms(), on="go_id", how="left")[["go_id", "term", "genes"]]


@cache
def _table() -> pd.DataFrame:
    return _read("human_gene2go.tsv.gz")


@cache
def _terms() -> pd.DataFrame:
    return _read("go_terms.tsv.gz")


def _read(name: str) -> pd.DataFrame:
    with resources.as_file(resources.files("pyro_citevae.data") / "files" / name) as path:
        # a gene may be called NA or NAN, which pandas would take for a missing value
        return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
