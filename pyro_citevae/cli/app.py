"""The command line: ``citevae demo | inspect | fit | predict | rank | evaluate | export | check | ...``.

A command's module is imported when the command is called, so that ``citevae --help`` is there at once.

Exit codes: 0 done, 2 the user's error with one clear sentence, 1 a defect, 130 and 143 ended by a signal.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Annotated, Any, final

import typer
from rich.markup import escape
from typer.core import TyperGroup
from typer.main import get_command

from pyro_citevae import __version__
from pyro_citevae.cli.as_json import asked_for_json, with_json, write_json
from pyro_citevae.cli.commands import COMMANDS, GROUPS
from pyro_citevae.cli.terminal import in_flags, in_one_line, say, say_error, say_stopped
from pyro_citevae.errors import CiteVAEError, CiteVAEWarning
from pyro_citevae.signals import Stopped, heeded, is_one_of_several

__all__ = ["app", "imported", "main"]


def imported(path: str) -> Any:
    """A command, its module imported.

    Args:
        path: The names that call it, such as ``"simulate c3d"``.

    Example:
        >>> imported("simulate c3d").name
        'c3d'
    """
    listed = COMMANDS[path]
    module, _, function = listed.where.partition(":")
    command = getattr(importlib.import_module(f"pyro_citevae.cli.{module}"), function)
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command(path.split()[-1], epilog=_epilog(listed.examples))(with_json(command))
    made = get_command(alone)
    made.help = escape(made.help or "")  # square brackets are shown as they are
    for one in made.params:
        if isinstance(said := getattr(one, "help", None), str):
            one.help = escape(said)  # type: ignore[attr-defined]
    return made


def main() -> None:
    """Runs the command line; a user's mistake is one sentence and code 2, a signal one line and its code."""
    with heeded(), warnings.catch_warnings():
        warnings.simplefilter("always", CiteVAEWarning)
        warnings.showwarning = in_one_line(warnings.showwarning)
        try:
            app()
        except CiteVAEError as error:
            from pyro_citevae.infer import processes  # and torch with it

            if not processes.tell(error):
                say_error(error)
                if asked_for_json():
                    write_json({"error": in_flags(error)})
            sys.exit(2)
        except Stopped as stop:
            if not is_one_of_several():
                say_stopped(stop)
                if asked_for_json():
                    write_json({"error": str(stop)})
            sys.exit(stop.exit_code)


@final
class _Commands(TyperGroup):
    """A group that lists its commands by their sentences, and imports the one that is called."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; a line that cannot be read is told to a script too."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            said = getattr(error, "format_message", None)  # of click, which typer may bring along
            if said is not None and ctx.parent is None and asked_for_json():
                write_json({"error": said()})
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is called, and its arguments."""
        above = (self.name,) if self.name in GROUPS else ()
        path = " ".join((*above, *args[:1]))
        if path in COMMANDS:
            self.commands[args[0]] = imported(path)
        return super().resolve_command(ctx, args)


def _listed() -> typer.Typer:
    """All commands, by their sentences."""
    options: dict[str, Any] = {"cls": _Commands, "no_args_is_help": True, "pretty_exceptions_enable": False}
    made = typer.Typer(**options, epilog=_epilog(_FIRST))
    groups = {name: typer.Typer(**options, help=escape(what)) for name, what in GROUPS.items()}
    for path, listed in COMMANDS.items():
        *above, name = path.split()
        (groups[above[0]] if above else made).command(name, help=escape(listed.what))(_not_imported)
    for group, one in groups.items():
        made.add_typer(one, name=group)
    made.callback()(_about)
    return made


def _version(asked: bool) -> None:
    """Prints the version, and ends."""
    if asked:
        say(f"pyro-citevae {__version__}")
        raise typer.Exit


def _about(
    version: Annotated[
        bool,
        typer.Option("--version", help="The version, and nothing else.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Latent dynamical causal processes for single-cell perturbation screens."""


_FIRST = ("citevae demo", "citevae inspect screen.h5ad", "citevae fit --help")


def _epilog(examples: tuple[str, ...]) -> str:
    """Lines to paste below a help text."""
    return escape("\n\n".join(["Examples:", *examples]))


def _not_imported() -> None:
    """Stands for a command that is listed and not called."""


app = _listed()
