"""One writer a folder: a lock that says which process of which machine holds it."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyro_citevae.errors import CiteVAEWarning, RunError, reason

__all__ = ["LOCK", "locked"]

LOCK = "lock"
"""Name of the file in a folder that is locked. The kernel frees it when its process ends, however it ends."""

_TRIES = 100  # of taking what another process lets go at the same time
_HELD = (errno.EWOULDBLOCK, errno.EACCES)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, which is made if it is missing and deleted if it is left empty.

    Args:
        folder: Where one process writes at a time.

    Raises:
        RunError: Another process holds it, or the folder cannot be written.

    Warns:
        CiteVAEWarning: The file system knows no locks.
    """
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        lock = _taken(folder / LOCK)
    except OSError as error:
        raise RunError(f"'{folder}' cannot be written ({error.strerror or reason(error)}).") from error
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)  # while it is held, so that nobody else's is deleted
        os.close(lock)
        for one in made:
            with suppress(OSError):  # what is not empty stays
                one.rmdir()


def _taken(file: Path) -> int:
    """An open file with the lock, and who we are in it."""
    for left in reversed(range(_TRIES)):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except (FileNotFoundError, FileExistsError):  # the one before has deleted the folder meanwhile
            if not left:
                raise
            continue
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(opened, 200, 0).decode(errors="replace")
            os.close(opened)
            if error.errno in _HELD:
                raise RunError(
                    f"'{file.parent}' is in use by {holder or 'another process'}; wait for it, or name "
                    "another folder."
                ) from None
            warnings.warn(
                f"nothing stops a second process from writing to '{file.parent}', since its file system "
                f"knows no locks ({error.strerror}); start one at a time.",
                CiteVAEWarning,
                stacklevel=4,
            )
            return os.open(file, os.O_RDWR)
        with suppress(FileNotFoundError):
            if file.stat().st_ino == os.fstat(opened).st_ino:
                os.ftruncate(opened, 0)
                os.pwrite(opened, f"process {os.getpid()} on {platform.node()}".encode(), 0)
                return opened
        os.close(opened)  # the one before has deleted it meanwhile
    raise RunError(f"'{file.parent}' is in use by several processes; start one at a time.")
