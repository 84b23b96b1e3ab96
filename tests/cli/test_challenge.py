"""``citevae challenge``: a file that cell-eval2 reads, and what is refused."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pytest
from anndata import AnnData
from typer.testing import CliRunner

import pyro_citevae as cv
from pyro_citevae.analysis import challenge_submission
from pyro_citevae.cli import app
from pyro_citevae.errors import CiteVAEError, DataError

TARGETS = ("gene_2", "gene_0", "gene_1")


@pytest.fixture(scope="module")
def screen() -> AnnData:
    """A screen in the challenge's layout."""
    data = cv.simulate(
        n_cells=900, n_genes=40, n_perturbations=3, n_steps=1, effect=3.0, design="snapshot", seed=5
    ).data
    made = AnnData(data.stored.tocsr())
    made.var_names = list(data.schema.genes)
    made.obs["target_gene"] = np.where(data.row_labels == "control", "non-targeting", data.row_labels)
    return made


@pytest.fixture(scope="module")
def posterior(screen: AnnData) -> cv.infer.Posterior:
    data = cv.Trajectories.from_anndata(screen, layout="vcc")
    model = cv.models.CiteVAE(data.schema, n_programs=2, n_invariant=1, hidden=8)
    return cv.fit(model, cv.guides.MeanField(model, hidden=8), data, max_epochs=2, progress=False)


@pytest.fixture(scope="module")
def controls(screen: AnnData) -> AnnData:
    """The controls of another file, whose genes are in another order."""
    chosen = screen[(screen.obs["target_gene"] == "non-targeting").to_numpy()].copy()
    return chosen[:, ::-1].copy()


@pytest.fixture(scope="module")
def places(
    tmp_path_factory: pytest.TempPathFactory, posterior: cv.infer.Posterior, controls: AnnData
) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("challenge")
    posterior.save(home / "run")
    controls.write_h5ad(home / "controls.h5ad")
    (home / "targets.txt").write_text("# of the context\n" + "\n".join(TARGETS) + "\nnon-targeting\n")
    return {"home": home}


def said_by(line: str, **places: Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, [word.format(**places) for word in shlex.split(line)])
    if isinstance(result.exception, CiteVAEError):
        return 2, str(result.exception)
    assert result.exit_code == 0, result.output
    return 0, result.stdout


@pytest.fixture(scope="module")
def written(places: dict[str, Path]) -> Path:
    line = "challenge {home}/run --targets {home}/targets.txt --controls {home}/controls.h5ad --most-cells 70"
    _, text = said_by(f"{line} --draws 10 --quiet -o {{home}}/pred.h5ad", **places)
    assert "Predicted 3 targets, 70 cells each" in " ".join(text.split())
    return places["home"] / "pred.h5ad"


def test_the_file_has_the_genes_and_labels_of_the_controls_file(written: Path, controls: AnnData) -> None:
    made = anndata.read_h5ad(written)
    assert made.var_names.tolist() == controls.var_names.tolist()
    assert list(made.obs.columns) == ["target_gene"]
    assert made.obs["target_gene"].unique().tolist() == [*TARGETS, "non-targeting"]
    assert made.obs["target_gene"].value_counts()[list(TARGETS)].tolist() == [70, 70, 70]


def test_the_controls_are_written_as_they_were_measured(written: Path, controls: AnnData) -> None:
    made = anndata.read_h5ad(written)
    kept = made[(made.obs["target_gene"] == "non-targeting").to_numpy()].X
    measured = controls[sorted(controls.obs_names)].X  # as a screen has its cells
    np.testing.assert_array_equal(kept.toarray(), measured.toarray())


def test_the_cells_are_those_of_the_posterior_predictive(
    written: Path, posterior: cv.infer.Posterior, controls: AnnData
) -> None:
    base = posterior.read(controls).controls().thinned(70)
    made = anndata.read_h5ad(written)[:, list(posterior.schema.genes)]
    for seed, target in enumerate(TARGETS):
        expected = posterior.predict(cv.do(target), cells=base, draws=10, seed=seed).X
        found = made[(made.obs["target_gene"] == target).to_numpy()].X
        np.testing.assert_array_equal(found.toarray(), expected.toarray())


def test_cell_eval2_takes_the_file_and_scores_it(written: Path, screen: AnnData) -> None:
    cell_eval2 = pytest.importorskip("cell_eval2")
    from cell_eval2 import norm
    from cell_eval2.io import load_anndata, validate_pair

    made, measured = load_anndata(written), screen[:, ::-1].copy()
    validate_pair(made, measured, pert_col="target_gene", control="non-targeting")
    norm.validate_input_type(made, "counts")
    norm.check_scale_limit(made, "counts", 1e6)
    config = cell_eval2.EvalConfig.from_preset("vcc2026")
    config = replace(config, pert_col="target_gene", device="cpu", de=replace(config.de, backend="scanpy"))
    found = cell_eval2.compute_metrics(str(written), measured, config=config)
    scores = dict(zip(*(found[one].to_list() for one in ("metric", "value")), strict=True))
    assert {"pds_cosine", "de_wilcoxon_sig_jaccard"} <= set(scores)
    assert set(found["perturbation"]) == set(TARGETS)


def test_a_script_learns_what_was_written(places: dict[str, Path], tmp_path: Path) -> None:
    line = "challenge {home}/run --targets {home}/targets.txt --controls {home}/controls.h5ad --most-cells 5"
    _, text = said_by(f"{line} --draws 2 --quiet --json -o {{out}}/p.h5ad", out=tmp_path, **places)
    found = json.loads(text)
    assert found["targets"] == list(TARGETS)
    assert (found["cells_of_each"], found["genes"], found["control"]) == (5, 40, "non-targeting")
    assert found["next"].startswith("cell-eval2 run")


def test_genes_that_the_reference_lacks_are_left_out_of_the_file(
    places: dict[str, Path], controls: AnnData, tmp_path: Path
) -> None:
    controls[:, 1:].copy().write_h5ad(tmp_path / "fewer.h5ad")
    line = "challenge {home}/run --targets {home}/targets.txt --controls {out}/fewer.h5ad --mask-missing"
    said_by(f"{line} --most-cells 5 --draws 2 --quiet -o {{out}}/p.h5ad", out=tmp_path, **places)
    assert anndata.read_h5ad(tmp_path / "p.h5ad").var_names.tolist() == controls.var_names[1:].tolist()


@pytest.mark.parametrize(
    ("targets", "changed", "sentence"),
    [
        ("gene_0\ngene_9\n", None, "gene_9.* is not among the perturbations"),
        ("# none\n", None, "--targets .* holds no target; give one a line"),
        ("non-targeting\n", None, "has no target; give one or more"),
        (
            "gene_0\n",
            "more genes",
            "lacks 1 of the 41 genes of the submission, such as 'gene_99'.*; fit all of them",
        ),
        ("gene_0\n", "fewer genes", "1 of the 40 genes are missing, such as 'gene_0'"),
        ("gene_0\n", "no control", "no control cell: nothing is labelled 'non-targeting'; name the label"),
    ],
)
def test_a_mistake_is_answered_in_one_sentence(
    places: dict[str, Path], screen: AnnData, tmp_path: Path, targets: str, changed: str | None, sentence: str
) -> None:
    (tmp_path / "targets.txt").write_text(targets)
    controls = anndata.read_h5ad(places["home"] / "controls.h5ad")
    if changed == "more genes":
        more = AnnData(controls.X[:, :1], obs=controls.obs, var=controls.var[:1].set_axis(["gene_99"]))
        controls = anndata.concat([controls, more], axis=1, merge="same")
    if changed == "fewer genes":
        controls = controls[:, :-1].copy()
    if changed == "no control":
        controls = screen[(screen.obs["target_gene"] == "gene_0").to_numpy()].copy()
    controls.write_h5ad(tmp_path / "controls.h5ad")
    line = "challenge {home}/run --targets {out}/targets.txt --controls {out}/controls.h5ad -o {out}/p.h5ad"
    code, said = said_by(f"{line} --quiet --draws 2", out=tmp_path, **places)
    assert code == 2
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError(said)
    assert not (tmp_path / "p.h5ad").exists()


def test_real_values_are_no_submission() -> None:
    data = cv.simulate(n_cells=100, n_genes=6, n_perturbations=2, n_steps=1, values="real").data
    model = cv.models.LinearGaussian(data.schema, n_programs=2)
    posterior = cv.fit(model, cv.guides.MeanField(model, hidden=4), data, max_epochs=1, progress=False)
    with pytest.raises(DataError, match="is of counts, and the model has real values; fit counts"):
        challenge_submission(posterior, ["gene_0"], data.controls())
