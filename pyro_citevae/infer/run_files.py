"""The files of a run, read as they were written or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, final

import torch
from safetensors import SafetensorError
from safetensors.torch import load

from pyro_citevae.errors import RunError, reason
from pyro_citevae.infer.run_record import (
    ENSEMBLE,
    RECORD,
    damaged,
    read_ensemble,
    read_record,
    sha256,
)
from pyro_citevae.whole_files import sweep

__all__ = ["DISCREPANCY", "HISTORY", "SPLIT", "WEIGHTS", "RunFiles", "member_folders", "one_state", "verify"]

WEIGHTS, HISTORY, SPLIT, DISCREPANCY = (
    "model.safetensors",
    "history.parquet",
    "split.json",
    "discrepancy.nc",
)
_TRIES, _PAUSE = 50, 0.02  # seconds: a folder that is replaced is gone for less

T = TypeVar("T")


@final
@dataclass(frozen=True)
class RunFiles:
    """A run's record, and the content of each file that it needs.

    Attributes:
        folder: Where they lie.
        record: The JSON record.
        contents: Bytes by the name of the file.
    """

    folder: Path
    record: dict[str, Any]
    contents: Mapping[str, bytes]

    @classmethod
    def read(cls, folder: Path) -> RunFiles:
        """Reads all files of a run, which are of one moment even where it is being replaced.

        Raises:
            RunError: The folder is no run, or a file is missing or is not as it was written.
        """
        return one_state(folder, lambda: cls._read(folder))

    @classmethod
    def _read(cls, folder: Path) -> RunFiles:
        record = read_record(folder)
        needed = [WEIGHTS, HISTORY]
        needed += [SPLIT] if record["split"] is not None else []
        needed += [DISCREPANCY] if record.get("discrepancy") else []
        sums = record.get("files")
        if sums is not None and (lacking := set(needed) - sums.keys()):
            raise damaged(folder, f"no checksum of '{min(lacking)}'")
        contents = {}
        for name in needed:
            try:
                contents[name] = _content(folder / name)
            except OSError as error:
                raise damaged(folder, f"'{name}' cannot be read: {error.strerror or 'no file'}") from error
            if sums is not None and sha256(contents[name]) != sums[name]:
                raise damaged(folder, f"'{name}' is not as it was written")
        return cls(folder, record, contents)

    @property
    def is_sealed(self) -> bool:
        """Whether checksums were written with it, as they are from version 0.2 on."""
        return "files" in self.record

    def weights(self) -> dict[str, torch.Tensor]:
        """The tensors of model and guide.

        Raises:
            RunError: They cannot be read.
        """
        try:
            found: dict[str, torch.Tensor] = load(self.contents[WEIGHTS])
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            raise damaged(self.folder, f"'{WEIGHTS}' cannot be read: {reason(error)}") from error
        return found


def one_state(folder: Path, read: Callable[[], T]) -> T:
    """Reads a folder again where another process replaced it while it was read.

    Args:
        folder: The folder.
        read: Reads it; it raises a RunError where files do not fit together.

    Raises:
        RunError: It cannot be read, and nobody replaces it.
    """
    for _ in range(_TRIES):
        before = _stamp(folder)
        try:
            return read()
        except RunError:
            sweep(folder.absolute().parent)  # a process may have been killed while it replaced the folder
            if _stamp(folder) == before and (before is not None or not _is_being_made(folder)):
                raise
        time.sleep(_PAUSE)
    return read()


def member_folders(path: Path) -> list[Path]:
    """The folders of an ensemble's members, each as it was written with it; none if it is no ensemble's.

    Raises:
        RunError: A member is missing, or is of another ensemble.
    """
    record = read_ensemble(path)
    if record is None:
        return []
    found = [path / f"member_{chain}" for chain in range(record["members"])]
    sums = record.get("files")
    for folder in found:
        name = f"{folder.name}/{RECORD}"
        if not (folder / RECORD).is_file():
            raise damaged(path, f"'{name}' is missing")
        if sums is not None and sha256((folder / RECORD).read_bytes()) != sums.get(name):
            raise damaged(path, f"'{name}' is not as it was written")
    return found


def verify(path: str | Path) -> dict[str, str]:
    """Checks that each file of a run is as it was written, and that its weights are numbers.

    Nothing of the run is executed, and no class of its model is needed.

    Args:
        path: Folder of a run, or of an ensemble of them.

    Returns:
        The SHA-256 of each file by its name.

    Raises:
        RunError: The folder is no run, a file is missing or is not as it was written, or the run is of a
            version before checksums.

    Example:
        >>> import tempfile
        >>> import pyro_citevae as cv
        >>> data = cv.simulate(n_cells=30).data
        >>> model = cv.models.StaticShift(data.schema, n_programs=2, hidden=4)
        >>> posterior = cv.fit(model, cv.guides.MeanField(model), data, max_epochs=1, progress=False)
        >>> run = Path(tempfile.mkdtemp()) / "run"
        >>> posterior.save(run)
        >>> sorted(cv.verify(run))
        ['history.parquet', 'model.safetensors', 'run.json']
    """
    folder = Path(path)
    return one_state(folder, lambda: _of_all(folder))


def _of_all(folder: Path) -> dict[str, str]:
    """The checksums of a run, or of an ensemble and its members."""
    members = member_folders(folder)
    if not members:
        return _verified(folder)
    found = {ENSEMBLE: sha256((folder / ENSEMBLE).read_bytes())}
    for member in members:
        found |= {f"{member.name}/{name}": value for name, value in _verified(member).items()}
    return found


def _verified(folder: Path) -> dict[str, str]:
    """The checksums of a single run."""
    files = RunFiles.read(folder)
    if not files.is_sealed:
        raise RunError(
            f"'{folder}' was written before runs had checksums, so nothing tells whether it is whole; load "
            "it and save it again."
        )
    for name, tensor in files.weights().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise damaged(folder, f"'{name}' of '{WEIGHTS}' is not finite")
    return {RECORD: sha256((folder / RECORD).read_bytes()), **files.record["files"]}


def _content(file: Path) -> bytes:
    if not file.is_file():  # a pipe would wait
        raise FileNotFoundError
    return file.read_bytes()


def _stamp(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another of its name; None where there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns


def _is_being_made(folder: Path) -> bool:
    """Whether a process writes beside it."""
    return any(folder.absolute().parent.glob(".citevae-*"))
