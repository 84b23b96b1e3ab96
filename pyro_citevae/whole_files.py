"""Writing files and folders whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyro_citevae.errors import RunError

__all__ = ["aside", "require_free"]


def require_free(path: str | Path, overwrite: bool = False) -> Path:
    """Returns the path if it may be written.

    Raises:
        RunError: Something is there already and may not be overwritten, or its folder cannot be written.
    """
    target = Path(path)
    parent = next(folder for folder in target.absolute().parents if folder.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise RunError(f"'{target}' cannot be written, since '{parent}' is no folder you may write to.")
    if target.exists() and not overwrite:
        raise RunError(f"'{target}' exists; choose another name, or pass overwrite=True.")
    return target


@contextmanager
def aside(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Gives a free path beside ``path``, and renames it to ``path`` when the block ends well.

    Args:
        path: The file or folder to make.
        overwrite: Whether what is there already may be replaced.

    Yields:
        The path to write; what is written vanishes if the block fails.

    Raises:
        RunError: The path is taken, or the disk refuses.
    """
    target = require_free(path, overwrite)
    nest: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        nest = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
        written = nest / target.name
        yield written
        _flush(written)
        replaced = nest / "replaced"
        if target.exists() and not (target.is_file() and written.is_file()):  # a file is replaced in one step
            target.replace(replaced)
        try:
            written.replace(target)
        except OSError:
            if replaced.exists():
                replaced.replace(target)
            raise
        _flush_name(target)
    except OSError as error:
        raise RunError(f"'{target}' cannot be written ({error.strerror or error}).") from error
    finally:
        if nest is not None:
            shutil.rmtree(nest, ignore_errors=True)


def _flush_name(target: Path) -> None:
    """Asks the disk to hold the name as well."""
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _flush(written: Path) -> None:
    """Asks the disk to hold every file before it gets its name."""
    for path in [written, *written.rglob("*")]:
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
