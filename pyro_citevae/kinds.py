"""Kinds of what this library writes, told by what lies there, so that nothing else is ever replaced."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import final

from h5py import File  # type: ignore[attr-defined]

__all__ = [
    "CELLS",
    "DEMO",
    "EFFECTS",
    "LICENCE",
    "MARK",
    "NOTEBOOK",
    "PAGE",
    "PART",
    "POSTERIOR",
    "RANKING",
    "RESULTS",
    "RESULTS_PAGE",
    "RUN",
    "SCENES",
    "SCORES",
    "SHEET",
    "SPLITS",
    "SUBMISSION",
    "Kind",
]

MARK = "pyro_citevae"
"""The attribute by which a file says of which kind it is."""


@final
@dataclass(frozen=True)
class Kind:
    """A kind of file or folder.

    Attributes:
        said: What it is, as a part of a sentence.
        why_not: Says of what lies at a path why it is not of this kind; nothing if it is.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "notes.txt").touch()
        >>> RUN.why_not(folder)
        "it has no 'run.json'"
    """

    said: str
    why_not: Callable[[Path], str]

    @property
    def words(self) -> str:
        """What a file of text, or a picture, has in it."""
        return f"pyro-citevae: {self.said}"


def _folder(said: str, marks: tuple[str, ...], names: tuple[str, ...]) -> Kind:
    """A folder that has one of its marks, and nothing but files of certain names."""

    def why_not(path: Path) -> str:
        if not path.is_dir():
            return "it is no folder"
        found = sorted(one.name for one in path.iterdir())
        if found and not set(marks) & set(found):
            return f"it has no '{marks[0]}'"
        known = (*marks, *names, ".DS_Store")
        foreign = [name for name in found if not any(fnmatch(name, one) for one in known)]
        return f"it holds '{foreign[0]}'" if foreign else ""

    return Kind(said, why_not)


def _hdf5(said: str) -> Kind:
    """An HDF5 file, or a zarr folder, whose root says what it is."""

    def why_not(path: Path) -> str:
        try:
            if path.is_dir():
                found = json.loads((path / ".zattrs").read_text()).get(MARK)
            elif path.is_file():
                with File(path, "r") as file:
                    found = file.attrs.get(MARK)
            else:
                found = None
        except (OSError, ValueError, AttributeError):
            found = None
        return "" if found == said else "it does not say that it is one"

    return Kind(said, why_not)


def _text(said: str, words: str = "") -> Kind:
    """A file that has certain words in it, or those of the kind."""

    def why_not(path: Path) -> str:
        found = path.is_file() and (words or made.words).encode() in path.read_bytes()
        return "" if found else "it does not say that it is one"

    made = Kind(said, why_not)
    return made


def _parquet(said: str, columns: set[str]) -> Kind:
    """A parquet file with certain columns."""

    def why_not(path: Path) -> str:
        from pyarrow import parquet  # which takes a while
        from pyarrow.lib import ArrowException

        try:
            found = columns <= set(parquet.read_schema(path).names) if path.is_file() else False
        except (OSError, ArrowException):
            found = False
        return "" if found else "it has other columns"

    return Kind(said, why_not)


def _npz(said: str, array: str) -> Kind:
    """An archive of NumPy with a certain array."""

    def why_not(path: Path) -> str:
        try:
            with zipfile.ZipFile(path) as archive:
                found = f"{array}.npy" in archive.namelist()
        except (OSError, zipfile.BadZipFile):
            found = False
        return "" if found else f"it has no '{array}'"

    return Kind(said, why_not)


_OF_RUN = ("README.md", "model.safetensors", "history.parquet", "split.json", "discrepancy.nc", "member_*")
_OF_SCORES = ("scores.md", "scores.json", "effects.nc", "effects.png", "trajectories.png")

RUN = _folder("a run", ("run.json", "ensemble.json"), _OF_RUN)
DEMO = _folder("a demo", ("run.json",), (*_OF_RUN, *_OF_SCORES, "predictions.h5ad", "posterior.nc"))
SCORES = _folder("a folder of scores", ("scores.json",), (*_OF_SCORES, "diagnosis.txt"))
LICENCE = _folder("a folder of licences", ("licence.txt",), ("licence.csv", "licence*.png"))
RANKING = _folder("a ranking", ("ranking.csv",), ("ranking.nc", "ranking.png"))
SCENES = _folder("a folder of C3D-Render", ("c3d_render.json",), ("*.npz",))
CELLS = _hdf5("predicted cells")
EFFECTS = _hdf5("predicted effects")
POSTERIOR = _hdf5("a posterior")
SUBMISSION = _hdf5("a submission")
PAGE = _text("a report")
NOTEBOOK = _text("a notebook of a report")
PART = _npz("a part of Temporal-Causal3DIdent", "imgs")
SHEET = _text("a contact sheet")
RESULTS = _parquet("a benchmark's table", {"predictor", "perturbation", "score", "value"})
RESULTS_PAGE = _text("a benchmark's page", "citevae benchmark")
SPLITS = _text("a benchmark's splits", '"criteria"')
