"""Models and guides from files and installed packages: found by name, noted in a run, never run unasked."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edited_runs import edited
from screens import as_anndata, simulated
from typer.testing import CliRunner

import pyro_citevae as cv
from pyro_citevae import registry
from pyro_citevae.class_source import digest
from pyro_citevae.cli import app, main
from pyro_citevae.errors import CiteVAEWarning, ModelError
from pyro_citevae.guides import MeanField
from pyro_citevae.models import CiteVAE, StaticShift

MODEL = '''
import pyro.distributions as dist
import torch

from pyro_citevae import LatentDynamics, Mechanism
from pyro_citevae.guides import MeanField


class Tiny(LatentDynamics):
    """Poisson counts around a linear map of the states."""

    scale = 1.0

    def __init__(self, schema, *, n_programs=2):
        super().__init__(schema, n_programs=n_programs)
        self.loading = torch.nn.Linear(n_programs, schema.n_genes)

    def mechanism(self):
        return Mechanism()

    def initial(self, mechanism):
        return dist.Normal(torch.zeros(self.n_programs), 1.0).to_event(1)

    def transition(self, mechanism, history, u):
        return dist.Normal(0.8 * history[-1] + u.sum(-1, keepdim=True), self.scale).to_event(1)

    def emission(self, mechanism, z, s, library):
        return dist.Poisson(library[..., None] * torch.softmax(self.loading(z), -1)).to_event(1)


class TinyGuide(MeanField):
    """A mean field for this file's model alone."""

    def __init__(self, model, *, hidden=4):
        assert isinstance(model, Tiny), type(model)
        super().__init__(model, hidden=hidden)
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(MODEL)
    return path


@pytest.fixture
def screen(tmp_path: Path) -> Path:
    """60 cells x 6 genes at three times."""
    as_anndata(simulated(n_genes=6, n_programs=3, seed=0)).write_h5ad(tmp_path / "screen.h5ad")
    return tmp_path / "screen.h5ad"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lays a package with entry points on the path, as an installer does."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def lay(package: str, content: str, models: str = "", guides: str = "") -> None:
        (site / f"{package}.py").write_text(content)
        information = site / f"{package}-0.1.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
        (information / "entry_points.txt").write_text(
            f"[pyro_citevae.models]\n{models}\n[pyro_citevae.guides]\n{guides}\n"
        )
        monkeypatch.delitem(sys.modules, package, raising=False)

    return lay


def fitted(model: type, guide: type) -> cv.Posterior:
    data = cv.simulate(n_cells=20, n_genes=6, n_perturbations=3, n_steps=2, seed=0).data
    made = model(data.schema, n_programs=2)
    return cv.fit(made, guide(made, hidden=4), data, max_epochs=1, progress=False)


def record_of(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


def citevae(*words: object) -> str:
    """Runs a command that must end well, and returns what it prints."""
    made = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "240", "NO_COLOR": "1"})
    assert made.exit_code == 0, made.output
    return made.output


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple]:
    """Runs a command as the shell does; returns the exit code and what went to stderr."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["citevae", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, capsys.readouterr().err

    return run


# Files


def test_a_run_notes_the_file_and_the_hash_of_its_source(file: Path, tmp_path: Path) -> None:
    fitted(registry.find_model(f"{file}:Tiny"), MeanField).save(tmp_path / "run")
    record = record_of(tmp_path / "run")
    assert record["model"]["class"] == f"{file}:Tiny"
    assert record["model"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert record["guide"]["class"] == "pyro_citevae.guides.mean_field:MeanField"
    assert re.fullmatch(r"[0-9a-f]{64}", record["guide"]["sha256"])


def test_the_hash_is_that_of_what_was_read_whatever_became_of_the_file(file: Path, tmp_path: Path) -> None:
    read = hashlib.sha256(file.read_bytes()).hexdigest()
    posterior = fitted(registry.find_model(f"{file}:Tiny"), MeanField)
    file.write_text("# edited while the fit ran\n")
    posterior.save(tmp_path / "run")
    assert record_of(tmp_path / "run")["model"]["sha256"] == read


def test_the_hash_of_a_class_covers_the_files_beside_it_that_it_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "variants"
    package.mkdir()
    sources = {
        "__init__": "",
        "terms": "SCALE = 1\n\n\ndef term() -> int:\n    return SCALE\n",
        "unused": "",
        "mine": "from variants.terms import term\n" + MODEL,
    }
    for name, source in sources.items():
        (package / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    mine = importlib.import_module("variants.mine").Tiny
    before = digest(mine)
    (package / "unused.py").write_text("x = 1\n")
    assert digest(mine) == before
    (package / "terms.py").write_text("SCALE = 2\n")
    assert digest(mine) != before


def test_two_files_of_one_name_do_not_clash(tmp_path: Path) -> None:
    found = []
    for folder, scale in (("one", "1.0"), ("two", "2.0")):
        path = tmp_path / folder / "mine.py"
        path.parent.mkdir()
        path.write_text(MODEL.replace("scale = 1.0", f"scale = {scale}"))
        found.append(registry.find_model(f"{path}:Tiny"))
    assert [one.scale for one in found] == [1.0, 2.0]
    assert found[0].__module__ in sys.modules
    assert found[0].__module__ != found[1].__module__


def test_a_file_named_twice_gives_the_same_class_until_it_changes(file: Path) -> None:
    first = registry.find_model(f"{file}:Tiny")
    assert registry.find_model(f"{file}:Tiny") is first
    file.write_text(MODEL.replace("scale = 1.0", "scale = 3.0"))
    assert registry.find_model(f"{file}:Tiny").scale == 3.0


def test_a_model_and_a_guide_of_one_file_know_each_other(file: Path) -> None:
    model, guide = registry.find_model(f"{file}:Tiny"), registry.find_guide(f"{file}:TinyGuide")
    posterior = fitted(model, guide)
    assert isinstance(posterior.guide.model, model)


def test_a_run_of_a_file_is_used_when_the_command_names_the_file(
    file: Path, screen: Path, tmp_path: Path, command: Callable
) -> None:
    run = tmp_path / "run"
    own = ("--model", f"{file}:Tiny", "--guide", f"{file}:TinyGuide")
    citevae(
        "fit", screen, "--time", "time", "--hold-out", "time=3", *own, "--epochs", 1, "--quiet", "-o", run
    )
    uses = {
        "predict": ("--do", "gene_0", "--draws", 2, "-o", tmp_path / "made.h5ad"),
        "evaluate": ("--draws", 2, "-o", tmp_path / "scores"),
        "export": ("--draws", 2, "-o", tmp_path / "made.nc"),
    }
    for use, options in uses.items():
        code, said = command(use, run, *options)
        assert code == 2
        assert f"the run's model is your own; pass it by --model {file}:Tiny." in said
        assert (command(use, run, *options, *own)) == (0, "")
    assert {"made.h5ad", "made.effects.nc", "scores", "made.nc"} <= {path.name for path in tmp_path.iterdir()}


def test_nothing_that_a_run_names_is_executed(file: Path, tmp_path: Path, install: Callable) -> None:
    run, trace = tmp_path / "run", tmp_path / "executed"
    fitted(registry.find_model(f"{file}:Tiny"), MeanField).save(run)
    touch = f"open({str(trace)!r}, 'w').close()\n"
    file.write_text(touch + MODEL)
    install("bystander", touch + MODEL)
    for noted in (f"{file}:Tiny", "bystander:Tiny", f"{tmp_path}/site/bystander.py:Tiny"):
        edited(run, lambda record, noted=noted: record["model"].update({"class": noted}))
        with pytest.raises(ModelError, match=r"is your own class 'Tiny' of '.*'; pass it"):
            cv.load(run)
    assert not trace.exists()


def test_a_changed_source_is_told_in_one_line(
    file: Path, screen: Path, tmp_path: Path, command: Callable
) -> None:
    run, own = tmp_path / "run", ("--model", f"{file}:Tiny")
    citevae("fit", screen, "--time", "time", *own, "--epochs", 1, "--quiet", "-o", run)
    export = ("export", run, "--draws", 2, "--overwrite", "-o", tmp_path / "made.nc", *own)
    assert command(*export) == (0, "")
    file.write_text(MODEL.replace("scale = 1.0", "scale = 2.0"))
    code, said = command(*export)
    assert code == 0
    assert re.fullmatch(r"warning: the source of 'Tiny' \(.*mine\.py\) has changed since [^\n]+\.\n", said), (
        said
    )
    with pytest.warns(CiteVAEWarning, match="the source of 'Tiny'"):
        cv.load(run, model=registry.find_model(f"{file}:Tiny"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda record: None, False),
        (lambda record: record["model"].update(sha256="0" * 64), True),
        (lambda record: record["model"].update(sha256=None), False),
        (lambda record: record["model"].pop("sha256"), False),
        (lambda record: (record["model"].update(sha256="0"), record["versions"].clear()), False),
    ],
    ids=["same", "changed within a version", "no file then", "a run of before", "changed between versions"],
)
def test_a_shipped_class_is_told_to_have_changed_only_within_a_version(
    change: Callable, told: bool, tmp_path: Path
) -> None:
    fitted(StaticShift, MeanField).save(tmp_path / "run")
    edited(tmp_path / "run", change)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        cv.load(tmp_path / "run")
    assert ["has changed since" in str(one.message) for one in caught].count(True) == told
    assert all(issubclass(one.category, CiteVAEWarning) for one in caught)


def test_a_class_without_a_file_is_noted_without_a_hash(tmp_path: Path) -> None:
    names: dict = {"__name__": "__main__"}
    exec(MODEL, names)
    names["Tiny"].__module__ = "a_notebook"
    fitted(names["Tiny"], MeanField).save(tmp_path / "run")
    assert record_of(tmp_path / "run")["model"]["sha256"] is None
    assert cv.load(tmp_path / "run", model=names["Tiny"]).model.n_programs == 2


BAD_FILES = [
    ("class Tiny(:\n", r"SyntaxError at .*mine\.py, line 1: invalid syntax; mend the file"),
    ("\n\nx = (1,\n", r"SyntaxError at .*mine\.py, line 3: '\(' was never closed"),
    ("import torch\nimport no_such_module\n", r"ModuleNotFoundError at .*mine\.py, line 2: No .* PYTHONPATH"),
    ("from torch import no_such_name\n", r"ImportError at .*mine\.py, line 1: cannot import name"),
    ("import torch\n\ntorch.zeros(2) @ torch.zeros(3)\n", r"RuntimeError at .*mine\.py, line 3: .*size"),
    ("def f():\n    return 1 / 0\n\n\nf()\n", r"ZeroDivisionError at .*mine\.py, line 2: division by zero"),
    ("raise SystemExit(3)\n", r"SystemExit at .*mine\.py, line 1: 3; mend the file"),
    ("assert False\n", r"AssertionError at .*mine\.py, line 1; mend the file"),
    (
        "x = '\x00'\n",
        r"(SyntaxError|ValueError) at .*mine\.py.*: source code string cannot contain null bytes",
    ),
]


@pytest.mark.parametrize(("content", "phrase"), BAD_FILES)
def test_a_file_that_cannot_be_run_is_told_with_its_line(
    content: str, phrase: str, file: Path, screen: Path, command: Callable
) -> None:
    file.write_text(content)
    code, said = command("fit", screen, "--model", f"{file}:Tiny", "-o", file.with_name("run"))
    assert code == 2
    assert re.fullmatch(rf"error: --model '.*mine\.py:Tiny': '.*' cannot be read: {phrase}.*\.\n", said), said
    assert not [name for name in sys.modules if name.startswith("pyro_citevae_plugin_mine_") and
                sys.modules[name].__file__ == str(file)]  # fmt: skip


# Installed packages


def test_an_installed_model_and_guide_are_listed_found_and_loaded_by_name(
    install: Callable, screen: Path, tmp_path: Path, command: Callable
) -> None:
    install("tiny_package", MODEL, "Tiny = tiny_package:Tiny", "TinyMean = tiny_package:TinyGuide")
    listed = citevae("models")
    assert re.search(r"model .*Tiny .*Poisson counts around a linear map.* tiny[-_]package", listed)
    assert re.search(r"guide .*TinyMean .*A mean field for this file's model.* tiny[-_]package", listed)
    run = tmp_path / "run"
    named = ("--model", "tiny", "--guide", "TINYMEAN")
    citevae("fit", screen, "--time", "time", *named, "--epochs", 1, "--quiet", "-o", run)
    record = record_of(run)
    assert record["model"]["class"] == "tiny_package:Tiny"
    assert cv.load(run).model.n_programs == 2
    assert command("export", run, "--draws", 2, "-o", tmp_path / "made.nc") == (0, "")
    assert "23 laws hold" in citevae("check", "Tiny", "--with", "TinyMean")


def test_a_class_that_an_entry_point_renames_is_loaded_too(install: Callable, tmp_path: Path) -> None:
    install("renamed_package", f"{MODEL}\nAlias = Tiny\n", "Other = renamed_package:Alias")
    fitted(registry.find_model("Other"), MeanField).save(tmp_path / "run")
    assert cv.load(tmp_path / "run").model.n_programs == 2


def test_installed_packages_are_imported_only_when_named(install: Callable, tmp_path: Path) -> None:
    install("lazy_package", MODEL, "Lazy = lazy_package:Tiny")
    assert registry.find_model("CiteVAE") is CiteVAE
    with pytest.raises(ModelError, match=r"name one of CiteVAE.*, Lazy, or FILE.py:CLASS"):
        registry.find_model("NoSuch")
    assert "lazy_package" not in sys.modules


def test_a_name_that_ships_stays_with_what_ships(install: Callable, command: Callable) -> None:
    install("greedy_package", MODEL, "citevae = greedy_package:Tiny")
    phrase = "the plug-in 'citevae' of greedy_package has the name of a shipped model"
    with pytest.warns(CiteVAEWarning, match=phrase):
        assert registry.find_model("CiteVAE") is CiteVAE
    code, said = command("models")
    assert code == 0
    assert re.fullmatch(f"warning: {phrase}[^\n]+\\.\n", said), said
    assert "greedy_package" not in sys.modules


BAD_ENTRIES = [
    (
        "import no_such_module\n",
        "Bad = bad_package:Tiny",
        r"cannot be loaded: ModuleNotFoundError: No module",
    ),
    ("x = (\n", "Bad = bad_package:Tiny", r"cannot be loaded: SyntaxError: '\(' was never closed"),
    (MODEL, "Bad = bad_package:Missing", r"cannot be loaded: AttributeError: .* 'Missing'"),
    (MODEL, "Bad = bad_package:TinyGuide", r"is not a subclass of LatentDynamics; mend its entry point"),
    (MODEL, "Bad = bad_package", r"is not a subclass of LatentDynamics"),
]


@pytest.mark.parametrize(("content", "entry", "phrase"), BAD_ENTRIES)
def test_a_broken_plug_in_is_told_in_one_sentence_and_hides_nothing(
    content: str, entry: str, phrase: str, install: Callable
) -> None:
    install("bad_package", content, entry)
    with pytest.raises(
        ModelError, match=rf"^the plug-in 'Bad' of bad_package \(bad_package.*\) {phrase}.*\.$"
    ):
        registry.find_model("Bad")
    listed = citevae("models")
    assert "the plug-in 'Bad' of bad_package" in listed
    assert all(name in listed for name in (*registry.MODELS, *registry.GUIDES))


def test_two_packages_of_one_name_are_both_named(install: Callable) -> None:
    install("first_package", MODEL, "Twin = first_package:Tiny")
    install("second_package", MODEL, "Twin = second_package:Tiny")
    phrase = (
        "first_package and second_package both plug in a model 'twin'; uninstall one, or name FILE.py:CLASS"
    )
    with pytest.raises(ModelError, match=phrase):
        registry.find_model("twin")


def test_a_run_of_a_package_that_is_gone_asks_for_the_class(install: Callable, tmp_path: Path) -> None:
    fitted(StaticShift, MeanField).save(tmp_path / "run")
    edited(
        tmp_path / "run", lambda record: record["model"].update({"class": "gone_package.models:StaticShift"})
    )
    with pytest.raises(
        ModelError, match=r"class 'StaticShift' of 'FILE.py'; pass it by load\(path, model=StaticShift\)"
    ):
        cv.load(tmp_path / "run")
    assert np.isfinite(cv.load(tmp_path / "run", model=StaticShift).history["training"]).all()
