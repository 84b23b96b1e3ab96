"""A disk of a few bytes: a tmpfs of one's own where this may be mounted, and else a limit on each file."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["alone", "small_disk", "used"]

_NEW_USER, _NEW_MOUNTS, _PRIVATE, _RECURSIVE = 0x10000000, 0x00020000, 1 << 18, 1 << 14
_PAGE = 4096


def alone() -> bool:
    """Gives this process, a fork of one thread, mounts of its own; whether that may be."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_NEW_USER | _NEW_MOUNTS):
        return False
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    except OSError:
        return False
    return libc.mount(b"none", b"/", None, _RECURSIVE | _PRIVATE, None) == 0


@contextmanager
def small_disk(folder: Path, size: int, mounts: bool) -> Iterator[None]:
    """Lets a folder hold no more.

    Args:
        folder: An empty folder.
        size: Bytes that it holds.
        mounts: Whether this process has mounts of its own; if not, each file is no larger.
    """
    if not mounts:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(_PAGE, size), before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"size={max(_PAGE, size)}".encode()
    if libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, options):
        raise OSError(ctypes.get_errno(), "the small disk cannot be mounted")
    try:
        yield
    finally:
        libc.umount2(str(folder).encode(), 2)


def used(folder: Path) -> int:
    """Bytes that the files of a folder take."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())
