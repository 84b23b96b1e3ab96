"""A progress bar for work that may take long, and does not show when it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from rich import get_console
from rich.errors import LiveError
from rich.progress import Progress

__all__ = ["appearing", "say"]


@contextmanager
def appearing(said: str, total: int, *, shown: bool, after: float = 2.0) -> Iterator[Callable[[], None]]:
    """A bar on a terminal or in a notebook, which appears once the work has taken some seconds.

    Args:
        said: What is being done.
        total: Number of steps.
        shown: Whether there is a bar at all.
        after: Seconds after which it appears.

    Yields:
        What to call after each step.

    Example:
        >>> with appearing("counting", 3, shown=True) as advance:
        ...     for _ in range(3):
        ...         advance()
    """
    console = get_console()
    bar = Progress(console=console, disable=not (shown and (console.is_terminal or console.is_jupyter)))
    task = bar.add_task(said, total=total)
    started, refused = perf_counter(), False

    def advance() -> None:
        nonlocal refused
        bar.advance(task)
        if not refused and not bar.live.is_started and perf_counter() - started > after:
            try:
                bar.start()
            except LiveError:  # a bar is around this one, and older versions of rich show no second
                refused = True

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()


def say(line: str, *, shown: bool) -> None:
    """Writes a line where a bar would be shown: on a terminal, or in a notebook.

    Args:
        line: What is said.
        shown: Whether it is said at all.
    """
    console = get_console()
    if shown and (console.is_terminal or console.is_jupyter):
        console.print(line, markup=False, highlight=False)
