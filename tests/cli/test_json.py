"""``--json``: one strict JSON object on stdout, with what a script needs, and every sentence on stderr."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from screens import as_anndata, simulated
from typer.testing import CliRunner

import pyro_citevae as cv
from pyro_citevae import datasets, registry
from pyro_citevae.cli import app, main
from pyro_citevae.cli.app import imported
from pyro_citevae.cli.as_json import write_json
from pyro_citevae.cli.commands import COMMANDS

SMALL = '[model]\nname = "CiteVAE"\nn_programs = 2\nhidden = 8\n[guide]\nname = "MeanField"\nhidden = 8\n'
BENCHMARK = "seeds = 1\ndraws = 4\ncells = 0\nfolds = 2\nlimit = 1\nnetwork_steps = 5\n"
BROKEN = '''
import pyro.distributions as dist
import torch

from pyro_citevae import LatentDynamics, Mechanism


class Broken(LatentDynamics):
    """A model whose initial law has the wrong size."""

    def __init__(self, schema):
        super().__init__(schema, n_programs=2)
        self.a = torch.nn.Parameter(torch.zeros(schema.n_tokens, 2))

    def mechanism(self):
        return Mechanism(a=self.a)

    def initial(self, mechanism):
        return dist.Normal(self.a.new_zeros(5), 1.0).to_event(1)

    def transition(self, mechanism, history, u):
        return dist.Normal(history[-1], 1.0).to_event(1)

    def emission(self, mechanism, z, s, library):
        return dist.Poisson(library[..., None] * torch.ones(self.schema.n_genes)).to_event(1)
'''


def strict(text: str) -> dict[str, Any]:
    """One object on one line, without the numbers that JSON does not have."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert text.count("\n") == 1
    found = json.loads(text, parse_constant=refuse)
    assert isinstance(found, dict)
    return found


def asked(line: str, **places: Path) -> dict[str, Any]:
    """What a command that ends well writes."""
    words = [word.format(**places) for word in shlex.split(line)]
    result = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = strict(result.stdout)
    assert all(Path(path).exists() for path in found.get("saved", []))
    return found


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("json")
    found = {"home": home, "screen": home / "screen.h5ad", "small": home / "small.toml", "run": home / "run"}
    as_anndata(simulated(n_cells=200)).write_h5ad(found["screen"])
    found["small"].write_text(SMALL)
    found["broken"] = home / "broken.py"
    found["broken"].write_text(BROKEN)
    return found


@pytest.fixture(scope="module")
def fitted(places: dict[str, Path]) -> dict[str, Any]:
    line = "fit {screen} --time time --hold-out time=3 --config {small} --epochs 2 -o {run}"
    return asked(line, **places)


def test_fit_says_where_the_run_is_how_it_ended_and_what_was_read(
    fitted: dict[str, Any], places: dict[str, Path]
) -> None:
    posterior = cv.load(places["run"])
    assert fitted["saved"] == [str(places["run"])]
    assert fitted["cells"] == posterior.record["n_cells"]
    assert fitted["verdict"]
    assert fitted["bound"] == pytest.approx(posterior.history["training"].iloc[-1])
    assert fitted["read"]["cells"] == 200
    assert fitted["next"].startswith(f"citevae predict {places['run']} --do gene_")


def test_a_dry_run_says_what_would_be_fitted_and_writes_nothing(places: dict[str, Path]) -> None:
    found = asked("fit {screen} --time time --config {small} --dry-run -o {home}/dry", **places)
    assert (found["saved"], found["name"]) == ([], "CiteVAE/MeanField")
    assert found["settings"]["max_epochs"] is None
    assert not (places["home"] / "dry").exists()


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize(
    ("line", "files", "keys"),
    [
        ("predict {run} --do gene_0 --draws 3 -o {home}/p.h5ad", 2, {"schedules", "cells", "times"}),
        ("rank {run} --draws 4 -o {home}/ranking", 3, {"ranking", "by"}),
        ("rank {run} --draws 4", 0, {"ranking"}),
        ("evaluate {run} --draws 4 -o {home}/scores", 6, {"scores", "verdict", "forecast", "diagnosis"}),
        ("evaluate {run} --licence -o {home}/licence", 3, {"licences", "verdict"}),
        ("export {run} --draws 2 -o {home}/posterior.nc", 1, {"groups"}),
    ],
)
def test_what_is_asked_of_a_run(line: str, files: int, keys: set[str], places: dict[str, Path]) -> None:
    found = asked(line, **places)
    assert len(found["saved"]) == files
    assert keys <= set(found)


@pytest.mark.usefixtures("fitted")
def test_the_rows_of_a_table_are_those_of_its_file(places: dict[str, Path], tmp_path: Path) -> None:
    found = asked("rank {run} --draws 4 -o {here}/ranking", here=tmp_path, **places)
    table = pd.read_csv(tmp_path / "ranking" / "ranking.csv")
    assert [row["candidate"] for row in found["ranking"]] == list(table["candidate"])
    assert set(found["ranking"][0]) == set(table)


@pytest.mark.usefixtures("fitted")
def test_a_report_and_a_benchmark_say_what_they_wrote(places: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "benchmark.toml").write_text(BENCHMARK + SMALL + "[fit]\nmax_epochs = 1\n")
    line = "benchmark unseen-gene --config {here}/benchmark.toml --data {screen} -o {here}/results"
    found = asked(line, here=tmp_path, **places)
    assert {Path(path).name for path in found["saved"]} == {"results.parquet", "results.md", "splits.json"}
    assert len(found["scores"]) == len(pd.read_parquet(tmp_path / "results" / "results.parquet"))
    report = asked("report {run} --draws 10 -o {here}/page.html", here=tmp_path, **places)
    assert [Path(path).name for path in report["saved"]] == ["page.html", "page.ipynb"]


def test_lists_have_every_name(places: dict[str, Path]) -> None:
    models = asked("models")
    assert {one["name"] for one in models["models"]} >= set(registry.MODELS)
    assert {one["name"] for one in models["guides"]} >= set(registry.GUIDES)
    assert {one["name"] for one in asked("datasets")["datasets"]} == set(datasets.CATALOGUE)
    assert {"name", "type", "default", "what", "table"} == set(asked("settings")["settings"][0])


def test_inspect_says_what_is_read_and_what_would_be(places: dict[str, Path], tmp_path: Path) -> None:
    found = asked("inspect {screen} --time time", **places)
    assert found["read"]["cells"] == 200
    assert found["next"] == f"citevae fit {places['screen']} --time time -o run"
    hard = as_anndata(simulated(n_cells=200))
    hard.obs = hard.obs.rename(columns={"perturbation": "guide"})
    hard.write_h5ad(tmp_path / "hard.h5ad")
    found = asked("inspect {hard}", hard=tmp_path / "hard.h5ad")
    assert found["proposed"]["perturbation"] == "guide"
    assert found["would_read"]["cells"] == 200
    assert "read" not in found
    assert "not a column" in found["refused"]


def test_check_has_a_row_a_law() -> None:
    found = asked("check LinearGaussian --with KalmanSmoother")
    assert all(row["passed"] for row in found["laws"] if not row["advice"])
    assert found["next"].startswith("citevae fit")


# Mistakes


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def run(line: str, **places: Path) -> tuple[dict[str, Any], str]:
        words = [word.format(**places) for word in shlex.split(line)]
        monkeypatch.setattr(sys, "argv", ["citevae", *words, "--json"])
        with pytest.raises(SystemExit) as stop:
            main()
        assert stop.value.code == 2
        printed = capsys.readouterr()
        return strict(printed.out), printed.err

    return run


@pytest.mark.parametrize(
    ("line", "phrase"),
    [
        ("fit {home}/none.h5ad -o {home}/no", "is not a file; give the path of an h5ad"),
        ("fit {screen} --layer umi -o {home}/no", "--layer 'umi' is not a layer"),
        ("inspect {home}/none.h5ad", "is not a file"),
        ("fit {screen} --no-such-option", "No such option"),
        ("predict {home}/run", "Missing option"),
        ("export {home} -o {home}/no.nc", "is not a run"),
    ],
)
def test_a_mistake_is_one_sentence_on_both_streams_and_exit_code_2(
    line: str, phrase: str, places: dict[str, Path], refused: Callable[..., Any]
) -> None:
    found, said = refused(line, **places)
    assert set(found) == {"error"}
    assert phrase in found["error"]
    assert phrase in " ".join(said.replace("│", " ").split())


def test_a_broken_law_leaves_its_rows_beside_the_error(
    places: dict[str, Path], refused: Callable[..., Any]
) -> None:
    found, said = refused("check {broken}:Broken", **places)
    assert found["error"] in said
    assert [row for row in found["laws"] if row["passed"] is False]


def test_a_file_that_nothing_reads_is_an_error(tmp_path: Path, refused: Callable[..., Any]) -> None:
    alone = as_anndata(simulated(n_cells=200))
    alone[(alone.obs["perturbation"] == "gene_0").to_numpy()].copy().write_h5ad(tmp_path / "alone.h5ad")
    found, said = refused("inspect {here}/alone.h5ad", here=tmp_path)
    assert found["error"]
    assert said.startswith("error: ")


# The mechanism


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_takes_json(path: str) -> None:
    assert "--json" in {flag for one in imported(path).params for flag in one.opts}


def test_a_process_writes_nothing_else_to_stdout(places: dict[str, Path], tmp_path: Path) -> None:
    line = (
        f"fit {places['screen']} --time time --config {places['small']} --epochs 1 -o {tmp_path}/run --json"
    )
    command = [sys.executable, "-m", "pyro_citevae", *shlex.split(line)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert strict(done.stdout)["saved"] == [f"{tmp_path}/run"]
    assert "What was read" in done.stderr


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_null(value: float, capsys: pytest.CaptureFixture[str]) -> None:
    table = pd.DataFrame({"score": [value, 1.0]})
    write_json({"one": value, "array": table["score"].to_numpy(), "row": table["score"][0]})
    assert strict(capsys.readouterr().out) == {"one": None, "array": [None, 1.0], "row": None}
