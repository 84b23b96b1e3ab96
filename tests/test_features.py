"""Features of genes, the conditional priors built on them, and what they say of a perturbation never seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

import pyro_citevae as cv
from pyro_citevae.data import ontology
from pyro_citevae.data.features import coexpression, concatenate, from_table, gene_ontology
from pyro_citevae.errors import DataError

GENES = ("IFNGR1", "IFNGR2", "JAK2", "STAT1", "CUL3", "SMAD4", "BRD4")


# Gene ontology

TABLE = pd.DataFrame(
    [
        ("A", "t1", "bp", "IDA"),
        ("A", "t2", "bp", "IEA"),
        ("B", "t1", "bp", "TAS"),
        ("B", "t1", "bp", "IDA"),  # two pieces of evidence are one annotation
        ("B", "t3", "mf", "IDA"),
        ("C", "t2", "bp", "IDA"),
        ("C", "t4", "bp", "IDA"),
        ("D", "t4", "bp", "IDA"),
        ("D", "t1", "bp", "ND"),
        ("MARCHF8", "t4", "bp", "IDA"),
    ],
    columns=["symbol", "go_id", "ontology", "evidence"],
)


@pytest.fixture
def small_ontology(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ontology, "_table", lambda: TABLE)


@pytest.mark.usefixtures("small_ontology")
def test_the_similarity_is_what_a_hand_computes() -> None:
    """Five genes annotated; n(t1) = 3 (A, B, D), n(t2) = 2 (A, C), n(t4) = 3 (C, D, MARCHF8)."""
    common, rare = np.log(5 / 3), np.log(5 / 2)
    found, cosine = ontology.similarity(["A", "B", "C", "E"], without=(), specificity=1.0)
    assert found.tolist() == [True, True, True, False]
    length = np.hypot(common, rare)  # of A (t1, t2) and of C (t2, t4); B has t1 alone
    expected = [[1, common / length, rare**2 / length**2], [common / length, 1, 0]]
    np.testing.assert_allclose(cosine[:2], expected)


@pytest.mark.usefixtures("small_ontology")
def test_evidence_that_is_dropped_does_not_count() -> None:
    _, all_of_it = ontology.similarity(["A", "C", "D"], without=())
    found, curated = ontology.similarity(["A", "C", "D"], term_size=(1, 9))
    assert found.all()
    assert all_of_it[0, 1] > 0  # A and C share t2 by electronic annotation
    assert curated[0, 1] == 0
    assert curated[1, 2] > 0


@pytest.mark.usefixtures("small_ontology")
def test_terms_of_another_aspect_or_size_do_not_count() -> None:
    assert set(ontology.annotated(aspects=("mf",))["go_id"]) == {"t3"}
    found, _ = ontology.similarity(["A", "B"], aspects=("bp", "mf"), term_size=(1, 1))
    assert found.tolist() == [False, True]  # t3 of B is the only term of one gene that a curator saw


@pytest.mark.usefixtures("small_ontology")
def test_an_earlier_name_has_the_features_of_the_present_one() -> None:
    _, cosine = ontology.similarity(["MARCH8", "MARCHF8", "C"])
    np.testing.assert_allclose(cosine[0], cosine[1])
    assert cosine[0, 1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("earlier", "present"),
    [("MARCH8", "MARCHF8"), ("SEPT2", "SEPTIN2"), ("MARC1", "MTARC1"), ("OCT4", "POU5F1"), ("MLL2", "KMT2D")],
)
def test_renamed_genes_are_found(earlier: str, present: str) -> None:
    assert ontology.symbol(earlier) == present


def test_every_alias_leads_to_a_gene_of_the_shipped_table() -> None:
    assert [old for old in ontology.ALIASES if ontology.symbol(old) is None] == []


@pytest.mark.parametrize("screen", ["renge", "papalexi"])
def test_every_perturbation_of_the_shipped_knock_outs_has_features(screen: str) -> None:
    assert gene_ontology(cv.datasets.load(screen).schema.tokens).missing == ()


@pytest.mark.parametrize("sharpness", [None, 0.0, 8.0, 500.0])
def test_the_order_of_the_genes_does_not_matter(sharpness: float | None) -> None:
    order = np.random.default_rng(0).permutation(len(GENES))
    kernel = gene_ontology(GENES, sharpness=sharpness).kernel
    shuffled = gene_ontology(np.array(GENES)[order].tolist(), sharpness=sharpness).kernel
    np.testing.assert_allclose(shuffled, kernel[np.ix_(order, order)], atol=1e-8)
    assert np.trace(kernel) == pytest.approx(len(GENES))
    assert np.linalg.eigvalsh(kernel).min() > -1e-9


def test_without_sharpness_the_kernel_is_the_cosine() -> None:
    _, cosine = ontology.similarity(GENES)
    np.testing.assert_allclose(gene_ontology(GENES, sharpness=None).kernel, cosine, atol=1e-5)


def test_the_sharpened_kernel_predicts_as_an_autoregression_on_the_graph_does() -> None:
    """``(I - rho S)^-1 - I`` on the positive spectrum of S: what genes share under f_p = rho S f + noise."""
    _, cosine = ontology.similarity(GENES)
    weight = np.exp(8 * cosine) * (1 - np.eye(len(GENES)))
    degree = np.sqrt(weight.sum(1))
    value, vector = np.linalg.eigh(weight / np.outer(degree, degree))
    positive = np.maximum(value, 0)
    shared = (vector * (1 / (1 - 0.95 * positive) - 1)) @ vector.T
    kernel = gene_ontology(GENES).kernel
    np.testing.assert_allclose(kernel, shared * len(GENES) / np.trace(shared), atol=1e-8)


def test_sharper_features_tell_near_from_far_genes_better() -> None:
    def contrast(sharpness: float) -> float:
        kernel = gene_ontology(GENES, sharpness=sharpness).kernel
        return float(kernel[0, 1] - kernel[0, 4])

    assert contrast(0.0) == pytest.approx(0.0, abs=1e-9)
    assert contrast(1.0) < contrast(4.0) < contrast(12.0)


def test_features_have_no_more_columns_than_the_rank() -> None:
    assert gene_ontology(GENES, rank=2).values.shape == (7, 2)


def test_shared_terms_are_the_most_specific_first() -> None:
    terms = ontology.shared_terms("IFNGR1", "JAK2")
    assert terms["genes"].is_monotonic_increasing
    assert "interferon-gamma-mediated signaling pathway" in set(terms["term"])


# Co-expression, tables, concatenation


def screen(**options: object) -> cv.Trajectories:
    given = {"n_cells": 60, "n_genes": 7, "n_programs": 3, "n_perturbations": 3, "n_steps": 3, "seed": 3}
    return cv.simulate(**(given | {"layout": "time course"} | options)).data


def test_coexpression_is_the_correlation_with_the_components() -> None:
    data = screen(values="real")
    features = coexpression(data, data.schema.genes, rank=7)
    controls = data.controls()
    x = pd.DataFrame(controls.values.toarray(), columns=data.schema.genes)
    x = x - x.groupby(controls.row_step).transform("mean")
    np.testing.assert_allclose(features.kernel / features.kernel[0, 0], x.corr(), atol=1e-5)


def test_cells_that_were_perturbed_or_held_out_cannot_reach_coexpression() -> None:
    data = screen()
    train, _ = data.hold_out(times=[3])
    changed = data.values.toarray()
    unseen = (data.row_labels != data.schema.control) | (data.row_times == 3)
    changed[unseen] = np.random.default_rng(0).poisson(50, changed[unseen].shape)
    other, _ = replace(data, values=type(data.values)(changed)).hold_out(times=[3])
    before, after = (coexpression(one, data.schema.tokens, rank=3) for one in (train, other))
    assert np.array_equal(before.values, after.values)


def test_a_gene_outside_the_panel_has_no_coexpression() -> None:
    data = screen()
    features = coexpression(data, ["gene_0", "elsewhere"], rank=2)
    assert features.missing == ("elsewhere",)
    assert not features.values[1].any()


FRAME = pd.DataFrame(
    np.random.default_rng(0).normal(size=(4, 3)), index=["A", "B", "C", "D"], columns=["x", "y", "z"]
)


@pytest.mark.parametrize("kind", ["frame", "parquet", "csv", "tsv", "varm", "varm frame"])
def test_a_table_is_read_from_every_place_alike(kind: str, tmp_path: Path) -> None:
    table, key = FRAME, None
    if kind == "parquet":
        FRAME.to_parquet(table := tmp_path / "table.parquet")
    elif kind in ("csv", "tsv"):
        FRAME.to_csv(table := tmp_path / f"table.{kind}", sep="," if kind == "csv" else "\t")
    elif kind.startswith("varm"):
        table, key = anndata.AnnData(np.zeros((1, 4)), var=pd.DataFrame(index=FRAME.index)), "embedding"
        table.varm[key] = FRAME if "frame" in kind else FRAME.to_numpy()
    features = from_table(table, ["D", "A", "other"], key=key)
    expected = from_table(FRAME, ["D", "A", "other"])
    np.testing.assert_allclose(features.values, expected.values)
    assert features.missing == ("other",)
    assert features.names == ("table_0", "table_1", "table_2")


def test_a_tables_rows_have_unit_mean_square_and_a_scale_does_not_matter() -> None:
    features = from_table(FRAME, FRAME.index.tolist())
    assert np.trace(features.kernel) == pytest.approx(4)
    np.testing.assert_allclose(from_table(100 * FRAME + 3, FRAME.index.tolist()).values, features.values)


def test_kernels_of_concatenated_features_add() -> None:
    one, two = gene_ontology(GENES), from_table(FRAME, [*GENES, "A", "B"])
    both = one | two
    shared = len(GENES)
    np.testing.assert_allclose(both.kernel[:shared, :shared], one.kernel, atol=1e-12)
    assert both.genes == two.genes
    assert set(both.missing) == set()
    assert concatenate([one]).kernel.tolist() == one.kernel.tolist()


def test_rows_come_in_the_order_asked_for() -> None:
    features = gene_ontology(GENES)
    np.testing.assert_array_equal(features.rows(GENES[::-1]), features.values[::-1])


BAD_FEATURES = {
    "no gene known": (lambda: gene_ontology(["x1", "x2"]), "finds terms for 0 of 2 genes"),
    "one gene known": (lambda: gene_ontology(["JAK2", "x2"]), "finds terms for 1 of 2 genes"),
    "a string": (lambda: gene_ontology("JAK2"), "genes='JAK2'.* names no list of genes"),
    "no gene": (lambda: coexpression(screen(), []), "names no list of genes"),
    "an aspect": (
        lambda: gene_ontology(GENES, aspects=("bq",)),
        "aspects names 'bq'; name some of bp, mf, cc",
    ),
    "a code": (lambda: gene_ontology(GENES, without=("XXX",)), "without names 'XXX'"),
    "no term": (lambda: gene_ontology(GENES, term_size=(9, 3)), r"term_size=\(9, 3\) leaves no term"),
    "sharpness": (lambda: gene_ontology(GENES, sharpness=-1.0), "sharpness=-1.0 and rank=32"),
    "rank": (lambda: gene_ontology(GENES, rank=0), "rank=0"),
    "no panel gene": (lambda: coexpression(screen(), ["x"]), "a gene that is in the panel"),
    "a file": (lambda: from_table("nowhere.parquet", ["A"]), "'nowhere.parquet' cannot be read as a table"),
    "a gene twice": (lambda: from_table(FRAME.iloc[[0, 0]], ["A"]), "names the gene 'A' twice"),
    "no gene of it": (lambda: from_table(FRAME, ["x"]), "the table has none of the 1 genes, such as 'x'"),
    "text": (lambda: from_table(FRAME.astype(object).assign(x="a"), ["A"]), "holds what is no number"),
    "NaN": (lambda: from_table(FRAME.drop("B").reindex(FRAME.index), ["A", "B"]), "no finite value for 'B'"),
    "varm": (lambda: from_table(anndata.AnnData(np.zeros((1, 1))), ["A"], key="z"), "key='z' is not in varm"),
    "shape": (lambda: cv.GeneFeatures(("A",), np.ones((2, 1)), ("x_0",)), r"has shape \(2, 1\)"),
    "twice": (lambda: cv.GeneFeatures(("A", "A"), np.ones((2, 1)), ("x_0",)), "the gene 'A' twice"),
    "one source twice": (
        lambda: gene_ontology(GENES) | gene_ontology(GENES),
        "the column 'ontology_0' twice",
    ),
    "infinite": (
        lambda: cv.GeneFeatures(("A",), np.full((1, 1), np.inf), ("x_0",)),
        "infinite values for 'A'",
    ),
    "no row": (
        lambda: gene_ontology(GENES).rows(["BRD4", "ZIC2"]),
        "no row for 'ZIC2'; build them for every",
    ),
    "no parts": (lambda: concatenate([]), "was given none"),
}


@pytest.mark.parametrize("case", BAD_FEATURES)
def test_bad_features_are_refused_in_one_sentence(case: str) -> None:
    make, message = BAD_FEATURES[case]
    with pytest.raises(DataError, match=message):
        make()


def test_shared_terms_of_an_unknown_gene_are_refused() -> None:
    with pytest.raises(DataError, match="has no gene 'x'"):
        ontology.shared_terms("JAK2", "x")
