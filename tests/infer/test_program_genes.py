"""Programs by their genes: what a decoder does to them, what they share, and what they are called."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special
from screens import simulated, unfitted

import pyro_citevae as cv
from pyro_citevae.data import ontology
from pyro_citevae.data.enrichment import enrichment
from pyro_citevae.errors import DataError
from pyro_citevae.models import StaticShift

GENES = ["NANOG", "POU5F1", "SOX2", "GATA1", "ACTB", "TUBB", "MYC", "TP53", "STAT1", "JAK2", "nobody knows"]


def test_loadings_of_a_linear_decoder_are_its_weights() -> None:
    """``log softmax`` adds the same to all genes of a program, which counts share."""
    data = simulated()
    model = StaticShift(data.schema, n_programs=3, hidden=0)
    found = unfitted(model).program_genes(top=2, draws=4)
    z = torch.eye(3)
    s = torch.zeros(3, model.n_invariant)
    share = [model.decoder(torch.cat([sign * z, s], -1)).detach() for sign in (1, -1)]
    level = [one - torch.logsumexp(one, -1, keepdim=True) for one in share]
    wanted = ((level[0] - level[1]) / 2).numpy()
    np.testing.assert_allclose(found.loadings.mean("draw"), wanted, atol=1e-4)
    assert found.loadings.dims == ("draw", "program", "gene")
    strongest = np.abs(wanted).argmax(1)
    first = found.table[found.table["rank"] == 1]["gene"].tolist()
    assert first == [data.schema.genes[g] for g in strongest]


def test_a_term_is_as_probable_as_its_hypergeometric_tail() -> None:
    """By hand: the ways to draw the genes with the term and the others, over all ways to draw."""
    chosen = ["NANOG", "POU5F1", "SOX2", "MYC"]
    found = enrichment(chosen, GENES)
    table = ontology.annotated()
    known = [gene for gene in GENES if ontology.symbol(gene) and gene in set(table["symbol"])]
    N, n = len(known), len(chosen)
    assert (found["N"] == N).all() and (found["n"] == n).all()
    for row in found.head(20).itertuples():
        with_term = set(table[(table["go_id"] == row.term)]["symbol"]) & set(known)
        assert len(with_term) == row.K
        assert len(with_term & set(chosen)) == row.k
        ways = sum(
            special.comb(row.K, i, exact=True) * special.comb(N - row.K, n - i, exact=True)
            for i in range(row.k, min(row.K, n) + 1)
        )
        np.testing.assert_allclose(row.p, ways / special.comb(N, n, exact=True), rtol=1e-10)
    assert (found["q"] >= found["p"]).all()
    assert found["p"].is_monotonic_increasing


def test_rates_are_those_of_benjamini_and_hochberg_over_all_terms() -> None:
    found = enrichment(["NANOG", "POU5F1", "SOX2"], GENES)
    table = ontology.annotated()
    here = table[table["symbol"].isin(GENES)]
    size = here["go_id"].value_counts()
    m = int(((size >= 3) & (size <= 500)).sum())
    p = np.concatenate([found["p"], np.ones(m - len(found))])
    rank = np.arange(1, m + 1)
    wanted = np.minimum.accumulate((p * m / rank)[::-1])[::-1].clip(max=1)[: len(found)]
    np.testing.assert_allclose(found["q"], wanted)


def test_a_set_without_annotation_has_no_term() -> None:
    assert enrichment(["nobody knows"], GENES).empty


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: enrichment(["FOXA1"], GENES), r"names 'FOXA1', which is not in the background; add it"),
        (lambda: enrichment(["g1"], ["g1", "g2"]), "no gene of the ontology among 2; give symbols of human"),
        (lambda: unfitted(StaticShift(simulated().schema)).program_genes(0), r"program_genes\(top=0\)"),
    ],
)
def test_what_cannot_be_asked_is_said(call, said: str) -> None:
    with pytest.raises(DataError, match=said):
        call()


def test_a_program_is_called_by_its_genes_where_nothing_is_known_of_them() -> None:
    data = simulated()
    found = unfitted(StaticShift(data.schema, n_programs=2)).program_genes(top=5)
    assert set(found.names) == {"program_0", "program_1"}
    assert all(name.count("/") == 2 for name in found.names.values())


def test_each_row_of_the_table_has_its_programs_name() -> None:
    found = unfitted(StaticShift(simulated().schema, n_programs=2)).program_genes(top=3)
    assert found.table.groupby("program")["program_name"].unique().str[0].to_dict() == found.names


def test_equal_seeds_give_equal_loadings() -> None:
    posterior = unfitted(cv.models.CiteVAE(simulated().schema, n_programs=2))
    one, other = (posterior.program_genes(seed=3).loadings for _ in range(2))
    assert one.identical(other)
