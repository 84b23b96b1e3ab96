"""What is imported before it is used: nothing that takes its time."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import pyro_citevae as cv
from pyro_citevae import infer
from pyro_citevae.cli.commands import COMMANDS

HEAVY = (
    "torch",
    "pyro",
    "anndata",
    "scanpy",
    "lightning",
    "arviz",
    "pandas",
    "numpy",
    "matplotlib",
    "sklearn",
)


def imported(code: str) -> set[str]:
    """Which of the heavy packages a fresh process has after some code."""
    asked = f"import sys\n{code}\nprint('imported:', *[one for one in {HEAVY!r} if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("imported:")[2].split())


@pytest.mark.parametrize(
    "code",
    [
        "import pyro_citevae",
        "import pyro_citevae as cv; cv.__version__, dir(cv)",
        "import pyro_citevae.cli",
        "from pyro_citevae.cli import app\ntry: app(['--help'])\nexcept SystemExit: pass",
        "from pyro_citevae.cli import app\ntry: app(['simulate', '--help'])\nexcept SystemExit: pass",
        "import os\nos.environ.update(_CITEVAE_COMPLETE='complete_bash', COMP_WORDS='citevae f')\n"
        "os.environ['COMP_CWORD'] = '1'\n"
        "from pyro_citevae.cli import app\ntry: app(prog_name='citevae')\nexcept SystemExit: pass",
    ],
)
def test_help_and_the_bare_package_import_nothing_heavy(code: str) -> None:
    assert imported(code) == set()


@pytest.mark.parametrize(
    ("code", "not_needed"),
    [
        (
            "import pyro_citevae as cv; cv.simulate, cv.datasets",
            {"pyro", "lightning", "arviz", "scanpy", "sklearn"},
        ),
        ("import pyro_citevae as cv; cv.models.CiteVAE", {"lightning", "arviz", "scanpy", "sklearn"}),
        ("import pyro_citevae as cv; cv.Posterior, cv.load", {"lightning", "arviz", "scanpy"}),
        ("import pyro_citevae as cv; cv.fit", {"arviz", "scanpy"}),
    ],
)
def test_each_name_imports_what_it_needs(code: str, not_needed: set[str]) -> None:
    assert not imported(code) & not_needed


@pytest.mark.parametrize("package", [cv, infer])
def test_every_name_of_a_package_is_there_and_listed(package: object) -> None:
    names = package.__all__
    assert len(names) == len(set(names))
    for name in names:
        assert getattr(package, name) is not None
        assert name in dir(package)
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        _ = package.nothing_of_this_name


@pytest.mark.parametrize("path", COMMANDS)
def test_the_list_of_commands_says_what_each_says_of_itself(path: str) -> None:
    module, _, function = COMMANDS[path].where.partition(":")
    own = getattr(importlib.import_module(f"pyro_citevae.cli.{module}"), function).__doc__
    assert own.splitlines()[0] == COMMANDS[path].what
