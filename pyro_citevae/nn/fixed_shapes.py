"""Steps whose every shape follows from the minibatch's size: what a recorded or compiled step is made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["fixed_shapes", "shapes_are_fixed"]

_FIXED: ContextVar[bool] = ContextVar("pyro_citevae_fixed_shapes", default=False)


@contextmanager
def fixed_shapes(fixed: bool = True) -> Iterator[None]:
    """Lets laws and tables take the way on which no shape depends on values, such as where counts are.

    A value that decides on a shape is read from the device, which then waits for the host. The other way
    spares operations; this one can be recorded once and replayed.

    Example:
        >>> with fixed_shapes():
        ...     shapes_are_fixed()
        True
    """
    token = _FIXED.set(fixed)
    try:
        yield
    finally:
        _FIXED.reset(token)


def shapes_are_fixed() -> bool:
    """Whether shapes must not depend on values."""
    return _FIXED.get()
