"""Writing files and folders whole or not at all.

What is written lies in a nest beside its place until it is whole, and is renamed then. A process that is
killed leaves its nest; the next one that writes there ends what was whole and deletes the rest.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pyro_citevae.errors import RunError, reason
from pyro_citevae.kinds import Kind

__all__ = ["aside", "process_is_there", "require_free", "sweep", "together"]

_NEST = ".citevae"
_DAY = 86_400.0  # no write takes longer
_TRIES = 10  # of taking a name that others take at the same time
_PAUSE, _QUIET = 0.05, 3  # seconds between looks at what was deleted, and how many find nothing
_PATIENCE = 5.0  # seconds that they take at most
_own: set[Path] = set()  # nests that this process writes in


def require_free(
    path: str | Path,
    overwrite: bool = False,
    kind: Kind | None = None,
    inputs: Sequence[str | Path | None] = (),
) -> Path:
    """Returns the path if it may be written; what killed processes left beside it is swept first.

    Args:
        path: The file or folder to make.
        overwrite: Whether what is there already may be replaced.
        kind: What alone may be replaced; None for anything.
        inputs: What is read for it, which stays in any case.

    Raises:
        RunError: Something is there already and may not be replaced, or its folder cannot be written.
    """
    target = Path(path)
    try:
        place = target.resolve()
        holds_us = Path.cwd().is_relative_to(place)
        parent = next(folder for folder in target.absolute().parents or (place,) if folder.exists())
        able = parent.is_dir() and os.access(parent, os.W_OK)
        sweep(parent)
        there = target.exists()
    except (OSError, ValueError) as error:
        raise RunError(f"'{target}' cannot be written ({_said(error)}).") from error
    if holds_us:
        raise RunError(f"'{target}' is the folder that you are in, or holds it; name a new one.")
    if not able:
        raise RunError(f"'{target}' cannot be written, since '{parent}' is no folder you may write to.")
    for one in inputs:
        if one is not None and Path(one).exists() and Path(one).resolve().is_relative_to(place):
            raise RunError(f"'{target}' is or holds '{one}', which is read; choose another name.")
    if not there:
        return target
    if not overwrite:
        raise RunError(f"'{target}' exists; choose another name, or pass overwrite=True.")
    why_not = "" if kind is None else kind.why_not(target)
    if kind is not None and why_not:
        raise RunError(
            f"'{target}' is not {kind.said} ({why_not}), and overwrite=True replaces nothing else; choose "
            "another name."
        )
    return target


@contextmanager
def aside(path: str | Path, *, overwrite: bool = False, kind: Kind | None = None) -> Iterator[Path]:
    """Gives a free path beside ``path``, and renames it to ``path`` when the block ends well.

    Args:
        path: The file or folder to make.
        overwrite: Whether what is there already may be replaced.
        kind: What alone may be replaced; None for anything.

    Yields:
        The path to write; what is written vanishes if the block fails.

    Raises:
        RunError: The path is taken, or the disk refuses.
    """
    with together((path, kind), overwrite=overwrite) as (written,):
        yield written


@contextmanager
def together(*paths: tuple[str | Path, Kind | None], overwrite: bool = False) -> Iterator[tuple[Path, ...]]:
    """Writes several files of one folder, all of them or none.

    Args:
        *paths: The files to make, each with what alone may be replaced there.
        overwrite: Whether what is there already may be replaced.

    Yields:
        The paths to write.

    Raises:
        RunError: A path is taken, or the disk refuses.
    """
    targets = [require_free(path, overwrite, kind) for path, kind in paths]
    try:
        targets[0].parent.mkdir(parents=True, exist_ok=True)
        nest = _nest(targets[0].parent)
        try:
            written = tuple(nest / "new" / target.name for target in targets)
            yield written
            for one in written:
                _flush(one)
            for path, kind in paths:
                require_free(path, overwrite, kind)  # it may have been written meanwhile
            (nest / "new").replace(nest / "whole")  # from here on it is ended, by whomever
        finally:
            _end(nest)
    except OSError as error:
        said = " and ".join(f"'{target}'" for target in targets)
        raise RunError(f"{said} cannot be written ({_said(error)}).") from error


def sweep(folder: Path) -> None:
    """Ends what killed processes left in a folder: names what was whole, and deletes the rest."""
    for nest in folder.glob(f"{_NEST}-*-*-*"):
        if nest not in _own and _is_left(nest):
            with suppress(OSError):
                _end(nest, left=True)


def process_is_there(pid: int) -> bool:
    """Whether a process of this machine is running."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _nest(folder: Path) -> Path:
    """A new folder whose name says which process of which machine writes there."""
    prefix = f"{_NEST}-{platform.node() or 'machine'}-{os.getpid()}-"
    nest = Path(tempfile.mkdtemp(dir=folder.absolute(), prefix=prefix))
    _own.add(nest)
    (nest / "new").mkdir()
    return nest


def _is_left(nest: Path) -> bool:
    """Whether nobody writes there any more; of another machine this is known after a day."""
    machine, pid, _ = nest.name.removeprefix(f"{_NEST}-").rsplit("-", 2)
    if machine != (platform.node() or "machine"):
        with suppress(OSError):
            return time.time() - nest.stat().st_mtime > _DAY
        return False
    return not pid.isdecimal() or int(pid) == os.getpid() or not process_is_there(int(pid))


def _end(nest: Path, *, left: bool = False) -> None:
    """Gives what is whole its name, and deletes the nest.

    Args:
        nest: The nest.
        left: Whether it is of a process that was killed: what was written since then stays.
    """
    whole = nest / "whole"
    failed = not left and not whole.is_dir()
    try:
        for written in sorted(whole.iterdir()) if whole.is_dir() else ():
            target = nest.parent / written.name
            if not (left and target.exists() and target.stat().st_mtime_ns > written.stat().st_mtime_ns):
                _take_place(written, target, nest / "replaced")
        if whole.is_dir():
            _flush_name(nest.parent)
    except OSError:
        shutil.rmtree(nest, ignore_errors=True)
        raise
    finally:
        _own.discard(nest)  # which a signal may leave as it is, for the next one to end
    shutil.rmtree(nest, ignore_errors=True)
    if failed:
        _delete_what_comes_back(nest)


def _delete_what_comes_back(nest: Path) -> None:
    """Deletes until nothing comes any more: of threads that write a zarr, one fails and others go on."""
    until, quiet = time.monotonic() + _PATIENCE, 0
    while quiet < _QUIET and time.monotonic() < until:
        time.sleep(_PAUSE)
        quiet = 0 if nest.exists() else quiet + 1
        shutil.rmtree(nest, ignore_errors=True)


def _take_place(written: Path, target: Path, replaced: Path) -> None:
    """Renames what was written to its target; a file is replaced in one step, a folder moved away first."""
    for left in reversed(range(_TRIES)):
        moved = False
        try:
            if target.exists() and not (target.is_file() and written.is_file()):
                shutil.rmtree(replaced, ignore_errors=True)
                target.replace(replaced)
                moved = True
            written.replace(target)
            return
        except OSError:  # another process may have moved or made the target in between
            if moved and not target.exists():
                replaced.replace(target)
            if not left:
                raise


def _said(error: Exception) -> str:
    """What a disk says."""
    return getattr(error, "strerror", None) or reason(error)


def _flush_name(folder: Path) -> None:
    """Asks the disk to hold the names in a folder as well."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _flush(written: Path) -> None:
    """Asks the disk to hold every file before it gets its name."""
    for path in [written, *written.rglob("*")]:
        if not path.is_dir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
