"""Features of genes, the conditional priors built on them, and what they say of a perturbation never seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import poutine
from scipy import sparse, stats
from screens import simulated

import pyro_citevae as cv
from pyro_citevae.cli.flags import in_flags
from pyro_citevae.data import ontology
from pyro_citevae.data.features import coexpression, concatenate, from_table, gene_ontology
from pyro_citevae.errors import CiteVAEWarning, DataError, ModelError, ScheduleError
from pyro_citevae.guides import BackwardSmoother
from pyro_citevae.infer.exchangeability import global_draws
from pyro_citevae.models import CiteVAE, StaticShift
from pyro_citevae.recipe import features_of

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
    kernel = gene_ontology(GENES, sharpness=8.0).kernel
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


# Species

MOUSE = ("Ifngr1", "Ifngr2", "Jak2", "Stat1", "Cul3", "Smad4", "Brd4")


def test_a_mouse_gene_has_the_features_of_the_human_gene_of_its_symbol_in_capitals() -> None:
    mouse, human = gene_ontology(MOUSE, species="mouse"), gene_ontology(GENES)
    assert mouse.genes == MOUSE
    np.testing.assert_array_equal(mouse.values, human.values)


def test_a_mouse_gene_whose_orthologue_is_called_otherwise_is_missing() -> None:
    assert gene_ontology([*MOUSE, "Trp53"], species="mouse").missing == ("Trp53",)


def test_mouse_symbols_are_told_and_the_way_out_is_named() -> None:
    said = (
        r"finds terms for 0 of 7 genes: 'Ifngr1', 'Ifngr2', 'Jak2' and 4 more look like mouse symbols, which "
        "species='mouse' takes"
    )
    with pytest.raises(DataError, match=said):
        gene_ontology(MOUSE)


@pytest.mark.parametrize("plain", [False, True])
def test_a_recipe_names_the_species_behind_the_ontology(plain: bool) -> None:
    data = screen()
    renamed = replace(data, schema=replace(data.schema, tokens=MOUSE[:3]))
    found = features_of("gene-ontology:mouse", renamed, plain=plain)
    assert found is not None
    assert found.genes == MOUSE[:3]
    assert not found.missing
    with pytest.raises(
        DataError, match=r"gene_ontology\(species='rat'\) is not one of human, mouse"
    ) as refused:
        features_of("gene-ontology:rat", renamed, plain=plain)
    assert in_flags(str(refused.value)).startswith("--features gene-ontology:rat is not one of human, mouse")
    with pytest.raises(DataError) as mistaken:
        features_of("gene-ontology", renamed, plain=plain)
    assert "which --features gene-ontology:mouse takes" in in_flags(str(mistaken.value))


# Names of genes of any usual kind


@pytest.mark.parametrize("kind", [list, np.array, pd.Index, pd.Series, lambda genes: (one for one in genes)])
def test_genes_come_in_any_list(kind: Callable[[Sequence[str]], Any]) -> None:
    np.testing.assert_array_equal(gene_ontology(kind(GENES)).values, gene_ontology(GENES).values)


def test_a_text_alone_is_one_gene() -> None:
    assert coexpression(screen(), "gene_0", rank=2).genes == ("gene_0",)
    assert from_table(FRAME, "A").genes == ("A",)
    assert gene_ontology(GENES, aspects="bp").genes == GENES
    np.testing.assert_array_equal(gene_ontology(GENES).rows("JAK2"), gene_ontology(GENES).values[[2]])


# Co-expression, tables, concatenation


screen = partial(simulated, n_programs=3)


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
    "a string": (lambda: gene_ontology("JAK2"), "finds terms for 1 of 1 genes"),
    "no gene": (lambda: coexpression(screen(), []), r"coexpression\(genes=\[\]\) names no gene"),
    "a number": (lambda: gene_ontology(["JAK2", 5]), r"gene_ontology\(genes=...\) holds 5, which is no name"),
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


# Conditional priors


def tokens_features(data: cv.Trajectories, seed: int = 0) -> cv.GeneFeatures:
    """Two random features of every token but the first, of which nothing is known."""
    values = np.random.default_rng(seed).normal(size=(data.schema.n_tokens, 2))
    values[0] = 0.0
    return cv.GeneFeatures(data.schema.tokens, values, ("mine_0", "mine_1"))


def small(data: cv.Trajectories, **options: object) -> CiteVAE:
    return CiteVAE(
        data.schema, **({"n_programs": 2, "n_invariant": 1, "hidden": 4, "direct": True} | options)
    )


def fitted(model: cv.LatentDynamics, train: cv.Trajectories, **options: object) -> cv.Posterior:
    guide = BackwardSmoother(model, hidden=4)
    return cv.fit(model, guide, train, **({"max_epochs": 2, "progress": False} | options))


EVERY_SITE = ("a", "b", "c", "d")


def test_without_features_the_prior_is_that_of_the_population() -> None:
    data = screen()
    model = small(data, mask=True)
    with torch.no_grad():
        model.mu_a.copy_(torch.tensor([0.3, -0.2]))
    nodes = poutine.trace(model.mechanism).get_trace().nodes
    assert not [name for name in nodes if name.startswith(("tau", "B_", "rho"))]
    laws = {name: nodes[name]["fn"].base_dist for name in ("a", "b", "c", "d", "m")}
    assert torch.equal(laws["a"].mean, model.mu_a.expand(3, 2))
    assert {name: laws[name].stddev.unique().tolist() for name in "abcd"} == {
        name: [pytest.approx(scale)] for name, scale in {"a": 0.5, "b": 0.1, "c": 0.5, "d": 0.15}.items()
    }
    assert laws["m"].probs.unique().tolist() == [0.5]


def test_rows_are_moved_by_the_features_and_spread_by_what_a_token_has_alone() -> None:
    data = screen()
    features = tokens_features(data)
    model = small(data, features=features, informed=EVERY_SITE)
    with torch.no_grad():
        model.mu_a.copy_(torch.tensor([0.3, -0.2]))
    nodes = poutine.trace(model.mechanism).get_trace().nodes
    value = {name: node["value"] for name, node in nodes.items() if node["type"] == "sample"}
    design = torch.from_numpy(np.hstack([np.ones((3, 1)), features.values])).float()
    for site, scale, population in (
        ("a", 0.5, model.mu_a),
        ("b", 0.1, 0.0),
        ("c", 0.5, 0.0),
        ("d", 0.15, 0.0),
    ):
        law = nodes[site]["fn"].base_dist
        torch.testing.assert_close(law.mean, population + design @ value[f"B_{site}"])
        torch.testing.assert_close(law.stddev, (scale * value[f"rho_{site}"])[:, None].expand_as(law.stddev))
        weights = nodes[f"B_{site}"]["fn"].base_dist
        torch.testing.assert_close(weights.stddev[:, 0], scale * value[f"tau_{site}"])


def test_informed_sites_have_their_axes_named() -> None:
    data = screen()
    options = {"features": tokens_features(data), "informed": EVERY_SITE}
    model = small(data, edges=True, mask=True, pairs=1, epistasis=True, **options)
    tree = fitted(model, data).to_datatree(draws=2)["posterior"].to_dataset()
    assert dict(tree["B_d"].sizes) == {"chain": 1, "draw": 2, "feature": 3, "gene": 7}
    assert tree["B_a"]["feature"].values.tolist() == ["population", "mine_0", "mine_1"]
    assert set(tree.data_vars) == set(model.dims)


def test_a_model_with_features_keeps_every_law() -> None:
    def make(schema: cv.Schema) -> CiteVAE:
        values = np.random.default_rng(0).normal(size=(schema.n_tokens, 2))
        features = cv.GeneFeatures(schema.tokens, values, ("mine_0", "mine_1"))
        on = {"edges": True, "mask": True, "direct": True, "informed": EVERY_SITE}
        return CiteVAE(schema, n_programs=2, n_invariant=1, hidden=4, features=features, **on)

    cv.check_model(make)


def test_a_run_with_features_comes_back_whole(tmp_path: Path) -> None:
    data = screen()
    train, _ = data.hold_out(perturbations=["gene_2"])
    posterior = fitted(small(train, features=tokens_features(data)), train)
    posterior.save(tmp_path / "run")
    loaded = cv.load(tmp_path / "run")
    assert loaded.model.settings["features"] == ["mine_0", "mine_1"]
    assert loaded.model.seen.tolist() == [True, True, False]
    assert loaded.model.has_features.tolist() == [False, True, True]
    before, after = (one.effect(cv.do("gene_2"), draws=20) for one in (posterior, loaded))
    assert np.array_equal(before, after)


# Unseen tokens

DRAWS = 4000


def global_values(posterior: cv.Posterior) -> dict[str, np.ndarray]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        drawn = global_draws(posterior.guide, DRAWS)
    return {name: value[:, 0, 0].double().numpy() for name, value in drawn.items()}


def require_standard_normal(values: np.ndarray) -> None:
    assert stats.kstest(values, "norm").pvalue > 1e-3


def donated(deviation: np.ndarray, unseen: int, seen: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Which seen token each draw's unseen row deviates like, and the draws in which it is none of them."""
    apart = np.abs(deviation[:, seen] - deviation[:, [unseen]]).max(-1)
    return np.array(seen)[apart.argmin(1)], apart.min(1) > 1e-3


SCALES = {"a": 0.5, "b": 0.1, "c": 0.5, "d": 0.15}


def test_an_unseen_token_misses_what_features_say_as_a_seen_one_does() -> None:
    """Two of three donors are seen tokens, the same for all of its rows; the third is the prior itself."""
    data = screen()
    features = tokens_features(data)
    train, _ = data.hold_out(perturbations=["gene_1"])
    posterior = fitted(small(train, features=features, informed=EVERY_SITE), train, max_epochs=4)
    value, model = global_values(posterior), posterior.model
    design, seen = np.hstack([np.ones((3, 1)), features.values]), [0, 2]
    donors = []
    for site, scale in SCALES.items():
        own = np.square(value[f"rho_{site}"][:, seen]).mean(1)[:, None, None] * np.eye(3)
        K = scale**2 * (design * np.square(value[f"tau_{site}"])[:, None] @ design.T + own)
        population = {"a": model.mu_a, "c": model.m_c}.get(site, torch.zeros(()))
        row = value[site] - population.detach().double().numpy()
        forecast = (K[:, [1]][:, :, seen] @ np.linalg.inv(K[:, seen][:, :, seen]) @ row[:, seen])[:, 0]
        v = (
            K[:, 1, 1]
            - (K[:, [1]][:, :, seen] @ np.linalg.solve(K[:, seen][:, :, seen], K[:, seen, 1:2]))[:, 0, 0]
        )
        standard = (row[:, 1] - forecast) / np.sqrt(v)[:, None]
        missed = []
        for q, other in ((0, 2), (2, 0)):
            ratio = K[:, q, other] / K[:, other, other]
            left = np.sqrt(K[:, q, q] - ratio * K[:, q, other])
            missed.append((row[:, q] - ratio[:, None] * row[:, other]) / left[:, None])
        donor, none = donated(np.stack([missed[0], standard, missed[1]], axis=1), 1, seen)
        donors.append(np.where(none, -1, donor))
        require_standard_normal(standard[none, 0])
    # a row of one value may fall upon another's by chance
    assert (np.array(donors) == donors[-1]).mean(1).min() > 0.98
    share = [(donors[-1] == one).mean() for one in (0, 2, -1)]
    assert share == pytest.approx([1 / 3] * 3, abs=4 * np.sqrt(2 / 9 / DRAWS))


@pytest.mark.parametrize("kind", [CiteVAE, StaticShift])
def test_without_features_an_unseen_token_is_one_more_of_the_seen(kind: type[cv.LatentDynamics]) -> None:
    data = screen()
    train, _ = data.hold_out(perturbations=["gene_1"])
    direct = {"direct": True} if kind is CiteVAE else {}
    posterior = fitted(kind(train.schema, n_programs=2, hidden=4, **direct), train)
    value = global_values(posterior)
    donor, none = donated(value["a"], 1, [0, 2])
    assert none.mean() == pytest.approx(1 / 3, abs=0.05)
    if kind is CiteVAE:
        same = value["d"][np.arange(DRAWS), donor][~none]
        np.testing.assert_allclose(value["d"][~none, 1], same, atol=1e-6)
        kappa = value["kappa"][np.arange(DRAWS), donor][~none]
        np.testing.assert_allclose(value["kappa"][~none, 1], kappa, rtol=1e-4)
    else:
        same = value["m"][np.arange(DRAWS), donor][~none]
        np.testing.assert_allclose(value["m"][~none, 1], same, atol=1e-6)
        require_standard_normal(value["a"][none, 1, 0] / posterior.model.s_a.item())


def test_the_expected_effect_of_an_unseen_token_is_the_mean_of_the_seen() -> None:
    data = screen(n_cells=200, n_perturbations=6)
    train, _ = data.hold_out(perturbations=["gene_5"])
    model = small(train, own_transcript=False, group=False)
    posterior = fitted(model, train, max_epochs=40, learning_rate=0.02, validation=0.0)
    seen = [cv.do(token) for token in train.schema.tokens[:5]]
    with pytest.warns(CiteVAEWarning):
        effect = posterior.effect([*seen, cv.do("gene_5")], draws=1500).mean("draw")[0, :, 0].to_numpy()
    mean, largest = effect[:5].mean(0), np.abs(effect[:5]).max()
    # one draw in six is of the prior, whose effect is near none
    np.testing.assert_allclose(effect[5], mean * 5 / 6, atol=0.15 * largest)


def test_a_token_with_cells_keeps_what_the_guide_says_of_it() -> None:
    data = screen()
    train, _ = data.hold_out(perturbations=["gene_1"])
    posterior = fitted(small(train, features=tokens_features(data)), train)
    value = global_values(posterior)
    with torch.random.fork_rng(), torch.no_grad(), pyro.plate("draw", DRAWS, dim=-3):
        torch.manual_seed(1)
        guided = posterior.guide.mechanism()
    for name in ("a", "d", "c", "rho_a"):
        assert np.array_equal(value[name][:, [0, 2]], guided[name][:, 0, 0].double().numpy()[:, [0, 2]])
        assert not np.array_equal(value[name][:, 1], guided[name][:, 0, 0].double().numpy()[:, 1])
    assert np.array_equal(value["B_d"], guided["B_d"][:, 0, 0].double().numpy())


def test_an_unseen_tokens_features_teach_the_weights_nothing() -> None:
    """Other features of it change the bound's gradient in the values of that token alone."""
    data = screen()
    train, _ = data.hold_out(perturbations=["gene_1"])

    def gradients(row: float) -> dict[str, torch.Tensor]:
        features = tokens_features(data)
        features.values[1] = row
        torch.manual_seed(0)
        model = small(train, features=features)
        model.seen.copy_(torch.from_numpy(train.seen))
        guide = BackwardSmoother(model, hidden=4)
        torch.manual_seed(1)
        _bound(model, guide, train).backward()
        parameters = {**dict(model.named_parameters()), **dict(guide.named_parameters())}
        return {name: one.grad for name, one in parameters.items() if one.grad is not None}

    one, other = gradients(0.5), gradients(-3.0)
    assert {name for name in one if "B_a" in name or "m_rho" in name or "mu_a" in name}
    for name in one:
        rows = [0, 2] if name.split(".")[-1].startswith(("a_", "d_", "rho_")) else ...
        torch.testing.assert_close(one[name][rows], other[name][rows], msg=name)


def _bound(model: CiteVAE, guide: BackwardSmoother, data: cv.Trajectories) -> torch.Tensor:
    batch = data.batch()
    guided = poutine.trace(guide).get_trace(batch)
    modelled = poutine.trace(poutine.replay(model, guided)).get_trace(batch)
    return modelled.log_prob_sum() - guided.log_prob_sum()


def test_held_out_cells_cannot_reach_an_unseen_prediction() -> None:
    data = screen()
    changed = data.values.toarray()
    unseen = data.row_labels == "gene_1"
    changed[unseen] = np.random.default_rng(0).poisson(90, changed[unseen].shape)
    effects = []
    for one in (data, replace(data, values=sparse.csr_matrix(changed))):
        train, _ = one.hold_out(perturbations=["gene_1"])
        features = coexpression(train, train.schema.tokens, rank=2)
        effects.append(fitted(small(train, features=features), train).effect(cv.do("gene_1"), draws=10))
    assert np.array_equal(*effects)


@pytest.mark.parametrize(
    ("features", "asked", "warns"),
    [(True, "gene_1", False), (True, "gene_0", True), (False, "gene_1", True), (False, "gene_2", False)],
)
def test_a_token_of_which_nothing_is_known_is_told(
    features: bool, asked: str, warns: bool, recwarn: pytest.WarningsRecorder
) -> None:
    data = screen()
    train, _ = data.hold_out(perturbations=["gene_0", "gene_1"])
    posterior = fitted(small(train, features=tokens_features(data) if features else None), train)
    posterior.effect(cv.do(asked), draws=2)
    told = [str(one.message) for one in recwarn if one.category is CiteVAEWarning]
    assert [f"do('{asked}') has neither training cells nor features" in one for one in told] == [True] * warns


# Candidates


def annotated_screen(**options: object) -> anndata.AnnData:
    rng = np.random.default_rng(0)
    labels = np.repeat(["control", "A", "B"], 20)
    genes = pd.DataFrame(index=[f"g{i}" for i in range(5)])
    return anndata.AnnData(
        rng.poisson(5, (60, 5)).astype(np.float32), obs=pd.DataFrame({"perturbation": labels}), var=genes
    )


def test_a_candidate_is_a_token_without_cells() -> None:
    data = cv.Trajectories.from_anndata(annotated_screen(), candidates=["Z", "A"])
    assert data.schema.tokens == ("A", "B", "Z")
    assert data.seen.tolist() == [True, True, False]
    posterior = fitted(small(data), data)
    with pytest.warns(CiteVAEWarning, match=r"do\('Z'\) has neither training cells nor features"):
        effect = posterior.effect([cv.do("Z"), cv.do("A", "Z")], draws=30)
    assert np.isfinite(effect).all()


BAD_TOKENS = {
    "a pair": (
        lambda d: cv.Trajectories.from_anndata(d, candidates=["A+Z"]),
        "holds 'A\\+Z', which names no single",
    ),
    "the control": (lambda d: cv.Trajectories.from_anndata(d, candidates=["control"]), "holds 'control'"),
    "nothing": (lambda d: cv.Trajectories.from_anndata(d, candidates=[""]), "holds ''"),
    "a schema too": (
        lambda d: cv.Trajectories.from_anndata(
            d, candidates=["Z"], schema=cv.Trajectories.from_anndata(d).schema
        ),
        "candidates= names new tokens, and schema= has its own",
    ),
    "an unknown gene": (
        lambda d: cv.Trajectories.from_anndata(d).schema.require(cv.do("AA")),
        r"do\('AA'\) is not among the perturbations; the nearest are A, .*from_anndata\(candidates=",
    ),
    "a gene with itself": (lambda d: cv.do("A") | cv.do("A"), "doses 'A' twice"),
    "a token without a row": (
        lambda d: small(
            cv.Trajectories.from_anndata(d, candidates=["Z"]),
            features=cv.GeneFeatures(("A", "B"), np.eye(2), ("x_0", "x_1")),
        ),
        "no row for 'Z'; build them for every token",
    ),
    "features by name": (
        lambda d: small(cv.Trajectories.from_anndata(d), features="ontology"),
        r"CiteVAE\(features='ontology'\) is a text",
    ),
    "a site that is off": (
        lambda d: small(
            cv.Trajectories.from_anndata(d),
            features=cv.GeneFeatures(("A", "B"), np.eye(2), ("x_0", "x_1")),
            informed=("m",),
        ),
        r"CiteVAE\(informed=...\) names 'm', expected some of a, b, c, d",
    ),
}


@pytest.mark.parametrize("case", BAD_TOKENS)
def test_bad_tokens_are_refused_in_one_sentence(case: str) -> None:
    make, message = BAD_TOKENS[case]
    with pytest.raises((DataError, ModelError, ScheduleError), match=message):
        make(annotated_screen())


# Screens whose effects follow features


def linear_screen(n_tokens: int = 16, n_cells: int = 60) -> tuple[cv.Trajectories, np.ndarray, np.ndarray]:
    """Effects of tokens on the log means of 20 genes are linear in two features, all shared but a little."""
    rng = np.random.default_rng(1)
    F = rng.normal(size=(n_tokens, 2))
    effects = 0.3 + F @ rng.normal(scale=0.6, size=(2, 20)) * (np.arange(20) < 10)
    base = rng.normal(3.5, 0.3, 20)
    rows = np.vstack([np.tile(base, (4 * n_cells, 1)), np.repeat(base + effects, n_cells, axis=0)])
    names = [f"T{p:02d}" for p in range(n_tokens)]
    labels = np.array(["control"] * 4 * n_cells + list(np.repeat(names, n_cells)))
    adata = anndata.AnnData(
        rng.poisson(np.exp(rows)).astype(np.float32),
        obs=pd.DataFrame({"perturbation": labels}),
        var=pd.DataFrame(index=[f"g{i}" for i in range(20)]),
    )
    return cv.Trajectories.from_anndata(adata, n_steps=1), F, effects


@pytest.mark.slow
def test_an_unseen_effect_is_predicted_by_good_features_and_falls_back_without() -> None:
    data, F, _ = linear_screen()
    unseen = ["T03", "T07", "T11"]
    train, test = data.hold_out(perturbations=unseen)
    measured = cv.data.pseudobulk
    truth = np.array([measured.effect(test.select(one), train.controls()) for one in unseen])
    others = [measured.effect(train.select(one), train.controls()) for one in train.perturbations()]
    mean = np.mean(others, axis=0)
    wrong = np.random.default_rng(5).normal(size=F.shape)
    error = {}
    for name, values in {"good": F, "random": wrong}.items():
        features = cv.GeneFeatures(data.schema.tokens, values, ("x_0", "x_1"))
        model = CiteVAE(train.schema, n_programs=3, n_invariant=0, hidden=0, features=features, group=False)
        posterior = fitted(model, train, max_epochs=100, learning_rate=0.02, batch_size=128)
        effect = posterior.effect([cv.do(one) for one in unseen], draws=100)[0, :, :, 0]
        predicted = effect.mean("draw").to_numpy()
        error[name] = np.linalg.norm(predicted - truth, axis=1) / np.linalg.norm(truth, axis=1)
        inside = np.abs(truth - predicted) < 3 * effect.std("draw").to_numpy() + 0.05
        assert inside.mean() > 0.8, name
    baseline = np.linalg.norm(mean - truth, axis=1) / np.linalg.norm(truth, axis=1)
    assert error["good"].mean() < 0.5 * baseline.mean()
    assert error["random"].mean() < baseline.mean() + 0.15
