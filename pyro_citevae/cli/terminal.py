"""What the command line shows: sentences, warnings on one line, and bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich import get_console
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TimeElapsedColumn

from pyro_citevae.errors import CiteVAEError, CiteVAEWarning

__all__ = ["console", "in_flags", "in_one_line", "progress_bar", "say", "say_error", "say_stopped"]

console = get_console()  # that of every bar, so that they stand below each other


def say_error(error: CiteVAEError) -> None:
    """Prints a mistake in one sentence."""
    Console(stderr=True).print(f"[bold red]error:[/] {escape(in_flags(error))}", soft_wrap=True)


def say_stopped(said: object) -> None:
    """Prints what a signal left, on one line."""
    Console(stderr=True).print(escape(str(said)), soft_wrap=True, highlight=False)


def in_flags(said: object) -> str:
    """A sentence of the library as it is typed in a shell."""
    from pyro_citevae.cli import flags  # which needs the reader of screens

    return flags.in_flags(str(said))


def say(text: str) -> None:
    """Prints text as it is, on lines that can be copied."""
    console.print(text, markup=False, emoji=False, soft_wrap=True)


def in_one_line(otherwise: Callable[..., None]) -> Callable[..., None]:
    """Shows a warning of ours as one line, and any other as before."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, CiteVAEWarning):
            Console(stderr=True).print(
                f"[bold yellow]warning:[/] {escape(in_flags(message))}", soft_wrap=True
            )
        else:
            otherwise(message, category, *where, **more)

    return show


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar that is told what is done, how much was done, and how much there is."""
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), disable=quiet) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda said, done, total: bar.update(task, description=said, completed=done, total=total)
