"""The command line: ``citevae demo | inspect | fit | predict | rank | evaluate | export | check | ...``.

A command's module is imported when the command is called, so that ``citevae --help`` is there at once.

Exit codes: 0 done, 2 the user's error with one clear sentence, 1 a defect.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, final

import typer
from typer.core import TyperGroup
from typer.main import get_command

from pyro_citevae.cli.terminal import in_one_line, say_error
from pyro_citevae.errors import CiteVAEError, CiteVAEWarning

__all__ = ["COMMANDS", "app", "imported", "main"]

COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "demo": (
            "evaluate:demo",
            "Train on days 2-4 of 23 real knock-outs, forecast day 5, and score it beside the baselines.",
        ),
        "inspect": (
            "inspect:inspect_command",
            "Show what a file is read as, without a fit, and propose the arguments that would read it.",
        ),
        "fit": (
            "fit:fit_command",
            "Fit a model to a screen, and save the run; each epoch is kept in OUT.training until then.",
        ),
        "predict": (
            "predict:predict",
            "Predict what control cells would show under other schedules, with intervals.",
        ),
        "rank": ("predict:rank_command", "Say which perturbation to measure next, and why."),
        "evaluate": (
            "evaluate:evaluate",
            "Score a run's forecast of its held-out time beside baselines and the ceiling.",
        ),
        "report": (
            "report:report",
            "Write a page on a run (verdict, effects, programs, forecasts), with its notebook beside it.",
        ),
        "benchmark": (
            "benchmark:benchmark_command",
            "Score predictors and baselines by a protocol, over folds and seeds; a second start goes on.",
        ),
        "export": (
            "predict:export",
            "Write the posterior as an xarray DataTree: netCDF (.nc) or zarr (.zarr), for ArviZ.",
        ),
        "check": (
            "plugins:check",
            "Try the laws that fitting and predicting rely on, on a model or a guide of your own.",
        ),
        "models": (
            "plugins:list_models",
            "List the models and guides, those of installed plug-ins among them.",
        ),
        "datasets": ("plugins:list_datasets", "List the shipped screens with their origin and licence."),
        "simulate c3d": (
            "simulate:simulate_c3d",
            "Render C3D-Render, an object that moves by a known process; a second start goes on.",
        ),
        "simulate c3d-sheet": (
            "simulate:simulate_c3d_sheet",
            "Draw one picture (.png) with every object in several scenes of C3D-Render.",
        ),
    }
)
"""Where each command is, and what it does."""


def imported(path: str) -> Any:
    """A command, its module imported.

    Args:
        path: The names that call it, such as ``"simulate c3d"``.

    Example:
        >>> imported("simulate c3d").name
        'c3d'
    """
    module, _, function = COMMANDS[path][0].partition(":")
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command(path.split()[-1])(getattr(importlib.import_module(f"pyro_citevae.cli.{module}"), function))
    return get_command(alone)


def main() -> None:
    """Runs the command line, and turns a user's mistake into one sentence and exit code 2."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", CiteVAEWarning)
        warnings.showwarning = in_one_line(warnings.showwarning)
        try:
            app()
        except CiteVAEError as error:
            from pyro_citevae.infer import processes  # and torch with it

            if not processes.tell(error):
                say_error(error)
            sys.exit(2)


@final
class _Commands(TyperGroup):
    """A group that lists its commands by their sentences, and imports the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is called, and its arguments."""
        above = (self.name,) if self.name in _GROUPS else ()
        path = " ".join((*above, *args[:1]))
        if path in COMMANDS:
            self.commands[args[0]] = imported(path)
        return super().resolve_command(ctx, args)


_GROUPS: Mapping[str | None, str] = MappingProxyType({"simulate": "Make data whose truth is known."})


def _listed() -> typer.Typer:
    """All commands, by their sentences."""
    options: dict[str, Any] = {"cls": _Commands, "no_args_is_help": True}
    made = typer.Typer(**options, add_completion=False, pretty_exceptions_enable=False)
    groups = {name: typer.Typer(**options, help=what) for name, what in _GROUPS.items()}
    for path, (_, what) in COMMANDS.items():
        *above, name = path.split()
        (groups[above[0]] if above else made).command(name, help=what)(_not_imported)
    for group, one in groups.items():
        made.add_typer(one, name=group)
    return made


def _not_imported() -> None:
    """Stands for a command that is listed and not called."""


app = _listed()
