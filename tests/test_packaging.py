"""The wheel: what it holds, and that it works away from the source tree."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_TRACKED = shutil.ignore_patterns(
    ".git", ".venv*", ".*_cache", "__pycache__", "*.egg-info", "build", "dist", "runs", "lightning_logs"
)
SCRIPT = """
import sys
from pathlib import Path

import pyro_citevae
from pyro_citevae import datasets, fit, guides, load, models, simulate

assert Path(sys.prefix) in Path(pyro_citevae.__file__).parents, pyro_citevae.__file__
for package in (pyro_citevae, models, guides):
    for name in package.__all__:
        assert getattr(package, name) is not None
assert datasets.renge().n_obs > 0

data = simulate(n_cells=40, n_genes=8, n_perturbations=2, n_steps=2, seed=0).data
model = models.CiteVAE(data.schema, n_programs=2, n_invariant=1, hidden=8)
posterior = fit(model, guides.MeanField(model, hidden=8), data, max_epochs=1, progress=False)
posterior.save("run")
assert load("run").bound(data) == posterior.bound(data)
print("works")
"""


def ended(*command: object, cwd: Path) -> str:
    """Runs a command that must end well, away from any PYTHONPATH, and returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_file_that_a_text_names_is_there() -> None:
    texts = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"),
             *ROOT.glob("experiments/**/*.md"), *ROOT.glob("pyro_citevae/*/README.md")]  # fmt: skip
    texts = [text for text in texts if not {"_build", "_generated"} & {*text.parts}]
    folders = "pyro_citevae|tests|docs|experiments|models|guides"
    pattern = re.compile(rf"(?<![\w/.])(?:{folders})/[\w/]+\.(?:py|md|toml)")
    named = {(text, path) for text in texts for path in pattern.findall(text.read_text())}
    assert len(named) > 20
    assert not [f"{text.relative_to(ROOT)}: {path}" for text, path in named if not (ROOT / path).exists()]


def package_files() -> set[str]:
    """The package's files in the source tree, by the paths that they have once installed."""
    found = set()
    for folder, _, files in os.walk(ROOT / "pyro_citevae", followlinks=True):
        inside = Path(folder).relative_to(ROOT)
        found |= {(inside / file).as_posix() for file in files if inside.name != "__pycache__"}
    # what a reader of the repository finds beside the code
    return found - {f"pyro_citevae/{folder}/README.md" for folder in ("models", "guides")}


def empty_environment(folder: Path) -> Path:
    """Makes a virtual environment without pip, and returns its Python."""
    venv.EnvBuilder(symlinks=True).create(folder)
    return folder / "bin" / "python"


def require_that_it_works(python: Path, away: Path) -> None:
    assert ended(python, "-c", SCRIPT, cwd=away).endswith("works\n")
    assert "evaluate" in ended(python.with_name("citevae"), "--help", cwd=away)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", symlinks=True, ignore=NOT_TRACKED)
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    ended(*build, cwd=folder / "source")
    (found,) = folder.glob("*.whl")
    return found


@pytest.mark.parametrize("name", ["models", "guides"])
def test_the_bare_name_cannot_be_imported_from_the_source_tree(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {name}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"ImportError: import pyro_citevae.{name}; the bare name '{name}'" in done.stderr


def test_the_wheel_holds_the_package_and_its_licence_and_nothing_else(wheel: Path) -> None:
    held = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    information = {name for name in held if name.partition("/")[0].endswith(".dist-info")}
    assert held - information == package_files()
    assert any(name.endswith("/licenses/LICENSE") for name in information)


@pytest.mark.parametrize(
    "name",
    [
        "py.typed",
        "models/citevae.py",
        "guides/backward_smoother.py",
        "data/files/renge_hipsc_timecourse.h5ad",
        "data/files/papalexi2021_thp1_eccite_299genes.h5ad",
        "data/files/norman2019_k562_500genes.h5ad",
        "data/files/kang2018_pbmc_ifnb_1267genes.h5ad",
    ],
)
def test_the_wheel_holds_every_kind_of_file_whole(name: str, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(f"pyro_citevae/{name}") == (ROOT / "pyro_citevae" / name).read_bytes()


def test_the_installed_wheel_works_beside_the_dependencies(wheel: Path, tmp_path: Path) -> None:
    python = empty_environment(tmp_path / "venv")
    pip = (sys.executable, "-m", "pip", "--python", python)
    ended(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    own = Path(
        ended(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    )
    shared = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    # a path named in a .pth file comes after the environment's own, and its own .pth files are not read
    (own / "shared.pth").write_text("\n".join(sorted(shared)) + "\n")
    require_that_it_works(python, tmp_path)


@pytest.mark.slow
def test_the_wheel_installs_with_its_dependencies_into_a_bare_environment(
    wheel: Path, tmp_path: Path
) -> None:
    python = empty_environment(tmp_path / "venv")
    pip = (sys.executable, "-m", "pip", "--python", python)
    ended(*pip, "install", "--quiet", "-c", ROOT / "constraints.txt", wheel, cwd=tmp_path)
    require_that_it_works(python, tmp_path)
