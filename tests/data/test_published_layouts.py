"""Published file layouts: what the reader makes of each, and of files that fall short of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from click.testing import Result
from scipy import sparse
from typer.testing import CliRunner

from pyro_citevae.cli import app
from pyro_citevae.data import Trajectories, do, open_h5ad, simulate
from pyro_citevae.data.columns import Columns
from pyro_citevae.data.published_layouts import LAYOUTS, resolve
from pyro_citevae.errors import CiteVAEError

GENES = ["KLF1", "MAP2K6", "SET", "GAPDH", "ACTB"]
PAIRS = ["KLF1+MAP2K6", "control", "KLF1", "MAP2K6", "SET", "control"]  # what every file below says


def values(n_genes: int = 5) -> np.ndarray:
    return np.random.default_rng(0).poisson(3.0, (len(PAIRS), n_genes)).astype(np.float32)


def made(obs: dict[str, list], *, genes: list[str] | None = None, **parts: object) -> AnnData:
    index = [f"cell-{i}" for i in range(len(PAIRS))]
    frame = pd.DataFrame(obs, index=index)
    return AnnData(sparse.csr_matrix(values()), obs=frame, var=pd.DataFrame(index=genes or GENES), **parts)


def gears() -> AnnData:
    """``perturb_processed.h5ad``: normalised X, counts beside, identifiers as names, categorical columns."""
    condition = ["KLF1+MAP2K6", "ctrl", "KLF1+ctrl", "ctrl+MAP2K6", "SET+ctrl", "ctrl"]
    doses = ["1+1", "1", "1+1", "1+1", "1+1", "1"]
    adata = made(
        {
            "condition": condition,
            "cell_type": ["K562"] * 6,
            "dose_val": doses,
            "control": [0, 1, 0, 0, 0, 1],
            "condition_name": [f"K562_{c}_{d}" for c, d in zip(condition, doses, strict=True)],
        },
        genes=[f"ENSG{i:011d}" for i in range(5)],
        layers={"counts": sparse.csr_matrix(values())},
    )
    adata.var["gene_name"] = GENES
    adata.X = sparse.csr_matrix(np.log1p(values()))
    return adata


def scperturb() -> AnnData:
    """``NormanWeissman2019_filtered.h5ad``: members joined by an underscore, and their number beside."""
    adata = made(
        {
            "guide_id": [
                "KLF1_MAP2K6",
                "NegCtrl0_NegCtrl0",
                "KLF1_NegCtrl0",
                "MAP2K6_x",
                "SET_x",
                "NegCtrl0",
            ],
            "perturbation": [label.replace("+", "_") for label in PAIRS],
            "nperts": [2, 0, 1, 1, 1, 0],
            "ncounts": values().sum(1) + 100.0,
        }
    )
    adata.obs["perturbation"] = adata.obs["perturbation"].astype("category")
    return adata


def vcc() -> AnnData:
    """``adata_Training.h5ad``; single knock-downs only."""
    target = ["KLF1", "non-targeting", "KLF1", "MAP2K6", "SET", "non-targeting"]
    adata = made({"target_gene": target, "guide_id": [f"{t}_P1" for t in target], "batch": list("aabbab")})
    adata.var["gene_id"] = [f"ENSG{i:011d}" for i in range(5)]
    return adata


def cpa() -> AnnData:
    """A combinatorial screen with doses, as CPA's tutorials set it up."""
    condition = ["KLF1+MAP2K6", "control", "KLF1", "MAP2K6", "SET", "control"]
    doses = ["1.0+0.5", "1.0", "0.1", "1.0", "0.01", "1.0"]
    return made(
        {
            "condition": condition,
            "dose_val": doses,
            "cov_drug_dose_name": [f"A549_{c}_{d}" for c, d in zip(condition, doses, strict=True)],
            "cell_type": ["A549"] * 6,
            "control": [int(c == "control") for c in condition],
            "split": ["train"] * 6,
        },
        layers={"counts": sparse.csr_matrix(values())},
    )


def cpa_norman() -> AnnData:
    """CPA's copy of Norman 2019: made from scPerturb's, with columns of both."""
    adata = scperturb()
    adata.obs["condition_ID"] = [label.replace("control", "ctrl") for label in PAIRS]
    adata.obs["dose_value"] = ["1.0+1.0" if "+" in label else "1.0" for label in PAIRS]
    adata.obs["control"] = [int(label == "control") for label in PAIRS]
    adata.layers["counts"] = adata.X.copy()
    return adata


FILES = {"gears": gears, "scperturb": scperturb, "vcc": vcc, "cpa": cpa}
every_layout = pytest.mark.parametrize("name", FILES)


@every_layout
def test_a_published_layout_is_found_and_may_be_named(name: str) -> None:
    found = Trajectories.from_anndata(FILES[name]())
    assert resolve(FILES[name](), Columns()).layout == name
    assert found.digest == Trajectories.from_anndata(FILES[name](), layout=name).digest


@every_layout
def test_no_two_layouts_claim_one_file(name: str) -> None:
    assert [one.name for one in LAYOUTS.values() if one.fits(FILES[name]())] == [name]


@pytest.mark.parametrize("make", [gears, scperturb, cpa_norman])
def test_pairs_singles_and_controls_are_the_same_in_every_layout(make) -> None:
    data = Trajectories.from_anndata(make())
    control = data.schema.control
    order = np.argsort(data.names)
    assert data.labels[order].tolist() == [label.replace("control", control) for label in PAIRS]
    assert data.schema.tokens == ("KLF1", "MAP2K6", "SET")
    assert data.schema.genes == tuple(GENES)
    np.testing.assert_array_equal(data.values.toarray(), values())


def test_each_layout_keeps_the_name_of_its_controls() -> None:
    named = {name: Trajectories.from_anndata(make()).schema.control for name, make in FILES.items()}
    assert named == {"gears": "ctrl", "scperturb": "control", "vcc": "non-targeting", "cpa": "control"}
    assert Trajectories.from_anndata(cpa_norman()).schema.control == "ctrl"


def test_genes_of_gears_are_named_by_their_symbols_so_that_own_transcripts_are_known() -> None:
    assert Trajectories.from_anndata(gears()).schema.own_gene.tolist() == [0, 1, 2]


def test_scperturb_counts_the_library_over_all_genes() -> None:
    data = Trajectories.from_anndata(scperturb())
    assert data.schema.panel_share < 1
    np.testing.assert_allclose(data.library, values().sum(1) + 100)


def test_an_underscore_in_a_single_perturbation_is_part_of_its_name() -> None:
    adata = scperturb()
    adata.obs["perturbation"] = ["KLF1_MAP2K6", "control", "KLF1_P1", "MAP2K6", "SET", "control"]
    assert Trajectories.from_anndata(adata).schema.tokens == ("KLF1", "KLF1_P1", "MAP2K6", "SET")


def test_cells_of_the_virtual_cell_challenge_keep_their_batches() -> None:
    assert Trajectories.from_anndata(vcc()).schema.batches == ("a", "b")


def test_doses_of_cpa_become_amounts() -> None:
    data = Trajectories.from_anndata(cpa())
    assert set(data.conditions) == {
        do(),
        do("KLF1") | do("MAP2K6", dose=0.5),
        do("KLF1", dose=0.1),
        do("MAP2K6"),
        do("SET", dose=0.01),
    }
    u = data.schema.doses(do("KLF1") | do("MAP2K6", dose=0.5), 1)
    np.testing.assert_allclose(u[1], [1.0, 0.5, 0.0])


def test_one_dose_stands_for_every_member_and_control_members_are_none() -> None:
    adata = cpa()
    adata.obs["condition"] = ["KLF1+MAP2K6", "ctrl", "KLF1+ctrl", "MAP2K6", "SET", "ctrl"]
    adata.obs["dose_val"] = ["0.5", "1", "1+1", "1", "1", "1"]
    data = Trajectories.from_anndata(adata, layout="cpa")
    assert do("KLF1", "MAP2K6", dose=0.5) in data.conditions
    assert do("KLF1") in data.conditions


def test_what_is_named_wins_over_the_layout() -> None:
    adata = gears()
    adata.obs["mine"] = adata.obs["condition"]
    del adata.obs["condition"]
    data = Trajectories.from_anndata(adata, layout="gears", perturbation="mine")
    assert "KLF1+MAP2K6" in data.perturbations()
    assert Trajectories.from_anndata(vcc(), control="KLF1").schema.control == "KLF1"


def test_a_named_column_turns_the_search_for_a_layout_off() -> None:
    data = Trajectories.from_anndata(scperturb(), perturbation="perturbation")
    assert "KLF1_MAP2K6" in data.perturbations()


def test_excluded_labels_are_those_of_the_file() -> None:
    data = Trajectories.from_anndata(scperturb(), exclude=("KLF1_MAP2K6",))
    assert "KLF1+MAP2K6" not in data.perturbations()


def test_a_file_is_read_to_an_earlier_schema_in_its_own_layout() -> None:
    known = Trajectories.from_anndata(gears()).schema
    again = Trajectories.from_anndata(gears()[::-1, ::-1].copy(), schema=known)
    assert again.schema == known


# the most variable genes


def screen(n_genes: int = 40) -> AnnData:
    rng = np.random.default_rng(1)
    mean = np.full(n_genes, 4.0) * (1 + np.arange(n_genes) % 3)
    shape = np.where(np.arange(n_genes) < 10, 0.5, 50.0)  # the first ten vary most
    labels = ["control"] * 200 + ["g30"] * 100
    x = rng.poisson(rng.gamma(shape, mean / shape, (300, n_genes))).astype(np.float32)
    obs = pd.DataFrame({"perturbation": labels}, index=[f"c{i}" for i in range(300)])
    return AnnData(sparse.csr_matrix(x), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]))


def test_the_most_variable_genes_are_kept_and_the_perturbed_ones() -> None:
    data = Trajectories.from_anndata(screen(), most_genes=11)
    assert set(data.schema.genes) == {*(f"g{i}" for i in range(10)), "g30"}
    whole = Trajectories.from_anndata(screen())
    np.testing.assert_array_equal(data.library, whole.library)
    assert data.schema.panel_share == pytest.approx(data.values.sum() / data.library.sum())


def test_perturbed_cells_have_no_say_in_which_genes_are_kept() -> None:
    changed = screen()
    drawn = np.random.default_rng(2).poisson(9.0, (100, 40)).astype(np.float32)
    changed.X = sparse.vstack([changed.X[:200], sparse.csr_matrix(drawn)], format="csr")
    first, second = (
        Trajectories.from_anndata(one, most_genes=11).schema.genes for one in (screen(), changed)
    )
    assert first == second


def test_chosen_genes_are_read_again_to_the_same_data() -> None:
    data = Trajectories.from_anndata(screen(), most_genes=11)
    assert Trajectories.from_anndata(screen(), schema=data.schema).digest == data.digest


# files that fall short


def without(make, column: str, where: str = "obs") -> AnnData:
    adata = make()
    del getattr(adata, where)[column]
    return adata


def two_controls() -> AnnData:
    adata = cpa()
    adata.obs["control"] = [0, 1, 1, 0, 0, 1]
    return adata


def odd_dose() -> AnnData:
    adata = cpa()
    adata.obs["dose_val"] = ["1.0+0.5+2", "1.0", "0.1", "1.0", "0.01", "1.0"]
    return adata


def no_control() -> AnnData:
    adata = scperturb()
    adata.obs["perturbation"] = ["KLF1_MAP2K6", "*", "KLF1", "MAP2K6", "SET", "nan"]
    return adata


@pytest.mark.parametrize(
    ("adata", "options", "message"),
    [
        (scperturb, {"layout": "seurat"}, "layout='seurat' is not a layout; the layouts are plain, gears"),
        (
            scperturb,
            {"layout": "gears"},
            r"layout='gears' looks for obs\['condition'\] and var\['gene_name'\]",
        ),
        (
            scperturb,
            {"layout": "vcc"},
            r"looks for obs\['target_gene'\], which the file lacks; obs has guide_id",
        ),
        (
            vcc,
            {"layout": "cpa"},
            r"obs\['condition_ID'\] or obs\['condition'\] or obs\['perturbation'\] and obs",
        ),
        (lambda: without(scperturb, "nperts"), {"layout": "scperturb"}, r"looks for obs\['nperts'\]"),
        (lambda: without(cpa, "dose_val"), {"layout": "cpa"}, r"obs\['dose_val'\] or obs\['dose_value'\]"),
        (lambda: without(gears, "gene_name", "var"), {"layout": "gears"}, r"looks for var\['gene_name'\]"),
        (two_controls, {}, r"obs\['control'\] marks cells of several labels \(KLF1, control\); name the one"),
        (odd_dose, {}, r"the dose '1.0\+0.5\+2' does not fit 'KLF1\+MAP2K6'; give one dose a member"),
        (no_control, {"exclude": ("nan",)}, r"no control cell: obs\['perturbation'\] never says 'control'"),
        (no_control, {"exclude": ("*",)}, r"has empty labels \(1 cells, such as 'nan'\); .*exclude='nan'"),
        (
            lambda: without(vcc, "target_gene"),
            {},
            r"is not a column of obs; .*or the file's layout= \(plain, gears",
        ),
        (screen, {"most_genes": 0}, "most_genes=0 keeps no gene"),
        (lambda: screen()[199:].copy(), {"most_genes": 5}, "most_genes=5 needs two control cells at least"),
    ],
)
def test_a_file_that_falls_short_gets_one_sentence(adata, options: dict, message: str) -> None:
    with pytest.raises(CiteVAEError, match=message):
        Trajectories.from_anndata(adata(), **options)


# the command


def test_the_command_fits_a_published_file_and_predicts_from_it(tmp_path: Path) -> None:
    file, run = tmp_path / "perturb_processed.h5ad", tmp_path / "run"
    gears().write_h5ad(file)
    (tmp_path / "small.toml").write_text(
        "[model]\nname = 'CiteVAE'\nn_programs = 2\nn_invariant = 1\nhidden = 4\n"
    )
    runner = CliRunner()
    small = ["--config", str(tmp_path / "small.toml"), "--epochs", "1", "--quiet"]
    result = runner.invoke(app, ["fit", str(file), "--layout", "gears", "-o", str(run), *small])
    assert result.exit_code == 0, result.output
    out = tmp_path / "pred.h5ad"
    result = runner.invoke(app, ["predict", str(run), "--do", "KLF1+SET", "-o", str(out), "--draws", "4"])
    assert result.exit_code == 0, result.output
    assert set(open_h5ad(out).obs["perturbation"]) == {"ctrl", "KLF1+SET"}


def published_screen(path: Path) -> None:
    """A screen with pairs as scPerturb writes it."""
    pairs = ("gene_0+gene_1", "gene_1+gene_2")
    sizes = {"n_cells": 240, "n_genes": 12, "n_perturbations": 3, "design": "snapshot"}
    data = simulate(combinations=pairs, effect=1.5, **sizes).data
    members = [0 if label == "control" else label.count("+") + 1 for label in data.labels]
    obs = pd.DataFrame(
        {
            "perturbation": [label.replace("+", "_") for label in data.labels.astype(str)],
            "nperts": members,
            "ncounts": np.asarray(data.values.sum(1)).ravel(),
        },
        index=data.names.astype(str),
    )
    obs["perturbation"] = obs["perturbation"].str.replace("gene_", "g")  # no underscore within a name
    genes = [gene.replace("gene_", "g") for gene in data.schema.genes]
    AnnData(data.values, obs=obs, var=pd.DataFrame(index=genes)).write_h5ad(path)


def benchmarked(tmp_path: Path, *options: str) -> Result:
    published_screen(tmp_path / "screen.h5ad")
    (tmp_path / "small.toml").write_text(
        "folds = 2\nseeds = 1\nlimit = 1\ndraws = 4\ncells = 0\nnetwork_steps = 5\nmeasured_controls = true\n"
        "[model]\nname = 'CiteVAE'\nn_programs = 2\nn_invariant = 0\nhidden = 4\n[fit]\nmax_epochs = 1\n"
    )
    line = ["benchmark", "unseen-combination", "--config", str(tmp_path / "small.toml"), "--quiet"]
    return CliRunner().invoke(app, [*line, *options])


def test_the_benchmark_runs_on_a_published_file(tmp_path: Path) -> None:
    where = ["--data", str(tmp_path / "screen.h5ad"), "--layout", "scperturb", "--most-genes", "10"]
    result = benchmarked(tmp_path, *where, "-o", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    scores = pd.read_parquet(tmp_path / "out/results.parquet")
    assert set(scores["dataset"]) == {"screen"}
    assert {"additive", "CiteVAE/BackwardSmoother", "ceiling"} <= set(scores["predictor"])
    assert "--layout scperturb --most-genes 10" in (tmp_path / "out/results.md").read_text()


def test_a_layout_without_a_file_to_read_is_refused(tmp_path: Path) -> None:
    result = benchmarked(tmp_path, "--layout", "scperturb")
    assert isinstance(result.exception, CiteVAEError)
    said = "--layout, --context and --most-genes say how to read --data; name its file"
    assert said in str(result.exception)


@pytest.mark.parametrize("name", ["gears", "scperturb", "cpa", "vcc"])
def test_contexts_are_read_where_each_has_controls(name: str) -> None:
    adata = {"gears": gears, "scperturb": scperturb, "cpa": cpa, "vcc": vcc}[name]()
    column = LAYOUTS[name].columns(adata).perturbation
    labels = adata.obs[column].astype(str)
    control = set(LAYOUTS[name].columns(adata).control)
    kinds = np.array(["K562", "RPE1"])[(np.arange(adata.n_obs) >= adata.n_obs // 2).astype(int)]
    assert all(labels.isin(control).to_numpy()[kinds == kind].any() for kind in ("K562", "RPE1"))
    adata.obs["cell_line"] = kinds
    assert LAYOUTS[name].columns(adata).context == "cell_line"
    adata.obs["cell_line"] = np.where(labels.isin(control), "K562", "RPE1")
    assert LAYOUTS[name].columns(adata).context != "cell_line"
