"""What is imported is declared: nothing comes along by chance with another package."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OPTIONAL = ("annbatch", "challenge", "egl", "report", "scdataset")  # which the library imports where they are
EXTRAS = (*OPTIONAL, "dev", "docs")
PARTS = {"arviz_stats": "arviz", "pydantic_core": "pydantic"}  # each comes with the other, of one version


def imported(folder: Path) -> set[str]:
    """Top-level names that the files under a folder import, less Python's own and those of files there."""
    found, beside = set(), set()
    for path in folder.rglob("*.py"):
        beside |= {path.stem, path.parent.name}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {one.name.partition(".")[0] for one in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found - beside - set(sys.stdlib_module_names) - {"pyro_citevae", "__future__"}


def declared(*extras: str) -> set[str]:
    """Distributions that pyproject.toml names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *(one for x in extras for one in project["optional-dependencies"][x])]
    return {normal(re.split(r"[^A-Za-z0-9_.-]", one)[0]) for one in named}


def normal(distribution: str) -> str:
    """The name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("pyro_citevae", OPTIONAL),
     ("models", OPTIONAL),
     ("guides", OPTIONAL),
     ("tests", EXTRAS)],
)  # fmt: skip
def test_every_import_is_declared(folder: str, extras: tuple[str, ...]) -> None:
    brings = packages_distributions()
    known = declared(*extras)
    elsewhere = {path.stem for path in (ROOT / "experiments").rglob("*.py")}  # scripts that tests import
    for name in {PARTS.get(one, one) for one in imported(ROOT / folder) - elsewhere}:
        distributions = {normal(one) for one in brings.get(name, [name])}
        assert distributions & known, f"{folder} imports {name}, which pyproject.toml does not name"


def test_lower_bounds_have_no_upper_ones() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for one in chain(project["dependencies"], *project["optional-dependencies"].values()):
        assert not re.search(r"<|==|~=", one.partition(";")[0]), one


@pytest.mark.parametrize("package", sorted(declared()))
def test_constraints_pin_what_the_library_needs(package: str) -> None:
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    assert any(normal(one.partition("==")[0]) == package for one in pinned if "==" in one), package
