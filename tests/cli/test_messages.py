"""Messages: every option that a sentence of the library names is one of the command line."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

import pyro_citevae
from pyro_citevae.cli.app import imported
from pyro_citevae.cli.commands import COMMANDS
from pyro_citevae.cli.flags import in_flags
from pyro_citevae.data import Columns

SOURCE = Path(pyro_citevae.__file__).parent


def texts(node: ast.AST) -> Iterator[str]:
    """Every text in a piece of code; what an f-string fills in is a number."""
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value
        elif isinstance(part, ast.JoinedStr):
            yield "".join(str(one.value) if isinstance(one, ast.Constant) else "1" for one in part.values)


def sentences() -> Iterator[tuple[str, str]]:
    """What is raised, warned of or said, with the file that says it."""
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            called = node.exc if isinstance(node, ast.Raise) else node
            name = ast.unparse(called.func) if isinstance(called, ast.Call) else ""
            if re.search(r"Error$|warn$|^say$|append$|^doubts|Warning$", name):
                yield from ((str(file.relative_to(SOURCE)), text) for text in texts(called))


def options() -> set[str]:
    return {flag for path in COMMANDS for one in imported(path).params for flag in one.opts}


def test_every_option_that_a_sentence_names_is_there() -> None:
    known, named = options(), set()
    for file, text in sentences():
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", in_flags(text)):
            named.add(flag)
            assert flag in {*known, "--nproc-per-node"}, f"{file}: {text}"
    assert {"--control", "--layer", "--genes", "--separator", "--step", "--data", "--overwrite"} <= named


def test_every_column_is_an_option_of_the_commands_that_read() -> None:
    for name in ("fit", "inspect"):
        flags = {flag for one in imported(name).params for flag in one.opts}
        assert {f"--{one.name.replace('_', '-')}" for one in fields(Columns)} <= flags
        assert {"--step", "--n-steps", "--time-unit", "--values"} <= flags


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ("name it with genes='symbol'.", "name it with --genes 'symbol'."),
        ("as in control=['NT', 'NT-2'].", "as in --control 'NT' --control 'NT-2'."),
        (
            "name the label with control=. 'NT' looks like one.",
            "name the label with --control. 'NT' looks like one.",
        ),
        ("set n_steps=, or step=2.", "set --n-steps, or --step 2."),
        ("hold it out with combinations=['A+B'].", "hold it out with combinations=['A+B']."),
        ("effect(group=...) holds no cell", "effect(group=...) holds no cell"),
        ("such as --hold-out time=5.", "such as --hold-out time=5."),
        ("fit longer, with max_steps=600.", "fit longer, with --steps 600."),
        ("leave out max_epochs, or raise max_steps.", "leave out --epochs, or raise --steps."),
        ("name it with data='FILE.h5ad'.", "name it with --data FILE.h5ad."),
        ("f(time=...) is 'x'", "f(time=...) is 'x'"),
    ],
)
def test_arguments_are_said_as_they_are_typed(said: str, typed: str) -> None:
    assert in_flags(said) == typed


def test_what_was_typed_is_quoted_as_it_was() -> None:
    sentence = "Split.parse('context=T;x;time=5') cannot be read at 'x'; write 'time=5'."
    assert in_flags(sentence).startswith("--hold-out 'context=T;x;time=5' cannot be read")
