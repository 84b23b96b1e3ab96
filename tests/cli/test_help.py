"""Help: examples that can be pasted, brackets that are shown, every setting, and what a shell completes."""

from __future__ import annotations

import inspect
import os
import shlex
import subprocess
import sys
import tomllib
from dataclasses import fields
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pyro_citevae import benchmark, config, registry
from pyro_citevae.cli import app
from pyro_citevae.cli.app import imported
from pyro_citevae.cli.commands import COMMANDS
from pyro_citevae.data import datasets
from pyro_citevae.data.published_layouts import LAYOUTS
from pyro_citevae.infer import FitSettings

EXAMPLES = [(path, line) for path, one in COMMANDS.items() for line in one.examples]


def shown(line: str, columns: int = 80) -> str:
    result = CliRunner().invoke(app, shlex.split(line), env={"COLUMNS": str(columns), "NO_COLOR": "1"})
    assert result.exit_code == 0, result.output
    return result.output


def test_the_version_is_that_of_what_is_installed() -> None:
    assert shown("--version") == f"pyro-citevae {version('pyro-citevae')}\n"


@pytest.mark.parametrize(("path", "line"), EXAMPLES)
def test_an_example_is_a_line_that_the_command_understands(path: str, line: str) -> None:
    words = shlex.split(line.partition(" | ")[0].partition(" > ")[0])
    assert words[: 1 + len(path.split())] == ["citevae", *path.split()]
    imported(path).make_context(path, words[1 + len(path.split()) :], resilient_parsing=False)


@pytest.mark.parametrize("path", COMMANDS)
def test_help_ends_with_one_to_four_examples_that_can_be_pasted(path: str) -> None:
    """Each on one line of a terminal of 80 columns."""
    examples = COMMANDS[path].examples
    assert 1 <= len(examples) <= 4
    lines = [line.strip() for line in shown(f"{path} --help").splitlines() if line.strip()]
    assert lines[-len(examples) - 1 :] == ["Examples:", *examples]


@pytest.mark.parametrize("path", COMMANDS)
def test_help_shows_each_text_as_it_was_written(path: str) -> None:
    """Square brackets are no markup: [fit] is the name of a table."""
    text = " ".join(shown(f"{path} --help", columns=400).replace("│", " ").split())
    assert COMMANDS[path].what in text
    for one in imported(path).params:
        assert " ".join((one.help or "").replace("\\[", "[").split()) in text
    if path == "fit":
        assert "[model], [guide], [fit]" in text
        assert "citevae settings" in text


# Settings


def settings(line: str) -> dict[str, dict[str, str]]:
    """The lines of ``citevae settings`` by table and name, those without a default among them."""
    found: dict[str, dict[str, str]] = {"": {}}
    table = ""
    for text in shown(line, columns=200).splitlines():
        if text.startswith("["):
            table = text.strip("[]")
            found[table] = {}
        elif (name := text.removeprefix("# ").partition(" =")[0]).isidentifier():
            found[table][name] = text
    return found


@pytest.mark.parametrize("model", registry.MODELS)
def test_every_argument_of_a_model_is_a_setting(model: str) -> None:
    arguments = list(inspect.signature(registry.MODELS[model].__init__).parameters)[2:]
    assert list(settings(f"settings --model {model}")["model"]) == ["name", *arguments]


@pytest.mark.parametrize("guide", registry.GUIDES)
def test_every_argument_of_a_guide_is_a_setting(guide: str) -> None:
    arguments = list(inspect.signature(registry.GUIDES[guide].__init__).parameters)[2:]
    assert list(settings(f"settings --guide {guide}")["guide"]) == ["name", *arguments]


def test_every_setting_of_a_fit_and_of_a_benchmark_is_there() -> None:
    found = settings("settings --benchmark")
    assert list(found["fit"]) == [one.name for one in fields(FitSettings)]
    assert {*found[""], *found} - {""} == set(benchmark.Settings.model_fields)


@pytest.mark.parametrize(
    "chosen", [f"--model {one}" for one in registry.MODELS] + [f"--guide {one}" for one in registry.GUIDES]
)
def test_every_setting_has_a_type_and_a_phrase(chosen: str) -> None:
    lines = shown(f"settings --benchmark {chosen}", columns=200).splitlines()
    for before, line in pairwise(lines):
        if (
            " =" in line
            and line.removeprefix("# ").partition(" =")[0].isidentifier()
            and "name =" not in line
        ):
            assert line.partition("  # ")[2], line
            assert before.startswith("# "), line


def test_the_settings_are_a_file_that_says_what_no_file_says(tmp_path: Path) -> None:
    """So that a line that is kept unchanged changes nothing."""
    (tmp_path / "fit.toml").write_text(shown("settings"))
    found = config.settings_from(tmp_path / "fit.toml")
    defaults = {one.name: one.default for one in fields(FitSettings) if one.default is not None}
    assert found.fit == defaults
    assert (found.model.name, found.guide.name) == ("CiteVAE", "BackwardSmoother")
    given = inspect.signature(registry.MODELS["CiteVAE"].__init__).parameters
    for name, value in found.model.arguments.items():
        default = given[name].default
        assert value == (list(default) if isinstance(default, tuple) else default)
    (tmp_path / "benchmark.toml").write_text(shown("settings --benchmark"))
    whole = benchmark.settings_from(tmp_path / "benchmark.toml")
    tables = {"model", "guide", "fit"}
    assert whole.model_dump(exclude=tables) == benchmark.Settings().model_dump(exclude=tables)
    assert "n_programs" in tomllib.loads(shown("settings --model Switching"))["model"]


# Completion


def completed(line: str) -> list[str]:
    """What a shell is told, as the process that it starts tells it."""
    words = line.split(" ")
    asked = {"_CITEVAE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    command = Path(sys.executable).with_name("citevae")
    done = subprocess.run([command], env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_a_shell_completes_commands() -> None:
    assert completed("citevae f") == ["fit"]
    assert completed("citevae ") == list(dict.fromkeys(path.split()[0] for path in COMMANDS))
    assert completed("citevae simulate ") == ["c3d", "c3d-sheet"]


def test_a_shell_completes_options_and_a_file_is_left_to_it() -> None:
    assert completed("citevae fit --hol") == ["--hold-out"]
    assert completed("citevae fit my_screen") == []


@pytest.mark.parametrize(
    ("command", "option", "values"),
    [
        ("fit", "data", datasets.CATALOGUE),
        ("fit", "--model", registry.MODELS),
        ("fit", "--guide", registry.GUIDES),
        ("fit", "--layout", LAYOUTS),
        ("fit", "--accelerator", ("cpu", "gpu", "auto")),
        ("fit", "--sampler", ("auto", "uniform", "blocks", "balanced")),
        ("check", "--with", {**registry.MODELS, **registry.GUIDES}),
        ("rank", "--by", ("information", "spread", "effect")),
        ("benchmark", "protocol", (*benchmark.PROTOCOLS, "ablation")),
    ],
)
def test_values_of_a_short_list_are_completed(command: str, option: str, values: list[str]) -> None:
    found = imported(command)
    one = next(one for one in found.params if option in (one.name, *one.opts))
    context = found.make_context(command, [], resilient_parsing=True)
    assert set(values) <= {item.value for item in one.shell_complete(context, "")}
    first = next(iter(values))
    assert first in {item.value for item in one.shell_complete(context, first[:2])}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_shown(shell: str) -> None:
    command = Path(sys.executable).with_name("citevae")
    asked = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(
        [command, "--show-completion", shell], env=asked, capture_output=True, text=True, check=True
    )
    assert "_CITEVAE_COMPLETE" in done.stdout
