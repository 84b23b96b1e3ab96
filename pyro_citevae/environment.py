"""Variables of the environment, set for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["unless_set"]


@contextmanager
def unless_set(name: str, value: str) -> Iterator[None]:
    """Sets a variable of the environment for a while, unless the user has set it.

    Args:
        name: The variable.
        value: What it is while the block runs.

    Example:
        >>> with unless_set("A_VARIABLE_OF_NOBODY", "1"):
        ...     os.environ["A_VARIABLE_OF_NOBODY"]
        '1'
        >>> "A_VARIABLE_OF_NOBODY" in os.environ
        False
    """
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
