"""The command line: what each command writes and prints, and how each mistake is refused."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from anndata import AnnData
from screens import as_anndata, simulated
from typer.testing import CliRunner

from pyro_citevae import datasets, do, load, registry
from pyro_citevae.cli import app, main
from pyro_citevae.cli.app import imported
from pyro_citevae.data.anndata_io import layer_names
from pyro_citevae.errors import CiteVAEWarning, DataError, DivergenceError, FitError, RunError

RUN_FILES = {"README.md", "model.safetensors", "run.json", "history.parquet", "split.json", "discrepancy.nc"}
GROUPS = {
    "posterior",
    "prior",
    "discrepancy",
    "posterior_predictive",
    "prior_predictive",
    "log_likelihood",
    "observed_data",
    "constant_data",
}
SMALL = """
[model]
name = "CiteVAE"
n_programs = 2
n_invariant = 1
hidden = 8

[guide]
name = "BackwardSmoother"
hidden = 8
"""
OWN_MODEL = '''
import pyro.distributions as dist
import torch
from torch import nn

from pyro_citevae import LatentDynamics, Mechanism


class Tiny(LatentDynamics):
    """Poisson counts around a linear map of the states."""

    def __init__(self, schema, *, n_programs=2):
        super().__init__(schema, n_programs=n_programs)
        self.a = nn.Parameter(torch.zeros(schema.n_tokens, n_programs))
        self.loading = nn.Linear(n_programs, schema.n_genes)

    def mechanism(self):
        return Mechanism(a=self.a)

    def initial(self, mechanism):
        return dist.Normal(self.a.new_zeros(self.n_programs), 1.0).to_event(1)

    def transition(self, mechanism, history, u):
        return dist.Normal(0.8 * history[-1] + u @ mechanism.a, 0.3).to_event(1)

    def emission(self, mechanism, z, s, library):
        return dist.Poisson(library[..., None] * torch.softmax(self.loading(z), dim=-1)).to_event(1)
'''


def screen() -> AnnData:
    """200 cells x 20 genes, a control and four perturbations, each cell at time 1, 2 or 3."""
    adata = as_anndata(simulated(n_cells=200, n_genes=20, n_programs=3, n_perturbations=4, seed=0))
    adata.X = adata.X.toarray()
    return adata


def part(*labels: str, times: tuple[float, ...] = (1.0, 2.0, 3.0)) -> AnnData:
    adata = screen()
    return adata[(adata.obs.perturbation.isin(labels) & adata.obs.time.isin(times)).to_numpy()].copy()


SHORT = {
    "FIT": "fit {screen} --time time --config {small} --epochs 2 --quiet",
    "PREDICT": "predict {run} --draws 5",
}


def words(line: str, **places: Path) -> list[str]:
    first, *rest = shlex.split(line)
    return [word.format(**places) for word in (*SHORT.get(first, first).split(), *rest)]


def citevae(line: str, **places: Path) -> str:
    """Runs a command that must end well, and returns what it prints."""
    result = CliRunner().invoke(
        app, words(line, **places), catch_exceptions=False, env={"COLUMNS": "240", "NO_COLOR": "1"}
    )
    assert result.exit_code == 0, result.output
    return result.output


def options_of(command: str) -> set[str]:
    """The options that a command takes."""
    found = imported(command)
    return {flag for one in found.params for flag in one.opts}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files and runs by the names that the tables of commands use."""
    home = tmp_path_factory.mktemp("home")
    written = {"screen": screen(), "controls": part("control"), "perturbed": part("gene_1")}
    written["later"] = part("control", *(f"gene_{i}" for i in range(4)), times=(3.0,))
    written["partial"], written["foreign_panel"] = (
        written["later"][:, :15].copy(),
        written["later"][:, :9].copy(),
    )
    silent = screen()
    silent.X[:, -2:] = 0
    silent.X[::20] = 0
    written["silent"] = silent
    found = {"home": home, "missing": home / "missing"}
    for name, adata in written.items():
        found[name] = home / f"{name}.h5ad"
        adata.write_h5ad(found[name])
    texts = {
        "small": ("small.toml", SMALL),
        "text": ("text.h5ad", "cell,gene\n"),
        "own": ("own.py", OWN_MODEL),
    }
    for name, (file, text) in texts.items():
        found[name] = home / file
        found[name].write_text(text)
    found["truncated"] = home / "truncated.h5ad"
    found["truncated"].write_bytes(found["screen"].read_bytes()[:20_000])

    found["run"] = home / "run"
    citevae("FIT --hold-out time=3 -o {run}", **found)
    found["whole"] = home / "whole"
    citevae("fit {silent} --time time --config {small} --epochs 2 --quiet -o {whole}", **found)
    found["foreign"] = home / "foreign"
    citevae("fit {screen} --time time --model {own}:Tiny --epochs 1 --quiet -o {foreign}", **found)
    for file in ("model.safetensors", "run.json", "history.parquet"):
        copy = found[f"cut_{Path(file).stem}"] = home / f"cut_{file}"
        shutil.copytree(found["run"], copy)
        (copy / file).write_bytes((copy / file).read_bytes()[:500])
    return found


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable:
    """Runs a command that must be refused, in a folder of its own; returns the sentence on stderr."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def run(line: str, **places: Path) -> str:
        before = contents(here)
        monkeypatch.setattr(sys, "argv", ["citevae", *words(line, **places)])
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        assert stop.value.code == 2
        assert re.fullmatch(r"error: [^\n]+\.\n", printed.err), printed.err
        assert contents(here) == before
        known = options_of(sys.argv[1]) | (options_of("fit") if "fit it again" in printed.err else set())
        assert not set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", printed.err)) - known
        return printed.err

    return run


# Good paths


def test_help_names_every_command() -> None:
    text = citevae("--help")
    assert all(
        name in text
        for name in ("demo", "fit", "predict", "evaluate", "benchmark", "export", "models", "datasets")
    )


def test_models_lists_every_model_and_guide() -> None:
    text = citevae("models")
    assert all(name in text for name in (*registry.MODELS, *registry.GUIDES))


def test_datasets_lists_every_screen_with_its_licence() -> None:
    text = citevae("datasets")
    assert all(name in text and entry.licence in text for name, entry in datasets.CATALOGUE.items())


def test_fit_writes_the_run_and_nothing_else(places: dict[str, Path]) -> None:
    assert names(places["run"]) == RUN_FILES
    assert names(places["whole"]) == RUN_FILES - {"split.json"}
    assert not [name for name in names(places["home"]) if name.startswith(".")]


def test_a_line_of_the_readme_of_a_run_can_be_pasted(places: dict[str, Path]) -> None:
    lines = [
        line for line in (places["run"] / "README.md").read_text().splitlines() if "citevae " in line[:8]
    ]
    assert len(lines) == 5
    for line in lines:
        name, *given = shlex.split(line, comments=True)[1:]
        imported(name).make_context(name, given)


def test_fit_notes_settings_and_a_row_an_epoch(places: dict[str, Path]) -> None:
    record = json.loads((places["run"] / "run.json").read_text())
    assert record["model"]["settings"]["n_programs"] == 2
    assert record["settings"]["max_epochs"] == 2
    assert record["source"]["path"] == str(places["screen"])
    assert record["n_cells"] == (screen().obs.time < 3).sum()
    assert len(pd.read_parquet(places["run"] / "history.parquet")) == 2


def test_equal_seeds_give_equal_bytes(places: dict[str, Path], tmp_path: Path) -> None:
    for name, seed in {"same": 0, "other": 1}.items():
        citevae(f"FIT --hold-out time=3 --seed {seed} -o {{out}}", out=tmp_path / name, **places)
    first = (places["run"] / "model.safetensors").read_bytes()
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == first
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != first


def test_overwrite_replaces_the_whole_output(places: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(places["run"], out)
    citevae("FIT --overwrite -o {out}", out=out, **places)
    assert names(out) == RUN_FILES - {"split.json"}
    assert names(tmp_path) == {"run"}


def test_silent_genes_and_empty_cells_give_a_finite_fit(places: dict[str, Path]) -> None:
    history = pd.read_parquet(places["whole"] / "history.parquet")
    assert np.isfinite(history.to_numpy(float)).all()


def test_the_counts_may_lie_in_a_layer(places: dict[str, Path], tmp_path: Path) -> None:
    adata = screen()
    layered = AnnData(X=None, obs=adata.obs, var=adata.var, layers={"umi": adata.X})
    layered.write_h5ad(tmp_path / "layered.h5ad")
    line = "fit {tmp}/layered.h5ad --layer umi --time time --config {small} --epochs 1 --quiet -o {tmp}/run"
    citevae(line, tmp=tmp_path, **places)
    assert (tmp_path / "run" / "run.json").is_file()


def test_a_guide_and_a_model_are_named_on_the_command_line(places: dict[str, Path], tmp_path: Path) -> None:
    line = "fit {screen} --model staticshift --guide meanfield --epochs 1 --quiet -o {out}"
    citevae(line, out=tmp_path / "run", **places)
    posterior = load(tmp_path / "run")
    assert (type(posterior.model).__name__, type(posterior.guide).__name__) == ("StaticShift", "MeanField")


def test_a_model_of_ones_own_fits_and_loads_by_its_class(places: dict[str, Path]) -> None:
    assert names(places["foreign"]) == RUN_FILES - {"split.json"}
    own = registry.find_model(f"{places['own']}:Tiny")
    assert load(places["foreign"], model=own).model.schema.n_genes == 20


@pytest.fixture(scope="module")
def prediction(places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prediction")
    citevae("PREDICT --do gene_0 --do gene_0+gene_1@1 -o {out}", out=folder / "pred.h5ad", **places)
    return folder


def test_predict_writes_two_files(prediction: Path) -> None:
    assert names(prediction) == {"pred.h5ad", "pred.effects.nc"}


def test_predictions_of_one_folder_do_not_meet(places: dict[str, Path], tmp_path: Path) -> None:
    made = {name: tmp_path / f"{name}.h5ad" for name in ("gene_0", "gene_1", "effects")}
    for name, out in made.items():
        said = citevae(f"PREDICT --do {name.replace('effects', 'gene_2')} -o {{out}}", out=out, **places)
        assert f"Saved {out} and {tmp_path / name}.effects.nc." in said
    assert names(tmp_path) == {f"{name}{end}" for name in made for end in (".h5ad", ".effects.nc")}
    for name, gene in (("gene_0", "gene_0"), ("gene_1", "gene_1"), ("effects", "gene_2")):
        assert xr.open_dataset(tmp_path / f"{name}.effects.nc").perturbation.item() == gene


def test_predicted_cells_are_counts_with_summaries(prediction: Path) -> None:
    adata = anndata.read_h5ad(prediction / "pred.h5ad")
    counts = adata.X.toarray()
    assert (counts == np.rint(counts)).all()
    assert (counts >= 0).all()
    assert set(layer_names(adata)) == {"mean", "sd", "q05", "q95"}
    assert (adata.layers["q05"] <= adata.layers["q95"]).all()
    layers = [adata.layers[name] for name in layer_names(adata)]
    assert all(np.isfinite(layer).all() and (layer >= 0).all() for layer in layers)


def test_predicted_cells_have_a_row_a_schedule_and_training_control(prediction: Path) -> None:
    adata = anndata.read_h5ad(prediction / "pred.h5ad")
    controls = part("control", times=(1.0, 2.0)).obs_names
    assert set(adata.obs.perturbation) == {"control", "gene_0", "gene_0+gene_1@1"}
    assert list(adata.var_names) == list(screen().var_names)
    assert set(adata.obs.source_cell) == set(controls)
    assert adata.n_obs == 3 * len(controls)
    assert set(adata.obs.time) == {3.0}


def test_predicted_effects_have_named_axes(prediction: Path) -> None:
    effect = xr.open_dataset(prediction / "pred.effects.nc")["effect"]
    assert effect.dims == ("chain", "draw", "perturbation", "time", "gene")
    assert effect.shape == (1, 5, 2, 1, 20)
    assert list(effect.perturbation.to_numpy()) == ["gene_0", "gene_0+gene_1@1"]


def test_predict_takes_control_cells_and_a_time(places: dict[str, Path], tmp_path: Path) -> None:
    line = "PREDICT --do gene_2 --cells {controls} --time 2 --most-cells 7 -o {out}"
    citevae(line, out=tmp_path / "pred.h5ad", **places)
    adata = anndata.read_h5ad(tmp_path / "pred.h5ad")
    assert adata.n_obs == 14
    assert set(adata.obs.time) == {2.0}
    assert set(adata.obs.source_cell) <= set(part("control").obs_names)


def test_inspect_shows_what_is_read_and_proposes_what_would_be(
    places: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = citevae("inspect {screen} --time time", **places)
    assert "What was read" in shown
    assert f"Next: citevae fit {places['screen']} --time time -o run" in shown
    hard = screen()
    labels = hard.obs.perturbation.replace({"control": "non-targeting", "gene_0": "gene_1;gene_2"})
    hard.obs = pd.DataFrame({"guide": labels, "day": [f"D{t:g}" for t in hard.obs.time]}, hard.obs_names)
    hard.obs["donor"] = np.where(np.arange(hard.n_obs) % 2, "d1", "d2")
    hard.var["symbol"], hard.var_names = hard.var_names, [f"ENSG{i:011d}" for i in range(hard.n_vars)]
    hard.layers["umi"], hard.X = hard.X.copy(), np.log1p(hard.X)
    hard.write_h5ad(tmp_path / "hard.h5ad")
    shown = citevae("inspect {hard}", hard=tmp_path / "hard.h5ad")
    flags = (
        "--layer umi --perturbation guide --control non-targeting --separator ';' --genes symbol --time day"
    )
    line = next(line for line in shown.splitlines() if "citevae fit" in line)
    assert set(shlex.split(flags)) | {"--batch", "donor"} <= set(shlex.split(line))
    assert "Trajectories.from_anndata(adata, layer='umi', " in shown
    read = line.strip().removeprefix("citevae ").removesuffix(" -o run")
    citevae(f"{read} --config {{small}} --epochs 1 --quiet -o {{out}}", **places, out=tmp_path / "run")
    assert load(tmp_path / "run").schema.time_unit == "day"


def test_fit_prints_what_was_read_and_keeps_it(places: dict[str, Path], tmp_path: Path) -> None:
    said = citevae(
        "fit {screen} --time time --config {small} --epochs 1 -o {out}", **places, out=tmp_path / "run"
    )
    assert "What was read" in said
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["summary"]["layout"] == "plain"
    counted = screen().obs.time.value_counts()
    assert record["summary"]["times"] == {f"{time:g}": int(n) for time, n in sorted(counted.items())}
    assert record["columns"]["time"] == "time"


def test_data_that_moved_and_runs_of_python_are_named_by_data(
    places: dict[str, Path], tmp_path: Path
) -> None:
    moved, run = tmp_path / "there" / "screen.h5ad", tmp_path / "run"
    moved.parent.mkdir()
    shutil.copy(places["screen"], tmp_path / "screen.h5ad")
    here = {**places, "screen": tmp_path / "screen.h5ad", "run": run, "moved": moved, "out": tmp_path}
    citevae("FIT --hold-out time=3 -o {run}", **here)
    (tmp_path / "screen.h5ad").rename(moved)
    with pytest.raises(RunError, match="is not there; name it with --data"):
        citevae("predict {run} --do gene_0 --draws 2 -o {out}/A.h5ad", **here)
    citevae("predict {run} --do gene_0 --draws 2 --data {moved} -o {out}/A.h5ad", **here)
    citevae("evaluate {run} --draws 5 --data {moved}", **here)
    citevae("export {run} --draws 2 --data {moved} -o {out}/posterior.nc", **here)
    with pytest.raises(DataError, match="is not what the run was fitted to; name the file of then"):
        citevae("export {run} --draws 2 --data {controls} -o {out}/other.nc", **here)
    posterior = load(run)
    posterior.record.pop("source")
    posterior.save(tmp_path / "python")
    python = {**here, "run": tmp_path / "python"}
    with pytest.raises(RunError, match="does not say which file it was trained on; name it with --data"):
        citevae("export {run} --draws 2 -o {out}/python.nc", **python)
    citevae("export {run} --draws 2 --data {moved} -o {out}/python.nc", **python)
    citevae("predict {run} --do gene_0 --draws 2 --cells {controls} -o {out}/B.h5ad", **python)


def test_a_run_with_candidates_is_predicted_exported_and_evaluated(
    places: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "candidates.txt").write_text("gene_7\n")
    here = {**places, "run": tmp_path / "run", "out": tmp_path, "candidates": tmp_path / "candidates.txt"}
    citevae("FIT --hold-out time=3 --candidates {candidates} -o {run}", **here)
    with pytest.warns(CiteVAEWarning, match="neither training cells nor features"):
        citevae("predict {run} --do gene_7 --draws 2 -o {out}/seven.h5ad", **here)
    citevae("predict {run} --do gene_1 --draws 2 --cells {controls} -o {out}/one.h5ad", **here)
    citevae("export {run} --draws 2 -o {out}/posterior.nc", **here)
    citevae("evaluate {run} --draws 5", **here)


def test_steps_and_units_are_set_on_the_command_line(places: dict[str, Path], tmp_path: Path) -> None:
    far = screen()
    far.obs["time"] = far.obs["time"].replace({1.0: 1.0, 2.0: 24.0, 3.0: 168.0})
    far.write_h5ad(tmp_path / "far.h5ad")
    here = {**places, "far": tmp_path / "far.h5ad", "out": tmp_path}
    with pytest.raises(DataError, match="168 latent steps"):
        citevae("fit {far} --time time --config {small} -o {out}/no", **here)
    line = "fit {far} --time time --config {small} --epochs 1 --quiet --time-unit hour"
    citevae(f"{line} --step observed -o {{out}}/observed", **here)
    citevae(f"{line} --step 1,24,100,168 -o {{out}}/given", **here)
    assert load(tmp_path / "observed").schema.grid == (1.0, 24.0, 168.0)
    assert load(tmp_path / "given").schema.grid == (1.0, 24.0, 100.0, 168.0)
    assert load(tmp_path / "given").schema.time_unit == "hour"
    citevae("fit {screen} --n-steps 2 --config {small} --epochs 1 --quiet -o {out}/two", **here)
    assert load(tmp_path / "two").schema.n_steps == 2


def test_evaluate_prints_and_writes_the_scores(places: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "scores"
    text = citevae("evaluate {run} --draws 5 -o {out}", out=out, **places)
    made = {"scores.md", "scores.json", "diagnosis.txt", "effects.nc", "effects.png", "trajectories.png"}
    assert names(out) == made
    assert (out / "diagnosis.txt").read_text().splitlines()[0].split(":")[0] == "adequacy"
    predictors = {row["predictor"] for row in json.loads((out / "scores.json").read_text())}
    assert "CiteVAE/BackwardSmoother" in predictors
    assert "ceiling" in predictors
    assert all(predictor in (out / "scores.md").read_text() for predictor in predictors)
    assert all(name in text for name in ("CiteVAE", "ceiling", "gene_0", "all 4", str(out)))
    assert xr.open_dataset(out / "effects.nc")["effect"].time.to_numpy() == [3.0]
    assert all((out / f"{name}.png").read_bytes()[:4] == b"\x89PNG" for name in ("effects", "trajectories"))


def test_evaluate_scores_a_held_out_context(tmp_path: Path, places: dict[str, Path]) -> None:
    here = {**places, "run": tmp_path / "run", "out": tmp_path / "scores"}
    citevae(
        "fit kang --hold-out 'context=B cells,CD4 T cells' --config {small} --epochs 1 --quiet -o {run}",
        **here,
    )
    text = citevae("evaluate {run} --context 'B cells' --draws 5 -o {out}", **here)
    assert all(name in text for name in ("CiteVAE", "ceiling", "IFNB1", "contexts"))
    assert "sees the scored time" not in text
    assert names(here["out"]) >= {"scores.md", "effects.png", "trajectories.png"}
    result = CliRunner().invoke(app, words("evaluate {run} --draws 5", **here))
    assert "name one with context=" in str(result.exception)


def test_evaluate_reports_the_licence(places: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "licence"
    text = citevae("evaluate {run} --licence -o {out}", out=out, **places)
    assert text.startswith("adequacy: ")
    assert "\nLicence: " in text
    assert "no proof about the data" in text
    assert names(out) == {"licence.txt", "licence.csv", "licence.png"}
    assert (out / "licence.txt").read_text() in text
    assert len(pd.read_csv(out / "licence.csv")) == 8


def test_evaluate_takes_a_file_of_held_out_cells(places: dict[str, Path]) -> None:
    apart = citevae("evaluate {run} --truth {later} --draws 5", **places)
    assert apart == citevae("evaluate {run} --draws 5", **places)


def test_evaluate_scores_the_genes_that_the_held_out_cells_have(places: dict[str, Path]) -> None:
    with pytest.warns(CiteVAEWarning, match="lacks 5 of the 20 genes .* such as 'gene_15'; .* the other 15"):
        text = citevae("evaluate {run} --truth {partial} --draws 5", **places)
    assert "all 4" in text


@pytest.mark.parametrize("name", ["posterior.nc", "posterior.zarr"])
def test_export_opens_as_a_tree(name: str, places: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / name
    citevae("export {run} --draws 5 --most-cells 10 -o {out}", out=out, **places)
    with xr.open_datatree(out) as tree:
        assert set(tree.children) == GROUPS
        assert tree["posterior"]["z"].dims == ("chain", "draw", "cell", "time", "program")
        assert tree["log_likelihood"]["x"].shape == (1, 5, 10, 20)
        assert tree["observed_data"]["x"].dtype.kind == "i"
    assert names(tmp_path) == {name}


@pytest.mark.parametrize("line", ["evaluate {run} --draws 5", "export {run} --draws 5 -o {out}"])
def test_commands_warn_of_nothing(
    line: str, places: dict[str, Path], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    citevae(line, out=tmp_path / "posterior.zarr", **places)
    shown = [one for one in recwarn if not issubclass(one.category, DeprecationWarning)]  # Python hides these
    assert [str(one.message) for one in shown] == []


@pytest.mark.slow
def test_demo_writes_a_run_with_forecast_and_pictures(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    text = citevae("demo --epochs 1 --quiet -o {out}", out=out)
    made = {"predictions.h5ad", "posterior.nc", "effects.nc", "effects.png", "trajectories.png"}
    assert names(out) == RUN_FILES | made | {"scores.md", "scores.json"}
    assert "PRDM14" in text
    citevae("predict {out} --do PRDM14+SOX2 --draws 5 --most-cells 5 -o {out}/../pred.h5ad", out=out)
    assert anndata.read_h5ad(tmp_path / "pred.h5ad").n_obs == 10


# Mistakes


def with_count(value: float) -> Callable[[AnnData], AnnData]:
    def spoil(adata: AnnData) -> AnnData:
        adata.X[3, 2] = value
        return adata

    return spoil


def with_time(value: str) -> Callable[[AnnData], AnnData]:
    def spoil(adata: AnnData) -> AnnData:
        adata.obs["time"] = [value, *adata.obs.time.astype(str)[1:]]
        return adata

    return spoil


def with_label(value: str | float) -> Callable[[AnnData], AnnData]:
    def spoil(adata: AnnData) -> AnnData:
        adata.obs["perturbation"] = [value, *adata.obs.perturbation[1:]]
        return adata

    return spoil


def with_gene_twice(adata: AnnData) -> AnnData:
    adata.var_names = ["gene_1", *adata.var_names[1:]]
    return adata


def with_cell_twice(adata: AnnData) -> AnnData:
    adata.obs_names = ["cell_1", *adata.obs_names[1:]]
    return adata


BAD_SCREENS = [
    pytest.param(with_count(-1), "X holds negative values such as -1", id="negative"),
    pytest.param(with_count(0.5), "X holds fractional values such as 0.5", id="fractional"),
    pytest.param(with_count(np.nan), "X holds NaN or infinite values", id="NaN"),
    pytest.param(with_count(np.inf), "X holds NaN or infinite values", id="infinite"),
    pytest.param(with_gene_twice, "gene 'gene_1' appears twice", id="gene twice"),
    pytest.param(with_cell_twice, "cell 'cell_1' appears twice", id="cell twice"),
    pytest.param(with_time("soon"), "obs['time'] holds 'soon'; times are numbers", id="text as time"),
    pytest.param(with_time("-1"), "obs['time'] holds '-1'; times are numbers", id="negative time"),
    pytest.param(with_label(np.nan), "obs['perturbation'] has empty labels", id="empty label"),
    pytest.param(with_label("control@3"), "holds 'control@3', a control with a time", id="unreadable label"),
    pytest.param(lambda _: part("gene_0", "gene_1"), "no control cell", id="no control"),
    pytest.param(lambda _: part("control"), "has no perturbed cell", id="only controls"),
    pytest.param(lambda adata: adata[:0].copy(), "the AnnData has no cell", id="no cells"),
]


@pytest.mark.filterwarnings("ignore:.*names are not unique")
@pytest.mark.parametrize(("spoil", "phrase"), BAD_SCREENS)
def test_fit_refuses_a_bad_screen(
    spoil: Callable, phrase: str, places: dict[str, Path], refusal: Callable, tmp_path: Path
) -> None:
    spoil(screen()).write_h5ad(tmp_path / "bad.h5ad")
    line = "fit {bad} --time time --config {small} --epochs 1 --quiet -o made"
    assert phrase in refusal(line, bad=tmp_path / "bad.h5ad", **places)


NAMED = '[model]\nname = "CiteVAE"\n'
BAD_CONFIGS = [
    pytest.param("[model", "cannot be read as TOML", id="broken"),
    pytest.param("[training]\nseed = 1", "training: extra inputs are not permitted", id="unknown table"),
    pytest.param("fit = 3", "fit: input should be a valid dictionary", id="no table"),
    pytest.param("[model]\nhidden = 8", "model.name: field required", id="no name"),
    pytest.param(NAMED + "n_program = 2", "unexpected keyword argument 'n_program'", id="unknown argument"),
    pytest.param(NAMED + 'n_programs = "two"', "CiteVAE cannot be made from", id="text as number"),
    pytest.param(NAMED + "n_lags = 0", "n_lags", id="no lags"),
    pytest.param(
        "[fit]\nepochs = 1", "fit(epochs=...) is not a setting; the settings are", id="unknown setting"
    ),
    pytest.param("[fit]\nprogress = false", "fit(progress=...) is not a setting", id="progress"),
    pytest.param("[fit]\nmax_epochs = 'many'", "max_epochs", id="text as epochs"),
    pytest.param("[fit]\nbatch_size = 2.5", "batch_size", id="fractional batch"),
    pytest.param("[fit]\nvalidation = 1.0", "fit(validation=1.0) must be a share", id="all for validation"),
    pytest.param(
        "[fit]\nkl_warmup = 2.0", "fit(kl_warmup=2.0) must lie between 0 and 1", id="warm-up over 1"
    ),
    pytest.param("[fit]\nprecision = '8-true'", "precision", id="unknown precision"),
    pytest.param("[fit]\nlearning_rate = nan", "fit(learning_rate=nan) must be positive", id="NaN rate"),
]


@pytest.mark.parametrize(("text", "phrase"), BAD_CONFIGS)
def test_fit_refuses_a_bad_config(
    text: str, phrase: str, places: dict[str, Path], refusal: Callable, tmp_path: Path
) -> None:
    (tmp_path / "bad.toml").write_text(text)
    line = "fit {screen} --time time --config {bad} --quiet -o made"
    assert phrase in refusal(line, bad=tmp_path / "bad.toml", **places)


NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is there")
BAD_COMMANDS = [
    ("fit {missing} -o made", "is not a file; give the path of an h5ad"),
    ("fit {home} -o made", "is a folder and no zarr; give an h5ad or a zarr that AnnData wrote"),
    ("inspect {missing}", "is not a file; give the path of an h5ad"),
    ("fit {text} -o made", "cannot be read as h5ad"),
    ("fit {truncated} -o made", "it may be truncated"),
    (
        "fit {screen} --perturbation guide -o made",
        "--perturbation 'guide' is not a column of obs; its columns",
    ),
    ("fit {screen} --time day -o made", "--time 'day' is not a column of obs; its columns are perturbation"),
    ("fit {screen} --batch lane -o made", "--batch 'lane' is not a column of obs"),
    ("fit {screen} --layer umi -o made", "--layer 'umi' is not a layer"),
    ("fit {screen} --control NT -o made", "no control cell: obs['perturbation'] never says 'NT'"),
    ("fit {screen} --library time -o made", "obs['time'] is smaller than the sum over the genes"),
    ("FIT -o made --model NoSuch", "--model 'NoSuch' is unknown; name one of CiteVAE"),
    ("FIT -o made --guide NoSuch", "--guide 'NoSuch' is unknown; name one of BackwardSmoother"),
    ("FIT -o made --model {own}:NoSuch", "the file defines no class 'NoSuch'"),
    ("FIT -o made --model {missing}.py:Tiny", "is not a Python file"),
    ("FIT -o made --guide {own}:Tiny", "is not a subclass of AmortizedGuide"),
    ("FIT -o made --config {missing}", "cannot be read as TOML"),
    ("FIT -o made --hold-out nonsense", "--hold-out 'nonsense' cannot be read"),
    ("FIT -o made --hold-out time=", "--hold-out 'time=' cannot be read"),
    ("FIT -o made --hold-out time=late", "needs numbers after 'time='"),
    ("FIT -o made --hold-out time=nan", "needs numbers after 'time='"),
    ("FIT -o made --hold-out time=9", "time 9 is not in the data; its times are (1.0, 2.0, 3.0)"),
    ("FIT -o made --hold-out time=1,2,3", "leaves no observation for training"),
    ("FIT -o made --hold-out perturbation=gene_9", "do('gene_9') is not among the perturbations"),
    ("FIT -o made --hold-out combination=gene_0+gene_1", "combination 'gene_0+gene_1' is not in the data"),
    ("FIT -o made --epochs -2", "fit(max_epochs=-2) must be positive"),
    ("FIT -o made --seed -1", "fit(seed=-1)"),
    ("FIT -o made --accelerator abacus", "accelerator"),
    ("FIT -o made --precision half", "fit(precision='half')"),
    ("FIT -o made --sampler sorted", "fit(sampler='sorted')"),
    ("FIT -o made --devices 0", "fit(devices=0) must be positive"),
    ("FIT -o made --from-disk --layer umi", "--layer 'umi' is not a layer"),
    ("fit {missing} --from-disk -o made", "does not exist; give the path of an h5ad or a zarr"),
    ("fit {text} --from-disk -o made", "cannot be read as h5ad"),
    ("fit {truncated} --from-disk -o made", "it may be truncated"),
    pytest.param("FIT -o made --accelerator gpu", "finds no CUDA device", marks=NO_CUDA),
    pytest.param("PREDICT -o made.h5ad --do gene_0 --accelerator gpu", "finds no CUDA device", marks=NO_CUDA),
    ("PREDICT -o made.h5ad --do gene_0 --accelerator abacus", "to('abacus') names no device"),
    ("PREDICT -o made.h5ad --do gene_9", "the nearest are gene_3, gene_2, gene_1"),
    ("PREDICT -o made.h5ad --do gene_0+gene_0", "doses 'gene_0' twice"),
    ("PREDICT -o made.h5ad --do gene_0@noon", "'gene_0@noon' cannot be read"),
    ("PREDICT -o made.h5ad --do gene_0@nan", "'gene_0@nan' cannot be read"),
    ("PREDICT -o made.h5ad --do gene_0*nan", "'gene_0*nan' cannot be read"),
    ("PREDICT -o made.h5ad --do gene_0 --time 2.5", "time 2.5 is not on the grid of 1"),
    ("PREDICT -o made.h5ad --do gene_0 --time 0", "time 0 is not after the start"),
    ("PREDICT -o made.h5ad --do gene_0 --time nan", "predict(time=...) is 'nan', which is no finite number"),
    (
        "PREDICT -o made.h5ad --do gene_0 --cells {perturbed}",
        "holds no control cell; give a file with some",
    ),
    ("PREDICT -o made.h5ad --do gene_0 --cells {missing}", "is not a file; give the path of an h5ad"),
    ("PREDICT --do gene_0 -o made.nc", "'made.nc' ends in .nc, and predicted cells are written as h5ad"),
    ("predict {missing} --do gene_0 -o made.h5ad", "is not a run"),
    ("predict {home} --do gene_0 -o made.h5ad", "is not a run"),
    ("predict {cut_model} --do gene_0 -o made.h5ad", "('model.safetensors' is not as it was written)"),
    ("predict {cut_history} --do gene_0 -o made.h5ad", "('history.parquet' is not as it was written)"),
    ("predict {cut_run} --do gene_0 -o made.h5ad", "is not a run"),
    ("predict {foreign} --do gene_0 -o made.h5ad", "the run's model is your own; pass it by --model "),
    ("export {run} -o made.txt", "ends in neither .nc (netCDF) nor .zarr"),
    ("export {missing} -o made.nc", "is not a run"),
    ("export {cut_model} -o made.nc", "is damaged ('model.safetensors' is not as it was written)"),
    ("evaluate {whole} -o made", "held nothing out; fit it again with --hold-out"),
    ("evaluate {missing} -o made", "is not a run"),
    ("evaluate {run} --truth {missing} -o made", "is not a file; give the path of an h5ad"),
    (
        "evaluate {run} --truth {screen} -o made",
        "was in training and cannot be scored; hold it out and fit again",
    ),
    ("benchmark unseen-gne -o made", "'unseen-gne' is not a protocol; name one of"),
    ("evaluate {run} --truth {foreign_panel} -o made", "has 9 of the 20 genes that were predicted"),
]


@pytest.mark.parametrize(("line", "phrase"), BAD_COMMANDS)
def test_mistakes_are_refused_in_one_sentence(
    line: str, phrase: str, places: dict[str, Path], refusal: Callable
) -> None:
    assert phrase in refusal(line, **places)


@pytest.mark.parametrize(
    ("line", "taken"),
    [
        ("FIT -o made", "made"),
        ("PREDICT -o made.h5ad --do gene_0", "made.h5ad"),
        ("PREDICT -o made.h5ad --do gene_0", "made.effects.nc"),
        ("evaluate {run} -o made", "made"),
        ("export {run} -o made.nc", "made.nc"),
        ("demo -o made", "made"),
    ],
)
def test_what_exists_stays_without_overwrite(
    line: str, taken: str, places: dict[str, Path], refusal: Callable
) -> None:
    Path(taken).write_text("precious")
    assert f"'{taken}' exists; choose another name, or pass --overwrite" in refusal(line, **places)


@pytest.fixture(scope="module")
def outdated(places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose training file was changed after the fit."""
    folder = tmp_path_factory.mktemp("outdated")
    adata = screen()
    adata.write_h5ad(folder / "screen.h5ad")
    line = "fit {here}/screen.h5ad --time time --hold-out time=3 --config {small} --epochs 1 --quiet"
    citevae(f"{line} -o {{here}}/run", here=folder, **places)
    adata.X[adata.obs.time < 3, 0] += 1
    adata.write_h5ad(folder / "screen.h5ad")
    return folder / "run"


@pytest.mark.parametrize(
    "line",
    [
        "evaluate {outdated} --draws 5 -o made",
        "export {outdated} --draws 5 -o made.nc",
        "predict {outdated} --draws 5 --do gene_0 -o made.h5ad",
    ],
)
def test_a_changed_training_file_is_refused(line: str, outdated: Path, refusal: Callable) -> None:
    assert "has changed since the run was fitted" in refusal(line, outdated=outdated)


def test_odd_characters_in_a_name_are_printed_as_they_are(
    places: dict[str, Path], refusal: Callable, tmp_path: Path
) -> None:
    assert "'[/b]c.h5ad' is not a file" in refusal("fit '[/b]c.h5ad' -o made")
    out = tmp_path / "run[b]"
    assert str(out) in citevae("FIT --epochs 1 -o {out}", out=out, **places)


# As a process of its own


def process(*given: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pyro_citevae", *map(str, given)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.filterwarnings("ignore:.*names are not unique")
def test_a_mistake_ends_the_process_with_2_and_nothing_but_the_sentence(tmp_path: Path) -> None:
    with_gene_twice(screen()).write_h5ad(tmp_path / "bad.h5ad")
    ended = process("fit", tmp_path / "bad.h5ad", "-o", tmp_path / "made")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert re.fullmatch(r"error: gene 'gene_1' appears twice; [^\n]+\.\n", ended.stderr), ended.stderr
    assert names(tmp_path) == {"bad.h5ad"}


def test_a_command_that_ends_well_ends_the_process_with_0() -> None:
    ended = process("models")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "CiteVAE" in ended.stdout


def test_a_killed_fit_goes_on_and_a_finished_one_is_left(places: dict[str, Path], tmp_path: Path) -> None:
    line = "fit {screen} --time time --config {small} --epochs 60 --quiet --from-disk -o {out}"
    given = words(line, **places, out=tmp_path / "run")
    command = [sys.executable, "-m", "pyro_citevae", *given]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    state = tmp_path / "run.training/seed_0/training.safetensors"
    while not state.exists() and started.poll() is None:
        time.sleep(0.01)
    started.kill()
    assert started.communicate()[1] == ""
    assert started.returncode == -signal.SIGKILL
    assert not (tmp_path / "run").exists()
    with pytest.raises(FitError, match="holds a fit that was not finished; go on with it"):
        citevae(line, **places, out=tmp_path / "run")
    resumed = process(*given, "--resume")
    assert (resumed.returncode, resumed.stderr) == (0, ""), resumed.stdout
    citevae(line, **places, out=tmp_path / "whole")
    files = ("model.safetensors", "history.parquet")
    one, two = ([(tmp_path / run / file).read_bytes() for file in files] for run in ("run", "whole"))
    assert one == two
    assert names(tmp_path) == {"run", "whole"}
    assert "is complete" in citevae(f"{line} --resume", **places, out=tmp_path / "run")
    citevae(
        "predict {out} --do gene_0 --draws 2 -o {pred}", out=tmp_path / "run", pred=tmp_path / "pred.h5ad"
    )


def test_fits_from_several_seeds_are_one_run(places: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert "from 2 seeds" in citevae("FIT --seeds 2 -o {out}", **places, out=run)
    assert names(run) == {"ensemble.json", "member_0", "member_1"}
    seeds = [json.loads((run / f"member_{i}/run.json").read_text())["settings"]["seed"] for i in (0, 1)]
    assert seeds == [0, 1]
    citevae("predict {out} --do gene_0 --draws 4 -o {pred}", out=run, pred=tmp_path / "pred.h5ad")
    assert xr.open_dataset(tmp_path / "pred.effects.nc").sizes["chain"] == 2


def test_a_fit_that_diverges_keeps_its_last_good_epoch(places: dict[str, Path], tmp_path: Path) -> None:
    config = tmp_path / "steep.toml"
    config.write_text(SMALL + "\n[fit]\nlearning_rate = 1e6\ngradient_clip = 1e9\n")
    line = "fit {screen} --time time --config {steep} --epochs 9 --quiet -o {out}"
    with pytest.raises(
        DivergenceError, match=r"at step .* lower learning_rate.* saved in .*run\.last_good\."
    ):
        citevae(line, **places, steep=config, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert np.isfinite(load(tmp_path / "run.last_good").effect(do("gene_0"), draws=2)).all()
