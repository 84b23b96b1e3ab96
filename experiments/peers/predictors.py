"""Who predicts: the peers, each in an environment of its own, and ours and the simple rules in ours."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import anndata
from task_folder import Case

from pyro_citevae.analysis import CellsPredictor, Predictor

__all__ = ["OURS", "RULES", "Contender", "Own", "Peer", "Ran", "contenders"]

HERE = Path(__file__).parent
ENVIRONMENTS = Path(os.environ.get("PEERS_ENVIRONMENTS", HERE.parents[1] / ".venv-peers"))
OURS, RULES = "CiteVAE", "rules"
_INSTALLED = ("requirements.txt", "without_dependencies.txt")
_CANNOT = 3  # the exit of an adapter whose tool is not made for a task


@dataclass(frozen=True)
class Ran:
    """What a process took, and how it ended.

    Attributes:
        seconds: From its start to its end: imports, reading, training, predicting and writing.
        processor: Seconds of processor time, which other work on the machine does not lengthen.
        megabytes: The most memory that it, or a process that it started, held.
        failure: Why there is no prediction; empty where there is one.
        cannot: Whether the tool is not made for the task.
    """

    seconds: float
    processor: float
    megabytes: float
    failure: str = ""
    cannot: bool = False


class Contender(ABC):
    """Something that predicts what a case asks, in a process of its own."""

    name: str

    @abstractmethod
    def command(self, case: Case, out: Path, seed: int, steps: int | None) -> list[str]:
        """The command that reads the case and writes ``out``."""

    @abstractmethod
    def predictors(self, case: Case, out: Path) -> tuple[Mapping[str, Predictor], dict[str, Any]]:
        """What was written, by its names in the tables, and what it says of itself."""

    @property
    @abstractmethod
    def source(self) -> str:
        """A hash of what the predictions follow from, beside the case."""

    @property
    def seeded(self) -> bool:
        """Whether seeds differ."""
        return True

    def run(self, case: Case, out: Path, *, seed: int, steps: int | None, limit: float) -> Ran:
        """Runs the command, and ends it at a limit of seconds."""
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as aside:
            said = Path(aside) / "said.txt"
            launcher = [sys.executable, "-I", "-S", str(HERE / "measured.py"), str(limit), str(said)]
            command = self.command(case, out, seed, steps)
            done = subprocess.run([*launcher, *command], capture_output=True, text=True, check=True)
            found = json.loads(done.stdout)
            last = (
                [one for one in said.read_text(errors="replace").splitlines() if one.strip()] or ["no word"]
            )[-1]
        used = (found["seconds"], found["processor"], found["megabytes"])
        if found["late"]:
            return Ran(*used, f"not done after {limit:g} seconds")
        if found["code"]:
            return Ran(*used, last.strip()[:300], found["code"] == _CANNOT)
        return Ran(*used)


@dataclass(frozen=True)
class Peer(Contender):
    """Another tool, by its adapter.

    Attributes:
        name: Its folder's name.
        python: The Python of its environment.
        adapter: Its script.
    """

    name: str
    python: Path
    adapter: Path

    def command(self, case: Case, out: Path, seed: int, steps: int | None) -> list[str]:
        """The adapter's call."""
        more = [] if steps is None else ["--steps", str(steps)]
        return [str(self.python), str(self.adapter), str(case.given), str(out), "--seed", str(seed), *more]

    def predictors(self, case: Case, out: Path) -> tuple[Mapping[str, Predictor], dict[str, Any]]:
        """The predicted cells."""
        cells = anndata.read_h5ad(out)
        said = {key: getattr(one, "item", lambda one=one: one)() for key, one in cells.uns["peer"].items()}
        kind = str(cells.uns["values"])
        return {self.name: CellsPredictor(cells, case.fold.train, name=self.name, values=kind)}, said

    @cached_property
    def source(self) -> str:
        """Of the adapter, of what adapters share, and of what is installed for it."""
        files = [self.adapter, HERE / "exchange.py", *(self.adapter.with_name(one) for one in _INSTALLED)]
        return hashlib.sha256(b"".join(one.read_bytes() for one in files if one.is_file())).hexdigest()


@dataclass(frozen=True)
class Own(Contender):
    """Ours, or all simple rules together: what :mod:`own` makes.

    Attributes:
        name: ``"CiteVAE"`` or ``"rules"``.
    """

    name: str

    def command(self, case: Case, out: Path, seed: int, steps: int | None) -> list[str]:
        """The call of own.py."""
        more = [] if steps is None else ["--steps", str(steps)]
        script = [sys.executable, str(HERE / "own.py"), str(case.folder), str(out), self.name]
        return [*script, "--seed", str(seed), *more]

    def predictors(self, case: Case, out: Path) -> tuple[Mapping[str, Predictor], dict[str, Any]]:
        """The fitted model, or the rules."""
        found: tuple[Mapping[str, Predictor], dict[str, Any]] = pickle.loads(out.read_bytes())
        return found

    @property
    def source(self) -> str:
        """Of the script; after a change of the library --anew makes its pieces anew."""
        return hashlib.sha256((HERE / "own.py").read_bytes()).hexdigest()

    @property
    def seeded(self) -> bool:
        """Rules are not."""
        return self.name != RULES


def contenders() -> dict[str, Contender]:
    """The rules, ours, and every peer with an adapter, whether its environment was made or not."""
    found: dict[str, Contender] = {RULES: Own(RULES), OURS: Own(OURS)}
    for adapter in sorted(HERE.glob("*/adapter.py")):
        name = adapter.parent.name
        found[name] = Peer(name, ENVIRONMENTS / name / "bin/python", adapter)
    return found
