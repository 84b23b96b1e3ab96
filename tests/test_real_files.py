"""Real files: the same screen, however it is stored, ordered and called, is read the same or refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import dask.array
import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from named_cells import GENES, LABELS, TIMES, counts_by_name, dense, screen
from scipy import sparse
from screens import as_anndata, simulated

import pyro_citevae as cv
from pyro_citevae import analysis
from pyro_citevae.data import Schedule, Trajectories, do, open_anndata, pseudobulk
from pyro_citevae.data.confounding import apart_from_batches, never_alone
from pyro_citevae.errors import CiteVAEError, CiteVAEWarning, DataError
from pyro_citevae.guides import MeanField
from pyro_citevae.models import CiteVAE, StaticShift

pytestmark = pytest.mark.filterwarnings("ignore:.*Transforming to str index", "ignore:.*zarr v2")


def read(adata: Any, **options: Any) -> Trajectories:
    """What is read, where nothing is doubtful."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", CiteVAEWarning)
        return Trajectories.from_anndata(adata, **options)


def doubts(adata: AnnData, **options: Any) -> list[str]:
    """What a reader is told."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        data = Trajectories.from_anndata(adata, **options)
    said = [str(one.message) for one in told if issubclass(one.category, CiteVAEWarning)]
    assert said == list(data.reading.doubts)
    return said


def labelled(*labels: str, n: int = 6, **obs: Any) -> AnnData:
    """So many cells of each label, with counts of genes G0 to G7."""
    rng = np.random.default_rng(0)
    names = [f"c{i}" for i in range(n * len(labels))]
    frame = pd.DataFrame({"perturbation": np.repeat(labels, n), **obs}, index=names)
    counts = rng.poisson(5, (len(names), 8)).astype(np.float32)
    return AnnData(counts, obs=frame, var=pd.DataFrame(index=[f"G{i}" for i in range(8)]))


def fitted(data: Trajectories, **sizes: Any) -> cv.Posterior:
    model = StaticShift(data.schema, n_programs=2, hidden=4)
    return cv.fit(model, MeanField(model, hidden=4), data, progress=False, **{"max_epochs": 1, **sizes})


# Storage


def stored(change: Callable[[np.ndarray], Any]) -> Callable[[Path], AnnData]:
    def made(folder: Path) -> AnnData:
        adata = screen(time=TIMES)
        adata.X = change(adata.X)
        return adata

    return made


def in_layer(folder: Path) -> AnnData:
    adata = screen(time=TIMES)
    adata.layers["umi"], adata.X = adata.X.copy(), np.log1p(adata.X)
    return adata


def in_raw(folder: Path) -> AnnData:
    adata = screen(time=TIMES)
    adata.raw = adata.copy()
    adata.X = np.log1p(adata.X)
    return adata


def written(write: str, open_: Callable[[Path], AnnData]) -> Callable[[Path], AnnData]:
    def made(folder: Path) -> AnnData:
        adata = screen(time=TIMES)
        adata.X = sparse.csr_matrix(adata.X)
        getattr(adata, write)(folder / "screen")
        return open_(folder / "screen")

    return made


def a_view(folder: Path) -> AnnData:
    doubled = anndata.concat([screen(time=TIMES), screen(time=TIMES)], index_unique="-")
    doubled.obs_names = [*screen().obs_names, *(f"other-{i}" for i in range(12))]
    return doubled[:12]


STORAGE = {
    "csr": stored(sparse.csr_matrix),
    "csc": stored(sparse.csc_matrix),
    "csr array": stored(sparse.csr_array),
    "by column": stored(np.asfortranarray),
    "int64": stored(lambda x: x.astype(np.int64)),
    "uint8": stored(lambda x: x.astype(np.uint8)),
    "uint16 sparse": stored(lambda x: sparse.csr_matrix(x.astype(np.uint16))),
    "float64": stored(lambda x: x.astype(np.float64)),
    "float16": stored(lambda x: x.astype(np.float16)),
    "dask": stored(lambda x: dask.array.from_array(x, chunks=(5, 6))),
    "dask of sparse": stored(lambda x: dask.array.from_array(x, chunks=(5, 6)).map_blocks(sparse.csr_matrix)),
    "a layer": in_layer,
    "raw": in_raw,
    "a view": a_view,
    "backed": written("write_h5ad", lambda path: anndata.read_h5ad(path, backed="r")),
    "lazy": written("write_zarr", anndata.experimental.read_lazy),
    "h5ad": written("write_h5ad", open_anndata),
    "zarr": written("write_zarr", open_anndata),
}
WHERE = {"a layer": {"layer": "umi"}, "raw": {"layer": "raw"}}


@pytest.mark.parametrize("kind", STORAGE)
def test_what_is_read_does_not_depend_on_how_it_is_stored(kind: str, tmp_path: Path) -> None:
    expected = read(screen(time=TIMES), time="time")
    data = read(STORAGE[kind](tmp_path), time="time", **WHERE.get(kind, {}))
    assert data.digest == expected.digest
    assert torch.equal(data.batch().x.dense, expected.batch().x.dense)


@pytest.mark.parametrize("where", [None, "umi", "raw"])
@pytest.mark.parametrize("write", ["write_h5ad", "write_zarr"])
def test_counts_that_stay_in_their_file_are_those_in_memory(
    where: str | None, write: str, tmp_path: Path
) -> None:
    adata = {None: screen, "umi": lambda **_: in_layer(tmp_path), "raw": lambda **_: in_raw(tmp_path)}[where](
        time=TIMES
    )
    getattr(adata, write)(tmp_path / "screen")
    data = Trajectories.from_disk(tmp_path / "screen", time="time", layer=where, progress=False)
    expected = read(screen(time=TIMES), time="time")
    assert data.schema == expected.schema
    np.testing.assert_array_equal(data.stored.in_memory().toarray(), expected.values.toarray())


@pytest.mark.parametrize("seed", range(3))
def test_what_is_read_does_not_depend_on_the_order_of_cells_and_genes(seed: int) -> None:
    adata = screen(time=TIMES)
    rng = np.random.default_rng(seed)
    mixed = adata[rng.permutation(adata.n_obs)][:, rng.permutation(adata.n_vars)].copy()
    expected = read(adata, time="time")
    assert read(mixed, time="time", schema=expected.schema).digest == expected.digest
    anew = read(mixed, time="time")
    order = [anew.schema.genes.index(gene) for gene in GENES]
    ordered = {(name, tuple(np.array(row)[order])) for name, row in counts_by_name(anew)}
    assert ordered == counts_by_name(expected)


def test_a_data_set_keeps_what_the_file_says_in_the_order_of_its_rows() -> None:
    adata = screen(time=TIMES, depth=np.arange(12.0))[::-1].copy()
    adata.var["length"] = np.arange(6.0)
    data = read(adata, time="time")
    assert data.obs["depth"].tolist() == adata.obs.loc[data.obs.index, "depth"].tolist()
    assert data.obs.index.tolist() == data.names.tolist()
    assert data.select("A").obs.index.tolist() == data.select("A").names.tolist()
    assert data.var["length"].tolist() == [0, 1, 2, 3, 4, 5]


# Values


def with_values(x: Any) -> AnnData:
    adata = screen()
    adata.X = x(adata.X)
    return adata


def broken_csr(x: np.ndarray) -> sparse.csr_matrix:
    made = sparse.csr_matrix(x)
    made.indices[0] = 10_000
    return made


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (lambda x: x + 1e-9 * (x > 0).astype(np.float64), "X holds fractional values such as"),
        (lambda x: x.astype(np.int64) + 2**24, "X holds huge values such as 16777218"),
        (lambda x: x.astype(complex), "X holds values of type complex128; give real numbers"),
        (broken_csr, "X is no whole sparse matrix"),
        (lambda x: np.where(x > 3, np.nan, x), "X holds NaN or infinite values"),
        (lambda x: -x, "X holds negative values"),
        (lambda x: x > 0, "X holds values of type bool"),
        (lambda x: 0 * x, "every count is zero"),
    ],
    ids=[
        "a fraction that single precision loses",
        "large",
        "complex",
        "broken",
        "NaN",
        "negative",
        "yes",
        "zero",
    ],
)
def test_values_are_checked_before_they_are_cast(change: Callable, phrase: str) -> None:
    with pytest.raises(DataError, match=phrase):
        Trajectories.from_anndata(with_values(change))


@pytest.mark.parametrize(
    ("make", "phrase"),
    [
        (in_layer, "layer 'umi' holds counts: name it with layer='umi'"),
        (in_raw, ".raw holds counts: name it"),
    ],
)
def test_logarithms_are_answered_with_where_the_counts_are(
    make: Callable, phrase: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=phrase):
        Trajectories.from_anndata(make(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "phrase"),
    [
        ("cells.h5mu", b"\x89HDF\r\n\x1a\nmore", "holds several modalities; write the one with counts"),
        ("cells.h5ad.gz", b"\x1f\x8bmore", "is packed; unpack it first, for example with gunzip"),
        ("cells.h5ad", b"\x1f\x8bmore", "is packed; unpack it first, for example with gunzip"),
        ("cells.csv", b"cell,G1\n", "is a table; read it with anndata.io.read_csv"),
        ("cells.rds", b"X\nmore", "is of R; write it as h5ad there"),
        ("cells.h5", b"\x89HDF\r\n\x1a\nmore", "may be of Cell Ranger; read it with scanpy.read_10x_h5"),
        ("cells.h5ad", b"\x89HDF\r\n\x1a\nmore", "cannot be read as h5ad .* it may be truncated"),
    ],
)
def test_a_file_of_another_kind_is_named_with_what_makes_an_h5ad_of_it(
    name: str, content: bytes, phrase: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=phrase):
        open_anndata(tmp_path / name)


@pytest.mark.parametrize(
    ("given", "phrase"),
    [
        (mudata.MuData({"rna": screen(), "protein": screen()[:, :2].copy()}), "modalities rna, protein"),
        ("screen.h5ad", "is a path; open it with anndata.read_h5ad, or use from_disk"),
        (pd.DataFrame(), "is no AnnData; give cells x genes as an AnnData"),
        (screen()[:0], "the AnnData has no cell"),
        (screen()[:, :0], "the AnnData has no gene"),
    ],
    ids=["MuData", "a path", "a table", "no cell", "no gene"],
)
def test_an_object_of_another_kind_is_named(given: Any, phrase: str) -> None:
    with pytest.raises(DataError, match=phrase):
        Trajectories.from_anndata(given)


# Labels


SAME = {
    "members in the other order": {"A+B": "B+A"},
    "a list": {"A+B": "['A', 'B']"},
    "blanks": {"A+B": " A + B ", "control": " control"},
    "a dose of one": {"A": "A*1"},
    "a start at zero": {"A": "A@0"},
    "quotes": {"A": '"A"'},
}


@pytest.mark.parametrize("kind", SAME)
def test_labels_that_mean_the_same_are_read_the_same(kind: str) -> None:
    adata = screen()
    adata.obs["perturbation"] = [SAME[kind].get(label, label) for label in LABELS]
    assert read(adata).digest == read(screen()).digest


@pytest.mark.parametrize("separator", ["|", ";", ",", "_", "&", " and "])
def test_members_are_joined_by_what_is_named(separator: str) -> None:
    adata = screen(tuple(label.replace("+", separator) for label in LABELS))
    assert read(adata, separator=separator).digest == read(screen()).digest


@pytest.mark.parametrize("separator", ["|", ";", ",", "_", "-", "/"])
def test_labels_that_join_names_of_others_are_told_with_their_separator(separator: str) -> None:
    said = doubts(screen(tuple(label.replace("+", separator) for label in LABELS)))
    assert len(said) == 1
    assert f"such as 'A{separator}B' (1 in all)" in said[0]
    assert f"with separator='{separator}'" in said[0]


@pytest.mark.parametrize(
    "name", ["(+)-JQ1", "(+)-3-PPP", "CD4+", "Ca2+/calmodulin", "17+beta-estradiol", "N-[4-(+)-x]", "A | B"]
)
def test_a_name_that_holds_what_joins_members_stays_whole(name: str) -> None:
    data = read(labelled("control", name, "G1"))
    assert data.schema.tokens == tuple(sorted((name, "G1")))
    assert data.select(name).n_cells == 6
    assert Schedule.parse(do(name).label()) == do(name)
    assert data.hold_out(perturbations=name)[1].n_cells == 6


def test_a_name_that_reads_as_a_dose_is_one_name_and_told() -> None:
    adata = labelled("control", "HLA-DRB1*15", "HLA-DRB1*04", "CHEMBL12@b")
    said = doubts(adata)
    assert len(said) == 1
    assert "were read as one name each" in said[0]
    data = read(adata, separator="")
    assert data.schema.tokens == ("CHEMBL12@b", "HLA-DRB1*04", "HLA-DRB1*15")
    assert data.perturbations() == ('"CHEMBL12@b"', '"HLA-DRB1*04"', '"HLA-DRB1*15"')
    assert data.select("HLA-DRB1*15").n_cells == 6
    posterior = fitted(data)
    assert posterior.effect("HLA-DRB1*15", draws=2).perturbation.item() == '"HLA-DRB1*15"'
    with pytest.raises(CiteVAEError, match=r'in double quotes, as in do.."HLA-DRB1.04"'):
        posterior.effect(do("HLA-DRB1*7"), draws=2)


def test_a_controls_label_is_matched_whole_and_first() -> None:
    adata = labelled("DMSO+vehicle", "G1", "G2")
    data = read(adata, control="DMSO+vehicle")
    assert data.controls().n_cells == 6
    assert data.schema.tokens == ("G1", "G2")


CONTROLS = ("non-targeting", "non-targeting_00123", "NT-2", "Non-Targeting")


@pytest.mark.parametrize(
    "control",
    [CONTROLS, ["non-targeting*", "NT-*", "Non-Targeting"], ["[nN]on-[tT]argeting*", "NT-2"]],
    ids=["names", "patterns", "letters"],
)
def test_several_labels_and_patterns_are_one_control(control: Any) -> None:
    data = read(labelled(*CONTROLS, "G1"), control=control)
    assert data.controls().n_cells == 24
    assert data.schema.tokens == ("G1",)
    assert data.schema.control in CONTROLS
    assert data.reading.controls == dict.fromkeys(CONTROLS, 6)
    again = read(labelled(*CONTROLS, "G1"), control=control, schema=data.schema)
    assert again.digest == data.digest


def test_a_label_that_looks_like_a_control_is_told() -> None:
    said = doubts(labelled(*CONTROLS, "G1", "unassigned", "WT1"), control="non-targeting")
    assert [one.partition(":")[0].partition("labels ")[2] for one in said] == [
        "that look like controls and were read as perturbations",
        "that look like cells without a perturbation of their own",
    ]
    assert "control=['non-targeting', 'non-targeting_00123', 'NT-2', 'Non-Targeting']" in said[0]
    assert "exclude='unassigned'" in said[1]
    assert doubts(labelled("control", "CTRL", "G1"))[0].count("'CTRL' (6 cells)") == 1


@pytest.mark.parametrize(
    ("labels", "options", "phrase"),
    [
        (("G1_g1", "G1_g2", "G2"), {}, "'G1_g1' and 'G1_g2', which look like guides of 'G1'"),
        (("G1-1", "G1-2"), {}, "look like guides of 'G1'"),
        (("STAT1", "Stat1"), {}, "says 'STAT1' and 'Stat1', which differ by case alone"),
        (("2-Sep", "G1"), {}, "'2-Sep', which a spreadsheet may have made of a gene"),
        (("G1", "G2"), {"exclude": "G3"}, "never says 'G3', which exclude= names"),
        (("G1", "G2"), {"control": ["control", "NT"]}, "never says 'NT', which control= names"),
    ],
)
def test_labels_that_may_be_something_else_are_told(labels: tuple, options: dict, phrase: str) -> None:
    (said,) = doubts(labelled("control", *labels), **options)
    assert phrase in said


@pytest.mark.parametrize(
    ("labels", "control"),
    [((0, 1, 2), 0), ((0, 1, 2), "0"), ((True, False), "False"), ((0.5, 1.5), np.float64(0.5))],
)
def test_labels_may_be_numbers(labels: tuple, control: Any) -> None:
    data = read(labelled(*labels), control=control)
    assert data.controls().n_cells == 6


@pytest.mark.parametrize("most", [3, 3.0, "3", np.int64(3)])
def test_a_number_of_genes_is_one_in_every_form(most: Any) -> None:
    assert read(labelled("control", "G1"), most_genes=most).schema.n_genes == 3


def test_no_control_is_answered_with_the_labels_and_the_nearest() -> None:
    with pytest.raises(DataError, match=r"labels are 'non-targeting', .*'non-targeting' looks like one"):
        Trajectories.from_anndata(labelled(*CONTROLS, "G1"), control="nontargeting")


@pytest.mark.parametrize(
    "values",
    [
        pd.Series(["nan", "G1", "control"] * 6, dtype=object),
        pd.Series(["None", "G1", "control"] * 6, dtype="string"),
        pd.Series(["<NA>", "G1", "control"] * 6, dtype="category"),
        pd.Series([None, "G1", "control"] * 6, dtype="category"),
        pd.Series([pd.NA, "G1", "control"] * 6, dtype="string"),
        pd.Series(["", "G1", "control"] * 6),
    ],
    ids=["text", "string", "category", "missing category", "NA", "empty"],
)
@pytest.mark.parametrize("column", ["perturbation", "batch"])
def test_words_for_what_is_missing_are_missing_in_every_dtype(values: pd.Series, column: str) -> None:
    adata = labelled("control", "G1", "G2")
    adata.obs[column] = values.set_axis(adata.obs_names)
    with pytest.raises(DataError, match=r"empty labels|missing values"):
        Trajectories.from_anndata(adata, batch="batch" if column == "batch" else None)


# Genes and libraries


def test_genes_are_named_by_a_column() -> None:
    adata = screen()
    adata.var["symbol"] = GENES
    adata.var_names = [f"ENSG{i:011d}" for i in range(6)]
    (said,) = doubts(adata)
    assert "no perturbation, such as 'A', is among the genes" in said
    assert "name it with genes='symbol'" in said
    data = read(adata, genes="symbol")
    assert data.digest == read(screen()).digest
    adata.var.loc[adata.var_names[-1], "symbol"] = None
    assert read(adata, genes="symbol").schema.genes == (*GENES[:-1], "ENSG00000000005")


@pytest.mark.parametrize(
    ("rename", "phrase"),
    [
        (str.lower, "when upper and lower case and versions are let alone"),
        ("ENSG{:011d}".format, "are Ensembl"),
    ],
    ids=["case", "identifiers"],
)
def test_names_that_never_meet_are_told(rename: Callable, phrase: str) -> None:
    adata = screen()
    adata.var_names = [rename(i if rename is not str.lower else gene) for i, gene in enumerate(GENES)]
    assert phrase in doubts(adata)[0]


def test_drugs_are_no_genes_and_nothing_is_said_of_it() -> None:
    data = read(labelled("control", "Dasatinib", "JQ1"))
    assert data.summary().content["tokens_that_are_genes"] == 0


def panel_of(n: int = 60) -> tuple[AnnData, Trajectories]:
    rng = np.random.default_rng(0)
    weights = rng.gamma(2, 1, n) + 0.2
    x = rng.poisson(rng.poisson(800, 200)[:, None] * weights / weights.sum()).astype(np.float32)
    obs = pd.DataFrame(
        {"perturbation": np.repeat(["control", "G1"], 100)}, index=[f"c{i}" for i in range(200)]
    )
    adata = AnnData(x, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(n)]))
    return adata, read(adata, most_genes=15)


def test_library_sizes_of_a_panel_are_taken_by_its_share_in_training() -> None:
    adata, data = panel_of()
    whole = read(adata, schema=data.schema)
    np.testing.assert_array_equal(whole.library, data.library)
    alone = adata[:, list(data.schema.genes)].copy()
    (said,) = doubts(alone, schema=data.schema)
    assert "held 21% in training" in said or "in training" in said
    with pytest.warns(CiteVAEWarning, match="library sizes would be over other genes"):
        of_panel = Trajectories.from_anndata(alone, schema=data.schema)
    # of about 160 counts of the panel a cell, the library is told to within their Poisson error, 8 %
    assert np.median(of_panel.library / data.library) == pytest.approx(1, abs=0.03)


def test_missing_genes_are_refused_or_stood_in_for() -> None:
    adata, data = panel_of()
    posterior = fitted(data, max_epochs=150, batch_size=40)
    lacking = adata[:100, ~adata.var_names.isin(list(data.schema.genes)[:3])].copy()
    with pytest.raises(
        DataError, match=r"3 of the 15 genes are missing.*posterior.read\(adata, missing='mask'\)"
    ):
        posterior.read(lacking)
    with pytest.warns(CiteVAEWarning, match="3 of the 15 genes are missing"):
        cells = posterior.read(lacking, missing="mask")
    assert cells.schema == data.schema
    controls = data.controls()
    expected = posterior.predict(do(), cells=controls, draws=20).layers["mean"].mean(0)[:3]
    # of about 1,000 counts a gene: four standard errors are 13 %
    np.testing.assert_allclose(cells.values.toarray().mean(0)[:3], expected, rtol=0.15)
    assert posterior.predict("G1", cells=cells, draws=2).n_vars == 15


# Doses


def dosed(unit: float = 1.0) -> AnnData:
    dose = np.repeat([0.0, 10.0, 10_000.0], 6) * unit
    adata = labelled("control", "Dasatinib", "Dasatinib", dose_value=dose, nperts=np.repeat([0, 1, 1], 6))
    adata.obs["dose_unit"] = "nM"
    return adata


def test_doses_under_one_label_are_read_and_scaled_a_token() -> None:
    data = read(dosed())
    assert data.conditions == (do(), do("Dasatinib*10"), do("Dasatinib*10000"))
    assert data.schema.dose_ranges == ((10.0, 10_000.0),)
    assert data.schema.dose_unit == "nM"
    assert data.schema.doses(do("Dasatinib*10000"), 1)[1].item() == 1.0
    assert data.schema.doses(do("Dasatinib*10"), 1)[1].item() == pytest.approx(1e-3)
    # the unit is the user's matter: the program sees shares of the largest dose
    other = read(dosed(1e-6))
    assert torch.equal(other.batch().u, data.batch().u)
    assert cv.Schema.from_json(data.schema.to_json()) == data.schema


def test_a_column_of_doses_that_is_not_read_is_told() -> None:
    adata = dosed().copy()
    del adata.obs["nperts"]
    (said,) = doubts(adata)
    assert "obs['dose_value'] has several values under one label ('Dasatinib': 10, 10000)" in said
    assert read(adata, dose="dose_value").conditions == read(dosed()).conditions


def test_an_amount_beyond_those_given_is_told() -> None:
    posterior = fitted(read(dosed()))
    with pytest.warns(
        CiteVAEWarning, match=r"gives 1 nM, and cells were given 10 to 10000 nM; .*Dasatinib\*10000"
    ):
        posterior.effect("Dasatinib", draws=2)
    with pytest.warns(CiteVAEWarning, match="begins at 10 step and acts on nothing by time 3"):
        posterior.effect(do("Dasatinib*100", at=10), draws=2)


@pytest.mark.parametrize(
    ("dose", "phrase"),
    [
        (["0", "ten", "10"], "holds 'ten' for cells of 'Dasatinib'; doses are 0, or numbers"),
        ([0, np.nan, 10], "holds 'nan' for cells of 'Dasatinib'"),
        (["0", "10 nM", "10 uM"], r"several units \(nM, uM\); bring them to one"),
        (["0", "1+2", "10"], "the dose '1.2' does not fit 'Dasatinib'"),
    ],
)
def test_a_dose_that_cannot_be_read_is_refused(dose: list, phrase: str) -> None:
    adata = labelled("control", "Dasatinib", "Dasatinib", amount=np.repeat(dose, 6))
    with pytest.raises(DataError, match=phrase):
        Trajectories.from_anndata(adata, dose="amount")


@pytest.mark.parametrize("most", [1, 30, 10_000])
def test_doses_in_their_own_unit_give_the_same_finite_fit(most: float) -> None:
    amounts = np.tile(np.array([0.001, 0.01, 0.1, 1.0]) * most, 60)
    labels = ("control", "G1", "G2", "G3")
    adata = labelled(*labels, n=60, dose=amounts)
    posterior = fitted(read(adata, dose="dose"), max_epochs=3)
    unit = fitted(read(labelled(*labels, n=60, dose=amounts / most), dose="dose"), max_epochs=3)
    strongest = f"G1*{most:g}"
    np.testing.assert_allclose(
        posterior.effect(strongest, draws=5), unit.effect("G1", draws=5), rtol=1e-4, atol=1e-5
    )


# Times


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        (["D1", "D2"], "day"),
        (["day 1", "day 2"], "day"),
        (["1d", "2d"], "day"),
        (["1h", "2h"], "hour"),
        (["1", "2"], "time unit"),
        ([1, 2], "time unit"),
        (["t1", "t2"], "time unit"),
        (pd.to_timedelta([1, 2], unit="D"), "day"),
        (pd.to_timedelta([90, 120], unit="min"), "minute"),
    ],
)
def test_times_are_read_with_their_unit(times: Any, unit: str) -> None:
    adata = screen()
    adata.obs["when"] = pd.Series(list(times) * 6, index=adata.obs_names)
    data = read(adata, time="when")
    assert data.schema.time_unit == unit
    assert data.schema.times == ((90.0, 120.0) if unit == "minute" else (1.0, 2.0))


@pytest.mark.parametrize(
    ("times", "phrase"),
    [
        (["24h", "2d"], r"several units \(day, hour\); bring them to one"),
        (["early", "late"], "holds 'early'; times are numbers"),
        (pd.to_datetime(["2026-01-01", "2026-01-02"]), "holds dates; give the time since the perturbation"),
        ([0, 0], "every time is 0, and a perturbation acts after 0"),
        (["1", "nan"], "holds 'nan'"),
    ],
)
def test_times_that_cannot_be_read_are_refused(times: Any, phrase: str) -> None:
    adata = screen()
    adata.obs["when"] = pd.Series(list(times) * 6, index=adata.obs_names)
    with pytest.raises(DataError, match=phrase):
        Trajectories.from_anndata(adata, time="when")


def test_thirds_are_a_grid() -> None:
    data = read(screen(time=[1 / 3, 2 / 3, 1.0] * 4), time="time")
    assert (data.schema.n_steps, data.schema.step) == (3, pytest.approx(1 / 3))


def test_times_far_apart_are_answered_with_the_observed_ones() -> None:
    adata = screen(time=[1.0, 24.0, 168.0] * 4)
    with pytest.raises(DataError, match=r"168 latent steps, .*step='observed'"):
        Trajectories.from_anndata(adata, time="time")
    assert Trajectories.from_anndata(adata, time="time", step="observed").schema.n_steps == 3


def test_times_of_another_unit_than_the_models_are_refused() -> None:
    data = read(screen(time=TIMES), time="time", time_unit="day")
    with pytest.raises(DataError, match="in the unit 'hour', and the model's is 'day'"):
        Trajectories.from_anndata(screen(time=["24h", "48h"] * 6), time="time", schema=data.schema)


# Designs


@pytest.mark.parametrize(
    ("groups", "confounded"),
    [
        ([("", "1"), ("A", "1"), ("B", "2")], {"B": ["2"]}),
        ([("", "1"), ("A", "1"), ("A", "2"), ("B", "2")], {}),
        ([("", "1"), ("A", "2"), ("B", "3")], {"A": ["2"], "B": ["3"]}),
        ([("", "1"), ("A", "1"), ("A+B", "2"), ("B", "2")], {"B": ["2"]}),
        ([("", "1"), ("A+B", "1"), ("A", "2"), ("B", "2")], {}),
        ([("", "1"), ("A+B", "1"), ("B+C", "1"), ("A+C", "1")], {}),
    ],
    ids=["alone", "through A", "each its own", "a pair beside it", "sum and difference", "three pairs"],
)
def test_effects_that_batches_may_have_made_are_found(groups: list, confounded: dict) -> None:
    schedules = [do(label) if label else do() for label, _ in groups]
    assert apart_from_batches(schedules, [batch for _, batch in groups]) == confounded


def test_what_rank_says_of_random_designs_is_what_is_found() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        n, tokens, lanes = rng.integers(2, 9), list("ABC"), list("12")
        acts = rng.integers(0, 2, (n, 3)) * (rng.random((n, 1)) > 0.3)
        batch = rng.integers(0, 2, n)
        design = np.hstack([np.eye(2)[batch], acts])
        told = [
            np.linalg.matrix_rank(np.vstack([design, np.eye(5)[2 + p]])) == np.linalg.matrix_rank(design)
            for p in range(3)
        ]
        schedules = [do(*(t for t, on in zip(tokens, row, strict=True) if on)) for row in acts]
        there = {t for one in schedules for t in one.tokens}
        found = apart_from_batches(schedules, [lanes[b] for b in batch])
        assert set(found) == {t for t, ok in zip(tokens, told, strict=True) if not ok and t in there}


def test_members_that_are_seen_only_together_are_noted() -> None:
    assert never_alone([do(), do("A+B"), do("C")]) == ["A", "B"]
    data = read(labelled("control", "G1+G2", "G3"))
    assert "G1 and G2 are seen only together with others" in data.reading.notes[0]


def confounded_screen() -> AnnData:
    rng = np.random.default_rng(1)
    w = np.ones((4, 20))
    for k in range(1, 4):
        w[k, k] = 3.0
        w[k, 8 + k] = 4.0  # what the lane does
    x = np.vstack([rng.poisson(400 * one / one.sum(), (60, 20)) for one in w]).astype(np.float32)
    obs = pd.DataFrame(
        {"perturbation": np.repeat(["control", "G1", "G2", "G3"], 60), "lane": np.repeat(list("abcd"), 60)},
        index=[f"c{i}" for i in range(240)],
    )
    return AnnData(x, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(20)]))


def test_an_effect_that_a_batch_may_have_made_is_told_and_its_interval_holds_both(tmp_path: Path) -> None:
    (said,) = doubts(confounded_screen(), batch="lane")
    assert "the effects of G1, G2 and G3 cannot be told apart from those of the batches b, c and d" in said
    with pytest.warns(CiteVAEWarning, match="cannot be told apart"):
        data = Trajectories.from_anndata(confounded_screen(), batch="lane")
    model = CiteVAE(data.schema, n_programs=3, hidden=16)
    posterior = cv.fit(model, MeanField(model, hidden=16), data, max_epochs=60, batch_size=40, progress=False)
    assert posterior.record["confounded"] == {"G1": ["b"], "G2": ["c"], "G3": ["d"]}
    posterior.save(tmp_path / "run")
    for one in (posterior, cv.load(tmp_path / "run")):
        lower, upper = one.effect("G1", draws=100).interval(0.9).values[:, 0, 0]
        for gene, change in ((1, np.log(3)), (9, np.log(4))):  # the perturbation's, and the lane's
            assert lower[gene] < 0.1
            assert upper[gene] > change / 2  # what a short fit has of it
    balanced = confounded_screen()
    balanced.obs["lane"] = list("abcd") * 60
    assert not doubts(balanced, batch="lane")


def test_batches_that_are_times_are_told_unless_they_are_named_so() -> None:
    adata = screen(time=TIMES, run=[f"run {time}" for time in TIMES])
    assert "changes over time cannot be told apart from batches" in doubts(adata, time="time", batch="run")[0]
    data = read(adata, time="time", batch="time")
    assert "changes over time cannot be told apart" in data.reading.notes[0]


def test_a_time_course_with_controls_at_its_start_alone_names_a_way_out() -> None:
    labels = ("control",) * 4 + ("A", "B") * 4
    times = [0.0] * 4 + [1.0, 1.0, 2.0, 2.0] * 2
    with pytest.warns(CiteVAEWarning, match=r"no control was observed at 1 and 2.*versus=do\('B'\)"):
        data = Trajectories.from_anndata(screen(labels, time=times), time="time")
    with pytest.raises(DataError, match=r"no cells of .*versus=do"):
        analysis.measure(data, "A", 2.0)
    assert fitted(data).effect("A", versus="B", draws=2).shape[-1] == 6


def test_cells_of_a_new_donor_are_refused_or_dealt_to_the_known() -> None:
    adata = labelled("control", "G1", n=12, donor=["d1", "d2"] * 12)
    data = read(adata, batch="donor")
    new = adata[:12].copy()
    new.obs["donor"] = "d3"
    for options in ({"batch": "donor"}, {}):
        with pytest.raises(DataError, match=r"d1, d2.*new_batches='spread'"):
            Trajectories.from_anndata(new, schema=data.schema, **options)
    posterior = fitted(data)
    with pytest.warns(CiteVAEWarning, match="12 cells were dealt to the known batches in turn"):
        cells = posterior.read(new, new_batches="spread")
    assert np.bincount(cells.technical).tolist() == [6, 6]
    assert posterior.predict("G1", cells=cells, draws=2).n_obs == 12


# The first hour


def test_a_run_reads_more_cells_by_what_it_remembers(tmp_path: Path) -> None:
    adata = screen(time=TIMES, lane=list("aabb") * 3)
    adata.obs = adata.obs.rename(columns={"perturbation": "guide"}).replace("control", "NT")
    data = read(adata, perturbation="guide", control="NT", time="time", batch="lane", exclude="C")
    posterior = fitted(data)
    posterior.save(tmp_path / "run")
    for one in (posterior, cv.load(tmp_path / "run"), cv.Ensemble([posterior, fitted(data, seed=1)])):
        assert one.read(adata[::-1, ::-1]).digest == data.digest
        predicted = one.predict("B+A", cells=adata, draws=2)
        assert set(predicted.obs["perturbation"]) == {"A+B"}
        assert predicted.n_obs == 3


def test_predicted_cells_keep_what_their_source_says() -> None:
    adata = screen(depth=np.arange(12.0), donor=pd.Categorical(list("ab") * 6))
    adata.var["length"] = np.arange(6.0)
    data = read(adata)
    predicted = fitted(data).predict([do("A"), "B"], cells=data.controls(), draws=2)
    assert predicted.var["length"].tolist() == adata.var["length"].tolist()
    source = adata.obs.loc[predicted.obs["source_cell"]]
    assert predicted.obs["depth"].tolist() == source["depth"].tolist()
    assert predicted.obs["donor"].tolist() == source["donor"].tolist()
    assert predicted.obs["perturbation"].tolist() == ["A"] * 3 + ["B"] * 3


def test_members_come_in_any_order_everywhere() -> None:
    data = read(screen(time=TIMES), time="time")
    assert data.select("B+A").n_cells == data.select("A+B").n_cells == 2
    held = data.hold_out(combinations="B+A")[1]
    assert set(held.labels) == {"A+B"}
    assert analysis.measure(data, "B+A", 1.0).perturbation == "A+B"
    effect = fitted(data).effect(["A+B", "C"], draws=2)
    assert effect.sel(perturbation="B+A").equals(effect.sel(perturbation="A+B"))


@pytest.mark.parametrize(
    "times", [2, 2.0, "2", np.int64(2), np.array(2.0), [2], np.array([2.0]), torch.tensor(2.0)]
)
def test_a_number_is_one_in_every_form(times: Any) -> None:
    data = read(screen(time=TIMES), time="time")
    assert set(data.hold_out(times=times)[1].row_times) == {2.0}
    assert set(data.select(time=times).row_times) == {2.0} if np.ndim(times) == 0 else True
    assert fitted(data).effect("A", time=times, draws=2).time.values.tolist() == [2.0]


@pytest.mark.parametrize(
    "names", ["A", ["A"], ("A",), np.array(["A"]), pd.Series(["A"]), np.str_("A"), {"A"}]
)
def test_a_text_is_one_name_in_every_form(names: Any) -> None:
    held = read(screen()).hold_out(perturbations=names)[1]
    assert set(held.labels) == {"A", "A+B"}


def test_a_combination_among_perturbations_is_answered_with_combinations() -> None:
    with pytest.raises(DataError, match=r"names a combination; hold it out with combinations=\['A\+B'\]"):
        read(screen()).hold_out(perturbations=["A+B"])


def test_an_effect_of_no_cells_is_refused() -> None:
    data = read(screen())
    with pytest.raises(DataError, match=r"group=...\) holds no cell"):
        pseudobulk.effect(data.select("no such label"), data.controls())


# What a breaker found


def test_a_layout_finds_its_layer_on_disk_as_in_memory(tmp_path: Path) -> None:
    adata = labelled("ctrl", "A+ctrl", "ctrl+B", "A+B")
    adata.obs = adata.obs.rename(columns={"perturbation": "condition"})
    adata.var["gene_name"] = adata.var_names
    adata.layers["counts"], adata.X = adata.X.copy(), 7 * adata.X
    adata.write_h5ad(tmp_path / "gears.h5ad")
    on_disk = Trajectories.from_disk(tmp_path / "gears.h5ad", progress=False)
    np.testing.assert_array_equal(on_disk.stored.sum(0), read(adata).stored.sum(0))


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (("NT_1", "A+NT_2", "B+NT_3", "A+B"), {"control": "NT_*"}),
        (("NT_1", "A+NT_2", "B+NT_3", "A+B"), {"control": ["NT_1", "NT_2", "NT_3"]}),
        (("ctrl|ctrl", "A|ctrl", "ctrl|B", "A|B"), {"control": "ctrl|ctrl", "separator": "|"}),
        (("ctrl", "A|ctrl", "ctrl|B", "A|B"), {"control": "ctrl", "separator": "|"}),
    ],
)
def test_a_control_within_a_combination_is_no_perturbation(labels: tuple, options: dict) -> None:
    data = read(labelled(*labels), **options)
    assert data.schema.tokens == ("A", "B")
    assert [one.tokens for one in data.conditions] == [(), ("A",), ("A", "B"), ("B",)]
    part = labelled(*labels)[6:]
    assert fitted(data).read(part.copy()).schema == data.schema


def test_a_pattern_that_takes_a_gene_is_told() -> None:
    adata = labelled("NT-1", "NTRK1", "G1")
    adata.var_names = [*adata.var_names[:-1], "NTRK1"]
    assert "'NTRK1', a measured gene that control= takes for a control" in doubts(adata, control="NT*")[0]


@pytest.mark.parametrize("times", [["day -1", "day 3"], ["D-1", "D7"], ["3m", "6m"], ["-1", "3"]])
def test_times_before_the_start_and_of_no_sure_unit_are_refused(times: list[str]) -> None:
    with pytest.raises(DataError, match="times are numbers, zero or more"):
        Trajectories.from_anndata(screen(time=times * 6), time="time")


def test_durations_and_names_of_units_are_brought_to_the_models() -> None:
    adata = screen(time=pd.to_timedelta([6, 24, 48] * 4, unit="h"))
    data = read(adata, time="time")
    later = adata[(adata.obs["time"] > pd.Timedelta(6, unit="h")).to_numpy()].copy()
    assert set(read(later, time="time", schema=data.schema).row_times) == {24.0, 48.0}
    days = screen(time=["D2", "D4"] * 6)
    data = read(days, time="time", time_unit="days")
    assert read(days, time="time", schema=data.schema).digest == data.digest
    assert fitted(data).effect("A", time="D4", draws=2).time.item() == 4.0


def test_units_of_doses_are_compared_member_by_member_and_with_the_models() -> None:
    def of(*doses: str) -> AnnData:
        return labelled("control", "A", "B", "A+B", dv=np.repeat(doses, 6))

    with pytest.raises(DataError, match=r"several units \(nM, uM\)"):
        Trajectories.from_anndata(of("0", "10 nM", "1 nM", "10 nM+1 uM"), dose="dv")
    with pytest.raises(DataError, match=r"several units \(without a unit, nM\)"):
        Trajectories.from_anndata(of("0", "10 nM", "1", "10 nM+1 nM"), dose="dv")
    data = read(of("0", "10 nM", "1 nM", "10 nM+1 nM"), dose="dv")
    with pytest.raises(DataError, match=r"has doses in uM, and the model's are in nM"):
        Trajectories.from_anndata(
            of("0", "0.01 uM", "0.001 uM", "0.01 uM+0.001 uM"), dose="dv", schema=data.schema
        )
    single = labelled("control", "A", dose=np.repeat([0, 0.1], 6).astype(np.float32))
    double = labelled("control", "A", dose=np.repeat([0, 0.1], 6).astype(np.float32).astype(float))
    assert read(single, dose="dose").digest == read(double, dose="dose").digest


def test_what_stands_in_does_not_depend_on_the_order_of_cells() -> None:
    adata = labelled("control", "A", n=20, donor=["1", "2"] * 20)
    posterior = fitted(read(adata, batch="donor"))
    new = adata.copy()
    new.obs["donor"] = "new"
    lacking = adata[:, 2:].copy()
    with pytest.warns(CiteVAEWarning):
        spread = [posterior.read(one, new_batches="spread") for one in (new, new[::-1].copy())]
        masked = [posterior.read(one, missing="mask") for one in (lacking, lacking[::-1].copy())]
    for one, other in (spread, masked):
        assert one.digest == other.digest
    for label in ("control", "A"):  # each label's cells are dealt to all batches alike
        assert np.bincount(spread[0].select(label).technical).tolist() == [10, 10]


def test_words_blanks_and_whole_numbers_are_one_in_every_writing(tmp_path: Path) -> None:
    adata = labelled("control", "A", "B", lane=[1, 2] * 9)
    adata.obs["perturbation"] = adata.obs["perturbation"].where(adata.obs["perturbation"] != "B", None)
    data = read(adata, exclude="None", batch="lane")
    assert data.n_cells == 12
    posterior = fitted(data)
    adata.obs["lane"] = adata.obs["lane"].astype(float)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    assert posterior.read(open_anndata(tmp_path / "cells.h5ad")).digest == data.digest
    blank = labelled("control", "A", "unassigned ")
    assert read(blank, exclude="unassigned").schema.tokens == ("A",)


@pytest.mark.parametrize(
    ("options", "phrase"),
    [
        ({"separator": 3}, r"\(separator=3\) is no text"),
        ({"dose": 1}, r"\(dose=1\) is no text"),
        ({"time": ["t"]}, r"\(time=\['t'\]\) is no text"),
        ({"batch": ["t"]}, r"\(batch=\['t'\]\) is no text"),
    ],
)
def test_what_names_no_column_is_refused(options: dict, phrase: str) -> None:
    with pytest.raises(DataError, match=phrase):
        Trajectories.from_anndata(labelled("control", "A"), **options)


def test_a_column_that_is_there_twice_is_refused() -> None:
    adata = labelled("control", "A")
    adata.obs = pd.concat([adata.obs, adata.obs], axis=1)
    with pytest.raises(DataError, match="obs has the column 'perturbation' twice"):
        Trajectories.from_anndata(adata)


def test_a_label_in_the_files_own_writing_is_answered_with_ours() -> None:
    posterior = fitted(read(screen()))
    with pytest.raises(CiteVAEError, match=r"join members by '\+', as in 'A\+B'"):
        posterior.effect("A;B", draws=2)


RUNS = {
    "raw": (in_raw, {"time": "time", "layer": "raw"}),
    "a layer": (in_layer, {"time": "time", "layer": "umi"}),
    "several controls": (lambda _: labelled("NT_1", "NT_2", "A", "B"), {"control": ["NT_1", "NT_2"]}),
    "a pattern": (lambda _: labelled("NT_1", "NT_2", "A", "B"), {"control": "NT_*"}),
    "a separator": (lambda _: labelled("control", "A|B", "A", "B"), {"separator": "|"}),
    "doses": (lambda _: dosed(), {}),
    "durations": (lambda _: screen(time=pd.to_timedelta([1, 2] * 6, unit="D")), {"time": "time"}),
    "some genes": (lambda _: labelled("control", "G1", "G2"), {"most_genes": 4}),
    "left out": (lambda _: labelled("control", "A", "unassigned"), {"exclude": "unassigned"}),
    "unequal steps": (lambda _: screen(time=[1.0, 24.0, 168.0] * 4), {"time": "time", "step": "observed"}),
}


@pytest.mark.filterwarnings("ignore::pyro_citevae.errors.CiteVAEWarning")
@pytest.mark.parametrize("kind", RUNS)
def test_a_run_reads_its_own_file_to_the_data_that_it_was_fitted_to(kind: str, tmp_path: Path) -> None:
    make, options = RUNS[kind]
    data = Trajectories.from_anndata(make(tmp_path), **options)
    fitted(data).save(tmp_path / "run")
    again = cv.load(tmp_path / "run").read(make(tmp_path))
    assert again.digest == data.digest == cv.load(tmp_path / "run").record["data"]


# What was read


def test_the_summary_says_what_was_read() -> None:
    adata = screen(time=TIMES, lane=list("aabb") * 3)
    data = read(adata, time="time", batch="lane", exclude="C")
    found = data.summary().content
    assert found["layout"] == "plain"
    assert found["layout_because"] == "the file has nothing of a published layout"
    assert found["columns"] == {"perturbation": "perturbation", "time": "time", "batch": "lane"}
    assert found["left_out"] == {"C": 1}
    assert found["cells"] == 11
    assert found["perturbations"] == {"A": 3, "A+B": 2, "B": 3}
    assert found["combinations"] == ["A+B"]
    assert found["times"] == {"1": 6, "2": 5}
    assert found["batches"] == {"a": 6, "b": 5}
    assert found["tokens_that_are_genes"] == 2
    text = str(data.summary())
    for part in ("11", "left out: C", "A+B", "control (3 cells)", "2 of 2 are measured", "lane"):
        assert part in text
    assert "<script>" not in read(labelled("control", "<script>")).summary()._repr_html_()
    assert fitted(data).record["summary"] == found


def test_a_simulated_screen_has_a_summary_too() -> None:
    found = simulated().summary()
    assert found.content["cells"] == 60
    assert "layout" not in found.content
    assert dense(as_anndata(simulated())).sum() > 0
