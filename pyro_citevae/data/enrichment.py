"""Which terms of the gene ontology a set of genes has more often than chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from pyro_citevae.data import ontology
from pyro_citevae.errors import DataError

__all__ = ["enrichment"]


def enrichment(
    genes: Iterable[str],
    background: Sequence[str],
    *,
    aspects: Sequence[str] = ("bp",),
    term_size: tuple[int, int] = (3, 500),
) -> pd.DataFrame:
    r"""Terms that some genes have more often than as many genes drawn from a background.

    ::

        p = P(X >= k),  X ~ Hypergeometric(N, K, n)

    for k of n genes with a term that K of the N genes of the background have. Both are counted among the
    genes that have any annotation. ``q`` is p as adjusted by Benjamini and Hochberg over all such terms.

    Args:
        genes: The set, such as the top genes of a program.
        background: All genes that could have been in it, such as those that were measured.
        aspects: Parts of the ontology: ``"bp"``, ``"mf"``, ``"cc"``.
        term_size: Fewest and most genes of the background that a term may have.

    Returns:
        A row a term that one of the genes has, by p: ``term``, ``name``, ``k``, ``n``, ``K``, ``N``, ``p``,
        ``q`` and ``genes``.

    Raises:
        DataError: A gene is not in the background, or nothing of the background is annotated.

    Source: I. Rivals et al., Enrichment or depletion of a GO category within a class of genes (2007);
    Y. Benjamini and Y. Hochberg, Controlling the False Discovery Rate (1995).

    Example:
        >>> genes = ["NANOG", "POU5F1", "SOX2", "GATA1", "ACTB", "TUBB", "MYC", "TP53", "STAT1", "JAK2"]
        >>> found = enrichment(["NANOG", "POU5F1", "SOX2"], genes)
        >>> found["k"].iloc[0], round(found["p"].iloc[0], 4)
        (np.int64(3), np.float64(0.0083))
    """
    chosen, everything = list(dict.fromkeys(genes)), list(dict.fromkeys(background))
    for gene in chosen:
        if gene not in set(everything):
            raise DataError(
                f"enrichment(genes=...) names '{gene}', which is not in the background; add it there."
            )
    table = ontology.annotated(aspects=aspects)
    known = frozenset(table["symbol"])
    symbols = {gene: found for gene in everything if (found := ontology.symbol(gene, known)) is not None}
    if not symbols:
        raise DataError(
            f"enrichment(background=...) has no gene of the ontology among {len(everything)}; give symbols "
            "of human genes."
        )
    here = {symbol: gene for gene, symbol in symbols.items()}
    table = table[table["symbol"].isin(list(here))]
    size = table["go_id"].map(table["go_id"].value_counts())
    table = table[(size >= term_size[0]) & (size <= term_size[1])]
    ours = [gene for gene in chosen if gene in symbols]
    of_ours = table[table["symbol"].isin([symbols[gene] for gene in ours])]
    terms = table["go_id"].value_counts()
    rows = of_ours.groupby("go_id")["symbol"].agg(list)
    k = np.array([len(one) for one in rows], dtype=int)
    K = terms.reindex(rows.index).to_numpy(dtype=int)
    scipy_stats: Any = stats
    p = scipy_stats.hypergeom.sf(k - 1, len(symbols), K, len(ours)) if len(rows) else np.zeros(0)
    untouched = np.ones(len(terms) - len(rows))  # terms that none of the genes has count as tests too
    q = stats.false_discovery_control(np.concatenate([p, untouched]))[: len(p)] if len(terms) else p
    names = ontology.names_of(list(rows.index))
    made = pd.DataFrame(
        {
            "term": list(rows.index),
            "name": names,
            "k": k,
            "n": len(ours),
            "K": K,
            "N": len(symbols),
            "p": p,
            "q": q,
            "genes": [", ".join(sorted(here[one] for one in symbols_)) for symbols_ in rows],
        }
    )
    return made.sort_values(["p", "term"], ignore_index=True)
